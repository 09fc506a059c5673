"""The service in memory, and everything else that outlives a crash: ledger, window, files, clocks."""

from __future__ import annotations

import asyncio
import heapq
import json
import random
import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import attrs

from kie_mj_async.account import MemorySlots
from kie_mj_async.jobs import Job
from kie_mj_async.ledger import MemoryLedger
from kie_mj_async.requests import FollowUp, Request, TextToImage
from kie_mj_async.rules import chains, naming, wire
from kie_mj_async.rules.billing import Prices
from kie_mj_async.rules.bodies import call_of
from kie_mj_async.rules.callbacks import token_of
from kie_mj_async.rules.wire import Record, Reply, Status
from kie_mj_async.testing import EPOCH

from .invariants import Laws
from .script import DAY, ODDS, SPEEDS, Episode, Script

CREATES, SECONDS = 20, 10.0
"""What the account's window takes."""

RETENTION: Final = 14 * DAY
LINK_LIVES: Final = DAY
MINTED_LINK_LIVES: Final = 1200.0

PRICES: Final = Prices(25, {"mj_txt2img": {"relaxed": 10, "fast": 25, "turbo": 50}})

THEN: Final = ((), ("upscale:0",), (), ("vary:0", "upscale:0"), ())
"""What is to follow the jobs of a world with chains, in turn."""

GATEWAY: Final = Reply(502, b"<html><body>Bad gateway</body></html>")


@attrs.define(eq=False)
class Task:
    """A task as the service knows it, and what the watchers note about it.

    Attributes:
        name: Its job's.
        born: When it was accepted, in the world's seconds.
        ends: When it ends.
        life: Which life of the program sent it.
        known: Whether the ledger has its id.
        let_go: Whether the user decided about its job without knowing of it.
        uncounted: Whether no rule could make the gate count it (a clock that jumped).
    """

    id: str
    name: str
    request: Request
    price: float
    born: float
    ends: float
    fails: bool
    files: int
    life: int
    unknown_until: float
    links_from: float
    created_at: datetime
    params: Mapping[str, object]
    known: bool = False
    let_go: bool = False
    uncounted: bool = False


class Trace:
    """What happened: a digest of all of it, and the last events in words.

    Args:
        keep: How many of them; ``None`` for all.
    """

    def __init__(self, keep: int | None) -> None:
        self.lines: deque[str] = deque(maxlen=keep)
        self.events = 0
        self.digest = 0

    def note(self, at: float, words: str) -> None:
        """One event."""
        line = f"{at:.3f} {words}"
        self.events += 1
        self.digest = zlib.crc32(line.encode(), self.digest)
        self.lines.append(line)


