"""The way into the fleet's books, with a real PostgreSQL that is cut, stopped and quarrelled over."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
import pytest
from cluster_support import ask

from kie_mj_async.cluster import books as module
from kie_mj_async.cluster.books import Books, Hand, Op
from kie_mj_async.cluster.statements import SQL
from kie_mj_async.errors import LedgerError
from kie_mj_async.waiting import in_thread

pytestmark = pytest.mark.anyio

_TABLE = "CREATE TABLE note (id serial PRIMARY KEY, word text NOT NULL)"


@pytest.fixture
def url(books_url: str) -> str:
    ask(books_url, _TABLE)
    return books_url


@asynccontextmanager
async def opened(url: str, name: str = "tests", **options: Any) -> AsyncIterator[Books]:
    books = Books(url, name, **options)
    try:
        yield books
    finally:
        await books.aclose()


def note(word: str) -> Callable[[Hand], str]:
    def act(hand: Hand) -> str:
        hand.wrote = True
        hand.link.execute(b"INSERT INTO note (word) VALUES (%s)", (word,))
        return word

    return act


def words(url: str) -> list[str]:
    return [row[0] for row in ask(url, "SELECT word FROM note ORDER BY id")]


def wrong(hand: Hand) -> None:
    note("wrong")(hand)
    raise ValueError("no")


async def test_all_who_wait_share_a_transaction(url: str) -> None:
    async with opened(url) as books:
        told = await asyncio.gather(*(books.write(note(str(n))) for n in range(60)))
        assert told == [str(n) for n in range(60)] == words(url)
        assert books.commits <= 2


async def test_what_fails_after_it_wrote_is_undone_alone(url: str) -> None:
    async with opened(url) as books:
        acts: list[Callable[[Hand], Any]] = [note("a"), wrong, note("b")]
        told = await asyncio.gather(*(books.write(act) for act in acts), return_exceptions=True)
        assert [str(one) for one in told] == ["a", "no", "b"]
        assert words(url) == ["a", "b"]


async def test_what_the_server_refuses_is_refused_alone(url: str) -> None:
    async with opened(url) as books:
        acts = [note("a"), note("nul\0"), note("b")]
        told = await asyncio.gather(*(books.write(act) for act in acts), return_exceptions=True)
        assert isinstance(told[1], LedgerError)
        assert words(url) == ["a", "b"]


async def test_what_is_done_otherwise_stands_though_the_first_was_undone(url: str) -> None:
    async with opened(url) as books:
        with pytest.raises(ValueError, match="no"):
            await books.put(Op(wrong, writes=True, otherwise=note("otherwise")))
        assert words(url) == ["otherwise"]


async def test_two_that_want_each_others_rows_both_get_them(url: str) -> None:
    """A deadlock is the end of one group of changes, not of what was to be changed."""
    ask(url, "INSERT INTO note (word) VALUES (''), ('')")
    both = threading.Barrier(2)
    waited = set[str]()

    def add(who: str, row: int, wait: bool) -> Callable[[Hand], None]:
        def act(hand: Hand) -> None:
            hand.wrote = True
            cursor = hand.link.execute(
                b"UPDATE note SET word = word || %s WHERE id = %s RETURNING 1", (who, row)
            )
            cursor.fetchall()
            if wait and who not in waited:
                waited.add(who)
                both.wait(10)

        return act

    async with opened(url, "one") as one, opened(url, "other") as other:
        await one.open()
        await other.open()
        await asyncio.gather(
            one.write(add("a", 1, True)),
            one.write(add("a", 2, False)),
            other.write(add("b", 2, True)),
            other.write(add("b", 1, False)),
        )
    assert [sorted(word) for word in words(url)] == [["a", "b"], ["a", "b"]]
    assert waited == {"a", "b"}


class Cut:
    """A connection that breaks at the commit, before the server has it or after."""

    def __init__(
        self, books: Books, *, after: bool, besides: Callable[[], None] = lambda: None
    ) -> None:
        assert books._link is not None
        self._real = books._link
        self._after = after
        self._besides = besides
        self.cuts = 0
        books._link = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def pipeline(self) -> Any:
        return self._real.pipeline()

    def execute(self, statement: bytes, *values: Any) -> Any:
        if statement != b"COMMIT":
            return self._real.execute(statement, *values)
        if self._after:
            done = self._real.execute(statement)
            assert self._real._pipeline is not None
            self._real._pipeline.sync()
            assert done.statusmessage == "COMMIT"
        self.cuts += 1
        with socket.socket(fileno=os.dup(self._real.fileno())) as held:
            held.shutdown(socket.SHUT_RDWR)
        self._besides()
        return self._real.execute(b"SELECT 1" if self._after else statement)


@pytest.mark.parametrize("after", [True, False])
async def test_a_commit_without_an_answer_is_looked_up_and_never_done_twice(
    url: str, after: bool
) -> None:
    async with opened(url) as books:
        assert await books.write(note("a")) == "a"
        cut = Cut(books, after=after)
        told = await asyncio.gather(*(books.write(note(word)) for word in "bcd"))
        assert told == ["b", "c", "d"]
        assert cut.cuts == 1
        assert words(url) == ["a", "b", "c", "d"]


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True])
async def test_a_number_that_a_crashed_server_gives_again_is_not_taken_for_ours(
    url: str, postgres: Any, late: bool
) -> None:
    """A crash forgets the numbers of transactions of which nothing had come to the disk.

    With the server's number of its transaction the write would be believed to be there.
    """

    def crash() -> None:
        postgres.restart()
        for n in range(5):
            ask(url, "INSERT INTO note (word) VALUES (%s)", f"other {n}")

    async with opened(url) as books:
        assert await books.write(note("a")) == "a"
        Cut(books, after=late, besides=crash)
        assert await books.write(note("b")) == "b"
    assert sorted(words(url)) == ["a", "b", *(f"other {n}" for n in range(5))]


async def test_a_commit_under_way_is_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the server has not decided, nothing is done again."""
    looks = 0
    real = Books._is_committed

    def slowly(self: Books, link: Any, mark: Any) -> bool:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise psycopg.OperationalError("a commit is still under way")
        return real(self, link, mark)

    monkeypatch.setattr(Books, "_is_committed", slowly)
    async with opened(url) as books:
        await books.write(note("a"))
        Cut(books, after=True)
        assert await asyncio.gather(*(books.write(note(word)) for word in "bc")) == ["b", "c"]
    assert looks == 3
    assert words(url) == ["a", "b", "c"]


