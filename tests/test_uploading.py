"""Local images to a real simulator, over sockets: once for many jobs, whatever goes wrong."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from support import KEY, SCALE, picture, simulated

from kie_mj_async.engine.clock import Clock
from kie_mj_async.engine.uploads import Uploader
from kie_mj_async.errors import AuthenticationError, InvalidRequest, KieError, MalformedReply
from kie_mj_async.inputs import Inputs
from kie_mj_async.requests import ImageToImage
from kie_mj_async.rules import uploads
from kie_mj_async.rules.billing import Accepted, judge
from kie_mj_async.rules.uploads import Upload
from kie_mj_async.rules.wire import Status
from kie_mj_async.secret import Secret
from kie_mj_async.simulator import KINDS, Simulator
from kie_mj_async.transport import Transport

pytestmark = pytest.mark.anyio


class Notes:
    """A book in memory."""

    def __init__(self) -> None:
        self.uploads: dict[str, Upload] = {}

    async def upload_of(self, name: str) -> Upload | None:
        return self.uploads.get(name)

    async def note_upload(self, upload: Upload) -> None:
        self.uploads[upload.name] = upload


@attrs.define
class Setup:
    """A simulator, and all that an upload to it needs."""

    sim: Simulator
    api: Transport
    inputs: Inputs
    uploader: Uploader

    async def link(self, shade: int = 0) -> str:
        return await self.uploader.link(await self.inputs.take(picture(shade)))

    async def make(self, link: str) -> Status:
        """What becomes of a task made with this link."""
        verdict = judge(await self.api.create(ImageToImage("a fox", image=link)))
        assert isinstance(verdict, Accepted)
        self.sim.world.finish(verdict.task_id)
        return (await self.api.record(verdict.task_id)).status

    @property
    def books(self) -> dict[str, Any]:
        return self.sim.books()


@asynccontextmanager
async def setup(
    folder: Path,
    faults: str = "",
    *,
    clock: Clock | None = None,
    request_timeout: float = 10.0,
    **sim: Any,
) -> AsyncIterator[Setup]:
    clock = clock or Clock()
    async with (
        simulated(faults, clock=clock.wall, **sim) as simulator,
        Transport(simulator.url, Secret(KEY), request_timeout=request_timeout) as api,
    ):
        inputs = Inputs(folder / "inputs")
        uploader = Uploader(inputs, api, Notes(), clock, time_scale=SCALE)
        yield Setup(simulator, api, inputs, uploader)


async def test_one_upload_for_many_jobs(tmp_path: Path) -> None:
    """A file that fifty jobs use is sent once, whole, and the service makes pictures with it."""
    cat = tmp_path / "cat.png"
    cat.write_bytes(picture(3, size=64))
    async with setup(tmp_path) as here:
        links: list[str] = []

        async def job() -> None:
            links.append(await here.uploader.link(await here.inputs.take(cat)))

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(job)
        assert len(set(links)) == 1
        (entry,) = here.books["uploads"]
        sha = hashlib.sha256(cat.read_bytes()).hexdigest()
        assert (entry["sha256"], entry["name"]) == (sha, f"{sha}.png")
        assert (entry["path"], entry["mime"]) == (f"kie-mj/{sha}.png", "image/png")
        cat.unlink()
        for link in links[:3]:
            assert await here.make(link) is Status.SUCCEEDED
        sent = [
            key["authorization"] for key in here.books["keys"] if key["prefix"] == uploads.UPLOAD
        ]
        assert sent == [True]


PASSING = [kind for kind in KINDS["upload"] if kind not in ("400", "401", "lost")]


@pytest.mark.parametrize("kind", PASSING)
async def test_what_goes_wrong_once_is_made_good(tmp_path: Path, kind: str) -> None:
    """After any passing fault there is a link that works; a harmless one costs no second upload."""
    patience = 1.0 if kind == "stall" else 10.0
    async with setup(tmp_path, f"upload.{kind}=#1", request_timeout=patience) as here:
        link = await here.link()
        assert await here.make(link) is Status.SUCCEEDED
        harmless = kind in ("slow", "string-code", "file-url", "both-urls")
        assert here.books["upload_total"] == (1 if harmless else 2)


async def test_most_uploads_failing_is_made_good(tmp_path: Path) -> None:
    """Half of them failing in any way, each image gets its link."""
    spec = ",".join(f"upload.{kind}=0.1" for kind in ("429", "455", "500", "html", "drop-reply"))
    async with setup(tmp_path, spec, seed=1) as here:
        links: set[str] = set()

        async def job(shade: int) -> None:
            links.add(await here.link(shade))

        async with anyio.create_task_group() as tasks:
            for shade in range(12):
                tasks.start_soon(job, shade)
        assert len(links) == 12
        assert here.books["upload_total"] > 12


@pytest.mark.parametrize(
    ("kind", "error", "tries"),
    [
        ("400", InvalidRequest, 1),
        ("401", AuthenticationError, 1),
        ("html", KieError, uploads.TRIES),
        ("no-url", MalformedReply, uploads.TRIES),
    ],
)
async def test_what_stays_wrong_is_an_error(
    tmp_path: Path, kind: str, error: type[KieError], tries: int
) -> None:
    """The image is at fault, or the run has to stop; nothing was created, nothing is charged."""
    async with setup(tmp_path, f"upload.{kind}=1.0") as here:
        with pytest.raises(error) as caught:
            await here.link()
        assert caught.value.billed == "no"
        assert KEY not in str(caught.value)
        assert isinstance(caught.value, InvalidRequest) is (kind == "400")
        assert here.books["upload_total"] == tries
        assert await here.api.credits() == 100_000


async def test_an_image_too_large_for_the_service(tmp_path: Path) -> None:
    """The service's own limit refuses the image, in its own words."""
    async with setup(tmp_path, upload_limit=100) as here:
        with pytest.raises(InvalidRequest, match=r"image: .*\.png: .*cannot be larger than 100"):
            await here.uploader.link(await here.inputs.take(picture(size=300)))


async def test_an_old_upload_is_made_again_before_it_is_gone(tmp_path: Path) -> None:
    """As the hours go by, a link that was given always works for another hour."""
    now = time.time()
    clock = Clock(wall=lambda: now)
    async with setup(tmp_path, clock=clock) as here:
        for _ in range(30):
            link = await here.link()
            now += 0.9 * 3600 * SCALE
            assert await here.make(link) is Status.SUCCEEDED
        assert here.books["upload_total"] == 2


async def test_a_large_image_arrives_whole(tmp_path: Path) -> None:
    """Tens of megabytes, byte for byte."""
    path = tmp_path / "big.png"
    end = picture()[-12:]
    with path.open("wb") as file:
        file.write(picture()[:-12])
        file.truncate(60 << 20)
        file.seek(0, 2)
        file.write(end)
    async with setup(tmp_path) as here:
        reference = await here.inputs.take(path)
        await here.uploader.link(reference)
        (entry,) = here.books["uploads"]
        assert entry["bytes"] == path.stat().st_size
        assert f"input:{entry['sha256']}.png" == reference
