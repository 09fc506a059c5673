"""The command line as processes: signals, terminals, two at a time, and SIGKILL."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_support import KEY, Service, manifest, pictures, serving, wait_until

from kie_mj_async import durations_file
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules.kinds import kind_of

if sys.platform == "win32":
    pytest.skip("POSIX signals and terminals", allow_module_level=True)

import pty

COMMAND = [sys.executable, "-m", "kie_mj_async.cli"]
COUNTS = ("planned", "pending", "saved", "failed", "expired", "unresolved", "abandoned")


class Desk:
    """Starts commands in a folder of their own, and ends what is left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {name: one for name, one in os.environ.items() if not name.startswith("KIE_")}
        self.env |= {"KIE_STATE_DIR": str(folder / "state"), "TERM": "xterm", "COLUMNS": "100"}
        self.started: list[subprocess.Popen[bytes]] = []

    def use(self, service: Service) -> None:
        """From now on, this service, of which it is known how quick it is."""
        self.env |= {"KIE_BASE_URL": service.url, "KIE_API_KEY": KEY}
        path = durations_file.path_of(Path(self.env["KIE_STATE_DIR"]), service.url)
        durations_file.add(path, [(kind_of(TextToImage("a fox")), 60 * service.scale)] * 30)

    def write(self, name: str, number: int, what: str = "fox") -> None:
        lines = "".join(f"{what} {one}\n" for one in range(number))
        (self.folder / name).write_text(lines)

    def start(self, *arguments: str, tty: int | None = None) -> subprocess.Popen[bytes]:
        """Start a command; on a terminal if one is given."""
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL if tty is None else tty,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if tty is None else tty,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        """Run a command with --json to its end."""
        process = self.start(*arguments, "--json")
        out, err = process.communicate(timeout=40)
        return process.returncode, json.loads(out) if out else {}, err.decode()

    def status(self, out: str = "out") -> dict[str, Any]:
        return self.run("status", out)[1]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    for process in desk.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


