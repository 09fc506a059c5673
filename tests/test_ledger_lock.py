"""One process at a time, and a lock that dies with its holder."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kie_mj_async.errors import LedgerBusy, LedgerError
from kie_mj_async.ledger.lock import ProcessLock, holder_of

ROOT = Path(__file__).parents[1]
HOLD = """
import sys
from pathlib import Path
from kie_mj_async.ledger.lock import ProcessLock
lock = ProcessLock(Path(sys.argv[1]), Path(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3.lock"


@pytest.fixture
def holder(lock: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its stdin is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock), str(tmp_path / "ledger.sqlite3")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def refusal(lock: Path, subject: Path) -> LedgerBusy:
    with pytest.raises(LedgerBusy) as caught:
        ProcessLock(lock, subject)
    return caught.value


def test_a_second_one_in_the_same_process_is_refused(lock: Path, tmp_path: Path) -> None:
    """Held is held, also within a process; the refusal names the subject and the process."""
    subject = tmp_path / "ledger.sqlite3"
    held = ProcessLock(lock, subject)
    busy = refusal(lock, subject)
    assert (busy.pid, busy.path) == (os.getpid(), str(subject))
    assert str(busy).startswith(f"{subject}: process {os.getpid()} is working on it")
    held.release()


def test_release_lets_the_next_one_in(lock: Path, tmp_path: Path) -> None:
    """After release() the lock can be taken again, and releasing twice does no harm."""
    first = ProcessLock(lock, tmp_path)
    first.release()
    first.release()
    second = ProcessLock(lock, tmp_path)
    refusal(lock, tmp_path)
    second.release()


def test_another_process_is_refused_by_its_id(
    lock: Path, tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    """The refusal tells the process id of whoever holds the lock."""
    assert refusal(lock, tmp_path).pid == holder.pid
    assert refusal(lock, tmp_path).pid == holder.pid


def test_a_killed_holder_holds_nothing(
    lock: Path, tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    """The lock of a killed process does not block the next one."""
    refusal(lock, tmp_path)
    holder.kill()
    holder.wait()
    taken = ProcessLock(lock, tmp_path)
    assert refusal(lock, tmp_path).pid == os.getpid()
    taken.release()


def test_asking_who_holds_it(lock: Path, tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """The holder is known while it lives, and asking neither takes nor keeps the lock."""
    assert holder_of(lock) == holder.pid
    holder.kill()
    holder.wait()
    assert holder_of(lock) is None
    ProcessLock(lock, tmp_path).release()
    assert holder_of(lock) is None


def test_nobody_holds_what_is_not_there(lock: Path) -> None:
    """Asking about a lock that does not exist makes none; one that is garbage has no holder."""
    assert holder_of(lock) is None
    assert not lock.exists()
    lock.write_bytes(b"no database at all" * 100)
    assert holder_of(lock) is None


def test_an_unknown_holder(lock: Path, tmp_path: Path) -> None:
    """Where the holder's id cannot be read, the refusal says so without one."""
    foreign = sqlite3.connect(lock, isolation_level=None)
    foreign.execute("BEGIN EXCLUSIVE")
    busy = refusal(lock, tmp_path)
    assert busy.pid is None
    assert "another process is working on it" in str(busy)
    foreign.close()


def test_a_lock_file_that_is_none(lock: Path, tmp_path: Path) -> None:
    """Garbage in the lock's place is an error that says what to do."""
    lock.write_bytes(b"no database at all, but long enough to be one" * 100)
    with pytest.raises(LedgerError, match="it holds nothing of value: delete it") as caught:
        ProcessLock(lock, tmp_path)
    assert caught.value.path == str(lock)
    assert str(lock) in str(caught.value)


@pytest.mark.parametrize("where", ["folder", "nowhere"])
def test_a_place_that_cannot_be_written(tmp_path: Path, where: str) -> None:
    """A directory in the lock's place, or none around it, is an error that names the path."""
    path = tmp_path if where == "folder" else tmp_path / "missing" / "lock"
    with pytest.raises(LedgerError, match="cannot be opened") as caught:
        ProcessLock(path, tmp_path)
    assert not isinstance(caught.value, LedgerBusy)
    assert caught.value.path == str(path)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    """A folder without write permission is an error that names the path."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    with pytest.raises(LedgerError) as caught:
        ProcessLock(folder / "lock", tmp_path)
    assert str(folder / "lock") in str(caught.value)
