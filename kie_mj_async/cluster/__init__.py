"""A fleet of workers that share one account: PostgreSQL keeps the books, dbos the queue.

Needs the extra ``cluster``. Nothing outside this package imports dbos or psycopg, and of this package
only ``engine.py`` imports dbos.
"""
