"""What the simulated service keeps about uploads, and what it answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import attrs
import pytest

from kie_mj_async.simulator import Faults, uploads
from kie_mj_async.simulator.uploads import Arrival, Upload, Uploads

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
ARRIVAL = Arrival("images/a", "fox.png", 16, "ab" * 32, "image/png")
UPLOAD = Upload(1, "images/a/fox.png", 16, "ab" * 32, "image/png", 1000.0)


def decide(arrival: Arrival | str = ARRIVAL, faults: str = "", number: int = 1) -> Any:
    return uploads.decide(0, Faults.parse(faults), number, arrival, 1000.0)


@pytest.mark.parametrize(
    ("folder", "name", "field"),
    [
        ("images", None, None),
        ("images/user-uploads", "my image (1).png", None),
        ("картинки", "лиса.png", None),
        (None, None, "uploadPath"),
        ("", None, "uploadPath"),
        (7, None, "uploadPath"),
        ("/images", None, "uploadPath"),
        ("images/", None, "uploadPath"),
        ("images//a", None, "uploadPath"),
        ("../etc", None, "uploadPath"),
        ("a\\b", None, "uploadPath"),
        ("\ud800", None, "uploadPath"),
        ("images", "", "fileName"),
        ("images", "a/b.png", "fileName"),
        ("images", "..", "fileName"),
        ("images", "a\0b", "fileName"),
        ("images", "x" * 201, "fileName"),
        ("images", 7, "fileName"),
    ],
)
def test_names_of_files(folder: object, name: object, field: str | None) -> None:
    """uploadPath is needed and holds folders, fileName is a plain name or left out."""
    message = uploads.complaint(folder, name)
    assert (message and message.split()[0]) == field


@pytest.mark.parametrize(
    ("head", "declared", "expected"),
    [
        (PNG, "text/plain", "image/png"),
        (b"\xff\xd8\xff\xe0....", None, "image/jpeg"),
        (b"GIF89a......", None, "image/gif"),
        (b"RIFF....WEBPVP8 ", None, "image/webp"),
        (b"RIFF....WAVEfmt ", "audio/wav", "audio/wav"),
        (b"hello", "text/plain", "text/plain"),
        (b"hello", "image/png", "application/octet-stream"),
        (b"", None, "application/octet-stream"),
    ],
)
def test_pictures_are_told_by_their_bytes(head: bytes, declared: str | None, expected: str) -> None:
    """A picture is what begins like one; a sender's word counts for the rest."""
    assert uploads.media_type(head, declared) == expected
    picture = attrs.evolve(UPLOAD, mime=expected).picture
    assert picture == (expected.startswith("image/"))


def test_uploads_live_for_a_day() -> None:
    """An upload is there until its time is up, known for good, and gone if a fault lost it."""
    kept = Uploads(24.0)
    kept.keep(attrs.asdict(UPLOAD))
    assert kept.find(UPLOAD.path, 1023.9) == UPLOAD
    assert kept.find(UPLOAD.path, 1024) is None
    assert kept.knows(UPLOAD.path)
    assert not kept.knows("images/a/other.png")
    assert kept.find("images/a/other.png", 1000) is None
    assert (kept.contents(1000), kept.contents(1024)) == ({UPLOAD.sha256}, set())
    kept.keep(attrs.asdict(attrs.evolve(UPLOAD, lost=True)))
    assert kept.find(UPLOAD.path, 1000) is None


def test_a_second_file_of_a_name_replaces_the_first() -> None:
    """Two files of one path are one file, with a day of its own."""
    kept = Uploads(24.0)
    kept.keep(attrs.asdict(UPLOAD))
    second = attrs.evolve(UPLOAD, number=2, sha256="cd" * 32, at=1020.0)
    kept.keep(attrs.asdict(second))
    assert kept.find(UPLOAD.path, 1040) == second
    assert kept.contents(1040) == {second.sha256}


def test_a_file_without_a_name_gets_one() -> None:
    """The service chooses a name that repeats with the seed, ends as the type does, and is new."""
    arrival = attrs.evolve(ARRIVAL, name=None)
    first, again, second = decide(arrival), decide(arrival), decide(arrival, number=2)
    assert first == again
    assert first.upload.path != second.upload.path
    assert first.upload.path.startswith("images/a/")
    assert first.upload.path.endswith(".png")


def test_refusals_store_nothing() -> None:
    """A complaint is code 400 with its words; a fault refuses with the fault's code."""
    refused = decide("file cannot be empty", "upload.empty=1")
    assert (refused.code, refused.message, refused.upload) == (400, "file cannot be empty", None)
    assert refused.fault is None
    refused = decide(faults="upload.500=1")
    assert (refused.code, refused.upload, refused.fault) == (500, None, "500")
    assert decide(faults="upload.drop-reply=1").upload is not None
    assert decide(faults="upload.lost=1").upload.lost


def test_the_documented_answer() -> None:
    """Name, path, link, size, type and time, in an envelope that says success twice."""
    answer = uploads.stored(UPLOAD, "http://h/u/x", 60)
    assert (answer["success"], answer["code"]) == (True, 200)
    data = answer["data"]
    assert datetime.fromisoformat(data.pop("uploadedAt")).timestamp() == 1000
    assert data == {
        "fileName": "fox.png",
        "filePath": "images/a/fox.png",
        "downloadUrl": "http://h/u/x",
        "fileSize": 16,
        "mimeType": "image/png",
    }
    refused = uploads.answer(400, "no")
    assert refused == {"success": False, "code": 400, "msg": "no", "data": None}


def test_other_shapes_of_the_answer() -> None:
    """Pages that show fileUrl beside or instead of downloadUrl, neither of them, a code as text."""
    other = uploads.stored(UPLOAD, "link", 60, "file-url")["data"]
    assert (other["fileUrl"], other["uploadPath"]) == ("link", "images/a")
    assert "downloadUrl" not in other
    assert datetime.fromisoformat(other["expiresAt"]).timestamp() == 1060
    both = uploads.stored(UPLOAD, "link", 60, "both-urls")["data"]
    assert both["fileUrl"] == both["downloadUrl"] == "link"
    assert not {"fileUrl", "downloadUrl"} & set(uploads.stored(UPLOAD, "l", 60, "no-url")["data"])
    text = uploads.stored(UPLOAD, "link", 60, "string-code")
    assert (text["code"], text["success"]) == ("200", True)
