"""The types as a program outside the package meets them, by mypy's and pyright's strictest rules.

Of the programs in ``data/types``, those named ``ok_`` must pass. In those named ``bad_`` each line with
a comment ``# E: mypy's code / pyright's rule`` must be found wrong for that reason, and no other line.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "data" / "types"
NAMES = sorted(path.name for path in PROGRAMS.glob("*.py"))
BAD = [name for name in NAMES if name.startswith("bad_")]

Findings = Mapping[str, Mapping[int, set[str]]]
"""What is wrong: by file and line."""


def run(folder: Path, *command: str) -> str:
    """What a checker says; mistakes found are no failure of it."""
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=55
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs in a directory of their own, so that no setting of this project counts."""
    return shutil.copytree(PROGRAMS, tmp_path_factory.mktemp("consumer") / "programs")


@pytest.fixture(scope="module")
def by_mypy(elsewhere: Path) -> Findings:
    """What mypy finds."""
    found: dict[str, dict[int, set[str]]] = {name: {} for name in NAMES}
    out = run(elsewhere, sys.executable, "-m", "mypy", "--strict", *NAMES)
    for line in out.splitlines():
        if match := re.fullmatch(r"(\S+):(\d+): error: .*\[([\w-]+)\]", line):
            found[match[1]].setdefault(int(match[2]), set()).add(match[3])
    return found


@pytest.fixture(scope="module")
def by_pyright(elsewhere: Path) -> Findings:
    """What pyright finds."""
    (elsewhere / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    out = run(elsewhere, "pyright", "--pythonpath", sys.executable, "--outputjson", *NAMES)
    found: dict[str, dict[int, set[str]]] = {name: {} for name in NAMES}
    for one in json.loads(out)["generalDiagnostics"]:
        line = one["range"]["start"]["line"] + 1
        found[Path(one["file"]).name].setdefault(line, set()).add(one["rule"])
    return found


def check(name: str, found: Mapping[int, set[str]], checker: int) -> None:
    """Compare what a checker found in a program with what its comments say."""
    lines = (PROGRAMS / name).read_text(encoding="utf-8").splitlines()
    marked = {
        number: line.partition("# E: ")[2].split(" / ")[checker]
        for number, line in enumerate(lines, 1)
        if "# E: " in line
    }
    assert bool(marked) == (name in BAD)
    missed = {number: why for number, why in marked.items() if why not in found.get(number, ())}
    assert not missed, f"{name}: not found, or for another reason: {missed}; there are: {found}"
    extra = {number: codes for number, codes in found.items() if number not in marked}
    assert not extra, f"{name}: found wrong without reason: {extra}"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_mypy_agrees(by_mypy: Findings, name: str) -> None:
    """``mypy --strict`` passes what is right, and finds what is wrong."""
    check(name, by_mypy[name], 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_pyright_agrees(by_pyright: Findings, name: str) -> None:
    """pyright's strict mode passes what is right, and finds what is wrong."""
    check(name, by_pyright[name], 1)
