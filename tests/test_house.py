"""The house: opening and closing, and calls that outlive their callers just as long as they must."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path

import anyio
import anyio.lowlevel
import attrs
import pytest
from support import KEY

from kie_mj_async.account import MemorySlots
from kie_mj_async.engine.house import House
from kie_mj_async.errors import LedgerError, NotSent
from kie_mj_async.ledger import MemoryLedger, SqliteLedger
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules import lifecycle
from kie_mj_async.rules.pacing import Rate
from kie_mj_async.settings import Settings
from kie_mj_async.transport import Secret

pytestmark = pytest.mark.anyio
SETTINGS = Settings(key=Secret(KEY), base_url="http://127.0.0.1:1", host="test")


async def open_house(**options: object) -> House:
    house = House(SETTINGS, **options)  # type: ignore[arg-type]
    await house.open()
    return house


async def test_what_it_holds() -> None:
    """Without a state directory or a ledger file it remembers in memory only."""
    house = await open_house()
    assert isinstance(house.ledger, MemoryLedger)
    assert isinstance(house.window._store, MemorySlots)
    await house.close()


async def test_a_call_gives_its_result_or_its_error() -> None:
    """A call runs in a task of the house, and hands over what comes of it."""
    house = await open_house()
    where: list[object] = []

    async def double(number: int) -> int:
        where.append(asyncio.current_task())
        await anyio.lowlevel.checkpoint()
        return 2 * number

    async def fail() -> None:
        raise NotSent("no")

    assert await house.call(double, 21) == 42
    assert where != [asyncio.current_task()]
    with pytest.raises(NotSent):
        await house.call(fail)
    assert await house.call(double, 4) == 8
    await house.close()


async def test_cancelling_a_caller_cancels_its_call() -> None:
    """What may be cut off ends with its caller."""
    house = await open_house()
    started, ended = anyio.Event(), anyio.Event()

    async def work() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    caller = asyncio.create_task(house.call(work))
    await started.wait()
    caller.cancel()
    with anyio.fail_after(5):
        await ended.wait()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await house.close()


async def test_what_is_shielded_ends_before_the_house_closes() -> None:
    """A shielded part goes on without its caller, and closing waits for it."""
    house = await open_house()
    started, done = anyio.Event(), False

    async def work() -> None:
        nonlocal done
        with anyio.CancelScope(shield=True):
            started.set()
            await anyio.sleep(0.05)
            done = True

    caller = asyncio.create_task(house.call(work))
    await started.wait()
    caller.cancel()
    await asyncio.wait([caller])
    assert not done
    await house.close()
    assert done


async def test_an_error_without_a_caller_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An error that nobody waits for any more is logged, and hurts nothing else."""
    house = await open_house()
    started, go = anyio.Event(), anyio.Event()

    async def work() -> None:
        with anyio.CancelScope(shield=True):
            started.set()
            await go.wait()
        raise NotSent("too late")

    caller = asyncio.create_task(house.call(work))
    await started.wait()
    caller.cancel()
    await asyncio.wait([caller])
    with caplog.at_level(logging.WARNING):
        go.set()
        await house.close()
    assert "after its caller had gone: too late" in caplog.text


async def test_closing_in_a_cancelled_scope_is_complete() -> None:
    """A caller that is being cancelled still finds the house closed when ``close`` returns."""
    house = await open_house()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await house.close()
    assert house._keeper is not None
    assert house._keeper.done()


async def test_a_ledger_that_cannot_be_opened(tmp_path: Path) -> None:
    """A house that cannot open raises, and leaves no task behind."""
    (tmp_path / "file").write_text("")
    before = asyncio.all_tasks()
    with pytest.raises(LedgerError):
        await open_house(ledger_path=tmp_path / "file" / "x.sqlite3")
    assert asyncio.all_tasks() == before


async def test_a_crash_is_found_when_the_ledger_is_opened(tmp_path: Path) -> None:
    """Jobs that a dead process left inside a create are unresolved once the house is open."""
    path = tmp_path / "app.sqlite3"
    ledger = await SqliteLedger.open(path, "test")
    job = await ledger.add("k", TextToImage("a fox"))
    await ledger.record(job, lifecycle.intent(datetime.now(UTC), 25))
    await ledger.aclose()
    house = await open_house(ledger_path=path)
    stored = await house.ledger.get("k")
    await house.close()
    assert stored is not None
    assert stored.state == "unresolved"


async def test_waits_scale_with_the_service() -> None:
    """A simulator that runs faster is polled faster, in the same proportion."""
    house = House(attrs.evolve(SETTINGS, time_scale=0.1, rate=Rate(20, 1.0)))
    assert house.poller._budget.ceiling == pytest.approx(50)
