"""Uploaded input files: what the service keeps about them, for how long, and what it answers.

Pure values. Source: kie-api.md, "Other calls". A file is known by ``uploadPath/fileName``, so that a
second one of that name replaces the first, as the service's pages say. The bytes are on the shelf
(``shelf.py``), under their sha256; nothing here reads them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from . import chance
from .faults import Faults
from .verdicts import REFUSALS

STREAM: Final = "/api/file-stream-upload"
BASE64: Final = "/api/file-base64-upload"
FROM_URL: Final = "/api/file-url-upload"
UPLOADS: Final = (STREAM, BASE64, FROM_URL)
"""The calls that take files."""

LINKS: Final = "/u/"
"""Where uploads are served: this, then their path."""

LIFE: Final = 24 * 3600.0
"""Unscaled seconds after which an upload is deleted."""

LIMIT: Final = 100 * 2**20
"""Bytes of the largest file that is taken."""

_NAME: Final = re.compile(r"[^/\\\x00-\x1f\x7f]{1,200}")
_ENDINGS: Final = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
}


@attrs.frozen
class Arrival:
    """A file that has arrived in full.

    Args:
        folder: The field ``uploadPath``.
        name: The field ``fileName``; ``None`` has the service choose one.
        size: Bytes.
        sha256: Of its bytes, in hexadecimal digits.
        mime: Its media type.
        source: The URL that it was fetched from, or ``None``.
    """

    folder: str
    name: str | None
    size: int
    sha256: str
    mime: str
    source: str | None = None


@attrs.frozen
class Upload:
    """A file that is kept.

    Args:
        number: Its place among all uploads, from 1.
        path: ``uploadPath/fileName``.
        size: Bytes.
        sha256: Of its bytes.
        mime: Its media type.
        at: When it was stored, in seconds.
        lost: Whether a fault made away with it.
    """

    number: int
    path: str
    size: int
    sha256: str
    mime: str
    at: float
    lost: bool = False

    @property
    def picture(self) -> bool:
        """Whether the service can use it as an image."""
        return self.mime in _ENDINGS


@attrs.frozen
class Outcome:
    """What an upload comes to.

    Args:
        code: The code a faultless answer has.
        message: Its words.
        upload: What was stored, or ``None``.
        fault: The fault that spoils the answer, or ``None``.
    """

    code: int
    message: str
    upload: Upload | None
    fault: str | None


class Uploads:
    """The files that were uploaded to one account.

    Args:
        life: Seconds for which they are kept.
    """

    def __init__(self, life: float) -> None:
        self.life = life
        self._kept: dict[str, Upload] = {}

    def keep(self, data: Mapping[str, Any]) -> None:
        """Take an upload, as its event has it."""
        upload = Upload(**data)
        self._kept[upload.path] = upload

    def knows(self, path: str) -> bool:
        """Whether a file of this path was ever uploaded."""
        return path in self._kept

    def find(self, path: str, now: float) -> Upload | None:
        """The file of this path, while it is kept.

        Args:
            path: ``uploadPath/fileName``.
            now: Seconds.
        """
        upload = self._kept.get(path)
        if upload is None or upload.lost or now >= upload.at + self.life:
            return None
        return upload

    def contents(self, now: float) -> set[str]:
        """The sha256 of every file that is kept."""
        return {one.sha256 for path in self._kept if (one := self.find(path, now))}


def complaint(folder: object, name: object) -> str | None:
    """What the service would refuse about the two fields that name a file.

    Returns:
        A message that begins with the field, or ``None``.
    """
    if not isinstance(folder, str) or not folder.strip():
        return "uploadPath cannot be empty"
    if not all(_fits(part) for part in folder.split("/")):
        return "uploadPath must be folders with a slash between them, such as images/user-uploads"
    if name is not None and not (isinstance(name, str) and _fits(name)):
        return "fileName must be a name without slashes"
    return None


def _fits(part: str) -> bool:
    if part.strip() in {"", ".", ".."} or not _NAME.fullmatch(part):
        return False
    try:
        part.encode()
    except UnicodeEncodeError:
        return False
    return True


def media_type(head: bytes, declared: str | None) -> str:
    """The media type of a file.

    Args:
        head: Its first bytes, 12 or more where it has as many.
        declared: What the sender says; it counts for what is no picture.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    # A sender's word makes no picture of what is none.
    if declared is None or declared in _ENDINGS:
        return "application/octet-stream"
    return declared


def decide(seed: int, faults: Faults, number: int, arrival: Arrival | str, now: float) -> Outcome:
    """What becomes of an upload.

    Args:
        seed: The run's seed.
        faults: What goes wrong on purpose.
        number: Its place among all uploads, from 1.
        arrival: The file, or the words of its refusal.
        now: Seconds.
    """
    if isinstance(arrival, str):
        return Outcome(400, arrival, None, None)
    fault = faults.pick(seed, "upload", number)
    if fault in REFUSALS:
        return Outcome(*REFUSALS[fault], None, fault)
    name = arrival.name
    if name is None:
        name = chance.digest("upload", seed, number) + _ENDINGS.get(arrival.mime, "")
    upload = Upload(
        number,
        f"{arrival.folder}/{name}",
        arrival.size,
        arrival.sha256,
        arrival.mime,
        now,
        lost=fault == "lost",
    )
    return Outcome(200, "File uploaded successfully", upload, fault)


def answer(code: int | str, message: str, data: Any = None) -> dict[str, Any]:
    """What every JSON answer of the upload host is wrapped in."""
    return {"success": str(code) == "200", "code": code, "msg": message, "data": data}


def stored(upload: Upload, link: str, life: float, fault: str | None = None) -> dict[str, Any]:
    """The answer about a file that was stored.

    Args:
        upload: The file.
        link: Its URL.
        life: Seconds for which it is kept.
        fault: A fault that changes the shape, or ``None``.
    """
    folder, _, name = upload.path.rpartition("/")
    data: dict[str, Any] = {
        "fileName": name,
        "filePath": upload.path,
        "downloadUrl": link,
        "fileSize": upload.size,
        "mimeType": upload.mime,
        "uploadedAt": _iso(upload.at),
    }
    if fault == "file-url":
        del data["downloadUrl"], data["uploadedAt"], data["filePath"]
        data |= {
            "fileId": f"file_{upload.sha256[:9]}",
            "originalName": name,
            "uploadPath": folder,
            "fileUrl": link,
            "uploadTime": _iso(upload.at),
            "expiresAt": _iso(upload.at + life),
        }
    if fault == "both-urls":
        data["fileUrl"] = link
    if fault == "no-url":
        del data["downloadUrl"]
    return answer("200" if fault == "string-code" else 200, "File uploaded successfully", data)


def _iso(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
