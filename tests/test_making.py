"""From what users write to requests: types, affixes, braces, and where an error points to."""

from __future__ import annotations

import io
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.errors import InvalidRequest
from kie_mj_async.requests import (
    ImageToImage,
    ImageToVideo,
    OmniReference,
    Request,
    StyleReference,
    TextToImage,
    Upscale,
)
from kie_mj_async.rules.bodies import effective
from kie_mj_async.rules.flags import parts, split_flags
from kie_mj_async.rules.lists import Format, read_rows
from kie_mj_async.rules.making import TYPES, Wishes, affixed, as_request, as_requests, single
from kie_mj_async.rules.prompts import Prompt
from kie_mj_async.steps import Step

IMAGE = "https://cdn.example/fox.png"
OTHER = "https://cdn.example/owl.png"


def make(item: object, **fields: Any) -> list[Request]:
    return list(as_requests(item, Wishes(fields)))


def texts(item: object, wishes: Wishes | None = None) -> list[str]:
    return [one.prompt for one in as_requests(item, wishes or Wishes())]


def refused(item: object, wishes: Wishes | None = None) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        list(as_requests(item, wishes or Wishes()))
    return caught.value


def of_list(text: str, form: Format, wishes: Wishes | None = None) -> list[Request]:
    rows = read_rows(io.BytesIO(text.encode()), f"list.{form}", form)
    return [one for row in rows for one in as_requests(row, wishes or Wishes())]


# --- Entries ------------------------------------------------------------------------------------


def test_a_text_becomes_a_request() -> None:
    """A text, and a prompt of a list, become the wanted type with the given fields."""
    assert make("a fox", speed="Relax") == [TextToImage("a fox", speed="relaxed")]
    wishes = Wishes({"image": IMAGE}, ImageToVideo)
    made = list(as_requests(Prompt("a fox", "list.txt", 1), wishes))
    assert made == [ImageToVideo("a fox", image=IMAGE)]
    assert as_request("a fox", Wishes()) == TextToImage("a fox")


def test_what_is_not_given_is_not_said() -> None:
    """None means "not given", beside a text and in a row."""
    assert make("a fox", speed=None) == [TextToImage("a fox")]
    row = Prompt("a fox", "list.txt", 1, {"speed": None, "task_type": None})
    assert make(row, version=7) == [TextToImage("a fox", version="7")]


@pytest.mark.parametrize("request_", [TextToImage("a {b, c}", speed="fast"), Upscale("abc", 0)])
def test_a_request_is_taken_as_it_is(request_: Request) -> None:
    """Wishes for prompts do not touch a request; its braces are its own."""
    wishes = Wishes({"speed": "turbo"}, prefix="x ", suffix=" y")
    assert list(as_requests(request_, wishes)) == [request_]
    assert as_request(request_, wishes) is request_


def test_a_request_is_checked_all_the_same() -> None:
    """Flags that cannot be, and chains that cannot be, are errors before anything is spent."""
    names = Wishes(names={"version": "--model"})
    clash = refused(TextToImage("a fox --v 7", version="6"), names)
    assert "--v 7 in the prompt and --model 6 contradict each other" in str(clash)
    assert "there are 4 results before it" in str(refused(TextToImage("x", then="upscale:4")))
    assert "there is 1 result" in str(refused(Upscale("abc", 0, then="upscale:1")))


@pytest.mark.parametrize("item", [5, None, b"a fox", ["a fox"]])
def test_anything_else_is_refused(item: object) -> None:
    """An entry that is neither text nor request is refused, and the message says what is allowed."""
    assert "give a text or a request such as TextToImage" in str(refused(item))


def test_one_thing_is_one_request() -> None:
    """Where one thing is made, braces that make several are an error; one in braces is itself."""
    assert as_request("a {red} fox", Wishes()) == TextToImage("a red fox")
    assert as_request("a {red, blue} fox", Wishes({"raw": True})).prompt == "a {red, blue} fox"
    with pytest.raises(InvalidRequest, match=r"braces make several prompts.*write \\\{ and \\\}"):
        as_request("a {red, blue} fox", Wishes())


