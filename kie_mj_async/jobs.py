"""Jobs, their states and their outcomes, as values.

A *task* is the service's and has a task id. A *job* is ours: one request on its way to one task and
its files. How a job may move from state to state is ``rules/lifecycle.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import attrs

from . import errors
from .errors import Billed, KieError
from .requests import Request


class State(StrEnum):
    """Where a job stands."""

    PLANNED = "planned"
    SUBMITTING = "submitting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    SAVED = "saved"
    FAILED = "failed"
    EXPIRED = "expired"
    UNRESOLVED = "unresolved"
    ABANDONED = "abandoned"


@attrs.frozen
class SavedFile:
    """One file on disk, complete and verified.

    Attributes:
        index: Which of the task's results it is, from 0.
        path: Its path, relative to the batch directory, with forward slashes.
        url: The link it was read from.
        sha256: Its digest, in hex.
        bytes: Its size.
        media_type: Such as ``image/jpeg``, from its content.
        width: In pixels, or ``None`` where the content does not tell.
        height: In pixels, or ``None``.
        saved_at: When it came under its name (UTC).
    """

    index: int
    path: str
    url: str
    sha256: str
    bytes: int
    media_type: str
    width: int | None
    height: int | None
    saved_at: datetime


@attrs.frozen
class Trouble:
    """Why a job did not go on, in a form that a ledger can keep.

    Attributes:
        type: The error's class name (``TaskFailed``).
        message: Its message.
        code: The service's code, as a string, where there was one.
    """

    type: str
    message: str
    code: str | None = None


@attrs.frozen(kw_only=True)
class Job:
    """One request and all that is known of it.

    Attributes:
        key: Its name within its ledger: the same request at the same place in a list has the same
            key on every run.
        request: What was asked for.
        state: Where it stands.
        seq: Its place in the ledger, from 1.
        task_id: The service's id, once accepted.
        attempts: How many times a create was begun.
        price: Credits that its present task costs, or will have cost if its create was accepted.
        credits: Credits it has cost over all its tasks, as far as is known (failed ones cost none).
        submitted_at: When its last create was begun (UTC).
        created_at: When the service made the task (UTC).
        completed_at: When the service finished it (UTC).
        expires_at: When the service deletes the result (UTC).
        urls: The links of its results.
        files: What is on disk.
        trouble: The last thing that went wrong, if it still matters.
    """

    key: str
    request: Request
    state: State = State.PLANNED
    seq: int = 0
    task_id: str | None = None
    attempts: int = 0
    price: float = 0
    credits: float = 0
    submitted_at: datetime | None = None
    created_at: datetime | None = None
    completed_at: datetime | None = None
    expires_at: datetime | None = None
    urls: tuple[str, ...] = ()
    files: tuple[SavedFile, ...] = ()
    trouble: Trouble | None = None

    @property
    def prompt(self) -> str:
        """The request's prompt."""
        return self.request.prompt

    @property
    def title(self) -> str:
        """What to call it: its prompt, or its task where no prompt is known."""
        return self.request.title or f"task {self.task_id or self.key.removeprefix('task-')}"


@attrs.frozen
class Saved:
    """Every result of the job is saved.

    Attributes:
        job: The job.
        paths: Its files in a local directory; empty where results go to an object store.
        locations: Its files anywhere: paths, or URLs such as ``s3://bucket/prefix/fox.jpeg``.
    """

    job: Job
    paths: tuple[Path, ...]
    locations: tuple[str, ...] = ()


@attrs.frozen
class Failed:
    """The service refused the job or could not make it. It was not charged."""

    job: Job
    error: KieError


@attrs.frozen
class Expired:
    """The result is gone from the service before it was saved."""

    job: Job
    error: KieError


@attrs.frozen
class Unresolved:
    """The create was sent and its fate is unknown: it may have been paid. It needs a decision."""

    job: Job
    error: KieError


@attrs.frozen
class Pending:
    """Not there yet (timed out, or not saved): a later run goes on with it, at no further cost."""

    job: Job
    error: KieError


@attrs.frozen
class Abandoned:
    """The user gave up on an unresolved job."""

    job: Job
    error: KieError


Outcome = Saved | Failed | Expired | Unresolved | Pending | Abandoned
"""How a job ended, for now."""


