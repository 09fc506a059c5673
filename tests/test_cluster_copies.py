"""Files of a fleet come to this machine: whole, verified, overwriting nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import attrs
import pytest
from fleet_support import AT, CONTENT
from s3_support import ACCESS_KEY, SECRET, Shelf

from kie_mj_async.cluster.copies import BLOCK, copy
from kie_mj_async.errors import ConfigError, DownloadError, IntegrityError, WriteFailed
from kie_mj_async.jobs import Job, SavedFile, State
from kie_mj_async.requests import TextToImage

pytestmark = pytest.mark.anyio


def job_of(*contents: bytes) -> Job:
    files = tuple(
        SavedFile(
            index=index,
            path=f"fox_{index}.jpeg",
            url="",
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            media_type="image/jpeg",
            width=None,
            height=None,
            saved_at=AT,
        )
        for index, content in enumerate(contents)
    )
    return Job(key="k", request=TextToImage("a fox"), state=State.SAVED, files=files)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


def fill(folder: Path, *contents: bytes) -> Job:
    job = job_of(*contents)
    for file, content in zip(job.files, contents, strict=True):
        (folder / file.path).write_bytes(content)
    return job


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_files_come_under_the_names_that_the_fleet_gave_them(
    shared: Path, tmp_path: Path
) -> None:
    large = CONTENT + b"x" * (2 * BLOCK)
    job = fill(shared, CONTENT, large)
    mine = tmp_path / "mine" / "too"
    paths = await copy(job, str(shared), mine)
    assert paths == [mine / "fox_0.jpeg", mine / "fox_1.jpeg"]
    assert [path.read_bytes() for path in paths] == [CONTENT, large]
    # Once more: what is there is left as it is.
    before = [path.stat().st_ino for path in paths]
    assert await copy(job, str(shared), mine) == paths
    assert [path.stat().st_ino for path in paths] == before
    assert names(mine) == ["fox_0.jpeg", "fox_1.jpeg"]


async def test_nothing_of_the_users_is_overwritten(shared: Path, tmp_path: Path) -> None:
    job = fill(shared, CONTENT)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "fox_0.jpeg").write_text("my own")
    assert await copy(job, str(shared), mine) == [mine / "fox_0-2.jpeg"]
    assert (mine / "fox_0.jpeg").read_text() == "my own"
    assert (mine / "fox_0-2.jpeg").read_bytes() == CONTENT


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"x", CONTENT[::-1]])
async def test_a_file_that_was_changed_is_refused(
    shared: Path, tmp_path: Path, content: bytes
) -> None:
    job = fill(shared, CONTENT)
    (shared / "fox_0.jpeg").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"fox_0\.jpeg: is not what the fleet has saved"):
        await copy(job, str(shared), tmp_path / "mine")
    assert names(tmp_path / "mine") == []


async def test_a_directory_that_is_not_here_is_told(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="see that this machine has the same directory"):
        await copy(job_of(CONTENT), str(tmp_path / "nowhere"), tmp_path / "mine")


async def test_a_disk_that_refuses_is_told(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = fill(shared, CONTENT)
    (tmp_path / "file").touch()
    with pytest.raises(WriteFailed, match="cannot be written"):
        await copy(job, str(shared), tmp_path / "file")

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kie_mj_async.archive.parts.PartFile.write", full)
    with pytest.raises(WriteFailed, match="No space left"):
        await copy(job, str(shared), tmp_path / "mine")
    assert names(tmp_path / "mine") == []


# --- Object stores --------------------------------------------------------------------------------


@pytest.fixture
def bucket(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """An object store that the environment leads to."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", shelf.endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    (shelf.folder / "my renders").mkdir()
    return shelf


async def test_files_come_from_an_object_store(bucket: Shelf, tmp_path: Path) -> None:
    large = CONTENT + b"x" * (3 * BLOCK)
    job = fill(bucket.folder / "my renders", CONTENT, large)
    paths = await copy(job, "s3://shelf/my renders", tmp_path / "mine")
    assert [path.read_bytes() for path in paths] == [CONTENT, large]
    assert {seen.method for seen in bucket.requests} == {"GET"}


async def test_an_object_that_is_not_as_it_was_is_refused(bucket: Shelf, tmp_path: Path) -> None:
    folder = bucket.folder / "my renders"
    job = fill(folder, CONTENT)
    (folder / "fox_0.jpeg").write_bytes(CONTENT[::-1])
    with pytest.raises(IntegrityError, match=r"s3://shelf/my renders/fox_0\.jpeg: is not what"):
        await copy(job, "s3://shelf/my renders", tmp_path / "mine")
    (folder / "fox_0.jpeg").unlink()
    with pytest.raises(DownloadError, match=r"fox_0\.jpeg: cannot be read: it is not there"):
        await copy(job, "s3://shelf/my renders", tmp_path / "mine")
    assert names(tmp_path / "mine") == []


async def test_refused_credentials_are_told_without_them(bucket: Shelf, tmp_path: Path) -> None:
    job = fill(bucket.folder / "my renders", CONTENT)
    bucket.access_key = "another"
    with pytest.raises(DownloadError, match="the credentials were refused") as caught:
        await copy(job, "s3://shelf/my renders", tmp_path / "mine")
    assert ACCESS_KEY not in str(caught.value)


async def test_an_address_that_is_none_is_told(tmp_path: Path) -> None:
    job = attrs.evolve(job_of(CONTENT))
    with pytest.raises(ConfigError, match="not an object store"):
        await copy(job, "ftp://shelf/x", tmp_path / "mine")
