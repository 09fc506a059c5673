"""Who hears of events."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support import KEY
from told_support import sim_client, simulated

from kie_mj_async import Client, LedgerError
from kie_mj_async.batch import Batch
from kie_mj_async.events import ClientClosed, CreatesPaused, Event, JobSubmitted
from kie_mj_async.logs import about, ids
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


async def test_what_always_fails_is_not_logged_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """A run has a million events, and the disk is no larger for that."""

    def fail(_: Event) -> None:
        raise ValueError("mine")

    all_ears = Subscribers()
    all_ears.add(fail)
    for number in range(100):
        all_ears.tell(event(number))
    assert caplog.text.count("listener failed at") == 10
    assert caplog.text.count("not logged any more") == 1


class Odd(BaseException):
    """No Exception."""


@pytest.mark.parametrize("kind", [Odd, asyncio.CancelledError, BaseExceptionGroup])
async def test_whatever_a_listener_raises_stays_its_own(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """A CancelledError of its own cancels neither our work nor its own next turn."""
    heard: list[Event] = []
    later: list[Event] = []
    made = kind("mine", [Odd()]) if kind is BaseExceptionGroup else kind("mine")

    def fail(_: Event) -> None:
        raise made

    async def fail_later(one: Event) -> None:
        later.append(one)
        raise made

    all_ears = Subscribers()
    for listener in (fail, fail_later, heard.append):
        all_ears.add(listener)
    all_ears.tell(event(1))
    all_ears.tell(event(2))
    await all_ears.aclose(1)
    assert heard == later == [event(1), event(2)]
    assert caplog.text.count("listener failed at") == 4


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_the_end_of_the_program_is_not_held_up(kind: type[BaseException]) -> None:
    def leave(_: Event) -> None:
        raise kind

    all_ears = Subscribers()
    all_ears.add(leave)
    with pytest.raises(kind):
        all_ears.tell(event(1))


async def test_a_function_may_be_given_twice_and_closed_twice() -> None:
    """Each subscription is its own: closing one, however often, leaves the other."""
    heard: list[Event] = []
    all_ears = Subscribers()
    first, second = all_ears.add(heard.append), all_ears.add(heard.append)
    all_ears.tell(event(1))
    assert heard == [event(1)] * 2
    first.close()
    first.close()
    all_ears.tell(event(2))
    assert heard[2:] == [event(2)]
    second.close()
    all_ears.tell(event(3))
    assert len(heard) == 3


async def test_listeners_may_come_and_go_while_they_are_told() -> None:
    """Who was let go of hears no more, who comes hears from the next one on."""
    heard: list[tuple[str, Event]] = []
    all_ears = Subscribers()

    def first(one: Event) -> None:
        heard.append(("first", one))
        if one == event(1):
            last.close()
            all_ears.add(lambda one: heard.append(("late", one)))

    all_ears.add(first)
    last = all_ears.add(lambda one: heard.append(("last", one)))
    all_ears.tell(event(1))
    all_ears.tell(event(2))
    assert heard == [("first", event(1)), ("first", event(2)), ("late", event(2))]


async def test_a_coroutine_that_nobody_can_tell_from_a_function_is_awaited() -> None:
    """A lambda around it, a partial, an object: each hears all, one after the other."""
    heard: list[tuple[str, Event]] = []

    async def listen(name: str, one: Event) -> None:
        await anyio.sleep(0.001)
        heard.append((name, one))

    class Listener:
        def __call__(self, one: Event) -> Coroutine[Any, Any, None]:
            return listen("object", one)

    all_ears = Subscribers()
    given: list[Callable[[Event], Any]] = [
        lambda one: listen("lambda", one), functools.partial(listen, "partial"), Listener(),
    ]  # fmt: skip
    places = [all_ears.add(listener) for listener in given]
    for number in range(3):
        all_ears.tell(event(number))
    places[0].close()
    all_ears.tell(event(3))
    await all_ears.aclose(5)
    for name, events in (("lambda", 3), ("partial", 4), ("object", 4)):
        assert [one for who, one in heard if who == name] == [event(n) for n in range(events)]


async def test_a_coroutine_hears_in_the_context_in_which_it_was_given() -> None:
    """Neither in that of the job whose event came first, nor about that job."""
    whose: ContextVar[str] = ContextVar("whose")
    seen: list[tuple[str, str | None]] = []

    async def listen(_: Event) -> None:
        seen.append((whose.get(), ids().job))

    all_ears = Subscribers()
    whose.set("the subscriber's")
    all_ears.add(listen)
    whose.set("the job's")
    with about(job="1-a"):
        all_ears.tell(event(1))
    await all_ears.aclose(1)
    assert seen == [("the subscriber's", None)]


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


async def test_a_listener_that_was_cut_off_may_tidy_up() -> None:
    """Its end is waited for, for a while; one that does not end at all is left alone."""
    over: list[str] = []
    forever = anyio.Event()

    async def tidy(_: Event) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await asyncio.sleep(0.01)
            over.append("tidied")

    async def stubborn(_: Event) -> None:
        while not forever.is_set():
            try:
                await forever.wait()
            except asyncio.CancelledError:
                over.append("refused")

    all_ears = Subscribers()
    all_ears.add(tidy)
    all_ears.add(stubborn)
    all_ears.tell(event(1))
    with anyio.fail_after(2):
        await all_ears.aclose(0.05)
    assert sorted(over) == ["refused", "tidied"]
    forever.set()
    await anyio.sleep(0.01)


async def test_cancelling_the_end_leaves_no_listener_running() -> None:
    all_ears = Subscribers()

    async def hang(_: Event) -> None:
        await anyio.sleep_forever()

    all_ears.add(hang)
    all_ears.tell(event(1))
    with anyio.move_on_after(0.01):
        await all_ears.aclose(10)
    await anyio.sleep(0.01)
    assert all_ears._readers == set()


async def test_whoever_comes_after_the_end_hears_nothing_and_waits_for_nothing() -> None:
    heard: list[Event] = []

    async def listen(one: Event) -> None:
        heard.append(one)

    all_ears = Subscribers()
    await all_ears.aclose(1)
    for listener in (heard.append, listen):
        with all_ears.add(listener):
            all_ears.tell(event(1))
    with anyio.fail_after(1):
        assert [one async for one in all_ears.stream()] == []
    assert heard == []
    assert not all_ears.anybody


async def test_a_stream_that_was_left_half_way_takes_in_nothing_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody will ever read it: it neither holds events nor is it called slow."""
    all_ears = Subscribers()
    all_ears.tell(event(0))

    async def one_event() -> Event:
        stream = all_ears.stream(5)
        all_ears.tell(event(1))
        async for one in stream:
            return one
        raise AssertionError

    assert await one_event() == event(1)
    gc.collect()
    assert not all_ears.anybody
    told = event(2)
    all_ears.tell(told)
    for number in range(20):
        all_ears.tell(event(number))
    assert "too slow" not in caplog.text


