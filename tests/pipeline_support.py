"""What tests of the road share: a job to take down it."""

from __future__ import annotations

from support import Rig, WatchedLedger

from kie_mj_async.jobs import Job
from kie_mj_async.requests import TextToImage

FOX = TextToImage("a fox")


async def planned(rig: Rig, key: str = "job") -> Job:
    """A job that was not sent yet."""
    return await rig.ledger.add(key, FOX)


def watched(rig: Rig) -> WatchedLedger:
    """The rig's ledger, to be broken."""
    assert isinstance(rig.ledger, WatchedLedger)
    return rig.ledger
