"""Building the gallery: from a ledger to a page on disk, again, beside a run, and cut off."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from cli_support import Shell, complaint, manifest, serving
from gallery_support import HOST, fill, pictures, put, saved, stuck, write

from kie_mj_async.archive import page, thumbnails
from kie_mj_async.batch import folder_of, ledger_path
from kie_mj_async.errors import InvalidRequest, LedgerBusy, LedgerError, WriteFailed
from kie_mj_async.gallery import build, build_gallery
from kie_mj_async.jobs import Job, State
from kie_mj_async.ledger import SqliteLedger
from kie_mj_async.ledger.lock import ProcessLock
from kie_mj_async.ledger.sql import SQL
from kie_mj_async.ledger.sqlite import lock_path

pytestmark = pytest.mark.anyio

SLOW_BUILD = """
import sys, time
import anyio
from kie_mj_async import gallery
from kie_mj_async.archive import page
real = page.chunk
def slow(build, number, entries):
    print(number, flush=True)
    time.sleep(60 if number == 3 else 0)
    return real(build, number, entries)
page.chunk = slow
anyio.run(gallery.build, sys.argv[1])
"""


def head_of(path: Path) -> dict[str, Any]:
    """What the page knows of the whole, and the first jobs."""
    found = re.search(
        r'<script id="data" type="application/json">(.*?)</script>', path.read_text("utf-8")
    )
    assert found is not None
    data = json.loads(found[1])
    assert isinstance(data, dict)
    return data


def jobs_of(out: Path) -> list[dict[str, Any]]:
    """All jobs of the page, from its data files too."""
    head = head_of(out / "index.html")
    jobs = list(head["first"])
    for number in range(2, head["chunks"] + 1):
        text = (out / ".kie-mj" / "gallery" / head["build"] / page.chunk_name(number)).read_text(
            "utf-8"
        )
        name, told, some = json.loads(
            "[" + text.removeprefix("kieMjGallery(").removesuffix(");\n") + "]"
        )
        assert (name, told) == (head["build"], number)
        jobs += some
    return jobs


def planned(number: int, start: int = 0) -> list[Job]:
    return [
        stuck(f"k{n:05d}", f"prompt {n}", State.PLANNED, None) for n in range(start, start + number)
    ]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "my batch"


async def test_a_page_of_a_batch(out: Path) -> None:
    """The page is in the directory, is named after it, and has every job and file."""
    jobs = [
        saved("1", "a fox", pictures(out, "fox", 2)),
        stuck("2", "an owl", State.FAILED, "the moderator said no", "t2"),
    ]
    await anyio.to_thread.run_sync(fill, out, jobs)
    path = await build_gallery(out)
    assert path == out / "index.html"
    head = head_of(path)
    assert (head["title"], head["jobs"], head["pictures"]) == ("my batch", 2, 2)
    fox, owl = jobs_of(out)
    assert [file["src"] for file in fox["files"]] == ["fox_0.jpeg", "fox_1.jpeg"]
    for file in fox["files"]:
        assert (out / file["thumb"]).is_file()
        assert not file["thumb"].startswith("/")
    assert (owl["state"], owl["reason"]) == ("failed", "the moderator said no")


async def test_an_empty_batch(out: Path) -> None:
    """A batch without jobs has a page too."""
    await anyio.to_thread.run_sync(fill, out, [])
    made = await build(out)
    assert (made.jobs, head_of(made.path)["first"]) == (0, [])


async def test_a_second_build_makes_no_thumbnail_anew(out: Path) -> None:
    """Thumbnails are kept: only what is new is made, and files do not pile up."""
    await anyio.to_thread.run_sync(fill, out, [saved("1", "a fox", pictures(out, "fox"))])
    assert (await build(out)).thumbnails == 4
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.webp")}
    assert (await build(out)).thumbnails == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.webp")} == kept
    await anyio.to_thread.run_sync(
        write, out, [saved("2", "an owl", pictures(out, "owl", 1, seed=9))]
    )
    assert (await build(out)).thumbnails == 1


async def test_without_pillow_originals_are_shown(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra the page has no thumbnails and leads to the originals."""
    await anyio.to_thread.run_sync(fill, out, [saved("1", "a fox", pictures(out, "fox"))])
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert (await build(out)).thumbnails == 0
    (fox,) = jobs_of(out)
    assert [file["src"] for file in fox["files"]] == [f"fox_{n}.jpeg" for n in range(4)]
    assert not any("thumb" in file for file in fox["files"])


async def test_a_file_that_is_gone(out: Path) -> None:
    """A file that the ledger knows and the disk does not is marked."""
    await anyio.to_thread.run_sync(fill, out, [saved("1", "a fox", pictures(out, "fox", 2))])
    (out / "fox_1.jpeg").unlink()
    await build(out)
    (fox,) = jobs_of(out)
    assert [file.get("gone", False) for file in fox["files"]] == [False, True]


