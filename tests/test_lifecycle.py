"""How a job may move: the table, the drawing above it, and the facts that come with each event."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.errors import NotSent, RateLimited, ReplyLost, TaskFailed
from kie_mj_async.jobs import Job, SavedFile, State, Trouble
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules import lifecycle
from kie_mj_async.rules.lifecycle import AT_RISK, SETTLED, TABLE, Event, IllegalMove, Move, advance

AFOOT = frozenset({State.RUNNING, State.SUCCEEDED})
"""Paid for, with work left that costs nothing."""

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
URLS = ("https://cdn.example/0.png", "https://cdn.example/1.png")


def a_file(index: int, sha256: str = "00") -> SavedFile:
    return SavedFile(
        index, f"fox_{index}.png", URLS[0], sha256, 10, "image/png", 1, 1, saved_at=AT
    )  # fmt: skip


MAKERS: dict[Event, Callable[[], Move]] = {
    Event.INTENT: lambda: lifecycle.intent(AT, 25),
    Event.NOT_SENT: lambda: lifecycle.not_sent(NotSent("dns")),
    Event.REFUSED: lambda: lifecycle.refused(RateLimited("slow", code=429)),
    Event.REJECTED: lambda: lifecycle.rejected(RateLimited("never", code=505)),
    Event.ACCEPTED: lambda: lifecycle.accepted("abc", AT),
    Event.LOST: lambda: lifecycle.lost(ReplyLost("gone")),
    Event.SUCCEEDED: lambda: lifecycle.succeeded(
        URLS, created_at=AT, completed_at=AT, expires_at=AT + timedelta(days=14)
    ),
    Event.FAILED: lambda: lifecycle.failed(TaskFailed("nsfw", error_code="501")),
    Event.EXPIRED: lambda: lifecycle.expired(TaskFailed("gone")),
    Event.HELD_UP: lambda: lifecycle.held_up(TaskFailed("disk full")),
    Event.RELINKED: lambda: lifecycle.relinked(URLS),
    Event.FILE_SAVED: lambda: lifecycle.file_saved(a_file(0)),
    Event.SAVED: lifecycle.saved,
    Event.RETRIED: lifecycle.retried,
    Event.ABANDONED: lambda: lifecycle.abandoned(AT),
    Event.ADOPTED: lambda: lifecycle.adopted("abc"),
}


def a_job(state: State) -> Job:
    """A job in this state with every fact filled in."""
    return Job(
        key="k",
        request=TextToImage("a fox"),
        state=state,
        seq=3,
        task_id="old",
        attempts=2,
        price=0 if state is State.PLANNED else 25,
        credits=0 if state is State.PLANNED or state in AT_RISK else 25,
        submitted_at=AT,
        created_at=AT,
        completed_at=AT,
        expires_at=AT,
        urls=("https://cdn.example/old.png",),
        files=(a_file(1),),
        trouble=Trouble("NotSent", "earlier"),
    )


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_pair_moves_or_is_illegal(state: State, event: Event) -> None:
    """Every state and event: an arrow of the table, or IllegalMove and a job that is as before."""
    job = a_job(state)
    before = attrs.evolve(job)
    move = MAKERS[event]()
    assert move.event is event
    if (state, event) in TABLE:
        assert advance(job, move).state is TABLE[state, event]
    else:
        with pytest.raises(IllegalMove, match=f"job k is {state}: {event} cannot happen to it"):
            advance(job, move)
    assert job == before


# The arrows of the drawing, read by hand.
_DRAWN = {
    (State.PLANNED, Event.INTENT, State.SUBMITTING),
    (State.PLANNED, Event.ADOPTED, State.RUNNING),
    (State.PLANNED, Event.REJECTED, State.FAILED),
    (State.SUBMITTING, Event.NOT_SENT, State.PLANNED),
    (State.SUBMITTING, Event.REFUSED, State.PLANNED),
    (State.SUBMITTING, Event.REJECTED, State.FAILED),
    (State.SUBMITTING, Event.ACCEPTED, State.RUNNING),
    (State.SUBMITTING, Event.LOST, State.UNRESOLVED),
    (State.RUNNING, Event.SUCCEEDED, State.SUCCEEDED),
    (State.RUNNING, Event.FAILED, State.FAILED),
    (State.RUNNING, Event.EXPIRED, State.EXPIRED),
    (State.SUCCEEDED, Event.SAVED, State.SAVED),
    (State.SUCCEEDED, Event.EXPIRED, State.EXPIRED),
    (State.UNRESOLVED, Event.RETRIED, State.PLANNED),
    (State.UNRESOLVED, Event.ADOPTED, State.RUNNING),
    (State.UNRESOLVED, Event.ABANDONED, State.ABANDONED),
    (State.FAILED, Event.RETRIED, State.PLANNED),
    (State.EXPIRED, Event.RETRIED, State.PLANNED),
    (State.ABANDONED, Event.RETRIED, State.PLANNED),
}


def test_the_table_is_the_drawing() -> None:
    """The table holds the drawn arrows, and besides them only events that stay where they are."""
    arrows = {(source, event, target) for (source, event), target in TABLE.items()}
    staying = {arrow for arrow in arrows if arrow[0] is arrow[2]}
    assert arrows - staying == _DRAWN
    assert {event for _, event, _ in staying} == {
        Event.HELD_UP,
        Event.RELINKED,
        Event.FILE_SAVED,
    }
    assert {source for source, _, _ in staying} == AFOOT


def test_a_found_task_brings_its_price() -> None:
    """A job that was planned again has no price; the task that is found for it has one, once."""
    planned = attrs.evolve(a_job(State.PLANNED), credits=0, price=0)
    found = advance(planned, lifecycle.adopted("t1", 25, "token"))
    assert (found.task_id, found.price, found.credits, found.trouble) == ("t1", 25, 25, None)
    lost = attrs.evolve(a_job(State.UNRESOLVED), credits=50, price=10)
    assert advance(lost, lifecycle.adopted("t1")).credits == 60
    assert "token" not in repr(lifecycle.adopted("t1", 25, "token"))
    failed = advance(found, lifecycle.failed(TaskFailed("nsfw")))
    assert (failed.price, failed.credits) == (0, 0)


def test_every_drawn_word_is_a_state_or_an_event() -> None:
    """The drawing names every event that leads somewhere else, and every state."""
    drawing = (lifecycle.__doc__ or "").split("::\n", 1)[1].split("\nThe money", 1)[0]
    words = set(re.findall(r"[A-Za-z_]{3,}", drawing)) - {"also", "from", "and"}
    moving = {event.name for _, event, _ in _DRAWN}
    assert words == {str(state) for state in State} | moving


def test_only_a_decision_leads_out_of_unresolved() -> None:
    """A job that may have been paid moves by the user's word and by nothing else (law 1)."""
    ways = {event for state, event in TABLE if state is State.UNRESOLVED}
    assert ways == {Event.RETRIED, Event.ABANDONED, Event.ADOPTED}


