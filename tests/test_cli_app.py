"""The commands and their options: bad input costs nothing, and says what to do about it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cli_support import (
    KEY,
    Result,
    Shell,
    complaint,
    serving,
)

import kie_mj_async
from kie_mj_async import cli
from kie_mj_async.batch import ledger_path
from kie_mj_async.cli import main
from kie_mj_async.cli.app import cli as commands
from kie_mj_async.engine import house
from kie_mj_async.engine.admission import Reach
from kie_mj_async.ledger.lock import ProcessLock
from kie_mj_async.ledger.sqlite import lock_path


def test_a_prompt_that_is_too_long_is_refused(shell: Shell) -> None:
    """A prompt of 3,000 characters is bad input, and the line about it stays short."""
    line = complaint(shell("generate", "x" * 3000, "--out", "out", "--simulate"))
    assert "3000 characters" in line
    assert "2000" in line
    assert len(line) < 200
    assert not (shell.folder / "out").exists()


@pytest.mark.parametrize("key", [None, "", "  ", "two words", "ключ"])
def test_a_key_that_cannot_be_one_is_refused(shell: Shell, key: str | None) -> None:
    """Without a usable key nothing is sent, and the line names KIE_API_KEY."""
    with serving() as service:
        shell.use(service)
        if key is None:
            shell.patch.delenv("KIE_API_KEY")
        else:
            shell.patch.setenv("KIE_API_KEY", key)
        line = complaint(shell("generate", "a fox", "--out", "out", "--yes"))
        assert service.books["keys"] == []
    assert "KIE_API_KEY" in line
    assert not (shell.folder / "out").exists()


@pytest.mark.parametrize("url", ["api.kie.ai", "ftp://api.kie.ai", "http://"])
def test_a_host_that_cannot_be_one_is_refused(shell: Shell, url: str) -> None:
    """A base URL that is none is named, with the variable it came from."""
    shell.patch.setenv("KIE_API_KEY", KEY)
    shell.patch.setenv("KIE_BASE_URL", url)
    line = complaint(shell("generate", "a fox", "--out", "out", "--yes"))
    assert repr(url) in line
    assert "KIE_BASE_URL" in line


@pytest.mark.parametrize("simulated", [False, True], ids=["real", "simulated"])
@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("file", ["file", "choose a directory"]),
        ("file/below", ["file/below", "Not a directory"]),
        ("x" * 300, ["xxx", "too long"]),
    ],
    ids=["file", "below a file", "long name"],
)
def test_an_out_that_cannot_be_a_directory_is_refused(
    shell: Shell, out: str, words: list[str], simulated: bool
) -> None:
    """A directory that cannot be made or written is one line with its name, before any create."""
    (shell.folder / "file").touch()
    options = ["--simulate"] if simulated else []
    with serving() as service:
        shell.use(service)
        line = complaint(shell("generate", "a fox", "--out", out, "--yes", *options))
        assert service.books["keys"] == []
    assert all(word in line for word in words), line


@pytest.mark.parametrize("command", ["status", "resume", "resume --simulate", "resolve --retry"])
@pytest.mark.parametrize("directory", ["nothing", "file", "file/below", "x" * 300])
def test_a_directory_without_a_batch_is_refused(shell: Shell, command: str, directory: str) -> None:
    """A directory that holds no batch is named, and is not made."""
    (shell.folder / "file").touch()
    shell.patch.setenv("KIE_API_KEY", KEY)
    before = sorted(shell.folder.rglob("*"))
    name, *options = command.split()
    assert directory in complaint(shell(name, directory, *options))
    after = [path for path in shell.folder.rglob("*") if "state" not in path.parts]
    assert sorted(after) == before


def test_an_unreachable_host_ends_the_run(shell: Shell) -> None:
    """A host that never answers ends the run with exit 3; every job is still planned."""
    shell.patch.setattr(house, "Reach", partial(Reach, patience=0.3))
    shell.write("list.txt", "a fox", "an owl")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # never listens
        host = f"127.0.0.1:{deaf.getsockname()[1]}"
        shell.patch.setenv("KIE_BASE_URL", f"http://{host}")
        shell.patch.setenv("KIE_API_KEY", KEY)
        result = shell("render", "list.txt", "--out", "out", "--yes", "--json")
        (balance,) = [shell("credits")]
    assert result.code == 3
    assert "stopped: the API host has not been reachable for" in result.err
    assert host in result.err
    assert "kie-mj resume out" in result.err
    assert (result.told["planned"], result.told["credits"]) == (2, 0)
    assert host in complaint(balance, 3)


def test_a_ledger_of_another_host_is_refused(shell: Shell) -> None:
    """A directory made at one API host is not worked on at another."""
    with serving() as here, serving() as there:
        shell.use(here)
        assert shell("generate", "a fox", "--out", "out", "--yes").code == 0
        shell.use(there)
        for command in (["generate", "a fox", "--out", "out", "--yes"], ["resume", "out"]):
            line = complaint(shell(*command))
            assert here.url in line
            assert "another directory" in line
        assert there.books["keys"] == []


def test_a_simulated_directory_is_not_worked_on_for_real(shell: Shell) -> None:
    """A directory made by --simulate is refused without it, and says to add it."""
    assert shell("generate", "a fox", "--out", "out", "--simulate").code == 0
    with serving() as service:
        shell.use(service)
        for command in (
            ["generate", "an owl", "--out", "out", "--yes"],
            ["resume", "out"],
            ["resolve", "out", "1-", "--adopt", "x"],
        ):
            line = complaint(shell(*command))
            assert line.startswith("out: ")
            assert "--simulate" in line
        assert service.books["keys"] == []


def test_a_real_directory_is_not_simulated_in(shell: Shell) -> None:
    """A directory of the real service is refused with --simulate, and nothing is added to it."""
    with serving() as service:
        shell.use(service)
        assert shell("generate", "a fox", "--out", "out", "--yes").code == 0
        before = sorted((shell.folder / "out").rglob("*"))
        for command in (
            ["generate", "an owl", "--out", "out"],
            ["resume", "out"],
            ["resolve", "out", "1-", "--adopt", "x"],
        ):
            line = complaint(shell(*command, "--simulate"))
            assert line.startswith("out: ")
            assert "without --simulate" in line
    assert sorted((shell.folder / "out").rglob("*")) == before


@pytest.mark.parametrize("simulated", [False, True], ids=["real", "simulated"])
def test_a_directory_that_another_process_works_on_is_refused(
    shell: Shell, simulated: bool
) -> None:
    """A directory that is being worked on is refused, with the process that does."""
    options = ["--simulate"] if simulated else ["--yes"]
    with serving() as service:
        shell.use(service)
        assert shell("generate", "a fox", "--out", "out", *options).code == 0
        sent = service.books["keys"]
        path = ledger_path("out")
        lock = ProcessLock(lock_path(path), path)
        try:
            for command in (
                ["generate", "an owl", "--out", "out", *options],
                ["resume", "out", *options],
                ["resolve", "out", "--retry"],
            ):
                line = complaint(shell(*command))
                assert line.startswith("out")
                assert f"process {os.getpid()} is working on it" in line
        finally:
            lock.release()
        assert service.books["keys"] == sent


def test_a_damaged_simulator_journal_is_named(shell: Shell) -> None:
    """A simulator's journal that cannot be read is one line that says which file it is."""
    assert shell("generate", "a fox", "--out", "out", "--simulate").code == 0
    journal = shell.folder / "out" / ".kie-mj" / "simulator.jsonl"
    journal.write_text("nonsense\n" + journal.read_text())
    line = complaint(shell("generate", "an owl", "--out", "out", "--simulate"))
    assert "simulator.jsonl" in line


