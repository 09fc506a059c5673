"""What the disk needs beside the usual calls: to outlast a crash, and to be its owner's alone."""

from __future__ import annotations

import errno
import os
import re
import secrets
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
"""For ``os.open``: fail where somebody has put a symbolic link."""

_STATUS: Final = Path("/proc/self/status")
_UMASK: Final = re.compile(rb"^Umask:\s*([0-7]+)$", re.MULTILINE)

_making = threading.Lock()


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


def private_folder(folder: Path) -> None:
    """Make a folder that only its owner can look into; one that is there stays as it is.

    So are those above it that are missing, from the first hidden one on, such as ``.kie-mj``.

    Raises:
        OSError: The disk refused, or something else has the name.
    """
    hidden = False
    for above in reversed(folder.parents):
        if not above.exists():
            hidden = hidden or above.name.startswith(".")
            above.mkdir(0o700 if hidden else 0o777, exist_ok=True)
    folder.mkdir(0o700, exist_ok=True)


def private_file(path: Path) -> None:
    """Make an empty file that only its owner can read; one that is there stays as it is.

    For SQLite, which gives the files beside it the same mode. No file is opened that was there
    before: to close it would let go of the locks that this process holds on it.

    Raises:
        OSError: The disk refused, or the name is a symbolic link.
    """
    with _making:  # or one thread would close what another has just locked
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            if path.is_symlink():
                raise OSError(errno.ELOOP, "it is a symbolic link; remove it", str(path)) from None


def for_us_only(path: str, flags: int) -> int:
    """An opener whose new files only their owner can read, and which follows no symbolic link."""
    return os.open(path, flags | NO_LINK, 0o600)


def usual_mode(folder: Path) -> int:
    """The mode of a new file as the user's umask has it.

    To ask for the umask is to change it for a moment, in every thread. So Linux is asked what it knows
    of this process; elsewhere it is seen from a file that is made for it.

    Args:
        folder: A folder of parts, for that file.

    Raises:
        OSError: The disk refused.
    """
    with suppress(OSError):
        if found := _UMASK.search(_STATUS.read_bytes()):
            return 0o666 & ~int(found[1], 8)
    # A part by its name: where this process is killed here, it is swept as one.
    probe = folder / f"{secrets.token_hex(8)}.part"
    handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return os.fstat(handle).st_mode & 0o777
    finally:
        os.close(handle)
        probe.unlink()
