"""The API's calls over a real socket, with every fault."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import pytest

from kie_mj_async.simulator import KINDS, Simulator

pytestmark = pytest.mark.anyio
GENERATE = "/api/v1/mj/generate"
TEXT: dict[str, Any] = {"taskType": "mj_txt2img", "prompt": "a fox"}


@asynccontextmanager
async def service(faults: str = "", **options: Any) -> AsyncIterator[tuple[Simulator, Any]]:
    options = {"time_scale": 0.01, "picture_side": 16} | options
    headers = {"Authorization": "Bearer key"}
    async with (
        Simulator(faults=faults, **options) as sim,
        aiohttp.ClientSession(sim.url, headers=headers) as session,
    ):
        yield sim, session


async def look(session: Any, method: str, path: str, **options: Any) -> tuple[Any, Any, Any]:
    """Status, body and headers; or the exception's name where there is no answer."""
    options = {"timeout": aiohttp.ClientTimeout(total=20)} | options
    try:
        async with session.request(method, path, allow_redirects=False, **options) as answer:
            text = await answer.text()
            headers = dict(answer.headers)
            try:
                return answer.status, json.loads(text), headers
            except ValueError:
                return answer.status, text, headers
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__, None, {}


async def create(
    session: Any, body: Any = None, path: str = GENERATE, **options: Any
) -> tuple[Any, Any, Any]:
    return await look(session, "POST", path, json=TEXT if body is None else body, **options)


async def poll(session: Any, task_id: str, **options: Any) -> tuple[Any, Any, Any]:
    return await look(session, "GET", f"/api/v1/mj/record-info?taskId={task_id}", **options)


def patience(kind: str) -> dict[str, Any]:
    """Where no answer is to be expected, waiting for it is short."""
    return {"timeout": aiohttp.ClientTimeout(total=0.3)} if kind == "stall" else {}


async def finished(sim: Simulator, session: Any, body: Any = None) -> str:
    """A task that has ended."""
    _, answer, _ = await create(session, body)
    task_id: str = answer["data"]["taskId"]
    sim.world.finish(task_id)
    return task_id


def shape(status: Any, body: Any) -> Any:
    """What an answer boils down to."""
    if isinstance(body, dict):
        return status, body.get("code")
    if isinstance(body, str) and body:
        return status, "html" if body.startswith("<html>") else "cut" if body[0] == "{" else "?"
    return status, body


CREATES: dict[str, tuple[Any, bool]] = {
    "400": ((200, 400), False),
    "401": ((401, 401), False),
    "402": ((200, 402), False),
    "404": ((200, 404), False),
    "422": ((200, 422), False),
    "429": ((429, 429), False),
    "429-running": ((429, 429), False),
    "429-bare": ((429, ""), False),
    "455": ((200, 455), False),
    "505": ((200, 505), False),
    "500": ((200, 500), False),
    "500-charged": ((200, 500), True),
    "501": ((200, 501), False),
    "unknown-code": ((200, 599), False),
    "html": ((502, "html"), False),
    "html-charged": ((200, "html"), True),
    "empty": ((200, ""), True),
    "no-id": ((200, 200), True),
    "string-code": ((200, "200"), True),
    "truncate": ((200, "cut"), True),
    "drop": (("ServerDisconnectedError", None), False),
    "drop-reply": (("ServerDisconnectedError", None), True),
    "stall": (("TimeoutError", None), True),
    "redirect": ((307, ""), False),
    "slow": ((200, 200), True),
    "retry-after": ((200, 200), True),
}


def test_every_fault_has_its_test() -> None:
    """The tables of this file leave no fault of creates and polls out."""
    assert set(CREATES) == set(KINDS["create"])
    assert set(POLLS) == set(KINDS["poll"])


@pytest.mark.parametrize("kind", CREATES)
async def test_faults_of_creates(kind: str) -> None:
    """Each fault has its own look on the wire, and the books tell whether it was charged."""
    expected, charged = CREATES[kind]
    async with service(f"create.{kind}=#1") as (sim, session):
        status, body, _ = await create(session, **patience(kind))
        assert shape(status, body) == expected
        entry = sim.books()["creates"][0]
        assert entry["charged"] == charged
        assert entry["fault"] == (None if kind == "retry-after" else kind)
        assert sim.books()["charged_total"] == 25 * charged
        if kind in {"no-id", "500-charged"}:
            assert not body["data"]
        status, body, _ = await create(session)
        assert shape(status, body) == (200, 200)


