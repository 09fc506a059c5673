"""Addresses: which ones are no business of a link from the outside.

A link names a host; whoever can choose the link could otherwise make this machine knock at doors that
only it can reach: its own services, its network's, a cloud's store of credentials.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

_PUBLIC: Final = IPv6Network("2000::/3")
_TRANSLATED: Final = IPv6Network("64:ff9b::/96")
_LOCAL: Final = (".local", ".localdomain", ".internal", ".intranet", ".lan", ".home.arpa")
_NUMBER: Final = re.compile(r"\d+|0[xX][0-9a-fA-F]*")


def is_private(address: str) -> bool:
    """Whether an IP address is not one that anybody on the internet can reach.

    That is loopback, private and shared networks, link-local and unique-local addresses, the
    unspecified, multicast and reserved ones, and the IPv6 forms that carry such an IPv4 address.

    Args:
        address: In its usual form, IPv6 without brackets; a zone (``%eth0``) may follow.

    Raises:
        ValueError: It is no address.
    """
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        inner = _carried(ip)
        if inner is None:
            return ip not in _PUBLIC or not ip.is_global or ip.is_multicast
        ip = inner
    return not ip.is_global or ip.is_multicast or ip.is_reserved


def is_private_host(host: str) -> bool:
    """Whether a host as a link names it is in a private network, as far as its name alone tells.

    Args:
        host: A name or an address; IPv6 without brackets.
    """
    name = host.rstrip(".").lower()
    try:
        return is_private(name)
    except ValueError:
        pass
    last = name.rpartition(".")[2]
    # 127.1 and 0x7f000001 are addresses to old resolvers; nobody writes a public one that way.
    return last == "localhost" or _NUMBER.fullmatch(last) is not None


def is_local_name(host: str) -> bool:
    """Whether a name is one that only a network itself knows, and the internet cannot.

    For where somebody else looks it up, such as a proxy in a company's network.

    Args:
        host: A name or an address; IPv6 without brackets.
    """
    name = host.rstrip(".").lower()
    try:
        ip_address(name)
    except ValueError:
        return "." not in name or name.endswith(_LOCAL)
    return False


def _carried(ip: IPv6Address) -> IPv4Address | None:
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip in _TRANSLATED:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return None
