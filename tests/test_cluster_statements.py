"""The ledger's statements as PostgreSQL takes them."""

from __future__ import annotations

import re

import pytest

from kie_mj_async.cluster.statements import READS, SQL, of_batch
from kie_mj_async.ledger.sql import SQL as SHARED

SHARED_ALIKE = sorted(name for name in SHARED if name in SQL and name != "insert_job")


@pytest.mark.parametrize("name", SHARED_ALIKE)
def test_each_statement_is_confined_to_its_batch(name: str) -> None:
    """No table is named but with the batch beside it."""
    text = SQL[name].decode()
    named = re.findall(r"\b(?:FROM|JOIN|INTO|UPDATE) (?!SET\b)(kie_mj\.)?\w+", text)
    tables = [one for one in named if one]
    assert len(tables) == len(re.findall(r"\b(?:FROM|JOIN|INTO|UPDATE) (?!\(|SET\b)", text)) > 0
    assert text.count("%(batch)s") == len(tables)


def test_what_changes_nothing_is_known() -> None:
    assert {"page", "scan", "counts", "job_by_key", "find_batch"} <= READS
    assert not {"update_job", "insert_job", "take_new", "to_queue", "mark", "last_mark"} & READS


def test_a_percent_sign_and_a_cast_are_no_placeholders() -> None:
    text = of_batch("SELECT key FROM job WHERE key LIKE 'a%' AND (:run IS NULL OR run = :run)")
    assert "FROM (SELECT * FROM kie_mj.job WHERE batch = :batch) AS job" in text
    assert ":run::integer IS NULL" in text
