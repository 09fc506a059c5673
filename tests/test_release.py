"""What is released says the same everywhere: the version, the Pythons, what is depended on."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

import kie_mj_async as mj

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_is_one() -> None:
    """It stands in one file; what was built and the command line tell the same."""
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "kie_mj_async/_version.py"
    assert version("kie-mj-async") == mj.__version__
    command = [sys.executable, "-m", "kie_mj_async.cli", "--version"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert told == f"kie-mj, version {mj.__version__}\n"
    others = [
        path
        for path in (ROOT / "kie_mj_async").rglob("*.py")
        if path.name != "_version.py"
        and re.search(r"__version__\s*=", path.read_text(encoding="utf-8"))
    ]
    assert others == []


def test_the_changelog_is_of_this_version() -> None:
    """Its newest numbered section is this version's; above it is at most what is not released yet."""
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    if headings[0] == "Unreleased":
        headings = headings[1:]
    assert headings[:1] in ([], [mj.__version__])
    assert len(set(headings)) == len(headings)


def test_the_declared_pythons_are_those_that_are_checked() -> None:
    """Classifiers, the lowest Python, and the versions that types and code are checked for agree."""
    prefix = "Programming Language :: Python :: 3."
    declared = [
        line.removeprefix("Programming Language :: Python :: ")
        for line in PROJECT["project"]["classifiers"]
        if line.startswith(prefix)
    ]
    lowest, *others = declared
    assert PROJECT["project"]["requires-python"] == f">={lowest}"
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{lowest.replace('.', '')}"
    checks = (ROOT / ".ci" / "check").read_text(encoding="utf-8")
    assert f"for version in {' '.join(others)}; do step mypy" in checks


@pytest.mark.parametrize(
    "requirement",
    [
        *PROJECT["build-system"]["requires"],
        *PROJECT["project"]["dependencies"],
        *chain.from_iterable(PROJECT["project"]["optional-dependencies"].values()),
    ],
)
def test_every_dependency_has_a_lowest_version(requirement: str) -> None:
    """So that CI can run the tests with it."""
    assert requirement.startswith("kie-mj-async[") or ">=" in requirement
