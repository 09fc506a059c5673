"""One file's way from its link to its store: an attempt takes it as far as the host lets it.

What an answer means is decided in ``rules/transfer.py``; here it is carried out.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, TypeVar

import aiohttp
import anyio.lowlevel
import attrs
from yarl import URL

from ..errors import DownloadError, IntegrityError, TooLarge, WriteFailed, refusal
from ..failpoints import reach
from ..jobs import SavedFile
from ..rules.media import ENOUGH, Media
from ..rules.transfer import Next, Pace, Source, judge, range_headers, total_of
from ..sessions import DIRECT, Way, why_not
from ..waiting import in_thread
from .addresses import Guard
from .inflate import Inflate
from .links import LinkRefused, opened
from .parts import PartFile
from .store import NameOf, Place

GATHER: Final = 2 << 20
"""Bytes to gather before a hop to a thread, so that most pictures take one; asyncio itself hands over
at most 256 KiB."""

OFTEN: Final = 3
"""Times that a file with an odd end has to come, the same each time, to be believed."""

_SLACK: Final = 64 << 10
"""Bytes by which a file may be larger packed than it is, beside a sixty-fourth of it."""

_PLAIN: Final = {"Accept-Encoding": "identity"}

_T = TypeVar("_T")


class Passing(Exception):
    """A trouble that may be gone on the next attempt.

    Attributes:
        error: What it is if that was the last one.
    """

    def __init__(self, error: DownloadError) -> None:
        super().__init__(str(error))
        self.error = error


@attrs.frozen
class Limits:
    """What a transfer may take.

    Attributes:
        max_bytes: The largest file to accept.
        stall_timeout: Seconds without progress before an attempt counts as failed.
    """

    max_bytes: int
    stall_timeout: float


class Transfer:
    """A file on its way. Call :meth:`attempt` until it succeeds or is pointless, then :meth:`end`.

    Args:
        session: What to ask with.
        guard: Who knows which hosts are out of bounds.
        limits: What it may take.
        url: Its link.
        into: Where it goes.
        name: Its part file's name, if another run may go on with it.
        way: The way that requests take.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        guard: Guard,
        limits: Limits,
        url: str,
        into: Place,
        name: str | None,
        way: Way = DIRECT,
    ) -> None:
        self._session = session
        self._way = way
        self._guard = guard
        self._limits = limits
        self._url = url
        self._into = into
        self._name = name
        self._part: PartFile | None = None
        self._odd: Counter[str] = Counter()

    async def attempt(self, index: int, name_of: NameOf) -> SavedFile:
        """Take it from wherever it stands to its name.

        Raises:
            Passing: Another attempt may do it.
            DownloadError: None will.
        """
        part = self._part
        if part is None:
            part = await in_thread(self._open)
        try:
            if not part.complete:
                await self._transfer(part)
            media = await self._check(part)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            message = f"{self._url}: {self._words(error)}"
            raise Passing(DownloadError(message, url=self._url)) from None
        await anyio.lowlevel.checkpoint_if_cancelled()  # steps in threads are none
        path = await self._into.store.keep(part, media.extension, name_of)
        if not part.gone:
            await in_thread(part.discard)
        return SavedFile(
            index=index,
            path=path,
            url=self._url,
            sha256=part.sha256,
            bytes=part.size,
            media_type=media.media_type,
            width=media.width,
            height=media.height,
            saved_at=datetime.now(UTC),
        )

    async def end(self) -> None:
        """Let go of the part file, so that another run goes on with it, if any can."""
        if self._part is not None and not self._part.gone:
            await in_thread(self._part.leave)

    def _words(self, error: BaseException) -> str:
        if isinstance(error, aiohttp.ClientError) and (told := why_not(error)) is not None:
            return self._way.told(URL(self._url)) + told
        return (
            "the transfer stalled" if isinstance(error, TimeoutError) else "the transfer broke off"
        )

    def _open(self) -> PartFile:
        # Kept here, in the thread: whoever waits for it may be cancelled.
        parts = self._into.parts
        self._part = parts.new() if self._name is None else parts.take_up(self._name)
        return self._part

    async def _transfer(self, part: PartFile) -> None:
        if not await self._ask(part, go_on=True):
            # Not asked for a range, no host can answer that it has none.
            await self._ask(part, go_on=False)

    async def _ask(self, part: PartFile, *, go_on: bool) -> bool:
        """Ask the host for what is missing, and read it; false if it must be asked anew."""
        have = part.checkpoint if go_on else None
        ranged = range_headers(have, self._url) if have is not None else None
        if ranged is None:
            have = None
        async with opened(
            self._session,
            self._guard,
            self._url,
            {**_PLAIN, **(ranged or {})},
            patience=self._limits.stall_timeout,
            way=self._way,
        ) as response:
            match judge(response.status, response.headers, have):
                case Next.READ:
                    await self._read_all(response, part)
                case Next.CONTINUE:
                    await self._read_rest(response, part)
                case Next.START_OVER:
                    return False
                case Next.RETRY:
                    message = f"{self._url}: the host answered HTTP {response.status}"
                    raise Passing(DownloadError(message, url=self._url))
                case Next.NEW_LINK:
                    message = f"{self._url}: the host refused the link (HTTP {response.status})"
                    raise LinkRefused(message, url=self._url)
        return True

    async def _read_all(self, response: aiohttp.ClientResponse, part: PartFile) -> None:
        source = Source.of(self._url, response.headers)
        if not source.readable:
            message = f"{self._url}: packed as {source.encoding}, which was not asked for"
            raise Passing(IntegrityError(message, url=self._url))
        self._check_size(source.total)
        if part.size:
            await self._disk(part.start, source)
        else:  # nothing to wait for
            part.start(source)
        inflate = Inflate() if source.encoding is not None else None
        await self._pour(response, part, inflate)
        if inflate is not None and not inflate.ended:
            await self._reject(part, f"the file was cut off after {part.size:,} bytes")

    async def _read_rest(self, response: aiohttp.ClientResponse, part: PartFile) -> None:
        total = total_of(response.headers)
        self._check_size(total)
        if part.source is not None and part.source.total is None:
            part.source = attrs.evolve(part.source, total=total)
        await self._pour(response, part, None)

    async def _pour(
        self, response: aiohttp.ClientResponse, part: PartFile, inflate: Inflate | None
    ) -> None:
        clock = asyncio.get_running_loop().time
        pace = Pace(self._limits.stall_timeout, clock())
        gathered: list[bytes] = []
        size = 0

        async def write() -> None:
            nonlocal gathered, size
            data, gathered, size = gathered, [], 0
            if data:
                await self._write(part, data, inflate)

        try:
            async for chunk in response.content.iter_any():
                gathered.append(chunk)
                size += len(chunk)
                if size >= GATHER:
                    await write()
                if pace.stalled(clock(), len(chunk)):
                    raise TimeoutError  # noqa: TRY301
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            if part.resumable:  # what has come already need not come again
                await write()
            raise
        except asyncio.CancelledError:
            if part.resumable:
                with suppress(Passing, DownloadError):
                    await write()
            raise
        await write()

    async def _write(self, part: PartFile, data: list[bytes], inflate: Inflate | None) -> None:
        before = part.size
        try:
            await self._disk(_store, part, data, inflate, self._limits.max_bytes)
        except zlib.error:
            await self._reject(part, "the host sent what cannot be unpacked")
        except _TooMany:
            if part.source is None or part.source.total is None:
                raise self._too_large() from None
            await self._reject(
                part, f"more than the {part.source.total:,} bytes it should have came"
            )
        if before < ENOUGH <= part.size and not part.is_media:
            await self._reject(part, "the host sent what is no picture or video")

    async def _check(self, part: PartFile) -> Media:
        """See that what came is a whole picture or video.

        A host that names a length, and keeps to it, may still send a file that is not whole, and some
        pictures have something behind their end. So an end that is none is believed when it has come
        the same way often enough.
        """
        media = part.media()
        total = part.source.total if part.source is not None else None
        if media is None:
            what = "what is no picture or video" if part.size else "nothing"
            await self._reject(part, f"the host sent {what}")
        if total not in (None, part.size):
            await self._reject(part, f"{part.size:,} bytes came instead of {total:,}")
        if not media.ends_well:
            self._odd[part.sha256] += 1
            if total is None or self._odd[part.sha256] < OFTEN:
                await self._reject(part, f"after {part.size:,} bytes the file is not at its end")
        return media

    async def _reject(self, part: PartFile, why: str) -> NoReturn:
        """Forget what came: no part of it is to be trusted."""
        await self._disk(part.start, None)
        raise Passing(IntegrityError(f"{self._url}: {why}", url=self._url))

    def _check_size(self, total: int | None) -> None:
        if total is not None and total > self._limits.max_bytes:
            raise self._too_large()

    def _too_large(self) -> TooLarge:
        message = f"{self._url}: more than {self._limits.max_bytes:,} bytes"
        return TooLarge(message, url=self._url)

    async def _disk(self, step: Callable[..., _T], *args: Any) -> _T:
        try:
            return await in_thread(step, *args)
        except OSError as error:
            message = f"{self._into.parts.folder}: cannot be written: {refusal(error)}"
            raise WriteFailed(message, url=self._url) from None


class _TooMany(Exception):
    """There are more bytes than there should be."""


def _store(part: PartFile, data: list[bytes], inflate: Inflate | None, most: int) -> None:
    if part.source is not None and part.source.total is not None:
        most = part.source.total
    for one in data:
        if inflate is not None and inflate.taken + len(one) > most + (most >> 6) + _SLACK:
            raise _TooMany
        for piece in (one,) if inflate is None else inflate.feed(one):
            if part.size + len(piece) > most:
                raise _TooMany
            part.write(piece)
    reach("chunk written")
    if part.is_due:
        part.record()