class Terminal:
    """A pseudo-terminal: what is shown on it, and a keyboard."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        self.shown = ""

    def read(self, until: Callable[[str], object], seconds: float = 15.0) -> str:
        """Read on until what is shown fits."""
        deadline = time.monotonic() + seconds
        while not until(self.shown):
            assert time.monotonic() < deadline, self.shown
            if select.select([self._ours], [], [], 0.1)[0]:
                self.shown += os.read(self._ours, 65536).decode(errors="replace")
        return self.shown

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def read_to_the_end(self, process: subprocess.Popen[bytes]) -> int:
        """Read until the process has ended; its exit code."""
        self.read(lambda _: process.poll() is not None)
        while select.select([self._ours], [], [], 0.1)[0]:
            self.shown += os.read(self._ours, 65536).decode(errors="replace")
        assert process.returncode is not None
        return process.returncode

    def close(self) -> None:
        os.close(self._ours)
        os.close(self.theirs)


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sees_creates_through(desk: Desk, number: signal.Signals) -> None:
    """A create under way is committed; the rest is left, and the output says how to go on."""
    desk.write("list.txt", 6)
    # A create takes half a second or so, which is when the signal comes.
    with serving(scale=0.05, create_latency=12) as service:
        desk.use(service)
        process = desk.start(
            "render", "list.txt", "--out", "out", "--yes", "--json", "--in-flight", "2"
        )
        wait_until(lambda: len(service.creates) >= 2)
        assert desk.status()["saved"] == 0
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        told = json.loads(out)
        books = service.books
    assert process.returncode == 3, err
    assert b"Go on later with: kie-mj resume out" in err
    assert b"Traceback" not in err
    assert (told["unresolved"], told["saved"]) == (0, 0)
    committed = {job["task_id"] for job in told["jobs"]} - {None}
    assert committed == set(books["tasks"])
    assert (told["pending"], told["planned"]) == (len(committed), 6 - len(committed))
    assert 2 <= len(committed) < 6


def test_an_interrupted_run_is_resumed(desk: Desk) -> None:
    """After an interrupt, resume saves the rest; nothing is created twice."""
    desk.write("list.txt", 5)
    with serving("task.stuck=#4") as service:
        desk.use(service)
        process = desk.start("render", "list.txt", "--out", "out", "--yes")
        wait_until(lambda: len(service.creates) == 5)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 3
        service.finish_all()
        code, told, _ = desk.run("resume", "out")
        prompts = [create["prompt"] for create in service.creates]
    assert (code, told["saved"]) == (0, 5)
    assert sorted(prompts) == [f"fox {one}" for one in range(5)]


def test_the_second_signal_stops_at_once(desk: Desk) -> None:
    """A second interrupt does not wait for a create that hangs; the create is unresolved then."""
    with serving("create.stall=#1") as service:
        desk.use(service)
        process = desk.start("generate", "a fox", "--out", "out", "--yes")
        assert process.stderr is not None
        wait_until(lambda: len(service.creates) == 1)
        process.send_signal(signal.SIGINT)
        while b"Stopping" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=5)
        assert process.returncode == 3
        assert b"Stopped at once" in err
        code, told, _ = desk.run("status", "out")
        assert (code, told["unresolved"]) == (4, 1)
        # And it is not sent again by itself.
        code, told, _ = desk.run("resume", "out")
        assert (code, told["unresolved"], len(service.creates)) == (4, 1, 1)


# SIGKILL


@pytest.mark.slow
def test_a_killed_run_is_resumed(desk: Desk) -> None:
    """After SIGKILL, status tells what stands where and resume saves all, creating nothing twice."""
    desk.write("list.txt", 30)
    with serving(scale=0.02) as service:
        desk.use(service)
        arguments = ("render", "list.txt", "--out", "out", "--yes", "--rate", "20/0.2")
        process = desk.start(*arguments)
        wait_until(lambda: len(pictures(desk.folder / "out")) >= 2)
        process.kill()
        process.communicate()
        code, told, _ = desk.run("status", "out")
        assert (code, told["saved"] < 30) == (3, True)
        assert sum(told[name] for name in COUNTS) == 30
        code, told, err = desk.run("resume", "out", "--yes", "--rate", "20/0.2")
        books = service.books
    assert code == 0, err
    prompts = [create["prompt"] for create in books["creates"]]
    assert sorted(prompts) == sorted(f"fox {one}" for one in range(30))
    assert (told["saved"], told["files"], told["credits"]) == (30, 120, 750)
    out = desk.folder / "out"
    assert pictures(out) == sorted(line["path"] for line in manifest(out))
    assert not list(out.rglob("*.part"))


@pytest.mark.slow
def test_a_killed_simulation_is_resumed(desk: Desk) -> None:
    """A simulated run that is killed goes on with its simulator's journal."""
    desk.write("list.txt", 3)
    process = desk.start("render", "list.txt", "--out", "out", "--simulate")
    journal = desk.folder / "out" / ".kie-mj" / "simulator.jsonl"

    def creates() -> list[str]:
        events = [json.loads(line) for line in journal.read_text().splitlines()[:-1]]
        return [one["body"]["prompt"] for one in events if one["kind"] == "create"]

    wait_until(lambda: journal.exists() and len(creates()) == 3)
    process.kill()
    process.communicate()
    told = desk.status()
    assert (told["saved"], told["pending"] + told["unresolved"]) == (0, 3)
    if told["unresolved"]:  # the kill came between a create and its reply
        desk.start("resolve", "out", "--abandon").wait()
    code, again, err = desk.run("resume", "out", "--simulate")
    assert code == 0, err
    assert again["saved"] == told["pending"] >= 1
    assert sorted(creates()) == ["fox 0", "fox 1", "fox 2"]


# Two at a time


@pytest.mark.slow
def test_two_processes_share_the_accounts_window(desk: Desk) -> None:
    """Two runs of one account together stay within its window: no 429, all is saved."""
    desk.write("foxes.txt", 22)
    desk.write("owls.txt", 22, what="owl")
    with serving(scale=0.05) as service:  # a window of half a second
        desk.use(service)
        processes = [
            desk.start(
                "render", f"{name}.txt", "--out", name, "--yes", "--json", "--rate", "20/0.5"
            )
            for name in ("foxes", "owls")
        ]
        told = [json.loads(process.communicate(timeout=40)[0]) for process in processes]
        books = service.books
    assert [process.returncode for process in processes] == [0, 0]
    assert [one["saved"] for one in told] == [22, 22]
    assert books["accepted"] == len(books["creates"]) == 44
    assert books["most_requests_in_window"] <= 20
    assert books["refused_429_window"] == 0


