"""A file over several runs: another one goes on with it, and it never ends as another file."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import aiohttp
import anyio
import attrs
import pytest
from file_host import (
    LONG_AGO,
    Answer,
    Asked,
    a_place,
    again,
    cut_at,
    downloading,
    fetch,
    hosting,
    left,
    name,
    padded,
    saved,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import sim_client, simulated, until

from kie_mj_async.archive import fetching, parts, sidecar
from kie_mj_async.archive.directory import Directory
from kie_mj_async.archive.downloader import LinkRefused
from kie_mj_async.archive.store import Place
from kie_mj_async.engine.saving import Saver
from kie_mj_async.errors import DownloadError
from kie_mj_async.jobs import Generation, SavedFile
from kie_mj_async.simulator import Faults

pytestmark = pytest.mark.anyio
FILE = padded(3000)


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    return await a_place(tmp_path)


@pytest.fixture
def _worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte is worth keeping for another run."""
    monkeypatch.setattr(parts, "WORTH", 1)


@pytest.mark.usefixtures("_worth_it")
async def test_another_run_goes_on(place: Place) -> None:
    """What a run that gave up had of a file, the next one does not fetch again."""
    async with hosting(FILE, bend=cut_at(1000, 500)) as host:
        with pytest.raises(DownloadError):
            await fetch(host.url, place, "fox-0", attempts=2)
        assert left(place) == ["fox-0.json", "fox-0.part"]
        await fetch(host.url, place, "fox-0")
    assert host.ranges == [None, "bytes=1000-", "bytes=1500-"]
    assert host.sent == len(FILE)
    assert saved(place) == FILE
    assert left(place) == []


async def test_a_cancelled_file_is_gone_on_with(place: Place) -> None:
    """A run that is cancelled keeps what it has, if it is worth it."""
    content = padded(200_000)
    async with hosting(content) as host:
        host.bend = lambda n, _, a: a if n else attrs.evolve(a, cut=150_000, hang=True)
        async with downloading(stall_timeout=9.0) as made:
            with anyio.move_on_after(0.3):
                await made.fetch(host.url, 0, place, name, part="fox-0")
        assert left(place) == ["fox-0.json", "fox-0.part"]
        await fetch(host.url, place, "fox-0")
    assert host.ranges == [None, "bytes=150000-"]
    assert saved(place) == content


