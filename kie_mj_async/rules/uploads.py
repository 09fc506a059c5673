"""Local images: what is taken in, how it is sent, what an upload's end means, how long it lasts.

Uploads are free (kie-api.md, "Other calls"), so one whose end is unknown is simply made again. A
kept image is named by its content, ``<sha256><extension>``, at the service too: one that is sent
twice takes its own place there.
"""

from __future__ import annotations

import codecs
from datetime import datetime, timedelta
from typing import Final, Literal

import attrs

from ..errors import (
    ApiError,
    InsufficientCredits,
    InvalidRequest,
    KieError,
    MalformedReply,
    NotSent,
    ReplyLost,
)
from ..fields import KEPT, is_http_url
from . import wire
from .billing import Silence
from .media import Media, inspect
from .pacing import backoff

UPLOAD: Final = "/api/file-stream-upload"
FOLDER: Final = "kie-mj"
"""The ``uploadPath`` of all uploads of ours."""

MAX_BYTES: Final = 100 << 20
"""Bytes a local image may have.

No page of the service's names a binding limit; the one on uploads by URL advises against more.
"""

LIFE: Final = timedelta(hours=24)
"""How long an upload is kept; the official pages disagree (1 to 3 days), so plan for the least."""

MARGIN: Final = timedelta(hours=1)
"""What an upload must have left: its task waits its turn at the service before it fetches it."""

SLOWEST: Final = 64 * 1024
"""Bytes a second of the slowest line that an upload's deadline allows for."""

TRIES: Final = 6
"""How often an upload is tried; the waits between them are about a minute."""

FIRST_WAIT: Final = 2.0
LONGEST_WAIT: Final = 32.0
PATIENCE: Final = 300.0
"""Seconds that the service may ask to wait; if it asks for more, a later run has to do it."""

KINDS: Final = "JPEG, PNG, WebP or GIF"
_MEDIA_TYPES: Final = {
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
}


@attrs.frozen
class Upload:
    """A kept image that the service has.

    Attributes:
        name: The image's, ``<sha256><extension>``.
        url: Where the service has it; anybody may fetch it there.
        at: When it was sent (UTC).
    """

    name: str
    url: str
    at: datetime


def usable(upload: Upload, now: datetime, *, scale: float = 1.0) -> bool:
    """Whether a task that is created now will still find it.

    Args:
        upload: The upload; a stamp in the future counts as now.
        now: The present (UTC).
        scale: Factor on the service's durations (a simulator's 0.05).
    """
    age = max(now - upload.at, timedelta())
    return age <= (LIFE - MARGIN) * scale


def reference(name: str) -> str:
    """How a request names a kept image.

    Raises:
        ValueError: It is no name of one.
    """
    text = f"input:{name}"
    if KEPT.fullmatch(text) is None:
        raise ValueError(f"{name!r} is no name of a kept image")
    return text


def name_of(source: object) -> str | None:
    """The name of the kept image that this refers to; ``None`` for anything else."""
    found = KEPT.fullmatch(source) if isinstance(source, str) else None
    return None if found is None else found[1]


def media_type(name: str) -> str:
    """The media type of a kept image."""
    return _MEDIA_TYPES[name[name.rindex(".") :]]


def picture(head: bytes, tail: bytes, size: int) -> Media | str:
    """What picture a file is; or, for people, what is wrong with it and what to do.

    Args:
        head: Its first bytes, up to ``media.HEAD``.
        tail: Its last bytes, up to ``media.TAIL``.
        size: Its size.
    """
    if not size:
        return "is empty; use a picture"
    if foreign := _foreign_picture(head):
        return f"is {foreign} picture; convert it to {KINDS}"
    media = inspect(head, tail, size)
    if media is None or media.extension not in _MEDIA_TYPES:
        what = _described(head) if media is None else f"a video ({media.media_type})"
        return f"is {what}, not a picture; use {KINDS}"
    if not media.ends_well:
        return "is cut off; get it again, or open it and save it anew"
    return media


_BRANDS: Final = {
    b"avif": "an AVIF", b"avis": "an AVIF", b"heic": "a HEIC", b"heix": "a HEIC",
    b"heim": "a HEIC", b"heis": "a HEIC", b"mif1": "a HEIF", b"msf1": "a HEIF",
}  # fmt: skip
_STARTS: Final = (
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"\0\0\1\0", "an ICO"),
    (b"8BPS", "a Photoshop"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
)


def _foreign_picture(head: bytes) -> str | None:
    """A picture of a kind that the service is not known to take."""
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "a BMP"
    return next((kind for start, kind in _STARTS if head.startswith(start)), None)


