"""The simulated service itself: credits, limits, tasks, and every decision about a call.

Plain synchronous decisions over values, given ``now``: no clock, no socket, no file. A decision
becomes an *event* (a JSON object), and only events change anything; so a journal of events is
enough to bring a world back, faults, counts and all. HTTP is not known here: the server renders
what was decided. The limits and codes are kie-api.md's.

Events, all with ``kind`` and ``at`` (seconds): ``open`` (credits), ``create`` (path, body, code,
fault, refused, task), ``poll`` (task_id, fault), ``download`` (file, fault), ``upload`` (call, code,
message, fault, source, upload), ``callback`` (task_id, copy, attempt, url, fault, withheld, status,
error), ``visit`` (host, prefix, authorization), ``finish``, ``fail`` and ``expire`` (task_id).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any, Final

import attrs

from . import chance, inputs, uploads
from .books import Books, Event
from .callbacks import Callbacks, Delivery
from .contract import Parent, complaint
from .faults import Faults
from .rolling import Rolling
from .tasks import PRICE, RETENTION, Task, new_task
from .verdicts import REFUSALS, Answer, Look

FRESH_LIFE: Final = 20 * 60.0
"""Unscaled seconds for which a fresh link works."""


class World:
    """One account at the simulated service.

    Args:
        seed: What chance depends on.
        faults: What goes wrong on purpose.
        credits: The balance at the start.
        rate: Creates per unscaled seconds.
        max_running: How many tasks may run at once.
        time_scale: Factor on every duration of the service.
        picture_suffix: The ending of picture files, without a dot.
        record: Takes each event after it has been applied; a journal, say.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        faults: Faults | None = None,
        credits: float = 100_000,
        rate: tuple[int, float] = (20, 10.0),
        max_running: int = 100,
        time_scale: float = 1.0,
        picture_suffix: str = "jpeg",
        record: Callable[[Event], None] | None = None,
    ) -> None:
        self.seed = seed
        self.faults = faults or Faults()
        self.start_credits = credits
        self.credits = credits
        self.creates_per_window = rate[0]
        self.window = rate[1] * time_scale
        self.max_running = max_running
        self.time_scale = time_scale
        self.retention = RETENTION * time_scale
        self.picture_suffix = picture_suffix
        self.tasks: dict[str, Task] = {}
        self.refunded = 0.0
        self.running = 0
        self.most_running = 0
        self.record = record
        self.uploads = uploads.Uploads(uploads.LIFE * time_scale)
        self.callbacks = Callbacks(seed, self.faults, time_scale)
        self._books = Books(self.window)
        self._accepts = Rolling(self.window)
        self._ends: list[tuple[float, str]] = []
        self._now = 0.0

    # Deciding

    def create(
        self,
        path: str,
        body: object,
        now: float,
        *,
        route: str | None = None,
        known_key: bool = True,
        host: str | None = None,
    ) -> Answer:
        """A create arrives.

        Args:
            path: The call, one of ``contract.PATHS``.
            body: The parsed JSON; a text stands for what could not be parsed.
            now: Seconds.
            route: The path it came by, when that is another one: a redirect's target.
            known_key: Whether the request came with a key of this account.
            host: The host and port that it was sent to, by which links of its own are told.
        """
        self.advance(now)
        number = len(self._books.creates) + 1
        moved = route is not None and route != path
        without = ("redirect",) if moved else ()
        fault = self.faults.pick(self.seed, "create", number, without=without)
        refused: str | None = None
        if not known_key:
            code, message, fault = *REFUSALS["401"], None
        elif fault in REFUSALS:
            code, message = REFUSALS[fault]
        else:
            code, message, refused = self._verdict(path, body, now)
        task = self._new_task(path, body, now, host) if code == 200 else None
        if task is None and fault not in REFUSALS:
            fault = None  # the service refused it by itself: there was nothing left to spoil
        self._happen(
            "create",
            now,
            path=route or path,
            body=body,
            code=500 if fault == "500-charged" else code,
            fault=fault,
            refused=refused,
            task=task.to_json() if task else None,
        )
        hint = code == 429 and self.faults.modifies(self.seed, "create", "retry-after", number)
        wait = math.ceil(max(self._accepts.wait(now), 1)) if hint else None
        early = task is not None and task.completes == now
        return Answer(code, message, task.id if task else None, fault, wait, number, early)

    def _verdict(self, path: str, body: object, now: float) -> tuple[int, str, str | None]:
        """Code, words, and which limit was met."""
        wrong = complaint(path, body, lambda task_id: self._parent(task_id, now))
        if wrong:
            return 422, wrong, None
        if self._accepts.count(now) >= self.creates_per_window:
            return *REFUSALS["429"], "window"
        if self.running >= self.max_running:
            return *REFUSALS["429-running"], "running"
        if self.credits < PRICE:
            return *REFUSALS["402"], None
        return 200, "success", None

    def _parent(self, task_id: str, now: float) -> Parent | None:
        task = self.tasks.get(task_id)
        return task.as_parent(now, self.retention) if task else None

    def _new_task(self, path: str, body: Any, now: float, host: str | None) -> Task:
        number = len(self.tasks) + 1
        fault = self.faults.pick(self.seed, "task", number)
        parent = self.tasks.get(body.get("taskId", ""))
        task = new_task(
            self.seed,
            number,
            path,
            body,
            parent=parent,
            fault=fault,
            now=now,
            time_scale=self.time_scale,
            reason=self._bad_image(body, now, host),
        )
        reported = body.get("callBackUrl") and task.completes < math.inf
        if reported and self.callbacks.next_fault() == "early":
            task.completes = now
        return task

    def _bad_image(self, body: Any, now: float, host: str | None) -> str | None:
        """Why an image that a create names cannot be used; other hosts are taken on trust."""
        for url in inputs.image_urls(body):
            own = inputs.own(url, host)
            good = None if own is None else self._is_picture(own.path, now)
            if good is False or (good is None and own is not None and own.certain):
                return f"The image could not be read, it is missing or no image: {url}"
        return None

    def _is_picture(self, path: str, now: float) -> bool | None:
        """Whether a picture is served here; ``None`` where nothing ever was."""
        if path.startswith(uploads.LINKS):
            name = path.removeprefix(uploads.LINKS)
            upload = self.uploads.find(name, now)
            return upload.picture if upload else False if self.uploads.knows(name) else None
        folder, _, name = path.rpartition("/")
        task = self.tasks.get(name.partition("_")[0])
        if task is None or name not in task.files(self.picture_suffix):
            return None
        if folder == "/m":
            alive = task.linked(now, self.time_scale)
        else:
            alive = self.is_fresh(folder.removeprefix("/f/"), name, now)
        return alive and not task.video and task.stored(now, self.retention)

    def upload(
        self, call: str, arrival: uploads.Arrival | str, now: float, *, known_key: bool = True
    ) -> uploads.Outcome:
        """A file arrives.

        Args:
            call: One of ``uploads.UPLOADS``.
            arrival: The file, or the words of its refusal.
            now: Seconds.
            known_key: Whether the request came with a key of this account.
        """
        self.advance(now)
        number = self._books.upload_total + 1
        if known_key:
            outcome = uploads.decide(self.seed, self.faults, number, arrival, now)
        else:
            outcome = uploads.Outcome(*REFUSALS["401"], None, None)
        self._happen(
            "upload",
            now,
            call=call,
            code=outcome.code,
            message=outcome.message,
            fault=outcome.fault,
            source=getattr(arrival, "source", None),
            upload=attrs.asdict(outcome.upload) if outcome.upload else None,
        )
        return outcome

    def delivered(
        self, delivery: Delivery, now: float, *, status: int | None, error: str | None
    ) -> None:
        """A callback was sent, or noted where it is withheld.

        Args:
            delivery: The callback.
            now: Seconds.
            status: The receiver's, or ``None`` where none came.
            error: Why none came.
        """
        facts = attrs.asdict(delivery)
        del facts["due"]
        self._happen("callback", now, **facts, status=status, error=error)

    def next_callback(self) -> float | None:
        """When a callback can be due next, in seconds; ``None`` when none is expected."""
        due = self.callbacks.next_due()
        if not self.callbacks.waiting or not self._ends:
            return due
        ends = self._ends[0][0]
        return ends if due is None else min(due, ends)

    def poll(self, task_id: str, now: float) -> Look:
        """Someone asks how a task is doing."""
        self.advance(now)
        task = self.tasks.get(task_id)
        if task is not None and now < task.visible:
            task = None
        count = self._books.polls[task_id] + 1
        done = task is not None and task.state == "succeeded"
        without = () if done else ("no-url",)
        fault = self.faults.pick(self.seed, "poll", count, scope=task_id, without=without)
        hint = self.faults.modifies(self.seed, "poll", "retry-after", count, scope=task_id)
        self._happen("poll", now, task_id=task_id, fault=fault)
        return Look(task, fault, hint)

    def download(
        self,
        name: str,
        now: float,
        *,
        fresh: bool = False,
        moved: bool = False,
        ranged: bool = False,
    ) -> Look:
        """Someone fetches a result.

        Args:
            name: The file.
            now: Seconds.
            fresh: Whether by a fresh link rather than the result's own.
            moved: Whether by a redirect.
            ranged: Whether a part of it was asked for.
        """
        self.advance(now)
        task = self.stored(name, now)
        count = self._books.downloads[name] + 1
        without: tuple[str, ...] = ("dead-link",) if fresh else ()
        without += ("redirect",) if moved else ()
        if not ranged:
            without += ("no-range", "wrong-range")
        fault = self.faults.pick(self.seed, "download", count, scope=name, without=without)
        hint = self.faults.modifies(self.seed, "download", "retry-after", count, scope=name)
        dead = task is not None and not (fresh or task.linked(now, self.time_scale))
        if task is None or dead:
            fault = None
        self._happen("download", now, file=name, fault=fault)
        return Look(task, fault, hint, dead)

    def stored(self, name: str, now: float) -> Task | None:
        """The task that has this file, while it is stored."""
        self.advance(now)
        task = self.tasks.get(name.partition("_")[0])
        if task is None or not task.stored(now, self.retention):
            return None
        return task if name in task.files(self.picture_suffix) else None

    def visit(self, host: str, prefix: str, now: float, *, key: bool) -> None:
        """A request arrived: note where, and whether it carried a key (never which)."""
        self._happen("visit", now, host=host, prefix=prefix, authorization=key)

    def fresh_token(self, name: str, now: float) -> str:
        """What makes a link to a file fresh for :data:`FRESH_LIFE`."""
        return self._token(name, int((now + FRESH_LIFE * self.time_scale) * 1000))

    def is_fresh(self, token: str, name: str, now: float) -> bool:
        """Whether such a token was made for this file and has not run out."""
        until = token.partition("-")[0]
        if not (until.isascii() and until.isdigit()):
            return False
        return token == self._token(name, int(until)) and now * 1000 < int(until)

    def _token(self, name: str, until: int) -> str:
        return f"{until}-{chance.digest('link', self.seed, name, until)}"

    # Poking, for tests

    def misbehave(self, faults: Faults) -> None:
        """Let other things go wrong from now on; events stay counted from the start."""
        self.faults = self.callbacks.faults = faults

    def finish(self, task_id: str) -> None:
        """Let a running task end now, as it was going to; one that is stuck succeeds."""
        self._happen("finish", self._now, task_id=self.tasks[task_id].id)

    def fail(self, task_id: str) -> None:
        """Let a running task fail now."""
        self._happen("fail", self._now, task_id=self.tasks[task_id].id)

    def expire(self, task_id: str) -> None:
        """Delete a task's results as if their time were up, now or as soon as they exist."""
        self._happen("expire", self._now, task_id=self.tasks[task_id].id)

    # Applying

    def open(self, now: float) -> None:
        """Note the balance at the start, for a journal that begins."""
        self._happen("open", now, credits=self.start_credits)

    def _happen(self, kind: str, at: float, **fields: Any) -> None:
        event = {"kind": kind, "at": at, **fields}
        self.apply(event)
        if self.record is not None:
            self.record(event)

    def apply(self, event: Event) -> None:
        """Change the world by an event: one just decided, or one from a journal."""
        self.advance(event["at"])
        self._books.write(event)
        kind = event["kind"]
        if kind == "open":
            self.start_credits = self.credits = event["credits"]
        elif kind == "create" and event["task"] is not None:
            self._accept(Task.from_json(event["task"]))
        elif kind == "expire":
            self.tasks[event["task_id"]].expired = True
        elif kind == "upload" and event["upload"] is not None:
            self.uploads.keep(event["upload"])
        elif kind == "callback":
            self.callbacks.delivered(event)
        elif kind in {"finish", "fail"}:
            self._end_early(self.tasks[event["task_id"]], event)

    def _accept(self, task: Task) -> None:
        self.tasks[task.id] = task
        self._accepts.add(task.created)
        self.callbacks.accepted(task)
        self.credits -= task.price
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        heapq.heappush(self._ends, (task.completes, task.id))

    def _end_early(self, task: Task, event: Event) -> None:
        if task.state == "running":
            task.completes = event["at"]
            if event["kind"] == "fail":
                task.verdict = "fail"
            self._end(task)

    def advance(self, now: float) -> None:
        """Let time pass: end the tasks whose time has come."""
        self._now = max(self._now, now)
        while self._ends and self._ends[0][0] <= self._now:
            task = self.tasks[heapq.heappop(self._ends)[1]]
            if task.state == "running":
                self._end(task)

    def _end(self, task: Task) -> None:
        self.running -= 1
        task.state = "succeeded" if task.verdict == "success" else "failed"
        if task.state == "failed":
            self.credits += task.price
            self.refunded += task.price
        self.callbacks.ended(task)

    # Reading

    def books(self, now: float) -> dict[str, Any]:
        """The books as they stand, ready for JSON.

        ``charged_total`` is what was charged less what came back for failed tasks.
        """
        self.advance(now)
        return {
            **self._books.to_dict(),
            "most_in_window": self._accepts.most,
            "most_running": self.most_running,
            "running": self.running,
            "credits": plain(self.credits),
            "charged_total": plain(self.start_credits - self.credits),
            "refunded_total": plain(self.refunded),
            "window_seconds": self.window,
            "time_scale": self.time_scale,
            "tasks": {
                task.id: {
                    "state": task.state,
                    "created": task.created,
                    "completed": None if task.state == "running" else task.completes,
                    "task_type": task.task_type,
                    "fault": task.fault,
                    "expired": task.expired,
                }
                for task in self.tasks.values()
            },
        }


def plain(number: float) -> float:
    """A whole number without its decimal point, as the service writes it."""
    return int(number) if number == int(number) else number
