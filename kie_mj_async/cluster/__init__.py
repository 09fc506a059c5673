"""A fleet of workers that share one account: PostgreSQL keeps the books, dbos the queue.

Needs the extra ``cluster``. Nothing outside this package imports dbos or psycopg, and of this package
only ``engine.py`` imports dbos.

``Cluster`` is where to begin: what a web replica or a script holds. It needs no API key and sends
nothing to the service; ``kie-mj worker`` does. ::

    from kie_mj_async.cluster import Cluster

    async with Cluster("postgresql://app@db/app") as cluster:
        result = await cluster.generate("a fox in the snow", key="order-17")
        paths = await result.save("fox/")

        async for outcome in cluster.render(["a fox", "a lighthouse"], batch="calendar"):
            ...
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import Cluster, QueuedJob
    from .listing import FleetBatch
    from .overview import AccountStatus, FleetStatus, WorkerStatus

# What needs psycopg comes when it is first asked for.
_LATER = {
    "AccountStatus": "overview",
    "Cluster": "client",
    "FleetBatch": "listing",
    "FleetStatus": "overview",
    "QueuedJob": "client",
    "WorkerStatus": "overview",
}

__all__ = [
    "AccountStatus",
    "Cluster",
    "FleetBatch",
    "FleetStatus",
    "QueuedJob",
    "WorkerStatus",
]


if not TYPE_CHECKING:  # a type checker would take every misspelt name for one that comes later

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            module = import_module(f".{_LATER[name]}", __name__)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "psycopg":
                raise
            message = "a fleet needs the extra 'cluster': pip install 'kie-mj-async[cluster]'"
            raise ImportError(message, name=error.name) from None
        return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