# --- Types --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("text-to-image", TextToImage("a fox")),
        ("mj_txt2img", TextToImage("a fox")),
        ("image-to-image", ImageToImage("a fox", image=IMAGE)),
        ("mj_img2img", ImageToImage("a fox", image=IMAGE)),
        ("style-reference", StyleReference("a fox", images=[IMAGE])),
        ("mj_style_reference", StyleReference("a fox", images=[IMAGE])),
        ("omni-reference", OmniReference("a fox", images=[IMAGE])),
        ("mj_omni_reference", OmniReference("a fox", images=[IMAGE])),
        ("image-to-video", ImageToVideo("a fox", image=IMAGE)),
        ("mj_video", ImageToVideo("a fox", image=IMAGE)),
        ("mj_video_hd", ImageToVideo("a fox", image=IMAGE, hd=True)),
        (" Image to Video ", ImageToVideo("a fox", image=IMAGE)),
        ("MJ_VIDEO_HD", ImageToVideo("a fox", image=IMAGE, hd=True)),
    ],
)
@pytest.mark.parametrize("called", ["image", "images"])
def test_types_by_name(name: str, made: Request, called: str) -> None:
    """A type goes by our name and the service's; images reach it however they are called."""
    fields = {} if isinstance(made, TextToImage) else {called: IMAGE}
    assert make("a fox", task_type=name, **fields) == [made]
    assert make(Prompt("a fox", "x", 1, {"task_type": name}), **fields) == [made]
    assert list(as_requests("a fox", Wishes({"task_type": name, **fields}, StyleReference))) == [
        made
    ]


def test_every_type_has_its_names() -> None:
    """The names lead to every type that a prompt can become."""
    kinds = {TextToImage, ImageToImage, StyleReference, OmniReference, ImageToVideo}
    assert {kind for kind, _ in TYPES.values()} == kinds


@pytest.mark.parametrize("name", ["mj_text", "", 7, ["mj_video"]])
def test_an_unknown_type(name: object) -> None:
    """The message lists the names that there are."""
    error = refused("a fox", Wishes({"task_type": name}))
    assert str(error).startswith(f"task_type: {name!r} is no type; use one of text-to-image, ")
    assert (error.field, error.value) == ("task_type", name)


def test_what_a_name_implies_can_be_contradicted() -> None:
    """A type whose name says HD is no other."""
    video = {"task_type": "mj_video_hd", "image": IMAGE}
    assert make("x", hd=True, **video) == make("x", **video)
    error = refused("x", Wishes({**video, "hd": False}))
    assert "task_type mj_video_hd and hd False contradict each other" in str(error)
    assert error.field == "hd"
    assert make("x", **video | {"task_type": "mj_video", "hd": True}) == make("x", **video)


def test_the_type_that_fields_need() -> None:
    """Images make it image to image; a field of another type is refused, and says of which."""
    assert make("a fox", image=IMAGE) == [ImageToImage("a fox", image=IMAGE)]
    assert make("a fox", images=[IMAGE, OTHER]) == [ImageToImage("a fox", image=(IMAGE, OTHER))]
    told = "omni_weight: is no field of ImageToImage; OmniReference takes it"
    assert str(refused("a fox", Wishes({"image": IMAGE, "omni_weight": 5}))) == told
    told = "motion: is no field of TextToImage; ImageToVideo takes it"
    assert str(refused("a fox", Wishes({"motion": "low"}))) == told
    wishes = Wishes({"images": [IMAGE]}, TextToImage)
    told = "images: is no field of TextToImage; StyleReference and OmniReference take it"
    assert str(refused("a fox", wishes)) == told


@pytest.mark.parametrize("kind", [ImageToImage, StyleReference, OmniReference, ImageToVideo])
def test_a_type_without_its_image(kind: Any) -> None:
    """An image that is missing, or a list of none, is said with the type or the rule."""
    assert f"is missing; {kind.__name__} needs it" in str(refused("a fox", Wishes(kind=kind)))
    assert "at least one image" in str(refused("a fox", Wishes({"images": []}, kind)))


def test_images_in_every_form() -> None:
    """One, several, by either name or by both, of any kind."""
    path = Path("fox.png")
    both = {"image": path, "images": (IMAGE, b"bytes")}
    for kind in (StyleReference, OmniReference):
        (made,) = as_requests("a fox", Wishes(both, kind))
        assert made == kind("a fox", images=[path, IMAGE, b"bytes"])
    (made,) = as_requests("a fox", Wishes(both, ImageToImage))
    assert made == ImageToImage("a fox", image=[path, IMAGE, b"bytes"])


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"image": [IMAGE, OTHER]}, "image"), ({"images": [IMAGE, OTHER]}, "images"),
     ({"image": IMAGE, "images": [OTHER]}, "images")],
)  # fmt: skip
def test_several_images_for_a_type_that_takes_one(fields: dict[str, Any], name: str) -> None:
    """The message says which type, and how many were given, under the name that was used."""
    error = refused("a fox", Wishes(fields, ImageToVideo))
    assert str(error) == f"{name}: ImageToVideo takes one image, not 2"
    assert error.field == name


