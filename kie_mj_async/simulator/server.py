"""The simulator as a server: settings, sockets, start and end.

A thin shell around ``world.py``, which holds every decision; the handlers are in ``api.py`` and
``files.py``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from aiohttp.typedefs import Handler

from . import pictures, uploads
from .api import Api
from .books import Event
from .courier import Courier
from .faults import Faults
from .files import Files
from .journal import Journal
from .media import Media
from .shelf import Shelf
from .shell import Service, as_json
from .upload_api import UploadApi
from .world import World


class Simulator:
    """A local KIE.ai: the API, the upload host and the files on one port.

    Use it as an async context manager, or call :meth:`start` and :meth:`aclose`.

    Args:
        time_scale: Factor on every duration of the service (generation, window, retention, delays);
            0.05 makes everything 20 times as fast. Above 0.
        seed: What chance depends on; equal seeds give equal task ids, durations and faults.
        faults: What goes wrong on purpose; see ``faults.py`` for the language.
        credits: The balance at the start.
        rate: Creates per unscaled seconds.
        max_running: How many tasks may run at once.
        api_key: The one key that works; ``None`` lets any key work that is not empty.
        journal: A file that keeps tasks, books, credits and what callbacks are open; a later
            simulator with the same file goes on from there, also after a SIGKILL. Its balance then
            counts, not ``credits``. Uploads lie beside it, in a directory of the same name with
            ``.uploads`` added.
        picture_side: Pixels of the longer side of a picture.
        host: Where to listen.
        port: Where to listen; 0 takes a free one.
        create_latency: Unscaled seconds that a create takes to answer, give or take a quarter.
        clock: Seconds since the epoch.
        webhook_key: What callbacks are signed with; ``None`` leaves them unsigned.
        upload_limit: Bytes of the largest upload.

    Raises:
        ValueError: A setting cannot work.
    """

    def __init__(
        self,
        *,
        time_scale: float = 1.0,
        seed: int = 0,
        faults: str | Faults = "",
        credits: float = 100_000,
        rate: tuple[int, float] = (20, 10.0),
        max_running: int = 100,
        api_key: str | None = None,
        journal: str | os.PathLike[str] | None = None,
        picture_side: int = 1024,
        host: str = "127.0.0.1",
        port: int = 0,
        create_latency: float = 0.0,
        clock: Callable[[], float] = time.time,
        webhook_key: str | None = None,
        upload_limit: int = uploads.LIMIT,
    ) -> None:
        if not time_scale > 0:
            raise ValueError(f"time_scale: {time_scale} is not allowed; use a number above 0")
        if not 1 <= picture_side <= 8192:
            raise ValueError(f"picture_side: {picture_side} is not allowed; use 1 to 8192")
        if webhook_key is not None and not webhook_key.strip():
            raise ValueError("webhook_key: a blank key is not allowed; leave it out")
        self.world = World(
            seed=seed,
            faults=Faults.parse(faults) if isinstance(faults, str) else faults,
            credits=credits,
            rate=rate,
            max_running=max_running,
            time_scale=time_scale,
            picture_suffix=pictures.suffix(),
            record=self._record,
        )
        self._api_key = api_key
        self._journal_path = None if journal is None else Path(journal)
        self._journal: Journal | None = None
        self._picture_side = picture_side
        self._host = host
        self._port = port
        self._create_latency = create_latency
        self._clock = clock
        self._webhook_key = webhook_key
        self._upload_limit = upload_limit
        self._courier: Courier | None = None
        self._runner: web.AppRunner | None = None
        self._service: Service | None = None

    async def start(self) -> None:
        """Read the journal, if there is one, and listen.

        Raises:
            RuntimeError: It was started before.
            OSError: The port or the journal cannot be used.
            ValueError: The journal cannot be read.
        """
        if self._service is not None:
            raise RuntimeError("this simulator was started before; make another one")
        if self._journal_path is not None:
            await self._open_journal(Journal(self._journal_path))
        self._service = Service(
            self.world,
            Media(self._picture_side),
            self._journal,
            self._api_key,
            self._create_latency,
            self._clock,
            shelf=await self._open_shelf(),
        )
        app = web.Application(middlewares=[self._watch])
        app.add_routes(
            [
                *Api(self._service).routes(),
                *Files(self._service).routes(),
                *UploadApi(self._service, self._picture_side).routes(),
            ]
        )
        # Cancelling a handler whose client has gone is what ends a stalled answer.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0
        )
        try:
            await self._runner.setup()
            await web.TCPSite(self._runner, self._host, self._port).start()
        except BaseException:
            await self.aclose()
            raise
        self._port = self._runner.addresses[0][1]
        self._courier = Courier(self._service, self.url, self._webhook_key)
        self._service.reported = self._courier.first_attempt
        self._courier.start()

    async def _open_shelf(self) -> Shelf:
        path = self._journal_path
        folder = None if path is None else path.with_name(path.name + ".uploads")
        shelf = Shelf(folder, self._upload_limit)
        await shelf.open(self.world.uploads.contents(self._clock()))
        return shelf

    async def _open_journal(self, journal: Journal) -> None:
        events = await journal.open()
        for event in events:
            self.world.apply(event)
        self._journal = journal
        if not events:
            self.world.open(self._clock())

    async def aclose(self) -> None:
        """Stop listening, end what is in flight, close the journal. May be called again.

        Callbacks that are open stay open in the journal.
        """
        if self._service is not None:
            self._service.closing.set()
        try:
            if self._courier is not None:
                await self._courier.aclose()
        finally:
            self._courier = None
            await self._close()

    async def _close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._service is not None:
            await self._service.shelf.aclose()
        if self._journal is not None:
            await self._journal.aclose()
            self._journal = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def books(self) -> dict[str, Any]:
        """What the service has seen; also served at ``/simulator/books``."""
        return self.world.books(self._clock())

    def _record(self, event: Event) -> None:
        if self._journal is not None:
            self._journal.append(event)
        if self._courier is not None:
            self._courier.stir()

    @web.middleware
    async def _watch(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note where each request went, and answer unknown paths as the service does."""
        prefix = _prefix(request.path)
        if prefix != "/simulator":
            key = "Authorization" in request.headers
            self.world.visit(request.host, prefix, self._clock(), key=key)
        try:
            return await handler(request)
        except web.HTTPException as error:
            body = {"code": error.status, "msg": error.reason, "data": None}
            return as_json(body, status=error.status)


def _prefix(path: str) -> str:
    """A path without what differs from call to call, so that the books stay short."""
    parts = path.split("/")
    return "/".join(parts[: 4 if parts[1] == "api" else 2])
