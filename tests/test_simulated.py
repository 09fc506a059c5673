"""The simulated service of ``kie_mj_async.testing``, as somebody's test holds it."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack

import pytest

import kie_mj_async as mj
from kie_mj_async.testing import NO_KEY, Simulated, simulated, simulated_in_thread

QUICK = 0.004


@pytest.mark.anyio
async def test_a_picture_in_the_running_loop() -> None:
    """The service runs in the test's own loop and thread; what it saw is in its books."""
    before = threading.active_count()
    async with simulated(faults="create.429=#1", time_scale=QUICK) as service:
        assert threading.active_count() == before
        async with service.client() as client:
            result = await client.generate("a fox in the snow")
            assert all(url.startswith(service.url) for url in result.urls)
        books = service.books()
    assert [one["code"] for one in books["creates"]] == [429, 200]
    assert books["charged_total"] == 25
    assert not service.state_dir.exists()


def test_a_picture_without_a_loop() -> None:
    """The service runs on a thread of its own, which ends with the block."""

    async def generate(service: Simulated) -> mj.Generation:
        async with service.client() as client:
            return await client.generate("a fox in the snow")

    threads = set(threading.enumerate())
    with simulated_in_thread(time_scale=QUICK) as service:
        assert len(asyncio.run(generate(service)).urls) == 4
        assert service.books()["charged_total"] == 25
    assert not set(threading.enumerate()) - threads


@pytest.mark.anyio
@pytest.mark.parametrize("threaded", [False, True])
async def test_a_test_decides_when_tasks_end(threaded: bool) -> None:
    """Tasks that would take for ever end when the test says so, and as it says."""
    async with AsyncExitStack() as stack:
        options = {"faults": "task.stuck=1", "time_scale": QUICK}
        if threaded:
            service = stack.enter_context(simulated_in_thread(**options))  # type: ignore[arg-type]
        else:
            service = await stack.enter_async_context(simulated(**options))  # type: ignore[arg-type]
        client = await stack.enter_async_context(service.client())
        first, second, third = [await client.submit(f"fox {number}") for number in range(3)]
        service.finish(first.task_id)
        service.fail(second.task_id)
        assert len((await first.wait()).urls) == 4
        with pytest.raises(mj.TaskFailed):
            await second.wait()
        assert service.books()["running"] == 1
        service.finish()
        await third.wait()
        service.expire(first.task_id)
        tasks = service.books()["tasks"]
        assert [task_id for task_id, task in tasks.items() if task["expired"]] == [first.task_id]
        with pytest.raises(LookupError, match="finish: the service has no task 'another'"):
            service.finish(third.task_id, "another")


@pytest.mark.anyio
async def test_trouble_begins_and_ends() -> None:
    """Other things can go wrong from some moment on, at every place; nonsense is refused."""
    async with simulated(time_scale=QUICK) as service, service.client() as client:
        await client.generate("before")
        service.misbehave("create.422=1,callback.never=1")
        with pytest.raises(mj.InvalidRequest):
            await client.generate("meanwhile")
        with pytest.raises(ValueError, match="no kind 'nonsense'"):
            service.misbehave("create.nonsense=1")
        service.misbehave("")
        await client.generate("after")
        assert service.books()["faults"] == {"create.422": 1}


@pytest.mark.anyio
async def test_whose_time_a_client_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of the service, however they are made, keep its time while it runs; others do not."""
    async with simulated(time_scale=QUICK) as service:
        monkeypatch.setenv("KIE_BASE_URL", service.url + "/")
        scales = [
            client._house.settings.time_scale
            for client in (
                service.client(),
                mj.Client("any"),
                mj.Client("any", base_url="http://a"),
            )
        ]
        assert scales == [QUICK, QUICK, 1.0]
        slow = service.client(rate=(5, 100))._house.settings.rate
        assert (slow.creates, slow.seconds) == (5, 100 * QUICK)
    assert mj.Client("any")._house.settings.time_scale == 1.0


@pytest.mark.anyio
async def test_one_key_that_works() -> None:
    """Any key works, or the one that was chosen; it is shown nowhere."""
    async with simulated() as service:
        assert service.api_key == NO_KEY
    async with simulated(api_key="the-one") as service:
        assert "the-one" not in repr(service)
        async with service.client() as client:
            assert await client.credits() == 100_000
        async with service.client(api_key=NO_KEY) as client:
            with pytest.raises(mj.AuthenticationError):
                await client.credits()


@pytest.mark.anyio
async def test_options_that_cannot_work() -> None:
    """What is wrong is said before anything is opened."""
    with pytest.raises(ValueError, match="time_scale"):
        async with simulated(time_scale=0):
            pass
    with pytest.raises(ValueError, match="time_scale"), simulated_in_thread(time_scale=0):
        pass
