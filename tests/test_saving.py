"""All results of a task: fresh links for refused ones, at most twice, and what is saved stays saved."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from support import VIRTUAL, Made, Rig, place

from kie_mj_async.archive.downloader import LinkRefused
from kie_mj_async.errors import (
    DownloadError,
    IntegrityError,
    KieError,
    LedgerError,
    NotFound,
    ResultExpired,
    ServerError,
    WriteFailed,
)
from kie_mj_async.jobs import SavedFile
from kie_mj_async.requests import TextToImage

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL


@attrs.define
class Saving:
    """A finished task of two results, and what came of saving it."""

    rig: Rig
    root: Path
    task: Made
    urls: tuple[str, ...]
    files: list[SavedFile] = attrs.field(factory=list)
    relinks: list[tuple[str, ...]] = attrs.field(factory=list)
    keep_error: KieError | None = None

    async def go(self) -> None:
        async def keep(file: SavedFile) -> None:
            if self.keep_error is not None:
                raise self.keep_error
            self.files.append(file)

        async def relinked(urls: tuple[str, ...]) -> None:
            self.relinks.append(urls)

        await self.rig.saver.save(
            self.task.id,
            self.urls,
            [0, 1],
            place(self.root),
            name=lambda index: lambda extension, _attempt: f"{index}{extension}",
            keep=keep,
            relinked=relinked,
        )


@pytest.fixture
async def saving(tmp_path: Path) -> Saving:
    rig = Rig()
    rig.service.lasts = 0.0
    task = rig.service.make(TextToImage("a fox"))
    return Saving(rig, tmp_path, task, rig.service.truth(task).urls)


def dead(*urls: str) -> object:
    return lambda url, _count: LinkRefused("403", url=url) if url in urls else None


async def test_all_at_once(saving: Saving) -> None:
    """Results are fetched at the same time, each kept as soon as it is there."""
    start = saving.rig.now
    await saving.go()
    assert sorted(file.index for file in saving.files) == [0, 1]
    assert saving.rig.now == start + 1
    assert saving.relinks == []


async def test_a_refused_link_is_replaced(saving: Saving) -> None:
    """Only the refused result gets a minted link and is fetched again; all links are told."""
    first, second = saving.urls
    saving.rig.downloader.on_fetch = dead(first)  # type: ignore[assignment]
    await saving.go()
    assert saving.rig.service.minted == [first]
    assert saving.relinks == [(first + "?fresh", second)]
    assert saving.rig.downloader.fetched.count(second) == 1
    assert sorted(file.index for file in saving.files) == [0, 1]


async def test_the_record_may_know_a_better_link(saving: Saving) -> None:
    """Where record-info names another link by now, that one is used and none is minted."""
    better = tuple(url.replace("files", "other") for url in saving.urls)
    saving.rig.downloader.on_fetch = dead(*saving.urls)  # type: ignore[assignment]
    truth = saving.rig.service.truth(saving.task)
    saving.rig.service.on_record = lambda _t, _n: attrs.evolve(truth, urls=better)
    await saving.go()
    assert saving.rig.service.minted == []
    assert saving.relinks == [better]


async def test_fresh_links_at_most_twice(saving: Saving) -> None:
    """A result whose fresh links are refused too is given up after two of them; the other is kept."""
    saving.rig.downloader.on_fetch = lambda url, _n: (
        LinkRefused("403", url=url) if "/0" in url else None
    )
    with pytest.raises(LinkRefused):
        await saving.go()
    assert len(saving.rig.service.minted) == 2
    assert [file.index for file in saving.files] == [1]


async def test_no_fresh_link_to_be_had(saving: Saving) -> None:
    """Where no fresh link can be had the error tells both troubles."""
    saving.rig.downloader.on_fetch = dead(*saving.urls)  # type: ignore[assignment]
    saving.rig.service.on_link = lambda _url: ServerError("boom", code=500)
    with pytest.raises(DownloadError, match=r"403; and no fresh link could be had: boom") as caught:
        await saving.go()
    assert caught.value.task_id == saving.task.id


async def test_a_task_that_is_gone(saving: Saving) -> None:
    """When the service no longer knows the task its results have expired."""
    saving.rig.downloader.on_fetch = dead(*saving.urls)  # type: ignore[assignment]
    saving.rig.service.on_record = lambda _t, _n: NotFound("recordInfo is null", code=422)
    with pytest.raises(ResultExpired) as caught:
        await saving.go()
    assert caught.value.task_id == saving.task.id


async def test_other_troubles_ask_for_no_link(saving: Saving) -> None:
    """A file that never comes whole is no matter of links; the other results are still kept."""
    saving.rig.downloader.on_fetch = lambda url, _n: (
        IntegrityError("half", url=url) if "/1" in url else None
    )
    with pytest.raises(IntegrityError):
        await saving.go()
    assert saving.rig.service.minted == []
    assert [file.index for file in saving.files] == [0]


@pytest.mark.parametrize("error", [LedgerError("disk full"), WriteFailed("disk full")])
async def test_what_keeping_raises_comes_out_as_it_is(saving: Saving, error: KieError) -> None:
    """A ledger or manifest that cannot be written raises its own error, not a group of them."""
    saving.keep_error = error
    with pytest.raises(type(error)) as caught:
        await saving.go()
    assert caught.value is error
