"""The images that a create names."""

from __future__ import annotations

from typing import Any

import pytest

from kie_mj_async.simulator import inputs
from kie_mj_async.simulator.inputs import Own


@pytest.mark.parametrize(
    ("body", "urls"),
    [
        ({}, []),
        ({"fileUrl": "a"}, ["a"]),
        ({"fileUrls": ["a", "b"], "fileUrl": "c"}, ["a", "b", "c"]),
        ({"fileUrls": None, "fileUrl": None}, []),
    ],
)
def test_every_image_is_found(body: dict[str, Any], urls: list[str]) -> None:
    """Both fields name images."""
    assert inputs.image_urls(body) == urls


@pytest.mark.parametrize(
    ("url", "host", "found"),
    [
        ("https://x.org/u/a.png", "127.0.0.1:8787", None),
        ("http://x.org/u/a%20b.png", "x.org", Own("/u/a b.png", True)),
        ("http://127.0.0.1:8787/m/a.jpeg?x=1", "127.0.0.1:8787", Own("/m/a.jpeg", True)),
        ("http://127.0.0.1:9999/u/a.png", "127.0.0.1:8787", Own("/u/a.png", False)),
        ("http://localhost:8787/u/a.png", None, Own("/u/a.png", False)),
    ],
)
def test_own_addresses_are_told(url: str, host: str | None, found: Own | None) -> None:
    """At the host that was asked all is its own; another port of this machine may be."""
    assert inputs.own(url, host) == found


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:80/x", True),
        ("http://127.9.9.9/x", True),
        ("https://localhost/x", True),
        ("http://[::1]:80/x", True),
        ("http://[::ffff:127.0.0.1]/x", True),
        ("http://localhost.example.com/x", False),
        ("http://10.0.0.1/x", False),
        ("http://0.0.0.0/x", False),
        ("http://127.0.0.1.example.com/x", False),
        ("http://example.com/127.0.0.1", False),
        ("http://127.0.0.1@example.com/x", False),
        ("http://[", False),
    ],
)
def test_this_machine_is_told_from_others(url: str, here: bool) -> None:
    """Only addresses that cannot leave the machine count as its own."""
    assert inputs.is_loopback(url) == here
