"""What comes over the wire: every known shape of an answer to a value.

Reads every form that kie-api.md lists. Whatever comes in, a reader here gives a value or raises a
:class:`~kie_mj_async.errors.KieError`. What is sent is made in ``bodies.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, Final

import attrs

from ..errors import (
    ApiError,
    AuthenticationError,
    FeatureDisabled,
    InsufficientCredits,
    InvalidRequest,
    KieError,
    Maintenance,
    MalformedReply,
    NotFound,
    RateLimited,
    ServerError,
)
from ..requests import is_http_url

RECORD_INFO: Final = "/api/v1/mj/record-info"
CREDITS: Final = "/api/v1/chat/credit"
DOWNLOAD_URL: Final = "/api/v1/common/download-url"

RETENTION: Final = timedelta(days=14)
"""How long the service stores a result (kie-api.md, "Limits, prices, retention")."""

MAX_RETRY_AFTER: Final = 3600.0
"""Seconds a ``Retry-After`` may ask for; every wait of ours ends."""

_CODE_ERRORS: Final[Mapping[int, type[ApiError]]] = {
    401: AuthenticationError,
    402: InsufficientCredits,
    404: NotFound,
    429: RateLimited,
    455: Maintenance,
    505: FeatureDisabled,
}


@attrs.frozen
class Reply:
    """An HTTP answer, read whole.

    Attributes:
        status: The HTTP status.
        body: The body, as it came.
        retry_after: Seconds from a ``Retry-After`` header, or ``None``.
    """

    status: int
    body: bytes
    retry_after: float | None = None


class Status(Enum):
    """What a record says of its task."""

    GENERATING = "generating"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    NO_LINKS = "success without links"
    """Met in the field: not an error yet, look again."""
    UNKNOWN = "unknown"
    """A flag nobody has described: not a verdict, look again."""


@attrs.frozen
class Record:
    """A task as record-info tells it.

    Attributes:
        task_id: Its id, where the answer names it.
        status: What became of it.
        flag: The raw ``successFlag``.
        urls: Links to its results.
        created_at: When it was made (UTC).
        completed_at: When it ended (UTC).
        task_type: The service's name of its type.
        params: The parameters it was made with.
        error_code: The service's code of its failure, as a string.
        error_message: The service's words for it.
    """

    task_id: str | None
    status: Status
    flag: Any = None
    urls: tuple[str, ...] = ()
    created_at: datetime | None = None
    completed_at: datetime | None = None
    task_type: str | None = None
    params: Mapping[str, Any] = attrs.field(factory=dict)
    error_code: str | None = None
    error_message: str | None = None


def read_data(reply: Reply) -> Any:
    """The ``data`` of a successful envelope.

    Raises:
        ApiError: The envelope's code, or the bare HTTP status, is not success.
        InvalidRequest: Code 400 or 422.
        MalformedReply: No envelope.
    """
    body = _load(reply)
    if not isinstance(body, dict) or "code" not in body:
        raise _no_envelope(reply)
    return _open(body, reply)


def read_task_id(reply: Reply) -> str:
    """The id from a create's answer.

    Raises:
        ApiError: The answer is not success.
        InvalidRequest: Code 400 or 422.
        MalformedReply: Success without an id.
    """
    data = read_data(reply)
    found = data.get("taskId") or data.get("task_id") if isinstance(data, dict) else None
    if isinstance(found, int) and not isinstance(found, bool):
        found = str(found)
    if (
        isinstance(found, str)
        and found.strip()
        and len(found) <= 200
        and found == whole_text(found)
    ):
        return found.strip()
    message = f"the service answered success without a task id: {_excerpt(reply.body)}"
    raise MalformedReply(message, status=reply.status)


def read_record(reply: Reply, task_id: str) -> Record:
    """The record of a task, in either documented shape or a mix of them.

    Raises:
        NotFound: The service knows no such task (404, or 422 ``recordInfo is null``).
        ApiError: The answer is not success.
        MalformedReply: The answer is no record, or one of another task.
    """
    body = _load(reply)
    if not isinstance(body, dict):
        raise _no_envelope(reply)
    if "code" in body:
        try:
            data = _open(body, reply)
        except InvalidRequest as error:
            message = f"task {task_id}: the service knows no such task ({error})"
            raise NotFound(message, code=error.code, status=reply.status, task_id=task_id) from None
    else:
        data = body.get("data", body)
        if reply.status != 200:
            raise _no_envelope(reply)
    data = _decoded(data)
    if data is None:
        raise NotFound(f"task {task_id}: no record", code=200, status=200, task_id=task_id)
    if not isinstance(data, dict) or not {"successFlag", "taskId"} & data.keys():
        message = f"task {task_id}: not a record: {_excerpt(reply.body)}"
        raise MalformedReply(message, status=reply.status, task_id=task_id)
    named = data.get("taskId")
    if named is not None and str(named) != task_id:
        other = whole_text(str(named)[:80])
        message = f"task {task_id}: the service answered with the record of task {other}"
        raise MalformedReply(message, status=reply.status, task_id=task_id)
    return record_of(data)


def read_credits(reply: Reply) -> float:
    """The credits left.

    Raises:
        ApiError: The answer is not success.
        MalformedReply: It holds no number.
    """
    data = read_data(reply)
    left = _number(data)
    if left is None:
        message = f"the balance is not a number: {_excerpt(reply.body)}"
        raise MalformedReply(message, status=reply.status)
    return left


def read_download_url(reply: Reply) -> str:
    """A fresh link, valid for 20 minutes.

    Raises:
        ApiError: The answer is not success.
        InvalidRequest: The service does not know the link (422).
        MalformedReply: It holds no link.
    """
    data = read_data(reply)
    if not is_http_url(data):
        raise MalformedReply(f"not a link: {_excerpt(reply.body)}", status=reply.status)
    return str(data)


def expiry(created_at: datetime | None, completed_at: datetime | None, now: datetime) -> datetime:
    """When a result is deleted: completion (else creation, else now) plus 14 days."""
    start = completed_at or created_at or now
    try:
        return start + RETENTION
    except OverflowError:
        return start


def api_error(code: int | None, message: str, reply: Reply, task_id: str | None = None) -> KieError:
    """The error that a code means; the HTTP status where there is no code."""
    meaning = reply.status if code is None else code
    words = message or "no message"
    if meaning in (400, 422):
        said = f"the service refused the request (code {meaning}): {words}"
        return InvalidRequest(said, code=meaning, task_id=task_id)
    kind = _CODE_ERRORS.get(meaning)
    if kind is None:
        kind = ServerError if 500 <= meaning <= 599 else ApiError
    return kind(
        f"{words} (code {meaning})",
        code=code,
        status=reply.status,
        retry_after=reply.retry_after,
        task_id=task_id,
    )


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """A ``Retry-After`` header as seconds: a number or an HTTP date; ``None`` if unreadable."""
    if header is None:
        return None
    seconds = _number(header)
    if seconds is None:
        try:
            seconds = (parsedate_to_datetime(header) - now).total_seconds()
        except (TypeError, ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def envelope_code(reply: Reply) -> int | None:
    """The envelope's code, or ``None`` where there is no envelope or its code is no number."""
    try:
        body = _load(reply)
    except KieError:
        return None
    return _whole(body.get("code")) if isinstance(body, dict) else None


