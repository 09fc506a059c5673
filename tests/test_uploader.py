"""From a kept image to a link, in virtual time: once for all who ask, again when it must be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import anyio
import pytest
from support import VIRTUAL, picture, reply, until

from kie_mj_async.engine.clock import Clock
from kie_mj_async.engine.uploads import AT_ONCE, Uploader
from kie_mj_async.errors import (
    AuthenticationError,
    InvalidRequest,
    KieError,
    LedgerError,
    NotSent,
    RateLimited,
    ReplyLost,
    ServerError,
)
from kie_mj_async.inputs import Inputs
from kie_mj_async.rules.billing import Silence
from kie_mj_async.rules.uploads import TRIES, Upload
from kie_mj_async.rules.wire import Reply
from kie_mj_async.testing import virtual_clock

pytestmark = pytest.mark.anyio
HOUR = 3600.0


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL


class Notes:
    """A book in memory."""

    def __init__(self) -> None:
        self.uploads: dict[str, Upload] = {}
        self.error: KieError | None = None
        self.seconds = 0.0

    async def upload_of(self, name: str) -> Upload | None:
        await anyio.sleep(self.seconds)
        return self.uploads.get(name)

    async def note_upload(self, upload: Upload) -> None:
        if self.error is not None:
            raise self.error
        self.uploads[upload.name] = upload


class Host:
    """An upload host in memory. Set ``on_upload`` to break it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.seconds = 10.0
        self.begun: list[tuple[float, str]] = []
        self.running = self.most = 0
        self.on_upload: Callable[[int], Reply | Silence | None] = lambda _number: None

    async def upload(self, path: Path, name: str) -> Reply | Silence:
        assert path.name == name
        self.begun.append((self._clock.monotonic(), name))
        number = len(self.begun)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await anyio.sleep(self.seconds)
        finally:
            self.running -= 1
        link = {"downloadUrl": f"https://up.test/{number}/{name}"}
        return self.on_upload(number) or reply(200, link)

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.begun]


class Rig:
    """An uploader, and what it works with."""

    def __init__(self, folder: Path, *, time_scale: float = 1.0) -> None:
        self.clock = virtual_clock()
        self.inputs = Inputs(folder / "inputs")
        self.host = Host(self.clock)
        self.notes = Notes()
        self.time_scale = time_scale
        self.uploader = self.another()

    def another(self) -> Uploader:
        """An uploader with the same book, as another run has it."""
        return Uploader(
            self.inputs,
            self.host,
            self.notes,
            self.clock,
            time_scale=self.time_scale,
            chance=lambda: 1 - 1e-12,
        )

    async def take(self, shade: int = 0) -> str:
        return await self.inputs.take(picture(shade))

    async def links(self, *references: str) -> list[str | Exception]:
        """Ask for all of these at once."""
        found: dict[int, str | Exception] = {}

        async def ask(number: int, reference: str) -> None:
            try:
                found[number] = await self.uploader.link(reference)
            except Exception as error:
                found[number] = error

        async with anyio.create_task_group() as tasks:
            for number, reference in enumerate(references):
                tasks.start_soon(ask, number, reference)
        return [found[number] for number in range(len(references))]


@pytest.fixture
def rig(tmp_path: Path, anyio_backend: object) -> Callable[..., Rig]:
    """Makes one; inside the loop."""
    return lambda **options: Rig(tmp_path, **options)


Make = Callable[..., Rig]


# --- Once ----------------------------------------------------------------------------------------


async def test_an_image_is_uploaded_and_remembered(rig: Make) -> None:
    """The link is the service's; the book has it with the time at which the upload began."""
    here = rig()
    reference = await here.take()
    name = reference.removeprefix("input:")
    began = here.clock.now()
    link = await here.uploader.link(reference)
    assert link == f"https://up.test/1/{name}"
    assert here.notes.uploads == {name: Upload(name, link, began)}
    assert here.clock.now() > began


async def test_a_hundred_who_ask_at_once_share_one_upload(rig: Make) -> None:
    """Also where the book is slow to answer."""
    here = rig()
    here.notes.seconds = 3.0
    reference = await here.take()
    links = await here.links(*[reference] * 100)
    assert len(set(links)) == len(here.host.begun) == 1
    assert await here.uploader.link(reference) == links[0]
    assert len(here.host.begun) == 1


async def test_another_run_uses_what_the_book_has(rig: Make) -> None:
    """An upload outlives the run that made it."""
    here = rig()
    reference = await here.take()
    link = await here.uploader.link(reference)
    assert await here.another().link(reference) == link
    assert len(here.host.begun) == 1


