"""Uploads, decided: what is a picture, how it is sent, what the end means, how long it lasts."""

from __future__ import annotations

import json
import pickle
from datetime import timedelta
from email.parser import BytesParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import moment, picture

from kie_mj_async.errors import (
    ApiError,
    AuthenticationError,
    InsufficientCredits,
    InvalidRequest,
    KieError,
    Maintenance,
    MalformedReply,
    NotFound,
    NotSent,
    RateLimited,
    ReplyLost,
    ServerError,
)
from kie_mj_async.rules import uploads
from kie_mj_async.rules.billing import Silence
from kie_mj_async.rules.media import TAIL, Media
from kie_mj_async.rules.uploads import Failure, Upload
from kie_mj_async.rules.wire import Reply

NAME = "0" * 62 + "af.png"
NOW = moment(1_800_000_000)
HTML = b"<html><body>no</body></html>"


def envelope(code: object, data: object = None) -> bytes:
    return json.dumps({"success": code == 200, "code": code, "msg": "words", "data": data}).encode()


# --- How long an upload lasts --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours", "good"), [(0, True), (22.99, True), (23, True), (23.01, False), (30, False)]
)
def test_an_upload_is_good_while_it_has_an_hour_left(hours: float, good: bool) -> None:
    """Of its 24 hours at least one must be left."""
    upload = Upload(NAME, "https://x.test/u", NOW - timedelta(hours=hours))
    assert uploads.usable(upload, NOW) is good


@pytest.mark.parametrize("days", [0.001, 1, 4000])
def test_a_stamp_in_the_future_counts_as_now(days: float) -> None:
    """A clock that was put back does not make an upload useless."""
    assert uploads.usable(Upload(NAME, "https://x.test/u", NOW + timedelta(days=days)), NOW)


@pytest.mark.parametrize(("minutes", "good"), [(13, True), (14.5, False)])
def test_a_quick_service_forgets_quickly(minutes: float, good: bool) -> None:
    """A simulator's uploads live as much shorter as everything else there."""
    upload = Upload(NAME, "https://x.test/u", NOW - timedelta(minutes=minutes))
    assert uploads.usable(upload, NOW, scale=0.01) is good


# --- References ----------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["jpeg", "png", "webp", "gif"])
def test_a_reference_is_read_back(extension: str) -> None:
    """A reference names a kept image, and its media type."""
    name = f"{'0123456789abcdef' * 4}.{extension}"
    assert uploads.reference(name) == f"input:{name}"
    assert uploads.name_of(f"input:{name}") == name
    assert uploads.media_type(name) == f"image/{extension}"


@pytest.mark.parametrize(
    "text",
    ["", "input:", "cat.png", NAME, f"input:{NAME}\n", f"input:x{NAME}", f"input:{NAME}.png",
     f"INPUT:{NAME}", f"input:../{NAME}", "input:" + NAME.replace("af", "AF"),
     "input:" + "0" * 64 + ".jpg", "https://x.test/cat.png", None, b"input:", 7],
)  # fmt: skip
def test_anything_else_is_no_reference(text: object) -> None:
    """A path, an address, or a name that a kept file never has."""
    assert uploads.name_of(text) is None


@pytest.mark.parametrize("name", ["", "cat.png", f"../{NAME}", f"{NAME}\n"])
def test_only_kept_images_are_referred_to(name: str) -> None:
    """A reference to anything else cannot be made."""
    with pytest.raises(ValueError, match="no name of a kept image"):
        uploads.reference(name)


# --- What is a picture ---------------------------------------------------------------------------


def seen(content: bytes) -> Media | str:
    return uploads.picture(content, content[-TAIL:], len(content))


def test_a_picture_is_known_by_its_content() -> None:
    """A whole picture is what it is."""
    found = seen(picture(size=9))
    assert isinstance(found, Media)
    assert (found.extension, found.width) == (".png", 9)


