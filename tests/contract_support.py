"""What the tests of the contract share: our transport beside a session that sends anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import aiohttp
import attrs
import pytest
from aiohttp import web
from support import KEY, picture

from kie_mj_async.errors import InvalidRequest
from kie_mj_async.requests import (
    Request,
)
from kie_mj_async.rules import billing, uploads
from kie_mj_async.rules.billing import Accepted, Refused
from kie_mj_async.rules.wire import Reply
from kie_mj_async.secret import Secret
from kie_mj_async.simulator import Simulator
from kie_mj_async.transport import Transport

IMAGE = "https://cdn.example/fox.png"
OTHER = "https://cdn.example/owl.png"
QUICK: dict[str, Any] = {"time_scale": 0.01, "picture_side": 16, "rate": (10_000, 10.0)}
ROOMY: dict[str, Any] = QUICK | {"max_running": 10_000, "credits": 10_000_000}
"""For one service that all rows of a file share."""

_Test = TypeVar("_Test", bound=Callable[..., Any])


def of(rows: Iterable[str], table: dict[str, Any]) -> Callable[[_Test], _Test]:
    """A test for each row of a section; none is left out."""
    assert list(table) == list(rows)
    return pytest.mark.parametrize(
        "row", [pytest.param(row, id=name) for name, row in table.items()]
    )


@asynccontextmanager
async def speaking(
    sim: Simulator, key: str = KEY
) -> AsyncIterator[tuple[Transport, aiohttp.ClientSession]]:
    """Our own transport, and a session that sends whatever it is told to."""
    headers = {"Authorization": f"Bearer {key}"}
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        Transport(sim.url, Secret(key), upload_url=sim.url) as ours,
        aiohttp.ClientSession(sim.url, headers=headers, connector=connector) as by_hand,
    ):
        yield ours, by_hand


@asynccontextmanager
async def service(
    faults: str = "", *, key: str = KEY, **options: Any
) -> AsyncIterator[tuple[Simulator, Transport, aiohttp.ClientSession]]:
    """A service of its own, for a row that takes another one."""
    async with (
        Simulator(faults=faults, **QUICK | options) as one,
        speaking(one, key) as (ours, by_hand),
    ):
        yield one, ours, by_hand


async def accepted(ours: Transport, request: Request) -> str:
    """The id of the task that a request of ours makes."""
    answer = await ours.create(request)
    verdict = billing.judge(answer)
    assert isinstance(verdict, Accepted), (request, answer)
    return verdict.task_id


async def ended(sim: Simulator, ours: Transport, request: Request) -> str:
    """The same, once the task has ended."""
    task_id = await accepted(ours, request)
    sim.world.finish(task_id)
    return task_id


async def uploaded(ours: Transport, content: bytes | None = None) -> str | uploads.Failure:
    """What becomes of a picture that our transport uploads."""
    content = picture() if content is None else content
    with TemporaryDirectory() as folder:
        path = Path(folder) / "fox.png"
        path.write_bytes(content)
        answer = await ours.upload(path, hashlib.sha256(content).hexdigest() + ".png")
    return uploads.judge(answer, "fox.png")


async def posted(by_hand: aiohttp.ClientSession, path: str, body: Any) -> Any:
    """The answer to a body as it is."""
    async with by_hand.post(path, json=body) as answer:
        return await answer.json()


async def check_refused(
    by_hand: aiohttp.ClientSession, path: str, body: dict[str, Any], field: str
) -> None:
    """The service refuses this body for this field, and our reader says so."""
    async with by_hand.post(path, json=body) as answer:
        raw = await answer.read()
    told = json.loads(raw)
    assert (told["code"], told["msg"].partition(" ")[0]) == (422, field), (body, told)
    verdict = billing.judge(Reply(200, raw))
    assert isinstance(verdict, Refused)
    assert isinstance(verdict.error, InvalidRequest)
    assert verdict.then == "fail"


@attrs.define
class Hook:
    """Where callbacks come in: each body and its headers, as they came."""

    url: str = ""
    got: list[tuple[bytes, dict[str, str]]] = attrs.field(factory=list)

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((await request.read(), dict(request.headers)))
        return web.Response()


@asynccontextmanager
async def hook() -> AsyncIterator[Hook]:
    one = Hook()
    app = web.Application()
    app.router.add_post("/hook", one.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield one
    finally:
        await runner.cleanup()
