"""A web application that orders pictures and saves each as soon as its callback comes.

KIE_API_KEY=... KIE_WEBHOOK_KEY=... python examples/callbacks_aiohttp.py https://pictures.example renders
curl -d "a fox in the snow" http://127.0.0.1:8080/pictures
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

import kie_mj_async as mj


def make_app(public_url: str, out: Path, webhook_key: str) -> web.Application:
    """The application; the service reaches it as ``public_url``."""
    client = mj.Client(max_credits=1000)
    saving: set[asyncio.Task[None]] = set()

    async def order(request: web.Request) -> web.Response:
        task = await client.submit(await request.text(), callback_url=f"{public_url}/callbacks")
        waiter = asyncio.create_task(save(task))
        saving.add(waiter)  # the event loop itself does not hold on to it
        waiter.add_done_callback(saving.discard)
        return web.json_response({"task": task.task_id}, status=202)

    async def save(task: mj.Task) -> None:
        # The callback wakes this up; with none, a slow poll is the safety net.
        try:
            result = await task.wait()
            await result.save(out / task.task_id)
        except mj.KieError as error:
            print(error)

    async def client_open(_app: web.Application) -> AsyncIterator[None]:
        async with client:
            yield

    app = web.Application()
    app.router.add_post("/pictures", order)
    app.cleanup_ctx.append(client_open)
    client.receiver(key=webhook_key, path="/callbacks").mount(app)
    return app


if __name__ == "__main__":
    application = make_app(sys.argv[1], Path(sys.argv[2]), os.environ["KIE_WEBHOOK_KEY"])
    web.run_app(application, host="127.0.0.1", port=8080)
