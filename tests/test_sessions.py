"""Sessions: ours or on a lent connector, never with a header or a cookie of anybody else's."""

from __future__ import annotations

import aiohttp
import pytest

from kie_mj_async.sessions import USER_AGENT, open_session

pytestmark = pytest.mark.anyio


async def test_a_session_of_our_own() -> None:
    """Without a lent session there is a connector of ours, which closes with the session."""
    session = open_session(None)
    connector = session.connector
    assert connector is not None
    assert not connector.force_close
    assert dict(session.headers) == {"User-Agent": USER_AGENT}
    assert isinstance(session.cookie_jar, aiohttp.DummyCookieJar)
    assert not session.trust_env
    await session.close()
    assert connector.closed


async def test_a_resolver_of_our_own() -> None:
    """A resolver is for the connector that is ours; a lent one keeps its own."""
    resolver = aiohttp.ThreadedResolver()
    session = open_session(None, resolver=resolver)
    assert session.connector is not None
    assert session.connector._resolver is resolver  # type: ignore[attr-defined]
    await session.close()
    async with aiohttp.ClientSession() as lent:
        session = open_session(lent, resolver=resolver)
        assert session.connector is lent.connector
        await session.close()


async def test_a_lent_connector_is_shared_and_stays_open() -> None:
    """A lent session gives its connector, and nothing else: no trust in ``.netrc``, no header."""
    async with aiohttp.ClientSession(trust_env=True, headers={"Authorization": "x"}) as lent:
        session = open_session(lent)
        assert session.connector is lent.connector
        assert not session.trust_env
        assert "Authorization" not in session.headers
        await session.close()
        assert lent.connector is not None
        assert not lent.connector.closed


async def test_fresh_connections_take_no_lent_one() -> None:
    """Where every request needs a connection of its own, the lent connector is left alone."""
    async with aiohttp.ClientSession() as lent:
        session = open_session(lent, fresh_connections=True)
        assert session.connector is not lent.connector
        assert session.connector is not None
        assert session.connector.force_close
        await session.close()


async def test_a_closed_session_is_refused() -> None:
    """A session that is closed cannot be lent."""
    lent = aiohttp.ClientSession()
    await lent.close()
    with pytest.raises(RuntimeError, match="closed"):
        open_session(lent)
