"""The lowest version that pyproject.toml allows of each direct dependency, as constraints for pip.

python .ci/lowest_versions.py > lowest.txt && pip install -c lowest.txt ...

What the tests and the checks use (the extra ``dev``) may be as new as it likes, and so may what the
dependencies themselves depend on.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
OUR_TOOLS = ("dev", "docs")
"""Extras that no user of the package installs."""


def lowest(requirement: str) -> str:
    """``name==floor`` of a requirement; one without a floor is an error."""
    found = re.match(r"([A-Za-z0-9._-]+)(\[[^]]*])?[^;]*?>=\s*([0-9][^,;\s]*)", requirement)
    if found is None:
        sys.exit(f"pyproject.toml: {requirement}: has no lowest version; write >=X.Y")
    return f"{found[1]}=={found[3]}"


def main() -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    requirements = list(project["dependencies"])
    for extra, more in project["optional-dependencies"].items():
        requirements += more if extra not in OUR_TOOLS else []
    print(*map(lowest, requirements), sep="\n")


main()
