"""A disk that is full, a folder that is read-only, a ledger that is damaged: nothing is lost by it."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_support import KEY as CLI_KEY
from cli_support import serving
from support import sim_client, simulated

from kie_mj_async import failpoints
from kie_mj_async.archive import parts
from kie_mj_async.batch import ledger_path
from kie_mj_async.errors import KieError, LedgerError, WriteFailed
from kie_mj_async.failpoints import POINTS, Point
from kie_mj_async.jobs import Outcome, State, Unresolved
from kie_mj_async.ledger import SqliteLedger
from kie_mj_async.simulator import Simulator

if sys.platform == "win32":
    pytest.skip("POSIX disks and users", allow_module_level=True)

import resource

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
SCALE = 0.002
PROMPTS = ["a fox", "an owl", "a hen"]


class FullDisk:
    """A small disk of its own, in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Not a byte more goes onto it."""
        with self._ballast.open("ab", buffering=0) as file:
            for block in (bytes(65536), bytes(1024)):
                try:
                    while file.write(block):
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        """There is space again."""
        self._ballast.unlink(missing_ok=True)


class NoQuota:
    """A disk on which the process may not write a byte more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._soft, self._hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self) -> None:
        """Every write into a file fails."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, self._hard))

    def free(self) -> None:
        """Writes work again."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._soft, self._hard))


