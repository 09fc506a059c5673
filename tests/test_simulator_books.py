"""What the simulated service has seen."""

from __future__ import annotations

import json
from typing import Any

from kie_mj_async.simulator.books import Books


def create(at: float, **changes: Any) -> dict[str, Any]:
    base = {
        "kind": "create",
        "at": at,
        "path": "/p",
        "body": {"prompt": "a fox"},
        "code": 200,
        "fault": None,
        "refused": None,
        "task": {"id": "t1", "fault": None},
    }
    return base | changes


def test_creates_are_listed() -> None:
    """Every create is listed with what became of it."""
    books = Books(10)
    books.write(create(1))
    books.write(create(2, code=429, refused="window", task=None))
    books.write(create(3, code=429, refused="running", task=None))
    books.write(create(4, body="no JSON", code=422, task=None))
    seen = books.to_dict()
    assert [one["code"] for one in seen["creates"]] == [200, 429, 429, 422]
    assert [one["charged"] for one in seen["creates"]] == [True, False, False, False]
    assert [one["prompt"] for one in seen["creates"]] == ["a fox", "a fox", "a fox", None]
    assert (seen["accepted"], seen["refused_429_window"], seen["refused_429_running"]) == (1, 1, 1)
    assert seen["most_requests_in_window"] == 4


def test_polls_downloads_and_faults_are_counted() -> None:
    """Counts go by task and by file, faults by place and kind."""
    books = Books(10)
    for fault in (None, "500", "500"):
        books.write({"kind": "poll", "at": 1, "task_id": "t", "fault": fault})
    books.write({"kind": "download", "at": 1, "file": "f", "fault": "drop"})
    books.write(create(1, task={"id": "t1", "fault": "stuck"}))
    seen = books.to_dict()
    assert seen["polls"] == {"t": 3}
    assert seen["poll_total"] == 3
    assert seen["downloads"] == {"f": 1}
    assert seen["faults"] == {"poll.500": 2, "download.drop": 1, "task.stuck": 1}


def test_visits_tell_where_keys_went() -> None:
    """Visits are grouped by host, prefix and whether a key came along."""
    books = Books(10)
    for key in (True, True, False):
        visit = {"kind": "visit", "at": 1, "host": "h", "prefix": "/m", "authorization": key}
        books.write(visit)
    assert books.to_dict()["keys"] == [
        {"host": "h", "prefix": "/m", "authorization": False, "count": 1},
        {"host": "h", "prefix": "/m", "authorization": True, "count": 2},
    ]


def test_uploads_and_callbacks_are_listed() -> None:
    """Each upload with what was stored, each delivery with what became of it; bytes add up."""
    books = Books(10)
    kept = {"path": "a/b/fox.png", "size": 7, "sha256": "ab", "mime": "image/png"}
    upload = {"kind": "upload", "at": 1, "call": "/api/x", "code": 200, "message": "ok"}
    books.write({**upload, "fault": "slow", "source": None, "upload": kept})
    books.write({**upload, "code": 400, "fault": None, "source": "http://h/a", "upload": None})
    sent = {
        "kind": "callback", "at": 2, "task_id": "t", "copy": 1, "attempt": 1, "url": "u",
        "fault": "twice", "withheld": None, "status": 200, "error": None,
    }  # fmt: skip
    books.write(sent)
    books.write({**sent, "copy": 2})
    seen = books.to_dict()
    assert (seen["upload_total"], seen["upload_bytes"]) == (2, 7)
    assert [one["stored"] for one in seen["uploads"]] == [True, False]
    assert [one["name"] for one in seen["uploads"]] == ["fox.png", None]
    assert seen["uploads"][1]["source"] == "http://h/a"
    assert [one["copy"] for one in seen["callbacks"]] == [1, 2]
    assert seen["faults"] == {"upload.slow": 1, "callback.twice": 1}


def test_other_events_are_passed_over() -> None:
    """What is not for the books leaves them alone, and they are plain JSON."""
    books = Books(10)
    books.write({"kind": "expire", "at": 1, "task_id": "t"})
    assert json.loads(json.dumps(books.to_dict())) == Books(10).to_dict()
