"""Jobs, outcomes and counts as values."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest

from kie_mj_async import errors
from kie_mj_async.errors import KieError
from kie_mj_async.jobs import (
    Abandoned,
    Counts,
    Expired,
    Failed,
    Generation,
    Job,
    Pending,
    Saved,
    SavedFile,
    State,
    Trouble,
    Unresolved,
    error_of,
    outcome_of,
    trouble_of,
)
from kie_mj_async.requests import ExistingTask, TextToImage


def test_a_new_job_is_planned_and_unpaid() -> None:
    """A job starts planned, with nothing sent, nothing paid and nothing known."""
    job = Job(key="k", request=TextToImage("a fox"))
    assert (job.state, job.task_id, job.attempts, job.credits) == (State.PLANNED, None, 0, 0)
    assert (job.urls, job.files, job.trouble) == ((), (), None)
    assert job.prompt == "a fox"


def test_a_job_is_frozen() -> None:
    """A job is a value: another state is another job."""
    job = Job(key="k", request=TextToImage("a fox"))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        job.state = State.SAVED  # type: ignore[misc]
    assert attrs.evolve(job, state=State.SAVED) != job


def test_states_are_their_words() -> None:
    """The words that ledgers and --json write are the states themselves, unchanged for ever."""
    assert [str(one) for one in State] == [
        "planned",
        "submitting",
        "running",
        "succeeded",
        "saved",
        "failed",
        "expired",
        "unresolved",
        "abandoned",
    ]


def test_counts_know_absent_states() -> None:
    """A state without jobs counts 0, and the total is over all states."""
    counts = Counts({State.SAVED: 3, State.FAILED: 2})
    assert counts[State.SAVED] == 3
    assert counts[State.PLANNED] == 0
    assert counts.total == 5
    assert Counts({}).total == 0


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (errors.NotSent("refused"), Trouble("NotSent", "refused", None)),
        (errors.RateLimited("slow", code=429), Trouble("RateLimited", "slow", "429")),
        (errors.ServerError("html", status=502), Trouble("ServerError", "html", None)),
        (errors.InvalidRequest("bad", code=422), Trouble("InvalidRequest", "bad", "422")),
        (errors.TaskFailed("nsfw", error_code="501"), Trouble("TaskFailed", "nsfw", "501")),
        (errors.TaskFailed("nsfw"), Trouble("TaskFailed", "nsfw", None)),
    ],
)
def test_trouble_keeps_what_matters_of_an_error(error: errors.KieError, trouble: Trouble) -> None:
    """What a ledger keeps of an error is its class, its message and the service's code as text."""
    assert trouble_of(error) == trouble


KINDS = [
    one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, KieError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_comes_back_from_its_trouble(kind: type[KieError]) -> None:
    """What a ledger kept of an error is told as an error of the same class, with the task's id."""
    job = Job(
        key="k",
        request=TextToImage("a fox"),
        state=State.RUNNING,
        task_id="abc",
        credits=25,
        trouble=trouble_of(kind("went wrong")),
    )
    error = error_of(job)
    assert type(error) is kind
    assert (str(error), error.task_id, error.billed) == ("went wrong", "abc", "yes")


@pytest.mark.parametrize("name", ["Abandoned", "Any", "annotations", "NoSuchError", "__doc__"])
def test_a_trouble_that_is_no_error_of_ours(name: str) -> None:
    """A word that names no error of this package is told as a plain KieError."""
    job = Job(key="k", request=TextToImage("a fox"), trouble=Trouble(name, "words"))
    assert type(error_of(job)) is KieError
    assert str(error_of(job)) == "words"


@pytest.mark.parametrize(
    ("state", "task_id", "credits", "kind", "billed"),
    [
        (State.PLANNED, None, 0, Pending, "no"),
        (State.SUBMITTING, None, 0, Unresolved, "unknown"),
        (State.RUNNING, "abc", 25, Pending, "yes"),
        (State.SUCCEEDED, "abc", 25, Pending, "yes"),
        (State.FAILED, "abc", 0, Failed, "no"),
        (State.FAILED, None, 0, Failed, "no"),
        (State.EXPIRED, "abc", 25, Expired, "yes"),
        (State.UNRESOLVED, None, 0, Unresolved, "unknown"),
        (State.ABANDONED, None, 0, Abandoned, "no"),
    ],
)
def test_each_state_has_its_outcome(
    state: State, task_id: str | None, credits: float, kind: type[Failed], billed: str
) -> None:
    """How a job is told: its kind of outcome, with an error that knows whether it is paid."""
    job = Job(
        key="k", request=TextToImage("a fox"), state=state, task_id=task_id, credits=credits
    )  # fmt: skip
    outcome = outcome_of(job, Path("out"))
    assert type(outcome) is kind
    assert outcome.job is job
    assert (outcome.error.billed, outcome.error.task_id) == (billed, task_id)
    assert str(outcome.error) == f"job k is {state}"


def test_a_saved_job_tells_its_files() -> None:
    """A saved job's outcome tells where its files are: paths in a directory, URLs elsewhere."""
    at = datetime(2026, 11, 1, tzinfo=UTC)
    files = tuple(
        SavedFile(n, f"sub/fox_{n}.png", "https://x.example", "ab", 1, "image/png", 1, 1, at)
        for n in range(2)
    )
    job = Job(key="k", request=TextToImage("a fox"), state=State.SAVED, files=files)
    assert outcome_of(job, Path("out")) == Saved(
        job,
        (Path("out/sub/fox_0.png"), Path("out/sub/fox_1.png")),
        ("out/sub/fox_0.png", "out/sub/fox_1.png"),
    )
    assert outcome_of(job, "s3://bucket/fox") == Saved(
        job, (), ("s3://bucket/fox/sub/fox_0.png", "s3://bucket/fox/sub/fox_1.png")
    )


@pytest.mark.anyio
async def test_a_generation_saves_through_its_client(tmp_path: Path) -> None:
    """save() hands the directory, as a Path, to the client that made the Generation."""
    asked: list[Path] = []

    async def save(directory: Path) -> list[Path]:
        asked.append(directory)
        return [directory / "a.png"]

    made = Generation("abc", ("https://cdn.example/a.png",), save=save)
    assert await made.save(str(tmp_path)) == [tmp_path / "a.png"]
    assert asked == [tmp_path]
    assert "save" not in repr(made)
    assert made == Generation("abc", ("https://cdn.example/a.png",))


@pytest.mark.anyio
async def test_a_generation_made_by_hand_cannot_save(tmp_path: Path) -> None:
    """Without a client there is nothing to save with, and the error says so."""
    with pytest.raises(RuntimeError, match="one from a Client can save"):
        await Generation("abc", ()).save(tmp_path)


def test_a_job_is_called_by_its_prompt_or_its_task() -> None:
    """Where no prompt is known, the task's id is what a person can look for."""
    assert Job(key="k", request=TextToImage("a fox"), task_id="t").title == "a fox"
    task = ExistingTask("t7")
    assert Job(key="task-t7", request=task).title == "task t7"
    assert Job(key="task-t7", request=task, task_id="t7").title == "task t7"
