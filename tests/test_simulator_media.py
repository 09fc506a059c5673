"""The bytes of results."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from kie_mj_async.simulator.contract import GENERATE, UPSCALE
from kie_mj_async.simulator.media import KEPT, Media
from kie_mj_async.simulator.tasks import Task, new_task

pytestmark = pytest.mark.anyio


def make(number: int = 1, parent: Task | None = None, **body: Any) -> Task:
    base = {"taskType": "mj_txt2img", "prompt": "a fox"}
    given = {"taskId": "x", "imageIndex": 1} if parent else base | body
    path = UPSCALE if parent else GENERATE
    return new_task(0, number, path, given, parent=parent, fault=None, now=0, time_scale=1)


async def test_pictures_are_remembered() -> None:
    """A picture is drawn once as long as it is among the last few."""
    media = Media(16)
    task = make()
    first = await media.content(task, 0)
    assert await media.content(task, 0) is first
    for number in range(2, KEPT // 4 + 4):
        for index in range(4):
            await media.content(make(number), index)
    assert len(media._kept) == KEPT
    again = await media.content(task, 0)
    assert again is not first
    assert again == first


async def test_an_upscale_is_larger() -> None:
    """An upscale has twice the pixels on a side."""
    media = Media(32)
    parent = make(aspectRatio="2:1")
    content = await media.content(make(2, parent), 0)
    assert Image.open(io.BytesIO(content)).size == (64, 32)


@pytest.mark.parametrize("prompt", ["a fox", *"abcdefgh"])
async def test_an_upscale_is_the_same_drawing(prompt: str) -> None:
    """Made small again, an upscale is nearer to its parent's picture than any sister is."""
    media = Media(96)
    parent = make(prompt=prompt)
    larger = Image.open(io.BytesIO(await media.content(make(2, parent), 0))).resize((96, 96))
    away = []
    for index in range(4):
        sister = Image.open(io.BytesIO(await media.content(parent, index)))
        means = ImageStat.Stat(ImageChops.difference(larger, sister)).mean
        away.append(sum(means))
    assert away.index(min(away)) == 1
    assert away[1] < 0.7 * sorted(away)[1]


async def test_videos_are_videos() -> None:
    """A video is an MP4 file with an index, of a few kilobytes; not all are the same."""
    media = Media(32)
    seen = {
        await media.content(make(number, taskType="mj_video", videoBatchSize=4), index)
        for number in range(1, 9)
        for index in range(4)
    }
    assert len(seen) == 4
    for content in seen:
        assert content[4:8] == b"ftyp"
        assert b"moov" in content
        assert b"avc1" in content
        assert len(content) < 15_000


@pytest.mark.parametrize("kind", ["mj_txt2img", "mj_video"])
async def test_a_changed_file_is_another(kind: str) -> None:
    """What the fault sends instead is a good file too, but never the right one."""
    media = Media(32)
    for number in range(1, 6):
        task = make(number, taskType=kind)
        assert await media.content(task, 0) != await media.content(task, 0, changed=True)
