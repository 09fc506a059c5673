"""Callbacks: what they say, who said it, and tokens in their address."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_mj_async.errors import BadSignature, ConfigError, StaleTimestamp, WebhookError
from kie_mj_async.requests import is_http_url
from kie_mj_async.rules.callbacks import (
    SIGNATURE,
    TIMESTAMP,
    Callback,
    new_token,
    parse,
    signature,
    token_of,
    tokens_of,
    verify,
    with_token,
)

KEY = "webhook-key-0123456789"
NOW = 1_760_000_000.0
TASK = "9f47c52047dda21bb3df0488736cce57"
URLS = ("https://cdn.test/1.jpeg", "https://cdn.test/2.jpeg")

SUCCESS = {
    "code": 200,
    "msg": "success",
    "data": {"taskId": TASK, "promptJson": '{"prompt":"a fox"}', "resultUrls": list(URLS)},
}
FAILURE = {
    "code": 500,
    "msg": "Image generation failed",
    "data": {"taskId": TASK, "resultUrls": []},
}
INFO: dict[str, Any] = {"resultUrls": [{"resultUrl": url} for url in URLS]}


def extended(flag: object, info: object = None, code: object = 200, **more: object) -> object:
    """A video extend's callback."""
    data = {"taskId": TASK, "successFlag": flag, "resultInfoJson": info, **more}
    return {"code": code, "msg": "success", "data": data}


def as_body(told: object) -> bytes:
    return json.dumps(told).encode()


def headers(task_id: str = TASK, at: float | str = NOW, key: str | bytes = KEY) -> dict[str, str]:
    """As the service signs."""
    timestamp = at if isinstance(at, str) else str(int(at))
    return {TIMESTAMP: timestamp, SIGNATURE: signature(key, task_id, timestamp)}


@pytest.mark.parametrize(
    ("told", "callback"),
    [
        (SUCCESS, Callback(TASK, 200, True, URLS)),
        (FAILURE, Callback(TASK, 500, False)),
        (extended(1, INFO), Callback(TASK, 200, True, URLS)),
        (extended("1", json.dumps(INFO)), Callback(TASK, 200, True, URLS)),
        (extended(1, None), Callback(TASK, 200, True)),
        (extended(2, None, 200, errorCode="500"), Callback(TASK, 200, False)),
        (extended(3, None, "501", errorCode="501"), Callback(TASK, 501, False)),
        (extended(1, None, 500), Callback(TASK, 500, False)),
        (extended(0, None), Callback(TASK, 200, None)),
        (extended(9, None), Callback(TASK, 200, None)),
        ({"code": "200", "data": {"task_id": "mj_task_abc123"}}, Callback("mj_task_abc123", 200, True)),
        ({"code": 200, "data": {"taskId": None, "task_id": TASK}}, Callback(TASK, 200, True)),
        ({"code": 200, "data": {"taskId": 12345}}, Callback("12345", 200, True)),
        ({"taskId": TASK, "successFlag": 1, "resultUrls": list(URLS)}, Callback(TASK, None, True, URLS)),
        ({"taskId": TASK}, Callback(TASK, None, None)),
    ],
)  # fmt: skip
def test_every_documented_shape_is_read(told: object, callback: Callback) -> None:
    """Success, failure and video extend, with either spelling of the id, as numbers or texts."""
    assert parse(as_body(told)) == callback


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"\xff\xfe\xfd",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"code":200,"data":null}',
        b'{"code":200,"data":[]}',
        b'{"code":200,"data":{"taskId":""}}',
        b'{"code":200,"data":{"taskId":true}}',
        b'{"code":200,"data":{"taskId":{}}}',
        b'{"code":200,"data":{"taskId":"../../etc/passwd"}}',
        b'{"code":200,"data":{"taskId":"a\\nb"}}',
        b'{"code":200,"data":{"taskId":"\\ud800"}}',
        b'{"code":200,"data":{"taskId":"' + b"a" * 201 + b'"}}',
        b'{"taskId":' + b"9" * 5000 + b"}",
        b"[" * 60_000,
        b'{"data":' * 8_000,
    ],
    ids=lambda body: body[:40],
)
def test_what_is_no_callback(body: bytes) -> None:
    """Hostile and foolish bodies are one kind of error, which does not repeat them."""
    with pytest.raises(WebhookError) as caught:
        parse(body)
    assert type(caught.value) is WebhookError
    assert len(str(caught.value)) < 60


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["taskId", "task_id", "code", "successFlag", "resultUrls", "resultInfoJson", "data",
     "errorCode", "paramJson", "createTime"],
)  # fmt: skip
TOLD = st.dictionaries(NAMES, VALUES | st.sampled_from([TASK, 1, "1", 200, INFO, json.dumps(INFO)]))