Disk = FullDisk | NoQuota


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield FullDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(params=["full", "quota"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "full":
        with small_disk(folder) as small:
            yield small
    else:
        limited = NoQuota(folder)
        yield limited
        limited.free()


@pytest.fixture(autouse=True)
def _no_hook() -> Iterator[None]:
    yield
    failpoints.install(None)


def at(point: Point, act: Callable[[], object]) -> None:
    """Do this when the process reaches a point for the first time."""
    left = [act]

    def hook(reached: Point) -> None:
        if left and reached == point:
            left.pop()()

    failpoints.install(hook)


async def render(sim: Simulator, out: Path, outcomes: list[Outcome] | None = None) -> list[Outcome]:
    """The list, to its end."""
    got = [] if outcomes is None else outcomes
    async with sim_client(sim, SCALE) as client:
        async for outcome in client.render(PROMPTS, out, speed="turbo"):
            got.append(outcome)
    return got


async def stopped(sim: Simulator, out: Path) -> KieError:
    """The error that ends a run of the list: clear, with the path and what to do."""
    with pytest.raises((LedgerError, WriteFailed)) as caught:
        await render(sim, out)
    for words in (str(out), "space", "resume"):
        assert words in str(caught.value)
    return caught.value


async def jobs_of(out: Path) -> dict[str, tuple[State, str | None]]:
    """What the ledger says of each prompt."""
    ledger = await SqliteLedger.open(ledger_path(out), "sim")
    try:
        return {job.prompt: (job.state, job.task_id) for job in await ledger.scan(0, 99)}
    finally:
        await ledger.aclose()


def accepted(sim: Simulator) -> dict[str, str]:
    """The task of each prompt that was paid; none was paid twice."""
    paid = [(one["prompt"], one["task_id"]) for one in sim.books()["creates"] if one["charged"]]
    assert len(dict(paid)) == len(paid)
    return dict(paid)


async def go_on(sim: Simulator, out: Path, told: str) -> None:
    """Run it again, with tasks adopted whose ids were only told: all is saved, each paid once."""
    outcomes = await render(sim, out)
    for lost in [one.job for one in outcomes if isinstance(one, Unresolved)]:
        task_id = accepted(sim).get(lost.prompt)
        if task_id is None:  # it was never sent
            async with sim_client(sim, SCALE) as client:
                await client.resolve(out, "retry", lost.key)
        else:
            assert task_id in told
            async with sim_client(sim, SCALE) as client:
                await client.adopt(out, lost.key, task_id)
    outcomes = await render(sim, out)
    assert Counter(type(one).__name__ for one in outcomes) == {"Saved": 3}
    assert set(accepted(sim)) == set(PROMPTS)
    assert len(list(out.glob("*.*g"))) == 12
    assert len((out / "manifest.jsonl").read_text().splitlines()) == 12
    assert list((out / ".kie-mj" / "parts").iterdir()) == []


# --- A disk that is full --------------------------------------------------------------------------


@pytest.mark.parametrize("point", [one for one in POINTS if one != "job saved"])
async def test_a_disk_that_is_full_from_a_point_on(
    disk: Disk, point: Point, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the disk fills up, the run ends with what to do, and goes on once there is space."""
    out = disk.folder / "out"
    if point == "checkpoint stored":  # as if files were large
        monkeypatch.setattr(parts, "CHECKPOINT", 1)
    async with simulated(scale=SCALE) as sim:
        at(point, disk.fill)
        error = await stopped(sim, out)
        disk.free()
        stored = {task_id for _, task_id in (await jobs_of(out)).values()}
        told = "\n".join([str(error), *caplog.messages])
        for task_id in accepted(sim).values():
            assert task_id in stored or task_id in told
        if point in ("POST written", "reply read"):
            assert error.task_id in accepted(sim).values()
            assert f"task {error.task_id} was accepted and paid" in str(error)
            assert error.billed == "yes"
        await go_on(sim, out, told)


async def test_a_disk_that_is_full_at_the_start(disk: Disk) -> None:
    """On a full disk nothing is sent, and the same call works once there is space."""
    out = disk.folder / "out"
    async with simulated(scale=SCALE) as sim:
        disk.fill()
        await stopped(sim, out)
        disk.free()
        assert sim.books()["creates"] == []
        await go_on(sim, out, "")


async def test_a_disk_that_is_full_when_the_list_grows(disk: Disk) -> None:
    """On a full disk a longer list is not taken in; what was saved stays as it is."""
    out = disk.folder / "out"
    async with simulated(scale=SCALE) as sim:
        async with sim_client(sim, SCALE) as client:
            async for _ in client.render(PROMPTS[:1], out, speed="turbo"):
                pass
        before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
        disk.fill()
        await stopped(sim, out)
        disk.free()
        assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
        assert len(sim.books()["creates"]) == 1
        await go_on(sim, out, "")


async def test_a_disk_that_is_full_when_the_manifest_is_made(disk: Disk) -> None:
    """A torn manifest that cannot be made anew stays as it was, and nothing is sent."""
    out = disk.folder / "out"
    async with simulated(scale=SCALE) as sim:
        async with sim_client(sim, SCALE) as client:
            async for _ in client.render(PROMPTS[:1], out, speed="turbo"):
                pass
        before = (out / "manifest.jsonl").read_bytes()[:-9]
        (out / "manifest.jsonl").write_bytes(before)
        async with (
            sim_client(sim, SCALE) as client,
            client.render(PROMPTS, out, speed="turbo") as batch,
        ):
            await batch.plan()
            disk.fill()
            with pytest.raises(WriteFailed, match=r"manifest\.jsonl.*space"):
                async for _ in batch:
                    pass
        disk.free()
        assert (out / "manifest.jsonl").read_bytes() == before
        assert len(sim.books()["creates"]) == 1
        await go_on(sim, out, "")


async def test_a_disk_that_fills_up_while_the_list_is_taken_in(disk: Disk) -> None:
    """A list that does not fit is not taken in, not even its beginning, and nothing is sent."""
    out = disk.folder / "out"

    def feed() -> Iterator[str]:
        disk.fill()
        yield from PROMPTS

    async with simulated(scale=SCALE) as sim:
        async with sim_client(sim, SCALE) as client:
            with pytest.raises(LedgerError, match=r"ledger\.sqlite3: .*space.* resume"):
                await client.render(feed(), out, speed="turbo").plan()
        disk.free()
        assert await jobs_of(out) == {}
        assert sim.books()["creates"] == []
        await go_on(sim, out, "")


COMMAND = """
import resource, sys
from functools import partial
from kie_mj_async import failpoints
from kie_mj_async.cli import setup, work
from kie_mj_async.cli.app import run
from kie_mj_async.settings import Settings

def full(reached):
    if reached == sys.argv[1]:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))

failpoints.install(full)
setup.Settings = partial(Settings, time_scale=0.004)
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.parametrize("point", ["reply read", "poll read", "result stored", "file named"])
def test_a_command_on_a_full_disk(tmp_path: Path, point: Point) -> None:
    """The command says what to do and each id that is not on disk, and exits with 3; resume works."""
    (tmp_path / "list.txt").write_text("\n".join(PROMPTS))
    with serving() as service:
        env = {**os.environ, "KIE_STATE_DIR": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}
        env |= {"KIE_BASE_URL": service.url, "KIE_API_KEY": CLI_KEY}

        def command(full_at: str, *arguments: str) -> subprocess.CompletedProcess[str]:
            line = [sys.executable, "-W", "error", "-c", COMMAND, full_at, *arguments]
            return subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True)

        full = command(point, "render", "list.txt", "--out", "out", "--yes", "--speed", "turbo")
        assert full.returncode == 3, full.stderr
        assert "space" in full.stderr
        assert "Traceback" not in full.stderr
        assert "rollback" not in full.stderr  # sqlite's own words about what came of it
        ended = command("nowhere", "resume", "out", "--yes", "--json")
        assert len({one["prompt"] for one in service.creates}) == len(service.creates) == 3
        told = json.loads(ended.stdout)
        known = {job["task_id"] for job in told["jobs"]}
        # Whose create was under way when the disk was full is a matter of moments.
        lost = [one["task_id"] for one in service.creates if one["task_id"] not in known]
        assert all(task_id in full.stderr for task_id in lost), full.stderr
        assert told["unresolved"] == len(lost)
        assert told["saved"] == 3 - len(lost)
        assert ended.returncode == (4 if lost else 0), ended.stderr
        assert len(list((tmp_path / "out").glob("*.*g"))) == 4 * told["saved"]
        if point == "reply read":
            assert lost


