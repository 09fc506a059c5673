"""Names: legal everywhere, distinct, and the same on every run."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import attrs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kie_mj_async.requests import (
    REQUEST_TYPES,
    ChainStep,
    ExistingTask,
    Extend,
    ImageToImage,
    ImageToVideo,
    OmniReference,
    Request,
    StyleReference,
    TextToImage,
    Upscale,
    Vary,
)
from kie_mj_async.rules.naming import (
    MAX_STEM_BYTES,
    chosen_key,
    digest,
    file_name,
    job_key,
    part_name,
    slug,
)

IMAGE = "https://cdn.example/fox.png"
RESERVED = {"con", "prn", "aux", "nul"} | {
    f"{a}{n}" for a in ("com", "lpt") for n in "0123456789¹²³"
}
PROMPTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=120)
AWKWARD = st.sampled_from(
    [
        *(
            "con",
            "NUL",
            "COM1",
            "a.",
            "..",
            "/",
            "a/b\\c",
            'q:"?*<>|',
            "\x00\x07",
            "-rf",
            "~",
            "aux.txt",
        ),
        *("ß" * 90, "ﷺ" * 30, "🦊" * 80, "é" * 41, "e\u0301" * 41, "İ" * 50, "ΐ" * 50, "a b" * 50),
    ]
)


def check_legal(name: str) -> None:
    """What Windows, macOS and Linux all take as a file's name."""
    assert name
    assert len(name.encode()) <= 255
    assert len(unicodedata.normalize("NFD", name).encode("utf-16-le")) // 2 <= 255
    assert not set(name) & set('<>:"/\\|?*')
    assert all(ord(c) >= 32 and ord(c) != 127 for c in name)
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in name)
    assert name[-1] not in ". "
    assert name[0] not in ".- "
    assert name.split(".", maxsplit=1)[0].casefold() not in RESERVED


@settings(deadline=None, max_examples=300)
@given(
    PROMPTS | AWKWARD,
    st.text(max_size=20),
    st.integers(0, 3),
    st.sampled_from([".jpeg", ".mp4"]),
    st.integers(1, 1000),
)
def test_names_are_legal_everywhere(
    prompt: str, key: str, index: int, extension: str, attempt: int
) -> None:
    """Whatever the prompt and the key, the file's name is legal on every system."""
    made = job_key(digest(TextToImage("x")), attempt)
    for one in (chosen_key(key.encode(errors="replace").decode()), made):
        check_legal(file_name(prompt, one, index, extension, attempt))


@settings(deadline=None, max_examples=300)
@given(PROMPTS | AWKWARD)
def test_a_slug_is_bounded_text(prompt: str) -> None:
    """A slug is words of letters, digits and their marks, joined by hyphens, bounded in bytes."""
    found = slug(prompt)
    assert found == unicodedata.normalize("NFC", found)
    assert 1 <= len(found.encode()) <= MAX_STEM_BYTES
    for part in found.split("-"):
        assert part[0].isalnum()
        assert {unicodedata.category(c)[0] for c in part} <= set("LNM")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A Fox in the Snow!", "a-fox-in-the-snow"),
        ("a fox --ar 3:4 --v 7", "a-fox"),
        ("a fox -v", "a-fox"),
        ("--ar 3:4", "image"),
        ("https://cdn.example/a.png a fox", "a-fox"),
        ("a well-known fox - alone", "a-well-known-fox-alone"),
        ("лиса 狐 Fuchs", "лиса-狐-fuchs"),
        ("!!!", "image"),
        ("snake_case", "snake-case"),
        ("cafe\u0301", "café"),
        ("ＦＯＸ", "fox"),  # noqa: RUF001
        ("word " * 40, "-".join(["word"] * 16)),
        ("a" * 200, "a" * 80),
        ("a" * 80 + " b", "a" * 80),
        ("狐" * 40, "狐" * 26),
    ],
)
def test_slugs_are_readable(prompt: str, expected: str) -> None:
    """A slug keeps words, in any script, and drops flags, links and punctuation."""
    assert slug(prompt) == expected


