"""What a create's end means for the money: design's table, row by row."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async import errors
from kie_mj_async.errors import ConfigError, KieError, MalformedReply, NotSent, ReplyLost
from kie_mj_async.jobs import Reading
from kie_mj_async.requests import (
    ChainStep,
    ExistingTask,
    ImageToVideo,
    Request,
    TextToImage,
    Upscale,
)
from kie_mj_async.rules.billing import (
    PRICE,
    Accepted,
    Lost,
    Prices,
    Refused,
    Silence,
    Unsent,
    evidence,
    fits,
    judge,
    read_prices,
)
from kie_mj_async.rules.wire import Reply

HTML = b"<html><h1>Bad gateway</h1></html>"


def envelope(code: object, data: object = None, status: int = 200) -> Reply:
    body = {"code": code, "msg": "words", "data": data}
    return Reply(status, json.dumps(body).encode(), 7.0)


# Row 1: accepted.


@pytest.mark.parametrize("code", [200, "200"])
@pytest.mark.parametrize("status", [200, 201, 302, 429, 500])
def test_code_200_with_an_id_is_accepted(code: object, status: int) -> None:
    """An envelope with code 200 and a task id is a paid task, whatever the HTTP status says."""
    assert judge(envelope(code, {"taskId": "abc"}, status)) == Accepted("abc")


# Row 2: refused, not charged.

REFUSALS: list[tuple[int, type[KieError], Literal["again", "halt", "fail"]]] = [
    (400, errors.InvalidRequest, "fail"),
    (401, errors.AuthenticationError, "halt"),
    (402, errors.InsufficientCredits, "halt"),
    (404, errors.NotFound, "fail"),
    (422, errors.InvalidRequest, "fail"),
    (429, errors.RateLimited, "again"),
    (455, errors.Maintenance, "again"),
    (505, errors.FeatureDisabled, "fail"),
]


@pytest.mark.parametrize(("code", "kind", "then"), REFUSALS)
@pytest.mark.parametrize("shape", [int, str, float])
@pytest.mark.parametrize("status", [200, 429, 500])
def test_a_refusal(
    code: int,
    kind: type[KieError],
    then: Literal["again", "halt", "fail"],
    shape: type,
    status: int,
) -> None:
    """A refusing code costs nothing: later again, pause the batch, or fail the job."""
    verdict = judge(envelope(shape(code), {"taskId": "abc"}, status))
    assert isinstance(verdict, Refused)
    assert verdict.then == then
    assert type(verdict.error) is kind
    assert verdict.error.billed == "no"


@pytest.mark.parametrize("body", [b"", HTML, b"{}", b"[]", b'{"error": "slow down"}'])
def test_a_bare_429_is_a_refusal(body: bytes) -> None:
    """HTTP 429 without an envelope is a refusal too, and keeps the Retry-After."""
    verdict = judge(Reply(429, body, 7.0))
    assert isinstance(verdict, Refused)
    assert verdict.then == "again"
    assert isinstance(verdict.error, errors.RateLimited)
    assert verdict.error.retry_after == 7.0


# Row 3: not sent.


def test_nothing_written_is_not_sent() -> None:
    """No byte was written: it may be sent again, and the error says why it was not."""
    verdict = judge(Silence(sent=False, reason="connection refused"))
    assert isinstance(verdict, Unsent)
    assert type(verdict.error) is NotSent
    assert verdict.error.billed == "no"
    assert "connection refused" in str(verdict.error)


# Row 4: anything else is unresolved.

UNKNOWN: list[tuple[str, Reply | Silence, type[KieError]]] = [
    ("read timeout or lost connection", Silence(sent=True, reason="reset"), ReplyLost),
    *[
        (f"code {code}", envelope(code), ReplyLost)
        for code in (500, "500", 501, 502, 503, 302, 418, 600, 0, -1, 201, 403, 409)
    ],
    *[(f"code {code} with an id", envelope(code, {"taskId": "abc"}), ReplyLost) for code in (500, 201)],
    *[(f"bare {status}", Reply(status, b""), ReplyLost) for status in (400, 401, 402, 403, 404, 422)],
    *[(f"bare {status}", Reply(status, HTML), ReplyLost) for status in (455, 500, 501, 502, 503, 505)],
    *[(f"redirect {status}", Reply(status, b""), MalformedReply) for status in (301, 302, 307, 308)],
    *[(f"{status} HTML", Reply(status, HTML), MalformedReply) for status in (200, 201, 304)],
    ("200 empty", Reply(200, b""), MalformedReply),
    ("200 cut off", Reply(200, b'{"code": 200, "data": {"taskId": "ab'), MalformedReply),
    ("200 without envelope", Reply(200, b'{"taskId": "abc"}'), MalformedReply),
    ("200 without data", envelope(200), MalformedReply),
    ("200 without id", envelope(200, {"taskId": ""}), MalformedReply),
    ("200 without id, HTTP 429", envelope(200, {}, 429), MalformedReply),
    ("code null", envelope(None, {"taskId": "abc"}), MalformedReply),
    ("code in words", envelope("ok", {"taskId": "abc"}), MalformedReply),
    ("code true", envelope(True, {"taskId": "abc"}), MalformedReply),
    ("no JSON object", Reply(200, b"[200]"), MalformedReply),
]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "kind"), [pytest.param(answer, kind, id=name) for name, answer, kind in UNKNOWN]
)
def test_anything_else_may_have_been_paid(answer: Reply | Silence, kind: type[KieError]) -> None:
    """What proves neither acceptance nor refusal is lost: never repeated without the user's word."""
    verdict = judge(answer)
    assert isinstance(verdict, Lost)
    assert type(verdict.error) is kind
    assert verdict.error.billed == "unknown"


