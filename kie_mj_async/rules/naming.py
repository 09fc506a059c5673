"""Names: of jobs within a ledger, and of files on disk."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from functools import lru_cache
from typing import Final

from ..requests import ChainStep, ExistingTask, Request

_KEY_VERSION: Final = "1"
_NOT_OF_THE_WISH: Final = frozenset({"callback_url", "raw"})
"""Fields that say how to be told or sent, not what to make: the same wish otherwise is one job."""
_OF_A_STEP: Final = ("kind", "parent", "index")
"""What tells a step of a chain, besides words of its own; the rest is its chain's."""

_TASK_KEY: Final = re.compile(r"task-([0-9a-z_]{1,40})")
_MADE_KEY: Final = re.compile(rf"{_KEY_VERSION}-([0-9a-f]{{12}})[0-9a-f]{{8}}(-[0-9]+)?")

MAX_STEM_BYTES: Final = 80


def digest(request: Request) -> str:
    """A versioned hash of the request as the user wrote it, for :func:`job_key`.

    A task that exists is told by its id alone, whatever else is known of it.
    """
    if isinstance(request, ExistingTask):
        return f"task-{request.task_id}"
    if isinstance(request, ChainStep):
        wish = {name: getattr(request, name) for name in _OF_A_STEP}
        wish |= {"words": request.prompt} if request.own_words else {}
    else:
        wish = {k: v for k, v in request.to_dict().items() if k not in _NOT_OF_THE_WISH}
    text = json.dumps(wish, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"{_KEY_VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def job_key(request_digest: str, occurrence: int) -> str:
    """The key of the n-th (from 1) job with this digest in a batch.

    A prompt that is listed twice is wanted twice; a task that is listed twice is one task.
    """
    once = occurrence == 1 or request_digest.startswith("task-")
    return request_digest if once else f"{request_digest}-{occurrence}"


def chosen_key(key: str) -> str:
    """The key of a job that its user named; apart from those made by :func:`job_key`."""
    return f"named-{key}"


def extra_key(key: str, attempt: int) -> str:
    """The key of a job for a task that an attempt of a job was paid for besides the one it has."""
    return f"{key}+{attempt}"


def part_name(key: str, index: int) -> str:
    """The part file of a job's result: the same on every run, whatever the user named the job."""
    return f"{hashlib.sha256(key.encode()).hexdigest()[:24]}-{index}"


@lru_cache(256)
def slug(prompt: str) -> str:
    """A readable part of a file name, legal on every system: letters and digits of any script.

    Bounded in bytes (not characters), since file systems are.
    """
    # Flags and links say nothing to a person who looks for a file.
    words = re.sub(r"https?://\S+", " ", re.split(r"\s--?[a-zA-Z]", f" {prompt}")[0])
    plain = unicodedata.normalize("NFKC", words).casefold()
    joined = "-".join(_words(plain))
    cut = joined.encode()[:MAX_STEM_BYTES].decode(errors="ignore")
    if len(cut) < len(joined) and "-" in cut and joined[len(cut)] != "-":
        cut = cut.rsplit("-", 1)[0]
    return unicodedata.normalize("NFC", cut.strip("-")) or "image"


def _words(text: str) -> list[str]:
    """Runs of letters and digits, with the marks that belong to them (many scripts need those)."""
    kept = ""
    for c in text:
        kind = unicodedata.category(c)[0]
        belongs = kind in "LN" or (kind == "M" and kept[-1:].strip() != "")
        kept += c if belongs else " "
    return kept.split()


def file_name(prompt: str, key: str, index: int, extension: str, attempt: int = 1) -> str:
    """The name of one result.

    The key makes it unique within a batch directory, also where case does not count.

    Args:
        prompt: The job's prompt.
        key: The job's key.
        index: Which result, from 0.
        extension: With its dot.
        attempt: 2 and up when the name before was taken by a file that is not ours.
    """
    if made := _MADE_KEY.fullmatch(key):
        tag = made[1] + (made[2] or "")
    elif task := _TASK_KEY.fullmatch(key):
        tag = task[1]
    else:
        tag = hashlib.sha256(key.encode()).hexdigest()[:12]
    again = "" if attempt == 1 else f"-{attempt}"
    return f"{slug(prompt)}-{tag}_{index}{again}{extension}"
