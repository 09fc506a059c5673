"""What is sent: each request's call, flags as fields, and records compared with requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.errors import InvalidRequest
from kie_mj_async.requests import (
    ExistingTask,
    Extend,
    ImageToImage,
    ImageToVideo,
    OmniReference,
    PromptRequest,
    Request,
    StyleReference,
    TextToImage,
    Upscale,
    Vary,
)
from kie_mj_async.rules.bodies import (
    EXTEND,
    GENERATE,
    UPSCALE,
    VARY,
    Call,
    call_of,
    described,
    differences,
    effective,
    lenient,
)
from kie_mj_async.rules.flags import FIELDS
from kie_mj_async.rules.naming import digest
from kie_mj_async.rules.wire import Record, Status

ID = "9f47c52047dda21bb3df0488736cce57"
IMAGE = "https://cdn.example/fox.png"
OTHER = "https://cdn.example/owl.png"
KEPT = "input:" + "0a" * 32 + ".png"
NEEDED: dict[type[PromptRequest], dict[str, Any]] = {
    TextToImage: {},
    ImageToImage: {"image": IMAGE},
    StyleReference: {"images": [IMAGE, OTHER]},
    OmniReference: {"images": [IMAGE]},
    ImageToVideo: {"image": IMAGE},
}
SENT: dict[type[PromptRequest], dict[str, Any]] = {
    TextToImage: {"taskType": "mj_txt2img"},
    ImageToImage: {"taskType": "mj_img2img", "fileUrls": [IMAGE]},
    StyleReference: {"taskType": "mj_style_reference", "fileUrls": [IMAGE, OTHER]},
    OmniReference: {"taskType": "mj_omni_reference", "fileUrls": [IMAGE]},
    ImageToVideo: {
        "taskType": "mj_video",
        "fileUrls": [IMAGE],
        "motion": "high",
        "videoBatchSize": 1,
    },
}
COMMON: dict[str, Any] = {
    "version": "Niji6",
    "speed": "Relax",
    "aspect_ratio": "16:9",
    "stylization": 0,
    "weirdness": 3000,
    "variety": 5,
    "watermark": "mine",
    "translate": False,
    "callback_url": "https://hook.example/x",
}
COMMON_SENT: dict[str, Any] = {
    "version": "niji6",
    "speed": "relaxed",
    "aspectRatio": "16:9",
    "stylization": 0,
    "weirdness": 3000,
    "variety": 5,
    "waterMark": "mine",
    "enableTranslation": False,
    "callBackUrl": "https://hook.example/x",
}
KINDS = pytest.mark.parametrize("kind", NEEDED)


def make(kind: type[PromptRequest], prompt: str = "a fox", **fields: Any) -> PromptRequest:
    return kind(prompt, **NEEDED[kind] | fields)


def body_of(request: Request) -> dict[str, Any]:
    call = call_of(request)
    assert call.path == GENERATE
    json.dumps(call.body)
    return dict(call.body)


# --- Calls --------------------------------------------------------------------------------------


@KINDS
def test_a_create_says_exactly_what_was_asked(kind: type[PromptRequest]) -> None:
    """The body holds the official names and spellings of the given fields, and nothing else."""
    assert body_of(make(kind)) == {"prompt": "a fox", **SENT[kind]}
    assert body_of(make(kind, **COMMON)) == {"prompt": "a fox", **SENT[kind], **COMMON_SENT}


def test_what_only_some_types_have() -> None:
    """A weight for omni references; motion, number and resolution for videos."""
    assert body_of(make(OmniReference, omni_weight=400))["ow"] == 400
    video = body_of(make(ImageToVideo, motion="Low", batch_size=4, hd=True))
    assert video == {
        "taskType": "mj_video_hd",
        "prompt": "a fox",
        "fileUrls": [IMAGE],
        "motion": "low",
        "videoBatchSize": 4,
    }


def test_what_is_for_us_is_not_sent() -> None:
    """How the prompt is read, and what is to follow, are not the service's business."""
    request = make(TextToImage, raw=True, then=["upscale:0"])
    assert body_of(request) == {"taskType": "mj_txt2img", "prompt": "a fox"}


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (IMAGE, IMAGE),
        (KEPT, KEPT),
        ("fox.png", "fox.png"),
        (Path("a/fox.png"), str(Path("a/fox.png"))),
        (bytes(1500), "<1,500 bytes>"),
    ],
)
def test_images_in_a_body(image: Any, told: str) -> None:
    """A body lists links; where there is none yet it says what the image is, never its bytes."""
    assert body_of(ImageToImage("a fox", image=image))["fileUrls"] == [told]
    assert body_of(ImageToImage("a fox", image=[IMAGE, image]))["fileUrls"] == [IMAGE, told]
    assert body_of(StyleReference("a fox", images=[image]))["fileUrls"] == [told]
    assert body_of(ImageToVideo("a fox", image=image))["fileUrls"] == [told]


