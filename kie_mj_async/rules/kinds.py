"""Classes of tasks that take about the same time, and what is known of them before any has ended.

Durations are tight within a class and far apart between classes (kie-api.md, "Real durations"). What
tells classes apart is what a request says: its type, its speed, its version, and a few flags in its
prompt that make the service work in another way.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from ..requests import Request
from .bodies import lenient
from .flags import parts
from .wire import Record

_SLOW_FLAGS: Final = re.compile(r"(?:--|[—–])(oref|draft)(?![\w-])", re.IGNORECASE)  # noqa: RUF001
"""Flags that change how long a task takes: the first by four in the recordings, the second by its
purpose."""

_SECONDS: Final[dict[str, float]] = {
    "mj_txt2img": 61,
    "mj_img2img": 61,
    "mj_style_reference": 60,
    "mj_omni_reference": 248,
    "mj_video": 120,
    "mj_video_hd": 170,
    "mj_video_extend_manual": 110,
    "mj_video_extend_auto": 110,
    "mj_upscale": 25,
    "mj_vary": 58,
}
"""Seconds at the usual speed: recorded for texts, style and omni references, guessed for the rest."""

_OREF: Final = 248.0
_UNKNOWN: Final = 61.0
_SPEEDS: Final[dict[str, float]] = {"relaxed": 214 / 61, "turbo": 0.5}
"""Factors on those; the first is recorded, the second a guess."""

_HAS_SPEED: Final = frozenset({"mj_txt2img", "mj_img2img", "mj_style_reference"})


@attrs.frozen
class Kind:
    """A class of tasks.

    Attributes:
        task_type: The service's name of the type; empty where it is not known.
        speed: The speed asked for; empty where none was.
        version: The model's version asked for; empty where none was.
        extra: Flags in the prompt that change the duration, such as ``oref``.
    """

    task_type: str = ""
    speed: str = ""
    version: str = ""
    extra: str = ""

    @property
    def name(self) -> str:
        """What to call it, for people."""
        known = (self.task_type.removeprefix("mj_"), self.speed, self.version, self.extra)
        return " ".join(word for word in known if word) or "unknown"

    def coarser(self) -> tuple[Kind, ...]:
        """The wider classes it belongs to, the nearest first; the last one holds every task."""
        return (
            Kind(self.task_type, self.speed, "", self.extra),
            Kind(self.task_type, "", "", self.extra),
            Kind(),
        )

    @property
    def usual(self) -> float:
        """Seconds that such a task took in the recordings, or else a guess."""
        if self.extra and "oref" in self.extra.split(","):
            return _OREF
        seconds = _SECONDS.get(self.task_type, _UNKNOWN)
        factor = _SPEEDS.get(self.speed, 1.0) if self.task_type in _HAS_SPEED else 1.0
        return seconds * factor * (0.5 if self.extra else 1.0)


def kind_of(request: Request | None) -> Kind:
    """The class of a request; of ``None``, that of a task known only by its id."""
    if request is None:
        return Kind()
    sent = lenient(request)
    version = getattr(sent, "version", None) or ""
    return Kind(sent.task_type, sent.speed or "", str(version), _slow_flags(sent.prompt))


def kind_of_record(record: Record) -> Kind:
    """The class of a task that somebody else made, as its record tells."""
    told = record.params
    speed, version, prompt = (
        str(told[name]) if isinstance(told.get(name), str | int | float) else ""
        for name in ("speed", "version", "prompt")
    )
    return Kind(record.task_type or "", speed.lower(), version.lower(), _slow_flags(prompt))


def _slow_flags(prompt: str) -> str:
    if _SLOW_FLAGS.search(prompt) is None:  # cheap, and nearly always so
        return ""
    flags = {found.lower() for found in _SLOW_FLAGS.findall(parts(prompt)[1])}
    return ",".join(sorted(flags))
