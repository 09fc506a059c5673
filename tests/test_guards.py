"""The rows of ``tests/guards.py`` fit the source: the script itself runs in CI, after the tests."""

import pytest
from guards import GUARDS, ROOT, Guard


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_row_fits_the_source(guard: Guard) -> None:
    """A guard's text occurs once in its file, and its test exists."""
    text = (ROOT / "kie_mj_async" / guard.file).read_text(encoding="utf-8")
    assert text.count(guard.guard) == 1
    assert guard.gone != guard.guard
    path, _, name = guard.test.partition("::")
    tests = (ROOT / path).read_text(encoding="utf-8")
    assert f"def {name.partition('[')[0]}(" in tests
