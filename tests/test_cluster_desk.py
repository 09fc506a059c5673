"""A worker's folders for what is under way, and what is swept of the dead."""

from __future__ import annotations

import os
import time
from pathlib import Path

import anyio
import pytest
from cluster_support import ask

from kie_mj_async.cluster import desk as module
from kie_mj_async.cluster.books import Books
from kie_mj_async.cluster.desk import ABANDONED, Desk, sweep
from kie_mj_async.errors import ConfigError, WriteFailed

pytestmark = pytest.mark.anyio


def aged(folder: Path, seconds: float) -> Path:
    """A worker's folder with a part in it that was last written so long ago."""
    folder.joinpath("parts", "b").mkdir(parents=True)
    part = folder / "parts" / "b" / "x.part"
    part.write_bytes(b"half")
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (time.time() - seconds,) * 2)
    return folder


async def test_parts_of_a_directory_are_beside_the_batches_and_results_alone_in_them(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path / "local", str(tmp_path / "out"), "me")
    place = desk.place(str(tmp_path / "out" / "b"))
    await place.prepare()
    assert place.parts.folder == tmp_path / "out" / ".kie-mj" / "workers" / "me" / "parts" / "b"
    assert list((tmp_path / "out" / "b").iterdir()) == []


async def test_parts_of_a_store_are_in_the_local_folder(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "local", "s3://bucket/out", "me")
    place = desk.place("s3://bucket/out/b")
    assert place.parts.folder == tmp_path / "local" / "workers" / "me" / "parts" / "b"
    assert place.store.root == "s3://bucket/out/b"


async def test_two_workers_share_no_folder(tmp_path: Path) -> None:
    one, two = (Desk(tmp_path, str(tmp_path / "out"), name) for name in ("one", "two"))
    out = str(tmp_path / "out" / "b")
    assert one.place(out).parts.folder != two.place(out).parts.folder


async def test_a_worker_that_leaves_takes_its_folders_away_and_no_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    one, two = (Desk(tmp_path / "local", str(out), name) for name in ("one", "two"))
    for desk in (one, two):
        await desk.prepare()
        await desk.place(str(out / "b")).prepare()
    one.clear()
    assert [path.name for path in (out / ".kie-mj" / "workers").iterdir()] == ["two"]
    two.clear()
    assert list((out / ".kie-mj" / "workers").iterdir()) == []
    assert (out / "b").is_dir()


async def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("no folder")
    with pytest.raises(WriteFailed, match="out"):
        await Desk(tmp_path / "local", str(tmp_path / "out"), "me").prepare()


async def test_an_address_that_is_none_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        await Desk(tmp_path / "local", "ftp://nowhere/x", "me").prepare()


def test_old_folders_of_the_dead_are_swept(tmp_path: Path) -> None:
    aged(tmp_path / "dead", ABANDONED + 60)
    aged(tmp_path / "dead but young", 60)
    aged(tmp_path / "living", ABANDONED + 60)
    assert sweep(tmp_path, {"living"}, time.time()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"dead but young", "living"}


def test_a_folder_in_which_something_is_written_is_not_old(tmp_path: Path) -> None:
    """Another fleet may use the same directory, and its workers are in no books of ours."""
    folder = aged(tmp_path / "stranger", ABANDONED + 60)
    (folder / "parts" / "b" / "x.part").write_bytes(b"more")
    assert sweep(tmp_path, (), time.time()) == 0


def test_where_nobody_has_been_nothing_is_swept(tmp_path: Path) -> None:
    assert sweep(tmp_path / "nowhere", (), time.time()) == 0


async def test_workers_sweep_after_the_dead_here_and_in_the_shared_directory(
    books_url: str, tmp_path: Path
) -> None:
    ask(books_url, "INSERT INTO kie_mj.worker (name, host, pid) VALUES ('living', '', 1)")
    homes = (tmp_path / "local" / "workers", tmp_path / "out" / ".kie-mj" / "workers")
    for home in homes:
        aged(home / "dead", ABANDONED + 60)
        aged(home / "living", ABANDONED + 60)
    books = Books(books_url, "test")
    desk = Desk(tmp_path / "local", str(tmp_path / "out"), "me")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.keep_tidy, books)
        with anyio.fail_after(10):
            while any((home / "dead").exists() for home in homes):  # noqa: ASYNC110
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()
    await books.aclose()
    assert all((home / "living").exists() for home in homes)


async def test_a_database_that_is_away_sweeps_nothing_and_ends_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEP_EVERY", 0.01)
    aged(tmp_path / "local" / "workers" / "dead", ABANDONED + 60)
    books = Books("postgresql://u@127.0.0.1:1/nowhere", "test", patience=0.01)
    with anyio.move_on_after(0.3) as scope:
        await Desk(tmp_path / "local", str(tmp_path / "out"), "me").keep_tidy(books)
    assert scope.cancelled_caught
    await books.aclose()
    assert (tmp_path / "local" / "workers" / "dead").exists()
