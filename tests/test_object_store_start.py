"""How work with an object store begins: what it must be able to do is tried before it is needed."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from s3_support import (
    ACCESS_KEY,
    LARGE,
    SECRET,
    Seen,
    Shelf,
    Written,
    name,
    stored,
    video,
)
from support import picture

from kie_mj_async.archive import object_store
from kie_mj_async.archive.object_store import PARTS, ObjectStore
from kie_mj_async.errors import ConfigError, WriteFailed

pytestmark = pytest.mark.anyio


async def test_leftovers_of_killed_runs_are_swept(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporary names older than a day go, a bounded number at a time, and nothing else."""
    monkeypatch.setattr(object_store, "MAX_SWEPT", 2)
    long_ago = time.time() - 25 * 3600
    for path, old in [
        (f"{PARTS}/a", True), (f"{PARTS}/b", True), (f"{PARTS}/c", True), (f"{PARTS}/new", False),
        (f"{PARTS}x/mine", True), ("fox.png", True), (f"sub/{PARTS}/mine", True),
    ]:  # fmt: skip
        file = shelf.folder / "renders" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"left")
        if old:
            os.utime(file, (long_ago, long_ago))
    await shelf.store("renders").prepare()
    left = [f"{PARTS}/new", f"{PARTS}x/mine", "fox.png", f"sub/{PARTS}/mine"]
    assert len(shelf.names) == len(left) + 1
    await shelf.store("renders").prepare()
    assert shelf.names == sorted(f"renders/{path}" for path in left)


async def test_preparing_leaves_nothing_and_is_done_once(shelf: Shelf) -> None:
    """The trial objects are gone afterwards; a second call asks nothing."""
    store = shelf.store("renders")
    await store.prepare()
    assert shelf.names == []
    assert shelf.unfinished == []
    asked = len(shelf.requests)
    await store.prepare()
    assert len(shelf.requests) == asked


async def test_a_store_that_ignores_conditions_is_refused(shelf: Shelf) -> None:
    """One that would overwrite is found out before anything is spent."""
    shelf.ignores = lambda _seen: True
    with pytest.raises(ConfigError, match="overwrites what should only be created"):
        await shelf.store("renders").prepare()
    assert shelf.names == []


@pytest.mark.parametrize("way", ["copy", None])
async def test_a_store_that_copies_otherwise_or_not_at_all(
    shelf: Shelf, written: Written, way: str | None
) -> None:
    """Where a condition is kept for some requests only, large files come by one that keeps it."""

    def ignores(seen: Seen) -> bool:
        return seen.method == "POST" or (seen.copies and way is None)

    shelf.ignores = ignores
    store = shelf.store("renders")
    await store.prepare()
    (shelf.folder / "renders").mkdir(exist_ok=True)
    (shelf.folder / "renders" / "fox.mp4").write_bytes(b"mine")
    shelf.requests.clear()
    content = video(LARGE)
    assert await store.keep(written(content), ".mp4", name) == "fox-2.mp4"
    assert stored(shelf, "renders/fox-2.mp4") == content
    assert stored(shelf, "renders/fox.mp4") == b"mine"
    assert [seen.copies for seen in shelf.wrote("fox-2.mp4")] == [way is not None]
    assert shelf.names == ["renders/fox-2.mp4", "renders/fox.mp4"]


async def test_a_chosen_way_of_copying_is_kept_to(shelf: Shelf, written: Written) -> None:
    """The user's own setting for copies is the only one that is tried."""
    store = shelf.store("renders", copy_if_not_exists="header:if-none-match:*")
    await store.prepare()
    assert not any("uploads" in seen.query for seen in shelf.requests)
    await store.keep(written(video(LARGE)), ".mp4", name)
    assert [seen.copies for seen in shelf.wrote("fox.mp4")] == [True]


async def test_bad_credentials_are_told_before_anything_is_spent(shelf: Shelf) -> None:
    """A wrong key is a setting to change; neither it nor the secret is in the message."""
    shelf.access_key = "AKIAANOTHER"
    with pytest.raises(ConfigError) as caught:
        await shelf.store("renders").prepare()
    said = str(caught.value)
    assert "credentials were refused (HTTP 403" in said
    assert len(said) < 300
    for secret in (ACCESS_KEY, SECRET, "Signature", "Authorization", "127.0.0.1"):
        assert secret not in said
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_what_may_not_be_deleted_is_told(shelf: Shelf) -> None:
    """Rights that lack one of the four are found out at the start."""
    shelf.on_request = lambda seen: 403 if seen.method == "DELETE" else None
    with pytest.raises(ConfigError, match="list, read, write and delete"):
        await shelf.store("renders").prepare()


async def test_a_bucket_that_is_missing(shelf: Shelf) -> None:
    """A bucket that does not exist is a setting to change."""
    missing = ObjectStore.from_url(
        "s3://nothing-here/renders",
        endpoint=shelf.endpoint, access_key_id=ACCESS_KEY, secret_access_key=SECRET, allow_http=True,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="no such bucket"):
        await missing.prepare()


async def test_a_server_that_cannot_be_reached(shelf: Shelf) -> None:
    """Nobody there: told within the patience, and not as a setting, since it may be back later."""
    shelf.stop()
    try:
        with pytest.raises(WriteFailed, match="cannot be reached") as caught:
            await shelf.store("renders", patience=0.5).prepare()
        assert caught.value.billed == "no"
    finally:
        shelf.start()


async def test_a_server_that_hangs(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes requests and never answers does not hold up the start for long."""
    monkeypatch.setattr(object_store, "TRIAL_SECONDS", 0.3)
    go_on = threading.Event()

    def hang(_seen: Seen) -> None:
        assert go_on.wait(20)

    shelf.on_request = hang
    try:
        with (
            anyio.fail_after(5),
            pytest.raises(WriteFailed, match="did not answer in time") as caught,
        ):
            await shelf.store("renders").prepare()
        assert caught.value.billed == "no"
    finally:
        go_on.set()


async def test_settings_from_the_environment(
    shelf: Shelf, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What other tools take from the environment is taken from there."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", shelf.endpoint)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    store = ObjectStore.from_url("s3://shelf/renders/")
    await store.prepare()
    assert await store.keep(written(picture()), ".png", name) == "fox.png"
    assert repr(store) == "ObjectStore('s3://shelf/renders')"
