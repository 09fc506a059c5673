"""Who goes next in a run: jobs in the ledger's order, and steps whose turn has come in front of them.

A chain's steps wait in the ledger, not in memory: only those whose turn has come are held here, so a
chain costs nothing while its beginning is on its way. A job that is next or on the road is taken, so
that nobody puts it there twice, whoever finds it meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator

from ..jobs import Job, State
from ..ledger import Ledger
from ..ledger.base import jobs_in
from ..requests import ChainStep
from ..rules import chains


class Followers:
    """Who goes next.

    Args:
        ledger: Where the jobs are.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._next: deque[Job] = deque()
        self._taken: set[str] = set()
        self._had: set[str] | None = None
        self._chains = False
        self._run: int | None = None

    async def open(self, run: int | None) -> None:
        """Look whether there are chains at all.

        Args:
            run: The run whose list is being worked on: steps that left the list stay where they are;
                ``None`` for all that the ledger holds.
        """
        self._chains = await self._ledger.has_chains()
        self._run = run

    @property
    def any_taken(self) -> bool:
        """Whether any job is next or on the road."""
        return bool(self._taken)

    def push(self, job: Job) -> bool:
        """Put a job in front of those that no run has begun, unless it is taken."""
        if job.key in self._taken:
            return False
        self._take(job.key)
        self._next.append(job)
        return True

    def pop(self) -> Job | None:
        """The next one, if there is any."""
        return self._next.popleft() if self._next else None

    def release(self, job: Job) -> None:
        """A job has left the road."""
        self._taken.discard(job.key)

    def _take(self, key: str) -> None:
        self._taken.add(key)
        if self._had is not None:
            self._had.add(key)

    def planned(self) -> AsyncGenerator[Job, None]:
        """The planned jobs of the run, as the ledger lists them.

        Whoever moves one of them on has taken it; so who was not taken since its page was read is
        still as it was listed, and :meth:`turn_of` need not ask.
        """
        return jobs_in(self._ledger, State.PLANNED, self._run, self._begin_page)

    def _begin_page(self) -> None:
        self._had = set(self._taken)

    async def turn_of(self, job: Job) -> Job | None:
        """Take a job that the ledger lists.

        Args:
            job: The job as it was listed; a planned one by :meth:`planned`, if that was ever begun.

        Returns:
            The job as it is; ``None`` if it is taken, has moved on since, or waits for the job before
            it, which brings it along when it ends.
        """
        if job.state is State.PLANNED and not await self._may_go(job):
            return None
        if job.state is not State.PLANNED or self._had is None or job.key in self._had:
            fresh = await self._ledger.get(job.key)
            if fresh is None or fresh.state is not job.state or fresh.key in self._taken:
                return None
            job = fresh
        self._take(job.key)
        return job

    async def ended(self, job: Job) -> list[tuple[Job, Job]]:
        """A job of the run has come as far as it does: bring those behind it, if they can go on.

        Returns:
            Those that cannot in this run, each with the job it waits for.
        """
        if not self._chains:
            return []
        before = await self._ledger.get(job.key) or job
        if before.state in chains.READY | chains.HOPELESS:
            for child in await self._planned_behind(before):
                self.push(child)
            return []
        return [] if before.state is State.PLANNED else await self.stuck_behind(before)

    async def stuck_behind(self, job: Job) -> list[tuple[Job, Job]]:
        """The steps behind a job that this run does not go on with, each with what it waits for."""
        found: list[tuple[Job, Job]] = []
        left = [job] if self._chains else []
        while left:
            before = left.pop()
            for child in await self._planned_behind(before):
                found.append((child, before))
                left.append(child)
        return found

    async def _planned_behind(self, job: Job) -> list[Job]:
        behind = await self._ledger.children(job.key, self._run)
        return [child for child in behind if child.state is State.PLANNED]

    async def _may_go(self, job: Job) -> bool:
        """Whether the job before a planned one has ended, if there is one."""
        if not isinstance(job.request, ChainStep):
            return True
        before = await self._ledger.get(job.request.parent)
        return before is None or before.state in chains.READY | chains.HOPELESS