@pytest.mark.parametrize(("hours", "uploads"), [(22.9, 1), (23.1, 2)])
async def test_an_upload_with_less_than_an_hour_left_is_made_again(
    rig: Make, hours: float, uploads: int
) -> None:
    """The service keeps it for 24 hours; it must be good for another one."""
    here = rig()
    reference = await here.take()
    first = await here.uploader.link(reference)
    await anyio.sleep(hours * HOUR)
    second = await here.uploader.link(reference)
    assert len(here.host.begun) == uploads
    assert (first == second) is (uploads == 1)
    assert await here.uploader.link(reference) == second


async def test_with_a_quick_service_it_is_made_again_sooner(rig: Make) -> None:
    """A simulator at a hundredth forgets uploads after a quarter of an hour."""
    here = rig(time_scale=0.01)
    reference = await here.take()
    await here.uploader.link(reference)
    await anyio.sleep(13 * 60)
    await here.uploader.link(reference)
    assert len(here.host.begun) == 1
    await anyio.sleep(2 * 60)
    await here.uploader.link(reference)
    assert len(here.host.begun) == 2


async def test_different_images_go_side_by_side_but_few(rig: Make) -> None:
    """No more than four at a time."""
    here = rig()
    references = [await here.take(shade) for shade in range(10)]
    links = await here.links(*references, *references)
    assert len(set(links)) == len(here.host.begun) == 10
    assert here.host.most == AT_ONCE == 4
    assert max(here.host.times) == min(here.host.times) + 20


# --- Failures ------------------------------------------------------------------------------------


async def test_an_image_that_is_refused_is_not_tried_again(rig: Make) -> None:
    """Everybody who waits for it is told that this image will never do, each by an error of its own."""
    here = rig()
    here.host.on_upload = lambda _number: reply(400)
    reference = await here.take()
    errors = await here.links(*[reference] * 5)
    assert [type(error) for error in errors] == [InvalidRequest] * 5
    assert len({id(error) for error in errors}) == 5
    assert {str(error) for error in errors} == {
        f"image: {here.inputs.path(reference)}: the upload was refused: "
        "the service refused the request (code 400): code 400"
    }
    for error in errors:
        assert isinstance(error, InvalidRequest)
        assert (error.field, error.code, error.billed) == ("image", 400, "no")
    assert len(here.host.begun) == 1
    assert here.notes.uploads == {}


async def test_a_refused_key_stops_at_once(rig: Make) -> None:
    """No other upload could do better."""
    here = rig()
    here.host.on_upload = lambda _number: reply(401)
    with pytest.raises(AuthenticationError):
        await here.uploader.link(await here.take())
    assert len(here.host.begun) == 1


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (reply(500), ServerError),
        (reply(429), RateLimited),
        (Silence(True, "timed out"), ReplyLost),
        (Silence(False, "no connection"), NotSent),
    ],
)
async def test_what_may_pass_is_tried_again_and_then_given_up(
    rig: Make, end: Reply | Silence, kind: type[KieError]
) -> None:
    """A handful of tries with growing waits; the last error is no fault of the image's."""
    here = rig()
    here.host.seconds = 0.0
    here.host.on_upload = lambda _number: end
    reference = await here.take()
    errors = await here.links(*[reference] * 3)
    assert {type(error) for error in errors} == {kind}
    assert len(here.host.begun) == TRIES
    times = here.host.times
    waits = [after - before for before, after in pairwise(times)]
    assert waits == pytest.approx([2, 4, 8, 16, 32], abs=0.01)


async def test_a_passing_trouble_passes(rig: Make, caplog: pytest.LogCaptureFixture) -> None:
    """After a failure or two there is a link, and a line in the log for each."""
    here = rig()
    here.host.on_upload = lambda number: reply(455) if number < 3 else None
    with caplog.at_level(logging.WARNING):
        assert "/3/" in await here.uploader.link(await here.take())
    assert len(caplog.messages) == 2
    assert all("trying again in" in line for line in caplog.messages)


async def test_the_service_may_ask_for_a_longer_wait(rig: Make) -> None:
    """``Retry-After`` is kept to; the place among the uploads is free meanwhile."""
    here = rig()
    here.host.seconds = 0.0
    here.host.on_upload = lambda n: reply(429, retry_after=90.0) if n == 1 else None
    first = await here.take(0)
    others = [await here.take(shade) for shade in range(1, 6)]
    links = await here.links(first, *others)
    assert len(set(links)) == 6
    begun = here.host.times
    assert begun[-1] == begun[0] + 90
    assert begun[-2] == begun[0]


