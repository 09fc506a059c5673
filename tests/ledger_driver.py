"""Takes a list into a batch of a fleet's books, as a process of its own: ``URL BATCH FIRST LAST``."""

from __future__ import annotations

import sys

import anyio

from kie_mj_async.cluster.books import Books
from kie_mj_async.cluster.enqueuing import enqueue
from kie_mj_async.cluster.ledger import PostgresLedger
from kie_mj_async.requests import TextToImage

PART = 50


async def main(url: str, batch: str, first: int, last: int) -> None:
    books = Books(url, "driver")
    ledger = await PostgresLedger.open(books, batch, enqueue=enqueue)
    async with ledger.staging() as staging:
        for start in range(first, last, PART):
            await staging.add([TextToImage(f"fox {n}") for n in range(start, start + PART)])
    sys.stdout.write(f"{staging.run}\n")
    await books.aclose()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