async def test_many_jobs_are_spread_over_data_files(out: Path) -> None:
    """The page holds the first few hundred jobs itself, the rest is beside it, in order."""
    await anyio.to_thread.run_sync(fill, out, planned(2 * page.JOBS_PER_CHUNK + 1))
    await build(out)
    head = head_of(out / "index.html")
    assert (head["chunks"], len(head["first"])) == (3, page.JOBS_PER_CHUNK)
    assert [job["key"] for job in jobs_of(out)] == [f"k{n:05d}" for n in range(501)]


async def test_old_data_go_after_the_page(out: Path) -> None:
    """Each build has data of its own; those of the page before, and of a killed build, go."""
    await anyio.to_thread.run_sync(fill, out, planned(300))
    await build(out)
    first = head_of(out / "index.html")["build"]
    (out / ".kie-mj" / "gallery" / "killed").mkdir()
    await build(out)
    second = head_of(out / "index.html")["build"]
    assert first != second
    assert [one.name for one in (out / ".kie-mj" / "gallery").iterdir()] == [second]
    assert len(jobs_of(out)) == 300


async def test_beside_a_run_that_writes(out: Path) -> None:
    """While a run works in the directory the page is made all the same, and says so."""
    await anyio.to_thread.run_sync(fill, out, planned(600))
    ledger = await SqliteLedger.open(ledger_path(out), HOST)
    try:
        async with anyio.create_task_group() as tasks:

            async def keep_writing() -> None:
                for n in range(10_000):
                    await ledger.add(f"more-{n:05d}", planned(1, 9000)[0].request)

            tasks.start_soon(keep_writing)
            made = await build(out)
            tasks.cancel_scope.cancel()
    finally:
        await ledger.aclose()
    assert made.worker == os.getpid()
    assert head_of(made.path)["atWork"]
    assert len(jobs_of(out)) == made.jobs >= 600


async def test_a_create_under_way(out: Path) -> None:
    """It is pending while a run is on it and unresolved when none is."""
    await anyio.to_thread.run_sync(fill, out, [stuck("1", "a fox", State.SUBMITTING, None)])
    await build(out)
    assert jobs_of(out)[0]["state"] == "unresolved"
    lock = ProcessLock(lock_path(ledger_path(out)), out)
    try:
        await build(out)
    finally:
        lock.release()
    assert jobs_of(out)[0]["state"] == "pending"


def test_a_killed_build_leaves_the_old_page_whole(out: Path) -> None:
    """Killed while it writes its data, a build has changed nothing that the old page needs."""
    fill(out, planned(600))
    anyio.run(build, out)
    before = (out / "index.html").read_bytes()
    write(out, planned(400, 600))
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_BUILD, str(out)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "3\n":
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert (out / "index.html").read_bytes() == before
    assert len(jobs_of(out)) == 600
    anyio.run(build, out)
    assert len(jobs_of(out)) == 1000
    assert len(list((out / ".kie-mj" / "gallery").iterdir())) == 1


async def test_cancelled(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that is cancelled ends soon, leaves the old page, and lets the next one in."""
    await anyio.to_thread.run_sync(fill, out, [saved("1", "a fox", pictures(out, "fox"))])
    await build(out)
    before = (out / "index.html").read_bytes()
    shot = thumbnails.Thumbnails.of

    async def cancelling(self: Any, files: Any) -> Any:
        scope.cancel()
        return await shot(self, files)

    with monkeypatch.context() as patch, anyio.CancelScope() as scope:
        patch.setattr(thumbnails.Thumbnails, "of", cancelling)
        await build(out)
    assert scope.cancelled_caught
    assert (out / "index.html").read_bytes() == before
    await build(out)


async def test_one_build_at_a_time(out: Path) -> None:
    """Two builds would take away each other's data: the second is refused."""
    await anyio.to_thread.run_sync(fill, out, planned(1))
    await build(out)
    lock = ProcessLock(out / ".kie-mj" / "gallery.lock", out)
    try:
        with pytest.raises(LedgerBusy, match=r"index\.html: process \d+ is working on it"):
            await build(out)
    finally:
        lock.release()
    await build(out)


async def test_a_directory_without_a_batch(tmp_path: Path) -> None:
    """It is refused, whatever it is, and nothing is made in it."""
    with pytest.raises(InvalidRequest, match="holds no batch"):
        await build_gallery(str(tmp_path))
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match="is a file; choose a directory"):
        await build_gallery(tmp_path / "file")
    with pytest.raises(InvalidRequest, match="cannot be used"):
        await build_gallery(tmp_path / ("x" * 300))


async def test_something_that_is_no_ledger(out: Path) -> None:
    """A damaged ledger is said to be one."""
    ledger_path(out).parent.mkdir(parents=True)
    ledger_path(out).write_bytes(b"no ledger" * 200)
    with pytest.raises(LedgerError, match="damaged or no ledger"):
        await build(out)