async def test_two_may_read_one_stream() -> None:
    """Each event goes to one of them; both end."""
    all_ears = Subscribers()
    stream = all_ears.stream()
    read: list[list[Event]] = [[], []]

    async def reader(into: list[Event]) -> None:
        async for one in stream:
            into.append(one)
            await anyio.sleep(0.002)

    async with anyio.create_task_group() as tasks:
        for into in read:
            tasks.start_soon(reader, into)
        await anyio.sleep(0.01)
        for number in range(20):
            all_ears.tell(event(number))
            await anyio.lowlevel.checkpoint()
        await all_ears.aclose(1)
    assert all(read)
    got = read[0] + read[1]
    assert len(got) == 20
    assert all(event(number) in got for number in range(20))


async def test_coming_and_going_leaves_nothing_behind() -> None:
    all_ears = Subscribers()

    async def listen(_: Event) -> None:
        return

    for _ in range(100):
        all_ears.add(listen).close()
        all_ears.add(print).close()
        all_ears.stream().close()
    assert not all_ears.anybody
    assert (all_ears._to_begin, all_ears._streams) == ({}, ())


async def test_events_without_a_loop_wait_for_one() -> None:
    heard: list[Event] = []

    async def listen(one: Event) -> None:
        heard.append(one)

    all_ears = Subscribers()
    all_ears.add(listen)
    await anyio.to_thread.run_sync(all_ears.tell, event(1))
    all_ears.tell(event(2))
    await all_ears.aclose(1)
    assert heard == [event(1), event(2)]


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


