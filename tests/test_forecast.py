"""When to look at a task next."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.requests import ImageToVideo, Request, TextToImage, Upscale
from kie_mj_async.rules.forecast import Backoff, SafetyNet, TaskClass, classify

IMAGE = "https://cdn.example/fox.png"


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (TextToImage("x", speed="Fast"), TaskClass("mj_txt2img", "fast")),
        (TextToImage("x"), TaskClass("mj_txt2img", "")),
        (ImageToVideo("x", image=IMAGE), TaskClass("mj_video", "")),
        (TextToImage("x --turbo"), TaskClass("mj_txt2img", "turbo")),
        (TextToImage("x --turbo", raw=True), TaskClass("mj_txt2img", "")),
        # What a ledger of before flags had fields may hold.
        (TextToImage("x --turbo a fox", speed="fast"), TaskClass("mj_txt2img", "fast")),
        (ImageToVideo("x --relax", image=IMAGE, hd=True), TaskClass("mj_video_hd", "relaxed")),
        (Upscale("abc", 0), TaskClass("mj_upscale", "")),
        (None, TaskClass()),
    ],
)
def test_a_class_is_type_and_speed(request_: Request | None, kind: TaskClass) -> None:
    """Tasks of one type and speed are one class; a task known only by its id is in the empty one."""
    assert classify(request_) == kind


@pytest.mark.parametrize(
    ("age", "wait"), [(0, 2), (7.9, 2), (8, 2), (12, 3), (40, 10), (41, 10), (1e6, 10), (-5, 2)]
)
def test_the_wait_is_a_share_of_the_age(age: float, wait: float) -> None:
    """Looks come a quarter of the age apart, at least 2 s and at most 10 s."""
    assert Backoff().next_look(TaskClass(), age) == wait


@settings(deadline=None)
@given(st.floats(1, 900))
def test_an_end_is_noticed_soon(duration: float) -> None:
    """An end is noticed within 2 s, a quarter of the task's duration or 10 s, in few looks."""
    age, looks = 0.0, 0
    while age < duration:
        age += Backoff().next_look(TaskClass(), age)
        looks += 1
    assert age - duration <= max(2.0, min(10.0, 0.25 * duration))
    assert looks <= 12 + duration / 10


def test_the_numbers_are_settings() -> None:
    """Another back-off has its own first wait, share and ceiling."""
    own = Backoff(first=1, share=0.5, ceiling=30)
    assert [own.next_look(TaskClass(), age) for age in (0, 10, 100)] == [1, 5, 30]


@pytest.mark.parametrize(
    ("age", "wait"),
    [(-5, 300), (0, 300), (250, 50), (300, 150), (450, 225), (1200, 600), (1e6, 600)],
)
def test_the_net_is_wide(age: float, wait: float) -> None:
    """The first look comes at 300 s; from then on half the age apart, at most 600 s."""
    assert SafetyNet().next_look(TaskClass(), age) == wait


@given(st.floats(0, 275))
def test_no_usual_task_meets_the_net(duration: float) -> None:
    """Whatever takes as long as the slowest class did (248 s and some) is left to its callback."""
    assert SafetyNet().next_look(TaskClass(), 0.0) > duration


@given(st.floats(1, 10_000))
def test_a_lost_callback_costs_a_bounded_delay(duration: float) -> None:
    """An end that nobody told of is noticed by 300 s, half its duration or 600 s later, in few looks."""
    age, looks = 0.0, 0
    while age < duration:
        age += SafetyNet().next_look(TaskClass(), age)
        looks += 1
    assert age - duration <= max(300.0, min(600.0, 0.5 * duration))
    assert looks <= 5 + duration / 600