# --- A folder that is read-only -------------------------------------------------------------------

AS_NOBODY = """
import os, sys
from functools import partial
from kie_mj_async.cli import decide, report, setup, work
from kie_mj_async.cli.app import run
from kie_mj_async.settings import Settings

setup.Settings = partial(Settings, time_scale=0.004)
assert run(["render", "list.txt", "--out", "warm", "--yes", "--speed", "turbo"]) == 0
if os.geteuid() == 0:  # once all is imported: the interpreter may be out of nobody's reach
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.exit(run(sys.argv[1:]))
"""


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing in it can be written or made, by anybody but root."""
    inside = [folder, *folder.rglob("*")]
    for path in inside:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path in inside:
            path.chmod(0o755 if path.is_dir() else 0o644)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the lock, whose journal says who works there."""
    found = (one for one in folder.rglob("*") if one.is_file() and one.suffix != ".lock")
    return {str(one.relative_to(folder)): one.read_bytes() for one in found}


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize(
    "arguments",
    [
        ["render", "list.txt", "--out", "out", "--yes"],
        ["render", "list.txt", "--out", "out/below", "--yes"],
        ["resume", "out", "--yes"],
        ["resolve", "out", "--abandon"],
    ],
    ids=" ".join,
)
def test_a_read_only_folder(place: Path, arguments: list[str]) -> None:
    """In a folder that may not be written nothing is sent or changed, and one line says so."""
    (place / "list.txt").write_text("\n".join(PROMPTS))
    with serving() as service:
        env = {**os.environ, "KIE_STATE_DIR": str(place / "state"), "PYTHONPATH": str(ROOT)}
        env |= {"KIE_BASE_URL": service.url, "KIE_API_KEY": CLI_KEY}

        def command(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
            line = [sys.executable, "-W", "error", "-c", code, *arguments]
            return subprocess.run(line, cwd=place, env=env, capture_output=True, text=True)

        assert command(COMMAND, "nowhere", "render", "list.txt", "--out", "out", "--yes").stderr
        before = contents(place / "out")
        assert len(service.creates) == 3
        with read_only(place / "out"):
            ended = command(AS_NOBODY, *arguments)
            assert contents(place / "out") == before
        assert len(service.creates) == 6, ended.stderr  # three of them for the other folder
        last = ended.stderr.splitlines()[-1]
        assert ended.returncode == 2, ended.stderr
        assert last.startswith("kie-mj: out")
        assert "check the permissions" in last
        assert "Traceback" not in ended.stderr


# --- A ledger that is damaged ---------------------------------------------------------------------


async def resumed(sim: Simulator, out: Path) -> LedgerError | None:
    """Resume; the error that it was refused with, if it was."""
    creates = len(sim.books()["creates"])
    try:
        async with sim_client(sim, SCALE) as client:
            async for _ in client.resume(out, timeout=2.0):
                pass
    except LedgerError as error:
        return error
    finally:
        assert len(sim.books()["creates"]) == creates
    return None


@pytest.fixture
async def damaged(tmp_path: Path) -> AsyncIterator[tuple[Simulator, Path]]:
    """A service, and a batch directory with one task that is not saved yet."""
    async with simulated("task.stuck=#3", scale=SCALE) as sim:
        async with sim_client(sim, SCALE) as client:
            async for _ in client.render(PROMPTS, tmp_path / "out", speed="turbo", timeout=0.2):
                pass
        [stuck] = [one for one, task in sim.books()["tasks"].items() if task["state"] == "running"]
        sim.world.finish(stuck)
        yield sim, tmp_path / "out"


async def test_a_ledger_with_damaged_bytes(damaged: tuple[Simulator, Path], tmp_path: Path) -> None:
    """Damage within a page is refused as such or does no harm: nothing is sent, nothing else breaks."""
    sim, out = damaged
    whole = ledger_path(out).read_bytes()
    chance = random.Random(7)
    refused = 0
    for number in range(60):
        spoilt = tmp_path / f"spoilt {number}"
        shutil.copytree(out, spoilt)
        at = chance.randrange(100, len(whole) - 40)
        flipped = bytes(255 - byte for byte in whole[at : at + 40])
        ledger_path(spoilt).write_bytes(whole[:at] + flipped + whole[at + 40 :])
        before = ledger_path(spoilt).read_bytes()
        error = await resumed(sim, spoilt)
        if error is not None:
            refused += 1
            assert "damaged" in str(error)
            assert error.path == str(ledger_path(spoilt))
            assert str(ledger_path(spoilt)) in str(error)
            if "untouched" in str(error):
                assert ledger_path(spoilt).read_bytes() == before
        assert set(contents(out)) <= set(contents(spoilt))
    assert 3 < refused < 57


@pytest.mark.parametrize(
    ("words", "damage"),
    [
        (b"trouble      TEXT", b"troubla      TEXT"),
        (b'"prompt":"an owl"', b'"prompt":"an owl,'),
        (b"saved", b"sated"),
    ],
    ids=["a column", "a request", "a state"],
)
async def test_a_ledger_with_a_damaged_word(
    damaged: tuple[Simulator, Path], words: bytes, damage: bytes
) -> None:
    """A stored word that makes no sense is an error with the path; nothing is sent or changed."""
    sim, out = damaged
    whole = ledger_path(out).read_bytes()
    assert words in whole
    ledger_path(out).write_bytes(whole.replace(words, damage))
    before = contents(out)
    error = await resumed(sim, out)
    assert error is not None
    assert error.path == str(ledger_path(out))
    assert "damaged" in str(error)
    assert contents(out) == before


@pytest.mark.parametrize("share", [0.0, 0.5])
async def test_a_cut_off_ledger(damaged: tuple[Simulator, Path], share: float) -> None:
    """A ledger whose end is missing, or all of it, is refused, stays as it is, and nothing is sent."""
    sim, out = damaged
    ledger = ledger_path(out)
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[: int(len(whole) * share)])
    journal = ledger.with_name(ledger.name + "-wal")
    journal.write_bytes(b"the last jobs")
    before = contents(out)
    if share:
        journal.unlink()
        del before[str(journal.relative_to(out))]
    for again in (resumed, rendered):
        error = await again(sim, out)
        assert error is not None
        assert "restore it from a backup" in str(error)
        assert contents(out) == before


