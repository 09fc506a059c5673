"""What of a request its price and its class depend on, told without making the request.

Making one takes as long as everything else about a planned job, and a ledger may hold a hundred
thousand: so what they cost is told from one of each outline. Most of a list's prompts differ only in
their words.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import Any, Final

_UNTOLD: Final = frozenset(
    {
        *("prompt", "image", "images", "made_with", "watermark", "callback_url"),
        *("task_id", "parent", "index"),
    }
)
"""Fields that neither depends on, but for the flags in a prompt. What is not named here counts."""

_MARK: Final = re.compile(r'(?<!\S)(?:--|["“\u2013\u2014])')
"""Where flags may begin, or a quotation, in which none does (see ``flags.py``)."""


def outline(told: Mapping[str, Any]) -> Hashable:
    """What a request has in common with all that cost the same and take about as long.

    Args:
        told: The request, as ``Request.to_dict()`` tells it.
    """
    words = told.get("prompt", "")
    mark = _MARK.search(words)
    text, rest = (words, "") if mark is None else (words[: mark.start()], words[mark.start() :])
    # Flags without a text before them count for nothing.
    fields = [item for item in told.items() if item[0] not in _UNTOLD]
    return bool(text.strip()), rest, *fields
