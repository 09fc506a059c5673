"""The house: opening and closing, and calls that outlive their callers just as long as they must."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import attrs
import pytest
from support import KEY, picture, until

from kie_mj_async import durations_file
from kie_mj_async.account import MemorySlots, Window
from kie_mj_async.engine import house as house_module
from kie_mj_async.engine.hints import HintDesk
from kie_mj_async.engine.house import House, Shared
from kie_mj_async.engine.throttling import OwnThrottling
from kie_mj_async.errors import LedgerError, NotSent, ReplyLost
from kie_mj_async.jobs import Job
from kie_mj_async.ledger import Attempt, Ledger, MemoryLedger, SqliteLedger
from kie_mj_async.receiver import Notice
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules import lifecycle
from kie_mj_async.rules.callbacks import Callback
from kie_mj_async.rules.kinds import Kind
from kie_mj_async.rules.pacing import Rate
from kie_mj_async.secret import Secret
from kie_mj_async.settings import Settings

pytestmark = pytest.mark.anyio
SETTINGS = Settings(key=Secret(KEY), base_url="http://127.0.0.1:1", host="test")


async def open_house(**options: object) -> House:
    house = House(SETTINGS, **options)  # type: ignore[arg-type]
    await house.open()
    return house


async def test_what_it_holds() -> None:
    """Without a state directory or a ledger file it remembers in memory only."""
    house = await open_house()
    assert isinstance(house.ledger, MemoryLedger)
    assert isinstance(house.admission._window._store, MemorySlots)
    await house.close()


async def test_what_a_fleet_has_in_common_takes_the_place_of_its_own() -> None:
    window = Window(MemorySlots(), Rate(3, 1), gives_up_after=1)
    throttling = OwnThrottling(5)
    house = await open_house(shared=Shared(window, throttling, lambda: False))
    assert house.admission.rate == Rate(3, 1)
    assert house.admission.places == 5
    with anyio.move_on_after(0.2) as scope:
        await house.admission.enter(25)
    assert scope.cancelled_caught, "without a licence nothing may be sent"
    await house.close()


async def test_uploads_go_where_the_settings_say() -> None:
    """The transport knows the upload host and how long a transfer may be stuck."""
    house = House(attrs.evolve(SETTINGS, upload_url="http://127.0.0.1:2", stall_timeout=7.0))
    assert house.transport.upload_url == "http://127.0.0.1:2"
    assert house.transport._stall_timeout == 7.0


async def test_a_call_gives_its_result_or_its_error() -> None:
    """A call runs in a task of the house, and hands over what comes of it."""
    house = await open_house()
    where: list[object] = []

    async def double(number: int) -> int:
        where.append(asyncio.current_task())
        await anyio.lowlevel.checkpoint()
        return 2 * number

    async def fail() -> None:
        raise NotSent("no")

    assert await house.call(double, 21) == 42
    assert where != [asyncio.current_task()]
    with pytest.raises(NotSent):
        await house.call(fail)
    assert await house.call(double, 4) == 8
    await house.close()


async def test_cancelling_a_caller_cancels_its_call() -> None:
    """What may be cut off ends with its caller."""
    house = await open_house()
    started, ended = anyio.Event(), anyio.Event()

    async def work() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    caller = asyncio.create_task(house.call(work))
    await started.wait()
    caller.cancel()
    with anyio.fail_after(5):
        await ended.wait()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await house.close()


async def test_what_is_shielded_ends_before_the_house_closes() -> None:
    """A shielded part goes on without its caller, and closing waits for it."""
    house = await open_house()
    started, done = anyio.Event(), False

    async def work() -> None:
        nonlocal done
        with anyio.CancelScope(shield=True):
            started.set()
            await anyio.sleep(0.05)
            done = True

    caller = asyncio.create_task(house.call(work))
    await started.wait()
    caller.cancel()
    await asyncio.wait([caller])
    assert not done
    await house.close()
    assert done


async def test_an_error_without_a_caller_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An error that nobody waits for any more is logged, and hurts nothing else."""
    house = await open_house()
    started, go = anyio.Event(), anyio.Event()

    async def work() -> None:
        with anyio.CancelScope(shield=True):
            started.set()
            await go.wait()
        raise NotSent("too late")

    caller = asyncio.create_task(house.call(work))
    await started.wait()
    caller.cancel()
    await asyncio.wait([caller])
    with caplog.at_level(logging.WARNING):
        go.set()
        await house.close()
    assert "after its caller had gone: too late" in caplog.text


