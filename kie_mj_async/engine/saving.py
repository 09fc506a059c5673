"""From links to files: all results of a task, with fresh links where the old ones died."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

import anyio

from ..archive.downloader import Downloader, LinkRefused
from ..archive.store import NameOf, Place
from ..errors import DownloadError, KieError, NotFound, ResultExpired
from ..jobs import SavedFile
from ..rules.transfer import MAX_FRESH_LINKS
from .poll_scheduler import Reader


class Minter(Protocol):
    """Who can give a result another link."""

    async def fresh_link(self, url: str) -> str:
        """A new link to a result."""


class Linker(Reader, Minter, Protocol):
    """Who can read a record and mint fresh links."""


class Saver:
    """Saves the results of tasks.

    Args:
        service: Who gives fresh links.
        downloader: Who fetches them.
    """

    def __init__(self, service: Linker, downloader: Downloader) -> None:
        self._service = service
        self._downloader = downloader

    async def save(
        self,
        task_id: str,
        urls: Sequence[str],
        wanted: Collection[int],
        into: Place,
        *,
        name: Callable[[int], NameOf],
        keep: Callable[[SavedFile], Awaitable[None]],
        relinked: Callable[[tuple[str, ...]], Awaitable[None]],
        part: Callable[[int], str | None] = lambda _: None,
        urgency: float = math.inf,
    ) -> None:
        """Save results, all at once, each as soon as it is there.

        A refused link is replaced: from record-info, which may know another, else by a minted one.

        Args:
            task_id: The task.
            urls: Links to all of its results.
            wanted: Which of them to save.
            into: Where they go.
            name: The file name of each.
            keep: Called with each file that is under its name.
            relinked: Called with all links when some are new.
            part: The part file's name of each, for going on with it in a later run.
            urgency: When the results are gone, in seconds since 1970; the soonest goes first.

        Raises:
            ResultExpired: The service does not know the task any more.
            DownloadError: Some could not be saved; the others are.
            KieError: Whatever ``keep`` and ``relinked`` raise.
        """

        async def fetch(index: int) -> None:
            file = await self._downloader.fetch(
                urls[index], index, into, name(index), part=part(index), urgency=urgency
            )
            await keep(file)

        urls = tuple(urls)
        wanted = set(wanted)
        refused: set[str] = set()
        for fresh in range(MAX_FRESH_LINKS + 1):
            troubles = await _each(fetch, wanted)
            refusals: dict[int, LinkRefused] = {}
            for index, trouble in troubles.items():
                if not isinstance(trouble, LinkRefused):
                    raise trouble
                refusals[index] = trouble
            if not refusals:
                return
            wanted = set(refusals)
            refused |= {urls[index] for index in wanted}
            refusal = next(iter(refusals.values()))
            if fresh == MAX_FRESH_LINKS:
                break
            urls = await self._fresh(task_id, urls, wanted, refused, refusal)
            await relinked(urls)
        raise refusal

    async def _fresh(
        self,
        task_id: str,
        urls: tuple[str, ...],
        wanted: Collection[int],
        refused: Collection[str],
        refusal: DownloadError,
    ) -> tuple[str, ...]:
        try:
            record = await self._service.record(task_id)
            named = record.urls if len(record.urls) == len(urls) else urls
            links = list(urls)
            for index in wanted:
                link = named[index]
                links[index] = await self._service.fresh_link(link) if link in refused else link
        except NotFound as error:
            message = f"task {task_id}: the service does not know it (any more)"
            raise ResultExpired(message, task_id=task_id, billed="yes") from error
        except KieError as error:
            message = f"{refusal}; and no fresh link could be had: {error}"
            raise DownloadError(message, url=refusal.url, task_id=task_id) from error
        return tuple(links)


async def _each(
    fetch: Callable[[int], Awaitable[None]], indices: Collection[int]
) -> dict[int, KieError]:
    """Fetch these, all at once; the troubles of those that had some."""
    troubles: dict[int, KieError] = {}

    async def one(index: int) -> None:
        # Caught here, or the task group would wrap it.
        try:
            await fetch(index)
        except KieError as error:
            troubles[index] = error

    async with anyio.create_task_group() as group:
        for index in sorted(indices):
            group.start_soon(one, index)
    return troubles
