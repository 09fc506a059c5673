"""The fleet's window in a real PostgreSQL: one for all workers, whatever becomes of any of them."""

from __future__ import annotations

import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from cluster_support import ask
from postgres_support import die_with_the_parent
from slots_driver import GIVES_UP_AFTER, STALE_AFTER
from support import KEY, most_in

from kie_mj_async.account import Taken, Window, account_name
from kie_mj_async.cluster import slots as module
from kie_mj_async.cluster.slots import TABLES, AccountSlots
from kie_mj_async.errors import LedgerError
from kie_mj_async.rules.pacing import MARGIN, Rate, Wait

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

DRIVER = Path(__file__).with_name("slots_driver.py")
RATE = Rate(3, 10.0)


class Hands:
    """A worker's steady clock, set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def books(database: str) -> str:
    """A database with the tables in it."""
    ask(database, TABLES)
    return database


@asynccontextmanager
async def opened(url: str, owner: str = "one", **options: Any) -> AsyncIterator[AccountSlots]:
    slots = AccountSlots(url, "account", owner=owner, in_flight=100, running="0", **options)
    try:
        yield slots
    finally:
        await slots.aclose()


def window(slots: AccountSlots, rate: Rate = RATE) -> Window:
    return Window(slots, rate, gives_up_after=60.0, chance=lambda: 0.0)


async def taken(window: Window) -> Taken:
    answer = await window.take()
    assert isinstance(answer, Taken)
    return answer


def rows(url: str) -> list[tuple[Any, ...]]:
    return ask(url, "SELECT id, owner, ended_at FROM kie_mj.slot ORDER BY taken_at")


# --- The window ----------------------------------------------------------------------------------


async def test_two_workers_have_one_window(books: str) -> None:
    """What one takes the other finds, with its owner's name."""
    async with opened(books, "one") as first, opened(books, "two") as second:
        one, two = window(first), window(second)
        held = [await taken(one), await taken(two), await taken(one)]
        assert [slot.alone for slot in held] == [True, False, False]
        assert [row[:2] for row in rows(books)] == [
            (held[0].slot, "one"),
            (held[1].slot, "two"),
            (held[2].slot, "one"),
        ]
        assert await two.take() == Wait(module.AccountSlots.look_again)
        await two.free(held[1])
        await two.end(await taken(two))
        answer = await one.take()
        assert isinstance(answer, Wait)
        assert answer.seconds is not None
        assert 9.5 < answer.seconds <= 10 + MARGIN
    async with opened(books, "three") as third:
        assert isinstance(await window(third).take(), Wait), "also for who comes later"


async def test_a_slot_is_free_one_window_after_its_reply(books: str) -> None:
    """By the database's clock."""
    async with opened(books) as slots:
        mine = window(slots, Rate(1, 0.3))
        await mine.end(await taken(mine))
        began = time.monotonic()
        while not isinstance(await mine.take(), Taken):  # noqa: ASYNC110
            await anyio.sleep(0.01)
        assert time.monotonic() - began > 0.3
        assert len(rows(books)) == 1, "what has run out is dropped"


async def test_who_waits_writes_nothing(books: str) -> None:
    """Questions without a slot to be had leave the rows as they are."""
    async with opened(books) as slots:
        mine = window(slots, Rate(1, 10.0))
        await mine.end(await taken(mine))
        before = ask(books, "SELECT xmin::text, version FROM kie_mj.account")
        for _ in range(5):
            assert isinstance(await mine.take(), Wait)
        assert ask(books, "SELECT xmin::text, version FROM kie_mj.account") == before


async def test_waiting_workers_do_not_come_back_at_the_same_moment(books: str) -> None:
    """The more workers hold slots, the further apart those who wait ask again."""
    async with opened(books) as slots:
        spread = Window(slots, Rate(1, 10.0), gives_up_after=60, chance=lambda: 0.5)
        exact = window(slots, Rate(1, 10.0))
        await taken(spread)
        assert await exact.take() == Wait(slots.look_again)
        assert await spread.take() == Wait(slots.look_again + 0.025)


