"""The pending tasks of one class: who is called when, and whose end says something."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.rules.ages import Ages
from kie_mj_async.rules.crowd import Crowd, Pending
from kie_mj_async.rules.durations import Durations
from kie_mj_async.rules.kinds import Kind
from kie_mj_async.rules.spread import Spread

FAST = Kind("mj_txt2img", "fast", "7")


def crowd(*births: float, now: float = 100.0) -> tuple[Crowd, list[Pending]]:
    """Tasks that all hold."""
    of = Crowd(FAST, Ages(0.001))
    tasks = [Pending(FAST, born) for born in births]
    for task in tasks:
        of.add(task, now)
    for task in tasks:
        of.hold(task)
    return of, tasks


def called(of: Crowd, count: int) -> list[float | None]:
    """Births of the next so many that are called, of which each holds again after its look."""
    births = []
    for _ in range(count):
        task = of.next_in_turn()
        births.append(None if task is None else task.born)
        if task is not None:
            of.hold(task)
    return births


def test_the_eldest_quarter_takes_turns() -> None:
    """One after another, whatever the order in which they came; the young ones hold."""
    of, _ = crowd(5.0, 7.0, 1.0, 2.0, 6.0, 3.0, 8.0, 4.0)
    assert called(of, 5) == [1.0, 2.0, 1.0, 2.0, 1.0]
    assert of.takers == 2


def test_the_next_eldest_join_when_one_has_ended() -> None:
    """And so does everybody in the end."""
    of, tasks = crowd(*(float(n) for n in range(1, 9)))
    assert called(of, 2) == [1.0, 2.0]
    of.remove(tasks[0])
    assert called(of, 4) == [2.0, 3.0, 2.0, 3.0]
    of.remove(tasks[1])
    assert called(of, 4) == [3.0, 4.0, 3.0, 4.0]


def test_nobody_is_called_while_all_of_the_eldest_are_looked_at() -> None:
    """Somebody younger would tell less."""
    of, _ = crowd(1.0, 2.0, 3.0, 4.0)
    assert of.next_in_turn() is not None
    assert of.next_in_turn() is None
    assert of.anyone


def test_who_has_left_the_line_is_not_called() -> None:
    """Looked at for another reason, or no longer waited for; whoever holds again has one place."""
    of, tasks = crowd(1.0, 1.0, 1.0, 1.0)
    tasks[0].holds = False
    of.remove(tasks[1])
    tasks[2].holds = False
    of.hold(tasks[2])
    found = [of.release() for _ in range(3)]
    assert found[2] is None
    assert set(found[:2]) == {tasks[2], tasks[3]}


def test_a_task_that_changes_its_class_is_called_by_the_new_one_only() -> None:
    """Though it has left a place in the line of the old one behind."""
    of, tasks = crowd(1.0, 1.0)
    other, _ = crowd(1.0)
    of.remove(tasks[0])
    other.add(tasks[0], 100.0)
    other.hold(tasks[0])
    assert of.release() is tasks[1]
    assert of.release() is None
    assert tasks[0] in {other.release(), other.release()}


def test_places_that_were_left_do_not_pile_up() -> None:
    """Thousands of waits that come and go leave a short line."""
    of, _ = crowd(1.0)
    for number in range(5000):
        task = Pending(FAST, 2.0 + number)
        of.add(task, 1e4)
        of.hold(task)
        of.remove(task)
    assert len(of._young) + len(of._round) < 200


def test_calling_one_of_a_hundred_thousand_is_cheap() -> None:
    """However many hold."""
    births = [random.Random(1).random() * 1000 for _ in range(100_000)]
    of, _ = crowd(*births, now=1000.0)
    assert of.next_in_turn() is not None
    began = time.process_time()
    for _ in range(200):
        task = of.next_in_turn()
        assert task is not None
        of.hold(task)
    assert (time.process_time() - began) / 200 < 0.001


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from("ahrcel"), st.floats(0, 100), st.integers(0, 9)), max_size=60
    )
)
def test_whoever_holds_is_released_once(steps: list[tuple[str, float, int]]) -> None:
    """Whatever came before: held, called, left, ended, in any order."""
    of = Crowd(FAST, Ages(1.0))
    tasks: list[Pending] = []
    for what, born, number in steps:
        task = tasks[number] if number < len(tasks) else None
        if what == "a" and len(tasks) < 10:
            tasks.append(Pending(FAST, born))
            of.add(tasks[-1], 200.0)
        elif task is None:
            continue
        elif what == "h" and task.of is of:
            of.hold(task)
        elif what == "r":
            of.release()
        elif what == "c":
            of.next_in_turn()
        elif what == "l":
            task.holds = False
        elif what == "e" and task.of is of:
            of.remove(task)
    held = [task for task in tasks if task.holds]
    released = []
    while (one := of.release()) is not None:
        released.append(one)
    assert sorted(map(id, released)) == sorted(map(id, held))
    assert not of.anyone


def learned() -> Spread:
    """A class that takes 10 to 22 s."""
    durations = Durations()
    for number in range(60):
        durations.observe(FAST, 10.0 + 0.2 * (number * 7 % 60))
    return durations.spread(FAST)


def running(count: int, *, seen: float) -> Crowd:
    """Tasks of one birth that were seen running."""
    of = Crowd(FAST, Ages(1.0))
    of.spread = learned()
    for task in [Pending(FAST, 0.0) for _ in range(count)]:
        of.add(task, 0.0)
        of.saw(task, seen)
    return of


def test_the_quick_ones_of_a_burst_are_held_back() -> None:
    """Until most of the others have ended too; then all come, not in the order of their ends."""
    of = running(17, seen=15.0)
    ends = [10.5, 11.0, 11.5, 12.0, 12.5, 13.0, 13.5, 14.0]
    assert all(of.ended(0.0, seconds, 15.0) for seconds in ends)
    assert of.settled(15.0) == []
    for _ in range(17):
        of.ages.remove(0.0)
    settled = of.settled(15.0)
    assert sorted(settled) == ends
    assert settled != ends
    assert of.held_back == []


def test_births_are_in_order() -> None:
    """As they came, durations say what has changed when."""
    of = running(20, seen=15.0)
    for born, seconds in [(0.3, 11.0), (0.1, 12.0), (0.2, 13.0)]:
        assert of.ended(born, seconds, 15.0)
    for _ in range(20):
        of.ages.remove(0.0)
    assert of.settled(15.0) == [12.0, 13.0, 11.0]


def test_late_peers_are_not_waited_for() -> None:
    """One that never ends holds nothing back for ever."""
    of = running(3, seen=15.0)
    assert of.ended(0.0, 12.0, 15.0)
    assert of.settled(16.0) == []
    assert of.settled(40.0) == [12.0]


def test_another_mode_is_not_waited_for() -> None:
    """Where a sixth of the class takes four times as long, the others tell all there is to tell."""
    durations = Durations()
    for number in range(60):
        durations.observe(FAST, 247.0 if number % 6 == 0 else 60.0 + 0.1 * number)
    of = running(4, seen=60.0)
    of.spread = durations.spread(FAST)
    assert of.ended(0.0, 61.0, 62.0)
    assert of.settled(70.0) == [61.0]


@pytest.mark.parametrize(("seen", "held"), [(5.0, False), (20.0, True)])
def test_what_takes_long_is_none_of_the_quick_ones(seen: float, held: bool) -> None:
    """Unless others are known to take as long: then the service has slowed down, and they decide."""
    assert running(9, seen=seen).ended(0.0, 21.0, 21.0) is held


def test_tasks_of_other_births_are_no_peers() -> None:
    """One that has ended before its elders tells at once of a service that is faster now."""
    assert not running(9, seen=15.0).ended(50.0, 12.0, 62.0)
