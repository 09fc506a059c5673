"""The command line ``kie-mj``. Needs the extra ``cli``; everything else works without it."""

from __future__ import annotations

import io
import sys
from importlib.util import find_spec

_NEEDS = "kie-mj needs the extra 'cli': pip install 'kie-mj-async[cli]'"


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    try:
        there = all(find_spec(name) for name in ("click", "rich"))
    except ImportError:
        there = False
    if not there:
        sys.exit(_NEEDS)
    from .app import run

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a prompt may hold what it cannot
    sys.exit(run(sys.argv[1:]))
