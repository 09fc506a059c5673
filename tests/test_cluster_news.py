"""Who waits for jobs hears of their end: nothing missed, nothing twice, in any order of commits."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest
from cluster_support import ask
from fleet_support import until

from kie_mj_async.cluster import news as module
from kie_mj_async.cluster.books import Books
from kie_mj_async.cluster.news import News, snapshot, told_between
from kie_mj_async.cluster.statements import SQL

pytestmark = pytest.mark.anyio

PUT = (
    "INSERT INTO kie_mj.job (batch, seq, key, run, request, state, urgency) "
    "SELECT 1, n, n::text, 0, '{}', 'running', 0 FROM generate_series(1, %s) AS n"
)
TELL = "UPDATE kie_mj.job SET state = 'saved', told = pg_current_xact_id() WHERE seq = %s"


@asynccontextmanager
async def books_on(url: str) -> AsyncIterator[Books]:
    books = Books(url, "news", patience=10)
    try:
        yield books
    finally:
        await books.aclose()


async def told(books: Books, since: str, until: str) -> list[int]:
    return [row["seq"] async for row in told_between(books, since, until)]


async def test_a_transaction_that_commits_late_is_told_late_and_once(books_url: str) -> None:
    ask(books_url, PUT, 9)
    async with books_on(books_url) as books:
        zero = await books.read(snapshot)
        with psycopg.connect(books_url) as early, psycopg.connect(books_url) as late:
            early.execute(TELL, (1,))
            late.execute(TELL, (2,))
            late.commit()
            one = await books.read(snapshot)
            assert await told(books, zero, one) == [2]
            early.commit()
            two = await books.read(snapshot)
            assert await told(books, one, two) == [1]
            assert await told(books, two, await books.read(snapshot)) == []


async def test_every_outcome_is_told_once_however_transactions_overlap(
    books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    chance = random.Random(7)
    ask(books_url, PUT, 200)
    heard: list[int] = []
    committed: list[int] = []
    async with books_on(books_url) as books:
        since = await books.read(snapshot)
        links = [psycopg.connect(books_url) for _ in range(6)]
        open_: dict[int, list[int]] = {at: [] for at in range(6)}
        for seq in range(1, 201):
            at = chance.randrange(6)
            links[at].execute(TELL, (seq,))
            open_[at].append(seq)
            if chance.random() < 0.3:
                which = chance.randrange(6)
                if chance.random() < 0.2:
                    links[which].rollback()
                else:
                    links[which].commit()
                    committed += open_[which]
                open_[which] = []
            if chance.random() < 0.2:
                until = await books.read(snapshot)
                heard += await told(books, since, until)
                since = until
        for link in links:
            link.close()  # what is open is undone
        heard += await told(books, since, await books.read(snapshot))
    assert sorted(heard) == sorted(committed)


async def test_a_long_transaction_elsewhere_delays_nothing(books_url: str) -> None:
    ask(books_url, PUT, 9)
    with psycopg.connect(books_url) as long:
        long.execute("SELECT pg_current_xact_id()")
        async with books_on(books_url) as books:
            since = await books.read(snapshot)
            for seq in (1, 2, 3):
                ask(books_url, TELL, seq)
                until = await books.read(snapshot)
                assert await told(books, since, until) == [seq]
                since = until


async def test_who_listens_hears_of_his_own_jobs_only(books_url: str) -> None:
    ask(books_url, PUT, 9)
    async with books_on(books_url) as books:
        news = News(books, every=0.05)
        with (
            news.of_job(1, 3) as job,
            news.of_list(1, range(5, 8)) as some,
            news.of_list(2, range(9)) as other,
        ):
            await news.ready()
            ask(books_url, TELL, 3)
            await job.wait(5)
            ask(books_url, TELL, 6)
            await some.wait(5)
            began = anyio.current_time()
            await other.wait(0.2)
            assert anyio.current_time() - began >= 0.2
        await news.aclose()


async def test_nobody_looks_when_nobody_waits(books_url: str) -> None:
    async with books_on(books_url) as books:
        news = News(books, every=0.02)
        for _ in range(2):
            with news.of_job(1, 1):
                await news.ready()
            await until(lambda: news._task is None)
        looks = books.commits
        await anyio.sleep(0.1)
        assert books.commits == looks
        await news.aclose()


async def test_a_look_is_one_a_second(books_url: str) -> None:
    async with books_on(books_url) as books:
        news = News(books)
        with news.of_job(1, 1), news.of_job(1, 2), news.of_list(1, range(9)):
            await news.ready()
            began = books.commits
            await anyio.sleep(1.5)
            # What is in sight, and what has come into it.
            assert books.commits - began == 2
        await news.aclose()


async def test_the_feed_goes_on_after_a_restart_and_misses_nothing(
    books_url: str, postgres: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ask(books_url, PUT, 9)
    async with books_on(books_url) as books:
        books._patience = 0.2
        news = News(books, every=0.05)
        with news.of_job(1, 1) as ear, caplog.at_level(logging.WARNING):
            await news.ready()
            await anyio.to_thread.run_sync(postgres.stop)
            await until(lambda: "no news of jobs" in caplog.text)
            await anyio.to_thread.run_sync(postgres.start)
            ask(books_url, TELL, 1)
            began = anyio.current_time()
            await ear.wait(10)
            assert anyio.current_time() - began < 5
        await news.aclose()


async def test_a_feed_that_breaks_leaves_nobody_waiting(
    books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with books_on(books_url) as books:
        news = News(books, every=0.02)

        async def broken(_since: str) -> str:
            raise ZeroDivisionError

        with monkeypatch.context() as patched, news.of_job(1, 1) as ear:
            patched.setattr(news, "_look", broken)
            await news.ready()
            task = news._task
            assert task is not None
            with anyio.fail_after(5):
                await ear.wait(60)
            patched.undo()
            await news.ready()  # and it begins anew
            assert news._task not in (None, task)
            assert isinstance(task.exception(), ZeroDivisionError)
        await news.aclose()
        await news.ready()
        assert news.closed


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("news", "job_told"),
        ("news_of_list", "job_told"),
        ("settled_in_list", "job_pkey"),
        ("any_active", "job_open"),
        ("stuck_in_list", "job_to_queue_behind"),
        ("jobs_of_keys", "job_batch_key_key"),
        ("job_by_name", "job_batch_key_key"),
        ("one_to_queue", "job_batch_key_key"),
    ],
)
def test_no_look_reads_a_whole_table(books_url: str, name: str, index: str) -> None:
    ask(
        books_url,
        "INSERT INTO kie_mj.job (batch, seq, key, run, request, state, urgency, told, parent, queued) "
        "SELECT n %% 4, n, n::text, 0, '{}', CASE WHEN n %% 50 = 0 THEN 'planned' ELSE 'saved' END, 0, "
        "CASE WHEN n %% 50 > 0 THEN (n + 700)::text::xid8 END, "
        "CASE WHEN n %% 100 = 0 THEN '1' END, false "
        "FROM generate_series(1, %s) AS n",
        20000,
    )
    ask(books_url, "ANALYZE kie_mj.job")
    values = {
        "since": "20000:20000:",
        "until": "20100:20100:",
        "told": "0",
        "in_batch": 0,
        "seq": 0,
    }
    values |= {"batch": 1, "first": 1, "last": 200, "limit": 200, "firsts": [1], "lasts": [200]}
    values |= {"keys": ["7"], "key": "7", "chosen": "named-7", "id": "b"}
    with psycopg.connect(books_url) as link:
        link.execute("SET enable_seqscan = off")
        link.execute("SET enable_bitmapscan = off")
        plan = link.execute(b"EXPLAIN " + SQL[name], values).fetchall()
    text = "\n".join(row[0] for row in plan)
    assert index in text, text
    assert not re.search(r"Seq Scan on job", text), text
    if name.startswith("news"):
        assert re.search(r"Index Cond: .*told >=", text), text
        assert "Sort" not in text, text
