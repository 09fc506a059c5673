"""Every error this package raises, one tree.

::

    KieError                        .task_id, .billed = "no" | "yes" | "unknown"
    ├─ ConfigError                  no key, bad settings: before anything is sent or spent
    ├─ InvalidRequest (ValueError)  a field out of range: before any I/O; also a 400 or 422
    ├─ BudgetReached                the next job would pass ``max_credits``: it was not sent
    ├─ BatchTimedOut (TimeoutError) the batch's deadline passed; resume goes on
    ├─ TransportError
    │  ├─ NotSent                   no byte of the request was written: safe to repeat
    │  └─ ReplyLost                 written, no usable answer: the service may have accepted it
    ├─ ApiError                     .code .status .message .retry_after
    │  ├─ AuthenticationError       401
    │  ├─ InsufficientCredits       402
    │  ├─ NotFound                  404
    │  ├─ RateLimited               429
    │  ├─ Maintenance               455
    │  ├─ ServerError               500, 501 and every other 5xx
    │  ├─ FeatureDisabled           505
    │  └─ MalformedReply            not the JSON that was promised (HTML, cut off, a field missing)
    ├─ TaskError
    │  ├─ TaskFailed                the service could not make it; it is not charged
    │  ├─ TaskTimedOut (TimeoutError)  the wait ended first; the task goes on at the service
    │  └─ ResultExpired             the result is no longer stored
    ├─ DownloadError                .url
    │  ├─ IntegrityError            not the picture or video that was announced
    │  ├─ TooLarge                  more bytes than allowed
    │  └─ WriteFailed               the disk refused (full, read-only)
    ├─ LedgerError                  .path
    │  ├─ LedgerBusy                another process works on it (.pid)
    │  ├─ LedgerTooNew              written by a newer version of this package
    │  └─ WrongHost                 its tasks live at another API host
    └─ WebhookError
       ├─ BadSignature
       └─ StaleTimestamp

Errors survive pickling: each takes its message as the one positional argument and keeps the rest as
attributes.
"""

from __future__ import annotations

import errno
from typing import Any, Final, Literal

Billed = Literal["no", "yes", "unknown"]
"""Whether the credits of the task in question are gone, as far as anyone can tell."""

_NO_SPACE: Final = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def refusal(error: OSError) -> str:
    """Why the disk refused, and what to do about it."""
    words = error.strerror or type(error).__name__
    if error.errno in _NO_SPACE:
        return f"{words}; free some disk space and resume"
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return f"{words}; check the permissions of the folder"
    return words


class KieError(Exception):
    """The root of every error of this package.

    Attributes:
        task_id: The service's id of the task this is about, where there is one.
        billed: ``"no"``, ``"yes"``, or ``"unknown"`` when a paid request may have been accepted.
    """

    def __init__(
        self, message: str = "", *, task_id: str | None = None, billed: Billed = "no"
    ) -> None:
        super().__init__(message)
        self.task_id = task_id
        self.billed: Billed = billed


class ConfigError(KieError):
    """The settings cannot work (no key, an unusable value); raised before anything is spent."""


class InvalidRequest(KieError, ValueError):
    """A request that the service would refuse, or has refused (its codes 400 and 422).

    Attributes:
        field: The name of the field at fault, where one is known.
        value: What it was given.
        code: The service's code when the service refused it, else ``None``.
    """

    def __init__(
        self,
        message: str = "",
        *,
        field: str | None = None,
        value: Any = None,
        code: int | None = None,
        task_id: str | None = None,
        billed: Billed = "no",
    ) -> None:
        super().__init__(message, task_id=task_id, billed=billed)
        self.field = field
        self.value = value
        self.code = code


class BudgetReached(KieError):
    """The next job would pass the cap of ``max_credits``; it was not sent."""


class BatchTimedOut(KieError, TimeoutError):
    """The batch's deadline passed. What runs goes on at the service: resume the directory."""


