"""Leases in a real PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
import pytest
from cluster_support import ask

from kie_mj_async.cluster import lease as module
from kie_mj_async.cluster.lease import GUARD, TABLE, WorkerLease, new_name
from kie_mj_async.errors import LedgerError
from kie_mj_async.rules import leases

pytestmark = pytest.mark.anyio

FAST = 0.2
"""The lease's times are scaled to this part of them."""


class Nobody:
    """Heirs who only listen."""

    def __init__(self, *at_work: str) -> None:
        self.busy = at_work
        self.recovered: list[str] = []

    async def at_work(self) -> Collection[str]:
        return self.busy

    async def recover(self, workers: Sequence[str]) -> int:
        self.recovered += workers
        return 1


@pytest.fixture
def books(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with the table in it; all times run five times faster."""
    ask(database, TABLE)
    for place, name in (
        (leases, "EVERY"),
        (leases, "TTL"),
        (leases, "MARGIN"),
        (leases, "BREAK"),
        (module, "SOONEST"),
        (module, "ORPHANS_EVERY"),
    ):
        monkeypatch.setattr(place, name, getattr(place, name) * FAST)
    return database


@asynccontextmanager
async def kept(url: str, heirs: Nobody | None = None) -> AsyncIterator[WorkerLease]:
    lease = WorkerLease(url, new_name())
    await lease.join()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lease.keep, heirs or Nobody())
            yield lease
            tasks.cancel_scope.cancel()
    finally:
        await lease.leave()


async def until(question: Any, within: float = 15.0) -> float:
    began = time.monotonic()
    with anyio.fail_after(within):
        while not question():  # noqa: ASYNC110
            await anyio.sleep(0.02)
    return time.monotonic() - began


def ended(url: str, lease: WorkerLease) -> str | None:
    rows = ask(url, "SELECT ended_by FROM kie_mj.worker WHERE name = %s", lease.name)
    return str(rows[0][0]) if rows[0][0] is not None else None


@pytest.mark.slow
async def test_a_lease_is_renewed_as_long_as_it_is_kept(books: str) -> None:
    async with kept(books) as lease:
        await anyio.sleep(2 * leases.TTL)
        assert lease.holds()
        beats = ask(books, "SELECT beats FROM kie_mj.worker")[0][0]
        assert 3 <= beats <= 10
    assert not lease.holds()
    assert ended(books, lease) == lease.name


async def test_later_leases_have_higher_epochs(books: str) -> None:
    async with kept(books) as one, kept(books) as other:
        assert other.epoch > one.epoch > 0


async def test_a_silent_workers_lease_is_ended_and_its_jobs_are_given_back(books: str) -> None:
    heirs = Nobody()
    silent = WorkerLease(books, new_name())
    async with kept(books, heirs) as lease:
        await anyio.sleep(0.1)
        await silent.join()
        took = await until(lambda: heirs.recovered)
        assert heirs.recovered == [silent.name]
        assert ended(books, silent) == lease.name
        assert took > leases.TTL * 0.9
        assert not silent.holds()
    await silent.aclose()


@pytest.mark.slow
async def test_only_one_of_several_takes_over(books: str) -> None:
    all_heirs = [Nobody(), Nobody(), Nobody()]
    silent = WorkerLease(books, new_name())
    async with (
        kept(books, all_heirs[0]),
        kept(books, all_heirs[1]),
        kept(books, all_heirs[2]),
    ):
        await silent.join()
        await until(lambda: any(heirs.recovered for heirs in all_heirs))
        await anyio.sleep(1)
    assert sorted(len(heirs.recovered) for heirs in all_heirs) == [0, 0, 1]
    await silent.aclose()


async def test_who_lost_its_lease_learns_it_at_the_next_heartbeat(books: str) -> None:
    async with kept(books) as lease:
        ask(books, "UPDATE kie_mj.worker SET ended_at = now(), ended_by = 'another'")
        await until(lease.lost.is_set)
        assert not lease.holds()
    assert ended(books, lease) == "another"


async def test_a_write_under_a_lost_lease_finds_no_row(books: str) -> None:
    async with kept(books) as lease:
        assert ask(books, GUARD, lease.name) == [(1,)]
        ask(books, "UPDATE kie_mj.worker SET ended_at = now()")
        assert ask(books, GUARD, lease.name) == []


@pytest.mark.slow
async def test_a_lease_is_not_taken_while_a_write_under_it_is_under_way(books: str) -> None:
    heirs = Nobody()
    silent = WorkerLease(books, new_name())
    with psycopg.connect(books) as link:
        async with kept(books, heirs):
            await silent.join()
            link.execute(GUARD.encode(), (silent.name,))
            await anyio.sleep(leases.TTL + 3 * leases.EVERY)
            assert heirs.recovered == []
            link.commit()
            await until(lambda: heirs.recovered == [silent.name])
    await silent.aclose()


@pytest.mark.slow
async def test_heartbeats_do_not_wait_for_writes_under_the_lease(books: str) -> None:
    async with kept(books) as lease:
        with psycopg.connect(books) as link:
            link.execute(GUARD.encode(), (lease.name,))
            await anyio.sleep(2 * leases.TTL)
            assert lease.holds()


@pytest.mark.slow
async def test_work_of_workers_without_a_lease_is_given_back(books: str) -> None:
    heirs = Nobody("gone")
    async with kept(books, heirs) as lease:
        heirs.busy = ("gone", lease.name)
        await until(lambda: heirs.recovered)
        assert heirs.recovered[0] == "gone"
        assert lease.name not in heirs.recovered


@pytest.mark.slow
async def test_a_lease_outlives_a_crash_of_the_database(books: str, postgres: Any) -> None:
    heirs = Nobody()
    async with kept(books, heirs) as one, kept(books) as other:
        await anyio.sleep(leases.EVERY)
        await anyio.to_thread.run_sync(postgres.stop)
        await anyio.sleep(leases.TTL + leases.EVERY)
        assert not one.holds()
        await anyio.to_thread.run_sync(postgres.start)
        await until(lambda: one.holds() and other.holds())
        await anyio.sleep(leases.TTL)
        assert heirs.recovered == []
        assert ended(books, one) is None
        assert ended(books, other) is None


async def test_nothing_is_trusted_before_it_was_joined_and_after_it_ran_out(books: str) -> None:
    now = 100.0
    lease = WorkerLease(books, new_name(), clock=lambda: now)
    assert not lease.holds()
    await lease.join()
    assert lease.holds()
    now += leases.TTL - leases.MARGIN
    assert not lease.holds()
    await lease.leave()


async def test_joining_without_a_database_says_where_it_should_be_and_no_password() -> None:
    lease = WorkerLease("postgresql://u:secret@127.0.0.1:1/nowhere", "one")
    with pytest.raises(LedgerError, match=r"127\.0\.0\.1:1/nowhere") as caught:
        await lease.join()
    assert "secret" not in str(caught.value)
