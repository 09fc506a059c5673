"""``kie-mj status --forecast``: what was learned of durations, to look at."""

from __future__ import annotations

import random
import re

from cli_support import Shell, complaint, serving

from kie_mj_async import durations_file
from kie_mj_async.account import state_directory
from kie_mj_async.rules.kinds import Kind

FAST = Kind("mj_txt2img", "fast", "7")
HOST = "http://127.0.0.1:9"


def learn(count: int, middle: float = 61.0, kind: Kind = FAST) -> None:
    chance = random.Random(1)
    path = durations_file.path_of(state_directory(), HOST)
    durations_file.add(path, [(kind, chance.gauss(middle, 3.5)) for _ in range(count)])


def test_it_is_told_for_people(shell: Shell) -> None:
    """Of each class number, median and spread, when it would be looked at, and a histogram."""
    learn(40)
    learn(3, 248.0, Kind("mj_omni_reference"))
    result = shell("status", "--forecast")
    assert (result.code, result.err) == (0, "")
    head, blank, omni, *_ = result.out.splitlines()
    assert head.startswith(f"{HOST}: how long tasks took there, from the last 43 tasks (")
    assert (blank, omni) == ("", "omni_reference")
    fast = result.out[result.out.index("txt2img fast 7\n") :].splitlines()
    assert fast[1].startswith("  n 40 · median 6")
    assert " · p10 5" in fast[1]
    assert " · p90 6" in fast[1]
    looks = fast[2].removeprefix("  a new one is looked at after ").removesuffix(" s").split(", ")
    assert [float(one) for one in looks] == sorted(map(float, looks))
    assert 50 < float(looks[0]) < 61
    bars = [row for row in fast[3:] if "█" in row]
    assert sum(int(row.split()[-1]) for row in bars) == 40


def test_a_change_of_the_service_is_said(shell: Shell) -> None:
    """What was before it no longer counts."""
    learn(40)
    learn(12, 122.0)
    out = shell("status", "--forecast").out
    found = re.search(r"the service has changed: of these the newest (\d+) or so count", out)
    assert found is not None, out
    assert 9 <= int(found[1]) <= 13


def test_it_is_an_object_for_programs(shell: Shell) -> None:
    """The same numbers, unrounded."""
    learn(40)
    told = shell("status", "--forecast", "--json").told
    assert told["host"] == HOST
    (fast,) = told["classes"]
    assert fast["task_type"] == "mj_txt2img"
    assert fast["n"] == 40
    assert fast["p10"] < fast["median"] < fast["p90"]
    assert len(fast["next_checks"]) == 6


def test_nothing_is_known_at_first(shell: Shell) -> None:
    """Which is said, and is no error; no key is needed, and no folder is made."""
    result = shell("status", "--forecast")
    assert (result.code, result.out) == (
        0,
        f"{HOST}: nothing is known yet of how long tasks take there\n",
    )
    assert not state_directory().exists()


def test_a_run_teaches_the_next(shell: Shell) -> None:
    """What a run has seen is there afterwards, for the directory's host wherever one stands."""
    shell.write("list.txt", "a fox", "an owl")
    with serving() as service:
        shell.use(service)
        shell("render", "list.txt", "--out", "out", "--yes")
    shell.patch.delenv("KIE_API_KEY")
    shell.patch.setenv("KIE_BASE_URL", HOST)
    assert "nothing is known" in shell("status", "--forecast").out
    told = shell("status", "out", "--forecast", "--json").told
    assert told["host"] == service.url
    assert [one["n"] for one in told["classes"]] == [2]


def test_a_simulated_run_learns_in_its_own_directory(shell: Shell) -> None:
    """The state directory is not touched."""
    shell.write("list.txt", "a fox", "an owl")
    shell("render", "list.txt", "--out", "out", "--simulate")
    assert not state_directory().exists()
    told = shell("status", "out", "--forecast", "--json").told
    assert told["host"] == "simulator"
    assert [one["n"] for one in told["classes"]] == [2]
    assert told["classes"][0]["median"] < 5


def test_a_directory_without_a_batch(shell: Shell) -> None:
    """Is an error that says so, as for status without --forecast; so is no directory at all."""
    assert "holds no batch" in complaint(shell("status", "nowhere", "--forecast"))
    result = shell("status")
    assert result.code == 2
    assert "Missing argument 'DIR'" in result.err
