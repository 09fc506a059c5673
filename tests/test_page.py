"""The gallery's page as text: what it holds, and that nothing in a prompt can leave its place."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import attrs
import pytest

from kie_mj_async.archive import page
from kie_mj_async.archive.page import Sight, Tally
from kie_mj_async.jobs import Job, SavedFile, State, Trouble
from kie_mj_async.requests import ExistingTask, ImageToVideo, TextToImage

AT = datetime(2026, 11, 1, 12, 0, 0, 123456, tzinfo=UTC)
FILE = SavedFile(0, "fox_0.jpeg", "http://x.test/0", "ab" * 32, 70_000, "image/jpeg", 64, 48, AT)
CLIP = attrs.evolve(FILE, path="fox.mp4", media_type="video/mp4", width=None, height=None)
JOB = Job(
    key="1-abc",
    request=TextToImage("a fox", speed="fast", callback_url="https://me.test/hook"),
    state=State.SAVED,
    task_id="t1",
    created_at=AT,
    completed_at=AT,
    files=(FILE,),
)
HOSTILE = "</script><!--<script>\u2028\u2029&lt; {{policy}} \\u003c \"'` ${x}"


def entry(job: Job, at_work: bool = False, **sights: Sight) -> dict[str, Any]:
    return dict(page.entry(job, {FILE.path: sights.get("fox", Sight())}, at_work=at_work))


def tallied(*jobs: Job) -> Tally:
    tally = Tally()
    for job in jobs:
        tally.add(job, entry(job))
    return tally


def head(tally: Tally, title: str = "foxes", **options: Any) -> dict[str, Any]:
    given = {"build": "b1", "chunks": 1, "at": AT, "simulated": False, "at_work": False}
    return dict(page.head(title, tally, **{**given, **options}))


class Reader(HTMLParser):
    """Collects the elements of a page and the text within each kind."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open, []).append(data)


def test_a_saved_job() -> None:
    """A job's entry has what the page shows of it, and neither links nor callbacks."""
    assert entry(JOB, fox=Sight(thumbnail=".kie-mj/thumbnails/ab/x.webp")) == {
        "key": "1-abc",
        "prompt": "a fox",
        "state": "saved",
        "params": {"type": "TextToImage", "speed": "fast"},
        "files": [
            {
                "src": "fox_0.jpeg",
                "bytes": 70_000,
                "w": 64,
                "h": 48,
                "thumb": ".kie-mj/thumbnails/ab/x.webp",
            }
        ],
        "task": "t1",
        "at": "2026-11-01T12:00:00+00:00",
    }
    assert "x.test" not in json.dumps(entry(JOB))


def test_a_job_that_is_not_saved() -> None:
    """Its reason is given, and its name as a shell takes it."""
    trouble = Trouble("TaskFailed", "the moderator said no")
    job = attrs.evolve(JOB, key="named-a b", state=State.FAILED, files=(), trouble=trouble)
    told = entry(job)
    assert (told["state"], told["reason"]) == ("failed", "the moderator said no")
    assert told["name"] == "'named-a b'"
    assert told["files"] == []


def test_a_create_that_was_cut_off() -> None:
    """It is unresolved once no run is on it, and pending while one is."""
    job = attrs.evolve(JOB, state=State.SUBMITTING, submitted_at=AT, files=())
    assert entry(job)["state"] == "unresolved"
    assert entry(job)["reason"] == "its create was under way at 2026-11-01 12:00:00 UTC"
    assert entry(job, at_work=True)["state"] == "pending"


def test_a_planned_job_has_no_reason() -> None:
    """Nothing has gone wrong with a job that waits for its turn."""
    assert "reason" not in entry(attrs.evolve(JOB, state=State.PLANNED, files=()))


def test_files_of_every_kind() -> None:
    """A video says so; its shape comes from the request; a file that is gone is marked."""
    job = attrs.evolve(JOB, request=TextToImage("x", aspect_ratio="9:16"), files=(CLIP,))
    (file,) = entry(job)["files"]
    assert file == {"src": "fox.mp4", "bytes": 70_000, "video": True, "ratio": 0.5625}
    (gone,) = entry(JOB, fox=Sight(there=False))["files"]
    assert gone["gone"]


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("a fox_0.jpeg", "a%20fox_0.jpeg"),
        ("100% #1?.png", "100%25%20%231%3F.png"),
        ("javascript:alert(1).png", "javascript%3Aalert%281%29.png"),
        ("狐.png", "%E7%8B%90.png"),
        ("sub/folder/é.png", "sub/folder/%C3%A9.png"),
        ("//host/a\\b.png", "//host/a%5Cb.png"),
    ],
)
def test_a_path_as_a_link(path: str, url: str) -> None:
    """Whatever a name holds, its link leads to it."""
    assert page.link(path) == url