async def test_closing_in_a_cancelled_scope_is_complete() -> None:
    """A caller that is being cancelled still finds the house closed when ``close`` returns."""
    house = await open_house()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await house.close()
    assert house._keeper is not None
    assert house._keeper.done()


async def test_a_ledger_that_cannot_be_opened(tmp_path: Path) -> None:
    """A house that cannot open raises, and leaves no task behind."""
    (tmp_path / "file").write_text("")
    before = asyncio.all_tasks()
    with pytest.raises(LedgerError):
        await open_house(ledger_path=tmp_path / "file" / "x.sqlite3")
    assert asyncio.all_tasks() == before


async def test_a_crash_is_found_when_the_ledger_is_opened(tmp_path: Path) -> None:
    """Jobs that a dead process left inside a create are unresolved once the house is open."""
    path = tmp_path / "app.sqlite3"
    ledger = await SqliteLedger.open(path, "test")
    job = await ledger.add("k", TextToImage("a fox"))
    await ledger.record(job, lifecycle.intent(datetime.now(UTC), 25))
    await ledger.aclose()
    house = await open_house(ledger_path=path)
    stored = await house.ledger.get("k")
    await house.close()
    assert stored is not None
    assert stored.state == "unresolved"


async def test_waits_scale_with_the_service() -> None:
    """A simulator that runs faster is polled faster, in the same proportion."""
    house = House(attrs.evolve(SETTINGS, time_scale=0.1, rate=Rate(20, 1.0)))
    assert house.poller._budget.ceiling == pytest.approx(50)


# --- Callbacks and local images ------------------------------------------------------------------

TOKEN = "a" * 32


def notice(task_id: str = "t1", token: str | None = TOKEN) -> Notice:
    return Notice(Callback(task_id), signed=True, token=token)


async def lost_job(ledger: Ledger) -> Job:
    """An unresolved job whose create carried the token."""
    job = await ledger.add("k", TextToImage("a fox", callback_url="http://h.test/x"))
    job = await ledger.record(job, lifecycle.intent(datetime.now(UTC), 25, TOKEN))
    return await ledger.record(job, lifecycle.lost(ReplyLost("gone")))


async def test_a_callback_wakes_and_is_handed_to_every_desk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each ledger that is at work is asked for the token, in its own task; without one, none is."""
    house = await open_house()
    taken: list[tuple[HintDesk, str, str]] = []

    async def take(desk: HintDesk, token: str, task_id: str) -> None:
        taken.append((desk, token, task_id))

    monkeypatch.setattr(HintDesk, "take", take)
    other = house.new_pipeline(MemoryLedger(), house.inputs)
    async with house.taking_hints(other) as desk:
        await house.deliver(notice())
        await house.deliver(notice(token=None))
        await anyio.lowlevel.checkpoint()
        assert {id(one) for one, _, _ in taken} == {id(desk), id(house.hints)}
        assert [named for _, *named in taken] == 2 * [[TOKEN, "t1"]]
        assert "t1" in house.poller._early
    taken.clear()
    await house.deliver(notice())
    await anyio.lowlevel.checkpoint()
    assert [one for one, _, _ in taken] == [house.hints]
    await house.close()
    await house.deliver(notice())
    assert len(taken) == 1


async def test_whether_a_token_is_known() -> None:
    """Any ledger at work may know it; one that is busy, or broken, keeps nobody waiting."""
    house = await open_house()
    await lost_job(house.ledger)

    class Busy(MemoryLedger):
        async def by_token(self, token: str) -> Attempt | None:
            await anyio.sleep(0.2)
            return None

    class Broken(MemoryLedger):
        async def by_token(self, token: str) -> Attempt | None:
            raise LedgerError("disk")

    busy = house.new_pipeline(Busy(), house.inputs)
    broken = house.new_pipeline(Broken(), house.inputs)
    async with house.taking_hints(broken), house.taking_hints(busy):
        with anyio.fail_after(0.1):
            assert await house.knows(TOKEN)
        assert not await house.knows("b" * 32)
    await house.close()
    assert not await house.knows(TOKEN)


async def test_a_hint_that_fails_hurts_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong with a hint is logged; the house goes on."""
    house = await open_house()
    job = await lost_job(house.ledger)

    async def fail(_token: str) -> Attempt | None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(house.ledger, "by_token", fail)
    await house.deliver(notice())
    await anyio.lowlevel.checkpoint()

    async def one() -> int:
        return 1

    assert await house.call(one) == 1
    assert "could not be followed" in caplog.text
    assert await house.ledger.get(job.key) == job
    await house.close()


