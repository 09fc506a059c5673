"""The laws, watched: every create counted, every move of the ledger, every file kept."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, Final

from kie_mj_async.jobs import Job, SavedFile, State
from kie_mj_async.requests import ExistingTask
from kie_mj_async.rules.lifecycle import AT_RISK, Event, Move
from kie_mj_async.rules.pacing import Slot

if TYPE_CHECKING:
    from .world import Task, World

GONE: Final = "gone:0"
"""The owner of slots whose process was killed."""

_ROUNDING: Final = 1e-6
_WORD_OF_THE_USER: Final = (Event.RETRIED, Event.ABANDONED, Event.ADOPTED)
_DONE: Final = frozenset({State.SAVED, State.FAILED, State.EXPIRED, State.ABANDONED})


class Broken(BaseException):
    """A law does not hold. No handler of the engine may swallow it."""


class Laws:
    """Watches one world.

    Attributes:
        broken: What was found, in words.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.broken: list[str] = []
        self._posts: deque[float] = deque()
        self._allowed: Counter[str] = Counter()
        self._accepted: Counter[str] = Counter()
        self._unknown: dict[str, list[Task]] = defaultdict(list)
        self._running: dict[str, Task] = {}
        self._besides: set[int] = set()
        self._spent: Counter[int] = Counter()
        self._refunds: list[tuple[float, int, int]] = []
        self._last_forward_jump = -1.0

    def fail(self, law: str) -> Broken:
        """Note that a law is broken."""
        self.broken.append(law)
        self._world.note(f"BROKEN: {law}")
        return Broken(law)

    def clock_went_forward(self) -> None:
        """After a forward jump nobody can tell how old a lost create of an earlier life is."""
        self._last_forward_jump = self._world.now

    # --- The service's side ----------------------------------------------------------------------

    def posting(self, job: Job | None) -> None:
        """A create is about to be written."""
        if job is None or job.state is not State.SUBMITTING:
            state = job.state if job else "unheard of"
            raise self.fail(f"a create is sent while its job is {state}: its intent is not durable")

    def counted(self) -> None:
        """The service counts a create of ours."""
        now, posts = self._world.now, self._posts
        while posts and posts[0] <= now - 10.0:
            posts.popleft()
        posts.append(now)
        if len(posts) > 20:
            raise self.fail(f"{len(posts)} creates within 10 s")

    def charged(self, task: Task) -> None:
        """The service accepts a create of ours, and charges it."""
        name = task.name
        self._accepted[name] += 1
        self._unknown[name].append(task)
        if self._accepted[name] > 1 + self._allowed[name]:
            raise self.fail(f"{name} is paid {self._accepted[name]} times")
        self._count_running(task)
        self._check_cap(task)

    def _count_running(self, task: Task) -> None:
        world, running = self._world, self._running
        running[task.id] = task
        for one in [one for one in running.values() if one.ends <= world.now]:
            del running[one.id]
        ours = sum(1 for one in running.values() if self._counts(one))
        world.figures["most running"] = max(world.figures["most running"], ours)
        if ours > world.script.in_flight:
            raise self.fail(f"{ours} tasks run, {world.script.in_flight} may")

    def _counts(self, task: Task) -> bool:
        if task.let_go:
            return False
        lost = not task.known and task.life != self._world.life
        return not (lost and self._last_forward_jump >= task.born - 60)

    def _check_cap(self, task: Task) -> None:
        world = self._world
        self._spent[task.life] += int(task.price)
        if task.fails:
            heapq.heappush(self._refunds, (task.ends, int(task.price), task.life))
        while self._refunds and self._refunds[0][0] <= world.now:
            _, price, life = heapq.heappop(self._refunds)
            self._spent[life] -= price
        if world.cap is not None and self._spent[task.life] > world.cap + _ROUNDING:
            spent = self._spent[task.life]
            raise self.fail(f"life {task.life} has spent {spent} credits of {world.cap:g}")

    # --- The program's side ----------------------------------------------------------------------

    def granted(self, running: int, cap: int, committed: float) -> None:
        """The gate lets a create through."""
        if running > min(cap, self._world.script.in_flight):
            raise self.fail(f"{running} in flight, and the gate's cap is {cap}")
        allowed = self._world.cap
        if allowed is not None and committed > allowed + _ROUNDING:
            raise self.fail(f"{committed:g} credits committed of {allowed:g}")

    def moved(self, before: Job, move: Move, after: Job, *, by_user: bool) -> None:
        """The ledger has taken a move."""
        name, event = self._world.name(after), move.event
        # One that was paid besides is about a task that is known, however often it is retried.
        besides = after.seq in self._besides
        if event in _WORD_OF_THE_USER and not besides:
            self._decided(before, move, by_user=by_user)
        if event in (Event.ACCEPTED, Event.ADOPTED) and not besides:
            self._learned(after)
        if isinstance(after.request, ExistingTask):
            self._besides.add(after.seq)
        elif after.state not in AT_RISK:
            lost = [one.id for one in self._unknown.get(name, ()) if not one.let_go]
            if lost:
                raise self.fail(f"{name} is {after.state}, and nobody knows its task {lost[0]}")
        if event in (Event.SUCCEEDED, Event.FAILED, Event.EXPIRED):
            self._ended(after, event)
        if event is Event.SAVED:
            self._saved(after)

    def _decided(self, before: Job, move: Move, *, by_user: bool) -> None:
        event, name = move.event, self._world.name(before)
        if event is Event.ADOPTED:
            if not by_user and move.token is None:
                raise self.fail(f"{name} is given a task without anybody's word")
            return
        ahead = self._world.script.on_unknown == "repeat" and before.state is State.UNRESOLVED
        if not by_user and not (event is Event.RETRIED and ahead):
            raise self.fail(f"{name} is {event} without the user's word")
        if event is Event.RETRIED:
            self._allowed[name] += 1
        for task in self._unknown.get(name, ()):
            task.let_go = True

    def _learned(self, after: Job) -> None:
        name = self._world.name(after)
        task = self._world.tasks.get(after.task_id or "")
        if task is None or task.name != name:
            raise self.fail(f"{name} is given the task {after.task_id}, not its own")
        if task.known:
            raise self.fail(f"{name} is given the task {task.id}, which is known")
        task.known = True
        self._unknown[name] = [one for one in self._unknown[name] if one is not task]

    def _ended(self, after: Job, event: Event) -> None:
        world = self._world
        task = world.tasks[after.task_id or ""]
        over = world.now >= task.ends
        truth = {
            Event.SUCCEEDED: over and not task.fails,
            Event.FAILED: over and task.fails,
            # Deleted, or links refused at a time when the machine's clock says that it is.
            Event.EXPIRED: world.gone(task)
            or (after.expires_at is not None and world.wall() >= after.expires_at.timestamp()),
        }
        if not truth[event]:
            raise self.fail(f"{world.name(after)} is {event}, and its task {task.id} is not")

    def kept(self, job: Job, file: SavedFile) -> None:
        """The ledger is about to call a file saved."""
        if self._world.files.get(file.path) != content(job.task_id or "", file.index):
            name = self._world.name(job)
            raise self.fail(f"{name}: {file.path} is called saved and is not that result")

    def _saved(self, after: Job) -> None:
        task = self._world.tasks[after.task_id or ""]
        if [one.index for one in after.files] != list(range(task.files)):
            name = self._world.name(after)
            raise self.fail(f"{name} is saved with {len(after.files)} of {task.files} files")
        for file in after.files:
            self.kept(after, file)

    # --- Ends ------------------------------------------------------------------------------------

    async def after_life(self, *, graceful: bool, ledger_failed: bool) -> None:
        """A life of the program is over."""
        world = self._world
        if not graceful:
            return
        if open_slots := sum(_open(one) for one in world.slots.slots):
            raise self.fail(f"{open_slots} slots are left open by a run that ended in order")
        submitting = (await world.store.counts())[State.SUBMITTING]
        if submitting and not ledger_failed:
            raise self.fail(f"{submitting} creates are cut in two by a run that ended in order")

    async def at_the_end(self) -> None:
        """The world has been calm and every decision is made."""
        world = self._world
        jobs = await world.store.scan(0, 10**9)
        listed = {job.key for job in jobs if not isinstance(job.request, ExistingTask)}
        if listed != world.names.keys():
            raise self.fail(f"{len(listed)} jobs in the ledger of {len(world.names)}")
        world.figures["paid besides"] = len(jobs) - len(listed)
        spent: Counter[str] = Counter()
        for job in jobs:
            spent[world.name(job)] += round(job.credits)
            if job.state not in _DONE:
                raise self.fail(f"{world.name(job)} is {job.state} at the end")
        current = {job.task_id: job for job in jobs if job.task_id}
        charged: Counter[str] = Counter()
        for task in world.tasks.values():
            if not task.known and not task.let_go:
                raise self.fail(f"{task.name}: the task {task.id} is lost")
            if task.known and not task.fails:
                charged[task.name] += int(task.price)
            holder = current.get(task.id)
            if holder and (holder.state is State.FAILED) is not task.fails:
                raise self.fail(f"{task.name} is {holder.state}, and its task {task.id} is not")
        for attempt in await world.store.open_hints():
            if not world.gone(world.tasks[attempt.hint or ""]):
                name = world.names[attempt.key]
                raise self.fail(f"{name}: a callback named {attempt.hint}, and nobody followed it")
        for name in world.names.values():
            if spent[name] != charged[name]:
                told = f"{spent[name]} credits in the ledger, {charged[name]} charged"
                raise self.fail(f"{name}: {told}")

    def unknown_of(self, name: str) -> list[Task]:
        """The job's tasks that the ledger does not know, and nobody has decided about."""
        return [one for one in self._unknown.get(name, ()) if not one.let_go]

    @property
    def paid_twice(self) -> int:
        """Creates that were charged without the user's word, beyond a job's first."""
        return sum(max(0, n - 1 - self._allowed[one]) for one, n in self._accepted.items())

    @property
    def lost(self) -> int:
        """Accepted tasks that nobody knows of and nobody has decided about."""
        return sum(not (one.known or one.let_go) for one in self._world.tasks.values())


def _open(slot: Slot) -> bool:
    return slot.ended_at is None and slot.owner != GONE


def content(task_id: str, index: int) -> str:
    """What a complete file of this result holds."""
    return f"result {index} of task {task_id}, to its last byte"
