"""An object store that takes verified files: S3 and what speaks like it, Google Cloud, Azure.

An object comes under its final name whole, and only if the name is free: the store decides that in one
step, so of two writers one gets the name. A small file is created by one conditional request. A larger
one is streamed in parts to a temporary name below ``.kie-mj-parts/`` and copied from there, within the
store, on the same condition; where a store cannot copy so, it goes in one long request instead.

A store that ignores the condition would overwrite, so ``prepare`` tries it out and refuses such a one.
What it cannot see is whether a store keeps the condition between two requests at the same instant too;
S3, Google Cloud and Azure promise that.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from ..errors import ConfigError, WriteFailed, refusal
from ..failpoints import reach
from ..logs import logger
from ..rules.objects import is_store_url
from ..waiting import in_thread
from .object_client import Connector, delete, refused
from .object_upload import CHUNK, LAST_SECONDS, Upload
from .parts import PartFile
from .store import MAX_NAMES, NameOf

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Bucket

__all__ = ["ObjectStore", "is_store_url"]

log = logger(__name__)

PARTS: Final = ".kie-mj-parts"
"""Where objects are that have no final name yet, below the prefix."""

SMALL_AT_A_TIME: Final = 8
LARGE_AT_A_TIME: Final = 2

PATIENCE: Final = 60.0
"""Seconds after which a request for a file is not tried again."""

TRIAL_PATIENCE: Final = 5.0
"""The same for ``prepare``, which somebody waits for."""

TRIAL_SECONDS: Final = 30.0
"""Seconds that ``prepare`` takes at most, but for taking its objects back."""

STALE: Final = timedelta(days=1)
"""Age of a leftover that no run can still be working on."""

MAX_SWEPT: Final = 1000
"""Leftovers to remove at a time."""

_TIES: Final = 5
"""Tries for a name that is taken and then is not."""


class _Name(Enum):
    FREE = "free"
    SAME = "same"
    OTHER = "other"


class ObjectStore:
    """Files in a bucket, below a prefix. Made by :meth:`from_url`.

    Memory is bounded whatever the files' sizes: 16 MiB for each of 8 small files at a time, 24 MiB for
    each of 2 large ones. What a killed run leaves under a temporary name is swept a day later. The
    parts of an upload that it never completed are invisible; a lifecycle rule of the bucket
    (``AbortIncompleteMultipartUpload``) removes those.

    Args:
        connector: Who opens it.
        patience: Seconds after which a request for a file is not tried again.
    """

    def __init__(self, connector: Connector, *, patience: float = PATIENCE) -> None:
        self._connector = connector
        self._patience = patience
        self._bucket = connector.connect(patience)
        self._copier: _Copier | None = None
        self._ready = False
        self._small = anyio.CapacityLimiter(SMALL_AT_A_TIME)
        self._large = anyio.CapacityLimiter(LARGE_AT_A_TIME)

    @classmethod
    def from_url(cls, url: str, *, patience: float = PATIENCE, **config: Any) -> ObjectStore:
        """The store at an address. No request is made yet.

        Args:
            url: Such as ``s3://bucket/prefix``; also ``gs://`` and ``az://``.
            patience: Seconds after which a request for a file is not tried again.
            config: Settings by obstore's names (``endpoint``, ``region``, ``access_key_id``,
                ``allow_http``, ``timeout`` ...). What is not given comes from the environment:
                ``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_ALLOW_HTTP``,
                ``GOOGLE_...``, ``AZURE_...``.

        Raises:
            ConfigError: The address or a setting cannot be used, or the extra ``cloud`` is missing.
        """
        return cls(Connector.at(url, config), patience=patience)

    def __repr__(self) -> str:
        return f"ObjectStore({self.root!r})"

    @property
    def root(self) -> str:
        """Its address as the user means it, without a slash at the end."""
        return self._connector.root

    async def prepare(self) -> None:
        """See that it can be listed, read, written and deleted from, and that it keeps conditions.

        Leaves nothing behind, and removes leftovers of killed runs. Once that went well, another call
        does nothing.

        Raises:
            ConfigError: Something is for the user to change: credentials, bucket, region, a store that
                ignores conditions.
            WriteFailed: It cannot be reached, or is in trouble.
        """
        if self._ready:
            return
        bucket = self._connector.connect(min(self._patience, TRIAL_PATIENCE))
        probe = f"{PARTS}/probe-{secrets.token_hex(8)}"
        taken = f"{probe}-taken"
        try:
            with (
                self._connector.telling("cannot be used", at_start=True),
                anyio.fail_after(TRIAL_SECONDS),
            ):
                await self._sweep(bucket)
                try:
                    await self._try_out(bucket, probe, taken)
                    self._copier = await self._find_copier(probe, taken)
                    await delete(bucket, probe, taken)
                except BaseException:
                    await self._take_back(probe, taken)
                    raise
        except TimeoutError:
            message = f"{self.root}: cannot be used: it did not answer in time; resume later"
            raise WriteFailed(message, billed="no") from None
        self._ready = True

    async def keep(self, part: PartFile, extension: str, name_of: NameOf) -> str:
        """Bring a finished part under a name, whole (see ``Store.keep``), and discard the part file.

        Cancelling it leaves nothing or the whole file under a final name, and takes a temporary object
        back for some seconds at most.

        Raises:
            WriteFailed: The store refused until the patience ended, or the part file cannot be read.
        """
        # It stays open: one that is closed passes for synced, and here nobody waits for the disk.
        upload = Upload.of(part)
        try:
            with self._connector.telling("cannot be written"):
                name = await self._keep(upload, partial(name_of, extension))
        except OSError as error:
            raise WriteFailed(f"{part.path}: cannot be read: {refusal(error)}") from None
        reach("file named")
        await in_thread(part.discard)
        return name

    async def publish(
        self, name: str, path: Path, *, media_type: str = "application/x-ndjson"
    ) -> None:
        """Put a file that is made from the ledger, such as the manifest, in place of the last one.

        Such files are ours and can be made again, so they are the only ones that are replaced.

        Args:
            name: Its name below the prefix.
            path: The local file; what is added to it meanwhile is left out.
            media_type: What it is.

        Raises:
            WriteFailed: The store refused until the patience ended, or the file cannot be read.
        """
        try:
            upload = Upload(path, (await anyio.Path(path).stat()).st_size, media_type)
            with self._connector.telling("cannot be written"):
                async with self._large:
                    if upload.large:
                        await upload.stream(self._bucket, name)
                    else:
                        await upload.put(self._bucket, name, create=False)
        except OSError as error:
            raise WriteFailed(f"{path}: cannot be read: {refusal(error)}") from None

    async def _keep(self, upload: Upload, name_of: Callable[[int], str]) -> str:
        async def create(name: str) -> None:
            await upload.put(self._bucket, name, create=True)

        if not upload.large:
            async with self._small:
                return await self._name(upload, name_of, create, look=False)
        async with self._large:
            if self._copier is None:
                return await self._name(upload, name_of, create, look=True)
            staged = _Staged(upload, self._bucket, self._copier)
            try:
                return await self._name(upload, name_of, staged.create, look=True)
            finally:
                if staged.begun:
                    await self._take_back(staged.key)

    async def _name(
        self,
        upload: Upload,
        name_of: Callable[[int], str],
        create: Callable[[str], Awaitable[None]],
        *,
        look: bool,
    ) -> str:
        """Find a name that is free, or has the same content already."""
        for attempt in range(1, MAX_NAMES):
            name = name_of(attempt)
            if await self._take(name, upload, create, look=look):
                return name
            look = True
        raise WriteFailed(f"{self.root}/{name}: this name and {MAX_NAMES} like it are taken")

    async def _take(
        self, name: str, upload: Upload, create: Callable[[str], Awaitable[None]], *, look: bool
    ) -> bool:
        """Try one name; ``look`` first where sending is dear or the name is probably taken."""
        from obstore.exceptions import AlreadyExistsError

        for tie in range(_TIES):
            if look:
                state = await self._look(name, upload)
                if state is not _Name.FREE:
                    return state is _Name.SAME
            try:
                await create(name)
            except AlreadyExistsError:
                # Somebody has it, or a reply of ours was lost, or two writers came at once.
                await anyio.sleep(0.1 * tie)
                look = True
                continue
            await self._verify(name, upload)
            return True
        raise WriteFailed(f"{self.root}/{name}: others are writing it; resume later")

    async def _look(self, name: str, upload: Upload) -> _Name:
        import obstore

        try:
            if (await obstore.head_async(self._bucket, name))["size"] != upload.size:
                return _Name.OTHER
            found = await obstore.get_async(self._bucket, name)
        except FileNotFoundError:
            return _Name.FREE
        told = found.attributes.get("sha256", "")
        # An object copied as an upload in parts has lost its label.
        if not re.fullmatch("[0-9a-f]{64}", told):
            digest = hashlib.sha256()
            async for chunk in found.stream(min_chunk_size=CHUNK):
                await in_thread(digest.update, chunk)
            told = digest.hexdigest()
        return _Name.SAME if told == upload.sha256 else _Name.OTHER

    async def _verify(self, name: str, upload: Upload) -> None:
        """See that it has arrived.

        Its bytes were hashed as they were read, and each request is signed over the hash of its body,
        which the store checks. An ETag says nothing that holds for every store.
        """
        import obstore

        try:
            size = (await obstore.head_async(self._bucket, name))["size"]
        except FileNotFoundError:
            size = 0
        if size != upload.size:
            message = f"{self.root}/{name}: {size:,} of {upload.size:,} bytes arrived; resume later"
            raise WriteFailed(message)

    async def _sweep(self, bucket: Bucket) -> None:
        """Delete what killed runs left behind."""
        import obstore

        before = datetime.now(UTC) - STALE
        swept = 0
        async for listed in obstore.list(bucket, PARTS, chunk_size=100):
            old = [meta["path"] for meta in listed if meta["last_modified"] < before]
            old = old[: MAX_SWEPT - swept]
            await delete(bucket, *old)
            swept += len(old)
            if swept == MAX_SWEPT:
                break
        if swept:
            log.info("%s: removed %d leftovers of earlier runs", self.root, swept)

    async def _try_out(self, bucket: Bucket, probe: str, taken: str) -> None:
        """Make two objects, and see that the second is not replaced."""
        import obstore

        await obstore.put_async(bucket, probe, b"kie-mj", mode="create")
        await obstore.put_async(bucket, taken, b"taken", mode="create")
        kept = await refused(obstore.put_async(bucket, taken, b"other", mode="create"))
        content = await (await obstore.get_async(bucket, taken)).bytes_async()
        if not kept or bytes(content) != b"taken":
            message = (
                f"{self.root}: this store overwrites what should only be created (it ignores "
                "If-None-Match), so files in it would not be safe; use another store or a directory"
            )
            raise ConfigError(message)

    async def _find_copier(self, probe: str, taken: str) -> _Copier | None:
        """A way to copy only to a free name that the store keeps to, if there is one."""
        import obstore
        from obstore.exceptions import BaseError

        for way in self._connector.ways:
            bucket = self._connector.connect(TRIAL_PATIENCE, retries=1, copying=way)
            with suppress(BaseError, OSError, NotImplementedError):
                if await refused(obstore.copy_async(bucket, probe, taken, overwrite=False)):
                    return _Copier(self._connector, self._patience, way)
        log.info("%s: cannot copy to free names only; large files go in one request", self.root)
        return None

    async def _take_back(self, *names: str) -> None:
        """Delete temporary objects, as far as that can be done soon."""
        from obstore.exceptions import BaseError

        with (
            anyio.move_on_after(LAST_SECONDS, shield=True),
            suppress(BaseError, OSError, NotImplementedError),
        ):
            await delete(self._bucket, *names)


class _Copier:
    """Copies within the store, only to free names."""

    def __init__(self, connector: Connector, patience: float, way: str | None) -> None:
        self._open = partial(connector.connect, patience, copying=way)
        self._buckets: dict[str, Bucket] = {}

    async def copy(self, key: str, name: str, media_type: str) -> None:
        import obstore

        # A copy made as an upload in parts has no attributes but the connection's own.
        if media_type not in self._buckets:
            self._buckets[media_type] = self._open(media_type=media_type)
        await obstore.copy_async(self._buckets[media_type], key, name, overwrite=False)


class _Staged:
    """A large file under a temporary name, sent when it is first needed."""

    def __init__(self, upload: Upload, bucket: Bucket, copier: _Copier) -> None:
        self.key = f"{PARTS}/{secrets.token_hex(16)}"
        self.begun = False
        self._sent = False
        self._upload = upload
        self._bucket = bucket
        self._copier = copier

    async def create(self, name: str) -> None:
        if not self._sent:
            self.begun = True
            await self._upload.stream(self._bucket, self.key)
            self._sent = True
            reach("file synced")
        await self._copier.copy(self.key, name, self._upload.media_type)