@settings(deadline=None)
@given(st.lists(PROMPTS.filter(lambda one: bool(one.strip())), min_size=2, max_size=6))
def test_made_keys_give_distinct_names(prompts: list[str]) -> None:
    """Different jobs have different names, also where case and composition do not count."""
    names = set()
    keys = set()
    for prompt in prompts:
        found = digest(TextToImage(prompt))
        for occurrence in (1, 2, 11):
            keys.add(key := job_key(found, occurrence))
            for index in (0, 1):
                for attempt in (1, 2):
                    name = file_name(prompt, key, index, ".png", attempt)
                    names.add(unicodedata.normalize("NFC", name.casefold()))
    assert len(names) == 4 * len(keys)
    assert len(keys) == 3 * len(set(prompts))


@given(st.text(max_size=10), st.text(max_size=10))
def test_chosen_keys_give_distinct_names(one: str, other: str) -> None:
    """Keys that users chose differ in their files' names too, and never meet a made key."""
    assume(one != other)
    keys = [chosen_key(key.encode(errors="replace").decode()) for key in (one, other)]
    assume(keys[0] != keys[1])
    names = [file_name("a fox", key, 0, ".png") for key in keys]
    assert len(set(names)) == 2
    assert chosen_key(digest(TextToImage("x"))) != digest(TextToImage("x"))


def test_a_file_name_is_spelled_out() -> None:
    """A name is slug, tag, index and extension; an occurrence and a second try are added."""
    found = digest(TextToImage("a fox"))
    tag = found.split("-")[1][:12]
    assert file_name("A fox", found, 2, ".jpeg") == f"a-fox-{tag}_2.jpeg"
    assert file_name("A fox", job_key(found, 3), 2, ".jpeg", 2) == f"a-fox-{tag}-3_2-2.jpeg"


def test_keys_of_a_batch() -> None:
    """The first job of a digest has the digest as its key, further ones their number with it."""
    assert [job_key("1-ab", n) for n in (1, 2, 10)] == ["1-ab", "1-ab-2", "1-ab-10"]


COMMON: dict[str, Any] = {
    "version": "Niji6",
    "speed": "Relax",
    "aspect_ratio": "16:9",
    "stylization": 0,
    "weirdness": 3000,
    "variety": 5,
    "watermark": "mine",
    "translate": True,
    "callback_url": "https://hook.example/x",
}
KEPT = "input:" + "0a" * 32 + ".png"

