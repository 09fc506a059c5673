"""What a run begins with: a list taken in whole or not at all, and what jobs come to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kie_mj_async.engine.staging import CHUNK, each, stage, survey
from kie_mj_async.errors import InvalidRequest
from kie_mj_async.events import Planned
from kie_mj_async.jobs import State
from kie_mj_async.ledger import Ledger, MemoryLedger, SqliteLedger
from kie_mj_async.ledger.base import jobs_in
from kie_mj_async.requests import ExistingTask, Request, TextToImage
from kie_mj_async.rules import lifecycle
from kie_mj_async.rules.billing import Prices

pytestmark = pytest.mark.anyio
PRICES = Prices(25, {"mj_txt2img": {"turbo": 50}, "mj_upscale": {"default": 5}})


def foxes(number: int) -> Iterator[Request]:
    return (TextToImage(f"fox {n}") for n in range(number))


async def slowly(*requests: Request) -> AsyncIterator[Request]:
    for request in requests:
        yield request


async def planned(ledger: MemoryLedger) -> list[str]:
    return [job.prompt async for job in jobs_in(ledger, State.PLANNED)]


async def test_what_a_list_comes_to() -> None:
    """New jobs, steps of chains among them, and what all of that costs; a known task costs nothing."""
    ledger = MemoryLedger()
    seen: list[Request] = []
    listed = [
        TextToImage("a fox --turbo"),
        TextToImage("an owl", then=["upscale:0,1"]),
        ExistingTask("t1"),
    ]
    run, told = await stage(ledger, listed, PRICES, seen.append)
    assert (run, told) == (1, Planned(5, 0, 0, cost=50 + 25 + 2 * 5, steps=2))
    assert [one.task_type for one in seen] == ["mj_txt2img"] * 2 + ["mj_upscale"] * 2 + [""]


async def test_what_an_earlier_run_has_begun_is_known() -> None:
    """Jobs that are on their way cost nothing more, and are told apart from those that have ended."""
    ledger = MemoryLedger()
    await stage(ledger, foxes(3), PRICES)
    at = datetime(2027, 1, 15, tzinfo=UTC)
    first, second, _ = await ledger.scan(0, 3)
    for job in (first, second):
        await ledger.record(job, lifecycle.intent(at, 25))
    await ledger.record(first, lifecycle.accepted("t1", at))
    await ledger.record(second, lifecycle.rejected(InvalidRequest("no")))
    run, told = await stage(ledger, foxes(4), PRICES)
    assert (run, told) == (2, Planned(2, 2, 1, cost=50, made=0))


@pytest.mark.parametrize("number", [0, 1, CHUNK, 2 * CHUNK + 1])
async def test_a_list_of_any_length_is_taken_in_in_its_order(number: int) -> None:
    """Whatever the number of chunks, every request is there once."""
    ledger = MemoryLedger()
    _, told = await stage(ledger, slowly(*foxes(number)), PRICES)
    assert told == Planned(number, 0, 0, cost=25 * number)
    assert await planned(ledger) == [f"fox {n}" for n in range(number)]


async def test_a_bad_entry_leaves_nothing_behind() -> None:
    """What fails behind the first chunk undoes that one too."""
    ledger = MemoryLedger()

    def broken() -> Iterator[Request]:
        yield from foxes(CHUNK + 3)
        raise InvalidRequest("prompt: is missing")

    with pytest.raises(InvalidRequest):
        await stage(ledger, broken(), PRICES)
    assert await planned(ledger) == []


@pytest.mark.parametrize("on_disk", [True, False])
async def test_what_a_ledger_holds_comes_to(tmp_path: Path, on_disk: bool) -> None:
    """The same as if each job were looked at, but those that are alike are looked at once."""
    at = datetime(2027, 1, 15, tzinfo=UTC)
    ledger: Ledger = MemoryLedger()
    if on_disk:
        ledger = await SqliteLedger.open(tmp_path / "ledger.sqlite3", "test")
    listed = [
        *foxes(2500),
        *(TextToImage(f"owl {n} --turbo", then="upscale:0") for n in range(30)),
        *(ExistingTask(f"t{n}") for n in range(3)),
    ]
    _, told = await stage(ledger, listed, PRICES)
    assert told == Planned(2563, 0, 0, cost=25 * 2500 + 50 * 30 + 5 * 30, steps=30)
    first, second, third, *_ = await ledger.scan(0, 9)
    ended = lifecycle.succeeded(("http://x/0",), created_at=at, completed_at=at, expires_at=at)
    begun = (lifecycle.intent(at, 25), lifecycle.accepted("t", at), ended)
    for number, job in enumerate((first, second, third), start=1):
        for move in begun[:number]:
            await ledger.record(job, move)
    seen: list[tuple[Request, int]] = []
    found = await survey(ledger, PRICES, lambda request, number: seen.append((request, number)))
    assert found == Planned(2560, 3, 1, cost=told.cost - 75, accepted=2, made=1)
    assert sum(number for _, number in seen) == 2560
    assert len(seen) < 20
    await ledger.aclose()


async def test_the_items_of_any_iterable() -> None:
    """Lists and asynchronous generators read the same."""
    wanted = list(foxes(3))
    assert [one async for one in each(wanted)] == wanted
    assert [one async for one in each(slowly(*wanted))] == wanted
