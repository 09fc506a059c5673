"""Chains: the jobs that ``then`` makes, and what each asks for when its turn has come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.errors import InvalidRequest
from kie_mj_async.jobs import Job, State
from kie_mj_async.requests import (
    ChainStep,
    ExistingTask,
    Extend,
    ImageToVideo,
    Request,
    StyleReference,
    TextToImage,
    Upscale,
    Vary,
    request_from_dict,
)
from kie_mj_async.rules.billing import Prices
from kie_mj_async.rules.bodies import EXTEND, GENERATE, UPSCALE, VARY, call_of
from kie_mj_async.rules.chains import HOPELESS, READY, bound, steps_of, wants_fresh_link
from kie_mj_async.rules.lifecycle import SETTLED, TABLE, Event
from kie_mj_async.rules.naming import digest, job_key
from kie_mj_async.steps import KINDS, Step

IMAGE = "https://cdn.example/fox.png"
HOOK = "https://me.test/hook"
KEY = "1-" + "ab" * 10
NOW = datetime(2026, 11, 1, tzinfo=UTC)
URLS = tuple(f"https://files.example/{n}.png" for n in range(4))


def chain(then: Any, request: Request | None = None, **fields: Any) -> list[ChainStep]:
    """The steps of a chain, in their order."""
    given = TextToImage("a fox --ar 16:9", **fields) if request is None else request
    return [step for _, step in steps_of(attrs.evolve(given, **{"then": then}), KEY)]


def keys(then: Any, request: Request | None = None, key: str = KEY, **fields: Any) -> list[str]:
    given = TextToImage("a fox", **fields) if request is None else request
    return [made for made, _ in steps_of(attrs.evolve(given, **{"then": then}), key)]


def refused(then: Any, request: Request | None = None) -> str:
    with pytest.raises(InvalidRequest, match=r"^then: ") as caught:
        chain(then, request)
    assert caught.value.field == "then"
    return str(caught.value)


def parent(**changes: Any) -> Job:
    """A job whose task has ended."""
    facts: dict[str, Any] = {
        "key": KEY,
        "request": TextToImage("a fox"),
        "state": State.SUCCEEDED,
        "task_id": "abc",
        "urls": URLS,
        "completed_at": NOW,
    }
    return Job(**facts | changes)


# --- The jobs of a chain ------------------------------------------------------------------------


def test_a_chain_is_a_list_of_jobs() -> None:
    """Render, upscale images 0 and 2, animate the first of those: one, two and one more jobs."""
    request = TextToImage("a fox --ar 16:9", then=["upscale:0,2", "video:0"])
    made = steps_of(request, KEY)
    (first, one), (second, two), (third, film) = made
    assert [(one.kind, one.parent, one.index), (two.kind, two.parent, two.index)] == [
        ("upscale", KEY, 0),
        ("upscale", KEY, 2),
    ]
    assert (film.kind, film.parent, film.index) == ("video", first, 0)
    assert len({KEY, first, second, third}) == 4
    assert [key for key, _ in made] == [digest(step) for _, step in made]


def test_no_chain_makes_no_jobs() -> None:
    """Without steps there is nothing to do, also where a chain could not begin."""
    assert steps_of(TextToImage("a fox --ar"), KEY) == []
    assert steps_of(ExistingTask("abc"), KEY) == []


@pytest.mark.parametrize(
    ("then", "places"),
    [
        (["vary:1,0", "upscale:0,4,7"], [(0, 0), (1, 0), (1, 3)]),
        (["upscale:3,1,0", "vary:2"], [(2, 0)]),
        (["upscale:0,1,2,3", "upscale:3,0"], [(3, 0), (0, 0)]),
        (["video:0,1 a pan", "extend:5"], [(1, 1)]),
    ],
)
def test_indexes_count_the_results_of_the_step_before(
    then: list[str], places: list[tuple[int, int]]
) -> None:
    """All its tasks' results, one task after the other: an upscale gives one, a vary four."""
    made = steps_of(TextToImage("a fox", then=then), KEY)
    number = len(Step.parse(then[0]).indexes)
    before, after = made[:number], made[number:]
    order = [key for key, _ in before]
    assert [(order.index(one.parent), one.index) for _, one in after] == places
    assert [one.index for _, one in before] == list(Step.parse(then[0]).indexes)