async def test_a_long_transfer_is_recorded_on_its_way(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Now and then what has come is recorded, without the transfer having to end."""
    monkeypatch.setattr(parts, "CHECKPOINT", 50_000)
    monkeypatch.setattr(fetching, "GATHER", 10_000)
    content = padded(200_000)
    record = place.parts.folder / "fox-0.json"
    async with (
        hosting(content) as host,
        downloading(stall_timeout=9.0) as made,
        anyio.create_task_group() as tasks,
    ):
        host.bend = lambda _n, _, a: attrs.evolve(a, cut=150_000, hang=True)
        tasks.start_soon(lambda: made.fetch(host.url, 0, place, name, part="fox-0"))
        await until(lambda: sidecar.read(record))
        found = sidecar.read(record)
        tasks.cancel_scope.cancel()
    assert found is not None
    assert found.size >= 50_000
    assert found.total == len(content)


@pytest.mark.usefixtures("_worth_it")
async def test_a_store_that_leaves_the_part_file_behind(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept is not left for another run."""

    async def keep(*_: object) -> str:
        return "elsewhere.png"

    monkeypatch.setattr(Directory, "keep", keep)
    async with hosting(FILE) as host:
        file = await fetch(host.url, place, "fox-0")
    assert file.path == "elsewhere.png"
    assert left(place) == []


async def test_a_little_is_not_worth_keeping(place: Place) -> None:
    """A few bytes are fetched again: two syncs would take longer."""
    async with hosting(FILE, bend=cut_at(1000)) as host:
        with pytest.raises(DownloadError):
            await fetch(host.url, place, "fox-0", attempts=1)
    assert left(place) == []


@pytest.mark.usefixtures("_worth_it")
async def test_without_a_name_nothing_outlives_the_call(place: Place) -> None:
    """A file that no later run can ask for is not kept."""
    async with hosting(FILE, bend=cut_at(1000)) as host:
        with pytest.raises(DownloadError):
            await fetch(host.url, place, attempts=1)
    assert left(place) == []


@pytest.mark.usefixtures("_worth_it")
@pytest.mark.parametrize(
    ("validator", "goes_on"), [({}, True), ({"etag": None, "modified": LONG_AGO}, False)]
)
async def test_a_fresh_link_goes_on_by_its_etag_only(
    place: Place, validator: dict[str, str | None], goes_on: bool
) -> None:
    """Under a fresh link the same strong entity tag is the same file; a date proves nothing."""

    def bend(number: int, _asked: Asked, answer: Answer) -> Answer:
        return again(number, answer, Answer("403 No", {}, b""))

    async with hosting(FILE, bend=bend, **validator) as host:
        with pytest.raises(LinkRefused):
            await fetch(host.url, place, "fox-0")
        await fetch(host.url + "?fresh", place, "fox-0")
    assert host.ranges == [None, "bytes=1000-", "bytes=1000-" if goes_on else None]
    assert saved(place) == FILE


@pytest.mark.usefixtures("_worth_it")
async def test_a_whole_file_that_no_store_took_is_not_fetched_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the last step failed, only that is done again."""
    real = Directory.keep

    async def keep(*_: object) -> str:
        raise DownloadError("the store is away")

    monkeypatch.setattr(Directory, "keep", keep)
    async with hosting(FILE) as host:
        with pytest.raises(DownloadError, match="away"):
            await fetch(host.url, place, "fox-0")
        monkeypatch.setattr(Directory, "keep", real)
        file = await fetch(host.url, place, "fox-0")
    assert len(host.asked) == 1
    assert saved(place) == FILE
    assert (file.width, file.bytes) == (8, len(FILE))
    assert left(place) == []


@pytest.mark.usefixtures("_worth_it")
async def test_two_at_once_do_not_share_a_part(place: Place) -> None:
    """The second of two fetches of one name has a file of its own."""
    async with hosting(FILE) as host, downloading() as made, anyio.create_task_group() as tasks:
        for number in range(3):
            named = f"{number}.png"
            tasks.start_soon(
                lambda named: made.fetch(host.url, 0, place, lambda _e, _a: named, part="fox-0"),
                named,
            )
    root = Path(place.store.root)
    assert [(root / f"{number}.png").read_bytes() for number in range(3)] == [FILE] * 3
    assert left(place) == []


@pytest.mark.usefixtures("_worth_it")
async def test_a_finished_file_is_never_written_to_again(place: Place) -> None:
    """A part that is a finished file by another name is left alone, whatever its record says."""
    async with hosting(FILE, bend=cut_at(1000)) as host:
        with pytest.raises(DownloadError):
            await fetch(host.url, place, "fox-0", attempts=1)
        part = place.parts.folder / "fox-0.part"
        part.write_bytes(FILE)
        final = Path(place.store.root) / "file1.png"
        os.link(part, final)
        await fetch(host.url, place, "fox-0")
    assert final.read_bytes() == FILE
    assert host.ranges == [None, None]


@pytest.mark.parametrize(
    ("point", "nth"), [("chunk written", 10), ("checkpoint stored", 2), ("file synced", 1)]
)
async def test_a_killed_process_goes_on_at_its_checkpoint(
    tmp_path: Path, point: str, nth: int
) -> None:
    """Killed in the midst of a large file, the next run asks for what is not recorded, and no more."""
    content = padded(32 << 20)
    async with hosting(content) as host:
        command = [sys.executable, str(Path(__file__).with_name("fetch_driver.py"))]
        command += [host.url, str(tmp_path)]
        killed = await anyio.run_process([*command, point, str(nth)], check=False)
        assert killed.returncode == -signal.SIGKILL
        record = sidecar.read(tmp_path / "parts" / "fox-0.json")
        assert record is not None
        assert record.size >= (8 << 20) * min(nth, 2)
        assert not (tmp_path / "file.png").exists()
        await anyio.run_process(command)
    assert host.ranges == [None, f"bytes={record.size}-"]
    assert (tmp_path / "file.png").read_bytes() == content
    assert list((tmp_path / "parts").iterdir()) == []


@pytest.mark.usefixtures("_worth_it")
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    target=st.sampled_from(["fox-0.json", "fox-0.part"]),
    how=st.sampled_from(["flip", "cut", "add", "digit", "remove"]),
    at=st.floats(0, 1),
    value=st.integers(1, 255),
)
def test_whatever_was_tampered_with_the_file_is_right(
    tmp_path_factory: pytest.TempPathFactory, target: str, how: str, at: float, value: int
) -> None:
    """However a part file or its record is damaged, what is saved is the host's file."""

    async def check() -> None:
        place = await a_place(tmp_path_factory.mktemp("tampered"))
        async with hosting(FILE, bend=cut_at(1000)) as host:
            with pytest.raises(DownloadError):
                await fetch(host.url, place, "fox-0", attempts=1)
            path = place.parts.folder / target
            tamper(path, how, at, value)
            await fetch(host.url, place, "fox-0")
            assert saved(place) == FILE
            assert left(place) == []

    anyio.run(check)


def tamper(path: Path, how: str, at: float, value: int) -> None:
    data = bytearray(path.read_bytes())
    where = min(int(at * len(data)), len(data) - 1)
    match how:
        case "flip":
            data[where] ^= value
        case "cut":
            del data[where:]
        case "add":
            data[where:where] = bytes([value]) * 5
        case "digit":
            digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
            data[digits[where % len(digits)]] = 48 + value % 10
        case "remove":
            path.unlink()
            return
    path.write_bytes(data)


BAD_DAY = ",".join(
    f"download.{kind}"
    for kind in (
        "dead-link=15%", "truncate=10%", "truncate-silent=5%", "html=7%", "503=8%", "403=5%", "404=2%",
        "429=3%", "500=3%", "empty=3%", "longer=5%", "gzip=5%", "no-range=5%", "wrong-range=8%",
        "drop=5%", "stall=3%", "redirect=10%",
    )
)  # fmt: skip


async def test_a_host_that_does_everything_wrong(tmp_path: Path) -> None:
    """With every fault that there is at once, each file is the host's, byte by byte."""
    place = await a_place(tmp_path)
    saved: dict[str, str] = {}

    async with simulated(seed=5) as sim, sim_client(sim) as client:
        made: list[Generation] = []

        async def generate(number: int) -> None:
            made.append(await client.generate(f"a fox, number {number}"))

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(generate, number)
        truth = {url: await content_of(url) for one in made for url in one.urls}
        sim.world.faults = Faults.parse(BAD_DAY)
        async with downloading(api_url=sim.url, attempts=8, stall_timeout=0.2) as downloader:
            saver = Saver(client._house.transport, downloader)

            async def save(one: Generation) -> None:
                urls = one.urls

                async def keep(file: SavedFile) -> None:
                    saved[one.urls[file.index]] = file.sha256

                async def relinked(fresh: tuple[str, ...]) -> None:
                    nonlocal urls
                    urls = fresh

                for _ in range(20):
                    left = [n for n, url in enumerate(one.urls) if url not in saved]
                    with suppress(DownloadError):
                        await saver.save(
                            one.task_id, urls, left, place,
                            name=lambda n: lambda ending, again: f"{one.task_id}_{n}_{again}{ending}",
                            keep=keep, relinked=relinked, part=lambda n: f"{one.task_id}-{n}",
                        )  # fmt: skip

            async with anyio.create_task_group() as tasks:
                for one in made:
                    tasks.start_soon(save, one)
        seen = sim.books()["faults"]
    assert saved == truth
    assert len([path for path in Path(place.store.root).iterdir() if path.is_file()]) == 80
    assert left(place) == []
    assert len([kind for kind in seen if kind.startswith("download.")]) >= 15


async def content_of(url: str) -> str:
    """The digest of a file as the host has it."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return hashlib.sha256(await response.read()).hexdigest()