@pytest.mark.parametrize(
    ("request_", "call"),
    [
        (Upscale(ID, 0), Call(UPSCALE, {"taskId": ID, "imageIndex": 0})),
        (Vary(ID, 3), Call(VARY, {"taskId": ID, "imageIndex": 3})),
        (
            Upscale(ID, 1, watermark="mine", callback_url=IMAGE, then=["vary:0"]),
            Call(
                UPSCALE,
                {"taskId": ID, "imageIndex": 1, "waterMark": "mine", "callBackUrl": IMAGE},
            ),
        ),
        (
            Extend(ID, 2),
            Call(EXTEND, {"taskId": ID, "index": 2, "taskType": "mj_video_extend_auto"}),
        ),
        (
            Extend(ID, 0, prompt="more rain --fast", watermark="mine", callback_url=IMAGE),
            Call(
                EXTEND,
                {
                    "taskId": ID,
                    "index": 0,
                    "taskType": "mj_video_extend_manual",
                    "prompt": "more rain --fast",
                    "waterMark": "mine",
                    "callBackUrl": IMAGE,
                },
            ),
        ),
    ],
)
def test_calls_of_follow_ups(request_: Request, call: Call) -> None:
    """Each follow-up has its own path, and a body as kie-api.md has it."""
    assert call_of(request_) == call
    assert effective(request_) is request_


# --- Flags --------------------------------------------------------------------------------------

EVERYWHERE = [
    ("--v 6.1", "version", "6.1"),
    ("--niji 6", "version", "niji6"),
    ("--relax", "speed", "relaxed"),
    ("--fast", "speed", "fast"),
    ("--turbo", "speed", "turbo"),
    ("--ar 32:18", "aspectRatio", "16:9"),
    ("--s 500", "stylization", 500),
    ("--weird 100", "weirdness", 100),
    ("--c 10", "variety", 10),
]


@KINDS
@pytest.mark.parametrize(("flag", "field", "value"), EVERYWHERE)
def test_flags_move_to_their_fields(
    kind: type[PromptRequest], flag: str, field: str, value: Any
) -> None:
    """A flag whose field every type has becomes that field, and leaves the prompt."""
    assert body_of(make(kind, f"a fox {flag}")) == {"prompt": "a fox", **SENT[kind], field: value}


@KINDS
@pytest.mark.parametrize(
    ("flags", "fields", "types"),
    [
        ("--ow 400", {"ow": 400}, [OmniReference]),
        ("--motion low --bs 4", {"motion": "low", "videoBatchSize": 4}, [ImageToVideo]),
    ],
)
def test_flags_of_some_types(
    kind: type[PromptRequest], flags: str, fields: dict[str, Any], types: list[type]
) -> None:
    """A flag moves where the type has its field, and stays in the prompt of any other."""
    body = body_of(make(kind, f"a fox {flags} --s 5"))
    if kind in types:
        assert body == {**SENT[kind], "prompt": "a fox", "stylization": 5, **fields}
    else:
        assert body == {**SENT[kind], "prompt": f"a fox {flags}", "stylization": 5}


