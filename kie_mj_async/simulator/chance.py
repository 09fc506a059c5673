"""Chance that repeats: numbers that depend on nothing but what they are asked for.

A random generator would hand out its numbers in the order of the calls, so two runs whose requests
arrive in another order would differ. A hash of the question does not. Nothing here knows what the
numbers decide.
"""

from __future__ import annotations

import hashlib
from statistics import NormalDist


def digest(*parts: object, size: int = 16) -> str:
    """A hexadecimal fingerprint of the parts.

    Args:
        *parts: What it depends on; compared by their text.
        size: Bytes of the fingerprint; the text has twice as many digits.
    """
    text = "\x1f".join(map(str, parts))
    return hashlib.blake2b(text.encode(errors="backslashreplace"), digest_size=size).hexdigest()


def unit(*parts: object) -> float:
    """A number between 0 and 1, both excluded, evenly spread over all possible parts."""
    return ((int(digest(*parts, size=8), 16) >> 12) + 0.5) / 2**52


def normal(mean: float, deviation: float, *parts: object) -> float:
    """A number from the normal distribution, but never below half the mean."""
    return max(mean / 2, NormalDist(mean, deviation).inv_cdf(unit(*parts)))
