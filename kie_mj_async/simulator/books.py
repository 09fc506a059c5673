"""The books: what the simulated service has seen, for tests and for ``/simulator/books``.

Books are written by events, the same ones the journal keeps, so that a restart finds them as they
were. They decide nothing and never hold a key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from .rolling import Rolling

Event = Mapping[str, Any]
"""What happened: ``kind``, ``at`` in seconds, and fields of that kind (see ``world.py``)."""

_CALLBACK = (
    "at", "task_id", "copy", "attempt", "url", "fault", "withheld", "status", "error",
)  # fmt: skip


class Books:
    """Counts and lists of what happened.

    Args:
        window: The length of the service's rolling window, in seconds.
    """

    def __init__(self, window: float) -> None:
        self.creates: list[dict[str, Any]] = []
        self.polls: Counter[str] = Counter()
        self.poll_total = 0
        self.downloads: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.keys: Counter[tuple[str, str, bool]] = Counter()
        self.refused_window = 0
        self.refused_running = 0
        self.accepted = 0
        self.requests = Rolling(window)
        self.uploads: list[dict[str, Any]] = []
        self.callbacks: list[dict[str, Any]] = []

    @property
    def upload_total(self) -> int:
        """Uploads that were tried."""
        return len(self.uploads)

    def write(self, event: Event) -> None:
        """Enter one event; kinds that are not for the books are passed over."""
        entry = getattr(self, f"_{event['kind']}", None)
        if entry is not None:
            entry(event)

    def _create(self, event: Event) -> None:
        task = event["task"]
        self.requests.add(event["at"])
        if task is not None:
            self.accepted += 1
        self.refused_window += event["refused"] == "window"
        self.refused_running += event["refused"] == "running"
        self._fault("create", event)
        if task is not None and task["fault"]:
            self.faults[f"task.{task['fault']}"] += 1
        body = event["body"]
        self.creates.append(
            {
                "at": event["at"],
                "path": event["path"],
                "code": event["code"],
                "task_id": task["id"] if task else None,
                "fault": event["fault"],
                "charged": task is not None,
                "prompt": body.get("prompt") if isinstance(body, dict) else None,
                "body": body,
            }
        )

    def _poll(self, event: Event) -> None:
        self.polls[event["task_id"]] += 1
        self.poll_total += 1
        self._fault("poll", event)

    def _download(self, event: Event) -> None:
        self.downloads[event["file"]] += 1
        self._fault("download", event)

    def _visit(self, event: Event) -> None:
        self.keys[event["host"], event["prefix"], event["authorization"]] += 1

    def _upload(self, event: Event) -> None:
        self._fault("upload", event)
        kept = event["upload"]
        self.uploads.append(
            {
                "at": event["at"],
                "call": event["call"],
                "code": event["code"],
                "message": event["message"],
                "fault": event["fault"],
                "stored": kept is not None,
                "source": event["source"],
                "name": kept["path"].rpartition("/")[2] if kept else None,
                "path": kept["path"] if kept else None,
                "bytes": kept["size"] if kept else None,
                "sha256": kept["sha256"] if kept else None,
                "mime": kept["mime"] if kept else None,
            }
        )

    def _callback(self, event: Event) -> None:
        if event["copy"] == event["attempt"] == 1:
            self._fault("callback", event)
        self.callbacks.append({name: event[name] for name in _CALLBACK})

    def _fault(self, place: str, event: Event) -> None:
        if event["fault"]:
            self.faults[f"{place}.{event['fault']}"] += 1

    def to_dict(self) -> dict[str, Any]:
        """The part of the books that is kept here, ready for JSON."""
        return {
            "creates": [dict(one) for one in self.creates],
            "accepted": self.accepted,
            "refused_429_window": self.refused_window,
            "refused_429_running": self.refused_running,
            "polls": dict(self.polls),
            "poll_total": self.poll_total,
            "downloads": dict(self.downloads),
            "faults": dict(self.faults),
            "most_requests_in_window": self.requests.most,
            "uploads": [dict(one) for one in self.uploads],
            "upload_total": self.upload_total,
            "upload_bytes": sum(one["bytes"] or 0 for one in self.uploads),
            "callbacks": [dict(one) for one in self.callbacks],
            "keys": [
                {"host": host, "prefix": prefix, "authorization": key, "count": count}
                for (host, prefix, key), count in sorted(self.keys.items())
            ],
        }
