"""HTTP sessions, and the way that requests take: what every one of ours has in common.

No session holds the key; calls send it one by one.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final

import aiohttp
import attrs
from aiohttp.abc import AbstractResolver
from yarl import URL

from ._version import __version__
from .errors import ConfigError, refusal
from .rules.proxies import Proxy

USER_AGENT: Final = f"kie-mj-async/{__version__}"
CONNECT_TIMEOUT: Final = 10.0
"""Seconds to connect, TLS included."""

_NO_ISSUER: Final = (2, 18, 19, 20, 21)
"""OpenSSL's numbers for a certificate that nobody who is trusted has signed."""
_AUTHORITY: Final = (
    "if your network has a certificate authority of its own, name its certificate's file with "
    "KIE_CA_FILE (ca_file=)"
)


def open_session(
    lent: aiohttp.ClientSession | None,
    *,
    fresh_connections: bool = False,
    resolver: AbstractResolver | None = None,
    **options: Any,
) -> aiohttp.ClientSession:
    """A session of ours, on the connector of the one that was lent, if any.

    It follows neither the environment's proxies, which are a setting of ours, nor ``.netrc``: that
    would put somebody else's ``Authorization`` in the place of the key, and show it to result hosts.

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
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": USER_AGENT},
        **options,
    )


@attrs.frozen
class Way:
    """The way that requests take, whatever connector they are on.

    Attributes:
        proxy: The proxy that they go through, where it carries their address.
        trusted: Whose certificates are trusted; ``None`` for the connector's own choice.
    """

    proxy: Proxy | None = None
    trusted: ssl.SSLContext | None = attrs.field(default=None, repr=False)

    @classmethod
    def of(cls, proxy: Proxy | None, ca_file: Path | None) -> Way:
        """The way of a client's settings.

        Raises:
            ConfigError: The file of certificates cannot be used any more.
        """
        return cls(proxy, None if ca_file is None else _trusting(ca_file))

    def proxied(self, url: URL) -> bool:
        """Whether an address is asked for through the proxy."""
        proxy = self.proxy
        return proxy is not None and proxy.carries(url.scheme, url.raw_host or "", url.port)

    def options(self, url: URL) -> dict[str, Any]:
        """What aiohttp's ``request`` is given for an address, besides its headers."""
        options: dict[str, Any] = {} if self.trusted is None else {"ssl": self.trusted}
        if self.proxy is not None and self.proxied(url):
            options["proxy"] = self.proxy.url
            if url.scheme == "https":
                options["proxy_headers"] = self._login()
        return options

    def headers(self, url: URL) -> dict[str, str]:
        """What the request itself has to tell the proxy: nothing, but where there is no tunnel."""
        return self._login() if url.scheme != "https" and self.proxied(url) else {}

    def told(self, url: URL) -> str:
        """By which proxy it goes, for people: what comes before the words on its failure."""
        if self.proxy is None or not self.proxied(url):
            return ""
        return "through the proxy {}:{}: ".format(*self.proxy.place)

    def _login(self) -> dict[str, str]:
        login = None if self.proxy is None else self.proxy.login
        return {} if login is None else {"Proxy-Authorization": login.reveal()}


DIRECT: Final = Way()
"""The way without a proxy, with the certificates that the connector trusts."""


def _trusting(ca_file: Path) -> ssl.SSLContext:
    """A context that trusts what the system trusts, and a file's authorities too."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:
        raise ConfigError(f"ca_file: {ca_file} cannot be used: {refusal(error)}") from None
    return context


def why_not(error: aiohttp.ClientError) -> str | None:
    """Why there is no connection, where it is for the user to do something about it; for people."""
    match error:
        case aiohttp.ClientHttpProxyError(status=407):
            return "it wants a user name and a password, or others (HTTP 407)"
        case aiohttp.ClientHttpProxyError():
            return f"it made no connection to the host (HTTP {error.status})"
        case aiohttp.ClientProxyConnectionError():
            return f"cannot connect to it ({error.os_error.strerror or 'it was closed'})"
        case aiohttp.ClientConnectorCertificateError():
            why = error.certificate_error
            told = why.verify_message if isinstance(why, ssl.SSLCertVerificationError) else str(why)
            help_ = f"; {_AUTHORITY}" if getattr(why, "verify_code", 0) in _NO_ISSUER else ""
            return f"the certificate of {error.host} is not trusted: {told.rstrip('.')}{help_}"
    return None