def test_a_create_is_begun_from_planned_only() -> None:
    """No arrow into submitting but INTENT from planned: nothing can be sent twice (law 1)."""
    into = [pair for pair, target in TABLE.items() if target is State.SUBMITTING]
    assert into == [(State.PLANNED, Event.INTENT)]


def test_nothing_leads_from_a_paid_task_back_to_planned_but_the_user() -> None:
    """Back to planned: what was not sent, what was refused, and what the user wants again."""
    into = {(state, event) for (state, event), target in TABLE.items() if target is State.PLANNED}
    for state, event in into:
        assert event is Event.RETRIED or state is State.SUBMITTING
    assert not any(state in AFOOT or state is State.SAVED for state, _ in into)


def test_afoot_and_settled_part_the_states() -> None:
    """A state is at the start, under way at no cost, or settled; saved is for ever."""
    assert {State.PLANNED, State.SUBMITTING} | AFOOT | SETTLED == set(State)
    assert not AFOOT & SETTLED
    assert not [pair for pair in TABLE if pair[0] is State.SAVED]
    leaving = {(s, e) for (s, e) in TABLE if s in SETTLED}
    assert {event for _, event in leaving} == {Event.RETRIED, Event.ABANDONED, Event.ADOPTED}


def _move(state: State, event: Event) -> Job:
    return advance(a_job(state), MAKERS[event]())


