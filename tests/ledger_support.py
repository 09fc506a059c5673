"""Every store of jobs, for the tests of their contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kie_mj_async.ledger import Ledger, MemoryLedger, SqliteLedger

STORES = ["sqlite", "memory", "postgres"]
HOST = "https://api.example"


@asynccontextmanager
async def store(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Ledger]:
    """An empty ledger of the kind that the fixture's parameter names."""
    made: Ledger
    if request.param == "sqlite":
        made = await SqliteLedger.open(folder / "ledger.sqlite3", HOST)
    elif request.param == "memory":
        made = MemoryLedger()
    else:
        async with in_postgres(request.getfixturevalue("books_url")) as made:
            yield made
        return
    yield made
    await made.aclose()


@asynccontextmanager
async def in_postgres(
    url: str, batch: str = "b", worker: str | None = None
) -> AsyncIterator[Ledger]:
    """A batch in the fleet's books."""
    from kie_mj_async.cluster.books import Books
    from kie_mj_async.cluster.ledger import PostgresLedger

    books = Books(url, "tests", worker=worker, patience=10)
    try:
        yield await PostgresLedger.open(books, batch)
    finally:
        await books.aclose()