# --- Rows ---------------------------------------------------------------------------------------


def test_a_rows_fields_come_before_those_of_all() -> None:
    """A row says otherwise than the command line, field by field, and its type too."""
    wishes = Wishes({"speed": "fast", "version": "7", "then": "upscale:0"}, TextToImage)
    text = (
        "prompt,speed,taskType,images,then\n"
        "a fox,relax,,,\n"
        f"an owl,,omni-reference,{IMAGE}|{OTHER},vary:1|upscale:2\n"
    )
    assert of_list(text, "csv", wishes) == [
        TextToImage("a fox", speed="relaxed", version="7", then="upscale:0"),
        OmniReference(
            "an owl", images=[IMAGE, OTHER], speed="fast", version="7", then=["vary:1", "upscale:2"]
        ),
    ]


@pytest.mark.parametrize("called", ["image", "images"])
def test_a_rows_images_take_the_place_of_all_others(called: str) -> None:
    """Whatever both are called: a row's images are its own, not added to those of the list."""
    for theirs in ({"image": OTHER}, {"images": [OTHER, OTHER]}):
        row = Prompt("a fox", "list.csv", 2, {called: IMAGE})
        assert make(row, **theirs) == [ImageToImage("a fox", image=IMAGE)]


@pytest.mark.parametrize(
    ("text", "form", "message"),
    [
        ("prompt,ar\na fox,1:7", "csv", "list.csv:2: ar: aspect_ratio: '1:7' is not allowed"),
        ("prompt,speed\n\nfox,warp", "csv", "list.csv:3: speed: 'warp' is not allowed; use one"),
        ("prompt,motion\nfox,low", "csv", "list.csv:2: motion: is no field of TextToImage; Im"),
        ("prompt,type,v\nfox,,8", "csv", "list.csv:1: 'type' is no field"),
        ("prompt,taskType\nfox,x", "csv", "list.csv:2: taskType: task_type: 'x' is no type"),
        ("prompt,ar\nfox --ar 1:1,16:9", "csv", "list.csv:2: ar: --ar 1:1 in the prompt and ar 16:9"),
        ("prompt,then\nfox,grow:1", "csv", "list.csv:2: then: 'grow:1': kind: 'grow' is no step"),
        ("prompt,then\nfox,upscale:7", "csv", "list.csv:2: then: upscale:7: there are 4 results"),
        ("fine\n\na fox --s 5000", "text", "list.text:3: --s 5000 in the prompt is not allowed"),
        ("fine\na {fox", "text", "list.text:2: prompt: column 3: { is never closed"),
        ("fine\n" + "x" * 2001, "text", "list.text:2: prompt: 'xxx"),
        ('{"prompt": "x", "fileUrls": ["a", "b"], "taskType": "mj_video"}', "jsonl",
         "list.jsonl:1: fileUrls: images: ImageToVideo takes one image, not 2"),
        ('{"prompt": "x", "ow": 5}', "jsonl", "list.jsonl:1: ow: omni_weight: is no field of Text"),
    ],
)  # fmt: skip
def test_an_error_names_file_line_and_column(text: str, form: Format, message: str) -> None:
    """What is refused for a prompt of a list is refused with its place (law 8)."""
    with pytest.raises(InvalidRequest) as caught:
        of_list(text, form)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 300


def test_options_are_called_what_the_user_calls_them() -> None:
    """A clash with an option names the option; one with a column of the list names the column."""
    wishes = Wishes({"version": "6"}, names={"version": "--model"})
    error = refused(Prompt("a fox --v 7", "list.txt", 3), wishes)
    assert str(error).startswith("list.txt:3: --v 7 in the prompt and --model 6 contradict")
    assert error.field == "version"
    row = Prompt("a fox --v 7", "list.csv", 3, {"version": "5.2"}, {"version": "Model"})
    told = str(refused(row, wishes))
    assert told.startswith("list.csv:3: Model: --v 7 in the prompt and Model 5.2 contradict")


# --- Braces -------------------------------------------------------------------------------------


