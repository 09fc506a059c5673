"""What a job sends: its request as written, with all that it needs from elsewhere put in.

A step of a chain gets the task of the job before it, a local image becomes a link of an upload, and
flags become fields. All of it happens before the job takes a slot, and none of it costs anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any

import attrs

from ..errors import ApiError, InvalidRequest, KieError, TaskFailed, TransportError
from ..fields import KEPT, is_local
from ..inputs import Inputs
from ..jobs import Job, reason_of
from ..ledger import Ledger
from ..logs import logger
from ..requests import ChainStep, Request
from ..rules import bodies, chains
from ..rules.bodies import effective
from ..rules.wire import Record
from .clock import Clock
from .saving import Minter

log = logger(__name__)

Uploaded = Callable[[str], Awaitable[str]]
"""Gives a kept image a link that the service can fetch (see ``uploads.Uploader.link``)."""


class Preparer:
    """Makes the requests of one ledger's jobs ready to be sent.

    Args:
        ledger: Where the jobs are.
        minter: Who gives results fresh links.
        clock: Where the time comes from.
        uploaded: Who uploads local images; ``None`` where requests have none.
    """

    def __init__(
        self, ledger: Ledger, minter: Minter, clock: Clock, uploaded: Uploaded | None = None
    ) -> None:
        self._ledger = ledger
        self._minter = minter
        self._clock = clock
        self._uploaded = uploaded

    async def ready(self, job: Job) -> Request:
        """What this job sends.

        Raises:
            TaskFailed: The job before it has failed, so this one cannot be.
            InvalidRequest: It cannot be sent as it is, ever.
            KieError: It cannot be sent now.
        """
        request = job.request
        if isinstance(request, ChainStep):
            request = await self._bound(request)
        return await self._with_links(effective(request))

    async def differences(self, job: Job, record: Record) -> list[str]:
        """How a task's parameters differ from what a job sends, for people.

        Raises:
            InvalidRequest: The job cannot be sent at all.
        """
        request = job.request
        if not isinstance(request, ChainStep):
            return bodies.differences(request, record)
        # What its parent has is sent by whichever link works at the time.
        request = chains.bound(request, await self._parent(request))
        return bodies.differences(request, record, any_link=True)

    async def _parent(self, step: ChainStep) -> Job:
        parent = await self._ledger.get(step.parent)
        if parent is None:
            raise InvalidRequest(f"the job before it, {step.parent}, is not in this ledger")
        return parent

    async def _bound(self, step: ChainStep) -> Request:
        parent = await self._parent(step)
        if parent.state in chains.HOPELESS:
            message = f"the job before it, {parent.key}, is {parent.state}: {reason_of(parent)}"
            raise TaskFailed(message, billed="no")
        if parent.state not in chains.READY:
            raise KieError(waits_for(parent), billed="no")
        link = None
        if chains.wants_fresh_link(step, parent, self._clock.now()):
            link = await self._fresh(parent, step.index)
        return chains.bound(step, parent, link)

    async def _fresh(self, parent: Job, index: int) -> str | None:
        """A link that lives a while; the one there is where none can be had: it may live too."""
        if index >= len(parent.urls):
            return None
        try:
            return await self._minter.fresh_link(parent.urls[index])
        except (ApiError, TransportError, InvalidRequest) as error:
            log.info("task %s: no fresh link to result %d: %s", parent.task_id, index, error)
            return None

    async def _with_links(self, request: Request) -> Request:
        links: dict[Any, str] = {}
        for _, image in request.images_given():
            if isinstance(image, str) and KEPT.fullmatch(image) and image not in links:
                if self._uploaded is None:
                    raise InvalidRequest("image: nobody uploads local images here", field="image")
                links[image] = await self._uploaded(image)
        return with_images(request, links)


def with_images(request: Request, found: dict[Any, str]) -> Request:
    """The request with some of its images replaced."""
    changes: dict[str, Any] = {}
    for name in dict(request.images_given()) if found else ():
        value = getattr(request, name)
        changes[name] = (
            tuple(found.get(one, one) for one in value)
            if isinstance(value, tuple)
            else found.get(value, value)
        )
    return attrs.evolve(request, **changes) if changes else request


def waits_for(parent: Job) -> str:
    """What to say of a step whose turn has not come."""
    return f"waits for job {parent.key}, which is {parent.state}"


async def taken_in(requests: AsyncIterable[Request], inputs: Inputs) -> AsyncIterator[Request]:
    """A list with its local images checked and kept.

    Raises:
        InvalidRequest: An image cannot be used; the message names it.
        WriteFailed: It cannot be kept.
    """
    async for request in requests:
        yield await take_in(request, inputs)


async def take_in(request: Request, inputs: Inputs) -> Request:
    """A request with its local images checked and kept.

    Raises:
        InvalidRequest: An image cannot be used; the message names it.
        WriteFailed: It cannot be kept.
    """
    found = {
        image: await inputs.take(image, field=name)
        for name, image in request.images_given()
        if is_local(image)
    }
    return with_images(request, found)
