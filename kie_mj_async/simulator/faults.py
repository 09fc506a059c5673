"""What goes wrong on purpose, and when: the ``--faults`` language and its decisions.

A spec is a comma-separated list of ``place.kind=when``: ``create.429=5%,poll.drop=0.05,
create.drop-reply=#2+7``. ``5%`` and ``0.05`` are probabilities; ``#2+7`` means exactly the 2nd and
the 7th event at that place. Creates, tasks, uploads and callbacks (in the order of the creates that
ask for one) are counted over the whole run; polls per task and downloads per file, so that the order
in which they arrive does not matter. Decisions depend on the
seed, the place, the kind and that count alone, so runs repeat.

Pure. What a fault looks like on the wire is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

import attrs

from . import chance

KINDS: Final[dict[str, dict[str, str]]] = {
    "create": {
        "400": "refused, code 400",
        "401": "refused, code 401",
        "402": "refused, code 402",
        "404": "refused, code 404",
        "422": "refused, code 422",
        "429": "refused as if the rate were exceeded",
        "429-running": "refused as if too many tasks were running",
        "429-bare": "refused with an empty HTTP 429",
        "455": "refused, code 455",
        "505": "refused, code 505",
        "500": "code 500, not accepted",
        "500-charged": "accepted and charged, yet code 500",
        "501": "code 501, not accepted",
        "unknown-code": "a code nobody has heard of, not accepted",
        "html": "a gateway's HTML page with status 502, not accepted",
        "html-charged": "accepted, yet an HTML page with status 200",
        "empty": "accepted, status 200, empty body",
        "no-id": "accepted, code 200 without a task id",
        "string-code": "accepted, the code is the text 200",
        "truncate": "accepted, the JSON cut off",
        "drop": "connection closed after the request was read, not accepted",
        "drop-reply": "accepted and charged, connection closed without a reply",
        "stall": "accepted, never answered",
        "redirect": "a 307 to another path, which takes the create",
        "slow": "accepted, answered after 3 unscaled seconds more",
        "retry-after": "a 429 carries Retry-After",
    },
    "poll": {
        "401": "code 401",
        "429": "code 429",
        "455": "code 455",
        "500": "code 500",
        "html": "a gateway's HTML page with status 503",
        "empty": "status 200, empty body",
        "truncate": "the JSON cut off",
        "drop": "connection closed without a reply",
        "stall": "never answered",
        "null-record": "code 422, recordInfo is null",
        "flat": "the record without an envelope",
        "iso": "times in ISO 8601",
        "strings": "numbers and resultInfoJson as text",
        "no-url": "a success without links",
        "unknown-flag": "a successFlag nobody has heard of",
        "slow": "answered after 3 unscaled seconds",
        "retry-after": "a 429 carries Retry-After",
    },
    "download": {
        "403": "refused, status 403",
        "404": "status 404",
        "429": "status 429",
        "500": "status 500",
        "503": "status 503",
        "dead-link": "403 on the result's own link, for good; fresh links work",
        "html": "status 200 with an HTML page",
        "empty": "status 200 without a byte",
        "truncate": "connection closed half way",
        "truncate-silent": "half the bytes, without a length, ended properly",
        "longer": "more bytes than the file has",
        "changed": "another picture, with its own ETag",
        "gzip": "compressed, whole",
        "no-range": "the whole file to a range request",
        "wrong-range": "206 with another range than the one asked for",
        "drop": "connection closed without a reply",
        "stall": "half the bytes, then silence",
        "slow": "the bytes in pieces over 3 unscaled seconds",
        "redirect": "a 302 to another path of the file",
        "retry-after": "a 429 or 503 carries Retry-After",
    },
    "upload": {
        "400": "refused, code 400",
        "401": "refused, code 401",
        "429": "refused, code 429",
        "455": "refused, code 455",
        "500": "code 500, not stored",
        "html": "a gateway's HTML page with status 502, not stored",
        "empty": "stored, status 200, empty body",
        "truncate": "stored, the JSON cut off",
        "drop": "connection closed after the file was read, not stored",
        "drop-reply": "stored, connection closed without a reply",
        "stall": "stored, never answered",
        "slow": "stored, answered after 3 unscaled seconds more",
        "string-code": "stored, the code is the text 200",
        "file-url": "stored, the answer has fileUrl and no downloadUrl",
        "both-urls": "stored, the answer has fileUrl beside downloadUrl",
        "no-url": "stored, the answer has neither",
        "lost": "answered as stored, but gone",
    },
    "callback": {
        "never": "not sent",
        "twice": "sent two times",
        "early": "the task ends at once, and it is sent before the create is answered",
        "late": "sent 60 unscaled seconds later",
        "out-of-order": "sent after the next one of another task, or 60 unscaled seconds later",
        "forged": "signed with another key",
        "stale": "signed properly, a day ago",
        "task_id": "has data.task_id instead of data.taskId",
    },
    "task": {
        "fail": "ends with successFlag 2",
        "fail-create": "ends with successFlag 3",
        "stuck": "never ends",
        "slow": "takes 10 times as long",
        "late-record": "record-info does not know it for 20 unscaled seconds",
    },
}
"""Every fault there is: place, kind, and what happens."""

MODIFIERS: Final = frozenset({"retry-after"})
"""Kinds that change another answer instead of being one."""


@attrs.frozen
class When:
    """When a fault happens.

    Args:
        probability: From 0 to 1, of each event.
        events: The events it happens at, counted from 1; then ``probability`` does not count.
    """

    probability: float = 0.0
    events: frozenset[int] = frozenset()

    def hits(self, seed: int, place: str, kind: str, scope: str, count: int) -> bool:
        """Whether it happens at this event."""
        if self.events:
            return count in self.events
        return chance.unit(seed, "fault", place, kind, scope, count) < self.probability


@attrs.frozen
class Faults:
    """A set of faults, each with the events it happens at.

    Args:
        rules: What was asked for, by place and kind, in the order of the spec: where two hit the
            same event, the first one wins.
        text: The spec it was read from.
    """

    rules: dict[tuple[str, str], When] = attrs.field(factory=dict)
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Read a spec; the module's docstring shows the language.

        Raises:
            ValueError: Something in it is unknown or no number; the message lists what exists.
        """
        rules = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, equals, when = item.partition("=")
            place, _, kind = name.strip().partition(".")
            if place not in KINDS:
                raise ValueError(f"fault {item!r}: no place {place!r}; there are {_list(KINDS)}")
            if kind not in KINDS[place]:
                exist = _list(KINDS[place])
                raise ValueError(f"fault {item!r}: no kind {kind!r}; {place} has {exist}")
            if not equals:
                raise ValueError(f"fault {item!r}: {_FORM}")
            rules[place, kind] = _when(item, when.strip())
        return cls(rules, text)

    def pick(
        self,
        seed: int,
        place: str,
        count: int,
        *,
        scope: str = "",
        without: Collection[str] = (),
    ) -> str | None:
        """The kind of fault that happens at an event, or ``None``.

        Args:
            seed: The run's seed.
            place: A key of :data:`KINDS`.
            count: The event's number at that place (and in that scope), from 1.
            scope: The task or file that events are counted by.
            without: Kinds that make no sense at this event.
        """
        for (where, kind), when in self.rules.items():
            if where != place or kind in MODIFIERS or kind in without:
                continue
            # A link dies once and stays dead: that is a property of the file, not of an event.
            number = 1 if kind == "dead-link" else count
            if when.hits(seed, place, kind, scope, number):
                return kind
        return None

    def modifies(self, seed: int, place: str, kind: str, count: int, *, scope: str = "") -> bool:
        """Whether a modifier such as ``retry-after`` applies to an event."""
        when = self.rules.get((place, kind))
        return when is not None and when.hits(seed, place, kind, scope, count)


_FORM: Final = "use place.kind=5%, =0.05, or =#3+7 for exactly the 3rd and the 7th event"


def _list(names: Collection[str]) -> str:
    return ", ".join(names)


def _when(item: str, text: str) -> When:
    wrong = ValueError(f"fault {item!r}: {text!r} is no probability; {_FORM}")
    try:
        if text.startswith("#"):
            events = frozenset(int(part) for part in text[1:].split("+"))
            if min(events) < 1:
                raise wrong
            return When(events=events)
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise wrong from None
    if math.isnan(value) or not 0 <= value <= 1:
        raise wrong
    return When(probability=value)