def test_braces_make_several_requests() -> None:
    """Each keeps its own text, flags included, with the fields of all."""
    made = make("a {red, green} bird --ar {1:1, 16:9}", speed="fast")
    assert made == [
        TextToImage(f"a {colour} bird --ar {ratio}", speed="fast")
        for colour in ("red", "green")
        for ratio in ("1:1", "16:9")
    ]
    row = Prompt("{a, b}", "list.csv", 2, {"version": "7"})
    assert make(row) == [TextToImage("a", version="7"), TextToImage("b", version="7")]


def test_braces_around_prompts() -> None:
    """A prefix and a suffix may have braces too: every combination, the prefix slowest."""
    wishes = Wishes(prefix="{photo, oil} of ", suffix=", {dawn, dusk} --s {5, 6}")
    assert texts("a {fox, hare} --tile", wishes) == [
        f"{how} of a {who}, {when} --s {style} --tile"
        for how in ("photo", "oil")
        for who in ("fox", "hare")
        for when in ("dawn", "dusk")
        for style in (5, 6)
    ]


def test_blanks_around_braces_part_the_words() -> None:
    """What stands around a prompt keeps its outer blanks, with braces as without."""
    for suffix in (" ({ink, oil})", " (ink)"):
        assert texts("a fox", Wishes(suffix=suffix))[0] == "a fox (ink)"
    for prefix in ("({ink, oil}) ", "(ink) "):
        assert texts("a fox", Wishes(prefix=prefix))[0] == "(ink) a fox"
    assert texts("a fox", Wishes(suffix=" {, in ink}")) == ["a fox", "a fox in ink"]


@pytest.mark.parametrize(
    "text", ["a {red, blue} fox, --ar 9", "}", "{", " --v x --s 5000", r"\{a\}"]
)
def test_raw_sends_all_as_it_is(text: str) -> None:
    """Neither braces nor flags are read."""
    (made,) = make(text, raw=True)
    assert (made.prompt, effective(made)) == (text, made)
    wishes = Wishes({"raw": True}, prefix="{ink, oil}: ", suffix=" {")
    assert texts("a fox --s 5", wishes) == ["{ink, oil}: a fox { --s 5"]


@pytest.mark.parametrize(
    ("text", "wishes", "message"),
    [
        ("{a,b}", Wishes(cap=1), "prompt: its braces make 2 prompts; at most 1 are allowed"),
        ("{" + "x," * 1000 + "x}", Wishes(), "its braces make 1,001 prompts; at most 1,000 are"),
        ("{a,b}" * 5, Wishes(prefix="{a,b}" * 3, suffix="{a,b}" * 2),
         "its braces and those around it make 1,024 prompts; at most 1,000"),
        ("x", Wishes(suffix="{a,b}" * 10), "braces and those around it make 1,024 prompts"),
        ("{a,b}" * 30, Wishes(prefix="{a,b}" * 30), "around it make more than 10^15 prompts"),
        ("{a,b}" * 5000, Wishes(), "its braces make more than 10^15 prompts"),
        ("a {b", Wishes(), "prompt: column 3: { is never closed"),
        ("x", Wishes(prefix="a } b"), "prefix: column 3: } closes nothing"),
        ("x", Wishes(suffix="{", names={"suffix": "--suffix"}), "--suffix: column 1: { is never"),
        ("{}", Wishes(), "prompt: '' is not allowed"),
        ("{a fox, }", Wishes(), "prompt: '' is not allowed"),
        ("{a fox, --ar 1:1}", Wishes(), "is nothing but flags"),
    ],
)  # fmt: skip
def test_braces_that_cannot_be(text: str, wishes: Wishes, message: str) -> None:
    """Too many are counted and never made; what is wrong is said, and of which text."""
    began = time.perf_counter()
    assert message in str(refused(text, wishes))
    assert time.perf_counter() - began < 5


def test_a_great_many_come_as_they_are_asked_for() -> None:
    """With a cap that allows them, the first of very many prompts come at once (law 6)."""
    wishes = Wishes(prefix="{a,b}" * 9, suffix="{a,b}" * 9, cap=2**60)
    made = islice(as_requests("{a,b}" * 20 + " --s {1,2}", wishes), 3)
    assert [one.prompt for one in made] == [
        f"{'a' * 9} {'a' * 20} {'a' * 9} --s 1",
        f"{'a' * 9} {'a' * 20} {'a' * 8}b --s 1",
        f"{'a' * 9} {'a' * 20} {'a' * 7}ba --s 1",
    ]