# --- Of a client ----------------------------------------------------------------------------------


async def test_the_last_event_is_told_once_and_later_listeners_end_at_once() -> None:
    heard: list[Event] = []
    client = Client(KEY, base_url="http://127.0.0.1:9", on_event=heard.append)
    early = client.events()
    async with client:
        pass
    await client.aclose()
    assert heard == [ClientClosed()]
    with anyio.fail_after(1):
        assert [one async for one in early] == [ClientClosed()]
        assert [one async for one in client.events()] == []


async def test_a_client_that_cannot_be_opened_ends_its_streams(tmp_path: Path) -> None:
    """Whoever listens learns that nothing will come."""
    (tmp_path / "app.sqlite3").write_text("no ledger")
    client = Client(KEY, base_url="http://127.0.0.1:9", ledger=tmp_path / "app.sqlite3")
    stream = client.events()
    with pytest.raises(LedgerError):
        async with client:
            pass
    with anyio.fail_after(1):
        assert [one async for one in stream] == [ClientClosed()]


async def test_a_listener_may_close_its_client() -> None:
    """It is not waited for: that would never end before its grace is over."""
    closed = anyio.Event()
    async with simulated() as sim, sim_client(sim) as client:

        async def listen(one: Event) -> None:
            if isinstance(one, JobSubmitted):
                await client.aclose()
                closed.set()

        client.subscribe(listen)
        await client.submit("a fox")
        with anyio.fail_after(1.5):
            await closed.wait()


async def test_a_listener_may_use_its_client(tmp_path: Path) -> None:
    """What it asks for is work of its own, about no job but its own."""
    started: list[tuple[str | None, str | None]] = []
    made = anyio.Event()

    def note(one: Event) -> None:
        if isinstance(one, JobSubmitted) and one.job.prompt == "an owl":
            started.append((ids().batch, ids().job))

    async with simulated() as sim, sim_client(sim, on_event=note) as client:

        async def listen(one: Event) -> None:
            if isinstance(one, JobSubmitted) and one.job.prompt == "a fox":
                client.subscribe(note).close()
                await client.generate("an owl")
                made.set()

        def at_once(one: Event) -> None:
            if isinstance(one, JobSubmitted) and one.job.prompt == "a fox":
                tasks.start_soon(client.generate, "an owl")

        client.subscribe(listen)
        client.subscribe(at_once)
        async with anyio.create_task_group() as tasks:
            async for _ in client.render(["a fox"], tmp_path):
                pass
            await made.wait()
    assert len(started) == 2
    for batch, job in started:
        assert batch is None
        assert job is not None
        assert job.startswith("once-")


async def test_batches_that_are_over_are_let_go_of(tmp_path: Path) -> None:
    """A thousand batches of a client that lives for years leave nothing behind."""
    alive: weakref.WeakSet[Batch] = weakref.WeakSet()
    async with Client(KEY, base_url="http://127.0.0.1:9") as client:
        client.subscribe(lambda _: None)
        for number in range(30):
            batch = client.render([], tmp_path / str(number % 3))
            alive.add(batch)
            if number % 3 == 0:
                await batch.plan()
                await batch.aclose()
            elif number % 3 == 1:
                batch.stop()
            else:
                async for _ in batch:
                    pass
        del batch
        gc.collect()
        assert len(alive) == 0
        assert client._house.guests == set()
        assert len(client._house.subscribers._ears) == 1


async def test_what_nobody_hears_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of calls cost something; where nobody listens they cost nothing."""
    made: list[object] = []
    monkeypatch.setattr("kie_mj_async.transport.CallEnded", lambda *args, **_: made.append(args))
    async with simulated() as sim, sim_client(sim) as client:
        await client.credits()
        assert made == []
        with client.subscribe(lambda _: None):
            await client.credits()
        assert len(made) == 1