def test_an_intent_counts_the_attempt() -> None:
    """INTENT notes when the create is begun, counts it, and clears what went wrong before."""
    job = advance(attrs.evolve(a_job(State.PLANNED), submitted_at=None), lifecycle.intent(AT, 25))
    assert (job.submitted_at, job.attempts, job.trouble) == (AT, 3, None)


@pytest.mark.parametrize(
    ("state", "event", "trouble"),
    [
        (State.SUBMITTING, Event.NOT_SENT, Trouble("NotSent", "dns")),
        (State.SUBMITTING, Event.REFUSED, Trouble("RateLimited", "slow", "429")),
        (State.SUBMITTING, Event.REJECTED, Trouble("RateLimited", "never", "505")),
        (State.SUBMITTING, Event.LOST, Trouble("ReplyLost", "gone")),
        (State.RUNNING, Event.FAILED, Trouble("TaskFailed", "nsfw", "501")),
        (State.RUNNING, Event.EXPIRED, Trouble("TaskFailed", "gone")),
        (State.SUCCEEDED, Event.HELD_UP, Trouble("TaskFailed", "disk full")),
    ],
)
def test_a_mishap_is_kept(state: State, event: Event, trouble: Trouble) -> None:
    """An event that goes wrong leaves its error with the job."""
    assert _move(state, event).trouble == trouble


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (State.SUBMITTING, Event.ACCEPTED),
        (State.RUNNING, Event.SUCCEEDED),
        (State.SUCCEEDED, Event.SAVED),
        (State.UNRESOLVED, Event.RETRIED),
        (State.UNRESOLVED, Event.ADOPTED),
    ],
)
def test_a_step_forward_forgets_the_trouble(state: State, event: Event) -> None:
    """What went wrong no longer matters once the job goes on."""
    assert _move(state, event).trouble is None


def test_acceptance_brings_the_id_and_the_price() -> None:
    """ACCEPTED carries the task id, its price, and a time that stands in for the service's."""
    job = advance(a_job(State.SUBMITTING), lifecycle.accepted("new", AT))
    assert (job.task_id, job.credits, job.created_at) == ("new", 25, AT)


def test_success_brings_links_and_expiry() -> None:
    """SUCCEEDED carries links and times; a creation time that the service keeps back stays ours."""
    later = AT + timedelta(days=1)
    move = lifecycle.succeeded(URLS, created_at=None, completed_at=later, expires_at=later)
    job = advance(a_job(State.RUNNING), move)
    assert (job.urls, job.created_at, job.completed_at, job.expires_at) == (
        URLS,
        AT,
        later,
        later,
    )
    told = lifecycle.succeeded(URLS, created_at=later, completed_at=None, expires_at=later)
    assert advance(a_job(State.RUNNING), told).created_at == later


def test_a_failed_task_costs_nothing_and_keeps_its_id() -> None:
    """The service does not charge failed tasks; the id stays for questions to it."""
    job = _move(State.RUNNING, Event.FAILED)
    assert (job.credits, job.price, job.task_id) == (0, 0, "old")


@pytest.mark.parametrize("state", [State.RUNNING, State.SUCCEEDED])
def test_an_expired_task_stays_paid(state: State) -> None:
    """What the service has deleted was paid all the same, and keeps its id (law 2)."""
    job = _move(state, Event.EXPIRED)
    assert (job.credits, job.task_id) == (25, "old")