async def test_a_disk_that_refuses(out: Path) -> None:
    """That the page cannot be written is said with its path; no part of it is left."""
    await anyio.to_thread.run_sync(fill, out, planned(1))
    (out / "index.html").mkdir()
    with pytest.raises(WriteFailed, match=r"index\.html: cannot be written"):
        await build(out)
    assert not (out / ".index.html.new").exists()
    (out / "index.html").rmdir()
    (out / ".kie-mj" / "gallery.lock").unlink()
    for left in (out / ".kie-mj" / "gallery").iterdir():
        left.rmdir()
    (out / ".kie-mj" / "gallery").rmdir()
    (out / ".kie-mj" / "gallery").write_text("")
    with pytest.raises(WriteFailed, match=r"index\.html: cannot be written"):
        await build(out)


async def test_a_reason_that_no_file_can_hold(out: Path) -> None:
    """Half a character in a message (a path with a byte that is no text) does not stop the page."""
    jobs = [stuck("1", "a fox", State.FAILED, "cannot write \udcff"), *planned(300)]
    await anyio.to_thread.run_sync(fill, out, jobs)
    await build(out)
    assert jobs_of(out)[0]["reason"] == "cannot write ?"


async def test_files_in_an_object_store(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of such a batch is where its ledger is, and goes by the store's address."""
    monkeypatch.setenv("KIE_STATE_DIR", str(out))
    root = folder_of("s3://bucket/foxes")
    files = pictures(out / "elsewhere", "fox", 2)
    await anyio.to_thread.run_sync(fill, root, [saved("1", "a fox", files)])
    with closing(sqlite3.connect(ledger_path(root))) as db, db:
        db.execute(SQL["write_meta"], {"name": "store", "value": "s3://bucket/foxes"})
    path = await build_gallery("s3://bucket/foxes")
    assert path == root / "index.html"
    head = head_of(path)
    assert head["title"] == head["store"] == "s3://bucket/foxes"
    assert head["steps"]["pending"][0][0] == "kie-mj resume s3://bucket/foxes"
    assert all(file["gone"] for file in jobs_of(root)[0]["files"])


def test_the_command(shell: Shell) -> None:
    """It says where the page is and what it holds; the manifest is made anew; no key is needed."""
    with serving() as service:
        shell.use(service)
        shell.write("list.txt", "a fox", "an owl")
        shell("render", "list.txt", "--out", "out", "--yes")
    shell.patch.delenv("KIE_API_KEY")
    (shell.folder / "out" / "manifest.jsonl").unlink()
    result = shell("gallery", "out")
    assert (result.code, result.err) == (0, "")
    where, holds, anew = result.out.splitlines()
    assert where == "out/index.html"
    assert holds == "  2 jobs, 8 pictures, 0 thumbnails made"
    assert anew == "  out/manifest.jsonl is made anew"
    assert len(manifest(shell.folder / "out")) == 8


def test_the_command_beside_a_run(shell: Shell) -> None:
    """A run keeps the manifest of its directory, so it is left alone."""
    out = shell.folder / "out"
    fill(out, [saved("1", "a fox", pictures(out, "fox"))])
    (out / "manifest.jsonl").write_text("the run's\n")
    lock = ProcessLock(lock_path(ledger_path(out)), out)
    try:
        result = shell("gallery", "out")
    finally:
        lock.release()
    assert result.code == 0
    assert f"process {os.getpid()} is working on the directory" in result.out
    assert (out / "manifest.jsonl").read_text() == "the run's\n"


def test_the_command_for_videos(shell: Shell) -> None:
    """Videos are counted apart."""
    out = shell.folder / "out"
    clip = put(out, "v.mp4", b"clip", media_type="video/mp4", width=None, height=None)
    fill(out, [saved("1", "a fox", [clip])])
    assert "1 job, 0 pictures, 1 video, 0 thumbnails made" in shell("gallery", "out").out


def test_a_simulated_directory_needs_no_flag(shell: Shell) -> None:
    """Nothing is sent, so it does not matter where the tasks live."""
    shell.write("list.txt", "a fox")
    shell("render", "list.txt", "--out", "out", "--simulate", "--yes")
    assert shell("gallery", "out").code == 0
    head = head_of(shell.folder / "out" / "index.html")
    assert head["steps"]["pending"][0][0] == "kie-mj resume out --simulate"


def test_the_command_without_a_batch(shell: Shell) -> None:
    """It is one line and exit 2."""
    assert "holds no batch" in complaint(shell("gallery", "nowhere"))
    assert not (shell.folder / "nowhere").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_batch(tmp_path: Path) -> None:
    """Jobs go through page by page; what is kept of each is a count."""

    def peak(out: Path, number: int) -> int:
        fill(out, planned(number))
        tracemalloc.start()
        try:
            anyio.run(build, out)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(tmp_path / "warm", 10)
    # What other tests left would make the collector lazy, and garbage count as memory.
    gc.collect()
    gc.freeze()
    try:
        few, many = peak(tmp_path / "few", 1000), peak(tmp_path / "many", 6000)
    finally:
        gc.unfreeze()
    assert many < 1.3 * few
