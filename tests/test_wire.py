"""The wire: every known shape of an answer to a value or an error."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async import errors
from kie_mj_async.errors import InvalidRequest, KieError, MalformedReply
from kie_mj_async.rules import wire
from kie_mj_async.rules.wire import Reply

ID = "9f47c52047dda21bb3df0488736cce57"
URLS = tuple(f"https://tempfile.example/m/{ID}_0_{n}.jpeg" for n in range(4))
CREATED = datetime(2025, 10, 15, 19, 41, 58, tzinfo=UTC)
COMPLETED = datetime(2025, 10, 15, 19, 45, 32, tzinfo=UTC)
NOW = datetime(2026, 11, 1, tzinfo=UTC)


def reply(body: object, status: int = 200, retry_after: float | None = None) -> Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, raw, retry_after)


def ok(data: object) -> Reply:
    return reply({"code": 200, "msg": "success", "data": data})


# --- Envelopes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [200, "200", " 200 ", 200.0])
def test_success_is_code_200_in_any_form(code: object) -> None:
    """The code may come as a number or as a numeric string."""
    assert wire.read_data(reply({"code": code, "data": {"a": 1}})) == {"a": 1}


def test_the_code_counts_before_the_status() -> None:
    """The envelope's code is looked at first, the HTTP status only where there is none."""
    assert wire.read_data(reply({"code": 200, "data": 5}, status=500)) == 5
    with pytest.raises(errors.AuthenticationError):
        wire.read_data(reply({"code": 401, "msg": "no"}, status=200))
    with pytest.raises(errors.InsufficientCredits):
        wire.read_data(reply({"code": 402, "msg": "no"}, status=429))


CODES: list[tuple[int, type[KieError]]] = [
    (400, InvalidRequest),
    (401, errors.AuthenticationError),
    (402, errors.InsufficientCredits),
    (404, errors.NotFound),
    (422, InvalidRequest),
    (429, errors.RateLimited),
    (455, errors.Maintenance),
    (500, errors.ServerError),
    (501, errors.ServerError),
    (503, errors.ServerError),
    (505, errors.FeatureDisabled),
    (599, errors.ServerError),
    (302, errors.ApiError),
    (418, errors.ApiError),
    (600, errors.ApiError),
    (0, errors.ApiError),
    (-1, errors.ApiError),
]


@pytest.mark.parametrize(("code", "kind"), CODES)
@pytest.mark.parametrize("shape", [int, str])
def test_every_code_has_its_error(code: int, kind: type[KieError], shape: type) -> None:
    """A code means exactly its class, and the error says the code and the service's words."""
    answer = reply({"code": shape(code), "msg": "the words", "data": None}, 200, retry_after=7)
    with pytest.raises(KieError) as caught:
        wire.read_data(answer)
    error = caught.value
    assert type(error) is kind
    assert "the words" in str(error)
    assert f"code {code}" in str(error)
    assert getattr(error, "code", None) == code
    if isinstance(error, errors.ApiError):
        assert (error.status, error.retry_after) == (200, 7)


@pytest.mark.parametrize(("status", "kind"), [(s, k) for s, k in CODES if s >= 400])
@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"", b'"text"', b"{}", b"[1]"])
def test_without_an_envelope_the_status_counts(
    status: int, kind: type[KieError], body: bytes
) -> None:
    """A gateway's HTML or an empty body means its HTTP status."""
    with pytest.raises(KieError) as caught:
        wire.read_data(Reply(status, body, 3.0))
    assert type(caught.value) is kind
    assert str(status) in str(caught.value)
    if isinstance(caught.value, errors.ApiError):
        assert caught.value.retry_after == 3.0
        assert (caught.value.code, caught.value.status) == (None, status)


NO_ENVELOPE: list[tuple[int, bytes]] = [
    (200, b""),
    (200, b"<html>hello</html>"),
    (200, b'{"code": 200, "data": {"taskId": "a'),
    (200, b"[]"),
    (200, b"null"),
    (200, b'{"data": {"taskId": "abc"}}'),
    (200, b'{"code": null, "data": {"taskId": "abc"}}'),
    (200, b'{"code": "ok", "data": {"taskId": "abc"}}'),
    (200, b'{"code": true, "data": {"taskId": "abc"}}'),
    (200, b'{"code": 200.5, "data": {"taskId": "abc"}}'),
    (200, b'{"code": NaN, "data": {"taskId": "abc"}}'),
    (200, b'{"code": Infinity, "data": {"taskId": "abc"}}'),
    (200, b'{"code": "1e999", "data": {"taskId": "abc"}}'),
    (200, b"\xff\xfe\x00"),
    (302, b""),
    (204, b""),
    (200, b"[" * 100_000),
    (200, b"9" * 5000),
]


@pytest.mark.parametrize(("status", "body"), NO_ENVELOPE)
def test_no_envelope_is_malformed(status: int, body: bytes) -> None:
    """Without a readable envelope and without an error status, the answer is malformed."""
    with pytest.raises(MalformedReply) as caught:
        wire.read_data(Reply(status, body))
    assert caught.value.status == status
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (reply({"code": 200}), 200),
        (reply({"code": "429"}, 200), 429),
        (reply({"code": "x"}, 429), None),
        (reply({}, 429), None),
        (reply([], 429), None),
        (reply(b"<html>", 429), None),
    ],
)
def test_the_envelopes_code_alone(answer: Reply, code: int | None) -> None:
    """envelope_code tells the code where there is one, whatever else the answer holds."""
    assert wire.envelope_code(answer) == code


