"""Transfers: what an answer means, and when a broken one may go on."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from kie_mj_async.rules import transfer
from kie_mj_async.rules.transfer import (
    MIN_RATE,
    Checkpoint,
    Next,
    Pace,
    Source,
    Validator,
    content_range,
    judge,
    range_headers,
    total_of,
)

URL = "https://files.test/a.png?sign=1"
ETAG = '"one"'
DATE = "Sat, 01 Nov 2025 10:00:00 GMT"
MUCH_LATER = "Sat, 01 Nov 2025 10:01:00 GMT"
DIGEST = "0123456789abcdef" * 4
HAVE = Checkpoint(URL, Validator(ETAG), 3000, 1000, DIGEST)
BY_DATE = attrs.evolve(HAVE, validator=Validator(None, DATE))
REST = {"Content-Range": "bytes 1000-2999/3000", "ETag": ETAG, "Last-Modified": DATE}


def headers(**fields: str | None) -> CIMultiDict[str]:
    """Headers as a client gets them: names in any case, an underscore for a hyphen."""
    given = {name.replace("_", "-"): value for name, value in fields.items()}
    return CIMultiDict({name: value for name, value in given.items() if value is not None})


@pytest.mark.parametrize(
    ("status", "then"),
    [
        (200, Next.READ),
        *[(one, Next.RETRY) for one in (408, 425, 429, 500, 502, 503, 599)],
        *[(one, Next.NEW_LINK) for one in (400, 401, 403, 404, 410, 204, 206, 301, 302, 416)],
    ],
)
def test_a_status_says_what_to_do(status: int, then: Next) -> None:
    """200 is read, a busy host is asked again, and a refusal is about the link, not the file."""
    assert judge(status, {}) is then


@pytest.mark.parametrize(
    ("status", "then"),
    [(200, Next.READ), (206, Next.CONTINUE), (416, Next.START_OVER), (503, Next.RETRY)]
    + [(one, Next.NEW_LINK) for one in (403, 404, 410, 304)],
)
def test_a_status_of_a_rest(status: int, then: Next) -> None:
    """Asked for the rest, 200 is the whole file, and a range that cannot be had starts over."""
    assert judge(status, headers(**REST_FIELDS), HAVE) is then


REST_FIELDS = {name.replace("-", "_"): value for name, value in REST.items()}


@pytest.mark.parametrize("have", [HAVE, BY_DATE, attrs.evolve(HAVE, total=None)])
@pytest.mark.parametrize("length", [None, "2000"])
def test_a_rest_goes_on(have: Checkpoint, length: str | None) -> None:
    """The range that was asked for, of the same version, goes on."""
    answer = headers(**REST_FIELDS, Content_Length=length)
    assert judge(206, answer, have) is Next.CONTINUE


@pytest.mark.parametrize(
    "change",
    [
        {"Content_Range": None},
        {"Content_Range": "bytes 0-2999/3000"},
        {"Content_Range": "bytes 999-2999/3000"},
        {"Content_Range": "bytes 1001-2999/3000"},
        {"Content_Range": "bytes 1000-2998/3000"},
        {"Content_Range": "bytes 1000-2999/*"},
        {"Content_Range": "bytes 1000-3999/4000"},
        {"Content_Range": "bytes 1000-2999/3000, bytes 0-1/3000"},
        {"Content_Length": "1999"},
        {"Content_Length": "2001"},
        {"Content_Encoding": "gzip"},
        {"ETag": None, "Last_Modified": None},
        {"ETag": '"two"', "Last_Modified": "Sat, 01 Nov 2025 10:00:01 GMT"},
        {"ETag": f"W/{ETAG}", "Last_Modified": ""},
    ],
)
@pytest.mark.parametrize("have", [HAVE, BY_DATE])
def test_a_rest_that_is_none(have: Checkpoint, change: dict[str, str | None]) -> None:
    """Another range, another version, or one that does not show, starts over."""
    answer = headers(**{**REST_FIELDS, **change})
    assert judge(206, answer, have) is Next.START_OVER


def test_identity_is_no_packing() -> None:
    """An answer may say that it is not packed."""
    assert judge(206, headers(**REST_FIELDS, Content_Encoding="Identity"), HAVE) is Next.CONTINUE
    assert Source.of(URL, headers(ETag=ETAG, Content_Encoding=" identity ")).resumable


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ETag": ETAG}, Validator(ETAG)),
        ({"etag": '"!#~"'}, Validator('"!#~"')),
        *[
            ({"ETag": bad}, Validator())
            for bad in ("", "one", f"W/{ETAG}", '"', '""', '"a b"', '"a"b"', '"ü"', f"{ETAG}\n")
        ],
        ({"Last_Modified": DATE, "Date": MUCH_LATER}, Validator(None, DATE)),
        ({"Last_Modified": DATE, "Date": "Sat, 01 Nov 2025 10:00:59 GMT"}, Validator()),
        ({"Last_Modified": MUCH_LATER, "Date": DATE}, Validator()),
        ({"Last_Modified": DATE}, Validator()),
        ({"Last_Modified": DATE, "Date": "now"}, Validator()),
        ({"Last_Modified": "yesterday", "Date": MUCH_LATER}, Validator()),
        ({"Last_Modified": "Sat, 31 Feb 2025 10:00:00 GMT", "Date": MUCH_LATER}, Validator()),
        ({"ETag": ETAG, "Last_Modified": DATE, "Date": MUCH_LATER}, Validator(ETAG)),
    ],
)
def test_only_strong_validators_count(fields: dict[str, str], expected: Validator) -> None:
    """A weak tag, a malformed one, and a date that is too fresh tell nothing byte by byte."""
    assert Validator.of(headers(**fields)) == expected
    assert bool(Validator.of(headers(**fields))) is (expected != Validator())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ETag": ETAG, "Content_Length": "3000"}, Source(URL, Validator(ETAG), 3000, True)),
        ({"Content_Length": "3000"}, Source(URL, total=3000)),
        ({"ETag": ETAG}, Source(URL, Validator(ETAG), None, True)),
        (
            {"ETag": ETAG, "Content_Length": "3000", "Accept_Ranges": " None"},
            Source(URL, Validator(ETAG), 3000, False),
        ),
        (
            {"ETag": ETAG, "Content_Length": "3000", "Content_Encoding": "GZIP"},
            Source(URL, Validator(ETAG), None, False, "gzip"),
        ),
        (
            {"Content_Length": "3000", "Transfer_Encoding": "chunked"},
            Source(URL),
        ),
        ({"Content_Length": "-1"}, Source(URL)),
        ({"Content_Length": "9" * 30}, Source(URL)),
    ],
)
def test_what_an_answer_says_of_itself(fields: dict[str, str], expected: Source) -> None:
    """Its version, its length where that is the file's, and whether its rest may be asked for."""
    assert Source.of(URL, headers(**fields)) == expected


