"""Files that a fleet has saved, brought to this machine: whole, verified, and overwriting nothing."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path, PurePosixPath
from typing import Final

from ..archive.directory import Directory
from ..archive.object_client import Connector
from ..archive.parts import PartFile, Parts
from ..archive.store import NameOf, Place
from ..errors import DownloadError, IntegrityError, WriteFailed, refusal
from ..jobs import Job, SavedFile
from ..rules import objects
from ..waiting import in_thread

BLOCK: Final = 1 << 20
"""Bytes to read at a time."""

PATIENCE: Final = 120.0
"""Seconds after which a request to an object store is not tried again."""


async def copy(job: Job, root: str, into: Path) -> list[Path]:
    """Copy a saved job's files, one after the other.

    Args:
        job: The job.
        root: Where the fleet has saved them: a directory that this machine sees too, or the address of
            an object store.
        into: A local directory; made if it does not exist.

    Returns:
        Their paths.

    Raises:
        IntegrityError: A file is not what the fleet has saved.
        WriteFailed: This disk refused.
        DownloadError: A file cannot be read where it is.
        ConfigError: The object store cannot be used, or the extra ``cloud`` is missing.
    """
    place = Place(Directory(into), Parts(into))
    await place.prepare()
    store = Connector.at(root, {}) if objects.is_store_url(root) else None
    paths = []
    for file in job.files:
        part = await in_thread(place.parts.new)
        try:
            source = _local(root, file) if store is None else _stored(store, file)
            await _fill(part, source, file, f"{root}/{file.path}")
            name = await place.store.keep(part, PurePosixPath(file.path).suffix, _name_of(file))
        finally:
            if not part.gone:
                await in_thread(part.discard)
        paths.append(into / name)
    return paths


def _name_of(file: SavedFile) -> NameOf:
    """The name that the fleet gave it, where that is free."""
    stem = PurePosixPath(file.path).stem

    def name(extension: str, attempt: int) -> str:
        return f"{stem}{'' if attempt == 1 else f'-{attempt}'}{extension}"

    return name


async def _fill(
    part: PartFile, source: AsyncGenerator[bytes, None], file: SavedFile, place: str
) -> None:
    async with aclosing(source) as blocks:
        async for block in blocks:
            try:
                await in_thread(part.write, block)
            except OSError as error:
                raise WriteFailed(f"{part.path}: cannot be written: {refusal(error)}") from None
            if part.size > file.bytes:
                break
    if (part.size, part.sha256) != (file.bytes, file.sha256):
        message = f"{place}: is not what the fleet has saved there; somebody has changed it"
        raise IntegrityError(message, billed="yes")


async def _local(root: str, file: SavedFile) -> AsyncGenerator[bytes, None]:
    path = Path(root, *PurePosixPath(file.path).parts)
    try:
        handle = await in_thread(os.open, path, os.O_RDONLY)
        try:
            while block := await in_thread(os.read, handle, BLOCK):
                yield block
        finally:
            await in_thread(os.close, handle)
    except OSError as error:
        message = (
            f"{path}: cannot be read: {refusal(error)}; the fleet has saved it there: see that this "
            "machine has the same directory"
        )
        raise DownloadError(message, billed="yes") from None


async def _stored(store: Connector, file: SavedFile) -> AsyncGenerator[bytes, None]:
    import obstore
    from obstore.exceptions import BaseError

    bucket = store.connect(PATIENCE)
    try:
        found = await obstore.get_async(bucket, file.path)
        async for block in found.stream(min_chunk_size=BLOCK):
            yield bytes(block)
    except (BaseError, FileNotFoundError) as error:
        why = objects.explain(type(error).__name__, str(error))
        words = "it is not there (any more)" if isinstance(error, FileNotFoundError) else why.words
        message = f"{store.root}/{file.path}: cannot be read: {words}"
        raise DownloadError(message, billed="yes") from None