class World:
    """One seed's world. Make it inside a running loop.

    Args:
        script: What goes wrong.
        keep: How many events to keep in words; ``None`` for all.
    """

    def __init__(self, script: Script, keep: int | None = 60) -> None:
        self.script = script
        self.draw = random.Random(f"world {script.seed} {script.jobs}")
        self.loop = asyncio.get_running_loop()
        self.trace = Trace(keep)
        self.figures: Counter[str] = Counter()
        self.requests = [_wish(script, number) for number in range(script.jobs)]
        self.names: dict[str, str] = {}
        self._steps: dict[tuple[str, str, int], str] = {}
        self._name_jobs()
        self.on_callback: Callable[[str, str], None] | None = None
        self.store = MemoryLedger(self.wall)
        self.slots = MemorySlots(self.monotonic)
        self.files: dict[str, str] = {}
        self.tasks: dict[str, Task] = {}
        self.laws = Laws(self)
        self.life = 0
        self.cap: float | None = None
        self.wall_offset = 0.0
        self.boot = 0.0
        self._ticked = 0.0
        self.away = 0.0
        self._accepted: deque[float] = deque()
        self._running: list[tuple[float, str]] = []
        self._episodes: dict[str, Episode] = {}
        self._change_at = 0.0

    # --- Time ------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The world's seconds."""
        return self.loop.time()

    def monotonic(self) -> float:
        """The machine's monotonic clock: it moves on from one look to the next."""
        self._ticked = max(self.loop.time() - self.boot, self._ticked + 1e-9)
        return self._ticked

    def reboot(self) -> None:
        """Start the machine anew, and its monotonic clock with it."""
        self.boot = self.now
        self._ticked = 0.0

    def wall(self) -> float:
        """The machine's wall clock."""
        return EPOCH + self.loop.time() + self.wall_offset

    @property
    def active(self) -> float:
        """The world's seconds without the days between lives."""
        return self.loop.time() - self.away

    @property
    def calm(self) -> bool:
        """Whether nothing goes wrong any more."""
        return self.life > len(self.script.lives) and self.active >= self.script.ends

    def jump(self, seconds: float) -> None:
        """Let the wall clock jump."""
        if seconds:
            self.wall_offset += seconds
            self.note(f"the wall clock jumps {seconds:+.1f} s")
            self.figures["clock jumps"] += 1
            if seconds > 0:
                self.laws.clock_went_forward()

    def _name_jobs(self) -> None:
        """A name for each job that the list leads to, by its key."""
        for request in self.requests:
            key = naming.digest(request)
            self.names[key] = request.prompt
            for child, step in chains.steps_of(request, key):
                self.names[child] = f"{step.kind} of {self.names[step.parent]}"
                place = (self.names[step.parent], step.kind, step.index)
                self._steps[place] = self.names[child]

    def name(self, job: Job) -> str:
        """A job's name; of one for a task that was paid besides, that of the job it was paid for."""
        return self.names[job.key.partition("+")[0]]

    def name_of(self, request: Request) -> str:
        """The name of the job that sends this."""
        if isinstance(request, FollowUp):
            parent = self.tasks[request.task_id].name
            return self._steps[parent, type(request).__name__.lower(), request.index]
        return request.prompt

    def note(self, words: str) -> None:
        """One event of the trace."""
        self.trace.note(self.loop.time(), words)

    # --- Mishaps ---------------------------------------------------------------------------------

    def chance(self, mishap: str) -> bool:
        """Whether a mishap happens now."""
        if self.calm:
            return False
        odds = ODDS[mishap] * self.script.roughness
        if self.lasting("rough"):
            odds = min(0.5, odds * 10)
        return self.draw.random() < odds

    def lasting(self, kind: str) -> Episode | None:
        """The episode of a kind that goes on now."""
        at = self.active
        if at >= self._change_at:
            episodes = self.script.episodes
            self._episodes = {one.kind: one for one in episodes if one.begins <= at < one.ends}
            edges = [edge for one in episodes for edge in (one.begins, one.ends) if edge > at]
            self._change_at = min(edges, default=float("inf"))
        return self._episodes.get(kind)

    # --- The service -----------------------------------------------------------------------------

    def arrive(self, request: Request, life: int) -> Reply:
        """A create reaches the service: the answer it writes."""
        self.figures["creates"] += 1
        self.laws.counted()
        answer = self._answer(request, life)
        code = wire.envelope_code(answer)
        self.note(f"service: {self.name_of(request)} -> {code}")
        if code == 429:
            self.figures["429s"] += 1
        return answer

    def _answer(self, request: Request, life: int) -> Reply:
        if self.lasting("maintenance"):
            return envelope(455)
        if self.lasting("key refused"):
            return envelope(401)
        if self.lasting("no credits"):
            return envelope(402)
        if self._over_the_window() or self._over_the_tasks():
            asked = self.draw.choice((None, None, 5.0, 20.0))
            return attrs.evolve(envelope(429), retry_after=asked)
        if self.chance("bad request"):
            return envelope(422)
        return envelope(200, {"taskId": self._accept(request, life).id})

    def _over_the_window(self) -> bool:
        while self._accepted and self._accepted[0] <= self.now - SECONDS:
            self._accepted.popleft()
        storm = self.lasting("window storm")
        return len(self._accepted) + (storm.size if storm else 0) >= CREATES

    def _over_the_tasks(self) -> bool:
        while self._running and self._running[0][0] <= self.now:
            heapq.heappop(self._running)
        storm = self.lasting("running storm")
        return len(self._running) + (storm.size if storm else 0) >= self.script.running_limit

    def _accept(self, request: Request, life: int) -> Task:
        ends = self.now + self.draw.uniform(*SPEEDS[request.speed or "fast"])
        late = self.draw.uniform(1, 50) if self.chance("unknown at first") else 0.0
        task = Task(
            id=f"t{len(self.tasks) + 1}",
            name=self.name_of(request),
            request=request,
            price=PRICES.of(request),
            born=self.now,
            ends=ends,
            fails=self.chance("task fails"),
            files=self.script.files,
            life=life,
            unknown_until=self.now + late,
            links_from=ends + (self.draw.uniform(1, 20) if self.chance("links come late") else 0),
            created_at=datetime.fromtimestamp(EPOCH + self.now, UTC),
            params=call_of(request).body,
        )
        self.tasks[task.id] = task
        self._accepted.append(self.now)
        heapq.heappush(self._running, (ends, task.id))
        self.laws.charged(task)
        if request.callback_url is not None:
            self._promise_callbacks(task)
        return task

    def _promise_callbacks(self, task: Task) -> None:
        """Let the service call back when the task has ended, or not."""
        if self.chance("no callback"):
            return
        after = task.ends - self.now + self.draw.uniform(0.1, 10)
        if self.chance("callback before the reply"):
            after = 0.0
        self.loop.call_later(after, self._call_back, task, (60.0, 300.0, 900.0))
        if self.chance("callback twice"):
            self.loop.call_later(after + self.draw.uniform(0, 300), self._call_back, task, ())

    def _call_back(self, task: Task, again: tuple[float, ...]) -> None:
        """Call back; where nobody listens, again later, a few times."""
        token = token_of(task.request.callback_url or "")
        if self.on_callback is not None and token is not None:
            self.figures["callbacks"] += 1
            self.note(f"service: calls back about {task.id}")
            self.on_callback(token, task.id)
        elif again:
            self.loop.call_later(again[0], self._call_back, task, again[1:])

    def look(self, task_id: str) -> Record:
        """A task's record.

        Raises:
            KieError: Whatever the service answers instead.
        """
        self.figures["polls"] += 1
        if self.lasting("maintenance"):
            return wire.read_record(envelope(455), task_id)
        if self.lasting("key refused"):
            return wire.read_record(envelope(401), task_id)
        if self.chance("poll 429"):
            return wire.read_record(Reply(429, b"", self.draw.choice((None, 3.0))), task_id)
        if self.chance("poll 500"):
            return wire.read_record(envelope(500), task_id)
        if self.chance("poll html"):
            return wire.read_record(GATEWAY, task_id)
        task = self.tasks.get(task_id)
        if task is None or self.now < task.unknown_until or self.gone(task):
            body = b'{"code":422,"msg":"recordInfo is null","data":null}'
            return wire.read_record(Reply(200, body), task_id)
        if self.now < task.ends:
            odd = self.chance("odd flag")
            status = Status.UNKNOWN if odd else Status.GENERATING
            return Record(
                task_id, status, 7 if odd else 0, created_at=task.created_at, params=task.params
            )
        return wire.read_record(envelope(200, self._record(task)), task_id)

    def gone(self, task: Task) -> bool:
        """Whether the service has forgotten a task."""
        old = self.now >= task.ends + RETENTION
        return old and self.script.records_vanish and not task.fails

    def _record(self, task: Task) -> Mapping[str, object]:
        links = [f"https://files.test/{task.id}/{index}" for index in range(task.files)]
        shown = links if self.now >= task.links_from and not task.fails else []
        return {
            "taskId": task.id,
            "taskType": task.request.task_type,
            "paramJson": json.dumps(task.params),
            "successFlag": 2 if task.fails else 1,
            "resultInfoJson": {"resultUrls": [{"resultUrl": link} for link in shown]},
            "createTime": round((EPOCH + task.born) * 1000),
            "completeTime": round((EPOCH + task.ends) * 1000),
            "errorMessage": "could not be made" if task.fails else None,
        }

    def mint(self, url: str) -> str:
        """A fresh link.

        Raises:
            KieError: There is none.
        """
        if self.lasting("maintenance"):
            return wire.read_download_url(envelope(455))
        if self.now >= self._owner(url).ends + RETENTION:
            return wire.read_download_url(envelope(422))
        if self.chance("no fresh link"):
            return wire.read_download_url(envelope(500))
        return f"{url.partition('?')[0]}?until={self.now + MINTED_LINK_LIVES:.3f}"

    def serves(self, url: str) -> bool:
        """Whether a link works."""
        until = url.partition("?until=")[2]
        ends = self._owner(url).ends
        dies = min(float(until) if until else ends + LINK_LIVES, ends + RETENTION)
        return self.now < dies and not self.chance("dead link")

    def _owner(self, url: str) -> Task:
        return self.tasks[url.split("/")[3]]


def _wish(script: Script, number: int) -> Request:
    """One entry of the list."""
    then = THEN[number % len(THEN)] if script.chains else ()
    return TextToImage(
        f"job {number}",
        speed=script.speeds[number % len(script.speeds)],
        callback_url="https://hook.test/x" if script.callbacks else None,
        then=then,
    )


def envelope(code: int, data: object = None) -> Reply:
    """An answer as the service writes it."""
    return Reply(200, json.dumps({"code": code, "msg": f"code {code}", "data": data}).encode())
