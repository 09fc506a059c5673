"""Results from links to verified files: streamed, hashed, checked, named.

The downloader never sees the key: it has a session of its own without any header of the account.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Final

import aiofiles.threadpool
import aiohttp
import anyio
import anyio.to_thread
from aiofiles.threadpool.binary import AsyncFileIO

from ..errors import DownloadError, IntegrityError, TooLarge, WriteFailed, refusal
from ..failpoints import reach
from ..jobs import SavedFile
from ..rules import transfer
from ..rules.pacing import backoff
from ..sessions import CONNECT_TIMEOUT, open_session
from .parts import PartFile
from .store import NameOf, Place

GATHER: Final = 1 << 20
"""Bytes to gather before a hop to a thread; asyncio itself hands over at most 256 KiB."""

MAX_REDIRECTS: Final = 5


class LinkRefused(DownloadError):
    """The link no longer works; the result itself may still be there under a fresh one."""


class _Passing(Exception):
    """A trouble that may be gone on the next attempt."""


class Downloader:
    """Saves results, some at a time.

    Args:
        session: A session of the caller's whose connector is used; it stays the caller's.
        concurrency: Files at a time.
        attempts: How often to try a link before giving up for this run.
        stall_timeout: Seconds without a byte before an attempt counts as failed.
        max_bytes: The largest file to accept.
        first_wait: Seconds to wait after the first failed attempt; doubles from there.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession | None = None,
        concurrency: int = 16,
        attempts: int = 5,
        stall_timeout: float = 30.0,
        max_bytes: int = 1 << 30,
        first_wait: float = 0.5,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._lent = session
        self._places = anyio.CapacityLimiter(concurrency)
        self._attempts = attempts
        self._stall_timeout = stall_timeout
        self._max_bytes = max_bytes
        self._first_wait = first_wait
        self._chance = chance
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Downloader:
        self._session = open_session(
            self._lent,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT, sock_read=self._stall_timeout
            ),
            read_bufsize=256 * 1024,
        )
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def fetch(
        self,
        url: str,
        index: int,
        into: Place,
        name_of: NameOf,
        *,
        part: str | None = None,
        urgency: float = math.inf,
    ) -> SavedFile:
        """Save one result.

        Args:
            url: Its link.
            index: Which of the task's results it is.
            into: Where it goes.
            name_of: Its name.
            part: A name for its part file, the same on every run, so that a later one goes on with
                it; without one, what was transferred is forgotten when this call ends.
            urgency: When it is gone from the service, in seconds since 1970: of the files that wait
                for their turn, the soonest goes first.

        Raises:
            LinkRefused: The link is dead; a fresh one may work.
            IntegrityError: What came was never the complete file.
            TooLarge: It has more bytes than allowed.
            WriteFailed: The disk refused.
            DownloadError: The host did not deliver it.
        """
        async with self._places:
            for attempt in range(1, self._attempts + 1):
                try:
                    return await self._attempt(url, index, into, name_of)
                except _Passing as passing:
                    trouble = passing.args[0]
                if attempt < self._attempts:
                    wait = backoff(
                        attempt, first=self._first_wait, ceiling=15.0, chance=self._chance()
                    )
                    await anyio.sleep(wait)
        raise trouble

    async def _attempt(self, url: str, index: int, into: Place, name_of: NameOf) -> SavedFile:
        part: PartFile | None = None
        try:
            async with self._session.get(url, max_redirects=MAX_REDIRECTS) as response:
                _check_status(response, url)
                part = await anyio.to_thread.run_sync(into.parts.new)
                await self._pour(response, part, url)
                announced = response.headers.get("Content-Length") is not None
            media = _checked(part, url, announced=announced)
            path = await into.store.keep(part, media.extension, name_of)
        except aiohttp.TooManyRedirects:
            raise LinkRefused(f"{url}: more than {MAX_REDIRECTS} redirects", url=url) from None
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            # The host of the link is gone; a fresh link may name another.
            raise LinkRefused(f"{url}: its host cannot be reached", url=url) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            words = "stalled" if isinstance(error, TimeoutError) else "broke off"
            raise _Passing(DownloadError(f"{url}: the transfer {words}", url=url)) from None
        except OSError as error:
            message = f"{into.parts.folder}: cannot be written: {refusal(error)}"
            raise WriteFailed(message, url=url) from None
        finally:
            if part is not None:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(_discard, part)
        return SavedFile(
            index=index,
            path=path,
            url=url,
            sha256=part.sha256,
            bytes=part.size,
            media_type=media.media_type,
            width=media.width,
            height=media.height,
            saved_at=datetime.now(UTC),
        )

    async def _pour(self, response: aiohttp.ClientResponse, part: PartFile, url: str) -> None:
        file = aiofiles.threadpool.wrap(part)
        gathered = bytearray()
        async for chunk in response.content.iter_any():
            gathered += chunk
            if part.size + len(gathered) > self._max_bytes:
                raise TooLarge(f"{url}: more than {self._max_bytes:,} bytes", url=url)
            if len(gathered) >= GATHER:
                await _write(file, gathered)
                gathered = bytearray()
        await _write(file, gathered)


async def _write(file: AsyncFileIO, data: bytearray) -> None:
    # Shielded: a cancelled write goes on in its thread, and the file must not be closed under it.
    with anyio.CancelScope(shield=True):
        await file.write(data)
    reach("chunk written")


def _check_status(response: aiohttp.ClientResponse, url: str) -> None:
    match transfer.judge(response.status):
        case transfer.Next.READ:
            return
        case transfer.Next.RETRY:
            message = f"{url}: the host answered HTTP {response.status}"
            raise _Passing(DownloadError(message, url=url))
        case transfer.Next.NEW_LINK:
            message = f"{url}: the host refused the link (HTTP {response.status})"
            raise LinkRefused(message, url=url)


def _checked(part: PartFile, url: str, *, announced: bool) -> transfer.Media:
    media = part.media()
    if media is None:
        what = f"{part.size:,} bytes that are no picture or video" if part.size else "nothing"
        raise _Passing(IntegrityError(f"{url}: the host sent {what}", url=url))
    # A connection that closes early shows itself only where a length was announced.
    if not announced and not media.ends_well:
        message = f"{url}: the file was cut off after {part.size:,} bytes"
        raise _Passing(IntegrityError(message, url=url))
    return media


def _discard(part: PartFile) -> None:
    part.close()
    with suppress(OSError):
        part.path.unlink(missing_ok=True)