# A ledger written by an earlier run must be found again: these literals never change.
PINNED: list[tuple[Request, str]] = [
    (TextToImage("a fox in the snow"), "1-170e3ea89a04276f5446"),
    (
        TextToImage("лиса 🦊", speed="Relax", version=7, stylization=0, translate=False),
        "1-8d4b851d053f98f77082",
    ),
    (ImageToImage("a fox", image=IMAGE, aspect_ratio="16:9"), "1-b675524168f3cb8fd053"),
    (ImageToVideo("a fox", image=IMAGE, motion="low", batch_size=2), "1-69985482f537c50c17a8"),
    # All of these are from before there were flags, braces and chains.
    (
        TextToImage("a fox --ar 3:2 --v 7 --sref https://a.example/b.png"),
        "1-2b349669649b093f3289",
    ),
    (TextToImage("a fox", **COMMON), "1-61684d629f4943e3fcf5"),
    (
        TextToImage("a {red, green} fox", stylization=250, weirdness=100, variety=50),
        "1-cee54904fe96643db24d",
    ),
    (ImageToImage("a fox", image=IMAGE), "1-c85ef1ffc8bf73dd6e81"),
    (ImageToImage("a fox", image=IMAGE, **COMMON), "1-91e6086f81451a773b80"),
    (ImageToVideo("a fox", image=IMAGE), "1-ec836a41e63b45fbdd1a"),
    (
        ImageToVideo("a fox --motion low", image=IMAGE, motion="low", batch_size=4, **COMMON),
        "1-51232266ed215bf20d37",
    ),
    (
        ExistingTask("9f47c52047dda21bb3df0488736cce57"),
        "task-9f47c52047dda21bb3df0488736cce57",
    ),
    (
        ExistingTask("mj_task_abc123", prompt="a fox", made_with={"speed": "fast"}),
        "task-mj_task_abc123",
    ),
    # These are from the version that brought them.
    (ImageToImage("a fox", image=[IMAGE, KEPT]), "1-b32d916e1d7bc84cac7b"),
    (StyleReference("a fox", images=[IMAGE], speed="fast"), "1-b9ce6fa160dbe35a51e8"),
    (OmniReference("a fox", images=[IMAGE, KEPT], omni_weight=400), "1-dd5fa820d465e75d3ccc"),
    (ImageToVideo("a fox", image=KEPT, hd=True), "1-f47e0ef8901f078948a1"),
    (Upscale("abc", 0), "1-e5bb480d738dd3ff8033"),
    (Vary("abc", 3, watermark="mine"), "1-b508fc60ac4cbe97844d"),
    (Extend("abc", 0), "1-1cd645a8265d9c471c40"),
    (Extend("abc", 0, prompt="more rain"), "1-203268779c281bb3fe1d"),
    (ChainStep("video", "1-ab", 0, "a fox"), "1-b77fe484d99f4d212c07"),
    (ChainStep("extend", "1-ab", 2, "more rain", own_words=True), "1-86ab28e09b33698c4aaf"),
]


@pytest.mark.parametrize(("request_", "key"), PINNED)
def test_keys_are_the_same_for_ever(request_: Request, key: str) -> None:
    """A request's digest is the one that earlier runs and earlier versions wrote."""
    assert digest(request_) == key


@pytest.mark.parametrize(
    "change",
    [{"callback_url": "https://hook.example/x"}, {"raw": True}, {"then": ["upscale:0"]}],
)
def test_what_is_not_part_of_the_wish(change: dict[str, Any]) -> None:
    """How to be told, how the text is read, and what comes after do not make another job."""
    plain = TextToImage("a fox --v 7")
    assert digest(attrs.evolve(plain, **change)) == digest(plain)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a fix"},
        {"prompt": "a fox "},
        {"version": "7"},
        {"speed": "fast"},
        {"aspect_ratio": "1:1"},
        {"stylization": 0},
        {"weirdness": 0},
        {"variety": 0},
        {"watermark": "x"},
        {"translate": False},
        {"image": IMAGE + "?2"},
        {"motion": "low"},
        {"batch_size": 2},
        {"hd": True},
    ],
)
def test_every_other_field_is_part_of_the_wish(change: dict[str, Any]) -> None:
    """A change of any field that says what to make is another job."""
    base = ImageToVideo("a fox", image=IMAGE)
    assert digest(attrs.evolve(base, **change)) != digest(base)


def test_every_field_is_thought_of() -> None:
    """Whoever adds a field has to say whether it is of the wish: see the two tests above."""
    names = {one.name for one in attrs.fields(ImageToVideo)}
    assert names == {
        "prompt",
        "version",
        "speed",
        "aspect_ratio",
        "stylization",
        "weirdness",
        "variety",
        "watermark",
        "translate",
        "callback_url",
        "image",
        "motion",
        "batch_size",
        "hd",
        "raw",
        "then",
    }
    others = {one.name for kind in REQUEST_TYPES.values() for one in attrs.fields(kind)} - names
    assert others == {
        *("images", "omni_weight", "task_id", "index", "made_with", "kind", "parent", "own_words"),
    }


