"""Batches into an object store: the same road, the same promises, the ledger in a local directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from cli_support import Shell
from s3_support import Shelf
from support import sim_client, simulated

from kie_mj_async.batch import folder_of, ledger_path
from kie_mj_async.errors import ConfigError, InvalidRequest, LedgerError
from kie_mj_async.jobs import Outcome, Saved

URL = "s3://shelf/runs/first"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    """A bucket, and an environment that leads to it."""
    data = tmp_path / "buckets"
    data.mkdir()
    made = Shelf(data)
    made.start()
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    made.stop()


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check(shelf: Shelf, prefix: str, files: int) -> None:
    """The bucket holds what its manifest says, byte by byte, and nothing else below the prefix."""
    folder = shelf.folder / prefix
    lines = lines_of(folder / "manifest.jsonl")
    assert len(lines) == files
    for line in lines:
        content = (folder / str(line["path"])).read_bytes()
        assert hashlib.sha256(content).hexdigest() == line["sha256"]
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {str(line["path"]) for line in lines} | {"manifest.jsonl"}


@pytest.mark.anyio
async def test_a_batch_goes_to_an_object_store(shelf: Shelf, tmp_path: Path) -> None:
    """Every result is an object, told by its address; the manifest lies there and at home."""
    home = tmp_path / "home"
    prompts = [f"prompt {number}" for number in range(5)]
    async with simulated() as sim, sim_client(sim) as client:
        outcomes: list[Outcome] = [one async for one in client.render(prompts, URL, work_dir=home)]
        assert all(isinstance(one, Saved) for one in outcomes)
        told = {one.locations for one in outcomes if isinstance(one, Saved)}
        assert {where.rsplit("/", 1)[0] for all_of in told for where in all_of} == {URL}
        assert all(one.paths == () for one in outcomes if isinstance(one, Saved))
        check(shelf, "runs/first", 20)
        assert lines_of(home / "manifest.jsonl") == lines_of(
            shelf.folder / "runs/first/manifest.jsonl"
        )
        assert not list((home / ".kie-mj" / "parts").iterdir())
        # Again, from the directory alone: nothing is paid, nothing is sent.
        assert [one async for one in client.resume(home)] == []
        assert sim.books()["accepted"] == 5
        assert len(list((shelf.folder / "runs/first").glob("*.jpeg"))) == 20


@pytest.mark.anyio
async def test_a_store_is_tried_out_once_a_run(shelf: Shelf, tmp_path: Path) -> None:
    """That it can be written, and keeps conditions, is found out before the first create, once."""
    async with simulated() as sim, sim_client(sim) as client:
        async for _ in client.render(["a fox"], URL, work_dir=tmp_path / "home"):
            pass
    probes = {one.name for one in shelf.requests if one.name.startswith("probe-")}
    assert len({name.removesuffix("-taken") for name in probes}) == 1


@pytest.mark.anyio
async def test_what_was_left_is_finished_there(shelf: Shelf, tmp_path: Path) -> None:
    """A run that is stopped midway is gone on with, into the same store, known by its ledger."""
    prompts = [f"prompt {number}" for number in range(8)]
    async with simulated() as sim:
        async with sim_client(sim, state_dir=tmp_path / "state") as client:
            batch = client.render(prompts, URL)
            async for _ in batch:
                break
        async with sim_client(sim, state_dir=tmp_path / "state") as client:
            outcomes = [one async for one in client.resume(URL)]
            assert all(isinstance(one, Saved) for one in outcomes)
        assert sim.books()["accepted"] == 8
    check(shelf, "runs/first", 32)


@pytest.mark.anyio
async def test_a_store_that_cannot_be_used_costs_nothing(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong credentials are found before anything is sent, and no ledger is begun."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
    async with simulated() as sim, sim_client(sim) as client:
        with pytest.raises(ConfigError, match="credentials were refused"):
            await client.render(["a fox"], URL, work_dir=tmp_path / "home").plan()
        assert sim.books()["creates"] == []
    assert not ledger_path(tmp_path / "home").exists()


@pytest.mark.anyio
async def test_a_ledger_belongs_to_one_store(shelf: Shelf, tmp_path: Path) -> None:
    """A directory whose results go somewhere is not used for somewhere else."""
    home = tmp_path / "home"
    async with simulated() as sim, sim_client(sim) as client:
        async for _ in client.render(["a fox"], URL, work_dir=home):
            pass
        for out, work_dir in (("s3://shelf/other", home), (home, None)):
            with pytest.raises(LedgerError, match="its results go to s3://shelf/runs/first"):
                await client.render(["a fox"], out, work_dir=work_dir).plan()
        async for _ in client.render(["a fox"], tmp_path / "plain"):
            pass
        with pytest.raises(LedgerError, match="its results go to its own directory"):
            await client.render(["a fox"], URL, work_dir=tmp_path / "plain").plan()
        assert sim.books()["accepted"] == 2


@pytest.mark.anyio
async def test_where_a_batch_is_kept(tmp_path: Path) -> None:
    """The same address has the same directory, another one another; a directory is its own."""
    state = tmp_path / "state"
    first = folder_of("s3://bucket/my run/1/", state)
    assert first == folder_of("s3://bucket/my run/1", state)
    assert first.parent == state / "batches"
    assert first.name.startswith("s3-bucket-my-run-1-")
    assert first != folder_of("s3://bucket/my-run/1", state)
    assert folder_of(tmp_path / "x", state) == tmp_path / "x"
    assert folder_of("c:/x", state) == Path("c:/x")
    with pytest.raises(InvalidRequest, match="give the address of an object store as a text"):
        folder_of(Path("s3://bucket/x"), state)
    async with simulated() as sim, sim_client(sim) as client:
        with pytest.raises(InvalidRequest, match="work_dir: is for an object store"):
            client.render(["a fox"], tmp_path / "x", work_dir=tmp_path / "y")


def test_the_command_line_and_a_store(shelf: Shelf, shell: Shell) -> None:
    """``render``, ``status`` and ``resume`` take the address; the first says where the ledger is."""
    shell.write("list.txt", "a fox", "an owl")
    done = shell("render", "list.txt", "--simulate", "--out", URL)
    assert done.code == 0, done.err
    check(shelf, "runs/first", 8)
    home = folder_of(URL)
    assert f"  results in {URL}, ledger and manifest in {home}" in done.err
    told = shell("status", URL, "--json").told
    assert (told["saved"], told["files"]) == (2, 8)
    assert shell("status", str(home)).code == 0
    assert shell("resume", URL, "--simulate").code == 0
    missing = shell("status", "s3://shelf/none")
    assert missing.code == 2
    assert (
        f"holds no batch (there is no .kie-mj/ledger.sqlite3 in {folder_of('s3://shelf/none')})"
        in (missing.err)
    )


def test_a_named_directory_for_the_ledger(shelf: Shelf, shell: Shell) -> None:
    """With ``--work-dir`` the ledger is there, and that directory names the batch from then on."""
    done = shell("generate", "a fox", "--simulate", "--out", URL, "--work-dir", "home", "--json")
    assert (done.code, done.told["files"]) == (0, 4)
    assert Path("home/.kie-mj/ledger.sqlite3").is_file()
    check(shelf, "runs/first", 4)
    assert shell("resume", "home", "--simulate").code == 0
    plain = shell("generate", "a fox", "--simulate", "--out", "out", "--work-dir", "home")
    assert (plain.code, plain.err.splitlines()[-1]) == (
        2,
        "kie-mj: --work-dir: is for an object store; a directory holds its own ledger",
    )


@pytest.mark.anyio
async def test_a_store_that_fails_in_between(shelf: Shelf, tmp_path: Path) -> None:
    """While the store is in trouble jobs stay pending, paid once; a resume brings them there."""
    home = tmp_path / "home"
    async with simulated() as sim, sim_client(sim) as client:
        batch = client.render(["a fox", "an owl"], URL, work_dir=home)
        await batch.plan()
        shelf.on_request = lambda seen: 403 if seen.creates else None
        with pytest.raises(Exception, match="refused"):
            async for _ in batch:
                pass
        shelf.on_request = lambda _seen: None
        with anyio.fail_after(20):
            outcomes = [one async for one in client.resume(home)]
        assert outcomes
        assert sim.books()["accepted"] == len({one.job.key for one in outcomes})
    check(shelf, "runs/first", 4 * len(outcomes))