async def test_accounts_do_not_share(books: str) -> None:
    """Each has a row and slots of its own, under a name that tells nothing of the key."""
    name = account_name("host", KEY)
    first = AccountSlots(books, name, owner="one", in_flight=100, running="0")
    async with opened(books) as second:
        await taken(window(first, Rate(1, 10.0)))
        await taken(window(second, Rate(1, 10.0)))
    await first.aclose()
    assert {row[0] for row in ask(books, "SELECT name FROM kie_mj.account")} == {name, "account"}
    assert KEY not in str(ask(books, "SELECT * FROM kie_mj.account"))


async def test_a_dead_workers_slot_counts_until_its_create_has_timed_out(books: str) -> None:
    """Not just for a window: its create may be under way still."""
    async with opened(books, "dead") as slots:
        await taken(Window(slots, Rate(1, 0.2), gives_up_after=0.5, stale_after=0.5))
    began = time.monotonic()
    async with opened(books, "heir") as slots:
        heir = Window(slots, Rate(1, 0.2), gives_up_after=0.5, stale_after=0.5)
        while not isinstance(answer := await heir.take(), Taken):
            assert answer.seconds is not None
            await anyio.sleep(0.02)
    assert time.monotonic() - began >= 1.0


# --- The time ------------------------------------------------------------------------------------