def test_fresh_links_replace_the_dead_ones() -> None:
    """RELINKED changes the links and nothing else."""
    before = a_job(State.SUCCEEDED)
    assert advance(before, lifecycle.relinked(URLS)) == attrs.evolve(before, urls=URLS)


def test_files_are_kept_in_order_one_an_index() -> None:
    """FILE_SAVED adds a file, sorted by index; a second one of an index takes the first's place."""
    job = a_job(State.SUCCEEDED)
    for file in (a_file(3), a_file(0), a_file(3, sha256="ff")):
        job = advance(job, lifecycle.file_saved(file))
    assert job.files == (a_file(0), a_file(1), a_file(3, sha256="ff"))
    assert job.state is State.SUCCEEDED


def test_a_retry_starts_over() -> None:
    """RETRIED forgets the old task's facts, but not that it was tried."""
    job = _move(State.EXPIRED, Event.RETRIED)
    assert (job.task_id, job.urls) == (None, ())
    assert (job.created_at, job.completed_at, job.expires_at) == (None, None, None)
    assert job.attempts == 2
    assert job.files == ()


def test_every_task_of_a_job_is_counted() -> None:
    """An expired job that was accepted again has cost two tasks; a failure gives one back."""
    job = advance(_move(State.EXPIRED, Event.RETRIED), lifecycle.intent(AT, 40))
    assert (job.price, job.credits) == (40, 25)
    job = advance(job, lifecycle.accepted("second", AT))
    assert (job.price, job.credits) == (40, 65)
    assert advance(job, MAKERS[Event.FAILED]()).credits == 25


@pytest.mark.parametrize("event", [Event.NOT_SENT, Event.REFUSED, Event.REJECTED])
def test_what_was_not_accepted_has_no_price(event: Event) -> None:
    """A create that was not accepted leaves nothing at risk."""
    job = _move(State.SUBMITTING, event)
    assert (job.price, job.credits) == (0, a_job(State.SUBMITTING).credits)


def test_what_may_be_paid_is_at_risk() -> None:
    """A lost create keeps its price, and its state counts as at risk."""
    job = _move(State.SUBMITTING, Event.LOST)
    assert job.price == 25
    assert {State.SUBMITTING, job.state} == AT_RISK


def test_an_adopted_task_is_paid() -> None:
    """ADOPTED gives the unresolved job its task and its price."""
    job = advance(a_job(State.UNRESOLVED), lifecycle.adopted("found"))
    assert (job.state, job.task_id, job.credits) == (State.RUNNING, "found", 25)


def test_giving_up_is_noted() -> None:
    """ABANDONED tells when, for the people who read the status."""
    job = _move(State.UNRESOLVED, Event.ABANDONED)
    assert job.trouble == Trouble("Abandoned", "given up by you on 2026-11-01 12:00 UTC")


@settings(deadline=None)
@given(st.lists(st.sampled_from(Event), max_size=30))
def test_identity_survives_every_walk(events: list[Event]) -> None:
    """On any walk: key, request and place stay; each attempt is an INTENT; afoot means an id."""
    job = Job(key="k", request=TextToImage("a fox"), seq=3)
    begun = 0
    for event in events:
        if (job.state, event) not in TABLE:
            continue
        begun += event is Event.INTENT
        job = advance(job, MAKERS[event]())
        assert (job.key, job.request, job.seq) == ("k", TextToImage("a fox"), 3)
        assert job.attempts == begun
        if job.state in AFOOT or job.state is State.SAVED:
            assert job.task_id == "abc"
        if job.state in (State.SUCCEEDED, State.SAVED):
            assert job.expires_at is not None
        if job.state in (State.PLANNED, State.SUBMITTING):
            assert job.task_id is None
