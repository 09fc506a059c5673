"""What is known of how long tasks take."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.rules.drift import LIMIT
from kie_mj_async.rules.durations import CLASSES, Durations, histogram
from kie_mj_async.rules.kinds import Kind

FAST = Kind("mj_txt2img", "fast", "7")
OLD = Kind("mj_txt2img", "fast", "6.1")
OMNI = Kind("mj_omni_reference", "fast", "7")
kinds = st.builds(Kind, *[st.sampled_from(["", "mj_video", "fast", "7", "oref"])] * 4)
stories = st.lists(st.tuples(kinds, st.floats(0.01, 1e4)), max_size=40)


def taught(kind: Kind, count: int, middle: float = 61.0, seed: int = 1) -> Durations:
    chance, durations = random.Random(seed), Durations()
    for _ in range(count):
        durations.observe(kind, chance.gauss(middle, 0.057 * middle))
    return durations


def told(story: list[tuple[Kind, float]]) -> Durations:
    durations = Durations()
    for kind, seconds in story:
        durations.observe(kind, seconds)
    return durations


def test_a_class_without_durations_takes_what_was_recorded_or_anything() -> None:
    """The median is the recordings', and five times more or less is well possible."""
    spread = Durations().spread(OMNI)
    assert spread.quantile(0.5) == pytest.approx(248, rel=0.05)
    assert spread.alive(248 / 5) < 0.9
    assert spread.alive(248 * 5) > 0.1
    assert spread.known == 0


def test_a_scaled_clock_scales_the_guess() -> None:
    """A simulator's hundredth of a minute is the middle there."""
    assert Durations(0.01).spread(FAST).quantile(0.5) == pytest.approx(0.61, rel=0.05)


def test_thirty_durations_make_a_distribution() -> None:
    """Its quantiles are those of the service."""
    spread = taught(FAST, 30).spread(FAST)
    assert spread.quantile(0.5) == pytest.approx(61, rel=0.03)
    assert 52 < spread.quantile(0.1) < 59 < 63 < spread.quantile(0.9) < 71


def test_a_version_borrows_from_another() -> None:
    """What is known of one version is believed of the next, until it has durations of its own."""
    durations = taught(OLD, 30, middle=30.0)
    assert durations.spread(FAST).quantile(0.5) == pytest.approx(30, rel=0.1)
    for _ in range(10):
        durations.observe(FAST, 90.0)
    assert durations.spread(FAST).quantile(0.5) == pytest.approx(90, rel=0.05)


def test_a_host_that_is_ten_times_as_fast_is_so_for_every_class() -> None:
    """Durations are lent in proportion to what was expected of each class."""
    assert taught(FAST, 30, middle=6.1).spread(OMNI).quantile(0.5) == pytest.approx(24.8, rel=0.15)


def test_a_slowdown_moves_the_distribution_within_ten_completions() -> None:
    """The old durations have lost their weight by then."""
    durations = taught(FAST, 60)
    chance = random.Random(2)
    for _ in range(10):
        durations.observe(FAST, 1.5 * chance.gauss(61, 3.5))
    assert durations.spread(FAST).quantile(0.5) == pytest.approx(91.5, rel=0.05)
    assert durations.spread(FAST).alive(75) > 0.9


def test_running_tasks_tell_of_a_slowdown_before_any_has_ended() -> None:
    """Twenty that run at an age where all have ended make such ages likely."""
    durations = taught(FAST, 30)
    assert durations.spread(FAST).alive(85) < 0.03
    assert durations.spread(FAST, [(85.0, 20.0)]).alive(85) > 0.3
    # A few stragglers, or tasks at an age where most still run, say little.
    assert durations.spread(FAST, [(85.0, 1.0)]).alive(85) < 0.08
    assert durations.spread(FAST, [(20.0, 100.0)]).alive(85) < 0.03


@pytest.mark.parametrize("seconds", [0.0, -5.0, math.nan, math.inf, 1e9])
def test_nonsense_is_left_out(seconds: float) -> None:
    """A clock that was set makes no duration."""
    durations = Durations()
    durations.observe(FAST, seconds)
    assert durations.kinds() == []


def test_memory_is_bounded() -> None:
    """Of each class the newest are kept, of the classes those heard of last."""
    durations = Durations()
    for number in range(CLASSES + 10):
        durations.observe(Kind(f"type {number}"), 60.0)
    for _ in range(LIMIT + 50):
        durations.observe(FAST, 60.0)
    assert len(durations.kinds()) == CLASSES
    assert Kind("type 0") not in durations.kinds()
    assert len(durations.seconds(FAST)) == LIMIT
    assert len(json.dumps(durations.to_dict())) < 12_000


@settings(deadline=None)
@given(stories)
def test_what_is_kept_is_read_back(story: list[tuple[Kind, float]]) -> None:
    """The stored form of what was read back is the same, through JSON too."""
    stored = told(story).to_dict()
    again = Durations.from_dict(json.loads(json.dumps(stored)))
    assert again.to_dict() == stored
    for kind, _ in story:
        assert again.spread(kind).total > 0


