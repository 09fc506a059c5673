"""What a job sends: links of uploads, tasks of the job before it, and when it cannot be sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from support import VIRTUAL, Rig, picture

from kie_mj_async.engine.preparing import Preparer, take_in, taken_in
from kie_mj_async.errors import InvalidRequest, KieError, NotSent, ServerError, TaskFailed
from kie_mj_async.fields import KEPT
from kie_mj_async.inputs import Inputs
from kie_mj_async.jobs import Job, State
from kie_mj_async.requests import (
    ChainStep,
    Extend,
    ImageToImage,
    ImageToVideo,
    OmniReference,
    Request,
    TextToImage,
    Upscale,
    Vary,
)
from kie_mj_async.rules import bodies, lifecycle
from kie_mj_async.rules.chains import LINK_LIFE
from kie_mj_async.rules.wire import Record, Status

pytestmark = pytest.mark.anyio
A, B = f"input:{'a' * 64}.png", f"input:{'b' * 64}.png"
LINK = "https://files.test/x.png"
URLS = ("http://files.test/0", "http://files.test/1")


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL


async def parent(rig: Rig, state: State = State.SUCCEEDED, *, age: float | None = 0.0) -> Job:
    """A job in this state, whose task ended so many seconds ago."""
    job = await rig.ledger.add("p", TextToImage("a fox"))
    if state is State.PLANNED:
        return job
    job = await rig.accept(job, "t1")
    if state is State.RUNNING:
        return job
    if state is State.FAILED:
        return await rig.ledger.record(job, lifecycle.failed(TaskFailed("nsfw")))
    now = rig.clock.now()
    ended = None if age is None else now - timedelta(seconds=age)
    done = lifecycle.succeeded(
        URLS, created_at=None, completed_at=ended, expires_at=now + timedelta(days=13)
    )
    return await rig.ledger.record(job, done)


async def a_step(rig: Rig, kind: str = "upscale", index: int = 1, words: str = "") -> Job:
    own = bool(words)
    step = ChainStep(kind, "p", index, words or "a fox", own_words=own, watermark="mine")
    return await rig.ledger.add(f"{kind}-{index}", step)


# --- Steps of chains -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words", "sent"),
    [
        ("upscale", "", Upscale("t1", 1, watermark="mine")),
        ("vary", "", Vary("t1", 1, watermark="mine")),
        ("extend", "", Extend("t1", 1, watermark="mine")),
        ("extend", "on and on", Extend("t1", 1, prompt="on and on", watermark="mine")),
        ("video", "", ImageToVideo("a fox", image=URLS[1], watermark="mine")),
        (
            "video-hd",
            "a pan --motion low",
            ImageToVideo("a pan", image=URLS[1], watermark="mine", hd=True, motion="low"),
        ),
    ],
)
async def test_a_step_is_about_the_task_before_it(kind: str, words: str, sent: Request) -> None:
    """A step sends its parent's task and index, or the link to the result; flags are fields."""
    rig = Rig()
    await parent(rig)
    assert await rig.pipeline.preparer.ready(await a_step(rig, kind, words=words)) == sent


@pytest.mark.parametrize(
    ("age", "minted"),
    [
        (LINK_LIFE.total_seconds() - 60, False),
        (LINK_LIFE.total_seconds() + 60, True),
        (None, True),
    ],
)
async def test_a_link_that_may_have_died_is_replaced(age: float | None, minted: bool) -> None:
    """The parent's own link is sent while it is young; a fresh one when it is old, or of no age."""
    rig = Rig()
    await parent(rig, age=age)
    sent = await rig.pipeline.preparer.ready(await a_step(rig, "video"))
    assert isinstance(sent, ImageToVideo)
    assert sent.image == URLS[1] + ("?fresh" if minted else "")
    assert rig.service.minted == ([URLS[1]] if minted else [])


@pytest.mark.parametrize("error", [NotSent("down"), ServerError("no", code=500)])
async def test_the_links_own_life_where_none_can_be_minted(error: KieError) -> None:
    """When no fresh link can be had the old one is sent: it may live."""
    rig = Rig()
    rig.service.on_link = lambda _url: error
    await parent(rig, age=10 * 86400)
    sent = await rig.pipeline.preparer.ready(await a_step(rig, "video"))
    assert isinstance(sent, ImageToVideo)
    assert sent.image == URLS[1]


async def test_only_videos_want_links() -> None:
    """Other steps name the task, however old it is."""
    rig = Rig()
    await parent(rig, age=10 * 86400)
    await rig.pipeline.preparer.ready(await a_step(rig, "upscale"))
    assert rig.service.minted == []


@pytest.mark.parametrize("kind", ["upscale", "video"])
async def test_a_result_that_is_not_there(kind: str) -> None:
    """A step for a result that its parent does not have can never be sent."""
    rig = Rig()
    await parent(rig, age=10 * 86400)
    with pytest.raises(InvalidRequest, match="job p has 2 results, and none with index 3"):
        await rig.pipeline.preparer.ready(await a_step(rig, kind, index=3))


async def test_a_step_behind_a_failure() -> None:
    """A step whose parent failed cannot be made, and says why."""
    rig = Rig()
    await parent(rig, State.FAILED)
    with pytest.raises(TaskFailed, match="the job before it, p, is failed: nsfw") as caught:
        await rig.pipeline.preparer.ready(await a_step(rig))
    assert caught.value.billed == "no"


