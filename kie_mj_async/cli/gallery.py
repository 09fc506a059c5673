"""``kie-mj gallery``: the page of a directory, and its manifest, made anew from the ledger."""

from __future__ import annotations

from pathlib import Path

from ..archive import manifest
from ..archive.manifest import Manifest
from ..batch import ledger_path
from ..errors import LedgerBusy
from ..gallery import Gallery, build
from ..ledger import SqliteLedger
from ..ledger.base import each_job
from .view import count_of


async def make(out: str) -> list[str]:
    """Make the page and the manifest of a directory; what to say of it, line by line.

    A run keeps the manifest of the directory it works on, so then only the page is made.

    Raises:
        InvalidRequest: The directory holds no batch.
        LedgerError: Its ledger cannot be read.
        WriteFailed: The disk refused.
    """
    made = await build(out)
    told = [str(made.path), f"  {_contents(made)}"]
    try:
        path = await _rebuild_manifest(made.path.parent, made.host)
    except LedgerBusy as busy:
        who = "another process" if busy.pid is None else f"process {busy.pid}"
        told.append(
            f"  {who} is working on the directory: the page shows what stood there just now, and "
            f"{manifest.NAME} is left to it"
        )
    else:
        told.append(f"  {path} is made anew")
    return told


async def _rebuild_manifest(root: Path, host: str) -> Path:
    # Opened for work, so that no run begins a manifest of its own meanwhile.
    ledger = await SqliteLedger.open(ledger_path(root), host)
    try:
        kept = Manifest(root)
        await kept.rebuild(each_job(ledger))
        return kept.path
    finally:
        await ledger.aclose()


def _contents(made: Gallery) -> str:
    parts = [count_of(made.jobs, "job"), count_of(made.pictures, "picture")]
    if made.videos:
        parts.append(count_of(made.videos, "video"))
    parts.append(f"{count_of(made.thumbnails, 'thumbnail')} made")
    return ", ".join(parts)