def test_a_lost_create_says_what_was_answered() -> None:
    """The user who must decide reads the service's own words."""
    verdict = judge(Silence(sent=True, reason="read timeout after 60 s"))
    assert isinstance(verdict, Lost)
    assert "read timeout after 60 s" in str(verdict.error)
    verdict = judge(envelope(500))
    assert isinstance(verdict, Lost)
    assert "words (code 500)" in str(verdict.error)


@settings(deadline=None)
@given(st.integers(-10, 1000), st.sampled_from([200, 429, 500, 502]), st.booleans())
def test_only_listed_codes_are_refusals(code: int, status: int, with_id: bool) -> None:
    """Over all codes: 200 with an id is accepted, eight are refused, the rest is lost."""
    verdict = judge(envelope(code, {"taskId": "abc"} if with_id else None, status))
    if code == 200:
        assert isinstance(verdict, Accepted if with_id else Lost)
    elif code in {one for one, _, _ in REFUSALS}:
        assert isinstance(verdict, Refused)
    else:
        assert isinstance(verdict, Lost)


def _check(answer: Reply) -> None:
    verdict = judge(answer)
    if isinstance(verdict, Accepted):
        assert verdict.task_id.strip()
        verdict.task_id.encode()
    else:
        assert not isinstance(verdict, Unsent)
        assert isinstance(verdict.error, KieError)
        assert verdict.error.billed == ("unknown" if isinstance(verdict, Lost) else "no")
        str(verdict.error).encode()


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(100, 599))
def test_any_bytes_are_judged(body: bytes, status: int) -> None:
    """Whatever bytes come back, there is a verdict and no exception."""
    _check(Reply(status, body))


JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["code", "data", "taskId", "task_id", "msg"]), inner)
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(JUNK, JUNK, st.sampled_from([200, "200", 429, 500, None]), st.sampled_from([200, 429, 502]))
def test_any_json_is_judged(body: Any, data: Any, code: object, status: int) -> None:
    """Whatever JSON comes back, there is a verdict and no exception."""
    _check(Reply(status, json.dumps(body).encode()))
    _check(envelope(code, data, status))
    _check(envelope(code, {"taskId": data}, status))
    _check(envelope(body, {"taskId": "abc"}, status))


def test_the_default_price() -> None:
    """Every task costs 25 credits where nothing else was said."""
    assert PRICE == 25
    assert Prices().of(TextToImage("x")) == 25
    assert Prices().of(ImageToVideo("x", image="https://cdn.example/a.png", batch_size=4)) == 25
    assert Prices().of(ExistingTask("abc")) == 0