async def test_a_commit_whose_fate_stays_unknown_is_told_so(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_self: Books, _link: Any, _mark: Any) -> bool:
        raise psycopg.OperationalError("a commit is still under way")

    async with opened(url, patience=0.3) as books:
        await books.write(note("a"))
        Cut(books, after=True)
        monkeypatch.setattr(Books, "_is_committed", never)
        with pytest.raises(LedgerError, match="whether the last change was written is not known"):
            await books.write(note("b"))
    assert words(url) == ["a", "b"]


@pytest.mark.parametrize(("end", "fate"), [(b"COMMIT", True), (b"ROLLBACK", False)])
@pytest.mark.parametrize("first", [True, False])
async def test_what_becomes_of_a_transaction_is_waited_for(
    url: str, end: bytes, fate: bool, first: bool
) -> None:
    """Also of a connection's first one, whose mark nobody sees yet."""
    async with opened(url) as books, opened(url) as other:
        await books.open()
        await other.open()
        if not first:
            await books.write(note("a"))
        mine, looker, mark = books._link, other._link, books._mark
        assert mine is not None
        assert looker is not None
        mine.execute(b"BEGIN")
        mine.execute(SQL["mark"], mark.next())
        looking = asyncio.create_task(in_thread(other._is_committed, looker, mark))
        await anyio.sleep(0.2)
        assert not looking.done()
        mine.execute(end)
        assert await looking is fate


