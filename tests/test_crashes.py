"""SIGKILL at every failure point: paid once, nothing lost, no half files, and a run that goes on.

Each test kills real processes that work against a simulator outside of them, and then compares the
directory with the simulator's books; ``crash_runs.py`` says how.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from crash_runs import BAD_LINKS, KILLED, QUICK, ROUGH, Scene, Service, Tally, random_run, serving
from support import sim_client, simulated

from kie_mj_async import failpoints
from kie_mj_async.archive import parts
from kie_mj_async.cli.report import Exit
from kie_mj_async.failpoints import HINT_POINTS, POINTS, Point
from kie_mj_async.jobs import State

CREATE_UNDER_WAY: Final = ("intent stored", "POST written", "reply read")
"""Points at which a create may have been accepted, and the ledger does not know it yet."""


@pytest.fixture
def service() -> Iterator[Service]:
    with serving("download.slow=100%", scale=QUICK) as service:
        yield service


def sound(tally: Tally, scene: Scene) -> None:
    assert tally.sound, f"{tally}\n{scene.log.read_text()}"


@pytest.mark.anyio
async def test_a_job_meets_every_point_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job goes by every failure point, in the order of the list."""
    met: list[Point] = []
    monkeypatch.setattr(parts, "CHECKPOINT", 1)
    failpoints.install(met.append)
    try:
        async with simulated() as sim, sim_client(sim) as client:
            async for _ in client.render(["a fox"], tmp_path):
                pass
    finally:
        failpoints.install(None)
    assert tuple(dict.fromkeys(met)) == POINTS
    before = len(met)
    failpoints.reach("slot taken")
    assert len(met) == before


@pytest.mark.parametrize("point", POINTS)
def test_killed_once(point: Point, tmp_path: Path, service: Service) -> None:
    """Killed at a point, a run leaves the truth behind, and a resume brings the job to its end."""
    scene = Scene(tmp_path, service, jobs=1)
    assert scene.run("--at", point) == KILLED
    [job] = scene.read()
    assert (job.state is State.SUBMITTING) == (point in CREATE_UNDER_WAY)
    tally = scene.judge(scene.run(verb="resume"))
    sound(tally, scene)
    assert tally.unresolved == (point in CREATE_UNDER_WAY)
    creates = [create["task_id"] for create in service.books["creates"]]
    if point == "POST written":  # with its client gone, the service reads it or not
        assert len(creates) <= 1
    else:
        assert len(creates) == (point != "intent stored")
    if job.task_id is not None:
        assert creates == [job.task_id]


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_again_and_again(point: Point, tmp_path: Path, service: Service) -> None:
    """Killed at the same point in each of several runs, the work still comes to its end."""
    scene = Scene(tmp_path, service, jobs=6)
    # What is unresolved counts as running: each run has room for one job more.
    for in_flight, verb in ((1, "render"), (2, "resume"), (3, "render")):
        assert scene.run("--at", point, verb=verb, in_flight=in_flight) == KILLED
    sound(scene.judge(scene.run(verb="resume")), scene)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_killed_while_the_batch_is_made(tmp_path: Path) -> None:
    """Killed before any statement of a batch's beginning, the same command makes the batch."""
    with serving() as service:
        for number in itertools.count(1):
            folder = tmp_path / str(number)
            folder.mkdir()
            scene = Scene(folder, service, jobs=1)
            assert scene.run("--statement", str(number)) == KILLED
            if scene.staged:
                break
            assert scene.run("--at", "slot taken") == KILLED, scene.log.read_text()
        assert number > 15
        assert service.books["creates"] == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(101, 111))
def test_killed_at_random(seed: int, tmp_path: Path) -> None:
    """Killed at random moments while the service misbehaves, a run keeps every law."""
    tally = random_run(seed, tmp_path)
    assert tally.sound, f"{tally}\n{(tmp_path / 'log.txt').read_text()}"


