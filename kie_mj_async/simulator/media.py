"""The bytes of results: pictures drawn on demand, clips read from the package.

A thin shell that keeps drawing and reading off the event loop and remembers the last few files.
What a picture looks like is ``pictures.py``; who may fetch it is ``world.py``.
"""

from __future__ import annotations

from collections import OrderedDict
from importlib import resources
from typing import Final

from anyio import CapacityLimiter, to_thread

from . import chance, pictures
from .tasks import Task

KEPT: Final = 48
"""Files remembered: about 4 MB of pictures at full size."""


class Media:
    """Makes and remembers files.

    Args:
        side: Pixels of a picture's longer side; an upscale has twice as many.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self._limiter = CapacityLimiter(2)
        self._kept: OrderedDict[object, bytes] = OrderedDict()
        self._clips: list[bytes] = []

    async def content(self, task: Task, index: int, *, changed: bool = False) -> bytes:
        """A result's bytes.

        Args:
            task: The task.
            index: Which of its results.
            changed: Another file than the right one.
        """
        source = task.source[index]
        if task.video:
            return await self._clip(source, changed=changed)
        source += "/changed" if changed else ""
        width, height = pictures.size(task.shape, self.side * (2 if task.enlarged else 1))
        detail = self.side if task.enlarged else 0
        sketch = pictures.Sketch(task.prompt, source, width, height, detail)
        known = self._kept.get(sketch)
        if known is None:
            known = await to_thread.run_sync(pictures.draw, sketch, limiter=self._limiter)
            self._kept[sketch] = known
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(sketch)
        return known

    async def _clip(self, source: str, *, changed: bool) -> bytes:
        if not self._clips:
            self._clips = await to_thread.run_sync(_read_clips, limiter=self._limiter)
        number = int(chance.digest(source, size=4), 16)
        return self._clips[(number + changed) % len(self._clips)]


# The clips were made once, from four of the package's own pictures at 1280 x 720 (one each of ridges,
# waves, worlds and blooms): 48 frames that zoom in by a sixth, scaled to 320 x 180, then ffmpeg with
# libx264, veryslow, 24 frames a second, yuv420p, faststart, and the lowest even -crf from 30 on that
# gives less than 13.5 kB.
def _read_clips() -> list[bytes]:
    folder = resources.files(__package__).joinpath("clips")
    clips = sorted(one.name for one in folder.iterdir() if one.name.endswith(".mp4"))
    return [folder.joinpath(name).read_bytes() for name in clips]
