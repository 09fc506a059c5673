"""The durable memory of jobs: one contract, a store on disk and one in memory."""

from .base import Attempt, Cursor, Ledger, PastEvent, Staged, Staging
from .memory import MemoryLedger
from .sqlite import SqliteLedger

__all__ = [
    "Attempt",
    "Cursor",
    "Ledger",
    "MemoryLedger",
    "PastEvent",
    "SqliteLedger",
    "Staged",
    "Staging",
]
