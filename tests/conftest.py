"""Fixtures shared by all tests."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_support import Opened, make_batch, opening, running
from cli_support import Shell

if TYPE_CHECKING:
    from s3_support import Shelf, Written

    from kie_mj_async.archive.object_store import ObjectStore
    from kie_mj_async.archive.parts import PartFile

collect_ignore = ["consumer"]  # a project of its own, which .ci/consumer tests


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Half as many more processes as cores, for tests wait for sockets and other processes a lot."""
    if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    return (os.cpu_count() or 1) * 3 // 2


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def untraced() -> Iterator[None]:
    """Coverage looks away: its tracing would make a test that computes many times slower."""
    tracing = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracing)


@pytest.fixture(scope="session")
def _states(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """State directories, which are made by whoever needs them: most tests need none."""
    folder = tmp_path_factory.mktemp("states")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _state_of_its_own(_states: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or touches the user's state directory, or the user's settings."""
    monkeypatch.setenv("KIE_STATE_DIR", str(next(_states)))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(next(_states)))
    monkeypatch.delenv("KIE_CONFIG", raising=False)
    for name in ("KIE_PROXY", "KIE_CA_FILE", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's chromium. Its driver keeps an event loop in this thread as long as it runs."""
    with running() as chromium:
        yield chromium


@pytest.fixture
def opened(browser: Any) -> Iterator[Opened]:
    """Opens pages of the gallery."""
    with opening(browser) as go:
        yield go


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A real PostgreSQL, started by the first test of this process that asks for it."""
    from postgres_support import running as server_running

    with server_running() as server:
        yield server


@pytest.fixture
def database(postgres: Any) -> Iterator[str]:
    """The URL of a fresh and empty database."""
    with postgres.fresh() as url:
        yield url


@pytest.fixture
def books_url(postgres: Any) -> Iterator[str]:
    """The URL of a fresh database with the tables of a fleet's books in it."""
    from kie_mj_async.cluster.schema import migrate

    with postgres.fresh(migrate) as url:
        yield url


@pytest.fixture
def queue_url(postgres: Any) -> Iterator[str]:
    """The URL of a fresh database with a fleet's books, and its queue, in it."""
    from fleet_runs import prepare

    with postgres.fresh(prepare) as url:
        yield url


@pytest.fixture
async def yard(queue_url: str, tmp_path: Path) -> AsyncIterator[Any]:
    """A fleet's database and a service, for workers' roads within this process."""
    from road_support import yard_on

    async with yard_on(queue_url, tmp_path) as made:
        yield made


@pytest.fixture
def fleet(postgres: Any, tmp_path: Path) -> Iterator[Any]:
    """Workers, as processes of their own, on a fresh database that is ready for them."""
    from cluster_support import fleet as on_database

    with on_database(postgres, tmp_path) as workers:
        yield workers


@pytest.fixture(scope="session")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a batch with something of everything; not to be changed."""
    return make_batch(tmp_path_factory.mktemp("batches") / "my foxes")


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Shell:
    """The command line, run in this process, away from the real home and the real service."""
    return Shell(tmp_path, monkeypatch, capfd)


@pytest.fixture
def true_sizes() -> bool:
    """Whether files are large and parts are cut as for users; else smaller, so that tests are quick."""
    return False


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, true_sizes: bool) -> Iterator[Shelf]:
    """An object store's server."""
    from s3_support import CHUNK, shelf_in

    from kie_mj_async.archive import object_upload

    if not true_sizes:
        monkeypatch.setattr(object_upload, "CHUNK", CHUNK)
        monkeypatch.setattr(object_upload, "WHOLE", CHUNK)
    for variable in list(os.environ):
        if variable.startswith("AWS_"):
            monkeypatch.delenv(variable)
    with shelf_in(tmp_path / "data") as made:
        yield made


@pytest.fixture
async def store(shelf: Shelf) -> ObjectStore:
    """An object store, ready."""
    made = shelf.store("renders")
    await made.prepare()
    shelf.requests.clear()
    return made


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    """Makes finished part files."""
    from s3_support import part_of

    parts: list[PartFile] = []

    def write(content: bytes) -> PartFile:
        parts.append(part_of(tmp_path / "parts", content))
        return parts[-1]

    yield write
    for part in parts:
        part.close()
