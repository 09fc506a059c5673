"""What reaches the disk before what, as the kernel saw it.

A killed process leaves what it wrote to the kernel; a power cut leaves only what was synced. So the
order of the system calls has to be right too, and that is what these tests look at.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import attrs
import pytest
from crash_runs import Scene, serving

SYNCING: Final = ("fdatasync", "fsync")
SENDING: Final = ("sendto", "sendmsg", "write", "writev")
NAMING: Final = ("link", "linkat", "rename", "renameat", "renameat2")
WRITING: Final = ("pwrite64", "write", "writev")
WAL: Final = "/ledger.sqlite3-wal>"

_LINE: Final = re.compile(r"(\d+) +(?:<\.\.\. \w+ (resumed)>|(\w+)\()(.*)")


@attrs.define
class Call:
    """A system call.

    Attributes:
        name: Which.
        text: Its arguments and its result.
        began: Its first line in the trace.
        ended: Its last line in the trace.
    """

    name: str
    text: str
    began: int
    ended: int

    def before(self, other: Call) -> bool:
        """Whether it had ended before the other began."""
        return self.ended < other.began


class Trace:
    """The system calls of a process, all threads of it, in their order.

    Args:
        lines: As ``strace -f`` writes them.
    """

    def __init__(self, lines: list[str]) -> None:
        self.calls: list[Call] = []
        under_way: dict[str, Call] = {}
        for number, line in enumerate(lines):
            found = _LINE.match(line)
            if found is None:  # a signal, or the end of a thread
                continue
            thread, resumed, name, rest = found.groups()
            if resumed:
                call = under_way.pop(thread)
                call.text += rest
                call.ended = number
                continue
            call = Call(name, rest, number, number)
            self.calls.append(call)
            if rest.endswith("<unfinished ...>"):
                under_way[thread] = call

    def all(self, names: tuple[str, ...], *words: str) -> list[Call]:
        """The calls of these names with these words in them."""
        return [
            call
            for call in self.calls
            if call.name in names and all(word in call.text for word in words)
        ]

    def first(self, names: tuple[str, ...], *words: str, after: Call | None = None) -> Call:
        """The first of them, of those that began after another call had ended."""
        for call in self.all(names, *words):
            if after is None or after.before(call):
                return call
        raise AssertionError(f"no {' or '.join(names)} with {words}")


@attrs.frozen
class Traced:
    """A run of one job, watched.

    Attributes:
        trace: Its system calls.
        task_id: Its task.
        out: Its directory.
    """

    trace: Trace
    task_id: str
    out: Path


def _why_not(folder: Path) -> str | None:
    """Why nothing can be traced here, if so."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    command = ["strace", "-f", "-o", str(folder / "probe"), "true"]
    probe = subprocess.run(command, capture_output=True, text=True)
    return f"strace is not permitted here: {probe.stderr.strip()}" if probe.returncode else None


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    folder = tmp_path_factory.mktemp("strace")
    if reason := _why_not(folder):
        pytest.skip(reason)
    log = folder / "trace"
    calls = ",".join({*SYNCING, *SENDING, *NAMING, *WRITING, "openat"})
    strace = ["strace", "-f", "-yy", "-s", "8192", "-e", f"trace={calls}", "-o", str(log)]
    with serving() as service:
        scene = Scene(folder, service, jobs=1)
        # Without checkpoints, which sync too: each sync has to be seen for itself.
        assert scene.run("--checkpoint", str(1 << 30), under=strace) == 0, scene.log.read_text()
        [create] = service.books["creates"]
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return Traced(Trace(lines), create["task_id"], scene.out)


def test_the_ledger_is_whole_before_it_has_its_name(traced: Traced) -> None:
    """A new ledger is synced before it comes under its name, and its name before any intent."""
    trace = traced.trace
    named = trace.first(NAMING, '/ledger.sqlite3"')
    assert trace.first(SYNCING, "/ledger.sqlite3.new>").before(named)
    folder = trace.first(SYNCING, "/.kie-mj>", after=named)
    assert folder.before(trace.first(WRITING, WAL, "submitting"))


def test_the_intent_is_on_disk_before_the_create(traced: Traced) -> None:
    """The intent is synced before the first byte of the create is sent."""
    trace = traced.trace
    intent = trace.first(WRITING, WAL, "submitting")
    [create] = trace.all(SENDING, "POST /api/v1/mj/generate")
    assert trace.first(SYNCING, WAL, after=intent).before(create)


def test_the_id_is_on_disk_before_anything_is_done_with_it(traced: Traced) -> None:
    """The task's id is synced before the first request that names it."""
    trace = traced.trace
    stored = trace.first(WRITING, WAL, traced.task_id)
    asked = trace.first(SENDING, f"GET /api/v1/mj/record-info?taskId={traced.task_id}")
    assert trace.first(SYNCING, WAL, after=stored).before(asked)
    assert trace.first(SENDING, "TCP:", traced.task_id) is asked


def test_a_file_is_on_disk_before_it_has_its_name(traced: Traced) -> None:
    """A file is written and synced before it is named, and its name before its row is stored."""
    trace = traced.trace
    naming = trace.all(NAMING, ".part")
    assert len(naming) == 4
    for named in naming:
        found = re.findall(r'"([^"]+)"', named.text)
        part, final = Path(found[0]), Path(found[1])
        written = trace.all(WRITING, f"{part}>")
        synced = trace.first(SYNCING, f"{part}>", after=written[-1])
        assert synced.before(named)
        folder = trace.first(SYNCING, f"{traced.out}>", after=named)
        assert folder.before(trace.first(WRITING, WAL, final.name))


def test_the_manifest_is_on_disk_before_it_has_its_name(traced: Traced) -> None:
    """A rebuilt manifest is synced before it replaces the one before."""
    trace = traced.trace
    named = trace.first(NAMING, '/manifest.jsonl"')
    assert trace.first(SYNCING, "/.manifest.jsonl.new>").before(named)
