"""Callbacks: which are due when, what they say, and how they are signed.

Pure. Source: kie-api.md, "Callbacks". The world tells when a task ends and what became of a
delivery; ``courier.py`` sends. Only addresses of this machine are sent to: for any other a delivery
is noted and not made, so that a test never leaves the machine.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import hmac
import json
from typing import Any, Final

import attrs

from . import answers
from .books import Event
from .contract import EXTEND
from .faults import Faults
from .inputs import is_loopback
from .tasks import Task

TIMEOUT: Final = 15.0
"""Unscaled seconds that a receiver has for its answer."""

RETRIES: Final = (60.0, 300.0, 900.0)
"""Unscaled seconds from a failed delivery to the next one."""

LATE: Final = 60.0
"""Unscaled seconds by which a late callback is late, and that an out-of-order one waits at most."""

GAP: Final = 1.0
"""Unscaled seconds between the two of a callback that comes twice."""

STALE: Final = 86_400
"""Seconds by which a stale timestamp is old. Not scaled: the wire has no scale."""


@attrs.frozen
class Delivery:
    """A callback that is to be sent.

    Args:
        task_id: The task.
        copy: 1, or 2 for the second of a callback that comes twice.
        attempt: 1 for the first, up to 4.
        url: Where to.
        due: Seconds.
        fault: What is wrong with it, or ``None``.
        withheld: Why it is noted and not sent, or ``None``.
    """

    task_id: str
    copy: int
    attempt: int
    url: str
    due: float
    fault: str | None
    withheld: str | None


class Callbacks:
    """The callbacks of one account.

    Args:
        seed: What chance depends on.
        faults: What goes wrong on purpose.
        time_scale: Factor on durations.
    """

    def __init__(self, seed: int, faults: Faults, time_scale: float) -> None:
        self._seed = seed
        self.faults = faults
        self._scale = time_scale
        self._expected = 0
        self._waiting: dict[str, str | None] = {}
        self._open: dict[tuple[str, int], Delivery] = {}
        self._out: set[tuple[str, int]] = set()
        self._heap: list[tuple[float, int, str, int]] = []
        self._planned = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to send, now or later."""
        return bool(self._waiting or self._open)

    @property
    def waiting(self) -> bool:
        """Whether a task that runs is to be reported."""
        return bool(self._waiting)

    def untried(self, task_id: str) -> bool:
        """Whether the callback of a task is still to be sent for the first time."""
        first = self._open.get((task_id, 1))
        return task_id in self._waiting or (first is not None and first.attempt == 1)

    def next_fault(self) -> str | None:
        """What will be wrong with the callback of the next task that has one."""
        return self.faults.pick(self._seed, "callback", self._expected + 1)

    def accepted(self, task: Task) -> None:
        """Note a new task."""
        if task.body.get("callBackUrl"):
            self._waiting[task.id] = self.next_fault()
            self._expected += 1

    def ended(self, task: Task) -> None:
        """Plan what to send about a task that has ended."""
        if task.id not in self._waiting:
            return
        fault = self._waiting.pop(task.id)
        url = task.body["callBackUrl"]
        withheld = "never" if fault == "never" else None
        if not is_loopback(url):
            withheld = "not an address of this machine"
        delay = LATE * self._scale if fault in {"late", "out-of-order"} else 0.0
        first = Delivery(task.id, 1, 1, url, task.completes + delay, fault, withheld)
        for held in self._held():
            self._plan(attrs.evolve(held, due=min(held.due, first.due + GAP * self._scale)))
        self._plan(first)
        if fault == "twice":
            self._plan(attrs.evolve(first, copy=2, due=first.due + GAP * self._scale))

    def _held(self) -> list[Delivery]:
        """What waits for another callback to go first."""
        return [
            one
            for key, one in self._open.items()
            if one.fault == "out-of-order" and one.attempt == 1 and key not in self._out
        ]

    def _plan(self, delivery: Delivery) -> None:
        key = delivery.task_id, delivery.copy
        self._open[key] = delivery
        self._planned += 1
        heapq.heappush(self._heap, (delivery.due, self._planned, *key))

    def delivered(self, event: Event) -> None:
        """Take what became of a delivery: it is over, or planned again."""
        key = event["task_id"], event["copy"]
        self._out.discard(key)
        delivery = self._open.pop(key, None)
        if delivery is None or event["withheld"] or arrived(event["status"]):
            return
        if delivery.attempt <= len(RETRIES):
            due = event["at"] + RETRIES[delivery.attempt - 1] * self._scale
            self._plan(attrs.evolve(delivery, attempt=delivery.attempt + 1, due=due))

    def take(self, now: float) -> list[Delivery]:
        """What is due, each once; :meth:`delivered` has to follow."""
        found = []
        while (due := self.next_due()) is not None and due <= now:
            _, _, task_id, copy = heapq.heappop(self._heap)
            self._out.add((task_id, copy))
            found.append(self._open[task_id, copy])
        return found

    def next_due(self) -> float | None:
        """When the next delivery is due, in seconds; ``None`` when none is planned."""
        while self._heap:
            due, _, task_id, copy = self._heap[0]
            delivery = self._open.get((task_id, copy))
            if delivery is not None and delivery.due == due:
                return due
            heapq.heappop(self._heap)  # planned anew since, or over
        return None


def arrived(status: int | None) -> bool:
    """Whether a receiver's status ends a delivery."""
    return status is not None and 200 <= status < 300


def content(task: Task, links: list[str], fault: str | None = None) -> dict[str, Any]:
    """The body of a callback.

    Args:
        task: The task; it has ended.
        links: The URLs of its results; used when it has succeeded.
        fault: A fault of the kind ``callback``, or ``None``.
    """
    succeeded = task.state == "succeeded"
    code, message = (200, "success") if succeeded else (500, "Image generation failed")
    data: dict[str, Any] = {"taskId": task.id}
    if task.path == EXTEND:
        data = answers.record(task, links)["data"]
        data["errorCode"] = None if data["errorCode"] is None else str(data["errorCode"])
    elif succeeded:
        params = json.dumps(task.body, sort_keys=True, separators=(",", ":"))
        data |= {"promptJson": params, "resultUrls": links}
    else:
        data["resultUrls"] = []
    if fault == "task_id":
        data = {"task_id": data.pop("taskId"), **data}
    return answers.envelope(code, message, data)


def headers(task_id: str, fault: str | None, key: str | None, now: float) -> dict[str, str]:
    """The headers that sign a callback; none where the account has no webhook key.

    Args:
        task_id: The task.
        fault: A fault of the kind ``callback``, or ``None``.
        key: The account's webhook key.
        now: Seconds since the epoch.
    """
    if fault == "forged":
        key = f"not {key}"
    if key is None:
        return {}
    timestamp = str(int(now) - (STALE if fault == "stale" else 0))
    return {
        "X-Webhook-Timestamp": timestamp,
        "X-Webhook-Signature": signature(key, task_id, timestamp),
    }


def signature(key: str, task_id: str, timestamp: str) -> str:
    """What the service signs a callback with: of the task's id and the time, not of the body."""
    digest = hmac.new(key.encode(), f"{task_id}.{timestamp}".encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()
