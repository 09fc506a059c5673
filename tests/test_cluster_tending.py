"""What the eldest worker sees to: nothing is left lying."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from cluster_support import ask
from fleet_support import Player, queued

from kie_mj_async.cluster import enqueuing, tending
from kie_mj_async.cluster.books import Books
from kie_mj_async.cluster.enqueuing import Load, enqueue
from kie_mj_async.cluster.ledger import PostgresLedger, name_of
from kie_mj_async.cluster.tending import (
    forget_old,
    put_in,
    settle_cut_off,
    share_of,
    take_back,
    tend,
)
from kie_mj_async.engine.staging import stage
from kie_mj_async.jobs import Job, State
from kie_mj_async.requests import Request, TextToImage
from kie_mj_async.rules import lifecycle
from kie_mj_async.rules.billing import Prices

pytestmark = pytest.mark.anyio

FOX = TextToImage("a fox")
INTENT = lifecycle.intent(datetime.now(UTC), 25)
STATUS = "UPDATE kie_mj_dbos.workflow_status SET status = %s WHERE workflow_uuid = %s"


@asynccontextmanager
async def books_on(url: str, worker: str | None = None) -> AsyncIterator[Books]:
    books = Books(url, "tending", worker=worker, patience=10)
    try:
        yield books
    finally:
        await books.aclose()


@pytest.fixture
async def books(queue_url: str) -> AsyncIterator[Books]:
    async with books_on(queue_url) as made:
        yield made


async def batch_of(books: Books, *requests: Request, batch: str = "b") -> PostgresLedger:
    ledger = await PostgresLedger.open(books, batch, enqueue=enqueue)
    await stage(ledger, requests or (FOX,), Prices())
    return ledger


async def first(ledger: PostgresLedger) -> Job:
    return (await ledger.scan(0, 1))[0]


# --- Jobs that set out again ----------------------------------------------------------------------


async def test_a_job_that_has_rested_is_put_in_again(queue_url: str, books: Books) -> None:
    ledger = await batch_of(books)
    job = await first(ledger)
    await ledger.rest(job.key, 1, 3600)
    assert await put_in(books, steps=False) == 0
    ask(queue_url, "UPDATE kie_mj.job SET rest_until = 0")
    assert await put_in(books, steps=False) == 1
    assert name_of("b", job.key, 2) in queued(queue_url)
    assert await put_in(books, steps=False) == 0


async def test_a_job_that_its_user_wants_again_is_put_in_in_every_batch(
    queue_url: str, books: Books
) -> None:
    names = []
    for batch in ("one", "two"):
        ledger = await batch_of(books, batch=batch)
        job = await Player(ledger).fail(await first(ledger))
        await ledger.record(job, lifecycle.retried())
        names.append(name_of(batch, job.key, 2))
    assert await put_in(books, steps=False) == 2
    assert set(names) <= set(queued(queue_url))


async def test_a_step_behind_a_job_that_was_given_up_is_put_in(
    queue_url: str, books: Books
) -> None:
    ledger = await batch_of(books, TextToImage("x", then=["upscale:0"]))
    job = await Player(ledger).lose(await first(ledger))
    assert await put_in(books, steps=True) == 0
    await ledger.record(job, lifecycle.abandoned(datetime.now(UTC)))
    assert await put_in(books, steps=False) == 0
    assert await put_in(books, steps=True) == 1
    assert len(queued(queue_url)) == 2


# --- Creates of the dead --------------------------------------------------------------------------


async def test_a_create_of_one_long_dead_is_unresolved(queue_url: str) -> None:
    ask(queue_url, "INSERT INTO kie_mj.worker (name, host, pid) VALUES ('dead', '', 1)")
    async with books_on(queue_url, "dead") as dead, books_on(queue_url) as books:
        ledger = await batch_of(dead)
        job = await ledger.record(await first(ledger), INTENT)
        assert await settle_cut_off(books, 60) == 0
        ask(queue_url, "UPDATE kie_mj.worker SET ended_at = now() - interval '59 s'")
        assert await settle_cut_off(books, 60) == 0
        ask(queue_url, "UPDATE kie_mj.worker SET ended_at = now() - interval '61 s'")
        assert await settle_cut_off(books, 60) == 1
        stored = await ledger.get(job.key)
        assert stored is not None
        assert stored.state is State.UNRESOLVED


# --- The queue and the books ----------------------------------------------------------------------


@pytest.mark.parametrize("status", ["ENQUEUED", "PENDING", "DELAYED"])
async def test_what_the_queue_has_is_left_alone(queue_url: str, books: Books, status: str) -> None:
    await batch_of(books)
    ask(queue_url, STATUS, status, queued(queue_url)[0])
    assert await take_back(books) == 0


@pytest.mark.parametrize(
    "status", ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED", None]
)
async def test_a_job_that_the_queue_has_lost_sets_out_again(
    queue_url: str, books: Books, status: str | None
) -> None:
    ledger = await batch_of(books, FOX, TextToImage("an owl"))
    job = await first(ledger)
    name = name_of("b", job.key)
    if status is None:
        ask(queue_url, "DELETE FROM kie_mj_dbos.workflow_status WHERE workflow_uuid = %s", name)
    else:
        ask(queue_url, STATUS, status, name)
    assert await take_back(books) == 1
    assert await put_in(books, steps=False) == 1
    assert name_of("b", job.key, 2) in queued(queue_url)
    assert await take_back(books) == 0
    assert await ledger.of_turn(job.key, 1) is None, "should the old one turn up, it is over"


async def test_a_job_in_a_later_turn_is_found_by_the_name_of_that_turn(
    queue_url: str, books: Books
) -> None:
    ledger = await batch_of(books)
    job = await first(ledger)
    await ledger.rest(job.key, 1, 0)
    await put_in(books, steps=False)
    ask(queue_url, STATUS, "SUCCESS", name_of("b", job.key))
    assert await take_back(books) == 0
    ask(queue_url, STATUS, "ERROR", name_of("b", job.key, 2))
    assert await take_back(books) == 1


async def test_jobs_that_have_ended_or_were_never_queued_are_not_missed(
    queue_url: str, books: Books
) -> None:
    ledger = await batch_of(books, TextToImage("x", then=["upscale:0"]), FOX, TextToImage("y"))
    player = Player(ledger)
    done, step, resting, lost = await ledger.scan(0, 9)
    assert step.request != done.request
    await player.save(done)
    await player.rest(resting)
    await player.lose(lost)
    ask(queue_url, "DELETE FROM kie_mj_dbos.workflow_status")
    assert await take_back(books) == 0


async def test_many_that_are_lost_are_taken_back_in_portions(
    queue_url: str, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tending, "AT_ONCE", 3)
    await batch_of(books, *(TextToImage(f"fox {n}") for n in range(8)))
    ask(queue_url, "DELETE FROM kie_mj_dbos.workflow_status")
    assert await take_back(books) == 8
    assert await put_in(books, steps=False) == 8
    assert len(queued(queue_url)) == 8


@pytest.mark.slow
async def test_the_comparison_is_cheap_with_many_open_jobs(queue_url: str, books: Books) -> None:
    await batch_of(books)
    ask(
        queue_url,
        "INSERT INTO kie_mj.job (batch, seq, key, run, request, state, urgency, queued) "
        "SELECT batch, seq + n, key || n, run, request, state, urgency, true "
        "FROM kie_mj.job, generate_series(1, 100000) AS n",
    )
    ask(
        queue_url,
        "INSERT INTO kie_mj_dbos.workflow_status (workflow_uuid, status, name) "
        "SELECT workflow_uuid || n, status, name "
        "FROM kie_mj_dbos.workflow_status, generate_series(1, 100000) AS n",
    )
    ask(queue_url, "ANALYZE")
    began = time.monotonic()
    assert await take_back(books) == 0
    assert time.monotonic() - began < 3


# --- Retention ------------------------------------------------------------------------------------


async def test_the_queue_forgets_old_ends_in_portions(
    queue_url: str, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = enqueuing.forget

    async def forget(link: Any) -> int:
        asked.append(await real(link, limit=3))
        return asked[-1]

    monkeypatch.setattr(tending, "PORTION", 3)
    monkeypatch.setattr(tending, "_BREATH", 0.0)
    monkeypatch.setattr(tending, "forget", forget)
    await batch_of(books, *(TextToImage(f"fox {n}") for n in range(8)))
    *ended, _young, _open = queued(queue_url)
    for name in (*ended, _young):
        ask(queue_url, STATUS, "SUCCESS", name)
    ask(queue_url, "UPDATE kie_mj_dbos.workflow_status SET completed_at = 1")
    ask(
        queue_url,
        "UPDATE kie_mj_dbos.workflow_status SET completed_at = extract(epoch FROM now()) * 1000 "
        "WHERE workflow_uuid = %s",
        _young,
    )
    assert await forget_old(queue_url) == 6
    assert asked == [3, 3, 0]
    assert set(queued(queue_url)) == {_young, _open}


async def test_who_is_no_longer_the_eldest_stops_forgetting(queue_url: str) -> None:
    assert await forget_old(queue_url, lambda: False) == 0


# --- All of it ------------------------------------------------------------------------------------


async def test_only_the_eldest_tends(
    queue_url: str, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tending, "EVERY", 0.05)
    ledger = await batch_of(books)
    job = await first(ledger)
    ask(queue_url, STATUS, "ERROR", name_of("b", job.key))
    ask(queue_url, "INSERT INTO kie_mj.mark VALUES ('gone', 1, now() - interval '31 days')")
    again = name_of("b", job.key, 2)
    mine = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tend, queue_url, books, lambda: mine, 60.0, lambda: Load(10, 3))
        await anyio.sleep(0.3)
        assert again not in queued(queue_url)
        mine = True
        with anyio.fail_after(10):
            while again not in queued(queue_url):  # noqa: ASYNC110
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()
    shares = "SELECT concurrency, worker_concurrency FROM kie_mj_dbos.queues"
    assert ask(queue_url, shares) == [(10, 3)]
    assert ask(queue_url, "SELECT FROM kie_mj.mark WHERE connection = 'gone'") == []


async def test_it_goes_on_when_the_database_was_away(
    queue_url: str, postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tending, "EVERY", 0.05)
    books = Books(queue_url, "tending", patience=0.1)
    ledger = await batch_of(books)
    job = await first(ledger)
    postgres.stop()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tend, queue_url, books, lambda: True, 60.0)
        await anyio.sleep(0.5)
        postgres.start()
        ask(queue_url, "UPDATE kie_mj.job SET queued = false, turn = 2")
        with anyio.fail_after(10):
            while name_of("b", job.key, 2) not in queued(queue_url):  # noqa: ASYNC110
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()
    await books.aclose()


def test_shares_are_even_and_bounded() -> None:
    assert share_of(100, 3) == Load(100, 34)
    assert share_of(100, 0) == Load(100, 100)
    assert share_of(100, 1, 40) == Load(100, 40)
    assert share_of(2, 5) == Load(2, 1)
