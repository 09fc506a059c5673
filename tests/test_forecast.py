"""When to look at a task next."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.requests import ImageToVideo, Request, TextToImage
from kie_mj_async.rules.forecast import Backoff, TaskClass, classify

IMAGE = "https://cdn.example/fox.png"


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (TextToImage("x", speed="Fast"), TaskClass("mj_txt2img", "fast")),
        (TextToImage("x"), TaskClass("mj_txt2img", "")),
        (ImageToVideo("x", image=IMAGE), TaskClass("mj_video", "")),
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
