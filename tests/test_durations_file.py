"""What was learned, kept between runs."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support import KEY

from kie_mj_async import durations_file
from kie_mj_async.durations_file import add, load, path_of
from kie_mj_async.rules.drift import LIMIT
from kie_mj_async.rules.durations import CLASSES, VERSION
from kie_mj_async.rules.kinds import Kind

FAST = Kind("mj_txt2img", "fast", "7")
OMNI = Kind("mj_omni_reference", "fast")
HOST = "https://api.kie.ai"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return path_of(tmp_path / "state", HOST)


def beside(path: Path) -> set[str]:
    """The file and whatever else lies in its folder."""
    return {one.name for one in path.parent.iterdir()}


def test_what_is_added_is_found(path: Path) -> None:
    """By the next run, which adds to it."""
    assert load(path).kinds() == []
    assert add(path, [(FAST, 61.0), (OMNI, 248.0)])
    assert add(path, [(FAST, 62.0)])
    found = load(path)
    assert found.kinds() == [OMNI, FAST]
    assert found.seconds(FAST) == pytest.approx([61.0, 62.0])


def test_a_host_has_its_own(tmp_path: Path) -> None:
    """Names differ, tell the host to people, and hold no password of an address."""
    assert path_of(tmp_path, HOST) != path_of(tmp_path, HOST + "/other")
    assert path_of(tmp_path, HOST).name.startswith("api-kie-ai-")
    assert path_of(tmp_path, "simulator").name.startswith("simulator-")
    secret = path_of(tmp_path, f"https://user:{KEY}@host.example:8443/{KEY}")
    assert secret.name.startswith("host-example-")
    assert KEY not in secret.name
    assert path_of(tmp_path, "../../../etc/passwd").parent == tmp_path / "forecast"


def test_it_is_for_its_owner_only(path: Path) -> None:
    """And nothing else is left beside it."""
    add(path, [(FAST, 61.0)])
    add(path, [(FAST, 61.0)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
    assert beside(path) == {path.name, f".{path.name}.lock"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"version": 1, "classes": 5}',
        b"x" * (2 << 20),
        b"1" * 10_000,
        b"null",
    ],
    ids=["empty", "cut", "bytes", "deep", "odd", "huge", "long", "null"],
)
def test_a_damaged_file_is_like_none(path: Path, content: bytes) -> None:
    """It hinders nobody, and is replaced by the next that learns something."""
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert load(path).kinds() == []
    assert add(path, [(FAST, 61.0)])
    assert load(path).seconds(FAST) == pytest.approx([61.0])


def test_a_newer_programs_file_is_left_alone(path: Path) -> None:
    """An old program neither reads nor replaces it."""
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"version": VERSION + 1, "classes": {}}), encoding="utf-8")
    before = path.read_bytes()
    assert not add(path, [(FAST, 61.0)])
    assert path.read_bytes() == before
    assert load(path).kinds() == []


def test_it_stays_small(path: Path) -> None:
    """The newest durations of the newest classes, and no name that could be a text."""
    add(path, [(FAST, 60.0 + n / 1000) for n in range(3 * LIMIT)])
    assert load(path).seconds(FAST)[-1] == pytest.approx(60.0 + (3 * LIMIT - 1) / 1000)
    assert len(load(path).seconds(FAST)) == LIMIT
    add(path, [(Kind("mj_txt2img", version=str(n)), 61.0) for n in range(2 * CLASSES)])
    assert len(load(path).kinds()) == CLASSES
    add(path, [(Kind("mj_txt2img", version="a fox in the snow " * 9), 61.0)])
    assert "fox" not in path.read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Is no reason to fail, only to say so to whoever reads logs."""
    (tmp_path / "state").write_text("a file", encoding="utf-8")
    path = path_of(tmp_path / "state", HOST)
    with caplog.at_level(logging.INFO):
        assert not add(path, [(FAST, 61.0)])
        assert load(path).kinds() == []
    assert str(path) in caplog.text


def test_a_replacement_that_fails_leaves_the_old_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing half written beside it."""
    add(path, [(FAST, 61.0)])

    def full(_self: Path, _to: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert not add(path, [(FAST, 62.0)])
    assert load(path).seconds(FAST) == pytest.approx([61.0])
    assert beside(path) == {path.name, f".{path.name}.lock"}


def test_many_at_once_do_no_harm(path: Path) -> None:
    """Whoever reads meanwhile finds a whole file, and whoever writes adds to the others'."""
    add(path, [(FAST, 61.0)])

    def write(number: int) -> None:
        for _ in range(20):
            add(path, [(Kind("mj_txt2img", version=str(number)), 61.0)])

    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert FAST in load(path).kinds()
    for writer in writers:
        writer.join()
    for number in range(4):
        assert len(load(path).seconds(Kind("mj_txt2img", version=str(number)))) == 20
    assert beside(path) == {path.name, f".{path.name}.lock"}


ADD = """
import sys
from pathlib import Path
from kie_mj_async import durations_file
from kie_mj_async.durations_file import add
from kie_mj_async.rules.kinds import Kind
print("ready", flush=True)
sys.stdin.readline()
for number in range(60):
    assert add(Path(sys.argv[1]), [(Kind("mj_txt2img", "fast", "7"), float(sys.argv[2]) + number)])
"""


def test_two_processes_lose_nothing(path: Path) -> None:
    """Though both add to the file at the same time, again and again."""
    command = [sys.executable, "-c", ADD, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with ExitStack() as stack:
        both = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, first],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
            )
            for first in ("100", "200")
        ]
        for one in both:
            assert one.stdout
            assert one.stdout.readline() == "ready\n"
        for one in both:
            assert one.stdin
            one.stdin.write("\n")
            one.stdin.flush()
        for one in both:
            assert one.wait(30) == 0
    expected = [float(first + number) for first in (100, 200) for number in range(60)]
    assert sorted(load(path).seconds(FAST)) == pytest.approx(expected)
    assert beside(path) == {path.name, f".{path.name}.lock"}


def test_a_damaged_lock_is_made_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It holds nothing, so nothing is lost with it."""
    lock = path.with_name(f".{path.name}.lock")
    path.parent.mkdir(parents=True)
    lock.write_bytes(b"x" * 5000)
    with caplog.at_level(logging.INFO):
        assert add(path, [(FAST, 61.0)])
    assert str(lock) in caplog.text
    assert add(path, [(FAST, 62.0)])
    assert load(path).seconds(FAST) == pytest.approx([61.0, 62.0])


def test_a_lock_that_nobody_lets_go_of_is_passed_by(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a while, and at the risk of some news: what is kept is a help only."""
    monkeypatch.setattr(durations_file, "_PATIENCE", 0.01)
    path.parent.mkdir(parents=True)
    held = sqlite3.connect(path.with_name(f".{path.name}.lock"), isolation_level=None)
    with closing(held), caplog.at_level(logging.INFO):
        held.execute("BEGIN IMMEDIATE")
        assert add(path, [(FAST, 61.0)])
    assert "without a lock" in caplog.text
