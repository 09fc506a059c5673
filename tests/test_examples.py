"""The examples of callbacks, run as they stand."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientSession, web
from support import simulated, until

from kie_mj_async.rules.callbacks import SIGNATURE, TIMESTAMP, signature

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parent.parent / "examples"
KEY = "webhook-key-0123456789"


def example(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def callback(task_id: str, key: str = KEY) -> tuple[bytes, dict[str, str]]:
    """As the service sends it."""
    stamp = str(int(time.time()))
    body = json.dumps({"code": 200, "msg": "success", "data": {"taskId": task_id}}).encode()
    return body, {TIMESTAMP: stamp, SIGNATURE: signature(key, task_id, stamp)}


async def test_an_aiohttp_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It orders a picture, and has it on disk as soon as the callback has come, with one poll."""
    async with simulated() as sim:
        monkeypatch.setenv("KIE_API_KEY", "any")
        monkeypatch.setenv("KIE_BASE_URL", sim.url)
        # The service cannot reach it there: the callbacks are sent by hand.
        app = example("callbacks_aiohttp").make_app("http://127.0.0.1:9", tmp_path, KEY)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            async with ClientSession() as session:
                async with session.post(f"{url}/pictures", data="a fox in the snow") as answer:
                    assert answer.status == 202
                    task_id = (await answer.json())["task"]
                sim.world.finish(task_id)
                for key, status in (("another", 401), (KEY, 200), (KEY, 200)):
                    body, headers = callback(task_id, key)
                    async with session.post(
                        f"{url}/callbacks", data=body, headers=headers
                    ) as answer:
                        assert answer.status == status
            await until(lambda: len(list((tmp_path / task_id).glob("*.jpeg"))) == 4)
        finally:
            await runner.cleanup()
        assert sim.books()["polls"][task_id] == 1
    assert len(list((tmp_path / task_id).iterdir())) == 4


class FakeApi:
    """What the example uses of FastAPI's application."""

    def __init__(self, lifespan: Any) -> None:
        self.lifespan = lifespan
        self.state = SimpleNamespace()
        self.routes: dict[str, Any] = {}

    def add_api_route(self, path: str, endpoint: Any, methods: list[str]) -> None:
        assert methods == ["POST"]
        self.routes[path] = endpoint


class Refusal(Exception):
    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


class FakeRequest:
    """What it uses of a request."""

    def __init__(self, body: bytes, headers: dict[str, str]) -> None:
        self.headers = headers
        self._body = body

    async def stream(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), 1000):
            yield self._body[start : start + 1000]


class Later:
    """What it uses of the tasks for later."""

    def __init__(self) -> None:
        self.tasks: list[tuple[Any, ...]] = []

    def add_task(self, *task: Any) -> None:
        self.tasks.append(task)


async def test_a_fastapi_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its callback believes what is signed, refuses the rest, and saves afterwards, once.

    FastAPI is no dependency, so the few of its parts that the example uses are stood in for.
    """
    parts = {"FastAPI": FakeApi, "HTTPException": Refusal, "Request": FakeRequest}
    stand_in = SimpleNamespace(**parts, BackgroundTasks=Later)
    monkeypatch.setitem(sys.modules, "fastapi", stand_in)
    monkeypatch.setenv("KIE_WEBHOOK_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    module = example("callbacks_fastapi")
    endpoint = module.app.routes["/callbacks"]
    async with simulated() as sim:
        monkeypatch.setenv("KIE_API_KEY", "any")
        monkeypatch.setenv("KIE_BASE_URL", sim.url)
        async with module.lifespan(module.app):
            task_id = (await module.app.state.client.submit("a fox in the snow")).task_id
            sim.world.finish(task_id)
            later = Later()
            body, headers = callback(task_id)
            for _ in range(2):
                assert await endpoint(FakeRequest(body, headers), later) == {"status": "ok"}
            for bad, signed, status in (
                (body, callback(task_id, "another")[1], 401),
                (b"{}", headers, 400),
                (body + b" " * 70_000, headers, 413),
            ):
                with pytest.raises(Refusal) as caught:
                    await endpoint(FakeRequest(bad, signed), later)
                assert caught.value.status_code == status
            assert len(later.tasks) == 2
            for work, *arguments in later.tasks:
                await work(*arguments)
    assert len(list((tmp_path / "renders" / task_id).glob("*.jpeg"))) == 4
