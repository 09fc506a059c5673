"""Callbacks in a FastAPI application (or any other framework): verify, answer, look at the task later.

KIE_API_KEY=... KIE_WEBHOOK_KEY=... uvicorn callbacks_fastapi:app --app-dir examples
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import BackgroundTasks, FastAPI, HTTPException, Request

import kie_mj_async as mj

MAX_BODY = 64 * 1024


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with mj.Client() as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)
saved: set[str] = set()


async def fetch(task_id: str) -> None:
    """Save what a task made. The callback was only a hint: the task's record is the truth."""
    if task_id in saved:  # a callback can come twice
        return
    saved.add(task_id)
    try:
        result = await app.state.client.task(task_id).wait(timeout=120)
        await result.save(Path("renders") / task_id)
    except mj.KieError as error:
        saved.discard(task_id)
        print(error)


async def callback(request: Request, later: BackgroundTasks) -> dict[str, str]:
    """Check who sent it, and answer at once: the service waits 15 seconds."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise HTTPException(413)
    try:
        told = mj.verify_callback(body, request.headers, os.environ["KIE_WEBHOOK_KEY"], time.time())
    except (mj.BadSignature, mj.StaleTimestamp):
        raise HTTPException(401) from None
    except mj.WebhookError:
        raise HTTPException(400) from None
    later.add_task(fetch, told.task_id)
    return {"status": "ok"}


app.add_api_route("/callbacks", callback, methods=["POST"])