@KINDS
@pytest.mark.parametrize(
    "flag",
    [
        "--sref https://a.example/b.png --sw 60",
        "--seed 1",
        "--no cats, dogs",
        "--oref https://a.example/b.png",
        "--p",
        "--p abc123",
        "--tile",
        "--unheard of",
        "--ar 7:3",
        "--v 4",
    ],
)
def test_flags_without_a_field_pass_through(kind: type[PromptRequest], flag: str) -> None:
    """What the API has no field, or no value, for stays where it stands."""
    assert body_of(make(kind, f"a fox {flag}")) == {"prompt": f"a fox {flag}", **SENT[kind]}
    assert body_of(make(kind, f"a fox --s 5 {flag} --turbo")) == {
        **SENT[kind],
        "prompt": f"a fox {flag}",
        "stylization": 5,
        "speed": "turbo",
    }


@KINDS
def test_raw_prompts_are_sent_as_they_are(kind: type[PromptRequest]) -> None:
    """With raw nothing is read: flags, what contradicts them, and what could not be read."""
    for prompt in ("a fox --ar 1:1 --v 7 --ow 5 --bs 2", "--ar", "{a, b", "a fox --v x then"):
        request = make(kind, prompt, raw=True, aspect_ratio="16:9")
        assert effective(request) is request
        assert body_of(request) == {"prompt": prompt, **SENT[kind], "aspectRatio": "16:9"}


def test_what_is_as_written_is_itself() -> None:
    """A prompt without flags is not made anew."""
    request = make(TextToImage)
    assert effective(request) is request
    bare = ExistingTask(ID, prompt="a fox --v 7")
    assert effective(bare) is bare


@pytest.mark.parametrize("names", [None, {"version": "--model"}])
@pytest.mark.parametrize(
    ("prompt", "fields", "said"),
    [
        ("a fox --v 7", {"version": "6"}, "--v 7 in the prompt and {} 6 contradict each other"),
        ("a fox --niji 6", {"version": 7}, "--niji 6 in the prompt and {} 7 contradict"),
        ("a fox --v 4", {"version": "7"}, "--v 4 in the prompt and {} 7 contradict"),
    ],
)
def test_a_clash_names_both(
    names: dict[str, str] | None, prompt: str, fields: dict[str, Any], said: str
) -> None:
    """A flag against a field is an error that names both, the field as the user calls it."""
    with pytest.raises(InvalidRequest) as caught:
        effective(make(TextToImage, prompt, **fields), names)
    assert said.format("--model" if names else "version") in str(caught.value)
    assert caught.value.field == "version"


@pytest.mark.parametrize(
    ("kind", "prompt", "fields"),
    [
        (TextToImage, "a fox --fast", {"speed": "turbo"}),
        (TextToImage, "a fox --ar 1:1", {"aspect_ratio": "16:9"}),
        (TextToImage, "a fox --s 5", {"stylization": 0}),
        (TextToImage, "a fox --w 5", {"weirdness": 6}),
        (TextToImage, "a fox --c 5", {"variety": 6}),
        (OmniReference, "a fox --ow 5", {"omni_weight": 6}),
        (ImageToVideo, "a fox --motion high", {"motion": "low"}),
        (ImageToVideo, "a fox --bs 2", {"batch_size": 4}),
    ],
)
def test_every_field_can_clash(
    kind: type[PromptRequest], prompt: str, fields: dict[str, Any]
) -> None:
    """No flag wins silently over what was given beside it, nor the other way round."""
    (name,) = fields
    with pytest.raises(InvalidRequest, match=f"in the prompt and {name} {fields[name]} contradict"):
        effective(make(kind, prompt, **fields))


def test_the_same_said_twice_is_no_clash() -> None:
    """A flag that says what the field says; and a default, which nobody said."""
    assert body_of(make(TextToImage, "a fox --v 7 --relax", version=7, speed="Relax")) == {
        **SENT[TextToImage],
        "prompt": "a fox",
        "version": "7",
        "speed": "relaxed",
    }
    assert body_of(make(ImageToVideo, "a fox --motion low --bs 4"))["motion"] == "low"
    assert body_of(make(TextToImage, "a fox --s 5 --s 6"))["stylization"] == 6


@pytest.mark.parametrize(
    "prompt", ["a fox --s 5000", "a fox --ar wide", "--v 7", "a fox --v 7 in snow", "a fox --s"]
)
def test_a_flag_that_cannot_be(prompt: str) -> None:
    """What Midjourney refuses is refused before it is sent; an old ledger's is as it was written."""
    request = make(TextToImage, prompt)
    with pytest.raises(InvalidRequest):
        effective(request)
    with pytest.raises(InvalidRequest):
        call_of(request)
    assert lenient(request) is request
    assert lenient(make(TextToImage, "a fox --s 5")) == make(TextToImage, stylization=5)


