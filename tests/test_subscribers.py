"""Who hears of events."""

from __future__ import annotations

import logging

import anyio
import pytest
from support import sim_client, simulated

from kie_mj_async.events import CreatesPaused, Event, JobSubmitted
from kie_mj_async.subscribers import Subscribers

pytestmark = pytest.mark.anyio


def event(number: int) -> CreatesPaused:
    return CreatesPaused(str(number), number)


async def test_a_function_hears_at_once_until_it_is_let_go_of() -> None:
    heard: list[Event] = []
    all_ears = Subscribers()
    with all_ears.add(heard.append):
        all_ears.tell(event(1))
        assert heard == [event(1)]
    all_ears.tell(event(2))
    assert heard == [event(1)]


async def test_a_function_that_fails_hurts_no_other(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []

    def fail(_: Event) -> None:
        raise ValueError("mine")

    async def fail_later(_: Event) -> None:
        raise ValueError("mine, too")

    all_ears = Subscribers()
    all_ears.add(fail)
    all_ears.add(fail_later)
    all_ears.add(heard.append)
    with caplog.at_level(logging.ERROR):
        all_ears.tell(event(1))
        all_ears.tell(event(2))
        await all_ears.aclose(1)
    assert heard == [event(1), event(2)]
    assert caplog.text.count("listener failed at CreatesPaused") == 4


async def test_a_coroutine_hears_one_after_the_other_to_the_end() -> None:
    heard: list[Event] = []

    async def listen(one: Event) -> None:
        await anyio.sleep(0.001)
        heard.append(one)

    all_ears = Subscribers()
    all_ears.add(listen)
    for number in range(20):
        all_ears.tell(event(number))
    assert heard == []
    await all_ears.aclose(5)
    assert heard == [event(number) for number in range(20)]


async def test_a_coroutine_that_never_ends_is_given_up() -> None:
    all_ears = Subscribers()

    async def hang(_: Event) -> None:
        await anyio.sleep_forever()

    all_ears.add(hang)
    all_ears.tell(event(1))
    with anyio.fail_after(2):
        await all_ears.aclose(0.05)


async def test_a_slow_stream_loses_the_oldest_and_says_how_many(
    caplog: pytest.LogCaptureFixture,
) -> None:
    all_ears = Subscribers()
    stream = all_ears.stream(3)
    for number in range(10):
        all_ears.tell(event(number))
    await all_ears.aclose(1)
    assert [one async for one in stream] == [event(7), event(8), event(9)]
    assert stream.missed == 7
    assert caplog.text.count("too slow") == 1


async def test_a_client_tells_functions_coroutines_and_streams_the_same() -> None:
    heard: list[Event] = []
    later: list[Event] = []

    async def listen(one: Event) -> None:
        later.append(one)

    async with simulated() as sim:
        async with sim_client(sim) as client:
            client.subscribe(heard.append)
            client.subscribe(listen)
            stream = client.events()
            await client.generate("a fox")
        read = [one async for one in stream]
    assert heard == later == read
    assert any(isinstance(one, JobSubmitted) for one in heard)


async def test_a_coroutine_may_be_given_before_there_is_a_loop() -> None:
    heard: list[Event] = []

    async def listen(one: Event) -> None:
        heard.append(one)

    all_ears = await anyio.to_thread.run_sync(Subscribers)
    await anyio.to_thread.run_sync(all_ears.add, listen)
    all_ears.tell(event(1))
    await all_ears.aclose(1)
    assert heard == [event(1)]
