"""A worker's life, within this process: joining, starting over, leaving."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import anyio
import pytest
from cluster_support import Fleet

from kie_mj_async.cluster import worker as module
from kie_mj_async.cluster.engine import Engine
from kie_mj_async.cluster.worker import work
from kie_mj_async.errors import LedgerError
from kie_mj_async.rules import leases

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


class Slow:
    """A road whose jobs take a while to collect."""

    def hurry(self, seconds: float) -> None:
        """Nothing of it goes on when it is cancelled."""

    async def submit(self, name: str) -> str:
        return name

    async def collect(self, name: str) -> str:
        await anyio.sleep(0.3)
        return name


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "EVERY", 0.3)
    monkeypatch.setattr(module, "AGAIN", 0.3)


@asynccontextmanager
async def at_work(fleet: Fleet) -> AsyncIterator[list[Engine]]:
    """A worker, and what it has joined as so far."""
    stop = anyio.Event()
    joined: list[Engine] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_work, fleet.url, stop, joined)
        await until(lambda: joined)
        yield joined
        stop.set()


async def _work(url: str, stop: anyio.Event, joined: list[Engine]) -> None:
    await work(url, lambda _: nullcontext(Slow()), stop=stop, grace=5, joined=joined.append)


async def until(question: Callable[[], Any], within: float = 15.0) -> None:
    with anyio.fail_after(within):
        while not question():  # noqa: ASYNC110 - in other threads and processes
            await anyio.sleep(0.05)


def leases_of(fleet: Fleet) -> dict[str, str | None]:
    return dict(fleet.ask("SELECT name, ended_by FROM kie_mj.worker"))


async def test_a_worker_gives_its_lease_back_when_it_leaves(fleet: Fleet) -> None:
    async with at_work(fleet) as joined:
        name = joined[0].worker
        assert leases_of(fleet) == {name: None}
    assert leases_of(fleet) == {name: name}


async def test_a_worker_told_to_stop_finishes_its_jobs_within_the_grace(fleet: Fleet) -> None:
    async with at_work(fleet) as joined:
        fleet.enqueue(["b:1", "b:2"])
        await until(lambda: joined[0].running == 2)
    assert fleet.statuses() == {"SUCCESS": 2}


async def test_a_worker_that_lost_its_lease_starts_over_under_another_name(fleet: Fleet) -> None:
    async with at_work(fleet) as joined:
        fleet.ask("UPDATE kie_mj.worker SET ended_at = now(), ended_by = 'another'")
        await until(lambda: len(joined) == 2)
        first, second = (one.worker for one in joined)
        assert leases_of(fleet) == {first: "another", second: None}
        fleet.enqueue(["b:1"])
        await until(lambda: fleet.statuses() == {"SUCCESS": 1})


@pytest.mark.slow
async def test_a_worker_that_cannot_start_over_yet_tries_again(fleet: Fleet) -> None:
    async with at_work(fleet) as joined:
        fleet.ask("ALTER TABLE kie_mj.worker ADD CONSTRAINT full_up CHECK (epoch < 2) NOT VALID")
        fleet.ask("UPDATE kie_mj.worker SET ended_at = now(), ended_by = 'another'")
        await until(lambda: joined[0]._closing)
        await anyio.sleep(1)
        assert len(joined) == 1
        fleet.ask("ALTER TABLE kie_mj.worker DROP CONSTRAINT full_up")
        await until(lambda: len(joined) == 2)


async def test_a_worker_without_a_database_at_its_start_says_so() -> None:
    with pytest.raises(LedgerError, match="nowhere"):
        await work(
            "postgresql://u@127.0.0.1:1/nowhere", lambda _: nullcontext(Slow()), stop=anyio.Event()
        )