@attrs.frozen
class Generation:
    """A finished task: its links, and a way to save them before they expire.

    Attributes:
        task_id: The service's id.
        urls: Links to the results: four images, or one to four videos.
        created_at: When the task was made (UTC), where the service says.
        completed_at: When it was finished (UTC), where the service says.
        expires_at: When the service deletes the results (UTC); links may die sooner.
        locations: Where a fleet has saved them: paths, or URLs such as ``s3://bucket/prefix/fox.jpeg``.
    """

    task_id: str
    urls: tuple[str, ...]
    created_at: datetime | None = None
    completed_at: datetime | None = None
    expires_at: datetime | None = None
    locations: tuple[str, ...] = ()
    _save: Callable[[Path], Awaitable[list[Path]]] | None = attrs.field(
        default=None, repr=False, eq=False
    )

    async def save(self, directory: str | Path) -> list[Path]:
        """Save every result into a directory, verified, and return the paths.

        A file of the same content that is already there is left as it is; nothing is overwritten.

        Args:
            directory: Made if it does not exist.

        Raises:
            DownloadError: A result could not be saved.
            ResultExpired: The results are gone from the service.
        """
        if self._save is None:
            raise RuntimeError("this Generation was made by hand; one from a Client can save")
        return await self._save(Path(directory))


@attrs.frozen
class Counts:
    """How many jobs of a ledger stand where, and what they came to.

    Attributes:
        by_state: Jobs by state; a state without jobs is absent.
        files: Files saved.
        bytes: Their total size.
        credits: Credits spent, over all runs.
        at_risk: Credits that unresolved jobs may have cost besides.
    """

    by_state: Mapping[State, int]
    files: int = 0
    bytes: int = 0
    credits: float = 0
    at_risk: float = 0

    def __getitem__(self, state: State) -> int:
        return self.by_state.get(state, 0)

    @property
    def total(self) -> int:
        """All jobs."""
        return sum(self.by_state.values())


@attrs.frozen
class Reading:
    """The account's balance beside what a ledger knew at that moment.

    Attributes:
        at: When (UTC).
        balance: Credits left, as the service said.
        spent: Credits spent by the ledger's jobs, over all runs.
        at_risk: Credits that its unresolved jobs may have cost besides.
    """

    at: datetime
    balance: float
    spent: float
    at_risk: float


_TOLD_AS: Final = {
    State.PLANNED: "planned",
    State.RUNNING: "pending",
    State.SUCCEEDED: "pending",
    State.SAVED: "saved",
    State.FAILED: "failed",
    State.EXPIRED: "expired",
    State.UNRESOLVED: "unresolved",
    State.ABANDONED: "abandoned",
}


def told_as(state: State, *, at_work: bool) -> str:
    """What people are told a job in this state is.

    Args:
        state: The state.
        at_work: Whether a process works on the batch now.
    """
    if state is State.SUBMITTING:
        # Without a run that is on it, the create's end was never seen.
        return "pending" if at_work else "unresolved"
    return _TOLD_AS[state]


def reason_of(job: Job) -> str:
    """Why a job is not saved, in words for people."""
    if job.state is State.SUBMITTING:
        return f"its create was under way at {job.submitted_at:%Y-%m-%d %H:%M:%S} UTC"
    reason = job.trouble.message if job.trouble else "no reason is known"
    if job.state is State.UNRESOLVED and job.submitted_at:
        return f"sent at {job.submitted_at:%Y-%m-%d %H:%M:%S} UTC: {reason}"
    return reason


def trouble_of(error: KieError) -> Trouble:
    """What a ledger keeps of an error."""
    code: Any = getattr(error, "error_code", None) or getattr(error, "code", None)
    return Trouble(type(error).__name__, str(error), None if code is None else str(code))


def error_of(job: Job) -> KieError:
    """The error that a job's trouble stands for, as an outcome carries it."""
    trouble = job.trouble or Trouble("KieError", f"job {job.key} is {job.state}")
    kind = getattr(errors, trouble.type, KieError)
    if not (isinstance(kind, type) and issubclass(kind, KieError)):
        kind = KieError
    billed: Billed = "yes" if job.task_id and job.credits else "no"
    if job.state in (State.UNRESOLVED, State.SUBMITTING):
        billed = "unknown"
    return kind(trouble.message, task_id=job.task_id, billed=billed)


def outcome_of(job: Job, root: Path | str) -> Outcome:
    """How a job stands, as its user is told.

    Args:
        job: The job.
        root: The directory that its files are in, or the URL of an object store.
    """
    match job.state:
        case State.SAVED if isinstance(root, Path):
            paths = tuple(root / file.path for file in job.files)
            return Saved(job, paths, tuple(str(path) for path in paths))
        case State.SAVED:
            return Saved(job, (), tuple(f"{root}/{file.path}" for file in job.files))
        case State.FAILED:
            return Failed(job, error_of(job))
        case State.EXPIRED:
            return Expired(job, error_of(job))
        case State.UNRESOLVED | State.SUBMITTING:
            return Unresolved(job, error_of(job))
        case State.ABANDONED:
            return Abandoned(job, error_of(job))
        case _:
            return Pending(job, error_of(job))