@pytest.mark.parametrize(
    ("encoding", "readable"), [(None, True), ("gzip", True), ("br", False), ("gzip, gzip", False)]
)
def test_which_packing_is_understood(encoding: str | None, readable: bool) -> None:
    """Some packings can be undone, one at a time."""
    assert Source.of(URL, headers(Content_Encoding=encoding)).readable is readable


@pytest.mark.parametrize(
    ("have", "url", "condition"),
    [
        (HAVE, URL, ETAG),
        (HAVE, "https://other.test/", ETAG),
        (BY_DATE, URL, DATE),
        (BY_DATE, URL + "&sign=2", None),
        (attrs.evolve(HAVE, validator=Validator(ETAG, DATE)), URL, ETAG),
        (attrs.evolve(HAVE, validator=Validator()), URL, None),
        (attrs.evolve(HAVE, size=0), URL, None),
    ],
)
def test_how_to_ask_for_the_rest(have: Checkpoint, url: str, condition: str | None) -> None:
    """Only with a strong validator, and with a date only under the very same link."""
    expected = {"Range": "bytes=1000-", "If-Range": condition} if condition else None
    assert range_headers(have, url) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes 0-0/1", (0, 0, 1)),
        ("bytes 5-9/10", (5, 9, 10)),
        ("bytes 5-9/*", (5, 9, None)),
        *[
            (bad, None)
            for bad in (
                "",
                "bytes",
                "bytes */10",
                "bytes 5-9",
                "bytes 9-5/10",
                "bytes 5-10/10",
                "bytes -5-9/10",
                "bytes +5-9/10",
                "bytes 5-9/10 ",
                " bytes 5-9/10",
                "bytes  5-9/10",
                "bytes=5-9/10",
                "BYTES 5-9/10",
                "items 5-9/10",
                "bytes 5-9/1e3",
                "bytes \u0665-\u0669/\u0661\u0662",
                "bytes 5-9/10\n",
                f"bytes 5-9/{10**30}",
            )
        ],
    ],
)
def test_content_ranges(value: str, expected: tuple[int, int, int | None] | None) -> None:
    """A Content-Range is read strictly: what is odd in it is not believed."""
    assert content_range(value) == expected
    assert total_of({"Content-Range": value}) == (expected and expected[2])


