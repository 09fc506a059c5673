"""Keeps links out of private networks, at the moment of connecting.

A name is checked by what it resolves to for the very connection that follows, so that DNS cannot give
one answer to a check and another to its use.
"""

from __future__ import annotations

import socket

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from ..logs import logger
from ..rules.networks import is_local_name, is_private, is_private_host

log = logger(__name__)


class PrivateAddress(Exception):
    """A host is in a private network, where a link has no business.

    Attributes:
        host: As the link names it.
    """

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.host = host


class Guard(AbstractResolver):
    """Resolves names, but to no address of a private network unless the API host is in one itself.

    Make it inside a running loop.

    Args:
        api_url: The API host's; ``None`` for one on the internet.
        resolver: Who resolves names; aiohttp's own without one.
        proxy: The host and port of the proxy, which may be anywhere.
    """

    def __init__(
        self,
        api_url: str | None,
        resolver: AbstractResolver | None = None,
        proxy: tuple[str, int] | None = None,
    ) -> None:
        self._proxy = proxy
        self._api_host = URL(api_url).host if api_url is not None else None
        self._resolver = resolver or aiohttp.DefaultResolver()
        self._open: bool | None = None

    async def check(self, url: URL, *, proxied: bool = False) -> None:
        """See that a link's host, as it is written, is in no private network.

        For addresses aiohttp asks no resolver; a connector that is not ours has its own; and a proxy
        resolves names itself.

        Args:
            url: The link.
            proxied: Whether the proxy is asked for it.

        Raises:
            PrivateAddress: It is.
        """
        host = url.host or ""
        private = is_private_host(host) or (proxied and is_local_name(host))
        # Names are let through to the proxy's own place, wherever that is.
        if (private or self._is_proxy(host, url.port)) and not await self._allowed():
            raise PrivateAddress(host)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a name that may be connected to.

        Raises:
            PrivateAddress: It has no other than private ones.
            OSError: It has none.
        """
        found = await self._resolver.resolve(host, port, family)
        public = [one for one in found if not is_private(one["host"])]
        if self._is_proxy(host, port) or len(public) == len(found) or await self._allowed():
            return found
        if not public:
            raise PrivateAddress(host)
        return public

    async def close(self) -> None:
        """Let go of the resolver."""
        await self._resolver.close()

    def _is_proxy(self, host: str, port: int | None) -> bool:
        return (host.lower(), port) == self._proxy

    async def _allowed(self) -> bool:
        """Whether the API host is in a private network: then its files are, too."""
        if self._open is None:
            host = self._api_host
            if host is None or is_private_host(host):
                self._open = host is not None
            else:
                try:
                    found = await self._resolver.resolve(host, 0, socket.AF_UNSPEC)
                except OSError as error:
                    log.info("%s cannot be resolved: %s", host, error)
                    return False
                self._open = all(is_private(one["host"]) for one in found)
        return self._open