async def rendered(sim: Simulator, out: Path) -> LedgerError | None:
    """Render the list again; the error that it was refused with, if it was."""
    creates = len(sim.books()["creates"])
    try:
        await render(sim, out)
    except LedgerError as error:
        return error
    finally:
        assert len(sim.books()["creates"]) == creates
    return None


async def test_a_journal_that_is_damaged_behind_an_intent(tmp_path: Path) -> None:
    """What a damaged write-ahead log loses behind an intent makes the job unresolved: none is sent."""
    out = tmp_path / "out"
    journal = ledger_path(out).with_name("ledger.sqlite3-wal")
    sizes: dict[str, int] = {}

    def note(point: Point) -> None:
        sizes.setdefault(point, journal.stat().st_size)
        if point == "id stored":
            failpoints.install(None)
            shutil.copytree(out, tmp_path / "crashed")

    async with simulated(scale=SCALE) as sim:
        failpoints.install(note)
        async with sim_client(sim, SCALE) as client:
            async for _ in client.render(PROMPTS[:1], out, speed="turbo"):
                pass
        first, last = sizes["intent stored"], sizes["id stored"]
        assert sizes["before the intent"] < first < last
        whole = (tmp_path / "crashed" / ".kie-mj" / journal.name).read_bytes()
        assert len(whole) == last
        cuts = [first, *random.Random(7).sample(range(first + 1, last), 8), last]
        for cut in cuts:
            for name, rest in (("cut", b""), ("zeroed", bytes(last - cut))):
                spoilt = tmp_path / f"{name} {cut}"
                shutil.copytree(tmp_path / "crashed", spoilt)
                (spoilt / ".kie-mj" / journal.name).write_bytes(whole[:cut] + rest)
                outcomes = await render_one(sim, spoilt)
                assert outcomes == ["Saved" if cut == last else "Unresolved"]
        assert len(sim.books()["creates"]) == 1


async def render_one(sim: Simulator, out: Path) -> list[str]:
    async with sim_client(sim, SCALE) as client:
        batch = client.render(PROMPTS[:1], out, speed="turbo")
        return [type(outcome).__name__ async for outcome in batch]


async def test_a_journal_that_is_gone(tmp_path: Path) -> None:
    """A resume without the write-ahead log that held the jobs finds none, and sends nothing."""
    out = tmp_path / "out"

    def note(point: Point) -> None:
        if point == "id stored":
            failpoints.install(None)
            shutil.copytree(out, tmp_path / "crashed")

    async with simulated(scale=SCALE) as sim:
        failpoints.install(note)
        await render_one(sim, out)
        ledger = ledger_path(tmp_path / "crashed")
        ledger.with_name(ledger.name + "-wal").unlink()
        assert await resumed(sim, tmp_path / "crashed") is None
        assert await jobs_of(tmp_path / "crashed") == {}
