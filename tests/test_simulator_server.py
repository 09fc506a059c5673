"""The simulator as a server: settings, start and end."""

from __future__ import annotations

import time
from typing import Any

import aiohttp
import anyio
import pytest

from kie_mj_async.simulator import Faults, Simulator

pytestmark = pytest.mark.anyio
TEXT = {"taskType": "mj_txt2img", "prompt": "a fox"}
HEADERS = {"Authorization": "Bearer key"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"time_scale": 0}, "time_scale"),
        ({"time_scale": float("nan")}, "time_scale"),
        ({"picture_side": 0}, "picture_side"),
        ({"faults": "create.nothing=1"}, "nothing"),
    ],
)
async def test_settings_that_cannot_work(settings: dict[str, Any], named: str) -> None:
    """A setting that cannot work is refused before anything is opened."""
    with pytest.raises(ValueError, match=named):
        Simulator(**settings)


async def test_books_and_health_are_served() -> None:
    """The books over HTTP are those in the process; looking at them leaves no trace."""
    async with (
        Simulator(faults=Faults.parse("create.429=#1")) as sim,
        aiohttp.ClientSession(sim.url, headers=HEADERS) as session,
    ):
        async with session.post("/api/v1/mj/generate", json=TEXT):
            pass
        async with session.get("/simulator/health") as answer:
            assert await answer.json() == {"ok": True}
        async with session.get("/simulator/books") as answer:
            assert await answer.json() == sim.books()
        assert {one["prefix"] for one in sim.books()["keys"]} == {"/api/v1/mj"}


async def test_unknown_paths_and_methods() -> None:
    """What does not exist is answered in the service's form."""
    async with Simulator() as sim, aiohttp.ClientSession(sim.url) as session:
        async with session.get("/api/v1/nothing") as answer:
            assert (answer.status, (await answer.json())["code"]) == (404, 404)
        async with session.get("/api/v1/mj/generate") as answer:
            assert (answer.status, (await answer.json())["code"]) == (405, 405)


async def test_a_port_can_be_chosen() -> None:
    """The URL names the port; one that is taken is refused and leaves nothing open."""
    async with Simulator() as first:
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            await Simulator(port=port).start()
    async with Simulator(port=port) as second:
        assert second.url == first.url
        with pytest.raises(RuntimeError, match="before"):
            await second.start()


async def test_the_window_over_the_wire() -> None:
    """Creates at the same time are counted as strictly as creates in a row."""
    codes: list[int] = []
    async with (
        Simulator() as sim,
        aiohttp.ClientSession(sim.url, headers=HEADERS) as session,
    ):

        async def create() -> None:
            async with session.post("/api/v1/mj/generate", json=TEXT) as answer:
                codes.append((await answer.json())["code"])

        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(create)
        assert sorted(codes) == [200] * 20 + [429] * 10
        assert sim.books()["refused_429_window"] == 10
        assert sim.books()["most_in_window"] == 20


async def test_creates_take_their_time() -> None:
    """The latency delays the answer, not the counting."""
    async with (
        Simulator(time_scale=0.1, create_latency=1.0) as sim,
        aiohttp.ClientSession(sim.url, headers=HEADERS) as session,
    ):
        async with session.post("/api/v1/mj/generate", json=TEXT) as answer:
            assert (await answer.json())["code"] == 200
        assert time.time() - sim.books()["creates"][0]["at"] >= 0.07


async def test_closing_ends_what_is_in_flight() -> None:
    """Closing does not wait for stalled answers, and may be repeated."""
    sim = Simulator(faults="create.stall=1")
    await sim.start()
    ends: list[str] = []
    arrived = anyio.Event()
    sim.world.record = lambda event: arrived.set() if event["kind"] == "create" else None

    async def create() -> None:
        async with aiohttp.ClientSession(sim.url, headers=HEADERS) as session:
            try:
                await session.post("/api/v1/mj/generate", json=TEXT)
            except aiohttp.ClientError as error:
                ends.append(type(error).__name__)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(create)
            await arrived.wait()
            before = time.monotonic()
            await sim.aclose()
            assert time.monotonic() - before < 0.9
    assert ends == ["ServerDisconnectedError"]
    await sim.aclose()


async def test_an_ipv6_address_is_written_as_one() -> None:
    """A host with colons stands in brackets."""
    assert Simulator(host="::1", port=80).url == "http://[::1]:80"