def test_what_an_earlier_run_learned_is_used() -> None:
    """With a little less weight than it had."""
    again = Durations.from_dict(taught(FAST, 30).to_dict())
    assert 20 < again.known(FAST) < 27
    assert again.spread(FAST).quantile(0.5) == pytest.approx(61, rel=0.03)


garbage = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["version", "classes", "seconds", *(one.name for one in attrs.fields(Kind))]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(garbage)
def test_garbage_is_dropped(data: Any) -> None:
    """Whatever the file holds, something can be learned afterwards."""
    for form in (data, {"version": 1, "classes": data}, {"version": 1, "classes": [data]}):
        durations = Durations.from_dict(form)
        durations.observe(FAST, 60.0)
        assert durations.spread(FAST).total > 0


def test_a_corrupt_part_leaves_the_rest() -> None:
    """One class that cannot be read, one duration that is none: the others count."""
    stored = taught(FAST, 5).to_dict()
    stored["classes"][0]["seconds"] += ["x", None, True, -1, math.inf]
    stored["classes"].append({"task_type": 5})
    assert len(Durations.from_dict(stored).seconds(FAST)) == 5


def test_another_version_of_the_form_is_no_knowledge() -> None:
    """It is learned again."""
    stored = {**taught(FAST, 5).to_dict(), "version": 2}
    assert Durations.from_dict(stored).kinds() == []


def test_a_class_is_summed_up() -> None:
    """Count, median and spread, of what counts."""
    summary = taught(FAST, 60).summary(FAST)
    assert summary is not None
    assert summary.count == 60
    assert summary.recent > 40
    assert summary.p10 < summary.median == pytest.approx(61, rel=0.03)
    assert summary.median < summary.p90 < 70
    assert Durations().summary(FAST) is None


def test_a_histogram_is_text() -> None:
    """Rows of an age, a bar and a count; empty rows between modes stay."""
    rows = histogram([56, 60, 62, 67, 61, 61, 247], width=10)
    assert rows[:3] == [" 40 s ██ 1", " 60 s ██████████ 5", " 80 s"]
    assert rows[-1].split()[0] == "240"
    assert len(rows) <= 12
    assert histogram([]) == []
    assert histogram([5.0, 5.0], width=4) == ["5 s ████ 2"]


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=50))
def test_a_histogram_counts_every_duration(seconds: list[float]) -> None:
    """In a bounded number of rows."""
    rows = histogram(seconds)
    assert len(rows) <= 14
    assert sum(int(row.split()[-1]) for row in rows if "█" in row) == len(seconds)


def test_of_a_burst_those_that_still_run_count_too() -> None:
    """The quick ones alone would make the class look faster than it is."""
    chance = random.Random(5)
    durations = Durations()
    drawn = [20 * math.exp(chance.gauss(0, 0.35)) for _ in range(60)]
    for seconds in drawn[:10]:
        durations.observe(FAST, seconds)
    for seconds in sorted(drawn):
        if seconds < 18:
            durations.observe(FAST, seconds, held_back=True)
    running = [(18.0, float(sum(seconds >= 18 for seconds in drawn)))]
    assert durations.law(FAST).spread.quantile(0.5) < 18
    assert durations.law(FAST, running).spread.quantile(0.5) == pytest.approx(20, rel=0.1)


def test_the_less_is_known_the_more_is_doubted() -> None:
    """Of a guess all is doubted anyhow: its spread says so."""
    few, many = taught(FAST, 6).law(FAST), taught(FAST, 150).law(FAST)
    assert few.doubt > 3 * many.doubt > 0
    assert few.known
    assert many.known
    guess = Durations().law(FAST)
    assert not guess.known
    assert guess.doubt == 0
    assert guess.spread.quantile(0.9) > 1.6 * guess.spread.quantile(0.5)


def test_what_another_class_took_makes_a_guess_surer() -> None:
    """It says how fast this host is."""
    lent = taught(FAST, 30).law(OMNI).spread
    assert lent.quantile(0.5) == pytest.approx(248, rel=0.05)
    assert lent.quantile(0.9) < Durations().law(OMNI).spread.quantile(0.9) - 30


def test_what_is_held_back_is_kept_too() -> None:
    """Between runs nobody remembers why."""
    durations = Durations()
    durations.observe(FAST, 61.0)
    durations.observe(FAST, 62.0, held_back=True)
    assert Durations.from_dict(durations.to_dict()).seconds(FAST) == pytest.approx([61.0, 62.0])
    assert durations.known(FAST) > 1.9
    assert len(durations.take_news()) == 2
    durations.settle(FAST, 62.0)
    durations.settle(OMNI, 62.0)
    assert durations.seconds(FAST) == pytest.approx([61.0, 62.0])