@pytest.mark.parametrize(
    ("request_", "then", "fine"),
    [
        (TextToImage("x"), "upscale:3", "upscale:3"),
        (StyleReference("x", images=IMAGE), "vary:3", "vary:3"),
        (ImageToVideo("x", image=IMAGE), "extend:1", "extend:0"),
        (ImageToVideo("x", image=IMAGE, batch_size=2), "extend:2", "extend:1"),
        (ImageToVideo("x --bs 4", image=IMAGE), "extend:4", "extend:3"),
        (Upscale("abc", 0), "vary:1", "vary:0"),
        (Vary("abc", 0), "upscale:4", "upscale:3"),
        (Extend("abc", 0), "extend:4", "extend:3"),
    ],
)
def test_a_chain_begins_with_what_its_request_makes(
    request_: Request, then: str, fine: str
) -> None:
    """How many results there will be is known of every type, flags included."""
    assert len(chain(fine, request_)) == 1
    if then != fine:
        assert "before it, counted from 0" in refused(then, request_)


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (["upscale:4"], "then: upscale:4: there are 4 results before it, counted from 0"),
        (["upscale:0,9"], "then: upscale:0,9: there are 4 results before it"),
        (["upscale:0", "vary:1"], "then: vary:1: there is 1 result before it, counted from 0"),
        (["upscale:0,2", "video:2"], "then: video:2: there are 2 results before it"),
        (["vary:0", "upscale:4"], "then: upscale:4: there are 4 results before it"),
        (["extend:0"], "then: extend:0: it works on a video, and what is before it makes images"),
        (["upscale:0", "extend:0"], "extend:0: it works on a video"),
        *[
            (
                ["video:0", f"{kind}:0"],
                f"then: {kind}:0: it works on an image, and what is before it m",
            )
            for kind in ("upscale", "vary", "video", "video-hd")
        ],
        (["video-hd:0", "extend:0", "upscale:0"], "then: upscale:0: it works on an image"),
        (["video:0 a pan --bs 3"], "video:0 a pan --bs 3: --bs 3 in the prompt is not allowed"),
        (["video:0 a --motion low pan"], "--motion low in the prompt is followed by 'pan'"),
        (["video:0 --motion low"], "is nothing but flags"),
    ],
)
def test_chains_that_cannot_be(then: list[str], said: str) -> None:
    """Out of range, of the wrong kind, or with words that cannot be sent: told before any spend."""
    assert said in refused(then)


def test_a_video_needs_words() -> None:
    """It has the chain's, or its own; where neither are, the message shows how to write them."""
    said = refused("video:0", Upscale("abc", 0))
    assert said == "then: video:0: it needs words; write video:0 and what happens in it"
    (film,) = chain("video:0 a pan", Upscale("abc", 0))
    assert (film.prompt, film.own_words) == ("a pan", True)


def test_the_words_of_steps() -> None:
    """A step has its own words, or its chain's; a video has these without the images' flags."""
    upscale, video = chain(["upscale:0", "video:0"])
    assert (upscale.prompt, upscale.own_words) == ("a fox --ar 16:9", False)
    assert (video.prompt, video.own_words) == ("a fox", False)
    (video,) = chain("video:0 a slow pan --motion low")
    assert (video.prompt, video.own_words) == ("a slow pan --motion low", True)
    _, more = chain(["video:0", "extend:0 more rain"])
    assert (more.prompt, more.own_words) == ("more rain", True)
    (video,) = chain("video:0", raw=True)
    assert (video.prompt, video.raw) == ("a fox --ar 16:9", True)


def test_what_steps_have_of_their_chain() -> None:
    """How to be told and marked goes for all; speed and translation for videos alone."""
    fields: dict[str, Any] = {
        "speed": "turbo",
        "watermark": "mine",
        "translate": True,
        "callback_url": HOOK,
    }
    upscale, video, extend = chain(["upscale:0", "video-hd:0", "extend:0"], **fields)
    assert video == ChainStep("video-hd", upscale_key(fields), 0, "a fox", **fields)
    for one in (upscale, extend):
        assert (one.watermark, one.callback_url) == ("mine", HOOK)
        assert (one.speed, one.translate) == (None, None)
    (marked,) = chain("vary:0", Upscale("abc", 0, watermark="mine", callback_url=HOOK))
    assert (marked.watermark, marked.callback_url) == ("mine", HOOK)


def upscale_key(fields: dict[str, Any]) -> str:
    return keys("upscale:0", **fields)[0]


@pytest.mark.parametrize(
    ("prompt", "fields", "then", "speed"),
    [
        ("a fox", {}, "video:0", None),
        ("a fox", {"speed": "fast"}, "video:0", "fast"),
        ("a fox --turbo", {}, "video:0", "turbo"),
        ("a fox --turbo", {}, "video:0 a pan --relax", "relaxed"),
        ("a fox", {"speed": "fast"}, "video:0 a pan --turbo", "turbo"),
        ("a fox --turbo", {"raw": True}, "video:0 a pan --relax", None),
    ],
)
def test_the_speed_of_a_video(
    prompt: str, fields: dict[str, Any], then: str, speed: str | None
) -> None:
    """Its own flag's, else the chain's, however that was said; so that its price is known ahead."""
    (video,) = chain(then, TextToImage(prompt, **fields))
    assert video.speed == speed
    made = bound(video, parent())
    assert call_of(made).body.get("speed") == speed
    prices = Prices(25, {"mj_video": {"turbo": 100, "relaxed": 10}})
    assert prices.of(video) == prices.of(made)


