"""HTTP sessions: what every one of ours has in common. None holds the key; calls send it one by one."""

from __future__ import annotations

from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver

from ._version import __version__

USER_AGENT: Final = f"kie-mj-async/{__version__}"
CONNECT_TIMEOUT: Final = 10.0
"""Seconds to connect, TLS included."""


def open_session(
    lent: aiohttp.ClientSession | None,
    *,
    fresh_connections: bool = False,
    resolver: AbstractResolver | None = None,
    **options: Any,
) -> aiohttp.ClientSession:
    """A session of ours, on the connector of the one that was lent, if any.

    Args:
        lent: A session of the caller's; it stays the caller's.
        fresh_connections: Give every request a connection of its own, never a kept-alive one.
        resolver: Who resolves names, where the connector is ours; it stays the caller's.
        **options: More of ``aiohttp.ClientSession``'s.
    """
    if lent is not None and lent.connector is None:
        raise RuntimeError("the session that was passed as session= is closed")
    shared = lent is not None and not fresh_connections
    return aiohttp.ClientSession(
        connector=lent.connector
        if lent is not None and shared
        else aiohttp.TCPConnector(limit=0, force_close=fresh_connections, resolver=resolver),
        connector_owner=not shared,
        trust_env=lent is not None and lent.trust_env,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": USER_AGENT},
        **options,
    )
