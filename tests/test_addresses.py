"""The guard of private networks: what a name resolves to is what is looked at and connected to."""

from __future__ import annotations

import socket

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from support import answering, http
from yarl import URL

from kie_mj_async.archive.addresses import Guard, PrivateAddress
from kie_mj_async.sessions import open_session

pytestmark = pytest.mark.anyio


class Names(AbstractResolver):
    """A resolver that knows a few names; counts what it is asked."""

    def __init__(self, **names: str) -> None:
        self.names = names
        self.asked: list[str] = []
        self.closed = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        found = self.names.get(host.partition(".")[0], "")
        if not found:
            raise OSError(None, "no such name")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in found.split()
        ]

    async def close(self) -> None:
        self.closed = True


async def addresses(guard: Guard, host: str) -> list[str]:
    return [one["host"] for one in await guard.resolve(host, 80)]


async def test_a_public_name_resolves() -> None:
    """Nothing is in the way of a host on the internet."""
    names = Names(files="1.1.1.1 2606:4700::1111")
    assert await addresses(Guard(None, names), "files.test") == ["1.1.1.1", "2606:4700::1111"]


async def test_a_private_name_is_refused() -> None:
    """A name that leads into a private network is refused by what it resolves to."""
    names = Names(files="10.0.0.1 ::1", api="1.1.1.1")
    with pytest.raises(PrivateAddress) as caught:
        await addresses(Guard("https://api.test", names), "files.test")
    assert caught.value.host == "files.test"


async def test_private_addresses_of_a_public_name_are_left_out() -> None:
    """Of a name with both, the public ones are connected to."""
    names = Names(files="127.0.0.1 1.1.1.1 fe80::1", api="1.1.1.1")
    assert await addresses(Guard("https://api.test", names), "files.test") == ["1.1.1.1"]


async def test_a_name_that_does_not_resolve() -> None:
    """No address is no private one."""
    with pytest.raises(OSError, match="no such name"):
        await addresses(Guard(None, Names()), "files.test")


@pytest.mark.parametrize(
    ("api", "asked"),
    [
        ("http://127.0.0.1:8377/api", 0),
        ("http://[fd12::1]", 0),
        ("http://localhost:80", 0),
        ("https://api.test", 1),
    ],
)
async def test_with_an_api_host_in_a_private_network(api: str, asked: int) -> None:
    """Where the API host is in one itself its files may be too; it is resolved once, and only then."""
    names = Names(files="10.0.0.1", api="192.168.0.1", public="1.1.1.1")
    guard = Guard(api, names)
    assert await addresses(guard, "public.test") == ["1.1.1.1"]
    assert names.asked.count("api.test") == 0
    for _ in range(2):
        assert await addresses(guard, "files.test") == ["10.0.0.1"]
        await guard.check(URL("http://127.0.0.1/"))
    assert names.asked.count("api.test") == asked


async def test_an_api_host_with_a_public_address_too() -> None:
    """An API host that the internet can reach is none of a private network."""
    names = Names(files="10.0.0.1", api="192.168.0.1 1.1.1.1")
    with pytest.raises(PrivateAddress):
        await addresses(Guard("https://api.test", names), "files.test")


async def test_an_api_host_that_cannot_be_resolved_now() -> None:
    """While it is not known where the API host is, nothing private is allowed; it is asked again."""
    names = Names(files="10.0.0.1")
    guard = Guard("https://api.test", names)
    with pytest.raises(PrivateAddress):
        await addresses(guard, "files.test")
    names.names["api"] = "10.0.0.2"
    assert await addresses(guard, "files.test") == ["10.0.0.1"]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "http://[::1]:80/x",
        "http://[::ffff:10.0.0.1]/x",
        "http://169.254.169.254/latest/meta-data",
        "http://localhost/x",
        "http://a.localhost/x",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://127.0.0.1./",
        "http://\uff11\uff12\uff17.0.0.1/",
    ],
)
async def test_addresses_in_links(url: str) -> None:
    """An address in the link itself is looked at as it stands there: no resolver sees it."""
    with pytest.raises(PrivateAddress):
        await Guard(None, Names()).check(URL(url))


async def test_names_in_links_are_left_to_the_resolver() -> None:
    """A name is not resolved twice: it could lead elsewhere the second time."""
    names = Names()
    await Guard(None, names).check(URL("https://files.test/x"))
    assert names.asked == []


@pytest.mark.parametrize("api", [None, "http://127.0.0.1"])
async def test_over_a_real_connection(api: str | None) -> None:
    """A session with the guard connects to what the guard lets through, and to nothing else."""
    names = Names(files="127.0.0.1")
    guard = Guard(api, names)
    async with answering(http(b"hello")) as raw:
        session = open_session(None, resolver=guard)
        url = raw.url.replace("127.0.0.1", "files.test")
        try:
            if api is None:
                with pytest.raises(PrivateAddress):
                    await session.get(url)
            else:
                async with session.get(url) as response:
                    assert await response.read() == b"hello"
        finally:
            await session.close()
        assert raw.connections == (api is not None)
    await guard.close()
    assert names.closed


async def test_the_usual_resolver() -> None:
    """Without one that is given, names are resolved as aiohttp does."""
    guard = Guard("http://localhost")
    found = await guard.resolve("localhost", 80)
    assert "127.0.0.1" in {one["host"] for one in found}
    await guard.close()
    with pytest.raises(PrivateAddress):
        await Guard(None, aiohttp.ThreadedResolver()).resolve("localhost", 80)
