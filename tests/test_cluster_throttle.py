"""What refusals teach a fleet, in a real PostgreSQL: one learns it, all obey it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from cluster_support import ask

from kie_mj_async.account import Taken, Window
from kie_mj_async.cluster.slots import TABLES, AccountSlots
from kie_mj_async.engine.admission import Admission, Reach
from kie_mj_async.engine.clock import Clock
from kie_mj_async.errors import NotSent, RateLimited
from kie_mj_async.rules.billing import Accepted, Refused, Unsent, Verdict
from kie_mj_async.rules.pacing import MARGIN, Rate, Throttle, Wait

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
RATE = Rate(3, 0.4)
LIMITED = Refused(RateLimited("slow down", code=429), "again")


@pytest.fixture
def books(database: str) -> str:
    """A database with the tables in it."""
    ask(database, TABLES)
    return database


@asynccontextmanager
async def worker(url: str, owner: str, **options: Any) -> AsyncIterator[tuple[Admission, Window]]:
    """A worker's gate, and its window."""
    clock = Clock()
    slots = AccountSlots(url, "account", owner=owner, in_flight=10, **{"running": "0", **options})
    window = Window(slots, RATE, gives_up_after=5.0, chance=lambda: 0.0)
    gate = Admission(
        window,
        in_flight=10,
        max_credits=None,
        clock=clock,
        reach=Reach(clock),
        throttling=slots,
    )
    try:
        yield gate, window
    finally:
        await slots.aclose()


async def create(gate: Admission, verdict: Verdict | None) -> None:
    await gate.leave(await gate.enter(25), verdict, "lost job/1")


def kept(url: str) -> tuple[Any, ...]:
    [row] = ask(url, "SELECT cap, proving, paused_until > now, completions FROM kie_mj.account")
    return row


async def test_a_429_pauses_every_worker(books: str) -> None:
    """Also one that has just come; then one create goes into an empty window, for all of them."""
    async with worker(books, "one") as (one, _), worker(books, "two") as (two, window):
        await create(two, Accepted("t0"))
        began = time.monotonic()
        await create(one, LIMITED)
        assert 0 < one.hold <= 0.5
        assert kept(books) == (None, True, True, 0)
        answer = await window.take()
        assert isinstance(answer, Wait)
        assert 0 < two.hold <= 0.6
        async with worker(books, "three") as (three, _):
            ticket = await three.enter(25)
            assert time.monotonic() - began >= 0.4
            assert ticket.taken.alone
            assert isinstance(await window.take(), Wait), "one at a time"
            await three.leave(ticket, Accepted("t1"), "lost job/1")
        assert kept(books)[1] is False
        assert isinstance(await window.take(), Taken)


async def test_the_lowered_cap_is_the_accounts(books: str) -> None:
    """It is judged by what the whole fleet runs, and grows back with every worker's completions."""
    running = "(SELECT count FROM running)"
    ask(books, "CREATE TABLE running AS SELECT 5 AS count")
    async with (
        worker(books, "one", running=running) as (one, _),
        worker(books, "two", running=running) as (two, window),
    ):
        await create(two, None)
        await create(one, LIMITED)
        assert kept(books)[0] == 4
        await anyio.sleep(RATE.seconds + 2 * MARGIN)
        assert await window.take() == Wait(0.5), "five run, and four is the cap"
        assert two.places == 4
        ask(books, "UPDATE running SET count = 3")
        await create(two, Accepted("t"))
        for task in ("t", "u", "v", "w"):
            two.watched(task)
            two.finish(task)
        assert two.places == 5
        await create(two, None)
        assert kept(books)[0] == 5


async def test_a_network_of_ones_own_is_nobody_elses_pause(books: str) -> None:
    """A worker that cannot reach the host waits alone, and need not prove anything."""
    async with worker(books, "one") as (one, window), worker(books, "two") as (two, _):
        await create(one, Unsent(NotSent("no route")))
        assert one.hold > 0.3
        assert not one.throttle.proving
        assert kept(books) == (None, False, False, 0)
        await create(two, Accepted("t"))
        assert two.hold == 0
        assert isinstance(await window.take(), Taken)


async def test_what_could_not_be_told_is_told_later(books: str, postgres: Any) -> None:
    """Without a database a refusal holds for the worker that met it, and goes with its next change."""
    async with worker(books, "one", patience=0.2) as (one, _):
        ticket = await one.enter(25)
        await anyio.to_thread.run_sync(postgres.stop)
        await one.leave(ticket, LIMITED, "lost job/1")
        assert one.throttle.proving
        assert one.hold > 0
        await anyio.to_thread.run_sync(postgres.start)
        assert kept(books)[1] is False
        async with worker(books, "two") as (two, _):
            await create(two, None)
        await one._throttling.share()
        assert kept(books)[1] is True


async def test_a_worker_with_a_smaller_cap_keeps_to_its_own(books: str) -> None:
    """What is in the table is nobody's but what refusals have taught."""
    slots = AccountSlots(books, "account", owner="one", in_flight=2, running="2")
    window = Window(slots, RATE, gives_up_after=5.0, chance=lambda: 0.0)
    assert isinstance(await window.take(), Wait)
    assert slots.known(0.0) == Throttle(ceiling=2, cap=2)
    await slots.aclose()
