"""``kie-mj listen``: the callback receiver on its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import attrs
import pytest
from aiohttp import ClientSession
from cli_support import Shell, complaint
from support import until

from kie_mj_async.cli import listen as module
from kie_mj_async.cli.listen import line, listen
from kie_mj_async.errors import ConfigError
from kie_mj_async.receiver import Notice
from kie_mj_async.rules.callbacks import SIGNATURE, TIMESTAMP, Callback, signature, token_of

KEY = "webhook-key-0123456789"
TASK = "9f47c52047dda21bb3df0488736cce57"


@attrs.define
class Listening:
    """A listener, and what it has said."""

    lines: list[str]
    said: list[str]

    @property
    def url(self) -> str:
        """The address to send callbacks to."""
        found: list[str] = re.findall(r"http://\S+", " ".join(self.said))
        return found[-1]

    async def post(self, body: bytes, key: str | None = None) -> int:
        stamp = str(int(time.time()))
        headers = {TIMESTAMP: stamp, SIGNATURE: signature(key, TASK, stamp)} if key else {}
        async with (
            ClientSession() as session,
            session.post(self.url, data=body, headers=headers) as answer,
        ):
            return answer.status


@asynccontextmanager
async def listening(
    monkeypatch: pytest.MonkeyPatch, key: str | None, number: int = signal.SIGTERM
) -> AsyncIterator[Listening]:
    """Listens until the block has ended, and then is interrupted."""
    here = Listening([], [])
    monkeypatch.setattr(module, "say", here.said.append)

    async def work() -> None:
        await listen("127.0.0.1", 0, "/hook", key, tell=here.lines.append)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            await until(lambda: len(here.said) == 2)
            yield here
            os.kill(os.getpid(), number)


def told(**changes: object) -> bytes:
    data = {"taskId": TASK, "resultUrls": ["https://cdn.test/1", "https://cdn.test/2"]}
    return json.dumps({"code": 200, "msg": "success", "data": data, **changes}).encode()


@pytest.mark.anyio
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_with_a_key(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A line for each signed callback, the address at the start, the numbers at the end."""
    async with listening(monkeypatch, KEY, number) as here:
        assert here.url.endswith("/hook")
        assert "signed with the account's webhook key" in here.said[-1]
        assert await here.post(told(), KEY) == 200
        assert await here.post(told(code=501, data={"taskId": TASK}), KEY) == 200
        assert await here.post(told(), "another") == 401
        await until(lambda: len(here.lines) == 2)
    urls = ["https://cdn.test/1", "https://cdn.test/2"]
    assert [json.loads(one) for one in here.lines] == [
        {"task_id": TASK, "succeeded": True, "code": 200, "urls": urls, "signed": True},
        {"task_id": TASK, "succeeded": False, "code": 501, "urls": [], "signed": True},
    ]
    assert here.said[-1] == "2 callbacks received, 1 refused"
    assert KEY not in " ".join(here.said)


@pytest.mark.anyio
async def test_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes up a token, says the address with it, and believes nothing else."""
    async with listening(monkeypatch, None) as here:
        assert token_of(here.url) is not None
        assert "KIE_WEBHOOK_KEY" in here.said[-1]
        assert await here.post(told()) == 200
        here.said.append(here.url.partition("?")[0])
        assert await here.post(told(), KEY) == 401
        await until(lambda: here.lines)
    (told_line,) = map(json.loads, here.lines)
    assert (told_line["task_id"], told_line["succeeded"], told_line["signed"]) == (
        TASK,
        True,
        False,
    )
    assert str(token_of(here.said[1])) not in here.lines[0]
    assert here.said[-1] == "1 callback received, 1 refused"


@pytest.mark.anyio
async def test_what_is_refused_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who set something up wrongly sees why nothing comes, in few lines."""
    monkeypatch.setattr(module, "_EVERY", 0.2)
    async with listening(monkeypatch, KEY) as here:
        for _ in range(3):
            await here.post(told(), "another")
        await here.post(b"{}", KEY)
        await until(lambda: here.said[-1].startswith("refused: "))
    reports = [said.removeprefix("refused: ") for said in here.said if said.startswith("refused")]
    assert 1 <= len(reports) <= 3
    counted = [(int(n), what) for n, what in re.findall(r"(\d+) (\w+)", ", ".join(reports))]
    assert sum(n for n, what in counted if what == "forged") == 3
    assert sum(n for n, what in counted if what == "malformed") == 1


@pytest.mark.anyio
async def test_a_port_that_is_taken() -> None:
    """A port that another program has is an error that names it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen at"):
            await listen("127.0.0.1", taken.getsockname()[1], "/", KEY)


@pytest.mark.anyio
async def test_an_empty_key() -> None:
    """A key that is set to nothing is a mistake, and not the same as none."""
    with pytest.raises(ConfigError, match="KIE_WEBHOOK_KEY"):
        await listen("127.0.0.1", 0, "/", "")


@pytest.mark.parametrize(
    ("callback", "succeeded"),
    [
        (Callback("t", 200, True, ("https://x.test/1",)), True),
        (Callback("t", None, False), False),
        (Callback("t\n\u2028 \x9b", 200, None), None),
    ],
)
def test_lines(callback: Callback, succeeded: bool | None) -> None:
    """Each callback is one line of plain JSON: the task, how it ended, and who vouches for it."""
    told = line(Notice(callback, signed=True, token="f" * 32))
    assert told.isascii()
    assert told.isprintable()
    assert json.loads(told) == {
        "task_id": callback.task_id,
        "succeeded": succeeded,
        "code": callback.code,
        "urls": list(callback.urls),
        "signed": True,
    }


def test_lines_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """What is received is the command's output; what it says about itself is not."""
    module._print("a line")
    assert capsys.readouterr() == ("a line\n", "")


# The command. What it gives to listen() is all there is to it.


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What the command listens with."""
    seen: list[tuple[object, ...]] = []

    async def listened(*arguments: object) -> None:
        seen.append(arguments)

    monkeypatch.setattr(module, "listen", listened)
    return seen


@pytest.mark.parametrize(
    ("variable", "key"), [(None, None), ("", None), (KEY, KEY)], ids=["no key", "empty", "a key"]
)
def test_the_key_comes_from_the_environment(
    shell: Shell, given: list[tuple[object, ...]], variable: str | None, key: str | None
) -> None:
    """KIE_WEBHOOK_KEY is the key; set to nothing it is none."""
    if variable is not None:
        shell.patch.setenv("KIE_WEBHOOK_KEY", variable)
    assert shell("listen", "--host", "0.0.0.0", "--port", "81", "--path", "/hook").code == 0
    assert given == [("0.0.0.0", 81, "/hook", key)]


def test_what_cannot_be_listened_at(shell: Shell) -> None:
    """A port that is taken, and a path that is none, are one line each."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1:{port}" in complaint(shell("listen", "--port", port))
    assert "'hook'" in complaint(shell("listen", "--port", "0", "--path", "hook"))
