"""What decisions come to."""

from __future__ import annotations

from kie_mj_async.simulator import KINDS
from kie_mj_async.simulator.verdicts import REFUSALS


def test_every_refusal_is_a_fault_that_exists() -> None:
    """Words for faults that nobody can ask for would be dead."""
    assert set(REFUSALS) <= set(KINDS["create"])


def test_every_code_of_the_service_has_words() -> None:
    """The documented codes of a refusal can all be had (kie-api.md, hosts and auth)."""
    codes = {code for code, _ in REFUSALS.values()}
    assert codes >= {400, 401, 402, 404, 422, 429, 455, 500, 501, 505}
