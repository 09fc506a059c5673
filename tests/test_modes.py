"""Who may look at what is on disk: its owner alone, but for what the user has asked for."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cli_support import Shell, serving
from PIL import Image
from support import KEY, RATE

from kie_mj_async import disk
from kie_mj_async.account import FileSlots, Window
from kie_mj_async.archive import manifest, sidecar
from kie_mj_async.archive.parts import Parts
from kie_mj_async.durations_file import add, path_of
from kie_mj_async.errors import LedgerError
from kie_mj_async.jobs import Job
from kie_mj_async.ledger import SqliteLedger
from kie_mj_async.ledger.sqlite import lock_path
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules.kinds import kind_of
from kie_mj_async.rules.transfer import Source, Validator

if sys.platform == "win32":
    pytest.skip("modes of POSIX", allow_module_level=True)

pytestmark = pytest.mark.anyio

HOST = "https://api.kie.ai"
SOURCE = Source("https://files.test/a.png", Validator('"one"'), 300_000, resumable=True)
KIND = kind_of(TextToImage("a fox"))


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """The user's umask."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def loose() -> Iterator[None]:
    """A umask that shows everything."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(folder: Path) -> list[str]:
    """What others could look at in a folder, with the folder itself."""
    return [str(one) for one in (folder, *folder.rglob("*")) if mode(one) & 0o077]


def test_a_run_shows_its_results_and_nothing_else(shell: Shell, umask: int) -> None:
    """Files and manifest follow the umask; ledger, parts, inputs, state are their owner's alone."""
    Image.new("RGB", (8, 8)).save(shell.folder / "cat.png")
    with serving("download.truncate=#2") as service:
        shell.use(service)
        made = shell("generate", "a fox", "--out", "out", "--image", "cat.png", "--yes")
        assert made.code == 0, made.err
    out = shell.folder / "out"
    results = [*out.glob("*.png"), *out.glob("*.jpeg"), out / "manifest.jsonl"]
    assert len(results) >= 5
    assert {mode(path) for path in results} == {0o666 & ~umask}
    assert mode(out) == 0o777 & ~umask
    work = out / ".kie-mj"
    names = {one.name for one in work.iterdir()}
    assert names >= {"ledger.sqlite3", "ledger.sqlite3.lock", "parts", "inputs"}
    page = [work / "gallery", *(work / "gallery").iterdir(), work / "thumbnails"]
    assert {*open_to_others(work)} <= {str(one) for one in page}
    assert len(list((shell.folder / "state").rglob("*.sqlite3"))) == 1
    assert len(list((shell.folder / "state").rglob("*.json"))) == 1
    assert open_to_others(shell.folder / "state") == []


def test_a_simulated_run_shows_its_results_and_nothing_else(shell: Shell, loose: None) -> None:
    """The simulator's books are in a folder that nobody else can look into."""
    assert shell("generate", "a fox", "--out", "out", "--simulate").code == 0
    assert mode(shell.folder / "out" / ".kie-mj") == 0o700


async def test_a_ledger_and_what_sqlite_puts_beside_it(tmp_path: Path, loose: None) -> None:
    """The ledger, its WAL and shared memory, and its lock, while they are in use."""
    path = tmp_path / "books" / "ledger.sqlite3"
    ledger = await SqliteLedger.open(path, HOST)
    try:
        async with ledger.staging() as staging:
            await staging.add([TextToImage("a fox")])
        names = {one.name for one in path.parent.iterdir()}
        assert {f"ledger.sqlite3{end}" for end in ("", "-wal", "-shm", ".lock")} <= names
        assert open_to_others(path.parent) == []
    finally:
        await ledger.aclose()


async def test_a_window_while_it_is_in_use(tmp_path: Path, loose: None) -> None:
    """The state directory, and the file of the account's slots."""
    state = tmp_path / "state"
    window = Window.of_account(state, HOST, KEY, RATE, gives_up_after=5)
    try:
        await window.take()
        assert list(state.rglob("*.sqlite3"))
        assert open_to_others(state) == []
    finally:
        await window.aclose()


def test_a_part_and_its_record(tmp_path: Path, loose: None) -> None:
    """Half a result is nobody else's, before and after it was taken up again."""
    parts = Parts(tmp_path / ".work" / "parts")
    parts.prepare()
    for _ in range(2):
        part = parts.take_up("fox-0")
        if not part.size:
            part.start(SOURCE)
        part.write(b"half" * 20_000)
        part.leave()
        assert len(list(parts.folder.iterdir())) == 2
        assert open_to_others(tmp_path / ".work") == []


def test_what_is_there_keeps_its_mode(tmp_path: Path, loose: None) -> None:
    """Whoever opened a folder or a file to others meant it."""
    folder = tmp_path / "shared"
    folder.mkdir()
    disk.private_folder(folder)
    (folder / "file").touch()
    disk.private_file(folder / "file")
    assert (mode(folder), mode(folder / "file")) == (0o777, 0o666)


