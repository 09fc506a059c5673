"""Who hears of events: functions, coroutines and streams, none of which can hurt or hold up the work.

A plain function is called at once, in the loop of the client. A coroutine function, or a stream that
somebody iterates, has a queue of its own: who is slower than the events loses the oldest of them, and is
told how many. All of it belongs to the thread of the loop.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from types import TracebackType
from typing import Any, Final
from weakref import ref

import attrs

from .events import Event
from .logs import anew, logger

log = logger(__name__)

BUFFER: Final = 1000
"""Events that wait for a slow listener at most."""

_COMPLAINTS: Final = 10
"""Failures of one listener that are logged; a run has a million events."""

_ENDS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What ends the program, or a coroutine, whoever it hits."""

Listener = Callable[[Event], None] | Callable[[Event], Awaitable[None]]
"""Called with each event."""


class Subscription:
    """A listener's place among those who hear; letting go of it ends that. A context manager."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end

    def close(self) -> None:
        """Hear of nothing more; a coroutine function still hears what waits for it."""
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

    Several may iterate it: each event goes to one of them. One that nobody holds any more is let go of.

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

    @property
    def waits(self) -> int:
        """Events that wait for their reader."""
        return len(self._waiting)

    def put(self, event: Event) -> None:
        """Take in an event, unless it is closed."""
        if self._closed:
            return
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


@attrs.define(eq=False)
class _Ear:
    """A listener.

    Attributes:
        hear: What is called.
        buffer: Events that wait for it at most.
        context: Where it was given, for a task of its own.
        closed: Whether it hears no more.
        stream: What waits for it, where it is a coroutine function.
        begun: A call of it that is to be awaited first.
        failures: How often it has failed.
    """

    hear: Callable[[Event], Any]
    buffer: int
    context: Context = attrs.field(factory=copy_context)
    closed: bool = False
    stream: EventStream | None = None
    begun: tuple[Event, Coroutine[Any, Any, Any]] | None = None
    failures: int = 0

    def failed(self, event: Event) -> None:
        """Say so, in the handler of what it raised."""
        self.failures += 1
        if self.failures <= _COMPLAINTS:
            log.exception("an event's listener failed at %s", type(event).__name__)
        if self.failures == _COMPLAINTS:
            log.error("an event's listener goes on failing; that is not logged any more")


class Subscribers:
    """All who hear of a client's events."""

    def __init__(self) -> None:
        # Replaced, never changed: somebody may come or go while others are told.
        self._ears: tuple[_Ear, ...] = ()
        self._streams: tuple[ref[EventStream], ...] = ()
        self._to_begin: dict[EventStream, _Ear] = {}
        self._readers: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def anybody(self) -> bool:
        """Whether anybody hears."""
        return bool(self._ears or self._streams)

    def tell(self, event: Event) -> None:
        """Tell everybody. It waits for nobody, and fails at nothing but the program's end."""
        streams = self._streams
        for ear in self._ears:
            if ear.closed:  # by one before it
                continue
            try:
                result = ear.hear(event)
            except _ENDS:
                raise
            except BaseException:  # a CancelledError of theirs would cancel our work
                ear.failed(event)
            else:
                if result is not None and inspect.iscoroutine(result):
                    # It does not look like a coroutine function, but it is one.
                    self._ears = tuple(one for one in self._ears if one is not ear)
                    ear.begun = event, result
                    self._queue(ear)
        for at in streams:
            if (stream := at()) is not None:
                stream.put(event)
        if self._to_begin:
            self._begin()

    def add(self, listener: Listener, buffer: int = BUFFER) -> Subscription:
        """One more listener.

        Args:
            listener: Called with each event; a coroutine function has a task, and a queue, of its own.
            buffer: Events that wait for it at most.
        """
        ear = _Ear(listener, buffer)
        if self._closed:
            return Subscription(lambda: None)
        if _is_async(listener):
            self._queue(ear)
        else:
            self._ears += (ear,)

        def end() -> None:
            ear.closed = True
            self._ears = tuple(one for one in self._ears if one is not ear)
            if ear.stream is not None:
                ear.stream.close()

        return Subscription(end)

    def stream(self, buffer: int = BUFFER) -> EventStream:
        """Events from now on, to be iterated."""
        stream = EventStream(buffer, self._let_go)
        if self._closed:
            stream.close()
        else:
            # Weak, so that one that was left half-way takes in nothing more.
            self._streams += (ref(stream, self._gone),)
        return stream

    async def aclose(self, grace: float) -> None:
        """Tell nobody any more; what waits is still heard, for as long as the grace.

        Args:
            grace: Seconds for listeners that are behind, and once more for those that are cut off.
        """
        self._begin()
        self._closed, self._ears = True, ()
        for at in self._streams:
            if (stream := at()) is not None:
                stream.close()
        # A listener may be who closes the client.
        readers = self._readers - {asyncio.current_task()}
        if not readers:
            return
        try:
            await asyncio.wait(readers, timeout=grace)
        finally:
            for task in readers:
                task.cancel()
        await asyncio.wait(readers, timeout=grace)

    def _queue(self, ear: _Ear) -> None:
        ear.stream = self.stream(ear.buffer)
        # Its task begins with the first event: there may be no loop yet.
        self._to_begin[ear.stream] = ear

    def _begin(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        waiting, self._to_begin = self._to_begin, {}
        for stream, ear in waiting.items():
            reading = _read(ear, stream)
            task = asyncio.create_task(reading, name="kie-mj listener", context=ear.context)
            self._readers.add(task)
            task.add_done_callback(self._readers.discard)

    def _let_go(self, stream: EventStream) -> None:
        self._streams = tuple(at for at in self._streams if at() not in (None, stream))
        waits = self._to_begin.get(stream)
        if waits is not None and waits.begun is None and not stream.waits:
            del self._to_begin[stream]

    def _gone(self, gone: ref[EventStream]) -> None:
        self._streams = tuple(at for at in self._streams if at is not gone)


def _is_async(listener: Listener) -> bool:
    called = getattr(listener, "__call__", None)  # noqa: B004 - an object's own method
    return inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(called)


async def _read(ear: _Ear, stream: EventStream) -> None:
    """Let a listener hear one event after the other."""
    with anew():
        if ear.begun is not None:
            await _hear(ear, *ear.begun)
        async for event in stream:
            await _hear(ear, event)


async def _hear(ear: _Ear, event: Event, begun: Coroutine[Any, Any, Any] | None = None) -> None:
    try:
        call = ear.hear(event) if begun is None else begun
        if inspect.isawaitable(call):
            await call
    except _ENDS:
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        ear.failed(event)  # something that it waited for was cancelled
    except BaseException:
        ear.failed(event)