def test_totals() -> None:
    """The whole is counted while jobs go by: states, files, bytes."""
    failed = attrs.evolve(JOB, key="2", state=State.FAILED, files=())
    video = attrs.evolve(JOB, key="3", files=(CLIP,))
    tally = tallied(JOB, failed, video)
    assert (tally.jobs, tally.pictures, tally.videos, tally.bytes) == (3, 1, 1, 140_000)
    assert tally.states() == [("saved", 2), ("failed", 1)]


def test_parameters_to_filter_by() -> None:
    """A parameter is a filter when jobs differ in it; leaving it out is a value too."""
    jobs = [
        attrs.evolve(JOB, request=TextToImage("a", speed="fast", version="7", stylization=50)),
        attrs.evolve(
            JOB, request=TextToImage("b", speed="fast", version="niji6", stylization=1000)
        ),
        attrs.evolve(JOB, request=TextToImage("c", speed="fast", version="6.1")),
    ]
    assert tallied(*jobs).filters() == [
        {"name": "version", "values": [("6.1", 1), ("7", 1), ("niji6", 1)]},
        {"name": "stylization", "values": [(50, 1), (1000, 1), (None, 1)]},
    ]


def test_a_parameter_of_another_type_of_request_is_no_difference() -> None:
    """Only videos have a motion: that pictures have none makes no filter of it."""
    video = ImageToVideo("v", image="https://x.test/a.png")
    found = tallied(JOB, attrs.evolve(JOB, request=video)).filters()
    assert {one["name"] for one in found} == {"type"}


def test_a_parameter_of_too_many_values_is_no_filter() -> None:
    """The tally stays small, however many links to images there are."""
    jobs = [
        attrs.evolve(JOB, request=ImageToVideo("v", image=f"https://x.test/{n}.png"))
        for n in range(100)
    ]
    assert tallied(*jobs).filters() == []


def test_steps_are_those_that_the_command_line_gives() -> None:
    """The directory's name is quoted, and a simulated one says so."""
    told = page.steps("my foxes", simulated=True)
    assert told["pending"][0][0] == "kie-mj resume 'my foxes' --simulate"
    assert told["failed"][0][0] == "kie-mj resolve 'my foxes' {job} --retry"
    assert [command for command, _ in told["unresolved"]] == [
        "kie-mj resolve 'my foxes' {job} --adopt TASK_ID --simulate",
        "kie-mj resolve 'my foxes' {job} --retry",
        "kie-mj resolve 'my foxes' {job} --abandon",
    ]
    assert "--simulate" not in json.dumps(page.steps("foxes", simulated=False))


def test_json_in_a_script_element() -> None:
    """Nothing in it can end the element or a line, and it reads back as it was."""
    text = page.as_json({"prompt": HOSTILE})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"prompt": HOSTILE}


def test_a_hostile_page_has_the_elements_of_any_other() -> None:
    """Prompts, names and reasons add no element and no attribute to the page."""
    trouble = Trouble("TaskFailed", HOSTILE)
    job = attrs.evolve(JOB, request=TextToImage(HOSTILE), state=State.FAILED, trouble=trouble)
    nasty = page.index(head(tallied(job), HOSTILE), [entry(job)])
    plain = page.index(head(tallied(JOB), "foxes"), [entry(JOB)])
    assert Reader(nasty).elements == Reader(plain).elements
    read = Reader(nasty)
    assert "".join(read.texts["title"]).strip() == HOSTILE
    data = json.loads(next(text for text in read.texts["script"] if text.startswith("{")))
    assert data["title"] == data["first"][0]["prompt"] == data["first"][0]["reason"] == HOSTILE


def test_the_policy_lets_in_the_pages_own_script_and_style_only() -> None:
    """Inline code runs by its digest; there are no handlers in attributes, and no network."""
    text = page.index(head(tallied(JOB)), [entry(JOB)])
    read = Reader(text)
    (policy,) = [
        attributes["content"] or ""
        for tag, attributes in read.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    for tag in ("script", "style"):
        source = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert source is not None
        digest = base64.b64encode(hashlib.sha256(source[1].encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    for _, attributes in read.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes)


def test_the_script_makes_no_markup() -> None:
    """No way from a text to markup or code is used."""
    source = page._script()
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "fetch(",
    ):
        assert way not in source
    assert "http:" not in source.replace("http://www.w3.org/2000/svg", "")


def test_a_data_file_is_one_call() -> None:
    """It names its build and its number, so that a page never takes in another's."""
    text = page.chunk("b1", 7, [entry(JOB)])
    call = re.fullmatch(r'kieMjGallery\("b1",7,(\[.*\])\);\n', text)
    assert call is not None
    assert json.loads(call[1])[0]["key"] == "1-abc"
    assert page.chunk_name(7) == "0007.js"


def test_a_job_without_a_prompt_or_fields() -> None:
    """A job of which only the task is known has an entry too."""
    job = attrs.evolve(JOB, request=ExistingTask("t1"))
    told = entry(job)
    assert (told["prompt"], told["task"]) == ("", "t1")
    assert (told["params"], told["title"]) == ({}, "task t1")
    assert "title" not in entry(JOB)