class TransportError(KieError):
    """The exchange with the API host broke."""


class NotSent(TransportError):
    """No byte of the request was written: repeating it is safe."""


class ReplyLost(TransportError):
    """The request was written and no usable answer came: it may have been accepted."""


class ApiError(KieError):
    """The service answered, and not with success.

    Attributes:
        code: The envelope's code, or ``None`` where there was no envelope.
        status: The HTTP status.
        message: The service's own words.
        retry_after: Seconds the service asks to wait, or ``None``.
    """

    def __init__(
        self,
        message: str = "",
        *,
        code: int | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        task_id: str | None = None,
        billed: Billed = "no",
    ) -> None:
        super().__init__(message, task_id=task_id, billed=billed)
        self.message = message
        self.code = code
        self.status = status
        self.retry_after = retry_after


class AuthenticationError(ApiError):
    """401: the key is missing, wrong, or may not do this."""


class InsufficientCredits(ApiError):
    """402: the account has too few credits for another task."""


class NotFound(ApiError):
    """404: no such resource."""


class RateLimited(ApiError):
    """429: refused and not queued; the same request may come again later."""


class Maintenance(ApiError):
    """455: the service is being maintained; the same request may come again later."""


class ServerError(ApiError):
    """A 5xx: the service failed."""


class FeatureDisabled(ApiError):
    """505: this feature is switched off."""


class MalformedReply(ApiError):
    """An answer that is not the JSON that was promised."""


class TaskError(KieError):
    """A task did not end with a result."""


class TaskFailed(TaskError):
    """The service could not make it. Failed tasks are not charged.

    Attributes:
        error_code: The service's own code for it, as a string, or ``None``.
    """

    def __init__(
        self,
        message: str = "",
        *,
        error_code: str | None = None,
        task_id: str | None = None,
        billed: Billed = "no",
    ) -> None:
        super().__init__(message, task_id=task_id, billed=billed)
        self.error_code = error_code


class TaskTimedOut(TaskError, TimeoutError):
    """The wait's deadline passed. The task itself goes on at the service: wait again by its id."""


class ResultExpired(TaskError):
    """The result is no longer stored (14 days after completion, kie-api.md)."""


class DownloadError(KieError):
    """A result could not be saved.

    Attributes:
        url: The link it was read from.
    """

    def __init__(
        self,
        message: str = "",
        *,
        url: str | None = None,
        task_id: str | None = None,
        billed: Billed = "yes",
    ) -> None:
        super().__init__(message, task_id=task_id, billed=billed)
        self.url = url


class IntegrityError(DownloadError):
    """What came is not the complete picture or video that was announced."""


class TooLarge(DownloadError):
    """More bytes than allowed."""


class WriteFailed(DownloadError):
    """The disk refused the file."""


class LedgerError(KieError):
    """The ledger cannot be used.

    Attributes:
        path: The file.
    """

    def __init__(
        self,
        message: str = "",
        *,
        path: str | None = None,
        task_id: str | None = None,
        billed: Billed = "no",
    ) -> None:
        super().__init__(message, task_id=task_id, billed=billed)
        self.path = path


class LedgerBusy(LedgerError):
    """Another process works on this ledger.

    Attributes:
        pid: Its process id, where it is known.
    """

    def __init__(
        self,
        message: str = "",
        *,
        pid: int | None = None,
        path: str | None = None,
        task_id: str | None = None,
        billed: Billed = "no",
    ) -> None:
        super().__init__(message, path=path, task_id=task_id, billed=billed)
        self.pid = pid


class LedgerTooNew(LedgerError):
    """The ledger was written by a newer version of this package."""


class WrongHost(LedgerError):
    """The ledger's tasks live at another API host than the one in use."""


class WebhookError(KieError):
    """A callback that cannot be trusted."""


class BadSignature(WebhookError):
    """The callback's signature does not match."""


class StaleTimestamp(WebhookError):
    """The callback's timestamp is outside the replay window."""
