"""What the disk needs beside the usual calls for a file to outlast a crash."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a crash.

    Raises:
        OSError: The disk refused.
    """
    if sys.platform == "win32":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
