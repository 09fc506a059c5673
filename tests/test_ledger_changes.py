"""What a move writes into a ledger file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest

from kie_mj_async.jobs import Job, SavedFile
from kie_mj_async.ledger import SqliteLedger
from kie_mj_async.ledger.rows import job_changes, move_detail
from kie_mj_async.requests import ExistingTask, TextToImage
from kie_mj_async.rules import lifecycle
from kie_mj_async.rules.lifecycle import Move

AT = datetime(2026, 11, 1, 12, 0, 0, 123457, tzinfo=UTC)
FILE = SavedFile(
    0, "fox_0.png", "https://cdn.example/0.png", "ab" * 32, 9, "image/png", 8, None, saved_at=AT
)


@pytest.mark.anyio
async def test_what_does_not_change_is_not_written_anew(tmp_path: Path) -> None:
    """A move writes the request, the links and the files only where they are others than before."""
    ledger = await SqliteLedger.open(tmp_path / "ledger.sqlite3", "https://api.example")
    task = await ledger.add("k", ExistingTask("t1"))
    db = ledger._connection

    def texts() -> tuple[str, str, str]:
        row = db.execute("SELECT request, urls, files FROM job").fetchone()
        return row["request"], row["urls"], row["files"]

    async def move(change: Move) -> tuple[bool, ...]:
        nonlocal task
        before, seen = texts(), list[str]()
        db.set_trace_callback(seen.append)
        task = await ledger.record(task, change)
        db.set_trace_callback(None)
        (update,) = (one for one in seen if one.startswith("UPDATE job"))
        written = tuple(
            f"coalesce(NULL, {name})" not in update for name in ("request", "urls", "files")
        )
        changed = tuple(one != other for one, other in zip(before, texts(), strict=True))
        assert written == changed, update
        return written

    told = attrs.evolve(task.request, prompt="a fox", made_with={"type": "Vary"})  # type: ignore[call-arg]
    done = lifecycle.succeeded(
        (FILE.url,), created_at=AT, completed_at=AT, expires_at=AT, request=told
    )
    assert await move(lifecycle.adopted("t1")) == (False, False, False)
    assert await move(done) == (True, True, False)
    assert await move(lifecycle.relinked(("https://cdn.example/new",))) == (False, True, False)
    assert await move(lifecycle.file_saved(FILE)) == (False, False, True)
    assert await move(lifecycle.saved()) == (False, False, False)
    assert json.loads(texts()[0]) == told.to_dict()
    assert json.loads(texts()[2])[0]["sha256"] == FILE.sha256
    assert await ledger.scan(0, 9) == [task]
    assert (task.request, task.files) == (told, (FILE,))
    await ledger.aclose()


def test_a_move_is_kept_with_all_its_facts() -> None:
    """A job's history tells what came with each event, a file as the job's own list does."""
    assert move_detail(lifecycle.saved()) is None
    accepted = json.loads(move_detail(lifecycle.accepted("t1", AT)) or "")
    assert accepted == {"task_id": "t1", "created_at": AT.timestamp()}
    detail = move_detail(lifecycle.file_saved(FILE)) or ""
    files = job_changes(Job(key="k", request=TextToImage("a fox"), files=(FILE,)))["files"]
    assert [json.loads(detail)["file"]] == json.loads(files)
    both = Move(lifecycle.Event.FILE_SAVED, {"task_id": "t1"}, FILE)
    assert json.loads(move_detail(both) or "") == {"task_id": "t1", **json.loads(detail)}