FTYP = b"\0\0\0\x18ftyp"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"Hello, world\n", "is a text file, not a picture; use JPEG, PNG, WebP or GIF"),
        ("Grüße".encode(), "is a text file"),
        (b"\xef\xbb\xbfprompt,image\r\n", "is a text file"),
        (("é" * 3000).encode(), "is a text file"),
        (b"x" + ("é" * 3000).encode(), "is a text file"),
        (b" \n<!DOCTYPE html><title>404</title>", "is a web page (HTML), not a picture"),
        (b"<HTML lang=en>", "is a web page (HTML)"),
        (b"<?xml version='1.0'?><svg></svg>", "is a drawing (SVG)"),
        (b"%PDF-1.7\n%\xe2\xe3", "is a PDF"),
        (b"PK\x03\x04\x14\0\0\0", "is a file of another kind, not a picture"),
        (b"\0" * 500, "is a file of another kind"),
        (b"\xff\xfe\x00garbage", "is a file of another kind"),
        (FTYP + b"isom\0\0\0\0mp42", "is a video (video/mp4), not a picture"),
        (FTYP + b"qt  \0\0\0\0qt  ", "is a video (video/quicktime)"),
        (b"\x1a\x45\xdf\xa3webm", "is a video (video/webm)"),
        (FTYP + b"heic\0\0\0\0mif1", "is a HEIC picture; convert it to JPEG, PNG, WebP or GIF"),
        (FTYP + b"avif\0\0\0\0mif1", "is an AVIF picture; convert"),
        (b"II*\0\x08\0\0\0", "is a TIFF picture; convert"),
        (b"BM\x36\0\0\0\0\0\0\0", "is a BMP picture; convert"),
        (b"BMW and other cars", "is a text file"),
        (picture()[:-20], "is cut off"),
        (b"\xff\xd8\xff\xe0" + b"x" * 100, "is cut off"),
    ],
)
def test_what_is_no_picture_is_told(content: bytes, words: str) -> None:
    """What a file is instead, and what to do about it."""
    found = seen(content)
    assert isinstance(found, str)
    assert found.startswith(words)


@given(st.binary(max_size=200))
def test_anything_can_be_looked_at(content: bytes) -> None:
    """No content breaks the look; without a picture there are words."""
    found = seen(content)
    assert isinstance(found, Media) or found.startswith("is ")


def test_too_large_is_told_with_the_limit() -> None:
    """How large it is, and how large it may be."""
    words = uploads.too_large(150 << 20)
    assert words == "has 150.0 MiB; an image may have 100 MiB, so make it smaller"


# --- How it is sent ------------------------------------------------------------------------------


def test_the_form_is_multipart() -> None:
    """Folder, name and file, as the service's pages have them."""
    head, tail = uploads.form(NAME, "b0undary")
    kind = b'Content-Type: multipart/form-data; boundary="b0undary"\r\n\r\n'
    message = BytesParser().parsebytes(kind + head + b"\x89PNG" + tail)
    parts = [one for one in message.walk() if not one.is_multipart()]
    read = {
        str(one.get_param("name", header="Content-Disposition")): one.get_payload(decode=True)
        for one in parts
    }
    assert read == {"uploadPath": b"kie-mj", "fileName": NAME.encode(), "file": b"\x89PNG"}
    assert (parts[2].get_content_type(), parts[2].get_filename()) == ("image/png", NAME)


def test_a_large_file_gets_more_time() -> None:
    """A slow line is given its time: 64 KiB a second."""
    assert uploads.deadline(0, 60) == 60
    assert uploads.deadline(64 << 20, 60) == 60 + 1024


# --- What an end means ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        {"downloadUrl": "https://x.test/d"},
        {"fileUrl": "https://x.test/d"},
        {"fileUrl": "https://x.test/f", "downloadUrl": "https://x.test/d"},
        {"fileUrl": "https://x.test/d", "downloadUrl": None},
        {"fileUrl": "https://x.test/d", "downloadUrl": "/relative"},
    ],
)
@pytest.mark.parametrize("code", [200, "200"])
def test_the_link_is_read(data: dict[str, object], code: object) -> None:
    """Whichever of the documented fields there is, as long as it is a link."""
    reply = Reply(200, envelope(code, data))
    assert uploads.read_upload(reply) == uploads.judge(reply, "x") == "https://x.test/d"


@pytest.mark.parametrize("data", [None, {}, [], "https://x.test/d", {"downloadUrl": "file:///x"}])
def test_success_without_a_link_is_malformed(data: object) -> None:
    """No link, no success; it is tried again."""
    end = uploads.judge(Reply(200, envelope(200, data)), "cat.png")
    assert isinstance(end, Failure)
    assert isinstance(end.error, MalformedReply)
    assert end.then == "again"