POLLS: dict[str, Any] = {
    "401": (401, 401),
    "429": (429, 429),
    "455": (200, 455),
    "500": (500, 500),
    "html": (503, "html"),
    "empty": (200, ""),
    "truncate": (200, "cut"),
    "drop": None,
    "stall": ("TimeoutError", None),
    "null-record": (200, 422),
    "flat": (200, None),
    "iso": (200, 200),
    "strings": (200, "200"),
    "no-url": (200, 200),
    "unknown-flag": (200, 200),
    "slow": (200, 200),
    "retry-after": (200, 200),
}


@pytest.mark.parametrize("kind", [kind for kind in POLLS if kind != "drop"])
async def test_faults_of_polls(kind: str) -> None:
    """Each fault spoils the poll it was meant for, and the next one is answered as usual."""
    async with service(f"poll.{kind}=#1") as (sim, session):
        task_id = await finished(sim, session)
        status, body, _ = await poll(session, task_id, **patience(kind))
        assert shape(status, body) == POLLS[kind]
        status, body, _ = await poll(session, task_id)
        assert shape(status, body) == (200, 200)
        assert len(body["data"]["resultInfoJson"]["resultUrls"]) == 4
        assert sim.books()["polls"] == {task_id: 2}
        assert sim.books()["faults"] == ({} if kind == "retry-after" else {f"poll.{kind}": 1})


async def test_dropped_polls() -> None:
    """A dropped poll is closed without a byte."""
    async with service("poll.drop=#1") as (sim, session):
        task_id = await finished(sim, session)
        # Not with aiohttp, which repeats a GET by itself.
        async with await anyio.connect_tcp("127.0.0.1", int(sim.url.rpartition(":")[2])) as stream:
            lines = f"GET /api/v1/mj/record-info?taskId={task_id} HTTP/1.1", "Host: x"
            await stream.send("\r\n".join([*lines, "Authorization: Bearer key", "", ""]).encode())
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        assert sim.books()["faults"] == {"poll.drop": 1}


async def test_faults_of_tasks() -> None:
    """Tasks that fail say so, each with its flag; one that is late is unknown at first."""
    async with service("task.fail=#1,task.fail-create=#2,task.late-record=#3") as (sim, session):
        flags = []
        for _ in range(2):
            _, body, _ = await poll(session, await finished(sim, session))
            flags.append(body["data"]["successFlag"])
        assert flags == [2, 3]
        assert sim.books()["credits"] == 100_000
        _, created, _ = await create(session)
        _, body, _ = await poll(session, created["data"]["taskId"])
        assert body == {"code": 422, "msg": "recordInfo is null", "data": None}


async def test_a_redirect_leads_the_key_elsewhere() -> None:
    """Who follows the redirect of a create is charged there, and the books show the key went."""
    async with service("create.redirect=1") as (sim, session):
        _, _, headers = await create(session)
        status, body, _ = await create(session, path=headers["Location"])
        assert shape(status, body) == (200, 200)
        prefixes = {one["prefix"] for one in sim.books()["keys"] if one["authorization"]}
        assert "/elsewhere" in prefixes
        assert "Bearer" not in json.dumps(sim.books())


async def test_429s_can_carry_retry_after() -> None:
    """With the modifier a 429 names seconds, be it real, bare, or of a poll; else it does not."""
    spec = "create.retry-after=1,create.429-bare=#2,poll.429=#1,poll.retry-after=1"
    async with service(spec, rate=(1, 1000.0)) as (sim, session):
        task_id = await finished(sim, session)
        _, _, bare = await create(session)
        _, _, window = await create(session)
        _, _, polled = await poll(session, task_id)
        assert all(5 <= int(one["Retry-After"]) <= 10 for one in (bare, window))
        assert polled["Retry-After"] == "1"
    async with service(rate=(1, 1000.0)) as (_, session):
        await create(session)
        status, _, headers = await create(session)
        assert status == 429
        assert "Retry-After" not in headers