def test_a_job_is_the_same_however_it_is_sent() -> None:
    """A request keeps its text as written: its key is made of it."""
    request = make(TextToImage, "a fox --ar 16:9 --v 7")
    key = digest(request)
    assert effective(request).prompt == "a fox"
    assert (request.prompt, digest(request)) == ("a fox --ar 16:9 --v 7", key)
    assert digest(attrs.evolve(request, raw=True)) == key


FLAGS = st.sampled_from(
    [
        *(flag for flag, _, _ in EVERYWHERE),
        *("--ow 400", "--motion low", "--bs 4", "--ar 7:3", "--v 4", "--tile", "--no cats, dogs"),
        *("—fast", "—v 7", "\u2013tile", "--seed 1", "--sref https://a.example/b.png", "--x"),
        *("--s 5000", "--ar", "fast", "—", "--", '"--v 7"', "“--s 5”"),
    ]
)
PROMPTS = st.lists(
    FLAGS | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=8
).map(" ".join)
REQUESTS = st.builds(
    lambda kind, prompt, fields: (kind, prompt, fields),
    st.sampled_from(list(NEEDED)),
    PROMPTS.filter(lambda one: bool(one.strip())),
    st.fixed_dictionaries({}, optional={"speed": st.just("fast"), "version": st.just("7")}),
)


@settings(deadline=None, max_examples=400)
@given(REQUESTS)
def test_moving_flags_is_done_once_and_loses_nothing(made: tuple[Any, str, dict[str, Any]]) -> None:
    """Moved a second time nothing changes, each word stays or is a flag's, and the key is the same."""
    kind, prompt, fields = made
    request = make(kind, prompt, **fields)
    key = digest(request)
    try:
        sent = effective(request)
    except InvalidRequest:
        assert lenient(request) is request
        return
    assert effective(sent) == sent
    assert call_of(request) == call_of(sent)
    assert lenient(request) == sent
    assert digest(request) == key
    left = iter(prompt.split())
    # What stays stands in its order; what went was a flag with its value.
    assert all(word in left for word in sent.prompt.split())
    gone = len(prompt.split()) - len(sent.prompt.split())
    moved = [name for name in FIELDS if getattr(sent, name, None) != getattr(request, name, None)]
    if not moved and not fields and kind is not ImageToVideo:
        assert gone == 0
    for field in attrs.fields(kind):
        if field.name not in FIELDS | {"prompt"}:
            assert getattr(sent, field.name) == getattr(request, field.name)


# --- Records ------------------------------------------------------------------------------------


def record(task_type: str | None, **params: Any) -> Record:
    return Record(ID, Status.GENERATING, task_type=task_type, params=params)


@pytest.mark.parametrize(
    ("params", "task_type", "found"),
    [
        ({"prompt": "a fox", "version": "7", "extra": 1}, "mj_img2img", []),
        ({"prompt": "a fox", "version": "7"}, None, []),
        ({"prompt": "an owl", "version": "7"}, "mj_img2img", ["prompt is 'an owl', not 'a fox'"]),
        ({"prompt": "a fox"}, "mj_img2img", ["version is None, not '7'"]),
        (
            {"prompt": "a fox", "version": "7"},
            "mj_txt2img",
            ["taskType is mj_txt2img, not mj_img2img"],
        ),
    ],
)
@pytest.mark.parametrize("form", [{"fileUrl": IMAGE}, {"fileUrls": [IMAGE]}])
def test_how_a_record_differs_from_a_request(
    form: dict[str, Any], params: dict[str, Any], task_type: str | None, found: list[str]
) -> None:
    """A record is compared in what the request says; the callback is nobody's business."""
    wish = ImageToImage("a fox", image=IMAGE, version="7", callback_url="https://hook.example/x")
    assert differences(wish, record(task_type, **form, **params)) == found


