"""A file on its way: within one call it goes on where it broke off, or starts over."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import attrs
import pytest
from file_host import (
    LONG_AGO,
    Answer,
    Asked,
    a_place,
    again,
    cut_at,
    downloading,
    fetch,
    head,
    hosting,
    left,
    name,
    padded,
    saved,
)

from kie_mj_async.archive.store import Place
from kie_mj_async.errors import IntegrityError

pytestmark = pytest.mark.anyio
FILE = padded(3000)
OTHER = padded(3000, 7)


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    return await a_place(tmp_path)


@pytest.mark.parametrize("part", [None, "fox-0"])
async def test_a_broken_transfer_goes_on(place: Place, part: str | None) -> None:
    """What has come is not asked for again, and no byte of it is sent twice."""
    async with hosting(FILE, bend=cut_at(1000, 500)) as host:
        file = await fetch(host.url, place, part)
    assert host.ranges == [None, "bytes=1000-", "bytes=1500-"]
    assert [one.headers.get("if-range") for one in host.asked] == [None, '"one"', '"one"']
    assert host.sent == len(FILE)
    assert saved(place) == FILE
    assert file.bytes == len(FILE)
    assert left(place) == []


@pytest.mark.parametrize(
    ("validator", "goes_on"),
    [
        ({}, True),
        ({"etag": None, "modified": LONG_AGO}, True),
        ({"etag": 'W/"one"', "modified": LONG_AGO}, True),
        ({"etag": None}, False),
        ({"etag": 'W/"one"'}, False),
        ({"etag": "one"}, False),
        ({"etag": None, "modified": "now"}, False),
    ],
    ids=["etag", "date", "weak etag and date", "none", "weak etag", "no etag", "fresh date"],
)
@pytest.mark.parametrize("step", range(8))
async def test_a_cut_at_any_byte(
    tmp_path: Path, validator: dict[str, str | None], goes_on: bool, step: int
) -> None:
    """Cut at any byte, the file comes whole; its beginning comes twice only without a validator."""
    content = padded(150)
    if validator.get("modified") == "now":
        validator = {**validator, "modified": formatdate(usegmt=True)}
    place = await a_place(tmp_path)
    async with hosting(content, **validator) as host, downloading() as made:
        for cut in range(step, len(content), 8):
            host.bend, host.sent = cut_at(cut), 0
            host.asked.clear()
            await made.fetch(host.url, 0, place, name)
            assert saved(place) == content
            assert host.ranges == [None, f"bytes={cut}-" if goes_on and cut else None]
            assert host.sent == len(content) + (0 if goes_on else cut)
    assert left(place) == []


RANGES = {
    "another beginning": lambda a: head(a, Content_Range="bytes 999-2999/3000"),
    "a later beginning": lambda a: head(a, Content_Range="bytes 1001-2999/3000"),
    "another end": lambda a: head(a, Content_Range="bytes 1000-2998/3000"),
    "another total": lambda a: head(a, Content_Range="bytes 1000-2999/4000"),
    "no total": lambda a: head(a, Content_Range="bytes 1000-2999/*"),
    "no numbers": lambda a: head(a, Content_Range="bytes */3000"),
    "no range at all": lambda a: head(a, Content_Range="everything"),
    "other units": lambda a: head(a, Content_Range="items 1000-2999/3000"),
    "another etag": lambda a: head(a, ETag='"two"'),
    "no etag": lambda a: attrs.evolve(
        a, headers={k: v for k, v in a.headers.items() if k != "ETag"}
    ),
    "several parts": lambda a: attrs.evolve(
        a, headers={"Content-Type": "multipart/byteranges; boundary=x", "ETag": '"one"'}
    ),
    "packed": lambda a: attrs.evolve(head(a, Content_Encoding="gzip"), body=gzip.compress(a.body)),
    "more than the range": lambda a: attrs.evolve(a, body=a.body + b"x"),
    "less than the range": lambda a: attrs.evolve(a, body=a.body[:-1]),
    "416": lambda _: Answer("416 No", {"Content-Range": "bytes */3000"}, b""),
}


@pytest.mark.parametrize("bad", RANGES.values(), ids=RANGES)
async def test_a_range_that_is_not_the_rest(place: Place, bad: Callable[[Answer], Answer]) -> None:
    """Whatever is wrong with a range, the file is asked for anew, whole and at once."""
    async with hosting(FILE, bend=lambda n, _, a: again(n, a, bad(a))) as host:
        await fetch(host.url, place, attempts=2)
    assert host.ranges == [None, "bytes=1000-", None]
    assert saved(place) == FILE


async def test_a_range_that_never_ends(place: Place) -> None:
    """A rest without a length that is longer than its range is not believed."""

    def bend(number: int, _asked: Asked, answer: Answer) -> Answer:
        longer = attrs.evolve(answer, body=answer.body + b"x" * 5000, length=-1)
        return again(number, answer, longer)

    async with hosting(FILE, bend=bend) as host:
        with pytest.raises(IntegrityError, match="more than the 3,000 bytes"):
            await fetch(host.url, place, attempts=2)
        await fetch(host.url, place)
    assert saved(place) == FILE


async def test_a_rest_that_is_cut_silently(place: Place) -> None:
    """A rest without a length that is shorter than its range is not believed."""

    def bend(number: int, _asked: Asked, answer: Answer) -> Answer:
        return again(number, answer, attrs.evolve(answer, body=answer.body[:-9], length=-1))

    async with hosting(FILE, bend=bend) as host:
        await fetch(host.url, place)
    assert host.ranges == [None, "bytes=1000-", None]
    assert saved(place) == FILE


async def test_a_whole_file_instead_of_a_range(place: Place) -> None:
    """A host that has no ranges sends all of it, and that takes the place of what was there."""
    async with hosting(FILE) as host:
        host.bend = lambda n, _, a: again(n, a, Answer("200 OK", {}, FILE))
        await fetch(host.url, place)
    assert host.ranges == [None, "bytes=1000-"]
    assert saved(place) == FILE


async def test_a_file_that_changed(place: Place) -> None:
    """Another version of the file starts over from its own first byte."""

    def bend(number: int, _asked: Asked, answer: Answer) -> Answer:
        if number == 0:
            host.content, host.etag = OTHER, '"two"'
            return attrs.evolve(answer, cut=1000)
        return answer

    async with hosting(FILE, bend=bend) as host:
        await fetch(host.url, place)
    assert host.ranges == [None, "bytes=1000-"]
    assert saved(place) == OTHER


async def test_a_host_without_ranges_is_asked_for_none(place: Place) -> None:
    """Where the host says that it has no ranges, none is asked for."""

    def bend(number: int, _asked: Asked, answer: Answer) -> Answer:
        return again(number, head(answer, Accept_Ranges="none"), answer)

    async with hosting(FILE, bend=bend) as host:
        await fetch(host.url, place)
    assert host.ranges == [None, None]
    assert saved(place) == FILE


async def test_a_file_of_unknown_length_goes_on_too(place: Place) -> None:
    """A chunked answer that breaks off goes on, and its range tells how long it is."""
    chunk = f"{1000:x}\r\n".encode() + FILE[:1000] + b"\r\n"

    def bend(number: int, _asked: Asked, answer: Answer) -> Answer:
        if number:
            return answer
        chunked = head(answer, Transfer_Encoding="chunked")
        return attrs.evolve(chunked, body=chunk, length=-1)

    async with hosting(FILE, bend=bend) as host:
        await fetch(host.url, place)
    assert host.ranges == [None, "bytes=1000-"]
    assert saved(place) == FILE


async def test_a_busy_host_keeps_what_has_come(place: Place) -> None:
    """A 503 to a range is no verdict on what is there."""
    async with hosting(FILE) as host:
        host.bend = lambda n, _, a: again(n, a, Answer("503 Busy", {}, b"busy"))
        await fetch(host.url, place)
    assert host.ranges == [None, "bytes=1000-", "bytes=1000-"]
    assert host.sent == len(FILE) + 4


async def test_what_ended_wrongly_is_not_gone_on_with(place: Place) -> None:
    """A file that ended in good order, but not at its end, starts over."""
    async with hosting(FILE) as host:
        host.bend = lambda n, _, a: a if n else attrs.evolve(a, body=FILE[:2000], length=-1)
        await fetch(host.url, place)
    assert host.ranges == [None, None]
    assert saved(place) == FILE
