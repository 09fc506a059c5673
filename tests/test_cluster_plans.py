"""How PostgreSQL goes about the statements of a fleet, with tables that it has counted before."""

from __future__ import annotations

import anyio
import pytest
from cluster_support import ask

from kie_mj_async.cluster.books import Books
from kie_mj_async.cluster.ledger import PostgresLedger
from kie_mj_async.engine.staging import stage
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules.billing import Prices

pytestmark = pytest.mark.anyio


@pytest.mark.slow
async def test_a_long_list_is_taken_in_soon_though_its_batch_is_new_to_the_tables_statistics(
    books_url: str,
) -> None:
    books = Books(books_url, "test")
    await books.open()

    async def take_in(batch: str, jobs: int) -> None:
        ledger = await PostgresLedger.open(books, batch)
        await stage(ledger, (TextToImage(f"a fox, number {n}") for n in range(jobs)), Prices())

    try:
        await take_in("known", 300)
        ask(books_url, "ANALYZE")
        with anyio.fail_after(15):  # with a look at each job for each job: minutes
            await take_in("new", 20_000)
            await take_in("new", 20_000)
    finally:
        await books.aclose()
    assert ask(books_url, "SELECT count(*) FROM kie_mj.job") == [(20_300,)]