async def test_a_mark_that_was_swept_tells_nothing(url: str) -> None:
    async with opened(url) as books:
        await books.write(note("a"))
        mark, link = books._mark, books._link
        assert link is not None
        mark.next()
        assert not books._is_committed(link, mark)
        link.execute(SQL["sweep_marks"], {"seconds": 0})
        with pytest.raises(psycopg.OperationalError, match="is gone"):
            books._is_committed(link, mark)


async def test_a_connection_that_the_server_ended_is_made_anew(url: str) -> None:
    async with opened(url, "victim") as books:
        await books.write(note("a"))
        ask(
            url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'victim'",
        )
        await books.write(note("b"))
    assert words(url) == ["a", "b"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["immediate", "fast"])
async def test_a_restart_is_waited_out_and_nothing_is_written_twice(
    url: str, postgres: Any, mode: str
) -> None:
    async with opened(url) as books:
        wanted = [f"{who}-{n}" for who in range(10) for n in range(60)]

        async def write(who: int) -> None:
            for n in range(60):
                await books.write(note(f"{who}-{n}"))
                await anyio.sleep(0.005)

        async with anyio.create_task_group() as tasks:
            for who in range(10):
                tasks.start_soon(write, who)
            await anyio.sleep(0.15)
            await anyio.to_thread.run_sync(postgres.restart, mode, 0.3)
        assert sorted(words(url)) == sorted(wanted)


async def test_a_database_that_stays_away_is_told_in_the_end(url: str, postgres: Any) -> None:
    secret = url.replace("postgres@", "postgres:secret@")
    async with opened(secret, patience=1) as books:
        await books.write(note("a"))
        await anyio.to_thread.run_sync(postgres.stop)
        began = time.monotonic()
        with pytest.raises(
            LedgerError, match=r"could not be used for 1 s.*nothing was changed"
        ) as e:
            await books.write(note("b"))
        assert time.monotonic() - began < 4
        assert "secret" not in str(e.value)
        await anyio.to_thread.run_sync(postgres.start)
        await books.write(note("c"))
    assert words(url) == ["a", "c"]


async def test_however_many_wait_the_database_is_waited_for_once(url: str, postgres: Any) -> None:
    async with opened(url, patience=0.5) as books:
        await books.open()
        await anyio.to_thread.run_sync(postgres.stop)
        began = time.monotonic()
        told = await asyncio.gather(
            *(books.write(note("a")) for _ in range(1000)), return_exceptions=True
        )
        assert time.monotonic() - began < 4
        assert {type(one) for one in told} == {LedgerError}


async def test_opening_does_not_wait_for_a_database() -> None:
    async with opened("postgresql://u:secret@127.0.0.1:1/nowhere") as books:
        with pytest.raises(LedgerError, match=r"127\.0\.0\.1:1/nowhere") as caught:
            await books.open()
        assert "secret" not in str(caught.value)


async def test_a_server_that_says_nothing_is_not_waited_for_for_ever(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SILENCE", 0.3)
    async with opened(url, patience=0.5) as books:
        await books.open()
        began = time.monotonic()
        with pytest.raises(LedgerError, match="could not be used"):
            await books.read(lambda hand: hand.link.execute(b"SELECT pg_sleep(20)").fetchall())
        assert time.monotonic() - began < 8


async def test_closed_books_say_so(url: str) -> None:
    async with opened(url) as books:
        await books.aclose()
        with pytest.raises(LedgerError, match="closed"):
            await books.write(note("a"))


async def test_closing_finishes_what_is_queued(url: str) -> None:
    async with opened(url) as books:
        tasks = [asyncio.create_task(books.write(note(word))) for word in "abc"]
        await asyncio.sleep(0)
        await books.aclose()
        assert await asyncio.gather(*tasks) == ["a", "b", "c"]
    assert words(url) == ["a", "b", "c"]
