"""The package's face: every name is there, and heavy parts come only when asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import kie_mj_async as mj
from kie_mj_async import errors, jobs, requests

ROOT = str(Path(__file__).parent.parent)

EXTRAS = {
    "click", "rich", "PIL", "obstore", "dbos", "psycopg", "sqlalchemy", "opentelemetry", "pytest",
}  # fmt: skip
"""What is imported of the extras, and by the pytest plugin."""

HEAVY = EXTRAS - {"click"} | {"aiohttp", "aiofiles", "anyio", "asyncio", "sqlite3"}
"""What the command line does without until there is work to do."""


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        f"import sys; sys.path.insert(0, {ROOT!r})\n{code}",
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_every_promised_name_is_there() -> None:
    """``__all__`` is sorted, without doubles, and each of its names can be had."""
    assert list(mj.__all__) == sorted(set(mj.__all__))
    for name in mj.__all__:
        assert getattr(mj, name) is not None
    assert dir(mj) == sorted(mj.__all__)


def test_every_error_and_outcome_is_public() -> None:
    """Whatever a user may meet can be named without looking into modules."""
    kinds = [one for one in vars(errors).values() if isinstance(one, type)]
    promised = {one.__name__ for one in kinds if issubclass(one, errors.KieError)}
    promised |= {one.__name__ for one in requests.REQUEST_TYPES.values()}
    promised |= {one.__name__ for one in jobs.Outcome.__args__}
    assert promised <= set(mj.__all__)


def test_nothing_else_is_made_public() -> None:
    """A star import brings the promised names and no others."""
    space: dict[str, object] = {}
    exec("from kie_mj_async import *", space)
    assert set(space) - {"__builtins__"} == set(mj.__all__)


def test_an_unknown_name() -> None:
    """A name that is not there is an ``AttributeError`` that says so."""
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        mj.Clint  # type: ignore[attr-defined]  # noqa: B018


def test_importing_is_light() -> None:
    """The package itself imports neither aiohttp nor asyncio; the first client brings them."""
    heavy = "print(sorted({'aiohttp', 'asyncio', 'anyio', 'obstore', 'PIL', 'rich'} & set(sys.modules)))"
    assert python(f"import kie_mj_async\n{heavy}") == "[]\n"
    assert python(f"import kie_mj_async\ndir(kie_mj_async)\n{heavy}") == "[]\n"
    assert "aiohttp" not in python(f"from kie_mj_async import Client\n{heavy}")
    assert "aiohttp" in python(f"from kie_mj_async import Client\nClient('key')\n{heavy}")


def test_no_extra_comes_with_the_client() -> None:
    """What the extras bring is imported by those who use it, and by nobody else."""
    told = python(
        f"from kie_mj_async import Client\nClient('key')\nprint({EXTRAS} & set(sys.modules))"
    )
    assert told == "set()\n"


@pytest.mark.parametrize(
    "command",
    ["--help", "--version", "render --help", "cluster --help", "completion bash", "config"],
)
def test_the_command_line_is_light_where_it_does_no_work(command: str) -> None:
    """Help, completions and settings need neither the network, nor an event loop, nor a view."""
    needed = {"anyio", "sqlite3"} if command == "config" else set()
    told = python(
        "from kie_mj_async.cli import main\n"
        f"sys.argv = ['kie-mj', *{command.split()}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end\n"
        f"print({HEAVY - needed} & set(sys.modules))"
    )
    assert told.splitlines()[-1] == "set()"


def test_completing_a_word_is_light(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell waits for it at every press of the tab key."""
    monkeypatch.setenv("_KIE_MJ_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "kie-mj arch")
    monkeypatch.setenv("COMP_CWORD", "1")
    told = python(
        "from kie_mj_async.cli import main\n"
        "sys.argv = ['kie-mj']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print({HEAVY} & set(sys.modules))"
    )
    assert told == "plain,archive\nset()\n"


def test_the_tools_for_tests_are_whole() -> None:
    """``kie_mj_async.testing`` has what it promises."""
    from kie_mj_async import testing

    assert all(hasattr(testing, name) for name in testing.__all__)