async def test_callbacks_are_promised_for_what_is_made_while_listening() -> None:
    """Only a task with a callback that was created since then is polled at leisure."""
    house = await open_house()
    born = house.clock.now()
    job = Job(key="k", request=TextToImage("a fox", callback_url="http://h.test/x"))
    assert not house.promised(attrs.evolve(job, created_at=born))
    house.listen()
    since = house._listening_since
    assert since is not None
    house.listen()
    assert (house.listening, house._listening_since) == (True, since)
    assert not house.promised(attrs.evolve(job, created_at=since - timedelta(seconds=1)))
    assert not house.promised(job)  # nobody knows when
    assert house.promised(attrs.evolve(job, created_at=since))
    plain = attrs.evolve(job, request=TextToImage("a fox"), created_at=since)
    assert not house.promised(plain)
    await house.close()


@pytest.mark.parametrize("durable", [True, False])
async def test_where_local_images_are_kept(tmp_path: Path, durable: bool) -> None:
    """Beside the ledger, if there is one; else for as long as the house is open."""
    path = tmp_path / "app.sqlite3" if durable else None
    house = await open_house(ledger_path=path)
    await house.inputs.take(picture())
    folder = house.inputs.folder
    assert len(list(folder.iterdir())) == 1
    if durable:
        assert folder == tmp_path / "app.sqlite3.inputs"
    await house.close()
    assert folder.exists() is durable


FOX = Kind("mj_txt2img", "fast")


async def test_what_was_learned_is_there_next_time(tmp_path: Path) -> None:
    """Kept when the house closes, for the next of the same host and for no other."""
    settings = attrs.evolve(SETTINGS, state_dir=tmp_path)
    first = House(settings)
    await first.open()
    first.forecast.observe(FOX, 61.0)
    await first.close()
    again, other = House(settings), House(attrs.evolve(settings, host="other"))
    for house in (again, other):
        await house.open()
    assert again.forecast.durations.seconds(FOX) == pytest.approx([61.0])
    assert other.forecast.durations.kinds() == []
    for house in (again, other):
        await house.close()
    assert len(list((tmp_path / "forecast").glob("*.json"))) == 1


async def test_what_was_learned_is_kept_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a run that will be killed; two of a host keep what both have learned."""
    monkeypatch.setattr(house_module, "KEEP_EVERY", 0.01)
    settings = attrs.evolve(SETTINGS, state_dir=tmp_path)
    houses = House(settings), House(settings)
    path = durations_file.path_of(tmp_path, settings.host)

    def kept(number: int) -> bool:
        return len(durations_file.load(path).seconds(FOX)) == number

    for house in houses:
        await house.open()
    for number, house in enumerate(houses, 1):
        house.forecast.observe(FOX, 61.0)
        await until(partial(kept, number))
    for house in houses:
        await house.close()
    assert len(durations_file.load(path).seconds(FOX)) == 2


async def test_a_run_that_learned_nothing_leaves_no_file(tmp_path: Path) -> None:
    """Nor does one without a state directory."""
    settings = attrs.evolve(SETTINGS, state_dir=tmp_path)
    house = House(settings)
    await house.open()
    await house.close()
    assert not (tmp_path / "forecast").exists()
    house = await open_house()
    house.forecast.observe(FOX, 61.0)
    await house.close()
