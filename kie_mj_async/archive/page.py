"""The gallery's page as text: jobs in, data files and HTML out. Nothing here touches a disk.

The page is opened from disk, where a browser lets it read no other file, but lets it load scripts. So
the jobs are in scripts of a few hundred jobs each, and the first of them within the page itself: the
first screen needs nothing else. Whatever comes from a prompt reaches the page as JSON only, in which
nothing can end a script element; the page's own script makes text of it, never markup.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final
from urllib.parse import quote

import attrs

from ..jobs import Job, SavedFile, State, reason_of, told_as

NAME: Final = "index.html"
JOBS_PER_CHUNK: Final = 250

STATES: Final = ("saved", "planned", "pending", "failed", "expired", "unresolved", "abandoned")
"""In the order that the page offers them."""

_OF_ONE_JOB: Final = frozenset({"parent", "task_id", "index", "image"})
"""Parameters that tell which job or result is meant: nobody looks for all that share one."""

_MOST_VALUES: Final = 40
"""A parameter with more values than this (links to images) is no filter."""
_POLICY: Final = (
    "default-src 'none'; script-src 'self' file: {script}; style-src {style}; "
    "img-src 'self' file: data:; media-src 'self' file:; base-uri 'none'; form-action 'none'"
)
"""Nothing but the page's own script and style, and files beside it: from disk, or from a server."""

_ESCAPES: Final = {
    ord(c): f"\\u{ord(c):04x}"
    for c in ("<", ">", "&", "\N{LINE SEPARATOR}", "\N{PARAGRAPH SEPARATOR}")
}

Entry = Mapping[str, Any]
"""One job as the page's script reads it."""


@attrs.frozen
class Sight:
    """Where to find a file, seen from the page.

    Attributes:
        there: Whether it is on disk.
        thumbnail: Its thumbnail's path from the page, with forward slashes, or ``None``.
    """

    there: bool = True
    thumbnail: str | None = None


def link(path: str) -> str:
    """A relative path as a URL; names may hold what means something there (``#``, ``%``, ``?``)."""
    return quote(path, errors="surrogatepass")


def entry(job: Job, sights: Mapping[str, Sight], *, at_work: bool) -> Entry:
    """A job for the page.

    Args:
        job: The job.
        sights: What is known of its files, by their paths.
        at_work: Whether a process works on the batch now.
    """
    params = job.request.params()
    told = told_as(job.state, at_work=at_work)
    made: dict[str, Any] = {
        "key": job.key,
        "prompt": job.prompt,
        "state": told,
        "params": params,
        "files": [_file(one, sights.get(one.path, Sight()), params) for one in job.files],
    }
    if not job.prompt:
        made["title"] = job.title
    if job.task_id:
        made["task"] = job.task_id
    if moment := job.completed_at or job.created_at:
        made["at"] = _iso(moment)
    if told != "saved":
        made["name"] = shlex.quote(job.key)
        if job.trouble or job.state is State.SUBMITTING:
            made["reason"] = reason_of(job)
    return made


def _file(file: SavedFile, sight: Sight, params: Mapping[str, Any]) -> Entry:
    made: dict[str, Any] = {"src": link(file.path), "bytes": file.bytes}
    if file.width and file.height:
        made |= {"w": file.width, "h": file.height}
    elif shape := re.fullmatch(r"([1-9]\d?):([1-9]\d?)", str(params.get("aspect_ratio", ""))):
        made["ratio"] = round(int(shape[1]) / int(shape[2]), 4)
    if sight.thumbnail is not None:
        made["thumb"] = link(sight.thumbnail)
    if _is_video(file):
        made["video"] = True
    if not sight.there:
        made["gone"] = True
    return made


def _is_video(file: SavedFile) -> bool:
    return file.media_type.startswith("video/")


