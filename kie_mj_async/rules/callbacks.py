"""Callbacks: what the service says when a task has ended, and whether it was the service that said it.

A callback is a hint (kie-api.md, "Callbacks"): it can repeat, come late, or not at all, and its
signature covers only the task's id and the time. So what it tells is good for one thing: to look at
the task's record sooner. Nothing in it is taken for a result.

Two things can authenticate one. The account's webhook key signs it (:func:`verify`). Without such a
key it is a random token in the address that only the service was given (:func:`with_token`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from ..errors import BadSignature, ConfigError, StaleTimestamp, WebhookError
from ..requests import TASK_ID
from ..secret import Secret
from .wire import Reply, Status, envelope_code, record_of

TIMESTAMP: Final = "X-Webhook-Timestamp"
SIGNATURE: Final = "X-Webhook-Signature"

WINDOW: Final = 300.0
"""Seconds that a signature's timestamp may differ from the present, to either side."""

TOKEN_NAME: Final = "kmj"  # noqa: S105 - a name, not a token
"""The query parameter that carries a token."""

TOKEN_BYTES: Final = 16

_TOKEN: Final = re.compile(r"[0-9a-f]{32}")
_TOKEN_IN_QUERY: Final = re.compile(rf"(?:^|[?&]){TOKEN_NAME}=([0-9a-f]{{32}})(?=[&#]|$)")
_SECONDS: Final = re.compile(r"[0-9]{1,16}")
_MILLISECONDS: Final = 10**11
"""From here on a timestamp is in milliseconds: so many seconds lie in the year 5138."""


@attrs.frozen
class Callback:
    """What a callback says. A hint: ask record-info for the truth.

    Attributes:
        task_id: The task it is about.
        code: The envelope's code, or ``None`` where there is none.
        succeeded: Whether the task ended with results; ``None`` where it does not tell.
        urls: Links to results.
    """

    task_id: str
    code: int | None = None
    succeeded: bool | None = None
    urls: tuple[str, ...] = ()


def parse(body: bytes) -> Callback:
    """Read a callback's body, in any documented shape. It proves nothing: see :func:`verify`.

    Raises:
        WebhookError: It is no callback.
    """
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise WebhookError("the callback is not JSON") from None
    data = told.get("data", told) if isinstance(told, dict) else None
    if not isinstance(data, dict):
        raise WebhookError("the callback holds no data")
    task_id = _task_id(data)
    code = envelope_code(Reply(200, body))
    record = record_of(data)
    return Callback(task_id, code, _succeeded(code, data, record.status), record.urls)


def signature(key: str | bytes, task_id: str, timestamp: str) -> str:
    """What the service signs a callback with: base64 of HMAC-SHA256 over id, dot and timestamp.

    Args:
        key: The account's webhook key.
        task_id: From the body.
        timestamp: The header's text, as it came.

    Raises:
        ConfigError: The key is empty, so that anybody could sign.
    """
    secret = key.encode(errors="surrogateescape") if isinstance(key, str) else key
    if not secret:
        raise ConfigError("the webhook key is empty; set KIE_WEBHOOK_KEY to the account's")
    signed = f"{task_id}.{timestamp}".encode(errors="replace")
    return base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()