def test_the_key_is_never_shown(shell: Shell) -> None:
    """Whatever fails, neither the output nor any file holds the key."""
    shell.write("list.txt", "a fox", "an owl", "a newt", "a hare")
    shown = []
    with serving("create.401=#1,create.drop-reply=#2,create.500=#3,task.fail=#2") as service:
        shell.use(service)
        for command in (
            ["render", "list.txt", "--out", "out", "--yes", "--json"],
            ["resume", "out", "--yes", "--json"],
            ["status", "out", "--json"],
            ["resolve", "out", "1-", "--adopt", "nonsense"],
            ["credits"],
        ):
            result = shell(*command)
            shown.append(result.out + result.err)
        assert any(one["authorization"] for one in service.books["keys"])
    assert any("unresolved" in text for text in shown)
    assert not any(KEY in text for text in shown)
    files = [path for path in shell.folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not any(KEY.encode() in path.read_bytes() for path in files)


def test_credits_are_told(shell: Shell) -> None:
    """``credits`` prints the balance alone; a refused key is one line and exit 3."""
    with serving(credits=1234, api_key=KEY) as service:
        shell.use(service)
        assert shell("credits") == Result(0, "1234\n", "")
        shell.use(service, key="another")
        assert "401" in complaint(shell("credits"), 3)
    assert shell("credits", "--simulate").out == "100000\n"


def test_follow_the_help() -> None:
    """Every command has a help text that begins with what it does."""
    names = {
        *("render", "generate", "upscale", "vary", "extend", "archive", "resume", "status"),
        *("resolve", "gallery", "credits", "simulate", "listen", "worker", "cluster"),
        *("config", "completion"),
    }
    assert names == set(commands.commands)
    assert all(command.get_short_help_str() for command in commands.commands.values())


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["render", "--help"]])
def test_help_goes_to_stdout(shell: Shell, arguments: list[str]) -> None:
    """Help is asked for: exit 0, on stdout."""
    result = shell(*arguments)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("Usage: kie-mj")