def test_a_long_line_may_make_short_prompts() -> None:
    """How long a prompt may be counts after braces."""
    line = "a fox {" + ", ".join(f"{n} " + "x" * 50 for n in range(100)) + "}"
    assert len(make(line)) == 100


# --- Affixes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "prefix", "suffix", "whole"),
    [
        ("a fox --ar 16:9", "", ", oil painting", "a fox, oil painting --ar 16:9"),
        ("a fox", "photo of ", "", "photo of a fox"),
        ("a fox", "photo of", "in snow", "photo of a fox in snow"),
        ("a fox", "photo:", ".", "photo: a fox."),
        ("a fox —no cats", "", " in snow", "a fox in snow —no cats"),
        ("a fox --s 5", "", " --ar 16:9", "a fox --ar 16:9 --s 5"),
        ("a fox --s 5", "ink, --v 7", ", dusk --ar 1:1", "ink, a fox, dusk --v 7 --ar 1:1 --s 5"),
        ("--ar 16:9", "a fox", "", "a fox --ar 16:9"),
        (" a fox ", "", "", " a fox "),
        ("a fox --s 9999", "", ", ink", "a fox, ink --s 9999"),
    ],
)
def test_prefix_and_suffix(text: str, prefix: str, suffix: str, whole: str) -> None:
    """They stand around the prompt's text and before its flags; words do not run together."""
    assert affixed(text, prefix, suffix) == whole


def test_the_prompts_own_flag_wins() -> None:
    """A flag in a suffix is for the prompts that do not say otherwise."""
    whole = affixed("a fox --ar 1:1", "", " --ar 16:9 --v 7")
    assert split_flags(whole).fields == {"aspect_ratio": "1:1", "version": "7"}


TEXTS = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
    .map(str.strip)
    .filter(bool)
)


@settings(deadline=None)
@given(TEXTS, TEXTS, TEXTS, st.sampled_from(["", " --tile", " --ar 7:3 --v 7"]))
def test_affixes_lose_nothing(text: str, prefix: str, suffix: str, flags: str) -> None:
    """All words are there, in their order, and the flags stand last."""
    whole = affixed(text + flags, prefix, suffix)
    words = [parts(one)[0] for one in (prefix, text + flags, suffix)]
    assert "".join(parts(whole)[0].split()) == "".join("".join(words).split())
    assert whole.endswith(flags.strip())


ENTRIES = st.lists(
    st.sampled_from(
        ["{", "}", ",", "a", " b", "\\", "--s 5", "--ar 1:1", " --tile", "--v 9", "{a,b}"]
    ),
    max_size=10,
).map("".join)


@settings(deadline=None, max_examples=300)
@given(ENTRIES | st.text(max_size=20), ENTRIES, ENTRIES, st.booleans(), st.booleans())
def test_any_text_makes_requests_or_is_refused(
    text: str, prefix: str, suffix: str, raw: bool, listed: bool
) -> None:
    """Whatever is written, it makes requests that can be sent, or InvalidRequest says why not."""
    wishes = Wishes({"raw": raw}, prefix=prefix, suffix=suffix, cap=200)
    item: object = Prompt(text, "list.txt", 3) if listed else text
    made, told = [], ""
    try:
        made = list(as_requests(item, wishes))
    except InvalidRequest as error:
        told = str(error)
    assert bool(made) is not bool(told)
    assert not (told and listed) or told.startswith("list.txt:3: ")
    assert len(made) <= 200
    for one in made:
        assert effective(one).prompt.strip()


def test_steps_of_a_list_are_read() -> None:
    """What is to follow is part of each request that a prompt makes."""
    made = make("{a, b}", then=["upscale:0"])
    assert [one.then for one in made] == [(Step("upscale", 0),)] * 2


def test_a_job_of_no_list() -> None:
    """A prompt has its fields beside it, a request in it; steps are for lists."""
    assert single("a fox", {"speed": "Fast"}) == TextToImage("a fox", speed="fast")
    fox = TextToImage("a fox")
    assert single(fox, {}) is fox
    with pytest.raises(InvalidRequest, match="speed, raw: not allowed beside a request"):
        single(fox, {"speed": "fast", "raw": True})
    with pytest.raises(InvalidRequest, match="then: is for a list") as caught:
        single("a fox", {"then": ["upscale:0"]})
    assert caught.value.field == "then"
