"""A service that speaks four dialects over the same jobs, for ``end_to_end.py``.

    python -m benchmarks.peer_stub WORLD.json       prints its port

KIE.ai, Replicate, fal's queue and Runway, one world behind them: so many creates in a rolling window
(429 above), so many tasks at once (429 above), a create's reply after about a second, durations drawn
from a seed by the number of the accepted create, and four pictures a task. ``GET /books`` tells what
came in. All durations are multiplied by the world's ``scale``.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import logging
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from aiohttp import web

from benchmarks.peer_world import AT_ONCE, CREATES, FILE_BYTES, FILES, WINDOW, World

_NOISE = memoryview(os.urandom(16 << 20))
_BLOCK = 512 << 10


@attrs.define
class Task:
    """One accepted create."""

    number: int
    prompt: str
    created: float
    done: float
    seen: bool = False

    @property
    def id(self) -> str:
        """Its name at the service."""
        return f"{self.number:032x}"

    @property
    def links(self) -> list[str]:
        """Paths of its results."""
        return [f"/results/{self.id}/{index}.jpeg" for index in range(FILES)]


class Refused(Exception):
    """A 429."""


class Service:
    """What the dialects share.

    Args:
        world: What it is like.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.tasks: dict[str, Task] = {}
        self.recent: deque[float] = deque()
        self.running: list[float] = []
        self.paid: Counter[str] = Counter()
        self.counted: Counter[str] = Counter()
        self.delays: list[float] = []
        self.most_running = 0

    async def create(self, request: web.Request, prompt: Callable[[Any], str]) -> Task:
        """Accept a create, and take a while to say so.

        Raises:
            Refused: Too many in the window, or at once.
            ConnectionResetError: It is accepted, and the answer is lost.
        """
        text = prompt(await request.json())
        now, scale = time.monotonic(), self.world.scale
        while self.recent and self.recent[0] <= now - WINDOW * scale:
            self.recent.popleft()
        while self.running and self.running[0] <= now:
            heapq.heappop(self.running)
        if len(self.recent) >= CREATES or len(self.running) >= AT_ONCE:
            self.counted["refused"] += 1
            raise Refused
        number = len(self.tasks)
        task = Task(number, text, now, now + self.world.duration(number) * scale)
        self.tasks[task.id] = task
        self.recent.append(now)
        heapq.heappush(self.running, task.done)
        self.most_running = max(self.most_running, len(self.running))
        self.paid[text] += 1
        await asyncio.sleep(self.world.round_trip(number) * scale)
        if self.world.drops(number):
            self.counted["dropped"] += 1
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError
        return task

    def look(self, task_id: str) -> tuple[Task, bool]:
        """A poll: the task, and whether it has ended."""
        self.counted["polls"] += 1
        task, now = self.tasks[task_id], time.monotonic()
        ended = now >= task.done
        if ended and not task.seen:
            task.seen = True
            self.delays.append((now - task.done) / (self.world.scale or 1))
        return task, ended

    def books(self) -> dict[str, Any]:
        """What came in."""
        return {
            "paid": self.paid,
            "polls": self.counted["polls"],
            "refused": self.counted["refused"],
            "dropped": self.counted["dropped"],
            "delays": self.delays,
            "most_running": self.most_running,
        }


