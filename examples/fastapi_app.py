"""A web application in several replicas, and the workers of its fleet: FastAPI.

    export KIE_DATABASE_URL=postgresql://kie:secret@localhost/kie
    kie-mj cluster migrate
    KIE_API_KEY=... kie-mj worker --out /srv/pictures &
    uvicorn fastapi_app:app --app-dir examples --port 8001 &
    uvicorn fastapi_app:app --app-dir examples --port 8002 &

    curl -X POST 'localhost:8001/pictures/order-17?prompt=a+fox+in+the+snow'
    curl 'localhost:8002/pictures/order-17?wait=300'

An order may come to any replica, twice too, and be asked for at any other: it is one job, paid once.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse

import kie_mj_async as mj
from kie_mj_async.cluster import Cluster


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with Cluster(os.environ["KIE_DATABASE_URL"]) as cluster:
        app.state.cluster = cluster
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/pictures/{key}", status_code=202)
async def order(key: str, prompt: str, request: Request) -> dict[str, str]:
    """Order a picture. It is durable when this answers; no picture is made here."""
    try:
        job = await request.app.state.cluster.submit(prompt, key=key)
    except mj.InvalidRequest as error:
        raise HTTPException(422, str(error)) from None
    return {"key": job.key}


@app.get("/pictures/{key}")
async def look(key: str, request: Request, wait: float = 0) -> dict[str, Any]:
    """How a picture stands; with ``wait``, its results within so many seconds."""
    job = request.app.state.cluster.job(key)
    try:
        if wait > 0:
            made = await job.wait(wait)
            return {"state": "saved", "files": made.locations}
        return {"state": (await job.look()).state}
    except mj.InvalidRequest:
        raise HTTPException(404) from None
    except mj.TaskTimedOut:
        return {"state": "pending"}
    except mj.KieError as error:
        return {"state": "failed", "error": str(error)}


@app.post("/lists/{name}")
async def render(name: str, prompts: list[str], request: Request) -> StreamingResponse:
    """Render a list, and tell each prompt's outcome as it comes, one JSON object a line."""

    async def lines() -> AsyncIterator[str]:
        async for outcome in request.app.state.cluster.render(prompts, batch=name):
            files = outcome.locations if isinstance(outcome, mj.Saved) else ()
            told = {"prompt": outcome.job.prompt, "outcome": type(outcome).__name__, "files": files}
            yield json.dumps(told) + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")