@given(
    st.binary() | TOLD.map(as_body) | TOLD.map(lambda data: as_body({"code": 200, "data": data}))
)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """Whatever comes is a callback with usable values, or a WebhookError."""
    try:
        callback = parse(body)
    except WebhookError:
        return
    assert callback.task_id.isprintable()
    assert callback.succeeded in (True, False, None)
    assert all(is_http_url(url) for url in callback.urls)


def test_the_signature_is_the_documented_one() -> None:
    """Base64 of HMAC-SHA256 over "id.timestamp", as computed elsewhere (openssl)."""
    expected = "Rjs/ZtSuJxso8+nuj+jz5l+VjfFG4JImOS0M7UDACr0="
    assert signature("secret", "task", "1700000000") == expected
    assert signature(b"secret", "task", "1700000000") == expected


@pytest.mark.parametrize("told", [SUCCESS, FAILURE, extended(1, INFO)])
def test_a_signed_callback_is_believed(told: object) -> None:
    """What the service signed with the account's key is read."""
    assert verify(as_body(told), headers(), KEY, NOW) == parse(as_body(told))


@pytest.mark.parametrize("change", [str.lower, str.upper, str.title])
def test_header_names_have_any_case(change: Any) -> None:
    """HTTP's header names know no case, and frameworks hand them on in any."""
    sent = {change(name): value for name, value in headers().items()}
    assert verify(as_body(SUCCESS), sent, KEY, NOW).task_id == TASK


@pytest.mark.parametrize("off", [0, 299, 300, -299, -300])
def test_inside_the_window(off: float) -> None:
    """A timestamp may be off by the window, to either side."""
    assert verify(as_body(SUCCESS), headers(at=NOW - off), KEY, NOW)


@pytest.mark.parametrize(
    ("off", "words"),
    [(301, "301 s ago"), (-301, "301 s in the future"), (NOW, "s ago"), (-NOW, "in the future")],
)
def test_outside_the_window(off: float, words: str) -> None:
    """Old signatures cannot be used again, and future ones not be kept for later."""
    with pytest.raises(StaleTimestamp, match=words) as caught:
        verify(as_body(SUCCESS), headers(at=NOW - off), KEY, NOW)
    assert caught.value.task_id == TASK


def test_the_window_is_a_setting() -> None:
    """Another window is kept to the second."""
    assert verify(as_body(SUCCESS), headers(at=NOW - 20), KEY, NOW, window=20)
    with pytest.raises(StaleTimestamp):
        verify(as_body(SUCCESS), headers(at=NOW - 21), KEY, NOW, window=20)


def test_milliseconds_are_understood() -> None:
    """A timestamp in milliseconds is one, and its window is the same."""
    assert verify(as_body(SUCCESS), headers(at=str(int(NOW * 1000))), KEY, NOW)
    with pytest.raises(StaleTimestamp):
        verify(as_body(SUCCESS), headers(at=str(int((NOW - 301) * 1000))), KEY, NOW)


@pytest.mark.parametrize("timestamp", ["", "soon", "1e9", "\u0661\u0667", "9" * 17, "1700000000.5"])
def test_a_timestamp_that_is_none(timestamp: str) -> None:
    """Signed or not, what is no number of seconds cannot be recent."""
    with pytest.raises(StaleTimestamp, match="not a number of seconds"):
        verify(as_body(SUCCESS), headers(at=timestamp), KEY, NOW)


