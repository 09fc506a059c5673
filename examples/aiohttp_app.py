"""A web application in several replicas, and the workers of its fleet: aiohttp.

    export KIE_DATABASE_URL=postgresql://kie:secret@localhost/kie
    kie-mj cluster migrate
    KIE_API_KEY=... kie-mj worker --out /srv/pictures &
    python examples/aiohttp_app.py 8001 &
    python examples/aiohttp_app.py 8002 &

    curl -d 'a fox in the snow' localhost:8001/pictures/order-17
    curl 'localhost:8002/pictures/order-17?wait=300'

An order may come to any replica, twice too, and be asked for at any other: it is one job, paid once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator

from aiohttp import web

import kie_mj_async as mj
from kie_mj_async.cluster import Cluster


def make_app(database_url: str) -> web.Application:
    """A replica. It needs no API key: it puts jobs in, and hears what becomes of them."""
    cluster = Cluster(database_url)

    async def order(request: web.Request) -> web.Response:
        try:
            job = await cluster.submit(await request.text(), key=request.match_info["key"])
        except mj.InvalidRequest as error:
            return web.json_response({"error": str(error)}, status=422)
        return web.json_response({"key": job.key}, status=202)

    async def look(request: web.Request) -> web.Response:
        job = cluster.job(request.match_info["key"])
        try:
            if seconds := float(request.query.get("wait", "0")):
                made = await job.wait(seconds)
                return web.json_response({"state": "saved", "files": made.locations})
            return web.json_response({"state": (await job.look()).state})
        except mj.InvalidRequest as error:
            raise web.HTTPNotFound(text=str(error)) from None
        except mj.TaskTimedOut:
            return web.json_response({"state": "pending"})
        except mj.KieError as error:
            return web.json_response({"state": "failed", "error": str(error)})

    async def opened(_app: web.Application) -> AsyncIterator[None]:
        async with cluster:
            yield

    app = web.Application()
    app.router.add_post("/pictures/{key}", order)
    app.router.add_get("/pictures/{key}", look)
    app.cleanup_ctx.append(opened)
    return app


if __name__ == "__main__":
    replica = make_app(os.environ["KIE_DATABASE_URL"])
    web.run_app(replica, host="127.0.0.1", port=int(sys.argv[1]))