@pytest.mark.parametrize("state", [State.PLANNED, State.RUNNING])
async def test_a_step_whose_turn_has_not_come(state: State) -> None:
    """A step whose parent is on its way cannot be sent now, and is not refused for good."""
    rig = Rig()
    await parent(rig, state)
    with pytest.raises(KieError, match=f"waits for job p, which is {state}") as caught:
        await rig.pipeline.preparer.ready(await a_step(rig))
    assert not isinstance(caught.value, InvalidRequest | TaskFailed)


async def test_a_step_without_a_parent() -> None:
    """A step whose parent is not in the ledger is refused, and matches no task."""
    rig = Rig()
    step = await a_step(rig)
    with pytest.raises(InvalidRequest, match="the job before it, p, is not in this ledger"):
        await rig.pipeline.preparer.ready(step)
    with pytest.raises(InvalidRequest, match="the job before it, p, is not in this ledger"):
        await rig.pipeline.preparer.differences(step, Record("t9", Status.SUCCEEDED, 1))


# --- Local images --------------------------------------------------------------------------------


async def test_kept_images_become_links() -> None:
    """Each kept image is uploaded, once for a request; links stay as they are, and in their order."""
    rig = Rig()
    request = OmniReference("a fox", images=[A, LINK, B, A])
    job = await rig.ledger.add("k", request)
    sent = await rig.pipeline.preparer.ready(job)
    assert isinstance(sent, OmniReference)
    assert sent.images == (
        f"http://up.test/{A}",
        LINK,
        f"http://up.test/{B}",
        f"http://up.test/{A}",
    )
    assert rig.service.uploads == [A, B]
    assert job.request == request


async def test_a_refused_image() -> None:
    """What the upload says of an image is passed on."""
    rig = Rig()
    rig.service.on_upload = lambda _name: InvalidRequest("image: no picture")
    job = await rig.ledger.add("k", ImageToVideo("a fox", image=A))
    with pytest.raises(InvalidRequest, match="no picture"):
        await rig.pipeline.preparer.ready(job)


async def test_without_anybody_who_uploads() -> None:
    """A preparer without an uploader refuses a kept image, and only that."""
    rig = Rig()
    preparer = Preparer(rig.ledger, rig.service, rig.clock)
    assert await preparer.ready(await rig.ledger.add("a", TextToImage("a fox"))) == TextToImage(
        "a fox"
    )
    with pytest.raises(InvalidRequest, match="nobody uploads"):
        await preparer.ready(await rig.ledger.add("b", ImageToImage("a fox", image=A)))


async def test_local_images_are_taken_in(tmp_path: Path) -> None:
    """A request refers to its images by content, in their fields; links are left."""
    inputs = Inputs(tmp_path / "inputs")
    path = tmp_path / "fox.png"
    path.write_bytes(picture(1))
    one = await take_in(ImageToVideo("a fox", image=path), inputs)
    assert isinstance(one, ImageToVideo)
    assert isinstance(one.image, str)
    assert KEPT.fullmatch(one.image)
    many = await take_in(OmniReference("a fox", images=[picture(2), LINK, path]), inputs)
    assert isinstance(many, OmniReference)
    assert many.images[1:] == (LINK, one.image)
    assert many.images[0] != one.image
    assert len(list((tmp_path / "inputs").iterdir())) == 2
    plain = TextToImage("a fox")
    assert await take_in(plain, inputs) is plain


async def test_a_list_is_taken_in_one_by_one(tmp_path: Path) -> None:
    """A list's images are taken in as it is read, and a bad one is an error that names it."""
    inputs = Inputs(tmp_path / "inputs")
    read: list[str] = []

    async def listed() -> AsyncIterator[Request]:
        for name in ("a", "b"):
            read.append(name)
            yield ImageToVideo(name, image=picture(1))
        yield ImageToVideo("c", image=tmp_path / "gone.png")

    taken = taken_in(listed(), inputs)
    assert (await anext(taken)).prompt == "a"
    assert read == ["a"]
    assert (await anext(taken)).prompt == "b"
    with pytest.raises(InvalidRequest, match=r"gone\.png"):
        await anext(taken)


# --- Whether a task is a job's -------------------------------------------------------------------


def record(request: Request, **changes: object) -> Record:
    body = {**bodies.call_of(request).body, **changes}
    return Record("t9", Status.SUCCEEDED, 1, task_type=request.task_type, params=body)


async def test_a_task_is_compared_with_what_the_job_sends() -> None:
    """A step's task is the parent's, the words and the kind; a link may be any that worked."""
    rig = Rig()
    await parent(rig)
    differences = rig.pipeline.preparer.differences
    upscale, video = await a_step(rig), await a_step(rig, "video")
    assert await differences(upscale, record(Upscale("t1", 1, watermark="mine"))) == []
    assert await differences(upscale, record(Upscale("t1", 0, watermark="mine"))) == [
        "imageIndex is 0, not 1"
    ]
    assert await differences(upscale, record(Vary("t1", 1, watermark="mine"))) == [
        "taskType is mj_vary, not mj_upscale"
    ]
    same = ImageToVideo("a fox", image=URLS[1] + "?fresh", watermark="mine")
    assert await differences(video, record(same)) == []
    assert await differences(video, record(same, prompt="an owl")) != []
    fox = await rig.ledger.add("fox", TextToImage("a fox --ar 2:1"))
    assert await differences(fox, record(TextToImage("a fox", aspect_ratio="2:1"))) == []
    assert await differences(fox, record(TextToImage("a fox", aspect_ratio="1:2"))) != []