def test_no_command_shows_the_help(shell: Shell) -> None:
    """Without a command the help is shown, as it is, with exit 2."""
    result = shell()
    assert result.code == 2
    assert (result.out + result.err).startswith("Usage: kie-mj")


def test_the_version_is_told(shell: Shell) -> None:
    """``--version`` prints the package's version."""
    assert shell("--version").out == f"kie-mj, version {kie_mj_async.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["paint"], "'paint'"),
        (["render", "--out", "out"], "FILE..."),
        (["render", "list.txt"], "--out"),
        (["status"], "DIR"),
        (["resolve", "out"], "--retry"),
        (["resolve", "out", "--retry", "--abandon"], "--retry"),
        (["resolve", "out", "a", "b", "--adopt", "x"], "--adopt"),
        (["upscale", "abc", "--out", "out"], "INDEX"),
        (["vary", "abc", "first", "--out", "out"], "first"),
        (["listen", "--port", "70000"], "--port"),
        (["simulate", "--port", "70000"], "--port"),
        (["simulate", "--time-scale", "0"], "--time-scale"),
    ],
)
def test_a_command_used_wrongly_is_one_line(shell: Shell, arguments: list[str], word: str) -> None:
    """What is missing or unknown is named, in one line."""
    assert word in complaint(shell(*arguments))


@pytest.mark.parametrize("error", [KeyboardInterrupt, EOFError])
def test_an_interrupt_outside_of_a_run_is_one_word(
    shell: Shell, error: type[BaseException]
) -> None:
    """An interrupt while nothing runs yet ends with exit 3 and no traceback."""

    def interrupted(coroutine: Coroutine[Any, Any, Any]) -> None:
        coroutine.close()
        raise error

    shell.patch.setattr(asyncio, "run", interrupted)
    result = shell("credits", "--simulate")
    assert (result.code, result.err.strip()) == (3, "kie-mj: stopped")


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python, without the real home's settings."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("KIE_")}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, timeout=30, check=False, env={**env, **environment},
    )  # fmt: skip


def test_help_imports_only_what_it_needs() -> None:
    """``--help`` imports neither the network, nor the database, nor the view."""
    code = (
        "import sys\n"
        "from kie_mj_async.cli import main\n"
        "sys.argv = ['kie-mj', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'aiohttp', 'rich', 'PIL', 'anyio', 'asyncio', 'obstore', 'sqlite3'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    assert python("-c", code).stderr == "[]\n"


def test_status_draws_nothing(tmp_path: Path) -> None:
    """``status`` needs no view and no pictures."""
    code = (
        "import sys\n"
        "from kie_mj_async.cli.app import run\n"
        "run(['status', sys.argv[1]])\n"
        "print(sorted({'rich', 'PIL'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = python("-c", code, str(tmp_path))
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_a_missing_extra_is_named(missing: str) -> None:
    """Without the extra the command line says what to install."""
    code = (
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {missing!r}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "from kie_mj_async.cli import main\n"
        "main()\n"
    )
    done = python("-c", code)
    assert done.returncode == 1
    assert done.stderr == "kie-mj needs the extra 'cli': pip install 'kie-mj-async[cli]'\n"


def test_the_entry_point(shell: Shell, capfd: pytest.CaptureFixture[str]) -> None:
    """The entry point ends with the command's exit code, or says what to install."""
    shell.patch.setattr(sys, "argv", ["kie-mj", "status", "nothing"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "nothing: holds no batch" in capfd.readouterr().err
    shell.patch.setattr(cli, "find_spec", lambda name: None if name == "rich" else name)
    with pytest.raises(SystemExit, match="needs the extra 'cli'"):
        main()


def test_the_module_is_the_command() -> None:
    """``python -m kie_mj_async.cli`` is ``kie-mj``."""
    done = python("-m", "kie_mj_async.cli", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("kie-mj, version")