def test_the_type_is_part_of_the_wish() -> None:
    """The same fields for another type of task are another job."""
    made: list[Request] = [kind("a fox", image=IMAGE) for kind in (ImageToImage, ImageToVideo)]
    made += [kind("a fox", images=[IMAGE]) for kind in (StyleReference, OmniReference)]
    made += [TextToImage("a fox"), *(kind("abc", 0) for kind in (Upscale, Vary, Extend))]
    made += [ImageToVideo("a fox", image=IMAGE, hd=True), Extend("abc", 0, prompt="a fox")]
    assert len({digest(one) for one in made}) == len(made)


def test_a_follow_up_is_another_of_another_result() -> None:
    """Its task and its index tell a follow-up; a parent's images are told by their order too."""
    made: list[Request] = [Upscale("abc", 0), Upscale("abc", 1), Upscale("abd", 0)]
    made += [Upscale("abc", 0, watermark="mine"), OmniReference("x", images=[IMAGE, KEPT])]
    made += [OmniReference("x", images=[KEPT, IMAGE]), OmniReference("x", images=[IMAGE])]
    assert len({digest(one) for one in made}) == len(made)
    told = Upscale("abc", 0, callback_url="https://hook.example/x", then=["vary:0"])
    assert digest(told) == digest(Upscale("abc", 0))


def test_a_step_is_told_by_its_place_and_its_own_words() -> None:
    """What a step has of its chain is not in its key: it is in its parent's."""
    bare = ChainStep("video", "1-ab", 0, "a fox")
    same = [
        attrs.evolve(bare, prompt="an owl"),
        attrs.evolve(bare, speed="fast", watermark="mine", translate=True, raw=True),
        attrs.evolve(bare, callback_url="https://hook.example/x"),
    ]
    assert {digest(one) for one in same} == {digest(bare)}
    own = attrs.evolve(bare, own_words=True)
    other = [own, attrs.evolve(own, prompt="an owl"), attrs.evolve(bare, kind="video-hd")]
    other += [attrs.evolve(bare, parent="1-ac"), attrs.evolve(bare, index=1)]
    assert len({digest(one) for one in (bare, *other)}) == 6


def test_spellings_do_not_matter() -> None:
    """Two spellings of one value are one wish."""
    assert digest(TextToImage("x", speed="Relax")) == digest(TextToImage("x", speed="relaxed"))


def test_marks_stay_with_their_letters() -> None:
    """A script that writes vowels as marks keeps its words whole."""
    assert slug("हिन्दी में चित्र") == "हिन्दी-में-चित्र"
    assert slug("\u00b4 a") == "a"


def test_a_task_is_one_job_however_often_it_is_listed() -> None:
    """A task's key is its id, whatever is known of it and however often it is listed."""
    bare, known = ExistingTask("abc"), ExistingTask("abc", prompt="a fox")
    assert digest(bare) == digest(known) == "task-abc"
    assert job_key(digest(bare), 3) == "task-abc"


@pytest.mark.parametrize(
    ("task_id", "name"),
    [
        ("9f47c52047dda21bb3df0488736cce57", "a-fox-9f47c52047dda21bb3df0488736cce57_0.png"),
        ("mj_task_abc123", "a-fox-mj_task_abc123_0.png"),
        ("AbC", "a-fox-03bd3938ef26_0.png"),
    ],
)
def test_the_files_of_a_task_carry_its_id(task_id: str, name: str) -> None:
    """A task's files can be found by its id, where case cannot make two ids one name."""
    assert file_name("a fox", job_key(digest(ExistingTask(task_id)), 1), 0, ".png") == name


def test_part_names_are_legal_whatever_the_key() -> None:
    """A part file's name is stable and tells jobs and results apart."""
    assert part_name("../k", 1) == part_name("../k", 1)
    names = {part_name(key, index) for key in ("../k", "k") for index in (0, 1)}
    assert len(names) == 4
    assert all(re.fullmatch(r"[0-9a-f]{24}-\d", name) for name in names)