@given(st.text("bytes 0123456789-/*=,", max_size=30) | st.text(max_size=20))
def test_any_content_range_is_answered(value: str) -> None:
    """Whatever it says, it is a possible range that reads the same again, or none."""
    found = content_range(value)
    if found is not None:
        first, last, total = found
        assert 0 <= first <= last
        assert total is None or last < total
        assert content_range(f"bytes {first}-{last}/{'*' if total is None else total}") == found


@given(st.integers(0, 10**17), st.integers(0, 10**6), st.integers(0, 10**6))
def test_possible_ranges_are_read(first: int, more: int, behind: int) -> None:
    """Every possible range is read as it was written."""
    last, total = first + more, first + more + 1 + behind
    assert content_range(f"bytes {first}-{last}/{total}") == (first, last, total)


CHECKPOINTS = [HAVE, BY_DATE, attrs.evolve(HAVE, total=None), attrs.evolve(HAVE, size=3000)]


@pytest.mark.parametrize("have", CHECKPOINTS)
def test_a_checkpoint_survives_as_text(have: Checkpoint) -> None:
    """What is written is read again."""
    assert Checkpoint.from_json(have.to_json()) == have
    assert have.complete is (have.size == 3000)
    assert have.source.at(have.size, have.sha256) == have
    assert have.source.resumable


def signed(**changes: Any) -> str:
    """A record whose own digest is right."""
    fields = {**attrs.asdict(HAVE), **changes}
    version = fields.pop("version", transfer.VERSION)
    return json.dumps({"version": version, **fields, "check": transfer._check(fields)})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "3",
        "{}",
        "[" * 100_000,
        HAVE.to_json()[:-1],
        HAVE.to_json().replace("1000", "1001"),
        HAVE.to_json().replace("one", "two"),
        signed(version=2),
        signed(size=0),
        signed(size=-5),
        signed(size=3001),
        signed(size="1000"),
        signed(size=None),
        signed(total="3000"),
        signed(sha256=5),
        signed(sha256=DIGEST.upper()),
        signed(validator=None),
        signed(validator={"etag": ETAG, "colour": "red"}),
        signed(more=1),
    ],
    ids=str,
)
def test_a_record_that_is_none(text: str) -> None:
    """Garbage, another version, an impossible size, or one changed byte: it is not believed."""
    assert Checkpoint.from_json(text) is None


def test_the_record_of_these_tests_is_one() -> None:
    """The one that the tests above damage is good."""
    assert Checkpoint.from_json(signed()) == HAVE


@given(st.integers(0, 400), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(at: int, change: int) -> None:
    """A record with a byte changed is none, unless it says the same."""
    data = bytearray(HAVE.to_json().encode())
    data[at % len(data)] ^= change
    assert Checkpoint.from_json(data.decode("latin-1")) in (None, HAVE)


def test_a_pace_that_is_kept() -> None:
    """Enough bytes in each window is no stall, however they are spread."""
    pace = Pace(30.0, began=100.0)
    assert not pace.stalled(129.9, 0)
    assert not pace.stalled(130.0, 30 * MIN_RATE)
    assert not pace.stalled(160.0, 30 * MIN_RATE)


def test_a_drip_is_a_stall() -> None:
    """Too few bytes in a window is a stall, whatever came before it."""
    pace = Pace(30.0, began=100.0)
    assert not pace.stalled(130.0, 10**9)
    assert not pace.stalled(145.0, 10)
    assert pace.stalled(160.0, 10)
