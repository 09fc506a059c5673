"""A ledger of tables: all that the one on disk and a fleet's have in common.

A store says how a function of its database gets a transaction, takes in lists, and comes to its end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from ..jobs import Counts, Job, Reading, State
from ..requests import Request
from ..rules.lifecycle import AT_RISK, Move
from ..rules.uploads import Upload
from .base import Alike, Attempt, Cursor, PastEvent
from .changes import add, apply
from .rows import alike, as_damage, attempt_from_row, job_from_row, upload_from_row
from .sql import Db, first, one

_T = TypeVar("_T")


class TableLedger(ABC):
    """What a :class:`~kie_mj_async.ledger.base.Ledger` of tables does with statements alone."""

    @abstractmethod
    async def _read(self, op: Callable[[Db], _T]) -> _T:
        """Run a function of the database that changes nothing."""

    @abstractmethod
    async def _write(self, op: Callable[[Db], _T]) -> _T:
        """Run a function of the database: what it does is durable when this returns, or undone."""

    async def add(self, key: str, request: Request, move: Move | None = None) -> Job:
        """One job under a key of its own."""
        return await self._write(lambda db: add(db, key, request, move))

    async def record(self, job: Job, move: Move) -> Job:
        """Apply a move, durably."""
        return await self._write(lambda db: apply(db, job.key, move))

    async def get(self, key: str) -> Job | None:
        """One job."""
        found = await self._jobs("job_by_key", key=key)
        return found[0] if found else None

    async def find(self, prefix: str) -> list[Job]:
        """Jobs whose key starts like this."""
        return await self._jobs("jobs_by_key_prefix", prefix=prefix, limit=10)

    async def by_task(self, task_id: str) -> Job | None:
        """The job that a task belongs to."""
        found = await self._jobs("job_by_task", task_id=task_id)
        return found[0] if found else None

    async def children(self, key: str, run: int | None = None) -> list[Job]:
        """The jobs that follow a job in a chain."""
        return await self._jobs("children", key=key, run=run)

    async def has_chains(self) -> bool:
        """Whether any job follows another."""
        return await self._read(lambda db: bool(one(db, "has_chains")["found"]))

    async def by_token(self, token: str) -> Attempt | None:
        """The attempt whose callback carries this token."""
        return await self._attempt("attempt_by_token", token=token)

    async def last_attempt(self, key: str) -> Attempt | None:
        """A job's last attempt, if its callback carries a token."""
        return await self._attempt("last_attempt", key=key)

    async def note_hint(self, token: str, task_id: str | None) -> None:
        """Keep which task a callback with this token named."""
        values = {"token": token, "task_id": task_id}
        await self._write(lambda db: db.tell("note_hint", values))

    async def open_hints(self) -> list[Attempt]:
        """Attempts whose task a callback named, and that are not known to have led to any."""
        return await self._read(lambda db: [attempt_from_row(row) for row in db.ask("open_hints")])

    async def upload_of(self, name: str) -> Upload | None:
        """The last upload of a local image."""

        def op(db: Db) -> Upload | None:
            row = first(db, "upload", {"name": name})
            return None if row is None else upload_from_row(row)

        return await self._read(op)

    async def note_upload(self, upload: Upload) -> None:
        """Keep where a local image was uploaded to."""
        values = {"name": upload.name, "url": upload.url, "at": upload.at.timestamp()}
        await self._write(lambda db: db.tell("note_upload", values))

    async def page(
        self, state: State, after: Cursor, limit: int, run: int | None = None
    ) -> list[Job]:
        """Jobs in a state."""
        return await self._jobs(
            "page", state=state.value, urgency=after.urgency, seq=after.seq, limit=limit, run=run
        )

    async def planned(self, after: Cursor, limit: int) -> tuple[list[Alike], Cursor]:
        """The next planned jobs, those that are alike told together."""
        values = {"urgency": after.urgency, "seq": after.seq, "limit": limit}

        def op(db: Db) -> tuple[list[Alike], Cursor]:
            rows = db.ask("planned", values)
            behind = Cursor(rows[-1]["urgency"], rows[-1]["seq"]) if rows else after
            return alike(rows), behind

        return await self._read(op)

    async def scan(self, after_seq: int, limit: int, *, with_files: bool = False) -> list[Job]:
        """All jobs in their order, or those that have files."""
        query = "scan_with_files" if with_files else "scan"
        return await self._jobs(query, seq=after_seq, limit=limit)

    async def history(self, job: Job) -> list[PastEvent]:
        """All that happened to a job."""
        values = {"seq": job.seq}
        return await self._read(
            lambda db: [PastEvent(**row) for row in db.ask("events_of", values)]
        )

    async def counts(self) -> Counts:
        """How many jobs stand where."""
        return await self._read(_counts)

    async def due(self, before: datetime) -> int:
        """Jobs whose results are gone before then."""
        values = {"before": before.timestamp()}
        return await self._read(lambda db: int(one(db, "due", values)["number"]))

    async def note_balance(self, at: datetime, balance: float) -> None:
        """Keep the account's balance beside what the ledger knows now."""

        def op(db: Db) -> None:
            counts = _counts(db)
            row = {
                "at": at.timestamp(),
                "balance": balance,
                "spent": counts.credits,
                "at_risk": counts.at_risk,
            }
            db.tell("insert_reading", row)

        await self._write(op)

    async def readings(self, last: int) -> list[Reading]:
        """The last readings of the balance."""

        def op(db: Db) -> list[Reading]:
            rows = db.ask("last_readings", {"last": last})
            with as_damage():
                return [
                    Reading(
                        datetime.fromtimestamp(row["at"], UTC),
                        row["balance"],
                        row["spent"],
                        row["at_risk"],
                    )
                    for row in rows
                ][::-1]

        return await self._read(op)

    async def _attempt(self, query: str, **values: Any) -> Attempt | None:
        def op(db: Db) -> Attempt | None:
            row = first(db, query, values)
            return None if row is None else attempt_from_row(row)

        return await self._read(op)

    async def _jobs(self, query: str, **values: Any) -> list[Job]:
        return await self._read(lambda db: [job_from_row(row) for row in db.ask(query, values)])


def _counts(db: Db) -> Counts:
    rows = db.ask("counts")
    with as_damage():
        return Counts(
            {State(row["state"]): row["number"] for row in rows},
            files=sum(int(row["files"]) for row in rows),
            bytes=sum(int(row["bytes"]) for row in rows),
            credits=sum(row["credits"] for row in rows),
            at_risk=sum(row["price"] for row in rows if State(row["state"]) in AT_RISK),
        )