class Tally:
    """What a batch comes to, counted job by job; its size does not grow with the batch."""

    def __init__(self) -> None:
        self.jobs = 0
        self.pictures = 0
        self.videos = 0
        self.bytes = 0
        self._states: Counter[str] = Counter()
        self._types: Counter[str] = Counter()
        # By parameter: how many jobs of which type have which value; None when they are too many.
        self._values: dict[str, Counter[tuple[str, Any]] | None] = {}

    def add(self, job: Job, one: Entry) -> None:
        """Count a job and what the page has of it."""
        self.jobs += 1
        self._states[one["state"]] += 1
        for file in job.files:
            self.videos += _is_video(file)
            self.pictures += not _is_video(file)
            self.bytes += file.bytes
        kind = str(one["params"].get("type"))
        self._types[kind] += 1
        for name, value in one["params"].items():
            # A flag is an int.
            if name not in _OF_ONE_JOB and isinstance(value, str | int | float):
                self._count(name, kind, value)

    def _count(self, name: str, kind: str, value: str | float) -> None:
        counted = self._values.setdefault(name, Counter())
        if counted is None:
            return
        counted[kind, value] += 1
        if len(counted) > _MOST_VALUES:
            self._values[name] = None

    def states(self) -> list[tuple[str, int]]:
        """The states that jobs have, with how many have them."""
        return [(state, self._states[state]) for state in STATES if self._states[state]]

    def filters(self) -> list[Entry]:
        """Parameters of more than one value: their name, and each value with its jobs.

        The value ``None`` stands for jobs that left it to the service, though their like have it.
        """
        made: list[Entry] = []
        for name, counted in self._values.items():
            if counted is None:
                continue
            values: Counter[Any] = Counter()
            for (_, value), number in counted.items():
                values[value] += number
            kinds = {kind for kind, _ in counted}
            bare = sum(self._types[kind] for kind in kinds) - values.total()
            options = sorted(values.items(), key=lambda option: _rank(option[0]))
            if bare:
                options.append((None, bare))
            if len(options) > 1:
                made.append({"name": name, "values": options})
        return made


def _rank(value: Any) -> tuple[bool, Any]:
    """An order for numbers and texts alike."""
    return (True, value) if isinstance(value, str) else (False, value)


def steps(directory: str, *, simulated: bool) -> dict[str, list[tuple[str, str]]]:
    """What to do about jobs that are not saved: commands and what they are for, by state.

    In a command ``{job}`` stands for the job's name.

    Args:
        directory: The batch directory's name.
        simulated: Whether its tasks live in a simulator.
    """
    out = shlex.quote(directory)
    flag = " --simulate" if simulated else ""
    resume = [(f"kie-mj resume {out}{flag}", "goes on with what is left; nothing is paid twice")]
    retry = (f"kie-mj resolve {out} {{job}} --retry", "plans it again")
    return {
        "planned": resume,
        "pending": resume,
        "failed": [retry],
        "expired": [retry],
        "unresolved": [
            (
                f"kie-mj resolve {out} {{job}} --adopt TASK_ID{flag}",
                "if you find its task in your account's log on the web",
            ),
            (retry[0], "plans it again, at the risk of paying twice"),
            (f"kie-mj resolve {out} {{job}} --abandon", "gives it up"),
        ],
        "abandoned": [retry],
    }


def head(
    directory: str, tally: Tally, *, build: str, chunks: int, at: datetime,
    simulated: bool, at_work: bool, store: str | None = None,
) -> Entry:  # fmt: skip
    """What the page must know before it shows a job.

    Args:
        directory: The batch directory's name, or its store's address; the page's title.
        tally: All jobs, counted.
        build: The name of this build, which its data files have too.
        chunks: How many data files there are; the first is within the page.
        at: When the page is made (UTC).
        simulated: Whether the tasks live in a simulator.
        at_work: Whether a process works on the batch now.
        store: The object store that the files are in, or ``None`` for the directory itself.
    """
    return {
        "title": directory,
        "store": store,
        "build": build,
        "chunks": chunks,
        "at": _iso(at),
        "atWork": at_work,
        "jobs": tally.jobs,
        "pictures": tally.pictures,
        "videos": tally.videos,
        "bytes": tally.bytes,
        "states": tally.states(),
        "filters": tally.filters(),
        "steps": steps(directory, simulated=simulated),
    }


def as_json(value: Any) -> str:
    """JSON that can stand in a script element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPES)


def chunk_name(number: int) -> str:
    """The file name of a data file, from 1."""
    return f"{number:04d}.js"


def chunk(build: str, number: int, entries: Sequence[Entry]) -> str:
    """The script of one data file."""
    return f"kieMjGallery({as_json(build)},{number},{as_json(entries)});\n"


def index(head: Entry, first: Sequence[Entry]) -> str:
    """The page.

    Args:
        head: From :func:`head`.
        first: The first jobs, which are within the page.
    """
    script, style = _script(), _asset("gallery.css")
    parts = {
        "policy": _POLICY.format(script=_hash(script), style=_hash(style)),
        "title": html.escape(str(head["title"])),
        "style": style,
        "script": script,
        "data": as_json({**head, "first": first}),
    }
    # In one pass, so that what is filled in is not searched again.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("gallery.html"))


@cache
def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    parts = "\n".join(_asset(name) for name in ("tools.js", "gallery.js", "full.js"))
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def _hash(text: str) -> str:
    """How a policy names an inline script or style."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
