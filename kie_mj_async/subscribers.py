"""Who hears of events: functions, coroutines and streams, none of which can hurt or hold up the work.

A plain function is called at once, in the loop of the client. A coroutine function, or a stream that
somebody iterates, has a queue of its own: who is slower than the events loses the oldest of them, and is
told how many.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

import anyio

from .events import Event
from .logs import logger

log = logger(__name__)

BUFFER: Final = 1000
"""Events that wait for a slow listener at most."""

Listener = Callable[[Event], None] | Callable[[Event], Awaitable[None]]
"""Called with each event."""


class Subscription:
    """A listener's place among those who hear; letting go of it ends that. A context manager."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end

    def close(self) -> None:
        """Hear no more."""
        self._end()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()


class EventStream:
    """Events as they come: an async iterator, which ends when its client is closed.

    Attributes:
        missed: Events that were dropped, for nobody took them in time.
    """

    def __init__(self, buffer: int, forget: Callable[[EventStream], None]) -> None:
        self.missed = 0
        self._forget = forget
        self._waiting: deque[Event] = deque(maxlen=max(1, buffer))
        self._changed = asyncio.Event()
        self._closed = False

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.popleft()

    def put(self, event: Event) -> None:
        """Take in an event."""
        if len(self._waiting) == self._waiting.maxlen:
            self.missed += 1
            if self.missed == 1:
                log.warning("a listener is too slow: the oldest of its events are dropped")
        self._waiting.append(event)
        self._changed.set()

    def close(self) -> None:
        """Take in no more; what waits can still be had."""
        self._closed = True
        self._changed.set()
        self._forget(self)

    async def aclose(self) -> None:
        """The same, for ``contextlib.aclosing``."""
        self.close()


class Subscribers:
    """All who hear of a client's events."""

    def __init__(self) -> None:
        self._functions: list[Callable[[Event], Any]] = []
        self._streams: list[EventStream] = []
        self._to_begin: list[tuple[EventStream, Callable[[Event], Any]]] = []
        self._readers: set[asyncio.Task[None]] = set()

    def tell(self, event: Event) -> None:
        """Tell everybody. It never fails, and waits for nobody."""
        for function in tuple(self._functions):
            try:
                function(event)
            except Exception:
                log.exception("an event's listener failed at %s", type(event).__name__)
        for stream in tuple(self._streams):
            stream.put(event)
        self._begin()

    def add(self, listener: Listener, buffer: int = BUFFER) -> Subscription:
        """One more listener.

        Args:
            listener: Called with each event; a coroutine function has a task, and a queue, of its own.
            buffer: Events that wait for it at most.
        """
        if not _is_async(listener):
            self._functions.append(listener)
            return Subscription(lambda: self._drop(listener))
        stream = self.stream(buffer)
        # Its task begins with the first event: there may be no loop yet.
        self._to_begin.append((stream, listener))
        return Subscription(stream.close)

    def stream(self, buffer: int = BUFFER) -> EventStream:
        """Events from now on, to be iterated."""
        stream = EventStream(buffer, self._let_go)
        self._streams.append(stream)
        return stream

    async def aclose(self, grace: float) -> None:
        """Tell nobody any more; what waits is still heard, for as long as the grace.

        Args:
            grace: Seconds for listeners that are behind.
        """
        self._begin()
        readers = set(self._readers)
        for stream in tuple(self._streams):
            stream.close()
        if readers:
            with anyio.move_on_after(grace):
                await asyncio.wait(readers)
            for task in readers:
                task.cancel()

    def _begin(self) -> None:
        for stream, listener in self._to_begin:
            task = asyncio.create_task(_read(stream, listener), name="kie-mj listener")
            self._readers.add(task)
            task.add_done_callback(self._readers.discard)
        self._to_begin.clear()

    def _drop(self, function: Callable[[Event], Any]) -> None:
        with suppress(ValueError):
            self._functions.remove(function)

    def _let_go(self, stream: EventStream) -> None:
        with suppress(ValueError):
            self._streams.remove(stream)


def _is_async(listener: Listener) -> bool:
    called = getattr(listener, "__call__", None)  # noqa: B004 - an object's own method
    return inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(called)


async def _read(stream: EventStream, listener: Callable[[Event], Any]) -> None:
    async for event in stream:
        try:
            await listener(event)
        except Exception:
            log.exception("an event's listener failed at %s", type(event).__name__)
