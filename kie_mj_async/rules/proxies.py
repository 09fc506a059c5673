"""Proxies: how one is named, and which addresses are asked for through it.

An https address is asked for through a tunnel (CONNECT), in which the proxy sees a host's name and no
more. An http one would be handed to it as it is.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import unquote, urlsplit

import attrs

from ..errors import ConfigError
from ..secret import Secret
from .config import BY_NAME, DIRECT, with_scheme

HTTPS_ONLY: Final = ("https_proxy", "HTTPS_PROXY")
"""Variables that by custom are about https addresses."""

_PORTS: Final = {"http": 80, "https": 443}


@attrs.frozen
class Proxy:
    """A proxy that requests go through.

    Attributes:
        url: Its address, without user name and password.
        login: What it is told of the user, as a ``Proxy-Authorization``; ``None`` for nothing.
        https_only: Whether only https addresses are asked for through it.
        besides: What is asked for directly: names (with all below them), addresses, networks; each may
            have a port behind it. ``*`` is everything.
    """

    url: str
    login: Secret | None = None
    https_only: bool = False
    besides: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str, int]:
        """Its host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or _PORTS[parts.scheme]

    def carries(self, scheme: str, host: str, port: int | None) -> bool:
        """Whether an address is asked for through it.

        This machine itself never is: the proxy would take it for its own.

        Args:
            scheme: The address's: http or https.
            host: A name or an address; IPv6 without brackets.
            port: ``None`` for the scheme's own.
        """
        if (self.https_only and scheme != "https") or _is_this_machine(host):
            return False
        at = port or _PORTS.get(scheme, 0)
        return not any(_fits(one, host, at) for one in self.besides)


def from_environment(argument: str | None, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy of an argument or of the environment's variables.

    Args:
        argument: Its URL, or ``"direct"`` for none; ``None`` to look into the environment.
        environ: The environment; a variable that is empty is not set.

    Raises:
        ConfigError: It is none that can be spoken to; the message names the variable, and no password.
    """
    setting = BY_NAME["proxy"]
    found, source = argument, "proxy"
    if argument is None:
        for name in (str(setting.variable), *setting.customary):
            if environ.get(name):
                found, source = environ[name], name
                break
    if not found or found == DIRECT:
        return None
    besides = next((environ[one] for one in BY_NAME["no_proxy"].customary if environ.get(one)), "")
    return read_proxy(found, source, https_only=source in HTTPS_ONLY, besides=besides)


def read_proxy(text: str, source: str, *, https_only: bool = False, besides: str = "") -> Proxy:
    """A proxy from its URL.

    Args:
        text: ``http://user:password@host:port``; the scheme may be missing, user name and password too.
        source: What it was given as, for errors.
        https_only: Whether it is for https addresses only.
        besides: What is asked for directly, parted by commas or blanks.

    Raises:
        ConfigError: It is no such URL; the message holds no password.
    """
    url = with_scheme(text.strip())
    try:
        parts = urlsplit(url)
        odd = parts.path.strip("/") or parts.query or parts.fragment or parts.port == 0
        fits = parts.scheme in _PORTS and parts.hostname and not odd and _plain(url)
        login = _login(parts.username, parts.password)
    except ValueError:
        fits = False
    if not fits:
        # Nothing of it is shown: without its "@" a password would be taken for a port.
        raise ConfigError(
            f"{source}: not a proxy's URL; use http://host:port or https://host:port, with "
            'user:password@ before the host where it wants that (and in these %40 for "@", %2F for '
            f'"/", %23 for "#", %25 for "%"), or "{DIRECT}" for none; SOCKS is not spoken'
        )
    place = parts.netloc.rpartition("@")[2]
    entries = [one for one in re.split(r"[,\s]+", besides) if one]
    return Proxy(f"{parts.scheme}://{place}", login, https_only, tuple(entries))


def _plain(url: str) -> bool:
    return url.isascii() and url.isprintable() and " " not in url


def _login(user: str | None, password: str | None) -> Secret | None:
    if user is None and password is None:
        return None
    plain = f"{unquote(user or '')}:{unquote(password or '')}"
    return Secret("Basic " + base64.b64encode(plain.encode()).decode())


def _is_this_machine(host: str) -> bool:
    name = host.rstrip(".").lower()
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name.rpartition(".")[2] == "localhost"


def _fits(entry: str, host: str, port: int) -> bool:
    """Whether an entry of a ``NO_PROXY`` is about a host."""
    if entry == "*":
        return True
    name = host.rstrip(".").lower()
    if (found := re.fullmatch(r"\[(.+)\](?::(\d+))?|([^:]+):(\d+)", entry)) is not None:
        entry, at = found[1] or found[3], found[2] or found[4]
        if at is not None and int(at) != port:
            return False
    try:
        return ip_address(name) in ip_network(entry, strict=False)
    except ValueError:
        pass
    domain = entry.lower().removeprefix("*").strip(".")
    return bool(domain) and (name == domain or name.endswith("." + domain))


def readable(proxy: Proxy | None, urls: Sequence[str]) -> str | None:
    """The first of these URLs whose requests the proxy can read, as they are not encrypted; if any."""
    if proxy is None:
        return None
    for url in urls:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme == "http" and proxy.carries("http", host, parts.port):
            return url
    return None
