"""The account's window on disk: shared by processes, and safe whatever becomes of them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from support import KEY, most_in, until

from kie_mj_async import account
from kie_mj_async.account import (
    STALE_AFTER,
    FileSlots,
    MemorySlots,
    Present,
    Taken,
    Window,
    account_name,
    owner,
)
from kie_mj_async.errors import LedgerError
from kie_mj_async.rules.pacing import MARGIN, Rate, Slot, Wait

pytestmark = pytest.mark.anyio
RATE = Rate(3, 10.0)
ROOT = str(Path(__file__).parent.parent)


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Slow(Hands):
    """A clock by which a change waits in its thread, until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go_on = threading.Event(), threading.Event()
        self._loops_thread = threading.get_ident()

    def __call__(self) -> float:
        if threading.get_ident() != self._loops_thread:
            self.asked.set()
            self.go_on.wait(5)
        return super().__call__()


def window(store: Any, clock: Hands, rate: Rate = RATE) -> Window:
    store.clock = clock
    return Window(store, rate, gives_up_after=60.0)


@pytest.fixture(params=["memory", "file"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "memory":
        yield MemorySlots()
        return
    slots = FileSlots(tmp_path / "slots.sqlite3")
    yield slots
    await slots.aclose()


async def slots_of(store: Any) -> list[Slot]:
    found: list[Slot] = await store.update(lambda now: (now.slots, list(now.slots)))
    return found


async def taken(window: Window) -> Taken:
    answer = await window.take()
    assert isinstance(answer, Taken)
    return answer


async def test_a_slot_is_free_one_window_after_its_reply(store: Any) -> None:
    """Slots under way hold their place for as long as it takes, then for one window more."""
    clock = Hands()
    mine = window(store, clock)
    held = [await taken(mine) for _ in range(3)]
    assert [one.alone for one in held] == [True, False, False]
    assert await mine.take() == Wait(None)
    clock.now += 20
    assert await mine.take() == Wait(None)
    await mine.end(held[1])
    answer = await mine.take()
    assert isinstance(answer, Wait)
    assert answer.seconds == pytest.approx(10 + MARGIN)
    clock.now += 10 + 2 * MARGIN
    assert isinstance(await mine.take(), Taken)


async def test_what_was_never_sent_frees_its_slot_at_once(store: Any) -> None:
    """``free`` gives a slot back at once; ``end`` does not."""
    mine = window(store, Hands(), Rate(1, 10.0))
    await mine.free(await taken(mine))
    await mine.end(await taken(mine))
    assert isinstance(await mine.take(), Wait)


async def test_only_if_empty(store: Any) -> None:
    """A probe is let through only when nothing else counts."""
    mine = window(store, Hands())
    held = await mine.take(only_if_empty=True)
    assert isinstance(held, Taken)
    assert held.alone
    assert await mine.take(only_if_empty=True) == Wait(None)
    assert isinstance(await mine.take(), Taken)


async def test_two_windows_on_one_file_are_one(tmp_path: Path) -> None:
    """What one takes the other sees, across connections and across a restart."""
    clock = Hands()
    path = tmp_path / "slots.sqlite3"
    stores = FileSlots(path), FileSlots(path)
    one, two = (window(store, clock) for store in stores)
    for side in (one, two, one):
        await side.end(await taken(side))
    assert isinstance(await two.take(), Wait)
    await one.aclose()
    await two.aclose()
    again = window(FileSlots(path), clock)
    assert isinstance(await again.take(), Wait)
    await again.aclose()


HAMMER = """
import sys, time, anyio
sys.path.insert(0, {root!r})
from pathlib import Path
from kie_mj_async.account import Taken, Window
from kie_mj_async.errors import LedgerError
from kie_mj_async.rules.pacing import Rate

async def main():
    window = Window.of_account(Path({state!r}), "host", "key", Rate(5, 0.3), gives_up_after=5)
    end = time.monotonic() + 2.0
    async def one():
        while time.monotonic() < end:
            answer = await window.take()
            if not isinstance(answer, Taken):
                await anyio.sleep(answer.seconds if answer.seconds is not None else 0.005)
                continue
            print(time.monotonic(), flush=True)
            await anyio.sleep(0.01)
            await window.end(answer)
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(one)
    await window.aclose()

anyio.run(main)
"""


def test_processes_share_the_window(tmp_path: Path) -> None:
    """Three processes that take as fast as they can stay within one window, and use it."""
    code = HAMMER.format(root=ROOT, state=str(tmp_path))
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=30)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    times = [float(line) for output in outputs for line in output.split()]
    assert most_in(times, 0.3) <= 5
    assert len(times) >= 15
    assert sum(bool(output) for output in outputs) >= 2, "more than one had a turn"


TAKER = """
import sys, anyio
sys.path.insert(0, {root!r})
from pathlib import Path
from kie_mj_async.account import Window
from kie_mj_async.errors import LedgerError
from kie_mj_async.rules.pacing import Rate

async def main():
    window = Window.of_account(Path({state!r}), "host", "key", Rate(2, 0.2), gives_up_after=600)
    print(await window.take(), flush=True)
    await anyio.sleep_forever()

anyio.run(main)
"""


async def test_a_killed_process_holds_its_slots_for_one_window_only(tmp_path: Path) -> None:
    """Slots of a process that was killed end when the next one looks, and count a window more."""
    state = tmp_path / "state"
    rate = Rate(2, 0.2)
    victim = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", TAKER.format(root=ROOT, state=str(state))],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert victim.stdout is not None
    assert "Taken" in victim.stdout.readline()
    mine = Window.of_account(state, "host", "key", rate, gives_up_after=600)
    await mine.free(await taken(mine))
    await taken(mine)
    assert await mine.take() == Wait(None), "while its owner lives the slot is under way"
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    answer = await mine.take()
    assert isinstance(answer, Wait)
    assert answer.seconds is not None
    assert 0 < answer.seconds <= 0.2 + MARGIN + 1e-6
    deadline = time.monotonic() + 10
    while isinstance(await mine.take(), Wait):
        assert time.monotonic() < deadline
        await anyio.sleep(0.02)
    await mine.aclose()


@pytest.mark.parametrize(
    ("name", "exists"),
    [
        (owner(), True),
        (f"{os.getpid()}:earlier", False),
        (f"{os.getppid()}:any", True),
        ("1:any", True),
        ("999999999:any", False),
        ("99999999999999999999:any", False),
        ("nobody", False),
    ],
    # Names that hold process ids differ between the workers that share a run.
    ids=["this", "before it", "its parent", "the first", "none", "no number", "no name"],
)
async def test_who_is_gone(tmp_path: Path, name: str, exists: bool) -> None:
    """An open slot counts as under way while its owner lives: same process id, same incarnation."""
    clock = Hands()
    store = MemorySlots()
    store.slots = [Slot(1, name, clock.now - 1, None, clock.now + 60)]
    answer = await window(store, clock, Rate(1, 10.0)).take()
    assert isinstance(answer, Wait)
    assert (answer.seconds is None) is exists


async def test_a_process_that_may_not_be_asked_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's process counts as alive."""

    def kill(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert account._exists("12345:x")


async def test_on_windows_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where asking would kill, an owner counts as alive until its request's time-out."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("would kill"))
    assert account._exists("12345:x")


async def test_without_a_directory_the_window_is_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nothing can be written there is one warning, and the window still holds."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    with caplog.at_level(logging.WARNING):
        mine = Window.of_account(blocked, "host", KEY, Rate(1, 10.0), gives_up_after=60)
        await taken(mine)
        assert isinstance(await mine.take(), Wait)
        await mine.aclose()
    assert len(caplog.records) == 1
    assert "KIE_STATE_DIR" in caplog.text
    assert KEY not in caplog.text


async def test_a_damaged_file_is_no_reason_to_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A state file that is no database is replaced by memory, with a warning."""
    path = tmp_path / "accounts" / f"{account_name('host', KEY)}.sqlite3"
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 1000)
    mine = Window.of_account(tmp_path, "host", KEY, RATE, gives_up_after=60)
    await taken(mine)
    await mine.aclose()
    assert len(caplog.records) == 1


async def test_cancelling_a_take_leaks_no_slot(tmp_path: Path) -> None:
    """Cancelled while the file is being written, a take still hands over its slot."""
    store = FileSlots(tmp_path / "slots.sqlite3")
    clock = Slow()
    mine = window(store, clock)
    got: list[Taken] = []

    async def take() -> None:
        got.append(await taken(mine))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await until(clock.asked.is_set)
        tasks.cancel_scope.cancel()
        clock.go_on.set()
    assert [one.slot for one in got] == [slot.id for slot in await slots_of(store)]
    assert len(got) == 1
    await mine.aclose()


async def test_a_change_has_ended_before_the_next_begins(tmp_path: Path) -> None:
    """Also the change of a task whose own cancel passes through every shield; its slot is nobody's."""
    store = FileSlots(tmp_path / "slots.sqlite3")
    clock = Slow()
    mine = window(store, clock, Rate(1, 10.0))
    first = asyncio.create_task(mine.take())
    await until(clock.asked.is_set)
    first.cancel()
    others = [asyncio.create_task(slots_of(store)) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert not first.done()
    clock.go_on.set()
    assert [len(slots) for slots in await asyncio.gather(*others)] == [1, 1, 1]
    assert first.cancelled()
    assert (await taken(mine)).alone
    await mine.aclose()


async def test_a_failed_change_changes_nothing(tmp_path: Path) -> None:
    """An error inside a transaction leaves the slots as they were, and the file usable."""
    store = FileSlots(tmp_path / "slots.sqlite3")
    await store.update(lambda _: ([Slot(1, "a", 1.0, None, 2.0)], None))

    def fail(_present: Present) -> tuple[list[Slot], None]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await store.update(fail)
    assert [slot.id for slot in await slots_of(store)] == [1]
    await store.aclose()


async def test_a_slot_that_got_too_old_may_not_be_used(store: Any) -> None:
    """From its request to its create's first byte a slot has a limit of its own."""
    clock = Hands()
    mine = window(store, clock)
    held = await taken(mine)
    clock.now += STALE_AFTER - 0.1
    assert mine.fresh(held)
    clock.now += 0.1
    assert not mine.fresh(held)


async def test_a_slot_counts_until_the_latest_end_of_its_create(store: Any) -> None:
    """Sent in the last moment, and answered in the last: nobody else has its place before that."""
    clock = Hands()
    mine = window(store, clock, Rate(1, 10.0))
    await taken(mine)
    clock.now += STALE_AFTER + 60.0
    assert await mine.take() == Wait(None)
    clock.now += 10.0
    assert isinstance(await mine.take(), Wait)
    clock.now += 2 * MARGIN
    assert isinstance(await mine.take(), Taken)


async def test_who_waits_writes_nothing(tmp_path: Path) -> None:
    """Being told to wait leaves the file as it is."""
    store = FileSlots(tmp_path / "slots.sqlite3")
    clock = Hands()
    mine = window(store, clock, Rate(1, 10.0))
    await mine.end(await taken(mine))
    other = sqlite3.connect(store.path)
    seen = [other.execute("PRAGMA data_version").fetchone()]
    for _ in range(3):
        assert isinstance(await mine.take(), Wait)
        seen.append(other.execute("PRAGMA data_version").fetchone())
    assert len(set(seen)) == 1
    other.close()
    await mine.aclose()


class Deaf(MemorySlots):
    """A store that makes each change twice, as one does that was not heard the first time."""

    async def update(self, change: Any) -> Any:
        await super().update(change)
        return await super().update(change)


async def test_a_change_that_is_made_twice_is_made_once() -> None:
    """A slot is taken by its name, so that a store may ask again after a lost answer."""
    store = Deaf()
    mine = window(store, Hands(), Rate(2, 10.0))
    one = await taken(mine)
    assert [slot.id for slot in store.slots] == [one.slot]
    assert one.alone
    assert not (await taken(mine)).alone
    await mine.end(one)
    await mine.free(one)
    assert len(store.slots) == 1


def test_the_accounts_name_tells_nothing() -> None:
    """The file's name differs by host and key and holds neither."""
    names = {account_name(host, key) for host in ("a", "b") for key in (KEY, "other")}
    assert len(names) == 4
    assert not any(KEY in name or KEY[3:9] in name for name in names)
    # Where host ends and key begins counts.
    assert account_name("ab", "c") != account_name("a", "bc")


async def test_a_window_that_breaks_later_sends_nothing(tmp_path: Path) -> None:
    """Where slots can no longer be kept a take is an error of ours; giving back only warns."""
    window = Window.of_account(tmp_path, "host", "key", Rate(2, 0.2), gives_up_after=1)
    mine = await window.take()
    assert isinstance(mine, Taken)
    [path] = tmp_path.glob("accounts/*.sqlite3")
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(LedgerError, match="window cannot be kept: file is not a database"):
        await window.take()
    await window.end(mine)
    await window.free(mine)
    await window.aclose()
    with pytest.raises(LedgerError, match="closed"):
        await window.take()
