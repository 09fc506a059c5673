"""A whole worker in this process: its books, its queue, its folders, and how it leaves."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from cluster_support import ask
from road_support import FOX, SCALE, Yard, hasten
from s3_support import Shelf, shelf_in
from support import KEY, scaled, simulated

from kie_mj_async.cluster import road, tending
from kie_mj_async.cluster import worker as worker_module
from kie_mj_async.cluster.engine import Engine
from kie_mj_async.cluster.serving import Work, serve
from kie_mj_async.errors import ConfigError, LedgerError, WriteFailed
from kie_mj_async.events import FileSaved
from kie_mj_async.jobs import State
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules import leases
from kie_mj_async.rules.lifecycle import SETTLED
from kie_mj_async.rules.pacing import Rate
from kie_mj_async.secret import Secret

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)
    monkeypatch.setattr(leases, "EVERY", 0.3)
    monkeypatch.setattr(worker_module, "AGAIN", 0.3)
    monkeypatch.setattr(tending, "EVERY", 0.2)


class Shop:
    """A yard with one worker in it.

    Attributes:
        joined: What it has joined as so far.
    """

    def __init__(self, yard: Yard) -> None:
        self.yard = yard
        self.joined: list[Engine] = []
        self.local = Path(yard.out).parent / "local" if "://" not in yard.out else Path()

    def work(self, **changes: Any) -> Work:
        yard = self.yard
        settings = scaled(yard.sim, yard.scale, request_timeout=2.0)
        return attrs.evolve(Work(yard.url, settings, yard.out, self.local, grace=3.0), **changes)

    @asynccontextmanager
    async def open(self, work: Work | None = None, **how: Any) -> AsyncIterator[anyio.Event]:
        """With the worker; it leaves at the end, within a bound."""
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def go() -> None:
                await serve(work or self.work(), stop=stop, joined=self.joined.append, **how)

            tasks.start_soon(go)
            await until(lambda: self.joined)
            yield stop
            stop.set()

    async def states(self, names: list[str]) -> set[State]:
        return {(await self.yard.job(name)).state for name in names}

    async def settled(
        self, names: list[str], within: float = 20.0, ends: Collection[State] = SETTLED
    ) -> set[State]:
        """Wait until these jobs have come to their ends; which those are."""
        with anyio.fail_after(within):
            # They end in the database, where nothing can be waited for.
            while not (states := await self.states(names)) <= {*ends}:  # noqa: ASYNC110
                await anyio.sleep(0.05)
        return states

    def trouble(self) -> str | None:
        """What the operators are told of it."""
        ((told,),) = ask(self.yard.url, "SELECT trouble FROM kie_mj.worker WHERE ended_at IS NULL")
        return None if told is None else str(told)


async def until(question: Callable[[], Any], within: float = 15.0) -> None:
    with anyio.fail_after(within):
        while not question():  # noqa: ASYNC110 - in other threads and processes
            await anyio.sleep(0.03)


@asynccontextmanager
async def shop_on(
    url: str, out: str, faults: str = "", scale: float = SCALE
) -> AsyncIterator[Shop]:
    async with simulated(faults, scale=scale) as sim:
        yield Shop(Yard(url, sim, out, scale))


@pytest.fixture
async def shop(queue_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    async with shop_on(queue_url, str(tmp_path / "out")) as made:
        made.local = tmp_path / "local"
        yield made


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    """An object store, and an environment that leads to it."""
    with shelf_in(tmp_path / "buckets") as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


# --- Its work -------------------------------------------------------------------------------------


async def test_it_renders_what_is_in_the_queue_and_leaves_nothing_behind(shop: Shop) -> None:
    names = await shop.yard.put_in(FOX, TextToImage("an owl", then=["upscale:0"]))
    async with shop.open():
        assert await shop.settled(names) == {State.SAVED}
    assert len(shop.yard.paid) == 3
    assert len(shop.yard.pictures()) == 9
    out = Path(shop.yard.out)
    assert sorted(path.name for path in out.iterdir()) == [".kie-mj", "b"]
    assert not [*out.glob(".kie-mj/workers/*"), *shop.local.glob("workers/*")]
    assert ask(shop.yard.url, "SELECT count(*) FROM kie_mj.worker WHERE ended_at IS NULL") == [(0,)]
    assert ask(shop.yard.url, "SELECT count(*) FROM kie_mj.slot WHERE ended_at IS NULL") == [(0,)]


async def test_operators_are_told_why_nothing_is_begun(queue_url: str, tmp_path: Path) -> None:
    async with shop_on(queue_url, str(tmp_path / "out"), "create.402=100%") as shop:
        names = await shop.yard.put_in(FOX)
        async with shop.open():
            await until(shop.trouble)
            assert "402" in (shop.trouble() or "")
            shop.yard.break_with("")
            assert await shop.settled(names) == {State.SAVED}
            await until(lambda: shop.trouble() is None)
        assert len(shop.yard.paid) == 1


@pytest.mark.slow
async def test_a_job_that_rests_is_put_in_again_and_saved(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(road, "REST_FIRST", 0.3)
    names = await shop.yard.put_in(FOX)
    shop.yard.break_with("download.404=100%")
    async with shop.open():
        await until(lambda: shop.yard.row(names[0])["turn"] > 1)
        shop.yard.break_with("")
        assert await shop.settled(names) == {State.SAVED}
    assert len(shop.yard.paid) == 1


@pytest.mark.slow
async def test_where_repeating_is_allowed_the_queue_has_it_again(
    queue_url: str, tmp_path: Path
) -> None:
    async with shop_on(queue_url, str(tmp_path / "out"), "create.drop=#1") as shop:
        names = await shop.yard.put_in(FOX)
        settings = attrs.evolve(shop.work().settings, on_unknown="repeat")
        async with shop.open(shop.work(settings=settings)):
            await shop.settled(names, ends={State.SAVED})  # it is unresolved for a moment
        assert len(shop.yard.sim.books()["creates"]) == 2


@pytest.mark.slow
async def test_a_worker_whose_lease_was_taken_starts_over_and_finishes(shop: Shop) -> None:
    names = await shop.yard.put_in(*(TextToImage(f"fox {n}") for n in range(6)))
    async with shop.open():
        await until(lambda: shop.yard.paid)
        ask(shop.yard.url, "UPDATE kie_mj.worker SET ended_at = now(), ended_by = 'another'")
        await until(lambda: len(shop.joined) == 2)
        assert await shop.settled(names) == {State.SAVED}
    assert len(shop.yard.paid) == 6
    assert len(shop.yard.pictures()) == 24


@pytest.mark.slow
async def test_a_database_that_restarts_costs_nothing(shop: Shop, postgres: Any) -> None:
    names = await shop.yard.put_in(*(TextToImage(f"fox {n}") for n in range(25)))
    async with shop.open():
        await until(lambda: len(shop.yard.paid) > 5)
        await anyio.to_thread.run_sync(postgres.restart)
        assert await shop.settled(names, within=40) == {State.SAVED}
    assert len(shop.yard.paid) == 25
    assert len(shop.yard.pictures()) == 100


# --- What cannot work -----------------------------------------------------------------------------


async def test_a_second_key_is_refused(shop: Shop, tmp_path: Path) -> None:
    async with shop.open():
        other = Shop(shop.yard)
        other.local = tmp_path / "other"
        settings = attrs.evolve(shop.work().settings, key=Secret("sk-another"))
        with pytest.raises(ConfigError, match="use another key or another API host") as caught:
            await serve(other.work(settings=settings), stop=anyio.Event())
        assert "sk-another" not in str(caught.value)


async def test_a_database_without_tables_is_told(shop: Shop, database: str) -> None:
    with pytest.raises(LedgerError, match="run: kie-mj cluster migrate"):
        await serve(shop.work(url=database), stop=anyio.Event())


async def test_a_directory_that_cannot_be_written_is_told_before_any_job_is_taken(
    shop: Shop,
) -> None:
    await shop.yard.put_in(FOX)
    Path(shop.yard.out).write_text("no folder")
    with pytest.raises(WriteFailed, match="out"):
        await serve(shop.work(), stop=anyio.Event())
    assert ask(shop.yard.url, "SELECT count(*) FROM kie_mj.worker") == [(0,)]


# --- Leaving --------------------------------------------------------------------------------------


async def test_what_was_not_sent_is_handed_over_at_once(queue_url: str, tmp_path: Path) -> None:
    async with shop_on(queue_url, str(tmp_path / "out"), scale=0.1) as shop:
        names = await shop.yard.put_in(*(TextToImage(f"fox {n}") for n in range(4)))
        slow = attrs.evolve(shop.work().settings, rate=Rate(1, 60.0))
        async with shop.open(shop.work(settings=slow, grace=0.5)) as stop:
            await until(lambda: shop.yard.paid)
            began = anyio.current_time()
            stop.set()
        assert anyio.current_time() - began < 4
        assert len(shop.yard.paid) == 1
        states = [(await shop.yard.job(name)).state for name in names]
        assert sorted(states) == [State.PLANNED] * 3 + [State.RUNNING]
        statuses = "SELECT DISTINCT status FROM kie_mj_dbos.workflow_status"
        assert ask(queue_url, statuses) == [("ENQUEUED",)]
        assert all(shop.yard.row(name)["queued"] for name in names)


@pytest.mark.slow
async def test_saves_under_way_get_the_grace_and_no_more(shop: Shop) -> None:
    (name,) = await shop.yard.put_in(FOX)
    shop.yard.break_with("download.stall=100%")
    async with shop.open(shop.work(grace=0.5)) as stop:
        with anyio.fail_after(10):
            while (await shop.yard.job(name)).state is not State.SUCCEEDED:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        began = anyio.current_time()
        stop.set()
    assert 0.4 < anyio.current_time() - began < 4
    row = shop.yard.row(name)
    assert (row["turn"], row["rests"]) == (1, None), "another worker goes on with it at once"
    shop.yard.break_with("")
    again = Shop(shop.yard)
    again.local = shop.local
    async with again.open():
        assert await again.settled([name]) == {State.SAVED}
    assert len(shop.yard.paid) == 1


# --- An object store ------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [2, pytest.param(6, marks=pytest.mark.slow)])
async def test_a_store_has_each_object_once_though_workers_were_stopped_in_the_middle(
    queue_url: str, tmp_path: Path, bucket: Shelf, turns: int
) -> None:
    async with shop_on(queue_url, "s3://shelf/out") as shop:
        names = await shop.yard.put_in(*(TextToImage(f"fox {n}") for n in range(2 * turns)))
        for turn in range(turns):
            shop.local = tmp_path / f"local {turn}"
            shop.joined.clear()
            last = turn == turns - 1
            stopped = anyio.Event()

            def tell(event: object, stopped: anyio.Event = stopped) -> None:
                if isinstance(event, FileSaved):
                    stopped.set()

            grace = 5.0 if last else 0.0
            async with shop.open(shop.work(grace=grace), tell=tell):
                if last:
                    assert await shop.settled(names) == {State.SAVED}
                else:
                    with anyio.move_on_after(5):
                        await stopped.wait()
        assert len(shop.yard.paid) == 2 * turns
        files = [
            (f"out/b/{file.path}", file.sha256)
            for name in names
            for file in (await shop.yard.job(name)).files
        ]
        assert len(files) == 8 * turns
        found = [(one, hashlib.sha256((bucket.folder / one).read_bytes())) for one in bucket.names]
        assert [(one, digest.hexdigest()) for one, digest in found] == sorted(files)
        assert bucket.unfinished == []


# --- The key --------------------------------------------------------------------------------------


async def test_the_key_is_nowhere_in_the_database(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    names = await shop.yard.put_in(FOX)
    shop.yard.break_with("poll.401=#1,download.404=#1")
    async with shop.open():
        await shop.settled(names)
    tables = ask(
        shop.yard.url,
        "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname LIKE 'kie_mj%%'",
    )
    assert len(tables) > 10
    for (table,) in tables:
        for row in ask(shop.yard.url, f"SELECT one::text FROM {table} AS one"):
            assert KEY not in row[0], table
    assert KEY not in caplog.text
