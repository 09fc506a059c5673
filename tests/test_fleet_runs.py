"""Fleets of processes, and both sides' books afterwards; ``fleet_runs.py`` says how."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_support import ask, soon
from fleet_runs import Renderers, judge, renderers, rough_run

from kie_mj_async.jobs import State
from kie_mj_async.requests import TextToImage

QUICK = 0.01


@pytest.fixture
def rendering(postgres: Any, tmp_path: Path) -> Iterator[Renderers]:
    with renderers(postgres, tmp_path, scale=QUICK) as fleet:
        yield fleet


def foxes(number: int) -> list[TextToImage]:
    return [TextToImage(f"a fox, number {one}") for one in range(number)]


@pytest.mark.slow
def test_two_workers_without_trouble_save_all_and_leave_in_order(rendering: Renderers) -> None:
    rendering.enqueue(*foxes(16))
    workers = [rendering.worker("--per-worker", "8") for _ in range(2)]
    for worker in workers:
        worker.joined()
    rendering.wait(40)
    verdict = judge(rendering)
    assert verdict.sound, verdict
    assert (verdict.jobs, verdict.saved, verdict.refused) == (16, 16, 0)
    for worker in workers:
        worker.send(signal.SIGTERM)
    for worker in workers:
        worker.left()
    assert not [*rendering.out.glob(".kie-mj/workers/*")]
    ends = ask(rendering.url, "SELECT name = ended_by FROM kie_mj.worker")
    assert ends == [(True,), (True,)]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_fleet_that_loses_workers_and_its_database_keeps_the_laws(
    postgres: Any, tmp_path: Path
) -> None:
    verdict, _ = rough_run(postgres, tmp_path, jobs=100, scale=0.05, frozen=0)
    assert verdict.sound, verdict
    assert (verdict.jobs, verdict.paid_twice, verdict.lost) == (100, 0, 0)
    assert verdict.saved + verdict.unresolved == 100
    assert verdict.most_in_window <= 20


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_with_the_window_to_scale_nothing_is_refused(postgres: Any, tmp_path: Path) -> None:
    """A window is as long beside its tasks as in the real service; and it is used."""
    with renderers(postgres, tmp_path, scale=0.1) as fleet:
        fleet.enqueue(*foxes(100))
        for worker in [fleet.worker() for _ in range(3)]:
            worker.joined()
        fleet.wait(90)
        verdict = judge(fleet)
        assert verdict.sound, verdict
        assert (verdict.saved, verdict.refused) == (100, 0)
        assert 15 <= verdict.most_in_window <= 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "unknown"),
    [
        ("slot taken", 0),
        ("intent stored", 1),
        ("reply read", 1),
        ("id stored", 0),
        ("result stored", 0),
        ("file named", 0),
        ("job saved", 0),
    ],
)
def test_whatever_a_worker_dies_in_another_goes_on_with(
    rendering: Renderers, point: str, unknown: int
) -> None:
    """It has one job at a time, so that it is known what is lost with it: nothing."""
    rendering.enqueue(*foxes(4))
    dies = rendering.worker("--per-worker", "1", "--stop-at", point, "--nth", "2")
    dies.joined()
    assert dies.says(30) == "stops"
    dies.ended()
    rendering.worker("--per-worker", "4", "--request-timeout", "2").joined()
    rendering.wait(45)
    verdict = judge(rendering)
    assert verdict.sound, verdict
    assert (verdict.saved, verdict.unresolved) == (4 - unknown, unknown)


@pytest.mark.slow
def test_a_worker_that_comes_back_while_another_saves_leaves_no_second_files(
    rendering: Renderers,
) -> None:
    rendering.enqueue(*foxes(8))
    frost = rendering.worker(
        "--per-worker", "8", "--stop-at", "file synced", "--nth", "2", "--freeze"
    )
    frost.joined()
    assert frost.says(30) == "stops"
    lives = rendering.worker("--per-worker", "8")
    lives.joined()
    rendering.wait(50)
    frost.send(signal.SIGCONT)
    frost.joined()
    soon(lambda: not [*rendering.out.glob(".kie-mj/workers/*/parts/*/*.part")], 10, "no parts")
    verdict = judge(rendering)
    assert verdict.sound, verdict
    assert verdict.saved == 8
    rendering.drain()
    assert {job.state for job in rendering.jobs()} == {State.SAVED}