def test_images_are_compared_unless_they_were_uploaded() -> None:
    """Another image is a difference; where a local one was uploaded to is not."""
    there = record("mj_img2img", prompt="a fox", fileUrls=[OTHER])
    assert differences(ImageToImage("a fox", image=IMAGE), there) == [
        f"fileUrls is ['{OTHER}'], not ['{IMAGE}']"
    ]
    for local in (KEPT, "fox.png", Path("fox.png"), b"fox"):
        assert differences(ImageToImage("a fox", image=local), there) == []
        assert differences(ImageToImage("a fox", image=[IMAGE, local]), there) == []


def test_a_task_of_before_flags_had_fields_matches() -> None:
    """What was sent as it was written is compared as it was written, too."""
    wish = TextToImage("a fox --ar 16:9 --sref https://a.example/b.png")
    moved = record("mj_txt2img", prompt="a fox --sref https://a.example/b.png", aspectRatio="16:9")
    assert differences(wish, moved) == []
    assert differences(wish, record("mj_txt2img", prompt=wish.prompt)) == []
    assert differences(wish, record("mj_txt2img", prompt="an owl --ar 16:9")) == [
        "prompt is 'an owl --ar 16:9', not 'a fox --sref https://a.example/b.png'",
        "aspectRatio is None, not '16:9'",
    ]
    odd = TextToImage("a fox --ar 16:9 in snow")
    assert differences(odd, record("mj_txt2img", prompt=odd.prompt)) == []


def test_follow_ups_are_compared_too() -> None:
    """A follow-up's task is told by its parent, its index and its words."""
    wish = Extend(ID, 0, prompt="more rain")
    told = {"taskId": ID, "index": 0, "prompt": "more rain"}
    assert differences(wish, record("mj_video_extend_manual", **told)) == []
    assert differences(wish, record("mj_video_extend_auto", **told | {"index": 1})) == [
        "taskType is mj_video_extend_auto, not mj_video_extend_manual",
        "index is 1, not 0",
    ]


@pytest.mark.parametrize(
    ("task_type", "kind"),
    [
        ("mj_txt2img", "TextToImage"),
        ("mj_img2img", "ImageToImage"),
        ("mj_style_reference", "StyleReference"),
        ("mj_omni_reference", "OmniReference"),
        ("mj_video", "ImageToVideo"),
        ("mj_video_hd", "ImageToVideo"),
        ("mj_upscale", "Upscale"),
        ("mj_vary", "Vary"),
        ("mj_video_extend_manual", "Extend"),
        ("mj_video_extend_auto", "Extend"),
        ("mj_new", "mj_new"),
        (None, "unknown"),
    ],
)
def test_types_are_described_by_our_names(task_type: str | None, kind: str) -> None:
    """A task's type is told by our name, or by the service's where we have none."""
    assert described(ExistingTask(ID), record(task_type)).params() == {"type": kind}


def test_a_task_is_described_by_its_record() -> None:
    """A record tells a task's prompt and parameters by our names, without what was not asked for."""
    params = {
        "taskType": "mj_txt2img", "prompt": "a fox", "aspectRatio": "1:1", "speed": "fast",
        "motion": "high", "videoBatchSize": 1, "waterMark": "", "callBackUrl": "https://me.test/x",
        "version": None, "fileUrls": ["https://x.test/a.png", {"odd": 1}], "ow": 500,
        "deep": {"not": "kept"}, "huge": 1e999, "half": "\ud800", "half \ud800": 1,
    }  # fmt: skip
    told = described(ExistingTask(ID), record("mj_txt2img", **params))
    assert (told.task_id, told.prompt) == (ID, "a fox")
    assert told.params() == {
        "type": "TextToImage", "aspect_ratio": "1:1", "speed": "fast",
        "fileUrls": ["https://x.test/a.png"], "omni_weight": 500, "half": "?", "half ?": 1,
    }  # fmt: skip
    json.dumps(told.to_dict()).encode()


def test_a_video_is_described_with_its_motion() -> None:
    """What only videos have is told of videos; what was known stays where the record is silent."""
    there = record("mj_video_new", prompt=7, motion="low", videoBatchSize=2)
    told = described(ExistingTask(ID, prompt="known before"), there)
    assert told.prompt == "known before"
    assert told.params() == {"type": "mj_video_new", "motion": "low", "batch_size": 2}
