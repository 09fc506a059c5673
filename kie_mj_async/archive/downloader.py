"""Results from links to verified files: streamed, hashed, checked, named.

The downloader never sees the key: it has a session of its own without any header of the account.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from types import TracebackType

import aiohttp
import anyio

from ..errors import DownloadError
from ..events import Event, Retrying
from ..jobs import SavedFile
from ..logs import ids
from ..rules.pacing import backoff
from ..sessions import CONNECT_TIMEOUT, DIRECT, Way, open_session
from .addresses import Guard
from .fetching import Limits, Passing, Transfer
from .links import LinkRefused
from .store import NameOf, Place
from .turns import Turns

__all__ = ["Downloader", "LinkRefused"]


class Downloader:
    """Saves results, some at a time, the most urgent first.

    A transfer that broke off goes on where it stopped, if the host proves that the file is still the
    same one; within a call always, and over runs for a file that has a part name.

    Args:
        session: A session of the caller's whose connector is used; it stays the caller's. Names are
            then resolved by that connector: links into private networks are refused only where an
            address stands in the link itself.
        concurrency: Files at a time.
        attempts: How often to try a link before giving up for this run.
        stall_timeout: Seconds without a byte, or with less than a KiB a second, before an attempt
            counts as failed.
        max_bytes: The largest file to accept.
        api_url: The API host's. Links into private networks are refused, unless it is in one.
        first_wait: Seconds to wait after the first failed attempt; doubles from there.
        chance: Random numbers in [0, 1).
        tell: Who hears of what is tried again.
        way: The way that requests take. A proxy looks up names itself: links into private networks
            are refused then where the link itself shows it.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession | None = None,
        concurrency: int = 16,
        attempts: int = 5,
        stall_timeout: float = 30.0,
        max_bytes: int = 1 << 30,
        api_url: str | None = None,
        first_wait: float = 0.5,
        chance: Callable[[], float] = random.random,
        tell: Callable[[Event], None] = lambda _: None,
        way: Way = DIRECT,
    ) -> None:
        self._lent = session
        self._turns = Turns(concurrency)
        self._attempts = attempts
        self._limits = Limits(max_bytes, stall_timeout)
        self._api_url = api_url
        self._first_wait = first_wait
        self._chance = chance
        self._tell = tell
        self._way = way
        self._session: aiohttp.ClientSession
        self._guard: Guard

    async def __aenter__(self) -> Downloader:
        proxy = self._way.proxy
        self._guard = Guard(self._api_url, proxy=None if proxy is None else proxy.place)
        self._session = open_session(
            self._lent,
            resolver=self._guard,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT, sock_read=self._limits.stall_timeout
            ),
            read_bufsize=256 * 1024,
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self._session.close()
        await self._guard.close()

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
        transfer = Transfer(self._session, self._guard, self._limits, url, into, part, self._way)
        trouble: DownloadError
        try:
            for attempt in range(1, self._attempts + 1):
                async with self._turns.turn(urgency):
                    try:
                        return await transfer.attempt(index, name_of)
                    except Passing as passing:
                        trouble = passing.error
                if attempt < self._attempts:
                    wait = backoff(
                        attempt, first=self._first_wait, ceiling=15.0, chance=self._chance()
                    )
                    self._tell(Retrying("file", ids(), trouble, wait, attempt))
                    await anyio.sleep(wait)
        finally:
            await transfer.end()
        raise trouble
