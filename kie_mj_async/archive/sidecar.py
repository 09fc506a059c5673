"""The record beside a part file: what it is the beginning of, and how much of it is safely there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ..disk import for_us_only
from ..rules.transfer import Checkpoint

SUFFIX: Final = ".json"
BESIDE: Final = ".json.new"
"""What a record is written to before it has its name."""

_LONGEST: Final = 1 << 16


def read(path: Path) -> Checkpoint | None:
    """The record in a file; ``None`` if there is none that can be trusted."""
    try:
        with path.open("rb") as file:
            return Checkpoint.from_json(file.read(_LONGEST).decode())
    except (OSError, ValueError):
        return None


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Put a record in place of the one before, whole and durably.

    Raises:
        OSError: The disk refused.
    """
    beside = path.with_suffix(BESIDE)
    with open(beside, "wb", opener=for_us_only) as file:
        file.write(checkpoint.to_json().encode())
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