E = envelope
MEANINGS: list[tuple[Reply, str, type[KieError]]] = [
    # The service's own codes, whatever the status.
    (Reply(200, E(429), 3.0), "again", RateLimited),
    (Reply(200, E("429")), "again", RateLimited),
    (Reply(200, E(455)), "again", Maintenance),
    (Reply(200, E(500)), "again", ServerError),
    (Reply(500, E(501)), "again", ServerError),
    (Reply(200, E(505)), "again", ApiError),
    (Reply(401, E(401)), "halt", AuthenticationError),
    (Reply(200, E(402)), "halt", InsufficientCredits),
    (Reply(200, E(400)), "fail", InvalidRequest),
    (Reply(200, E(404)), "fail", InvalidRequest),
    (Reply(200, E(413)), "fail", InvalidRequest),
    (Reply(200, E(415)), "fail", InvalidRequest),
    (Reply(200, E(422)), "fail", InvalidRequest),
    (Reply(200, E(777)), "fail", InvalidRequest),
    # A gateway's answer: some are about the file, the others about the host.
    (Reply(502, HTML), "again", ServerError),
    (Reply(503, b"", 5.0), "again", ServerError),
    (Reply(429, b""), "again", RateLimited),
    (Reply(408, b""), "again", ApiError),
    (Reply(413, HTML), "fail", InvalidRequest),
    (Reply(415, b""), "fail", InvalidRequest),
    (Reply(400, b""), "fail", InvalidRequest),
    (Reply(422, b""), "fail", InvalidRequest),
    (Reply(401, HTML), "halt", AuthenticationError),
    (Reply(402, b""), "halt", InsufficientCredits),
    (Reply(403, HTML), "halt", ApiError),
    (Reply(404, HTML), "halt", NotFound),
    (Reply(405, HTML), "halt", ApiError),
    (Reply(307, b""), "halt", MalformedReply),
    # No answer at all, in the end.
    (Reply(200, HTML), "again", MalformedReply),
    (Reply(200, b""), "again", MalformedReply),
    (Reply(200, b'{"success":true,"code":200,"da'), "again", MalformedReply),
    (Reply(200, b'{"code":"soon"}'), "again", MalformedReply),
    (Reply(200, b"[]"), "again", MalformedReply),
]


@pytest.mark.parametrize(("reply", "then", "kind"), MEANINGS)
def test_what_an_answer_means(reply: Reply, then: str, kind: type[KieError]) -> None:
    """Again, halt or fail; with an error that names the image, costs nothing, and survives pickling."""
    end = uploads.judge(reply, "/in/cat.png")
    assert isinstance(end, Failure)
    assert end.then == then
    assert isinstance(end.error, kind)
    assert "/in/cat.png: " in str(end.error)
    assert end.error.billed == "no"
    assert isinstance(end.error, InvalidRequest) is (then == "fail")
    if isinstance(end.error, ApiError):
        assert end.error.retry_after == reply.retry_after
    again = pickle.loads(pickle.dumps(end.error))
    assert (type(again), str(again)) == (type(end.error), str(end.error))


def test_the_errors_say_what_to_do() -> None:
    """A refused image names its field; a host that is none of the service's, the settings."""
    refused = uploads.judge(Reply(200, envelope(400)), "/in/cat.png")
    assert isinstance(refused, Failure)
    assert isinstance(refused.error, InvalidRequest)
    assert (refused.error.field, refused.error.code) == ("image", 400)
    assert str(refused.error) == (
        "image: /in/cat.png: the upload was refused: "
        "the service refused the request (code 400): words"
    )
    for reply in (Reply(404, HTML), Reply(401, envelope(401)), Reply(308, b"")):
        elsewhere = uploads.judge(reply, "/in/cat.png")
        assert isinstance(elsewhere, Failure)
        assert str(elsewhere.error).endswith("; check KIE_API_KEY and KIE_UPLOAD_URL")


@pytest.mark.parametrize(("sent", "kind"), [(True, ReplyLost), (False, NotSent)])
def test_silence_is_tried_again(sent: bool, kind: type[KieError]) -> None:
    """An upload is free, so it does not matter whether it arrived."""
    end = uploads.judge(Silence(sent, "timed out"), "cat.png")
    assert isinstance(end, Failure)
    assert (type(end.error), end.then, end.error.billed) == (kind, "again", "no")
    assert str(end.error) == "cat.png: could not be uploaded: timed out"


# --- When it is tried again ----------------------------------------------------------------------

SLOW = ServerError("no", code=500)


def test_the_waits_double_and_end() -> None:
    """A handful of tries, about a minute between the first and the last."""
    waits = [uploads.pause(n, SLOW, 0.999999) for n in range(1, uploads.TRIES + 1)]
    assert waits[-1] is None
    assert [round(wait) for wait in waits[:-1] if wait is not None] == [2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("asked", "wait"), [(None, 1.0), (0.5, 1.0), (7.0, 7.0), (300.0, 300.0), (301.0, None)]
)
def test_what_the_service_asks_for_lengthens_a_wait(
    asked: float | None, wait: float | None
) -> None:
    """``Retry-After`` is honoured, but nobody waits for long: a later run will."""
    assert uploads.pause(1, RateLimited("slow", retry_after=asked), 0.0) == wait


def test_our_own_waits_are_scaled() -> None:
    """With a quick simulator our waits are short; its own wishes hold as they are."""
    assert uploads.pause(1, SLOW, 0.0, scale=0.01) == pytest.approx(0.01)
    assert uploads.pause(1, RateLimited("slow", retry_after=3.0), 0.0, scale=0.01) == 3.0
    assert uploads.pause(1, NotSent("no"), 0.0) == 1.0
