"""The images that a create names, and which of them are the simulated service's own.

Pure. What lies under a path of its own is the world's affair.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs


@attrs.frozen
class Own:
    """An address at the simulator.

    Args:
        path: Its path, decoded.
        certain: Whether it is at the host that was asked. Else it is at another port of this
            machine: this simulator's before a restart, or another server's.
    """

    path: str
    certain: bool


def image_urls(body: Mapping[str, Any]) -> list[str]:
    """Every image that a valid body of a create names, in order."""
    one = body.get("fileUrl")
    return [*(body.get("fileUrls") or []), *([one] if one else [])]


def own(url: str, host: str | None) -> Own | None:
    """Read an address as one of the simulator's; ``None`` for one on another machine.

    Args:
        url: A valid http(s) URL.
        host: Host and port that the create was sent to, if known.
    """
    parts = urlsplit(url)
    certain = host is not None and parts.netloc == host
    if certain or is_loopback(url):
        return Own(unquote(parts.path), certain)
    return None


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine itself."""
    try:
        name = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or (mapped is not None and mapped.is_loopback)
