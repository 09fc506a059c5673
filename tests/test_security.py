"""What SECURITY.md promises of the whole package, and that what it names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import kie_mj_async
from kie_mj_async.cli.app import cli

PACKAGE = Path(kie_mj_async.__file__).parent
ROOT = Path(__file__).parent.parent
MODULES = (
    "pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "subprocess",
    "pty",
    "code",
    "ctypes",
)
CALLS = ("eval", "exec", "compile", "__import__", "execfile")
METHODS = re.compile(
    r"os\.(system|popen|exec\w+|spawn\w+|posix_spawn\w*)"
    r"|.*\.?(create_)?subprocess(_exec|_shell)?"
    r"|yaml\.(load|unsafe_load)|.*\.read_pickle|code\.interact"
)


def misdeeds(text: str) -> Iterator[str]:
    """What a module's source does that it must not, with the line."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                found = [one.name for one in names if one.name.split(".")[0] in MODULES]
            case ast.ImportFrom(module=str(module), level=0):
                found = [module] if module.split(".")[0] in MODULES else []
            case ast.Call(func=ast.Name(id=name)):
                found = [name] if name in CALLS else []
            case ast.Call(func=ast.Attribute() as method):
                written = ast.unparse(method)
                found = [written] if METHODS.fullmatch(written) else []
            case ast.keyword(arg="shell"):
                found = ["shell="]
            case _:
                found = []
        for one in found:
            yield f"{getattr(node, 'lineno', 0)}: {one}"


def test_no_shell_no_pickle_no_eval() -> None:
    """No module of the package runs a program, unpickles, or evaluates text."""
    sources = sorted(PACKAGE.rglob("*.py"))
    assert len(sources) > 100
    found = {
        str(path.relative_to(PACKAGE)): told
        for path in sources
        if (told := list(misdeeds(path.read_text(encoding="utf-8"))))
    }
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import os, subprocess as s",
        "eval('1')",
        "exec(text)",
        "__import__(name)",
        "os.system('ls')",
        "os.execvp(a, b)",
        "asyncio.create_subprocess_shell(x)",
        "run(command, shell=True)",
        "def f():\n    from marshal import load",
    ],
)
def test_the_search_finds_what_it_looks_for(text: str) -> None:
    """Else the search above would prove nothing."""
    assert list(misdeeds(text))


@pytest.mark.parametrize(
    "text", ["re.compile('a')", "db.execute('x')", "shell = 1", "from .code import a"]
)
def test_the_search_leaves_the_rest_alone(text: str) -> None:
    """Words that look like it are none."""
    assert not list(misdeeds(text))


def test_every_test_that_the_threat_model_names_exists() -> None:
    """A defence without its test would be a promise."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", text)
    assert len(named) > 40
    assert len(named) == text.count("`tests/")
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not re.search(
            rf"^(async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.M
        )
    ]
    assert missing == []


def commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    for one in getattr(command, "commands", {}).values():
        yield from commands(one)


def test_no_option_takes_a_key() -> None:
    """What is on a command line can be seen by everybody on the machine."""
    found = list(commands(cli))
    assert len(found) > 10
    options = {
        (one.name, name) for one in found for parameter in one.params for name in parameter.opts
    }
    assert ("render", "--out") in options
    telling = {one for one in options if re.search("key|secret|token|password", one[1])}
    # The simulator's callbacks are signed with a key of its own, which opens nothing.
    assert telling == {("simulate", "--webhook-key")}