def _described(head: bytes) -> str:
    if head.startswith(b"%PDF-"):
        return "a PDF"
    try:
        # Not to the end: a character may be cut in two there.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head[:4096])
    except UnicodeDecodeError:
        return "a file of another kind"
    start = text.lstrip().lower()
    if start.startswith(("<!doctype html", "<html")):
        return "a web page (HTML)"
    if "<svg" in start:
        return "a drawing (SVG)"
    plain = all(one.isprintable() or one in "\t\n\r\f" for one in text)
    return "a text file" if plain else "a file of another kind"


def too_large(size: int) -> str:
    """What is wrong with a file of more than ``MAX_BYTES``, for people."""
    most = MAX_BYTES >> 20
    return f"has {size / (1 << 20):,.1f} MiB; an image may have {most} MiB, so make it smaller"


def form(name: str, boundary: str) -> tuple[bytes, bytes]:
    """What comes before and after the file in an upload's body (``multipart/form-data``).

    Args:
        name: The kept image's.
        boundary: A text that is not in the file.
    """
    fields = {"uploadPath": FOLDER, "fileName": name}
    lines = []
    for field, value in fields.items():
        lines += [f"--{boundary}", f'Content-Disposition: form-data; name="{field}"', "", value]
    lines += [
        f"--{boundary}",
        f'Content-Disposition: form-data; name="file"; filename="{name}"',
        f"Content-Type: {media_type(name)}",
        "",
        "",
    ]
    return "\r\n".join(lines).encode(), f"\r\n--{boundary}--\r\n".encode()


def deadline(size: int, request_timeout: float) -> float:
    """Seconds that an upload may take.

    Args:
        size: Its bytes.
        request_timeout: Seconds that any call may take.
    """
    return request_timeout + size / SLOWEST


Then = Literal["again", "halt", "fail"]

_AGAIN: Final = frozenset({408, 425, 429, 455})
_HALT: Final = frozenset({401, 402})
_ABOUT_THE_FILE: Final = frozenset({400, 413, 415, 422})


@attrs.frozen
class Failure:
    """An upload that brought no link.

    Attributes:
        error: Why.
        then: Try it ``again``; ``halt``, because no other upload could do better now; or ``fail`` the
            job, because this image will never be taken.
    """

    error: KieError
    then: Then


def read_upload(reply: wire.Reply) -> str:
    """The link from an upload's answer.

    Raises:
        ApiError: The answer is not success.
        InvalidRequest: Code 400 or 422.
        MalformedReply: It holds no link.
    """
    data = wire.read_data(reply)
    # Some of the official pages have one of them, some the other, some both.
    for name in ("downloadUrl", "fileUrl"):
        link = data.get(name) if isinstance(data, dict) else None
        if is_http_url(link):
            return str(link)
    raise MalformedReply("the upload was answered without a link", status=reply.status)


def judge(answer: wire.Reply | Silence, image: str) -> str | Failure:
    """What an upload's end means: the link, or why there is none and what to do about it.

    Args:
        answer: How it ended.
        image: What to call the image, such as its file.
    """
    if isinstance(answer, Silence):
        kind = ReplyLost if answer.sent else NotSent
        return Failure(kind(f"{image}: could not be uploaded: {answer.reason}"), "again")
    try:
        return read_upload(answer)
    except KieError as error:
        code = wire.envelope_code(answer)
        then = _then(error, code, answer.status)
        if then == "fail":
            said = f"image: {image}: the upload was refused: {error}"
            meant = answer.status if code is None else code
            return Failure(InvalidRequest(said, field="image", value=image, code=meant), then)
        ours = then == "halt" and not isinstance(error, InsufficientCredits)
        hint = "; check KIE_API_KEY and KIE_UPLOAD_URL" if ours else ""
        error.args = (f"{image}: could not be uploaded: {error}{hint}",)
        return Failure(error, then)


def _then(error: KieError, code: int | None, status: int) -> Then:
    if isinstance(error, MalformedReply):
        # A redirect is not followed with the key, and leads there the next time too.
        return "halt" if 300 <= status <= 399 else "again"
    meaning = status if code is None else code
    if meaning in _AGAIN or 500 <= meaning <= 599:
        return "again"
    if meaning in _HALT:
        return "halt"
    # A bare 404 or 405 is not the upload call's own: it tells of the host, not of the image.
    return "fail" if code is not None or meaning in _ABOUT_THE_FILE else "halt"


def pause(failures: int, error: KieError, chance: float, *, scale: float = 1.0) -> float | None:
    """Seconds to wait before an upload is tried again; ``None`` to give up.

    Args:
        failures: Tries so far.
        error: How the last one ended; what it asks for may lengthen the wait, never shorten it.
        chance: A number in [0, 1).
        scale: Factor on our own waits.
    """
    asked = error.retry_after if isinstance(error, ApiError) else None
    if failures >= TRIES or (asked or 0.0) > PATIENCE:
        return None
    wait = backoff(failures, first=FIRST_WAIT, ceiling=LONGEST_WAIT, chance=chance)
    return max(asked or 0.0, scale * wait)