async def test_nobody_waits_for_an_hour(rig: Make) -> None:
    """A service that wants to be left alone for long is left to a later run."""
    here = rig()
    here.host.on_upload = lambda _number: reply(429, retry_after=HOUR)
    with pytest.raises(RateLimited) as caught:
        await here.uploader.link(await here.take())
    assert caught.value.retry_after == HOUR
    assert len(here.host.begun) == 1


async def test_our_waits_are_scaled(rig: Make) -> None:
    """With a quick simulator a failure costs no minute."""
    here = rig(time_scale=0.01)
    here.host.seconds = 0.0
    here.host.on_upload = lambda _number: reply(500)
    with pytest.raises(ServerError):
        await here.uploader.link(await here.take())
    assert here.host.times[-1] - here.host.times[0] == pytest.approx(0.62, abs=0.01)


async def test_a_failure_is_not_remembered(rig: Make) -> None:
    """Who asks later tries anew."""
    here = rig()
    here.host.on_upload = lambda number: reply(401) if number == 1 else None
    reference = await here.take()
    with pytest.raises(AuthenticationError):
        await here.uploader.link(reference)
    assert "/2/" in await here.uploader.link(reference)


async def test_a_kept_image_that_is_gone_is_never_sent(rig: Make) -> None:
    """Also where it goes between two tries: the error names the file, and is not the job's fault."""
    here = rig()
    reference = await here.take()

    def fail(_number: int) -> Reply:
        here.inputs.path(reference).unlink()
        return reply(500)

    here.host.on_upload = fail
    for _ in range(2):
        with pytest.raises(KieError, match="is gone") as caught:
            await here.uploader.link(reference)
        assert not isinstance(caught.value, InvalidRequest)
    assert len(here.host.begun) == 1


async def test_a_gone_image_does_while_its_upload_lasts(rig: Make) -> None:
    """A link needs no file."""
    here = rig()
    reference = await here.take()
    link = await here.uploader.link(reference)
    here.inputs.path(reference).unlink()
    assert await here.another().link(reference) == link


async def test_a_book_that_fails_fails_all(rig: Make) -> None:
    """Without the book nothing is remembered, so nothing goes on."""
    here = rig()
    here.notes.error = LedgerError("disk full", path="/x")
    errors = await here.links(*[await here.take()] * 3)
    assert [type(error) for error in errors] == [LedgerError] * 3
    assert [error.path for error in errors if isinstance(error, LedgerError)] == ["/x"] * 3


async def test_only_references_have_links(rig: Make) -> None:
    """Anything else is a mistake of the caller's."""
    with pytest.raises(ValueError, match="refers to no kept image"):
        await rig().uploader.link("https://x.test/cat.png")


# --- Cancelling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["scope", "task"])
async def test_another_takes_over_from_who_is_cancelled(rig: Make, how: str) -> None:
    """The others still get a link, by one more upload."""
    here = rig()
    reference = await here.take()
    scope = anyio.CancelScope()

    async def first() -> None:
        with scope:
            await here.uploader.link(reference)

    task = asyncio.create_task(first())
    await until(lambda: here.host.running)
    rest = asyncio.create_task(here.links(*[reference] * 20))
    await anyio.sleep(1)
    (scope.cancel if how == "scope" else task.cancel)()
    links = await rest
    await asyncio.wait([task])
    assert len(set(links)) == 1
    assert len(here.host.begun) == 2


async def test_who_waits_can_be_cancelled(rig: Make) -> None:
    """That cuts nobody else's upload off."""
    here = rig()
    reference = await here.take()
    one = asyncio.create_task(here.uploader.link(reference))
    await until(lambda: here.host.running)
    with anyio.move_on_after(1) as scope:
        await here.uploader.link(reference)
    assert scope.cancelled_caught
    assert "/1/" in await one


async def test_all_cancelled_leave_nothing(rig: Make) -> None:
    """Afterwards the next one who asks begins anew, also where a wait was cut off."""
    here = rig()
    here.host.on_upload = lambda number: reply(500) if number == 1 else None
    reference = await here.take()
    with anyio.move_on_after(11):
        await here.links(*[reference] * 5)
    assert len(here.host.begun) == 1
    assert here.host.running == 0
    assert "/2/" in await here.uploader.link(reference)
