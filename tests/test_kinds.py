"""Classes of tasks."""

from __future__ import annotations

from typing import Any

import pytest

from kie_mj_async.requests import ImageToVideo, OmniReference, Request, TextToImage, Upscale
from kie_mj_async.rules.kinds import Kind, kind_of, kind_of_record
from kie_mj_async.rules.wire import Record, Status

IMAGE = "https://cdn.example/fox.png"


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (TextToImage("x", speed="Fast"), Kind("mj_txt2img", "fast")),
        (TextToImage("x --turbo --v 7"), Kind("mj_txt2img", "turbo", "7")),
        (TextToImage("x", version="Niji6"), Kind("mj_txt2img", "", "niji6")),
        (TextToImage(f"x --oref {IMAGE} --ow 5"), Kind("mj_txt2img", extra="oref")),
        (TextToImage(f"x --DRAFT --oref {IMAGE}"), Kind("mj_txt2img", extra="draft,oref")),
        (TextToImage("x --oref-like --orefs"), Kind("mj_txt2img")),
        (TextToImage('a sign that says "--oref"'), Kind("mj_txt2img")),
        (ImageToVideo("x", image=IMAGE, hd=True), Kind("mj_video_hd")),
        (Upscale("abc", 0), Kind("mj_upscale")),
        # What a ledger of before flags had fields may hold.
        (TextToImage("x --turbo a fox", speed="fast"), Kind("mj_txt2img", "fast")),
        (TextToImage("x --turbo", raw=True), Kind("mj_txt2img")),
        (None, Kind()),
    ],
)
def test_a_class_is_what_tells_durations_apart(request_: Request | None, kind: Kind) -> None:
    """Type, speed, version and the flags that change the duration make a class."""
    assert kind_of(request_) == kind


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        (Kind("mj_txt2img", "fast"), 61),
        (Kind("mj_txt2img", "", "7"), 61),
        (Kind("mj_txt2img", "relaxed"), 214),
        (Kind("mj_txt2img", "fast", "7", "oref"), 248),
        (Kind("mj_omni_reference", "fast"), 248),
        (Kind("mj_style_reference", "fast"), 60),
        (Kind("mj_upscale"), 25),
        (Kind("mj_not_known_yet"), 61),
    ],
)
def test_the_recordings_are_the_first_guess(kind: Kind, seconds: float) -> None:
    """Before anything has ended a class takes what it took in the recordings."""
    assert kind.usual == pytest.approx(seconds)


def test_wider_classes_forget_the_version_then_the_speed_then_all() -> None:
    """The nearest wider class differs in the version only; the last one holds every task."""
    kind = Kind("mj_txt2img", "fast", "7", "oref")
    assert kind.coarser() == (
        Kind("mj_txt2img", "fast", "", "oref"),
        Kind("mj_txt2img", "", "", "oref"),
        Kind(),
    )


def test_a_class_has_a_name_for_people() -> None:
    """It is what was asked for, in words."""
    assert Kind("mj_txt2img", "fast", "7", "oref").name == "txt2img fast 7 oref"
    assert Kind().name == "unknown"


def test_an_omni_reference_is_one() -> None:
    """The type is enough; no flag is needed."""
    assert kind_of(OmniReference("x", images=[IMAGE])).usual == 248


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"speed": "fast", "version": "7", "prompt": "a fox"}, Kind("mj_txt2img", "fast", "7")),
        ({"speed": "Relaxed", "version": 6.1}, Kind("mj_txt2img", "relaxed", "6.1")),
        ({"prompt": f"a fox --oref {IMAGE}"}, Kind("mj_txt2img", extra="oref")),
        ({"speed": None, "version": ["7"], "prompt": {}}, Kind("mj_txt2img")),
    ],
)
def test_a_record_tells_the_class_of_a_strangers_task(params: dict[str, Any], kind: Kind) -> None:
    """Whatever the service put into it."""
    record = Record("t", Status.GENERATING, task_type="mj_txt2img", params=params)
    assert kind_of_record(record) == kind


def test_a_record_that_tells_nothing() -> None:
    """Is of the class of what is known only by its id."""
    assert kind_of_record(Record("t", Status.GENERATING)) == Kind()
