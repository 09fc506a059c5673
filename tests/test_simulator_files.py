"""Result files over a real socket: whole, in ranges, and broken."""

from __future__ import annotations

import gzip
import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import anyio
import attrs
import pytest
from PIL import Image

from kie_mj_async.simulator import KINDS, Simulator
from kie_mj_async.simulator.contract import GENERATE

pytestmark = pytest.mark.anyio
BODY = {"taskType": "mj_txt2img", "prompt": "a fox", "aspectRatio": "2:1"}


@attrs.frozen
class Got:
    """An answer: ``error`` is the exception's name where reading failed."""

    status: int = 0
    content: bytes = b""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    error: str = ""


@asynccontextmanager
async def results(faults: str = "", **options: Any) -> AsyncIterator[tuple[Simulator, Any, str]]:
    """A simulator, a session, and a stored file's path."""
    options = {"time_scale": 0.01, "picture_side": 64} | options
    async with (
        Simulator(faults=faults, **options) as sim,
        aiohttp.ClientSession(
            sim.url,
            connector=aiohttp.TCPConnector(force_close=True),
            auto_decompress=False,
        ) as session,
    ):
        task_id = sim.world.create(GENERATE, BODY, sim._clock()).task_id
        assert task_id is not None
        sim.world.finish(task_id)
        yield sim, session, "/m/" + sim.world.tasks[task_id].files("jpeg")[0]


async def get(
    session: Any, path: str, method: str = "GET", *, patience: float = 20, **headers: str
) -> Got:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    status, content = 0, b""
    found: Mapping[str, str] = {}
    timeout = aiohttp.ClientTimeout(total=patience)
    try:
        async with session.request(
            method, path, headers=given, allow_redirects=False, timeout=timeout
        ) as answer:
            status, found = answer.status, answer.headers
            async for piece in answer.content.iter_any():
                content += piece
    except (aiohttp.ClientError, TimeoutError) as error:
        return Got(status, content, found, type(error).__name__)
    return Got(status, content, found)


async def test_a_whole_file() -> None:
    """A file is a picture of the task's shape with what a resuming client needs to know."""
    async with results() as (sim, session, path):
        got = await get(session, path)
        assert (got.status, got.headers["Content-Type"]) == (200, "image/jpeg")
        assert int(got.headers["Content-Length"]) == len(got.content)
        assert got.headers["ETag"].strip('"')
        assert parsedate_to_datetime(got.headers["Last-Modified"]).timestamp() > 0
        assert Image.open(io.BytesIO(got.content)).size == (64, 32)
        head = await get(session, path, "HEAD")
        assert (head.content, head.headers["Content-Length"]) == (b"", str(len(got.content)))
        assert sim.books()["downloads"] == {path[3:]: 2}


async def test_ranges() -> None:
    """A part comes as 206 with its place, an impossible one as 416 with the length."""
    async with results() as (_, session, path):
        whole = (await get(session, path)).content
        part = await get(session, path, Range="bytes=100-")
        assert (part.status, part.content) == (206, whole[100:])
        assert part.headers["Content-Range"] == f"bytes 100-{len(whole) - 1}/{len(whole)}"
        beyond = await get(session, path, Range=f"bytes={len(whole)}-")
        assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
        tag = part.headers["ETag"]
        assert (await get(session, path, Range="bytes=9-", If_Range=tag)).status == 206
        assert (await get(session, path, Range="bytes=9-", If_Range='"x"')).status == 200


async def test_nothing_to_fetch() -> None:
    """Files of unfinished, expired or unknown tasks, and unknown names, are 404."""
    async with results() as (sim, session, path):
        assert (await get(session, path.replace("_0_0", "_0_7"))).status == 404
        assert (await get(session, "/m/nothing")).status == 404
        running = sim.world.create(GENERATE, BODY, sim._clock()).task_id
        assert (await get(session, f"/m/{running}_0_0.jpeg")).status == 404
        sim.world.expire(path[3:].partition("_")[0])
        assert (await get(session, path)).status == 404


async def test_files_are_gone_after_two_weeks() -> None:
    """The retention is 14 days on the simulator's clock, scaled, and a fresh link needs no more."""
    now = 1000.0
    async with results(clock=lambda: now, time_scale=0.5) as (sim, session, path):
        now += 7 * 86_400 - 60
        fresh = f"/f/{sim.world.fresh_token(path[3:], now)}/{path[3:]}"
        assert (await get(session, fresh)).status == 200
        now += 120
        assert (await get(session, fresh)).status == 404
        assert (await get(session, path)).status == 404


async def test_own_links_die_after_a_day() -> None:
    """After 24 h, scaled, a result's own link is 403; a fresh one works for 20 minutes."""
    now = 1000.0
    async with results("download.403=#2", clock=lambda: now, time_scale=0.5) as (
        sim,
        session,
        path,
    ):
        now += 43_200 - 1
        assert (await get(session, path)).status == 200
        now += 1
        for _ in range(2):
            got = await get(session, path)
            assert (got.status, got.headers["Content-Type"][:15]) == (403, "application/xml")
        assert (await get(session, "/elsewhere" + path)).status == 403
        assert sim.books()["faults"] == {}
        fresh = f"/f/{sim.world.fresh_token(path[3:], now)}/{path[3:]}"
        assert (await get(session, fresh)).status == 200
        now += 600
        assert (await get(session, fresh)).status == 403


