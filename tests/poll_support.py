"""What the tests of the poll loop share."""

from __future__ import annotations

import random

import anyio
from support import Made, Rig

from kie_mj_async.requests import TextToImage
from kie_mj_async.rules.kinds import Kind

KIND = Kind("mj_txt2img")
FOX = TextToImage("a fox")


def teach(rig: Rig, kind: Kind = KIND, seconds: float = 60.0) -> None:
    """Let the forecast know what a class takes."""
    chance = random.Random(1)
    for _ in range(40):
        rig.forecast.observe(kind, chance.gauss(seconds, 0.03 * seconds))


def waiting(rig: Rig, kind: Kind = KIND) -> int:
    """Tasks of a class that the forecast thinks of."""
    return rig.forecast._class(kind).ages.count


async def tell(rig: Rig, task: Made, after: float = 0.5) -> None:
    """The service's callback, some time after the task's end."""
    await anyio.sleep(task.created + task.lasts + after - rig.now)
    rig.poller.wake(task.id)