def set_clock(monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    """Let the database's clock say something else."""
    statement = "extract(epoch FROM statement_timestamp())::float8"
    real = AccountSlots._ask

    async def asked(self: AccountSlots, text: bytes, values: Any) -> Any:
        text = text.replace(statement.encode(), f"{statement} + {by!r}".encode())
        return await real(self, text, values)

    monkeypatch.setattr(AccountSlots, "_ask", asked)


@pytest.mark.parametrize("by", [3600.0, -3600.0])
@pytest.mark.parametrize("looked", [True, False])
async def test_a_clock_that_is_set_frees_no_slot(
    books: str, monkeypatch: pytest.MonkeyPatch, by: float, looked: bool
) -> None:
    """Neither for workers that were there, whenever they last looked, nor for those that come later."""
    async with opened(books, "one") as first, opened(books, "two") as second:
        one, two = window(first, Rate(1, 0.5)), window(second, Rate(1, 0.5))
        assert isinstance(await two.take(), Taken)
        assert isinstance(await one.take(), Wait)
        await two.end(Taken(rows(books)[0][0], alone=True))
        if looked:
            assert isinstance(await one.take(), Wait)
            assert isinstance(await two.take(), Wait)
        with monkeypatch.context() as clock:
            set_clock(clock, by)
            async with opened(books, "three") as third:
                for one_of in (window(third, Rate(1, 0.5)), one, two):
                    assert isinstance(await one_of.take(), Wait)
                await anyio.sleep(0.6)
                assert isinstance(await two.take(), Taken), "and time goes on"


# --- Connections ---------------------------------------------------------------------------------


async def test_an_answer_that_was_lost(books: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slot was taken and the connection broke: it is found again, and not taken twice."""
    real = AccountSlots._ask
    broken: list[bytes] = []

    async def asked(self: AccountSlots, text: bytes, values: Any) -> Any:
        answer = await real(self, text, values)
        if b"UPDATE" in text and not broken:
            broken.append(text)
            ask(
                books,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'one slots'",
            )
            await real(self, b"SELECT 1", ())
        return answer

    monkeypatch.setattr(AccountSlots, "_ask", asked)
    async with opened(books) as slots:
        mine = window(slots)
        held = await taken(mine)
        assert held.alone
        assert [row[0] for row in rows(books)] == [held.slot]
        assert broken


async def test_a_write_that_others_were_faster_at_is_decided_anew(
    books: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading and writing another worker took the last slot: this one is told to wait."""
    real = AccountSlots._write
    async with opened(books, "one") as first, opened(books, "two") as second:
        rival = window(second, Rate(1, 10.0))

        async def write(self: AccountSlots, *found: Any) -> bool:
            monkeypatch.undo()
            await taken(rival)
            return await real(self, *found)

        monkeypatch.setattr(AccountSlots, "_write", write)
        assert isinstance(await window(first, Rate(1, 10.0)).take(), Wait)
        assert [row[1] for row in rows(books)] == ["two"]


async def test_a_crash_of_the_database_is_waited_for(books: str, postgres: Any) -> None:
    """Slots outlive it, and whoever asks meanwhile gets an answer afterwards."""
    async with opened(books) as slots:
        mine = window(slots, Rate(2, 10.0))
        await mine.end(await taken(mine))
        await anyio.to_thread.run_sync(postgres.stop)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, postgres.start)
            held = await taken(mine)
        assert not held.alone
        assert isinstance(await mine.take(), Wait)


async def test_without_a_database_it_gives_up(books: str, postgres: Any) -> None:
    """A take is an error that says where, in bounded time; giving back only warns."""
    async with opened(books, patience=0.3) as slots:
        mine = window(slots)
        held = await taken(mine)
        await anyio.to_thread.run_sync(postgres.stop)
        began = time.monotonic()
        with pytest.raises(LedgerError, match=r"127\.0\.0\.1"):
            await mine.take()
        await mine.end(held)
        assert time.monotonic() - began < 3


async def test_a_database_that_was_not_made_ready_says_so_at_once(database: str) -> None:
    """It names what to run."""
    async with opened(database) as slots:
        began = time.monotonic()
        with pytest.raises(LedgerError, match="kie-mj cluster migrate"):
            await window(slots).take()
        assert time.monotonic() - began < 2


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the server's processes")
async def test_a_database_that_froze_is_given_up(
    books: str, postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody answers to the request to stop the statement."""
    monkeypatch.setattr(module, "ANSWER", 0.3)
    async with opened(books, patience=0.5) as slots:
        mine = window(slots)
        held = await taken(mine)
        children = Path(f"/proc/{postgres.pid}/task/{postgres.pid}/children").read_text().split()
        server = [postgres.pid, *map(int, children)]
        for pid in server:
            os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(LedgerError):
                await mine.take()
            assert time.monotonic() - began < 3
        finally:
            for pid in server:
                os.kill(pid, signal.SIGCONT)
        await mine.end(held)
        assert isinstance(await mine.take(), Taken)


async def test_many_that_wait_for_a_database_give_up_together(books: str, postgres: Any) -> None:
    """Not one after the other."""
    async with opened(books, patience=0.5) as slots:
        mine = window(slots)
        await mine.free(await taken(mine))
        await anyio.to_thread.run_sync(postgres.stop)
        failed: list[LedgerError] = []

        async def take() -> None:
            with pytest.raises(LedgerError) as caught:
                await mine.take()
            failed.append(caught.value)

        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(take)
        assert len(failed) == 20
        assert time.monotonic() - began < 3


async def test_a_database_that_says_nothing_is_given_up(
    books: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that another session holds for long delays nobody beyond the limit."""
    monkeypatch.setattr(module, "ANSWER", 0.3)
    async with opened(books, patience=0.5) as slots:
        mine = window(slots)
        held = await taken(mine)
        with psycopg.connect(books) as link:
            link.execute("SELECT 1 FROM kie_mj.account FOR UPDATE")
            began = time.monotonic()
            with pytest.raises(LedgerError):
                await mine.take()
            assert time.monotonic() - began < 3
        await mine.end(held)
        again = await taken(mine)
    left = {row[0] for row in rows(books)}
    assert left == {held.slot, again.slot}, "what was taken after all is nobody's, and dropped"


async def test_cancelling_a_take_leaks_no_slot(books: str) -> None:
    """Cancelled while the row is being written, a take still hands over its slot."""
    got: list[Taken] = []
    async with opened(books) as slots:
        mine = window(slots)
        await mine.free(await taken(mine))
        with psycopg.connect(books) as link:
            link.execute("SELECT 1 FROM kie_mj.account FOR UPDATE")

            async def take() -> None:
                got.append(await taken(mine))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take)
                waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                with anyio.fail_after(5):
                    while not ask(books, waiting):  # noqa: ASYNC110
                        await anyio.sleep(0.02)
                tasks.cancel_scope.cancel()
                link.commit()
    assert [row[0] for row in rows(books)] == [one.slot for one in got]
    assert len(got) == 1


# --- Real processes ------------------------------------------------------------------------------

CREATES, PER = 5, 0.5


class Service(socketserver.ThreadingTCPServer):
    """Takes creates, and keeps its own books of when."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self) -> None:
        self.times: list[float] = []
        super().__init__(("127.0.0.1", 0), _Create)


class _Create(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        if self.request.recv(100) == b"create":
            assert isinstance(self.server, Service)
            self.server.times.append(time.monotonic())
            self.request.sendall(b"ok")


class Takers:
    """Workers that take slots, as processes of their own."""

    def __init__(self, url: str, service: Service) -> None:
        self._url = url
        self._place = f"127.0.0.1:{service.server_address[1]}"
        self.all: list[subprocess.Popen[bytes]] = []

    def start(self, count: int, seconds: float) -> None:
        """So many more; returns once they begin."""
        command = [sys.executable, str(DRIVER), self._url, self._place]
        command += [str(seconds), str(CREATES), str(PER)]
        new = [
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                preexec_fn=die_with_the_parent,  # noqa: PLW1509 - it calls nothing that locks
            )
            for _ in range(count)
        ]
        self.all += new
        for process in new:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"

    def end(self) -> list[int]:
        """Wait for them all; their exit codes."""
        return [process.wait(20) for process in self.all]


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def takers(books: str, service: Service) -> Iterator[Takers]:
    made = Takers(books, service)
    yield made
    for process in made.all:
        process.kill()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def when(condition: Callable[[], object], within: float = 10.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def holder(takers: Takers, url: str, number: int) -> int:
    """Send a signal to a worker while it holds a slot that is under way; its place in the list."""
    statement = "SELECT owner FROM kie_mj.slot WHERE ended_at IS NULL ORDER BY taken_at DESC"
    by_pid = {str(process.pid): place for place, process in enumerate(takers.all)}
    for _ in range(500):
        for (owner,) in ask(url, statement):
            place = by_pid.get(owner.split("-")[-2])
            if place is None or takers.all[place].poll() is not None:
                continue
            takers.all[place].send_signal(signal.SIGSTOP)
            if (owner,) in ask(url, statement):  # it cannot give it back any more
                takers.all[place].send_signal(number)
                return place
            takers.all[place].send_signal(signal.SIGCONT)
    raise AssertionError("nobody holds a slot")


@pytest.mark.slow
def test_processes_share_the_window_and_use_it(takers: Takers, service: Service) -> None:
    """Workers that take as fast as they can stay within one window, by the service's own books."""
    takers.start(4, 4.0)
    assert takers.end() == [0] * 4
    assert most_in(service.times, PER) <= CREATES
    assert len(service.times) >= 0.6 * CREATES * 4.0 / PER


@pytest.mark.slow
def test_the_window_holds_whatever_becomes_of_its_workers(
    takers: Takers, service: Service, books: str, postgres: Any
) -> None:
    """One killed with a slot in its hand, one frozen with one and brought back, a crashed database."""
    takers.start(4, 9.0)
    when(lambda: len(service.times) > CREATES)
    killed = holder(takers, books, signal.SIGKILL)
    frozen = holder(takers, books, signal.SIGSTOP)
    time.sleep(GIVES_UP_AFTER + STALE_AFTER + 2 * PER)
    before = len(service.times)
    when(lambda: len(service.times) > before + CREATES)
    takers.all[frozen].send_signal(signal.SIGCONT)
    postgres.restart("immediate", away=0.5)
    before = len(service.times)
    when(lambda: len(service.times) > before + CREATES)
    codes = takers.end()
    assert [code for place, code in enumerate(codes) if place != killed] == [0] * 3
    assert most_in(service.times, PER) <= CREATES
