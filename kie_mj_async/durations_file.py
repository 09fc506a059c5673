"""What was learned of how long tasks take, kept between runs: a small file for each API host.

It lies in the user's state directory, and holds classes of tasks and seconds: no prompts, no ids, no
keys. It is a help and nothing depends on it, so one that is damaged or cannot be read is like none,
and one that cannot be written is only logged. It is replaced as a whole, so that a reader sees the old
one or the new one. Each process adds what it has learned itself to what the file holds by then, one
process at a time: a lock lies beside it, which the operating system lets go of when its holder ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from .disk import private_file, private_folder
from .logs import logger
from .rules.durations import Durations, is_newer, merged
from .rules.kinds import Kind

log = logger(__name__)

FOLDER: Final = "forecast"

_PATIENCE: Final = 10.0
"""Seconds to wait for other processes; each takes a few milliseconds."""

_LARGEST: Final = 1 << 20
"""Bytes beyond which it is not ours; a full one has a tenth of that."""


def path_of(state_dir: Path, host: str) -> Path:
    """The file of an API host.

    Args:
        state_dir: Where state that outlives a run belongs.
        host: The name that ledgers know the host by.
    """
    # Only the host's name: an address may hold a password.
    words = re.sub(r"[^A-Za-z0-9]+", "-", urlsplit(host).hostname or host.split("/", maxsplit=1)[0])
    tag = hashlib.sha256(host.encode()).hexdigest()[:12]
    return state_dir / FOLDER / f"{words[:40].strip('-')}-{tag}.json"


def load(path: Path, scale: float = 1.0) -> Durations:
    """What the file holds; nothing where it cannot be used. Blocks.

    Args:
        path: From :func:`path_of`.
        scale: How long a recorded second takes at this host.
    """
    return Durations.from_dict(_read(path), scale)


def add(path: Path, news: Sequence[tuple[Kind, float]]) -> bool:
    """Add durations to the file. Blocks.

    Args:
        path: From :func:`path_of`.
        news: Classes and seconds, the oldest first.

    Returns:
        Whether they are kept. A file of a newer version of this program is left alone.
    """
    try:
        private_folder(path.parent.parent)
        private_folder(path.parent)
        with _alone(path):
            before = _read(path)
            if is_newer(before):
                return False
            _replace(path, json.dumps(merged(before, news), separators=(",", ":")))
    except OSError as error:
        log.info("what was learned of durations cannot be kept in %s: %s", path, error)
        return False
    return True


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While no other process adds to the file, if that can be had: a help is not worth a failure."""
    lock = path.with_name(f".{path.name}.lock")
    with ExitStack() as stack:
        try:
            private_file(lock)
            connection = sqlite3.connect(lock, timeout=_PATIENCE, isolation_level=None)
            stack.enter_context(closing(connection))
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            log.info("%s: goes on without a lock: %s", path, error)
        except sqlite3.DatabaseError as error:
            log.info("%s: is damaged, and is made anew: %s", lock, error)
            with suppress(OSError):
                lock.unlink()
        yield


def _read(path: Path) -> object:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        return json.loads(content) if len(content) <= _LARGEST else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        log.info("%s: cannot be read, and is begun anew: %s", path, error)
        return None


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
