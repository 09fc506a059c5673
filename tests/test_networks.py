"""Networks: which addresses and hosts are out of bounds for a link."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_mj_async.rules.networks import is_local_name, is_private, is_private_host

PRIVATE_V4 = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
]
PUBLIC_V4 = ["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.32.0.1", "192.169.0.1"]
PRIVATE_V6 = [
    "::",
    "::1",
    "::127.0.0.1",
    "64:ff9b:1::1",
    "100::1",
    "2001:db8::1",
    "2001::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
PUBLIC_V6 = ["2606:4700::1111", "2a00:1450:4001::1", "2001:4860:4860::8888"]


@pytest.mark.parametrize("address", [*PRIVATE_V4, *PRIVATE_V6])
def test_private_addresses(address: str) -> None:
    """Loopback, private, shared, link-local, unique-local, multicast and reserved ones."""
    assert is_private(address)
    assert is_private_host(address)


@pytest.mark.parametrize("address", [*PUBLIC_V4, *PUBLIC_V6])
def test_public_addresses(address: str) -> None:
    """What anybody on the internet can reach."""
    assert not is_private(address)
    assert not is_private_host(address)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("intranet", True),
        ("Intranet.", True),
        ("printer.local", True),
        ("metadata.google.internal", True),
        ("nas.home.arpa", True),
        ("local", True),
        ("files.example.com", False),
        ("internal.example.com", False),
        ("notlocal.com", False),
        ("1.1.1.1", False),
        ("2606:4700::1111", False),
        ("", True),
    ],
)
def test_names_that_only_a_network_itself_knows(host: str, local: bool) -> None:
    """What the internet's name service has no answer to."""
    assert is_local_name(host) is local


def carriers(address: str) -> list[str]:
    """The IPv6 forms of an IPv4 address: mapped, 6to4, NAT64."""
    number = int(ipaddress.IPv4Address(address))
    return [
        f"::ffff:{address}",
        str(ipaddress.IPv6Address((0x2002 << 112) | (number << 80))),
        f"64:ff9b::{address}",
    ]


@pytest.mark.parametrize("address", PRIVATE_V4)
def test_an_address_within_an_address(address: str) -> None:
    """A private IPv4 address is one in whatever form it travels."""
    assert [is_private(one) for one in carriers(address)] == [True] * 3


@pytest.mark.parametrize("address", PUBLIC_V4)
def test_a_public_address_within_an_address(address: str) -> None:
    """A public one stays public."""
    assert [is_private(one) for one in carriers(address)] == [False] * 3


@given(st.ip_addresses())
def test_every_address_is_answered(address: ipaddress.IPv4Address) -> None:
    """Whatever is not reachable from everywhere counts as private."""
    if not address.is_global:
        assert is_private(str(address)) or getattr(address, "sixtofour", None)


@pytest.mark.parametrize("text", ["", "localhost", "example.com", "1.2.3", "::g"])
def test_what_is_no_address(text: str) -> None:
    """A name is no address."""
    with pytest.raises(ValueError, match="IPv"):
        is_private(text)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost",
        "localhost.",
        "files.localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.0.0.1.",
        "0x7f.0.0.1",
        "10.0x1",
    ],
)
def test_names_of_this_machine_and_disguises(host: str) -> None:
    """Names that lead here by definition, and old spellings of addresses."""
    assert is_private_host(host)


@pytest.mark.parametrize(
    "host", ["", "cdn.kie.ai", "localhost.example.com", "0x7f.example.com", "x1", "a.0xg", "1.com"]
)
def test_names_tell_nothing(host: str) -> None:
    """Of any other name, only its addresses tell."""
    assert not is_private_host(host)
