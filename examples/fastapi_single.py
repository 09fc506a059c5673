"""A web application in one process: FastAPI, and one client that lives as long as the application.

    pip install kie-mj-async fastapi uvicorn
    KIE_API_KEY=... uvicorn fastapi_single:app --app-dir examples

    curl -X POST 'localhost:8000/pictures/order-17?prompt=a+fox+in+the+snow'
    curl 'localhost:8000/tasks/THE-TASK?wait=300'

An order that comes twice is one task, paid once, also after a restart: the ledger remembers it. In
several processes or on several machines, use a fleet: ``fastapi_app.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request

import kie_mj_async as mj


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with mj.Client(ledger="pictures.sqlite3", max_credits=1000) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/pictures/{order}", status_code=202)
async def submit(order: str, prompt: str, request: Request) -> dict[str, str]:
    """Order a picture; answers as soon as the service has accepted it."""
    try:
        task = await request.app.state.client.submit(prompt, key=order)
    except mj.InvalidRequest as error:
        raise HTTPException(422, str(error)) from None
    except mj.KieError as error:
        raise HTTPException(503, str(error)) from None
    return {"task": task.task_id}


@app.get("/tasks/{task_id}")
async def look(task_id: str, request: Request, wait: float = 0) -> dict[str, Any]:
    """How a task stands; with ``wait``, its links within so many seconds."""
    try:
        result = await request.app.state.client.task(task_id).wait(max(wait, 0.01))
    except mj.TaskTimedOut:
        return {"state": "running"}
    except mj.ResultExpired:
        raise HTTPException(404) from None
    except mj.TaskFailed as error:
        return {"state": "failed", "error": str(error)}
    except mj.KieError as error:
        raise HTTPException(503, str(error)) from None
    return {"state": "done", "urls": result.urls, "until": result.expires_at}