def test_status_beside_a_run(desk: Desk) -> None:
    """While a run works, status tells how far it is and which process it is; a second run may not."""
    with serving("create.stall=#2,task.stuck=#1") as service:
        desk.use(service)
        desk.write("list.txt", 2)
        process = desk.start("render", "list.txt", "--out", "out", "--yes")
        wait_until(lambda: len(service.creates) == 2)
        code, told, _ = desk.run("status", "out")
        while told["planned"]:
            code, told, _ = desk.run("status", "out")
        human = desk.start("status", "out").communicate()[0].decode()
        again = desk.start("render", "list.txt", "--out", "out", "--yes")
        _, refusal = again.communicate()
    assert (code, told["pending"], told["unresolved"]) == (3, 2, 0)
    assert human.endswith(f"Process {process.pid} is working on it.\n")
    assert "What to do next" not in human
    assert again.returncode == 2
    assert f"process {process.pid} is working on it".encode() in refusal


# Terminals


@pytest.mark.parametrize(
    ("answer", "code", "creates"), [("y\n", 0, 1), ("n\n", 2, 0), ("\n", 2, 0)]
)
def test_consent_on_a_terminal(
    desk: Desk, terminal: Terminal, answer: str, code: int, creates: int
) -> None:
    """On a terminal the price is asked about; only yes spends it."""
    with serving() as service:
        desk.use(service)
        process = desk.start("generate", "a fox", "--out", "out", tty=terminal.theirs)
        shown = terminal.read(lambda text: "[y/N]" in text)
        assert "25 credits" in shown
        assert "balance: 100,000" in shown
        assert service.creates == []
        terminal.type(answer)
        assert terminal.read_to_the_end(process) == code, terminal.shown
        assert len(service.creates) == creates
    assert ("Nothing was sent." in terminal.shown) == (code == 2)


def test_an_interrupt_at_the_question(desk: Desk, terminal: Terminal) -> None:
    """An interrupt at the question ends at once, with nothing spent and no traceback."""
    with serving() as service:
        desk.use(service)
        process = desk.start("generate", "a fox", "--out", "out", tty=terminal.theirs)
        terminal.read(lambda text: "[y/N]" in text)
        process.send_signal(signal.SIGINT)
        assert terminal.read_to_the_end(process) == 3
        assert service.creates == []
    assert "Traceback" not in terminal.shown
    assert "kie-mj: stopped" in terminal.shown


def test_the_live_view(desk: Desk, terminal: Terminal) -> None:
    """On a terminal three lanes fill up; a prompt cannot style them; the cursor comes back."""
    (desk.folder / "list.txt").write_text("a \x1b[5mfox [red]\nan owl\n")
    # A pace is shown after a second.
    with serving("task.fail=#1", scale=0.02) as service:
        desk.use(service)
        process = desk.start("render", "list.txt", "--out", "out", "--yes", tty=terminal.theirs)
        code = terminal.read_to_the_end(process)
    assert code == 1, terminal.shown
    assert "\x1b[5m" not in terminal.shown
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.shown)
    for words in ("submitted", "generated", "2/2", "saved", "1/2", "4 files", "jobs/min"):
        assert words in plain
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")


def test_the_cursor_comes_back_after_a_second_interrupt(desk: Desk, terminal: Terminal) -> None:
    """Stopping at once leaves the terminal as it was."""
    with serving("create.stall=#1") as service:
        desk.use(service)
        process = desk.start("generate", "a fox", "--out", "out", "--yes", tty=terminal.theirs)
        wait_until(lambda: len(service.creates) == 1)
        terminal.read(lambda text: "\x1b[?25l" in text)
        process.send_signal(signal.SIGINT)
        terminal.read(lambda text: "Stopping" in text)
        process.send_signal(signal.SIGINT)
        assert terminal.read_to_the_end(process) == 3
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")
    assert "Stopped at once" in terminal.shown


def test_output_that_does_not_take_every_character(desk: Desk) -> None:
    """Where stdout cannot show a prompt's characters, they are shown in another way."""
    desk.env["PYTHONIOENCODING"] = "latin-1"
    with serving("task.fail=#1") as service:
        desk.use(service)
        code, told, err = desk.run("generate", "狐 ☃", "--out", "out", "--yes")
        assert (code, told["jobs"][0]["prompt"]) == (1, "狐 ☃"), err
        status = desk.start("status", "out")
        out, err_bytes = status.communicate()
    assert (status.returncode, err_bytes) == (1, b"")
    assert rb"\u72d0 \u2603" in out