async def test_keys_at_files_are_noticed() -> None:
    """No key is needed for a file, and the books tell when one was sent all the same."""
    async with results() as (sim, session, path):
        await get(session, path)
        await get(session, path, Authorization="Bearer secret")
        assert [(one["prefix"], one["authorization"]) for one in sim.books()["keys"]] == [
            ("/m", False),
            ("/m", True),
        ]
        assert "secret" not in str(sim.books())


STATUSES = {"403": 403, "404": 404, "429": 429, "500": 500, "503": 503, "dead-link": 403}
BROKEN = {
    "html", "empty", "truncate", "truncate-silent", "longer", "changed", "gzip", "no-range",
    "wrong-range", "drop", "stall", "slow", "redirect", "retry-after",
}  # fmt: skip


def test_every_fault_has_its_test() -> None:
    """The tests below leave no fault of downloads out."""
    assert set(STATUSES) | BROKEN == set(KINDS["download"])


@pytest.mark.parametrize("kind", STATUSES)
async def test_refusals(kind: str) -> None:
    """A refused download has its status and nothing of the file."""
    async with results(f"download.{kind}=#1,download.retry-after=1") as (sim, session, path):
        got = await get(session, path)
        assert got.status == STATUSES[kind]
        assert got.headers["Content-Type"].startswith("application/xml")
        assert got.headers.get("Retry-After") == ("1" if kind in {"429", "503"} else None)
        assert sim.books()["faults"] == {f"download.{kind}": 1}
        assert (await get(session, path)).status == (403 if kind == "dead-link" else 200)


async def broken(kind: str, **headers: Any) -> tuple[Got, bytes]:
    """A broken download, and the bytes of the sound one after it."""
    async with results(f"download.{kind}=#1") as (_, session, path):
        return await get(session, path, **headers), (await get(session, path)).content


async def test_cut_off() -> None:
    """Cut off with a length is an error, cut off without one looks complete."""
    got, whole = await broken("truncate")
    assert got.error == "ClientPayloadError"
    assert int(got.headers["Content-Length"]) == len(whole)
    assert whole.startswith(got.content)
    got, whole = await broken("truncate-silent")
    assert (got.error, got.content) == ("", whole[: len(whole) // 2])
    assert "Content-Length" not in got.headers


async def test_silence_and_slowness() -> None:
    """A stalled download stops half way, a slow one ends."""
    async with results("download.stall=#2") as (_, session, path):
        whole = (await get(session, path)).content
        got = await get(session, path, patience=0.3)
    assert (got.error, got.content) == ("TimeoutError", whole[: len(whole) // 2])
    got, whole = await broken("slow")
    assert (got.error, got.content) == ("", whole)


async def test_dropped() -> None:
    """A dropped download never begins."""
    async with results("download.drop=#1") as (sim, _, path):
        # Not with aiohttp, which repeats a GET by itself.
        async with await anyio.connect_tcp("127.0.0.1", int(sim.url.rpartition(":")[2])) as stream:
            await stream.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        assert sim.books()["faults"] == {"download.drop": 1}


async def test_wrong_content() -> None:
    """Pages, nothing, too much, another picture: each with a status of 200."""
    got, whole = await broken("html")
    assert got.headers["Content-Type"].startswith("text/html")
    got, _ = await broken("empty")
    assert (got.status, got.content) == (200, b"")
    got, _ = await broken("longer")
    assert got.content == whole + bytes(512)
    got, _ = await broken("changed")
    assert (got.status, got.content[:3]) == (200, whole[:3])
    assert got.content != whole


async def test_compressed() -> None:
    """A compressed answer is smaller or larger than the file, says so, and is whole."""
    got, whole = await broken("gzip", Range="bytes=5-")
    assert (got.status, got.headers["Content-Encoding"]) == (200, "gzip")
    assert gzip.decompress(got.content) == whole


async def test_ranges_ignored_or_mistaken() -> None:
    """A range can be answered by the whole file, or by another range."""
    got, whole = await broken("no-range", Range="bytes=5-")
    assert (got.status, got.content) == (200, whole)
    got, whole = await broken("wrong-range", Range="bytes=5-9")
    assert (got.status, got.content) == (206, whole[:10])
    got, whole = await broken("wrong-range", Range="bytes=0-0")
    assert got.headers["Content-Range"].startswith("bytes 1-1/")
    async with results("download.no-range=#1") as (sim, session, path):
        await get(session, path)
        assert sim.books()["faults"] == {}


async def test_redirected() -> None:
    """A redirect leads to another path of the file, where there is no further one."""
    async with results("download.redirect=1") as (sim, session, path):
        got = await get(session, path)
        assert (got.status, got.headers["Location"]) == (302, "/elsewhere" + path)
        assert (await get(session, "/elsewhere" + path)).status == 200
        assert {one["prefix"] for one in sim.books()["keys"]} == {"/m", "/elsewhere"}


async def test_retry_after_needs_a_refusal() -> None:
    """The modifier does nothing to a download that succeeds."""
    got, _ = await broken("retry-after")
    assert (got.status, got.headers.get("Retry-After")) == (200, None)


async def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Pillow is missing the results are PNGs by name, type and content."""
    monkeypatch.setattr("kie_mj_async.simulator.pictures.suffix", lambda: "png")
    async with results() as (_, session, path):
        got = await get(session, path.replace(".jpeg", ".png"))
        assert got.headers["Content-Type"] == "image/png"
        assert Image.open(io.BytesIO(got.content)).format == "PNG"
