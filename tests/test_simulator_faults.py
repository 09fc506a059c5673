"""The ``--faults`` language and its decisions."""

from __future__ import annotations

import pytest

from kie_mj_async.simulator import KINDS, Faults


def hits(text: str, place: str, kind: str, events: int = 1000, *, seed: int = 0) -> list[int]:
    faults = Faults.parse(text)
    return [count for count in range(1, events + 1) if faults.pick(seed, place, count) == kind]


def test_nothing_asked_for_nothing_happens() -> None:
    """An empty spec, and one of blanks and commas, has no faults."""
    for text in ("", " , ,"):
        assert Faults.parse(text).pick(0, "create", 1) is None


def test_exact_events() -> None:
    """``#3+7`` is the 3rd and the 7th event and no other."""
    assert hits("create.drop-reply=#3+7", "create", "drop-reply") == [3, 7]


@pytest.mark.parametrize("text", ["poll.500=5%", "poll.500=0.05", " poll.500 = 5% "])
def test_probabilities(text: str) -> None:
    """Percent and fractions mean the same, and are kept on the whole."""
    found = hits(text, "poll", "500", 4000)
    assert 140 < len(found) < 260
    assert found == hits("poll.500=5%", "poll", "500", 4000)


def test_certain_and_impossible() -> None:
    """100 % is always and 0 is never."""
    assert len(hits("poll.500=100%", "poll", "500", 200)) == 200
    assert hits("poll.500=0", "poll", "500", 200) == []


def test_decisions_depend_on_seed_and_scope() -> None:
    """Another seed, or another task, has its faults at other events."""
    faults = Faults.parse("poll.500=50%")
    runs = {
        tuple(faults.pick(seed, "poll", count, scope=scope) for count in range(40))
        for seed in (0, 1)
        for scope in ("a", "b")
    }
    assert len(runs) == 4


def test_the_first_of_two_wins() -> None:
    """Where two faults hit the same event, the one named first happens."""
    assert Faults.parse("poll.empty=#1,poll.500=1").pick(0, "poll", 1) == "empty"
    assert Faults.parse("poll.empty=#1,poll.500=1").pick(0, "poll", 2) == "500"


def test_senseless_kinds_are_passed_over() -> None:
    """A fault that makes no sense at an event leaves room for the next one."""
    faults = Faults.parse("download.no-range=1,download.503=1")
    assert faults.pick(0, "download", 1, without=("no-range",)) == "503"


def test_a_dead_link_stays_dead() -> None:
    """A link is dead at every download or at none."""
    faults = Faults.parse("download.dead-link=50%")
    for scope in "abcdefgh":
        kinds = {faults.pick(0, "download", count, scope=scope) for count in range(1, 9)}
        assert len(kinds) == 1


def test_modifiers_are_no_faults_of_their_own() -> None:
    """Retry-After changes another answer; it is never picked."""
    faults = Faults.parse("create.retry-after=1")
    assert faults.pick(0, "create", 1) is None
    assert faults.modifies(0, "create", "retry-after", 1)
    assert not faults.modifies(0, "poll", "retry-after", 1)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("nowhere.500=1", list(KINDS)),
        ("create=1", list(KINDS["create"])),
        ("create.nothing=1", list(KINDS["create"])),
        ("download.html-charged=1", list(KINDS["download"])),
        ("create.429", ["5%", "0.05", "#3+7"]),
        ("create.429=often", ["5%", "0.05", "#3+7"]),
        ("create.429=101%", ["often", "5%"][1:]),
        ("create.429=-0.1", ["5%"]),
        ("create.429=nan", ["5%"]),
        ("create.429=#0", ["5%"]),
        ("create.429=#1+", ["5%"]),
    ],
)
def test_mistakes_tell_what_exists(text: str, named: list[str]) -> None:
    """A message quotes the mistake and lists what there is instead."""
    with pytest.raises(ValueError, match="fault") as caught:
        Faults.parse(text)
    assert text in str(caught.value)
    for name in named:
        assert name in str(caught.value)