@pytest.mark.parametrize(
    ("request_", "price"),
    [
        (TextToImage("x --turbo"), 100),
        (TextToImage("x --relax"), 10),
        (TextToImage("x --turbo", raw=True), 25),
        # What a ledger of before flags had fields may hold.
        (TextToImage("x --turbo a fox", speed="relaxed"), 10),
        (ImageToVideo("x", image="fox.png", hd=True), 200),
        (Upscale("abc", 0), 5),
        (ChainStep("video-hd", "1-ab", 0, "x"), 200),
        (ChainStep("upscale", "1-ab", 0, "x"), 5),
        (ChainStep("extend", "1-ab", 0, "x"), 7),
    ],
)
def test_the_price_is_of_what_is_sent(request_: Request, price: float) -> None:
    """Flags count as the fields they become, and a step of a chain as what it will be."""
    table = {
        "mj_txt2img": {"turbo": 100.0, "relaxed": 10.0, "default": 25.0},
        "mj_video_hd": {"default": 200.0},
        "mj_upscale": {"default": 5.0},
        "mj_video_extend_auto": {"default": 7.0},
    }
    assert Prices(1, table).of(request_) == price


def test_prices_by_type_and_speed() -> None:
    """A table's entry for type and speed counts first, then the type's default, then the table's."""
    table = """
        default = 20
        [mj_txt2img]
        relaxed = 10
        turbo = 50.5
        default = 30
        [mj_video]
        fast = 90
    """
    prices = read_prices(table, "prices.toml")
    assert prices.of(TextToImage("x", speed="relaxed")) == 10
    assert prices.of(TextToImage("x", speed="turbo")) == 50.5
    assert prices.of(TextToImage("x", speed="fast")) == 30
    assert prices.of(TextToImage("x")) == 30
    assert prices.of(ImageToVideo("x", image="https://cdn.example/a.png")) == 20


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("default = -1", "p.toml: default"),
        ("default = true", "p.toml: default"),
        ("default = nan", "p.toml: default"),
        ("[mj_txt2img]\nwarp = 3", "p.toml: mj_txt2img.warp"),
        ("[mj_txt2img]\nfast = '3'", "p.toml: mj_txt2img.fast"),
        ("[midjourney]\nfast = 3", "p.toml: midjourney"),
        ("mj_txt2img = 3", "p.toml: mj_txt2img"),
        ("[", "p.toml: not TOML"),
    ],
)
def test_bad_prices(text: str, place: str) -> None:
    """A bad entry is an error that names the file and the entry."""
    with pytest.raises(ConfigError, match=re.escape(place)):
        read_prices(text, "p.toml")


@pytest.mark.parametrize(
    ("committed", "cap", "fit"),
    [(1e9, None, True), (0, 25, True), (0, 24, False), (75, 100, True), (76, 100, False)],
)
def test_the_cap(committed: float, cap: float | None, fit: bool) -> None:
    """A job fits when what is committed and its price do not pass the cap."""
    assert fits(committed, 25, cap) is fit


def a_reading(minute: int, balance: float, spent: float, at_risk: float) -> Reading:
    return Reading(datetime(2026, 11, 1, 12, minute, tzinfo=UTC), balance, spent, at_risk)


def test_readings_say_what_was_not_explained() -> None:
    """The fall of the balance less what accepted jobs cost is what lost creates may have cost."""
    found = evidence([a_reading(0, 1000, 100, 0), a_reading(30, 450, 600, 50)])
    assert found is not None
    assert (found.fell, found.explained, found.at_risk, found.unexplained) == (550, 500, 50, 50)
    assert (found.since.minute, found.until.minute) == (0, 30)


def test_the_latest_loss_counts() -> None:
    """Readings after the last loss do not hide it, and those before it do not blur it."""
    readings = [
        a_reading(0, 1000, 0, 0),
        a_reading(10, 975, 0, 25),
        a_reading(20, 900, 50, 50),
        a_reading(30, 800, 150, 50),
    ]
    found = evidence(readings)
    assert found is not None
    assert (found.since.minute, found.until.minute, found.unexplained) == (10, 20, 25)


@pytest.mark.parametrize(
    "readings",
    [[], [a_reading(0, 1000, 0, 25)], [a_reading(0, 1000, 0, 0), a_reading(9, 900, 100, 0)]],
)
def test_without_a_loss_there_is_no_evidence(readings: list[Reading]) -> None:
    """Nothing is said where nothing was lost between two readings."""
    assert evidence(readings) is None
