"""The examples, run as they stand against a simulated service; a fleet's have a file of their own."""

from __future__ import annotations

import ast
import importlib.util
import json
import runpy
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest
from aiohttp import ClientSession, web
from support import simulated, until

import kie_mj_async as mj
from kie_mj_async import testing
from kie_mj_async.rules.callbacks import SIGNATURE, TIMESTAMP, signature

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parent.parent / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))
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


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[testing.Simulated]:
    """What a program with ``Client()`` talks to, in its time."""
    async with testing.simulated(time_scale=0.002) as simulated_service:
        monkeypatch.setenv("KIE_API_KEY", simulated_service.api_key)
        monkeypatch.setenv("KIE_BASE_URL", simulated_service.url)
        yield simulated_service


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """The URL of an ASGI application, over a real socket."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, ws="none", log_level="warning"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        await until(lambda: server.started)
        [listening] = server.servers[0].sockets
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True


async def ask(method: str, url: str, **options: Any) -> tuple[int, Any]:
    """The status and the JSON of an answer."""
    async with ClientSession() as session, session.request(method, url, **options) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_each_says_how_to_run_it(path: Path) -> None:
    """An example's docstring holds the command that runs it, and the table of examples its name."""
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert f"{path.stem}.py" in told or f"{path.stem}:app" in told
    assert "KIE_API_KEY=" in told
    assert f"[{path.name}]({path.name})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


async def test_a_batch(
    here: Path, service: testing.Simulated, capsys: pytest.CaptureFixture[str]
) -> None:
    """It renders a list, says what became of each prompt, and a second run pays for nothing."""
    (here / "prompts.txt").write_text("a fox\nan owl\n", encoding="utf-8")
    for _ in range(2):
        await example("batch").main("prompts.txt", "renders")
        assert capsys.readouterr().out.endswith("2 of 2 saved, 50 credits\n")
    assert len(list((here / "renders").glob("*.jpeg"))) == 8
    assert service.books()["charged_total"] == 50


async def test_an_archive(
    here: Path, service: testing.Simulated, capsys: pytest.CaptureFixture[str]
) -> None:
    """It saves what a list of ids names, at no cost; its exit code tells if something is missing."""
    async with service.client() as client:
        made = (await client.generate("a fox")).task_id
        late = (await client.generate("an owl")).task_id
    service.expire(late)
    (here / "ids.txt").write_text(f"{made}\n\n{late}\n", encoding="utf-8")
    main = example("archive").main
    assert await main("ids.txt", "archive") == 1
    assert f"not saved, will be tried again: {late}" in capsys.readouterr().out
    (here / "ids.txt").write_text(made, encoding="utf-8")
    assert await main("ids.txt", "another") == 0
    assert len(list((here / "another").glob("*.jpeg"))) == 4
    assert service.books()["charged_total"] == 50


async def test_a_chain(
    here: Path, service: testing.Simulated, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each prompt is rendered, its first picture upscaled, and that animated."""
    await example("chain").main("renders", "a fox in the snow")
    told = capsys.readouterr().out
    assert told.count("saved:") == 3
    assert len(list((here / "renders").glob("*.jpeg"))) == 5
    assert len(list((here / "renders").glob("*.mp4"))) == 1
    assert service.books()["charged_total"] == 75


async def test_a_notebook(
    here: Path, service: testing.Simulated, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a loop that runs already, its cells leave a run that goes on beside them."""
    space = runpy.run_path(str(EXAMPLES / "notebook.py"))
    outcomes = await space["run"]
    assert [type(outcome) for outcome in outcomes] == [mj.Saved] * 4
    assert "\r4 of 4 done, 16 files, 100 credits" in capsys.readouterr().out
    assert len(list((here / "renders").glob("*.jpeg"))) == 16


def test_a_notebook_as_a_program(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a loop it makes one, and ends when the list is done."""
    with testing.simulated_in_thread(time_scale=0.002) as service:
        monkeypatch.setenv("KIE_API_KEY", service.api_key)
        monkeypatch.setenv("KIE_BASE_URL", service.url)
        runpy.run_path(str(EXAMPLES / "notebook.py"), run_name="__main__")
    assert capsys.readouterr().out.count("\nsaved  ") == 4


async def test_a_fastapi_application_of_one_process(here: Path, service: testing.Simulated) -> None:
    """An order that comes twice is one task; asked for it, the application tells how it stands."""
    async with served(example("fastapi_single").app) as url:
        order = f"{url}/pictures/order-17"
        status, told = await ask("POST", order, params={"prompt": "a fox"})
        assert status == 202
        assert await ask("POST", order, params={"prompt": "a fox"}) == (202, told)
        task = f"{url}/tasks/{told['task']}"
        assert await ask("GET", task) == (200, {"state": "running"})
        status, told = await ask("GET", task, params={"wait": "20"})
        assert (status, told["state"], len(told["urls"])) == (200, "done", 4)
        assert (await ask("POST", f"{url}/pictures/bad", params={"prompt": " "}))[0] == 422
        _, told = await ask("POST", f"{url}/pictures/doomed", params={"prompt": "an owl"})
        service.fail(told["task"])
        _, told = await ask("GET", f"{url}/tasks/{told['task']}", params={"wait": "20"})
        assert told["state"] == "failed"
    assert service.books()["charged_total"] == 25


async def test_callbacks_in_an_aiohttp_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
            status, told = await ask("POST", f"{url}/pictures", data="a fox in the snow")
            assert status == 202
            task_id = told["task"]
            sim.world.finish(task_id)
            async with ClientSession() as session:
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


async def test_callbacks_in_a_fastapi_application(
    here: Path, service: testing.Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It believes what is signed, refuses the rest, and saves afterwards, once."""
    monkeypatch.setenv("KIE_WEBHOOK_KEY", KEY)
    app = example("callbacks_fastapi").app
    async with served(app) as url:
        task_id = (await app.state.client.submit("a fox in the snow")).task_id
        service.finish(task_id)
        body, headers = callback(task_id)
        for data, signed, status in (
            (body, headers, 200),
            (body, headers, 200),
            (body, callback(task_id, "another")[1], 401),
            (b"{}", headers, 400),
            (body + b" " * 70_000, headers, 413),
        ):
            told = await ask("POST", f"{url}/callbacks", data=data, headers=signed)
            assert told[0] == status
        await until(lambda: len(list((here / "renders" / task_id).glob("*.jpeg"))) == 4)
    assert len(list((here / "renders" / task_id).iterdir())) == 4
