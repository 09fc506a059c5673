"""A web application that orders pictures and saves each as soon as its callback comes.

KIE_API_KEY=... KIE_WEBHOOK_KEY=... python examples/callbacks_aiohttp.py https://pictures.example renders
curl -d "a fox in the snow" http://127.0.0.1:8080/pictures
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

import kie_mj_async as mj
from kie_mj_async.receiver import Notice, Receiver


def make_app(public_url: str, out: Path, webhook_key: str) -> web.Application:
    """The application; the service reaches it as ``public_url``."""
    client = mj.Client(max_credits=1000)
    saved: set[str] = set()

    async def order(request: web.Request) -> web.Response:
        task = await client.submit(await request.text(), callback_url=f"{public_url}/callbacks")
        return web.json_response({"task": task.task_id}, status=202)

    async def ended(notice: Notice) -> None:
        task_id = notice.callback.task_id
        if task_id in saved:  # a callback can come twice
            return
        saved.add(task_id)
        # The callback is a hint; the task's record is the truth, and wait() reads it.
        try:
            result = await client.task(task_id).wait(timeout=120)
            await result.save(out / task_id)
        except mj.TaskFailed as error:
            print(error)
        except mj.KieError as error:
            print("not saved yet:", error)
            saved.discard(task_id)

    async def client_open(_app: web.Application) -> AsyncIterator[None]:
        async with client:
            yield

    app = web.Application()
    app.router.add_post("/pictures", order)
    app.cleanup_ctx.append(client_open)
    Receiver(ended, key=webhook_key, path="/callbacks").mount(app)
    return app


if __name__ == "__main__":
    application = make_app(sys.argv[1], Path(sys.argv[2]), os.environ["KIE_WEBHOOK_KEY"])
    web.run_app(application, host="127.0.0.1", port=8080)