def routes(service: Service) -> web.RouteTableDef:
    """The four dialects, the results and the books."""
    table = web.RouteTableDef()
    behind = time.time() - time.monotonic()

    def answer(body: Any, status: int = 200) -> web.Response:
        return web.Response(
            body=json.dumps(body).encode(), status=status, content_type="application/json"
        )

    def links(request: web.Request, task: Task) -> list[str]:
        return [f"http://{request.host}{path}" for path in task.links]

    # KIE.ai

    @table.post("/api/v1/mj/generate")
    async def kie_create(request: web.Request) -> web.Response:
        try:
            task = await service.create(request, lambda body: str(body["prompt"]))
        except Refused:
            return answer({"code": 429, "msg": "too many requests", "data": None}, 429)
        return answer({"code": 200, "msg": "success", "data": {"taskId": task.id}})

    @table.get("/api/v1/mj/record-info")
    async def kie_record(request: web.Request) -> web.Response:
        task, ended = service.look(request.query["taskId"])
        results = [{"resultUrl": url} for url in links(request, task)]
        data = {
            "taskId": task.id,
            "taskType": "mj_txt2img",
            "paramJson": json.dumps({"prompt": task.prompt, "speed": "fast"}),
            "successFlag": int(ended),
            "createTime": int((task.created + behind) * 1000),
            "completeTime": int((task.done + behind) * 1000) if ended else None,
            "resultInfoJson": {"resultUrls": results} if ended else None,
            "errorCode": None,
            "errorMessage": None,
        }
        return answer({"code": 200, "msg": "success", "data": data})

    @table.get("/api/v1/chat/credit")
    async def kie_credits(_: web.Request) -> web.Response:
        return answer({"code": 200, "msg": "success", "data": 1_000_000})

    # Replicate

    def prediction(request: web.Request, task: Task, ended: bool) -> dict[str, Any]:
        here = f"http://{request.host}/v1/predictions/{task.id}"
        return {
            "id": task.id,
            "model": "midjourney/any",
            "version": "1",
            "status": "succeeded" if ended else "processing",
            "input": {"prompt": task.prompt},
            "output": links(request, task) if ended else None,
            "error": None,
            "logs": "",
            "created_at": "2026-11-22T00:00:00.000Z",
            "urls": {"get": here, "cancel": f"{here}/cancel"},
        }

    @table.post("/v1/predictions")
    async def replicate_create(request: web.Request) -> web.Response:
        try:
            task = await service.create(request, lambda body: str(body["input"]["prompt"]))
        except Refused:
            return answer({"status": 429, "title": "Too Many Requests", "detail": "slow down"}, 429)
        return answer(prediction(request, task, False), 201)

    @table.get("/v1/predictions/{id}")
    async def replicate_read(request: web.Request) -> web.Response:
        return answer(prediction(request, *service.look(request.match_info["id"])))

    # fal

    def queued(request: web.Request, task: Task, status: str) -> dict[str, Any]:
        here = f"http://{request.host}/fal/midjourney/any/requests/{task.id}"
        return {
            "status": status,
            "request_id": task.id,
            "response_url": here,
            "status_url": f"{here}/status",
            "cancel_url": f"{here}/cancel",
            "queue_position": 0,
            "logs": None,
            "metrics": {},
        }

    @table.post("/fal/{owner}/{app}")
    async def fal_create(request: web.Request) -> web.Response:
        try:
            task = await service.create(request, lambda body: str(body["prompt"]))
        except Refused:
            return answer({"detail": "too many requests"}, 429)
        return answer(queued(request, task, "IN_QUEUE"))

    @table.get("/fal/{owner}/{app}/requests/{id}/status")
    async def fal_status(request: web.Request) -> web.Response:
        task, ended = service.look(request.match_info["id"])
        return answer(queued(request, task, "COMPLETED" if ended else "IN_PROGRESS"))

    @table.get("/fal/{owner}/{app}/requests/{id}")
    async def fal_result(request: web.Request) -> web.Response:
        task = service.tasks[request.match_info["id"]]
        return answer({"images": [{"url": url} for url in links(request, task)]})

    # Runway

    @table.post("/v1/text_to_image")
    async def runway_create(request: web.Request) -> web.Response:
        try:
            task = await service.create(request, lambda body: str(body["promptText"]))
        except Refused:
            return answer({"error": "too many requests"}, 429)
        return answer({"id": task.id})

    @table.get("/v1/tasks/{id}")
    async def runway_read(request: web.Request) -> web.Response:
        task, ended = service.look(request.match_info["id"])
        told: dict[str, Any] = {"id": task.id, "createdAt": "2026-11-22T00:00:00.000Z"}
        if ended:
            told |= {"status": "SUCCEEDED", "output": links(request, task)}
        else:
            told |= {"status": "RUNNING", "progress": 0.5}
        return answer(told)

    # Results and books

    @table.get("/results/{id}/{index}.jpeg", allow_head=False)
    async def result(request: web.Request) -> web.StreamResponse:
        task, index = service.tasks[request.match_info["id"]], int(request.match_info["index"])
        head = b"\xff\xd8\xff\xe0" + (task.number * FILES + index).to_bytes(8, "big")
        reply = web.StreamResponse(headers={"Content-Type": "image/jpeg", "ETag": f'"{task.id}"'})
        reply.content_length = FILE_BYTES
        await reply.prepare(request)
        await reply.write(head)
        left = FILE_BYTES - len(head) - 2
        while left:
            size = min(left, _BLOCK)
            await reply.write(_NOISE[:size])
            left -= size
        await reply.write(b"\xff\xd9")
        await reply.write_eof()
        return reply

    @table.get("/books")
    async def books(_: web.Request) -> web.Response:
        return answer(service.books())

    return table


async def serve(world: World) -> None:
    """Serve until the process is ended."""
    app = web.Application()
    app.add_routes(routes(Service(world)))
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=120)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    logging.disable(logging.ERROR)  # a connection that it cuts itself is nothing to report
    described = World(**json.loads(Path(sys.argv[1]).read_text()))
    try:
        import uvloop  # type: ignore[import-not-found,unused-ignore]

        uvloop.run(serve(described))
    except ImportError:
        asyncio.run(serve(described))