def test_a_long_answer_is_quoted_in_part() -> None:
    """Messages quote an answer's beginning on one line, not megabytes of it."""
    with pytest.raises(MalformedReply) as caught:
        wire.read_data(Reply(200, b"<p>\n" * 1_000_000))
    assert "<p> <p>" in str(caught.value)
    assert len(str(caught.value)) < 250
    with pytest.raises(errors.ServerError) as other:
        wire.read_data(reply({"code": 500, "msg": "m" * 100_000}))
    assert len(str(other.value)) < 600


@pytest.mark.parametrize("message", [None, 5, ["x"], ""])
def test_a_message_that_is_none(message: object) -> None:
    """An envelope without readable words still gives its error."""
    with pytest.raises(errors.ServerError, match="no message"):
        wire.read_data(reply({"code": 500, "msg": message}))


def test_words_may_stand_under_message() -> None:
    """Some gateways write ``message`` for ``msg``."""
    with pytest.raises(errors.ServerError, match="the words"):
        wire.read_data(reply({"code": 500, "message": "the words"}))


# --- Task ids -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "task_id"),
    [
        ({"taskId": ID}, ID),
        ({"taskId": "mj_task_abc123"}, "mj_task_abc123"),
        ({"task_id": ID}, ID),
        ({"taskId": 12345}, "12345"),
        ({"taskId": f" {ID}\n"}, ID),
        ({"taskId": ID, "recordId": "z"}, ID),
    ],
)
def test_the_id_of_a_create(data: object, task_id: str) -> None:
    """Every form of an accepted create gives its id."""
    assert wire.read_task_id(ok(data)) == task_id


@pytest.mark.parametrize(
    "data",
    [
        None,
        ID,
        [],
        {},
        {"taskId": None},
        {"taskId": ""},
        {"taskId": " "},
        {"taskId": True},
        {"taskId": 1.5},
        {"taskId": {"id": ID}},
        {"taskId": "x" * 201},
        {"taskId": "half \ud800"},
    ],
)
def test_success_without_an_id(data: object) -> None:
    """Success without a usable id is malformed: there may be a paid task behind it."""
    with pytest.raises(MalformedReply, match="success without a task id"):
        wire.read_task_id(ok(data))


# --- Balance and links --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "left"), [(100, 100), (99.5, 99.5), ("12.25", 12.25), (0, 0), (-3, -3)]
)
def test_the_balance(data: object, left: float) -> None:
    """The credits left are a number, also when it comes as a text."""
    assert wire.read_credits(ok(data)) == left


@pytest.mark.parametrize("data", [None, "", "many", True, {}, [5], "nan", "inf"])
def test_no_balance(data: object) -> None:
    """What is no number is no balance."""
    with pytest.raises(MalformedReply, match="balance"):
        wire.read_credits(ok(data))


def test_a_fresh_link() -> None:
    """A minted link is a text with a URL."""
    assert wire.read_download_url(ok(URLS[0])) == URLS[0]


@pytest.mark.parametrize("data", [None, "", "soon", {"url": URLS[0]}, "javascript:alert(1)"])
def test_no_link(data: object) -> None:
    """What is no URL is no link."""
    with pytest.raises(MalformedReply, match="not a link"):
        wire.read_download_url(ok(data))


def test_a_foreign_link_is_refused() -> None:
    """422 for a link that the service does not know is InvalidRequest."""
    with pytest.raises(InvalidRequest, match="foreign") as caught:
        wire.read_download_url(reply({"code": 422, "msg": "foreign URL"}))
    assert caught.value.code == 422


# --- Expiry and Retry-After ---------------------------------------------------------------------


def test_expiry() -> None:
    """14 days after completion, else after creation, else from now."""
    days = timedelta(days=14)
    assert wire.expiry(CREATED, COMPLETED, NOW) == COMPLETED + days
    assert wire.expiry(CREATED, None, NOW) == CREATED + days
    assert wire.expiry(None, None, NOW) == NOW + days
    last = datetime.max.replace(tzinfo=UTC)
    assert wire.expiry(None, last, NOW) == last


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("5", 5),
        (" 2.5 ", 2.5),
        ("0", 0),
        ("-5", 0),
        ("99999999", 3600),
        ("Sun, 01 Nov 2026 00:00:30 GMT", 30),
        ("Sun, 01 Nov 2026 01:00:30 +0100", 30),
        ("Sun, 01 Nov 2015 00:00:00 GMT", 0),
        ("Sun, 01 Nov 2099 00:00:00 GMT", 3600),
        ("Sun, 01 Nov 2026 00:00:30 -0000", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    """A number of seconds or an HTTP date, never negative and never more than an hour."""
    assert wire.retry_after_seconds(header, NOW) == seconds


@settings(deadline=None)
@given(st.text())
def test_any_retry_after_is_seconds_or_nothing(header: str) -> None:
    """Whatever the header holds, it is a bounded wait or none."""
    found = wire.retry_after_seconds(header, datetime.now(timezone(timedelta(hours=3))))
    assert found is None or 0 <= found <= 3600


# --- Values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("a fox", "a fox"),
        ("half \ud800", "half ?"),
        (True, True),
        (5, 5),
        (2.5, 2.5),
        (1e999, None),
        (float("nan"), None),
        (10**400, None),
        (None, None),
        ({"a": 1}, None),
        (["a", None, [], {"a": 1}, [5, None]], ["a", [5]]),
    ],
)
def test_what_any_file_can_keep(value: object, kept: object) -> None:
    """Texts, numbers, switches and lists of them are kept, made whole; anything else is not."""
    assert wire.plain(value) == kept