def verify(
    body: bytes,
    headers: Mapping[str, str],
    key: str | bytes,
    now: float,
    window: float = WINDOW,
) -> Callback:
    """Read a callback that the service has signed. For any web framework.

    What the body says besides the task's id is not signed, and a signature can be used again until
    its window has passed: take the callback for a reason to look at the task, and no more.

    Args:
        body: The request's body, as it came. Read it with a cap: a callback has a few kB.
        headers: The request's headers; their names in any case.
        key: The account's webhook key.
        now: Seconds since 1970.
        window: Seconds that the timestamp may differ from ``now``, to either side.

    Raises:
        BadSignature: It is not signed, or not with this key. Answer 401.
        StaleTimestamp: It was signed too long ago, or in the future. Answer 401.
        WebhookError: The body is no callback. Answer 400.
        ConfigError: The key is empty.
    """
    secret = Secret.of(key)
    del key  # or a traceback with locals would show it
    callback = parse(body)
    timestamp, given = _only(headers, TIMESTAMP), _only(headers, SIGNATURE)
    if not _is_signature(given, secret, callback.task_id, timestamp):
        message = (
            f"task {callback.task_id}: the callback's signature does not match; if the service sent "
            "it, check KIE_WEBHOOK_KEY"
        )
        raise BadSignature(message, task_id=callback.task_id)
    off = now - _seconds(timestamp, callback.task_id)
    if not -window <= off <= window:
        when = f"{off:.0f} s ago" if off > 0 else f"{-off:.0f} s in the future"
        message = (
            f"task {callback.task_id}: the callback was signed {when}, and {window:g} s are allowed; "
            "if it is new, check this machine's clock"
        )
        raise StaleTimestamp(message, task_id=callback.task_id)
    return callback


def _is_signature(given: str, secret: Secret, task_id: str, timestamp: str) -> bool:
    return hmac.compare_digest(
        signature(secret.reveal(), task_id, timestamp).encode(),
        given.strip().encode(errors="replace"),
    )


def new_token(chance: bytes) -> str:
    """A token from 16 random bytes (128 bits), which must come from a source nobody can guess.

    Raises:
        ValueError: It is another number of bytes.
    """
    if len(chance) != TOKEN_BYTES:
        raise ValueError(f"a token takes {TOKEN_BYTES} bytes, not {len(chance)}")
    return chance.hex()


def with_token(url: str, token: str) -> str:
    """A callback's address with this token in it; the rest of the address stays as it is.

    Args:
        url: The address. A token that it has already, such as a receiver's own, stays in front.
        token: From :func:`new_token`.

    Raises:
        ValueError: It is no token.
    """
    if not _TOKEN.fullmatch(token):
        raise ValueError("not a token of new_token()")
    address, hash_, fragment = url.partition("#")
    address, _, query = address.partition("?")
    parts = query.split("&") if query else []
    return f"{address}?{'&'.join([*parts, f'{TOKEN_NAME}={token}'])}{hash_}{fragment}"


def tokens_of(address: str) -> list[str]:
    """The tokens in a callback's address, or in the query of one; the one added last is last."""
    return _TOKEN_IN_QUERY.findall(address)


def token_of(address: str) -> str | None:
    """The last token in a callback's address; ``None`` without."""
    found = tokens_of(address)
    return found[-1] if found else None


def _task_id(data: Mapping[str, Any]) -> str:
    found = data.get("taskId") or data.get("task_id")
    if isinstance(found, int) and not isinstance(found, bool):
        found = str(found)
    # Nothing else gets through: ids end up in logs, and as names of folders.
    if isinstance(found, str) and TASK_ID.fullmatch(found):
        return found
    raise WebhookError("the callback names no task")


def _succeeded(code: int | None, data: Mapping[str, Any], status: Status) -> bool | None:
    if code not in (None, 200) or status is Status.FAILED:
        return False
    if data.get("successFlag") is not None:
        return True if status in (Status.SUCCEEDED, Status.NO_LINKS) else None
    return True if code == 200 else None


def _only(headers: Mapping[str, str], name: str) -> str:
    found = [value for given, value in headers.items() if given.lower() == name.lower()]
    if len(found) != 1:
        how = "has no" if not found else "has more than one"
        raise BadSignature(f"the callback {how} {name}")
    return found[0]


def _seconds(timestamp: str, task_id: str) -> float:
    plain = timestamp.strip()
    if not _SECONDS.fullmatch(plain):
        message = f"task {task_id}: the callback's {TIMESTAMP} is not a number of seconds"
        raise StaleTimestamp(message, task_id=task_id)
    number = int(plain)
    return number / 1000 if number >= _MILLISECONDS else float(number)
