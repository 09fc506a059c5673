"""The shop's tests: its program as it stands, against the service that the plugin brings."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from covers import order

import kie_mj_async as mj
from kie_mj_async.testing import Simulated

BOOKS = ["The Fox", "The Lighthouse"]


def test_the_package_is_the_installed_one() -> None:
    """It comes from the wheel, typed, and with its plugin."""
    home = Path(mj.__file__).parent
    assert home.is_relative_to(sys.prefix)
    assert (home / "py.typed").is_file()
    assert mj.__version__ == version("kie-mj-async")
    assert "kie_mj_async" in entry_points(group="pytest11").names


@pytest.mark.kie(time_scale=0.004)
def test_every_book_gets_a_cover_and_is_paid_once(kie_simulator: Simulated, tmp_path: Path) -> None:
    """Run twice, it pays once."""
    for _ in range(2):
        covers = asyncio.run(order(BOOKS, tmp_path))
        assert sorted(covers.files) == sorted(BOOKS)
        assert all(path.is_file() for paths in covers.files.values() for path in paths)
    assert kie_simulator.books()["charged_total"] == 50


@pytest.mark.kie(time_scale=0.004)
def test_what_is_saved_is_counted(kie_simulator: Simulated, tmp_path: Path) -> None:
    """The program hears of each file."""
    covers = asyncio.run(order(BOOKS, tmp_path))
    sizes = [path.stat().st_size for paths in covers.files.values() for path in paths]
    assert covers.bytes == sum(sizes) > 0


@pytest.mark.kie(time_scale=0.004, faults="create.429=#1,task.fail=#2")
def test_a_book_without_a_cover_is_told(kie_simulator: Simulated, tmp_path: Path) -> None:
    """A refusal is waited out; a task that fails is told, and not charged."""
    covers = asyncio.run(order(BOOKS, tmp_path))
    assert (len(covers.files), len(covers.missing), covers.in_doubt) == (1, 1, [])
    assert kie_simulator.books()["charged_total"] == 25


@pytest.mark.kie(time_scale=0.004, faults="create.drop-reply=#1")
def test_a_book_in_doubt_is_told(kie_simulator: Simulated, tmp_path: Path) -> None:
    """A create whose reply was lost may be paid: it is not repeated."""
    covers = asyncio.run(order(BOOKS, tmp_path))
    assert (len(covers.files), len(covers.in_doubt)) == (1, 1)
    assert len(kie_simulator.books()["creates"]) == 2


@pytest.mark.anyio
@pytest.mark.kie(time_scale=0.004)
async def test_a_client_of_the_plugin(kie_client: mj.Client, tmp_path: Path) -> None:
    """The fixture's client, in an async test."""
    async with kie_client as client:
        result = await client.generate("a fox in the snow")
        assert len(await result.save(tmp_path)) == 4


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
