"""The durable memory of jobs: one contract, a store on disk and one in memory."""

from .base import Cursor, Ledger, PastEvent, Staging
from .memory import MemoryLedger
from .sqlite import SqliteLedger

__all__ = ["Cursor", "Ledger", "MemoryLedger", "PastEvent", "SqliteLedger", "Staging"]