@pytest.mark.parametrize("name", ["taken", "taken/below", "dangling"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, name: str) -> None:
    """A file, or a link to nowhere, in its place is an error and stays."""
    (tmp_path / "taken").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        disk.private_folder(tmp_path / name)
    assert not (tmp_path / "nowhere").exists()


def test_the_usual_mode_leaves_nothing_behind(tmp_path: Path, umask: int) -> None:
    """The umask is seen, not asked for."""
    assert disk.usual_mode(tmp_path) == 0o666 & ~umask
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell the umask")
def test_the_usual_mode_needs_no_file(tmp_path: Path, umask: int) -> None:
    """None is made that a kill could leave lying about."""
    assert disk.usual_mode(tmp_path / "nowhere") == 0o666 & ~umask


@pytest.mark.parametrize("told", [None, b"", b"Name:\tpython\nUmask:\t?\n"])
def test_where_the_system_does_not_tell_the_umask(
    tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch, told: bytes | None
) -> None:
    """A file is looked at instead; one that a kill leaves lying about is swept with the parts."""
    status = tmp_path / "status"
    if told is not None:
        status.write_bytes(told)
    monkeypatch.setattr(disk, "_STATUS", status)
    folder = tmp_path / "parts"
    folder.mkdir()
    assert disk.usual_mode(folder) == 0o666 & ~umask
    assert list(folder.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda _path: None)
        disk.usual_mode(folder)
    assert len(list(folder.iterdir())) == 1
    Parts(folder).sweep()
    assert list(folder.iterdir()) == []


# --- Symbolic links that somebody else has put there ----------------------------------------------


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file that a link would have us write to."""
    path = tmp_path / "mine"
    path.write_bytes(b"precious")
    return path


@pytest.mark.parametrize("there", [True, False])
async def test_a_link_in_place_of_a_lock_is_refused(
    tmp_path: Path, mine: Path, there: bool
) -> None:
    """No table is made in the file that it leads to, and no file where there is none."""
    if not there:
        mine.unlink()
    path = tmp_path / "ledger.sqlite3"
    lock_path(path).symlink_to(mine)
    with pytest.raises(LedgerError, match="symbolic link"):
        await SqliteLedger.open(path, HOST)
    assert mine.exists() is there
    assert not path.exists()


async def test_a_link_in_place_of_a_new_ledger(tmp_path: Path, mine: Path) -> None:
    """A ledger is made beside its name: a link of either name leads nowhere."""
    path = tmp_path / "ledger.sqlite3"
    path.with_name("ledger.sqlite3.new").symlink_to(mine)
    path.symlink_to(tmp_path / "nowhere")
    ledger = await SqliteLedger.open(path, HOST)
    await ledger.aclose()
    assert mine.read_bytes() == b"precious"
    assert not path.is_symlink()
    assert not (tmp_path / "nowhere").exists()


async def test_a_ledger_that_links_to_another_file(tmp_path: Path, mine: Path) -> None:
    """What it leads to is no ledger: it is refused and not changed."""
    path = tmp_path / "ledger.sqlite3"
    path.symlink_to(mine)
    with pytest.raises(LedgerError):
        await SqliteLedger.open(path, HOST)
    assert mine.read_bytes() == b"precious"


def test_a_link_in_place_of_the_window_is_refused(tmp_path: Path, mine: Path) -> None:
    """The account's slots are then kept in memory, with a warning."""
    path = tmp_path / "state" / "accounts" / "a.sqlite3"
    path.parent.mkdir(parents=True)
    path.symlink_to(mine)
    with pytest.raises(OSError, match="symbolic link"):
        FileSlots(path)
    assert mine.read_bytes() == b"precious"


def test_links_in_place_of_a_forecast_are_not_followed(tmp_path: Path, mine: Path) -> None:
    """Neither the file nor its lock is written where a link leads."""
    path = path_of(tmp_path / "state", HOST)
    path.parent.mkdir(parents=True)
    path.symlink_to(mine)
    path.with_name(f".{path.name}.lock").symlink_to(tmp_path / "nowhere")
    add(path, [(KIND, 60.0)])
    assert mine.read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()


def test_links_in_place_of_a_part_are_not_followed(tmp_path: Path, mine: Path) -> None:
    """A part of that name begins anew, and so does its record."""
    parts = Parts(tmp_path / "parts")
    parts.prepare()
    (parts.folder / "fox-0.part").symlink_to(mine)
    (parts.folder / "fox-0.json.new").symlink_to(mine)
    part = parts.take_up("fox-0")
    part.start(SOURCE)
    part.write(bytes(90_000))
    try:
        with pytest.raises(OSError, match="symbolic"):
            part.record()
    finally:
        part.discard()
    assert mine.read_bytes() == b"precious"


def test_a_part_that_becomes_a_link_is_not_opened(tmp_path: Path, mine: Path) -> None:
    """Also where it was put there after it was looked at."""
    link = tmp_path / "fox-0.part"
    link.symlink_to(mine)
    with pytest.raises(OSError, match="symbolic"):
        disk.for_us_only(str(link), os.O_RDWR)
    link.with_suffix(sidecar.BESIDE).symlink_to(mine)
    with pytest.raises(OSError, match="symbolic"):
        sidecar.write(link.with_suffix(sidecar.SUFFIX), SOURCE.at(5, "0" * 64))
    assert mine.read_bytes() == b"precious"


async def no_jobs() -> AsyncIterator[Job]:
    jobs: list[Job] = []
    for job in jobs:
        yield job


async def test_links_in_place_of_the_manifest_are_not_followed(tmp_path: Path, mine: Path) -> None:
    """It is written anew beside them, and never lengthened through one."""
    (tmp_path / f".{manifest.NAME}.new").symlink_to(mine)
    (tmp_path / manifest.NAME).symlink_to(mine)
    with pytest.raises(OSError, match="symbolic"):
        manifest._append(tmp_path / manifest.NAME, [b"line"])
    made = manifest.Manifest(tmp_path)
    assert not await made.fits(0, lambda _key: pytest.fail("not asked"))
    await made.rebuild(no_jobs())
    assert mine.read_bytes() == b"precious"
    assert not made.path.is_symlink()
    assert made.path.read_bytes() == b""