def _load(reply: Reply) -> Any:
    try:
        return json.loads(reply.body)
    except (ValueError, RecursionError):
        raise _no_envelope(reply) from None


def _no_envelope(reply: Reply) -> KieError:
    """What an answer without an envelope means: its HTTP status, or that it is malformed."""
    if reply.status >= 400:
        return api_error(None, f"HTTP {reply.status}: {_excerpt(reply.body)}", reply)
    message = f"not the promised JSON (HTTP {reply.status}): {_excerpt(reply.body)}"
    return MalformedReply(message, status=reply.status, retry_after=reply.retry_after)


def _open(body: dict[str, Any], reply: Reply) -> Any:
    code = _whole(body["code"])
    if code is None:
        raise MalformedReply(f"no readable code: {_excerpt(reply.body)}", status=reply.status)
    if code == 200:
        return body.get("data")
    message = body.get("msg", body.get("message"))
    words = whole_text(message[:500]) if isinstance(message, str) else ""
    raise api_error(code, words, reply)


def record_of(data: dict[str, Any]) -> Record:
    """The ``data`` of a record, or of a callback, which tells the same facts."""
    urls = _urls(data.get("resultInfoJson")) or _urls(data.get("resultUrls"))
    flag = data.get("successFlag")
    match _whole(flag):
        case 0:
            status = Status.GENERATING
        case 1:
            status = Status.SUCCEEDED if urls else Status.NO_LINKS
        case 2 | 3:
            status = Status.FAILED
        case _:
            status = Status.UNKNOWN
    params = _decoded(data.get("paramJson"))
    return Record(
        task_id=_text(data.get("taskId")),
        status=status,
        flag=flag,
        urls=urls,
        created_at=_time(data.get("createTime")),
        completed_at=_time(data.get("completeTime")),
        task_type=_text(data.get("taskType")),
        params=params if isinstance(params, dict) else {},
        error_code=_text(data.get("errorCode")),
        error_message=_text(data.get("errorMessage")),
    )


def _urls(info: Any) -> tuple[str, ...]:
    """Links from a list of strings or of objects, bare, wrapped, or as a JSON string."""
    info = _decoded(info)
    if isinstance(info, dict):
        info = _decoded(info.get("resultUrls"))
    if not isinstance(info, list):
        return ()
    found = (one.get("resultUrl") if isinstance(one, dict) else one for one in info)
    return tuple(one for one in found if isinstance(one, str) and is_http_url(one))


def _decoded(value: Any) -> Any:
    """JSON that came inside a string, opened; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return whole_text(value) or None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return None


def whole_text(value: str) -> str:
    """Without half characters (lone surrogates), which no log and no ledger could write."""
    return value.encode(errors="replace").decode()


def plain(value: Any) -> str | int | float | bool | list[Any] | None:
    """A scalar or a list of scalars as any file can keep it; ``None`` for anything else."""
    if isinstance(value, list):
        return [one for one in map(plain, value) if one is not None and one != []]
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and _number(value) is not None:
        return value
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < float("inf") else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None


def _time(value: Any) -> datetime | None:
    """Epoch milliseconds (or seconds) or ISO-8601 to an aware UTC time; ``None`` if unreadable.

    A "never", such as 0001-01-01 or 9999-12-31, is no time either: a result would seem expired.
    """
    number = _number(value)
    try:
        if number is not None:
            if number <= 0:
                return None
            # 1e11 seconds lie in the year 5138; 1e11 milliseconds in 1973.
            moment = datetime.fromtimestamp(number / 1000 if number > 1e11 else number, UTC)
        elif isinstance(value, str):
            moment = datetime.fromisoformat(value.strip())
        else:
            return None
        moment = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment if 1970 <= moment.year < 9999 else None


def _excerpt(body: bytes) -> str:
    text = " ".join(body[:400].decode(errors="replace").split())
    return repr(text[:120]) if text else "an empty body"
