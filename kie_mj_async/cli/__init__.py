"""The command line ``kie-mj``. Needs the extra ``cli``; everything else works without it."""

from __future__ import annotations

import sys

_NEEDS = "kie-mj needs the extra 'cli': pip install 'kie-mj-async[cli]'"


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError:
        sys.exit(_NEEDS)
    from .app import run

    sys.exit(run(sys.argv[1:]))
