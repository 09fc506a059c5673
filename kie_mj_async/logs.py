"""Loggers whose records say what they are about: each has a batch, a job and a task id, or ``None``.

The ids are those of the work that the current asyncio task does, however deep the call, so a record can
be found by ``record.kie_job`` whatever its words are; a formatter that writes JSON shows them by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    Adapter = logging.LoggerAdapter[logging.Logger]
else:
    Adapter = logging.LoggerAdapter


@attrs.frozen
class Ids:
    """What is being worked on.

    Attributes:
        batch: The batch: its directory, or the address of its store; of a fleet, its name.
        job: The job's key.
        task_id: The service's id of its task.
    """

    batch: str | None = None
    job: str | None = None
    task_id: str | None = None


_NOTHING = Ids()
_ids: ContextVar[Ids] = ContextVar("kie_mj_async ids", default=_NOTHING)


def ids() -> Ids:
    """What the current task of the event loop works on."""
    return _ids.get()


@contextmanager
def about(
    batch: str | None = None, job: str | None = None, task_id: str | None = None
) -> Iterator[None]:
    """Let the records and events of this block, and of what it starts, be about these too."""
    before = _ids.get()
    with anew(
        before.batch if batch is None else batch,
        before.job if job is None else job,
        before.task_id if task_id is None else task_id,
    ):
        yield


@contextmanager
def anew(
    batch: str | None = None, job: str | None = None, task_id: str | None = None
) -> Iterator[None]:
    """Let the records and events of this block, and of what it starts, be about these and no other.

    For work that is asked for in the middle of other work, by a listener say, and is no part of it.
    """
    token = _ids.set(Ids(batch, job, task_id))
    try:
        yield
    finally:
        _ids.reset(token)


class _Logger(Adapter):
    """A logger that adds the ids."""

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """The same message, with the ids beside what the caller adds."""
        known = _ids.get()
        kwargs["extra"] = {
            "kie_batch": known.batch,
            "kie_job": known.job,
            "kie_task_id": known.task_id,
            **(kwargs.get("extra") or {}),
        }
        return msg, kwargs


def logger(name: str) -> Adapter:
    """The logger of a module.

    Args:
        name: The module's ``__name__``.
    """
    return _Logger(logging.getLogger(name), {})
