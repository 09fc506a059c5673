"""Uploads: from a kept image to a link of the service's, once for all jobs that use it.

What an upload's end means, when it is tried again and how long its link is good is decided in
``rules/uploads.py``. Uploads cost nothing; they are kept few because they are slow.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import anyio
import attrs

from ..errors import KieError
from ..events import Event, Retrying
from ..inputs import Inputs
from ..logs import ids, logger
from ..rules import uploads, wire
from ..rules.billing import Silence
from ..rules.uploads import Failure, Upload
from .clock import Clock

log = logger(__name__)

AT_ONCE: Final = 4
"""Uploads under way at most."""


class Service(Protocol):
    """The service's call that an upload needs."""

    async def upload(self, path: Path, name: str) -> wire.Reply | Silence:
        """Send a kept image, once."""


class Book(Protocol):
    """Where uploads are remembered, so that another run can use them."""

    async def upload_of(self, name: str) -> Upload | None:
        """The last upload of a kept image."""

    async def note_upload(self, upload: Upload) -> None:
        """Remember it, in place of the last one of its name."""


@attrs.define
class _Flight:
    """An image that is being looked up or uploaded, and what came of it; neither if it was cut off."""

    ended: anyio.Event = attrs.field(factory=anyio.Event)
    url: str | None = None
    error: Exception | None = None


class Uploader:
    """Gives links to kept images, and uploads those that have none that lasts.

    Args:
        inputs: Where the images are kept.
        service: The service's call.
        book: Where uploads are remembered.
        clock: Where the time comes from.
        time_scale: Factor on the service's durations and on our waits (a simulator's 0.05).
        chance: Random numbers in [0, 1).
        tell: Who hears of uploads that are tried again.
    """

    def __init__(
        self,
        inputs: Inputs,
        service: Service,
        book: Book,
        clock: Clock,
        *,
        time_scale: float = 1.0,
        chance: Callable[[], float] = random.random,
        tell: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._inputs = inputs
        self._service = service
        self._book = book
        self._clock = clock
        self._scale = time_scale
        self._chance = chance
        self._tell = tell
        self._flights: dict[str, _Flight] = {}
        self._places = anyio.Semaphore(AT_ONCE)

    async def link(self, reference: str) -> str:
        """A link to a kept image that is good for an hour at least.

        Whoever asks for the same image meanwhile waits for the same upload, and gets its link or its
        error; if it is cancelled, another one who waits takes over.

        Args:
            reference: How the request refers to it.

        Raises:
            InvalidRequest: The service will never take this image: fail the job. Nothing was spent.
            LedgerError: The book cannot be used.
            KieError: Anything else: no job with a local image can be sent now, and none was. Stop the
                run; a later one can go on. It is a ``TransportError`` (the upload host does not
                answer), an ``ApiError`` (it refuses the key, or goes on failing), or a plain one (the
                kept image is gone or damaged).
            ValueError: The reference refers to no kept image.
        """
        name = self._inputs.path(reference).name
        while (flight := self._flights.get(name)) is not None:
            await flight.ended.wait()
            if flight.error is not None:
                # A copy: an error that many raise would gather all their tracebacks.
                raise copy.copy(flight.error) from None
            if flight.url is not None:
                return flight.url
        flight = self._flights[name] = _Flight()
        try:
            flight.url = await self._find(reference, name)
        except Exception as error:
            flight.error = error
            raise
        finally:
            del self._flights[name]
            flight.ended.set()
        return flight.url

    async def _find(self, reference: str, name: str) -> str:
        last = await self._book.upload_of(name)
        if last is not None and uploads.usable(last, self._clock.now(), scale=self._scale):
            return last.url
        upload = await self._upload(reference, name)
        await self._book.note_upload(upload)
        return upload.url

    async def _upload(self, reference: str, name: str) -> Upload:
        failures = 0
        while True:
            async with self._places:
                path = await self._inputs.check(reference)
                # Its life begins somewhere between the first byte and the answer.
                began = self._clock.now()
                end = uploads.judge(await self._service.upload(path, name), str(path))
            if not isinstance(end, Failure):
                log.info("%s is uploaded", path)
                return Upload(name, end, began)
            failures += 1
            wait = self._wait(failures, end)
            if wait is None:
                raise end.error
            log.warning("%s; trying again in %.0f s", end.error, wait)
            self._tell(Retrying("upload", ids(), end.error, wait, failures))
            await anyio.sleep(wait)

    def _wait(self, failures: int, failure: Failure) -> float | None:
        if failure.then != "again":
            return None
        error: KieError = failure.error
        return uploads.pause(failures, error, self._chance(), scale=self._scale)
