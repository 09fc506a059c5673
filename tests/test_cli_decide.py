"""``kie-mj resolve``: what the user decides about jobs whose fate is unknown."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cli_support import Service, Shell, complaint, serving

PROMPTS = ("a fox", "an owl", "a newt")


@pytest.fixture
def lost(shell: Shell) -> Iterator[Service]:
    """Three prompts rendered into ``out``; the replies to two creates were lost."""
    shell.write("list.txt", *PROMPTS)
    with serving("create.drop-reply=#1+2") as service:
        shell.use(service)
        assert shell("render", "list.txt", "--out", "out", "--yes").code == 4
        yield service


def unresolved(shell: Shell) -> dict[str, str]:
    """The keys of unresolved jobs, by prompt."""
    jobs = shell("status", "out", "--json").told["jobs"]
    return {job["prompt"]: job["key"] for job in jobs if job["state"] == "unresolved"}


def task_of(service: Service, prompt: str) -> str:
    """The task that the service made of a prompt."""
    (found,) = [one["task_id"] for one in service.creates if one["prompt"] == prompt]
    return str(found)


def test_all_are_retried(shell: Shell, lost: Service) -> None:
    """--retry plans all of them again; nothing is sent before the next run."""
    shell.patch.delenv("KIE_API_KEY")
    result = shell("resolve", "out", "--retry")
    assert (result.code, result.out) == (0, "")
    assert result.err == "2 jobs planned again. Submit with: kie-mj resume out\n"
    assert len(lost.creates) == 3
    shell.use(lost)
    assert shell("resume", "out", "--yes", "--json").told["saved"] == 3
    assert len(lost.creates) == 5


def test_all_are_abandoned(shell: Shell, lost: Service) -> None:
    """--abandon gives all of them up; the directory is done then, and stays so."""
    assert shell("resolve", "out", "--abandon").err == "2 jobs given up.\n"
    assert shell("resolve", "out", "--abandon").err == "No job is unresolved.\n"
    assert shell("resolve", "out", "--retry").err == "No job is unresolved.\n"
    again = shell("render", "list.txt", "--out", "out", "--json")
    assert (again.code, again.told["abandoned"], again.told["saved"]) == (0, 2, 1)
    assert len(lost.creates) == 3


def test_one_is_decided_about(shell: Shell, lost: Service) -> None:
    """A job is named by the start of its key; the others stay."""
    first, second = unresolved(shell).values()
    assert shell("resolve", "out", first[:8], "--abandon").err == "1 job given up.\n"
    assert list(unresolved(shell).values()) == [second]
    # Changed my mind: what is given up can be retried by name.
    assert "1 job planned again" in shell("resolve", "out", first, "--retry").err
    assert len(lost.creates) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["1-", "--retry"], "several jobs have a key that starts with '1-'"),
        (["9", "--abandon"], "no job has a key that starts with '9'"),
        (["--adopt", "x"], "name the one JOB"),
        (["1-", "--adopt", "x"], "several jobs have a key"),
    ],
)
def test_a_name_that_does_not_fit(
    shell: Shell, lost: Service, arguments: list[str], words: str
) -> None:
    """A name that fits no job or several is one line, exit 2, and nothing is changed."""
    before = unresolved(shell)
    assert words in complaint(shell("resolve", "out", *arguments))
    assert unresolved(shell) == before
    assert len(before) == 2


def test_a_task_is_adopted(shell: Shell, lost: Service) -> None:
    """The task that the user found is the job's; resume saves it without paying again."""
    for prompt, key in unresolved(shell).items():
        result = shell("resolve", "out", key[:10], "--adopt", task_of(lost, prompt))
        assert result.code == 0, result.err
        assert f"Job {key} has task {task_of(lost, prompt)} now" in result.err
    told = shell("resume", "out", "--json").told
    assert (told["saved"], told["credits"]) == (3, 75)
    assert len(lost.creates) == 3


def test_a_task_of_another_prompt_is_refused(shell: Shell, lost: Service) -> None:
    """A task that was made of another prompt is refused with the difference."""
    jobs = unresolved(shell)
    prompt, key = next(iter(jobs.items()))
    other = next(one for one in jobs if one != prompt)
    line = complaint(shell("resolve", "out", key, "--adopt", task_of(lost, other)))
    assert f"prompt is '{other}', not '{prompt}'" in line
    saved = next(one for one in PROMPTS if one not in jobs)
    line = complaint(shell("resolve", "out", key, "--adopt", task_of(lost, saved)))
    assert "belongs to job" in line
    assert unresolved(shell) == jobs


def test_an_unknown_task_is_refused(shell: Shell, lost: Service) -> None:
    """A task that the service does not know is bad input, named by its id."""
    jobs = unresolved(shell)
    key = next(iter(jobs.values()))
    assert "nosuchtask" in complaint(shell("resolve", "out", key, "--adopt", "nosuchtask"))
    assert unresolved(shell) == jobs


def test_a_saved_job_needs_no_decision(shell: Shell, lost: Service) -> None:
    """A job that is saved can neither be retried nor given up nor given a task."""
    jobs = shell("status", "out", "--json").told["jobs"]
    key = next(job["key"] for job in jobs if job["state"] == "saved")
    for choice in (["--retry"], ["--abandon"], ["--adopt", task_of(lost, "a fox")]):
        assert f"job {key} is saved" in complaint(shell("resolve", "out", key, *choice))


def test_decisions_in_a_simulated_directory(shell: Shell) -> None:
    """Advice and adoption work in a simulated directory too, and go on with --simulate."""
    shell("generate", "a fox", "--out", "out", "--simulate", "--timeout", "0.001")
    job = shell("status", "out", "--json").told["jobs"][0]
    line = complaint(shell("resolve", "out", job["key"], "--adopt", "x", "--simulate"))
    assert "is running; only a job that is unresolved" in line
    assert shell("resume", "out", "--simulate").code == 0