# --- Keys ---------------------------------------------------------------------------------------

PINNED = [
    "1-7bc2f7cd88be3b8e11b2",
    "1-ff7e55813c4557324e70",
    "1-7f801154c48dbd0aab92",
    "1-709e9630ea011ea828fe",
]


def test_keys_of_steps_are_the_same_for_ever() -> None:
    """A step's key is the one that earlier runs wrote: these literals never change."""
    assert keys(["upscale:0,2", "video:0", "extend:0 more rain"]) == PINNED


def test_what_makes_another_step() -> None:
    """Its kind, its parent, which result, and words of its own."""
    made = [
        *keys("upscale:0"),
        *keys("upscale:1"),
        *keys("vary:0"),
        *keys("video:0"),
        *keys("video-hd:0"),
        *keys("video:0 a pan"),
        *keys("video:0 a tilt"),
        *keys("upscale:0", key=job_key(KEY, 2)),
    ]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize(
    "fields",
    [
        {"callback_url": HOOK},
        {"speed": "turbo"},
        {"watermark": "mine"},
        {"translate": True},
        {"raw": True},
    ],
)
def test_what_makes_no_other_step(fields: dict[str, Any]) -> None:
    """What a step has of its chain is in its chain's key, or is not of the wish."""
    then = ["upscale:0", "video:0", "extend:0"]
    assert keys(then, **fields) == keys(then)
    assert keys("video:0", TextToImage("another prompt")) == keys("video:0")


def test_a_step_can_be_kept() -> None:
    """A step's plain form reads back as the same step, with the same key."""
    for step in chain(["upscale:0,2", "video:0 a pan", "extend:0"], speed="fast", raw=True):
        again = request_from_dict(step.to_dict())
        assert (again, digest(again)) == (step, digest(step))


# --- What a step asks for -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "path", "body"),
    [
        (ChainStep("upscale", KEY, 2, "a fox"), UPSCALE, {"taskId": "abc", "imageIndex": 2}),
        (ChainStep("vary", KEY, 0), VARY, {"taskId": "abc", "imageIndex": 0}),
        (
            ChainStep("vary", KEY, 0, watermark="mine", callback_url=HOOK),
            VARY,
            {"taskId": "abc", "imageIndex": 0, "waterMark": "mine", "callBackUrl": HOOK},
        ),
        (
            ChainStep("extend", KEY, 1, "a fox", callback_url=HOOK),
            EXTEND,
            {
                "taskId": "abc",
                "index": 1,
                "taskType": "mj_video_extend_auto",
                "callBackUrl": HOOK,
            },
        ),
        (
            ChainStep("extend", KEY, 1, "more rain", own_words=True, watermark="mine"),
            EXTEND,
            {
                "taskId": "abc",
                "index": 1,
                "taskType": "mj_video_extend_manual",
                "prompt": "more rain",
                "waterMark": "mine",
            },
        ),
        (
            ChainStep("video", KEY, 3, "a fox"),
            GENERATE,
            {
                "taskType": "mj_video",
                "prompt": "a fox",
                "fileUrls": [URLS[3]],
                "motion": "high",
                "videoBatchSize": 1,
            },
        ),
        (
            ChainStep(
                "video-hd",
                KEY,
                0,
                "a pan --motion low --bs 2",
                own_words=True,
                speed="fast",
                watermark="mine",
                translate=True,
                callback_url=HOOK,
            ),
            GENERATE,
            {
                "taskType": "mj_video_hd",
                "prompt": "a pan",
                "fileUrls": [URLS[0]],
                "motion": "low",
                "videoBatchSize": 2,
                "speed": "fast",
                "waterMark": "mine",
                "enableTranslation": True,
                "callBackUrl": HOOK,
            },
        ),
        (
            ChainStep("video", KEY, 0, "a fox --ar 16:9", raw=True),
            GENERATE,
            {
                "taskType": "mj_video",
                "prompt": "a fox --ar 16:9",
                "fileUrls": [URLS[0]],
                "motion": "high",
                "videoBatchSize": 1,
            },
        ),
    ],
)
def test_what_a_step_sends(step: ChainStep, path: str, body: dict[str, Any]) -> None:
    """Each kind is its own call, of the parent's task or of a link to its result."""
    made = bound(step, parent())
    call = call_of(made)
    assert (call.path, dict(call.body)) == (path, body)
    assert made.task_type == step.task_type