@pytest.mark.parametrize(
    "point",
    [
        "reply read",
        pytest.param("slot taken", marks=pytest.mark.slow),
        pytest.param("intent stored", marks=pytest.mark.slow),
        pytest.param("id stored", marks=pytest.mark.slow),
    ],
)
def test_killed_in_a_chain(point: Point, tmp_path: Path, service: Service) -> None:
    """Killed around a step's create, a chain goes on: its parent is not made again."""
    scene = Scene(tmp_path, service, jobs=1, upscaled=True)
    assert scene.run("--at", point, "--nth", "2") == KILLED
    first, step = scene.read()
    assert first.state is State.SAVED
    assert step.state is not State.SAVED
    tally = scene.judge(scene.run(verb="resume"))
    sound(tally, scene)
    assert tally.jobs == 2
    assert tally.unresolved == (point in CREATE_UNDER_WAY)
    assert len(service.books["creates"]) <= 2


@pytest.mark.parametrize(
    "point", ["job saved", pytest.param("result stored", marks=pytest.mark.slow)]
)
def test_killed_between_a_job_and_its_step(point: Point, tmp_path: Path, service: Service) -> None:
    """Killed when a step's turn has come, but before it was begun: it is sent once, later."""
    scene = Scene(tmp_path, service, jobs=2, upscaled=True)
    assert scene.run("--at", point) == KILLED
    tally = scene.judge(scene.run())
    sound(tally, scene)
    assert (tally.jobs, tally.saved) == (4, 4)
    assert len(service.books["creates"]) == 4


@pytest.mark.parametrize("point", HINT_POINTS)
def test_killed_over_a_hint(point: Point, tmp_path: Path) -> None:
    """Killed when a callback has named a lost task: the next run has it, without any callback."""
    with serving("create.drop-reply=#1", scale=QUICK) as service:
        scene = Scene(tmp_path, service, jobs=1, listening=True)
        assert scene.run("--at", point) == KILLED
        tally = scene.judge(scene.run(verb="resume"))
        sound(tally, scene)
        assert (tally.saved, tally.unresolved) == (1, 0)
        assert len(service.books["creates"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(201, 207))
def test_killed_at_random_with_chains_and_callbacks(seed: int, tmp_path: Path) -> None:
    """Chains, dropped replies and callbacks, and a kill at any moment: every law is kept."""
    faults = f"{ROUGH},create.drop-reply=5%,callback.twice=10%,callback.never=5%"
    tally = random_run(seed, tmp_path, jobs=15, faults=faults, upscaled=True, listening=True)
    assert tally.sound, f"{tally}\n{(tmp_path / 'log.txt').read_text()}"


@pytest.mark.slow
def test_every_file_is_right_among_bad_links(tmp_path: Path) -> None:
    """Links that are dead, answers that are cut, HTML or a 503: every file ends as the service's."""
    with serving(BAD_LINKS, seed=3, scale=QUICK) as service:
        scene = Scene(tmp_path, service, jobs=60)
        tally = scene.judge(scene.run())
        met = service.books["faults"]
    sound(tally, scene)
    assert (tally.saved, tally.unresolved) == (60, 0)
    assert min(met[kind] for kind in ("download.dead-link", "download.truncate")) > 10


@pytest.mark.slow
@pytest.mark.parametrize("nth", [1, 5, 17, 40])
def test_killed_among_bad_links(nth: int, tmp_path: Path) -> None:
    """Killed at some byte while links die and answers are cut, every file ends as the service's."""
    with serving(BAD_LINKS, seed=nth) as service:
        scene = Scene(tmp_path, service, jobs=12)
        for _ in range(3):
            if scene.run("--at", "chunk written", "--nth", str(nth)) != KILLED:
                break
        assert scene.kills > 0
        for _ in range(4):
            if (code := scene.run(verb="resume")) == Exit.DONE:
                break
        tally = scene.judge(code)
    sound(tally, scene)
    assert (tally.saved, tally.unresolved) == (12, 0)