async def test_follow_ups() -> None:
    """Follow-ups make tasks of their own, with as many results as they should have."""
    async with service() as (sim, session):
        parent = await finished(sim, session)
        video = {**TEXT, "taskType": "mj_video", "motion": "low", "fileUrl": "https://x.org/a.png"}
        film = await finished(sim, session, video)
        bodies = {
            "generateUpscale": {"taskId": parent, "imageIndex": 3},
            "generateVary": {"taskId": parent, "imageIndex": 0},
            "generateVideoExtend": {"taskId": film, "index": 0, "taskType": "mj_video_extend_auto"},
        }
        results, told = {}, {}
        for call, body in bodies.items():
            _, answer, _ = await create(session, body, f"/api/v1/mj/{call}")
            sim.world.finish(answer["data"]["taskId"])
            _, record, _ = await poll(session, answer["data"]["taskId"])
            results[call] = len(record["data"]["resultInfoJson"]["resultUrls"])
            told[call] = record["data"]["taskType"]
            assert json.loads(record["data"]["paramJson"]) == body
        assert told == {
            "generateUpscale": "mj_upscale",
            "generateVary": "mj_vary",
            "generateVideoExtend": "mj_video_extend_auto",
        }
        assert results == {"generateUpscale": 1, "generateVary": 4, "generateVideoExtend": 1}
        _, answer, _ = await create(session, {"taskId": "x", "imageIndex": 0}, GENERATE + "Vary")
        assert answer["code"] == 422


async def test_bad_bodies() -> None:
    """What is no JSON object is refused like any other bad body, and kept in the books."""
    async with service() as (sim, session):
        for data in (b"", b"{", b"[]", b"[" * 100_000):
            _, answer, _ = await look(session, "POST", GENERATE, data=data)
            assert answer["code"] == 422
        status, _, _ = await look(session, "POST", GENERATE, data=io.BytesIO(b"x" * 2**21))
        assert status == 413
        assert [one["code"] for one in sim.books()["creates"]] == [422] * 4


async def test_keys() -> None:
    """Every call of the API wants the account's key."""
    calls = [
        ("POST", GENERATE),
        ("GET", "/api/v1/mj/record-info?taskId=x"),
        ("GET", "/api/v1/chat/credit"),
        ("POST", "/api/v1/common/download-url"),
    ]
    async with service(api_key="right") as (sim, session):
        for method, path in calls:
            for key in ("", "Bearer", "Bearer wrong", "Basic right"):
                headers = {"Authorization": key}
                status, body, _ = await look(session, method, path, json=TEXT, headers=headers)
                assert (status, body["code"]) == (401, 401)
        headers = {"Authorization": "Bearer right"}
        status, body, _ = await look(session, "POST", GENERATE, json=TEXT, headers=headers)
        assert body["code"] == 200
        assert sim.books()["accepted"] == 1


async def test_credit_is_a_number() -> None:
    """The balance falls with each create, and is a whole number where it is whole."""
    async with service(credits=100) as (_, session):
        _, before, _ = await look(session, "GET", "/api/v1/chat/credit")
        await create(session)
        _, after, _ = await look(session, "GET", "/api/v1/chat/credit")
        assert (before["data"], after["data"]) == (100, 75)
        assert isinstance(after["data"], int)


async def test_fresh_links() -> None:
    """A fresh link works without a key; only links of this service to stored files get one."""
    async with service("download.dead-link=1") as (sim, session):
        task_id = await finished(sim, session)
        _, record, _ = await poll(session, task_id)
        url = record["data"]["resultInfoJson"]["resultUrls"][1]["resultUrl"]

        async def mint(old: object) -> Any:
            path = "/api/v1/common/download-url"
            return (await look(session, "POST", path, json={"url": old}))[1]

        fresh = (await mint(url))["data"]
        async with aiohttp.ClientSession() as stranger:
            async with stranger.get(url) as answer:
                assert answer.status == 403
            async with stranger.get(fresh) as answer:
                assert (answer.status, answer.content_type) == (200, "image/jpeg")
            async with stranger.get(fresh.replace("/f/", "/f/1")) as answer:
                assert answer.status == 403
        assert (await mint(fresh))["code"] == 200
        foreign = ["https://example.com/m/a.jpeg", sim.url + "/x", "http://[", 7, None]
        for old in [*foreign, url.replace("_1", "_9")]:
            assert (await mint(old))["code"] == 422
        sim.world.expire(task_id)
        assert (await mint(url))["code"] == 422
