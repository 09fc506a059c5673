"""Opens links: redirects are followed step by step, and each step is looked at before it is taken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import anyio
from yarl import URL

from ..errors import DownloadError
from ..sessions import CONNECT_TIMEOUT, DIRECT, Way, why_not
from .addresses import Guard, PrivateAddress

MAX_REDIRECTS: Final = 5

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class LinkRefused(DownloadError):
    """The link no longer works; the result itself may still be there under a fresh one."""


@asynccontextmanager
async def opened(
    session: aiohttp.ClientSession,
    guard: Guard,
    link: str,
    headers: Mapping[str, str],
    *,
    patience: float,
    way: Way = DIRECT,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer to a GET of a link, or of where it leads to.

    Args:
        session: What to ask with.
        guard: Who knows which hosts are out of bounds.
        link: The link.
        headers: All that is sent besides the session's own.
        patience: Seconds to wait for each answer to begin, once connected.
        way: The way that it takes.

    Raises:
        LinkRefused: It leads nowhere, or where it must not.
        aiohttp.ClientError: The exchange broke.
        TimeoutError: No answer came.
    """
    response: aiohttp.ClientResponse | None = None
    refused = ""
    try:
        url = _parsed(link)
        for _ in range(MAX_REDIRECTS + 1):
            await guard.check(url, proxied=way.proxied(url))
            # A header that comes drop by drop keeps every other time-out from firing.
            with anyio.fail_after(CONNECT_TIMEOUT + patience):
                response = await session.get(
                    url,
                    headers={**headers, **way.headers(url)},
                    allow_redirects=False,
                    **way.options(url),
                )
            if response.status == 407 and way.proxied(url):
                response.close()
                raise aiohttp.ClientHttpProxyError(response.request_info, (), status=407)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                break
            response.close()
            url = _next(link, url, location)
        else:
            refused = f"more than {MAX_REDIRECTS} redirects"
    except PrivateAddress as private:
        refused = (
            f"{private.host} is in a private network, and the API host is not: refused; "
            "if that is right, fetch the file yourself"
        )
    except aiohttp.ClientProxyConnectionError:
        raise  # no other link would get further
    except aiohttp.ClientConnectorError as error:
        # The host of the link is gone; a fresh link may name another.
        refused = why_not(error) or "its host cannot be reached"
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ValueError):
        refused = "its host cannot be reached"
    # Raised here, away from aiohttp's own error: that one's traceback holds the proxy's password.
    if refused or response is None:
        raise LinkRefused(f"{link}: {refused}", url=link)
    try:
        yield response
    finally:
        response.release()


def _parsed(link: str) -> URL:
    """A link as it was given: quoting it anew could break its signature."""
    return URL(link, encoded=link.isascii() and link.isprintable() and " " not in link)


def _next(link: str, url: URL, location: str) -> URL:
    there = url.join(_parsed(location))
    if url.scheme == "https" and there.scheme != "https":
        message = f"{link}: leads from https to {there.scheme} at {there.host}: refused"
        raise LinkRefused(message, url=link)
    if there.user is not None or there.password is not None:
        message = f"{link}: leads to an address with a user name in it, at {there.host}: refused"
        raise LinkRefused(message, url=link)
    return there
