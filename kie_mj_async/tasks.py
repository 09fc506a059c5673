"""A task, as a user holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ResultExpired, TaskFailed
from .jobs import Generation, Job
from .progress import Left
from .settings import JOB_TIMEOUT, positive

if TYPE_CHECKING:
    from .engine.single import Singles


class Task:
    """A task at the service: one of ours, or any known by its id.

    Attributes:
        task_id: The service's id.
        job: The job it came from, where this client made it.
    """

    def __init__(self, singles: Singles, task_id: str, job: Job | None) -> None:
        self._singles = singles
        self.task_id = task_id
        self.job = job
        self._ended = False

    def __repr__(self) -> str:
        return f"Task({self.task_id!r})"

    async def wait(self, timeout: float = JOB_TIMEOUT) -> Generation:
        """Wait until it has ended.

        Args:
            timeout: Seconds to wait, counted from now; at least one look is taken.

        Raises:
            TaskFailed: The service could not make it.
            TaskTimedOut: It has not ended by then; it goes on at the service.
            ResultExpired: The service does not know it (any more).
        """
        seconds = positive("timeout", timeout)
        try:
            made = await self._singles.wait(self.task_id, self.job, seconds)
        except (TaskFailed, ResultExpired):
            self._ended = True
            raise
        self._ended = True
        return made

    @property
    def eta(self) -> Left | None:
        """Seconds until it ends, from its class and its age.

        ``.middle`` is as likely too short as too long; it ends before ``.low`` with a chance of one in
        ten, and after ``.high`` with one of one in ten. All 0 once it was seen to have ended;
        ``None`` for a task by its id alone, whose age nobody knows. Asks nobody: it comes from
        what was learned.
        """
        if self._ended:
            return Left(0.0, 0.0, 0.0)
        return self._singles.left(self.job) if self.job is not None else None