FORGERIES = [
    headers(key="another key"),
    headers(task_id="another"),
    {**headers(), TIMESTAMP: str(int(NOW) + 1)},
    {**headers(), SIGNATURE: ""},
    {**headers(), SIGNATURE: "ä" * 44},
    {**headers(), SIGNATURE: "\udcff"},
    {**headers(), SIGNATURE: headers()[SIGNATURE][:-1]},
    {**headers(), SIGNATURE: headers()[SIGNATURE].swapcase()},
    {SIGNATURE: headers()[SIGNATURE]},
    {TIMESTAMP: headers()[TIMESTAMP]},
    {**headers(), SIGNATURE.lower(): "another"},
    {},
]


@pytest.mark.parametrize("sent", FORGERIES)
def test_a_forged_callback(sent: dict[str, str]) -> None:
    """Another key, id or time, none at all, or two of them: not the service's."""
    with pytest.raises(BadSignature) as caught:
        verify(as_body(SUCCESS), sent, KEY, NOW)
    assert KEY not in str(caught.value)


def test_a_forged_old_callback_is_forged() -> None:
    """Only what the service did sign can be stale."""
    with pytest.raises(BadSignature):
        verify(as_body(SUCCESS), headers(at=0, key="another"), KEY, NOW)


@given(st.binary(max_size=64), st.dictionaries(st.sampled_from([TIMESTAMP, SIGNATURE]), st.text()))
def test_no_bytes_and_no_headers_get_through(body: bytes, sent: dict[str, str]) -> None:
    """Without the key there is nothing but WebhookErrors."""
    with pytest.raises(WebhookError):
        verify(body, sent, KEY, NOW)
    with pytest.raises(BadSignature):
        verify(as_body(SUCCESS), sent, KEY, NOW)


@pytest.mark.parametrize("key", ["", b""])
def test_an_empty_key_is_no_key(key: str | bytes) -> None:
    """With an empty key anybody could sign."""
    with pytest.raises(ConfigError, match="KIE_WEBHOOK_KEY"):
        signature(key, TASK, "1")


TOKENS = st.binary(min_size=16, max_size=16).map(new_token)
PARTS = st.text("abckmj=%20/?.&", max_size=12)
ADDRESSES = st.builds(
    "https://me.test:8080/{}?{}".format,
    st.text("abc/=._~", max_size=8),
    PARTS.filter(lambda part: "kmj=" not in part),
) | st.sampled_from(["https://me.test", "https://me.test/", "http://[::1]/a", "https://me.test/a?"])


@given(TOKENS, ADDRESSES)
def test_a_token_is_found_again(token: str, address: str) -> None:
    """In the whole address, and in its query alone; the user's own query stays as it was."""
    sent = with_token(address, token)
    assert sent.startswith(address.removesuffix("?"))
    assert is_http_url(sent)
    assert token_of(sent) == token
    assert token_of(sent.partition("?")[2]) == token
    assert token_of(address) is None


@given(TOKENS, TOKENS, ADDRESSES)
def test_the_last_token_counts(old: str, new: str, address: str) -> None:
    """An address that carries a receiver's own token takes each attempt's token too."""
    both = with_token(with_token(address, old), new)
    assert tokens_of(both) == [old, new]
    assert token_of(both) == new


def test_tokens_differ_as_chance_does() -> None:
    """A token is all of its 128 bits, and small letters: addresses are copied by all kinds of tools."""
    assert new_token(bytes(range(16))) == "000102030405060708090a0b0c0d0e0f"
    with pytest.raises(ValueError, match="16 bytes"):
        new_token(b"short")


def test_a_fragment_stays_behind() -> None:
    """A query comes before a fragment, or it would never be sent."""
    token = new_token(bytes(16))
    assert with_token("https://me.test/a?b=1#c", token) == f"https://me.test/a?b=1&kmj={token}#c"
    assert token_of(f"https://me.test/a?b=1&kmj={token}#c") == token


@pytest.mark.parametrize(
    "text", ["", "kmj=", "kmj=short", "kmj=" + "A" * 32, "kmj=" + "a" * 33, "xkmj=" + "a" * 32,
             "a=kmj=" + "a" * 32, "https://me.test/kmj=" + "a" * 32],
)  # fmt: skip
def test_what_is_no_token(text: str) -> None:
    """Another length, other letters, another parameter."""
    assert token_of(text) is None
    with pytest.raises(ValueError, match="not a token"):
        with_token("https://me.test", text)
