"""The bodies of the service's answers: envelopes, and a task as record-info tells it.

Pure: values in, JSON-ready values out. The usual shape is the one recorded from the live service;
``flat``, ``iso`` and the other shapes of kie-api.md come out when a fault asks for them. What is
true of a task is decided in ``world.py``.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from .tasks import Task

HTML = (
    "<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n"
    "<center><h1>{status} {reason}</h1></center>\r\n<hr><center>nginx</center>\r\n"
    "</body>\r\n</html>\r\n"
)
"""What a gateway in front of the service answers; format it with ``status`` and ``reason``."""

_FLAGS = {"success": 1, "fail": 2, "fail-create": 3}


def envelope(code: int | str, message: str, data: Any = None) -> dict[str, Any]:
    """What every JSON answer of the service is wrapped in."""
    return {"code": code, "msg": message, "data": data}


def no_record() -> dict[str, Any]:
    """The answer about a task that the service does not know."""
    return envelope(422, "recordInfo is null")


def record(task: Task, links: list[str], fault: str | None = None) -> dict[str, Any]:
    """The body of record-info about a task.

    Args:
        task: The task.
        links: The URLs of its results; used when it has succeeded.
        fault: A fault of the kind ``poll`` that changes the shape, or ``None``.
    """
    ended = task.state != "running"
    flag = _FLAGS[task.verdict] if ended else 0
    failed = flag in (2, 3)
    urls = links if flag == 1 and fault != "no-url" else []
    results: Any = {"resultUrls": [{"resultUrl": url} for url in urls]} if flag == 1 else None
    created = round(task.created * 1000)
    completed = round(task.completes * 1000) if ended else None
    data: dict[str, Any] = {
        "taskId": task.id,
        "taskType": task.task_type,
        "paramJson": json.dumps(task.body, sort_keys=True, separators=(",", ":")),
        "completeTime": completed,
        "resultInfoJson": results,
        "successFlag": 7 if fault == "unknown-flag" else flag,
        "createTime": created,
        "errorCode": 500 if failed else None,
        "errorMessage": task.reason or _reason(flag) if failed else None,
    }
    if fault in {"flat", "iso"}:
        data["createTime"] = _iso(created)
        data["completeTime"] = None if completed is None else _iso(completed)
    if fault == "flat":
        del data["resultInfoJson"]
        return {**data, "paramJson": task.body, "resultUrls": urls}
    if fault == "strings":
        for name in ("successFlag", "createTime", "completeTime", "errorCode"):
            data[name] = None if data[name] is None else str(data[name])
        data["resultInfoJson"] = None if results is None else json.dumps(results)
        return envelope("200", "success", data)
    return envelope(200, "success", data)


def _reason(flag: int) -> str:
    if flag == 3:
        return "The task was created, but its generation failed."
    return "The generation failed. Please change the prompt and try again."


def _iso(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