def test_a_video_of_a_fresh_link() -> None:
    """Where the parent's own link may be dead, another one to the same result is used."""
    made = bound(ChainStep("video", KEY, 1, "a fox"), parent(), link=IMAGE)
    assert made == ImageToVideo("a fox", image=IMAGE)


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (parent(urls=URLS[:2]), "has 2 results, and none with index 2"),
        (parent(urls=()), "has 0 results, and none with index 2"),
        (parent(task_id=None), "has no task"),
    ],
)
def test_a_parent_without_that_result(job: Job, said: str) -> None:
    """Fewer results than were to be expected: the step cannot be, and says of which job."""
    with pytest.raises(InvalidRequest) as caught:
        bound(ChainStep("upscale", KEY, 2), job)
    assert str(caught.value) == f"then: job {KEY} {said}"


def test_a_parent_with_one_result() -> None:
    """The message counts in plain words."""
    with pytest.raises(InvalidRequest, match=f"job {KEY} has 1 result, and none with index 1"):
        bound(ChainStep("upscale", KEY, 1), parent(urls=URLS[:1]))


@pytest.mark.parametrize("kind", KINDS)
def test_when_a_link_may_be_dead(kind: str) -> None:
    """Only videos are made of links; those are trusted for half the life they are said to have."""
    step, hours = ChainStep(kind, KEY, 0, "a fox"), timedelta(hours=12)
    of_link = kind in ("video", "video-hd")
    assert wants_fresh_link(step, parent(), NOW) is False
    assert wants_fresh_link(step, parent(), NOW + hours) is False
    assert wants_fresh_link(step, parent(), NOW + hours + timedelta(seconds=1)) is of_link
    assert wants_fresh_link(step, parent(completed_at=None), NOW) is of_link


# --- States -------------------------------------------------------------------------------------


def ways_out(state: State) -> set[Event]:
    return {event for (from_, event) in TABLE if from_ is state}


def test_when_a_parents_results_are_there() -> None:
    """Ready is where a task has succeeded and nothing is known to have taken its results away."""
    reached = {TABLE[State.RUNNING, Event.SUCCEEDED], TABLE[State.SUCCEEDED, Event.SAVED]}
    assert reached == READY


def test_when_a_parents_results_will_never_be() -> None:
    """Hopeless is where only the user's wish to have it made again leads on."""
    assert {state for state in State if ways_out(state) == {Event.RETRIED}} == HOPELESS
    assert not READY & HOPELESS
    # Between the two a step waits; an unresolved parent waits for its user.
    assert {State.UNRESOLVED} == SETTLED - READY - HOPELESS
    assert set(State) - READY - HOPELESS == {
        State.PLANNED,
        State.SUBMITTING,
        State.RUNNING,
        State.UNRESOLVED,
    }


# --- Any chain ----------------------------------------------------------------------------------

STEPS = st.lists(
    st.builds(
        lambda kind, indexes, words: f"{kind}:{','.join(map(str, indexes))} {words}",
        st.sampled_from(KINDS),
        st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True),
        st.sampled_from(["", "", "a pan", "a pan --motion low", "a pan --bs 9"]),
    ),
    max_size=4,
)
BEGINNINGS = st.sampled_from(
    [
        TextToImage("a fox --ar 16:9 --fast"),
        ImageToVideo("a fox", image=IMAGE, batch_size=2),
        Upscale("abc", 0),
        Extend("abc", 0),
    ]
)


@settings(deadline=None, max_examples=300)
@given(BEGINNINGS, STEPS)
def test_any_chain_is_jobs_that_can_be_sent_or_is_refused(request: Any, then: list[str]) -> None:
    """Parents come first, keys are told apart, and each step can be sent, or it is refused."""
    try:
        made = steps_of(attrs.evolve(request, then=then), KEY)
    except InvalidRequest:
        return
    seen = {KEY}
    for key, step in made:
        assert step.parent in seen
        assert key not in seen
        seen.add(key)
        assert 0 <= step.index < 4
        assert call_of(bound(step, parent(key=step.parent))).body
    assert len(made) == sum(len(Step.parse(one).indexes) for one in then)


def test_what_a_step_is_told_as() -> None:
    """Manifest and page say what it makes, of which result, and group it with its chain's prompt."""
    chain = TextToImage("a fox --ar 16:9", then=["upscale:1", "video-hd:0"], speed="turbo")
    (key, upscale), (_, video) = steps_of(chain, "1-abc")
    assert upscale.params() == {"type": "Upscale", "parent": "1-abc", "index": 1}
    assert upscale.prompt == "a fox --ar 16:9"
    assert video.prompt == "a fox"
    assert video.params() == {
        **{"type": "ImageToVideo", "hd": True, "parent": key, "index": 0},
        "speed": "turbo",
    }
