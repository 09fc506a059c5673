"""Results through a real proxy: what it carries, what it is never asked for, and its password."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from crash_report import crash_report
from file_host import Host, a_place, fetch, padded, saved
from proxy_support import RealProxy, basic, proxying
from support import answering, http, serving
from test_addresses import Names
from tls_support import Authority, authority_in
from yarl import URL

from kie_mj_async.archive import links
from kie_mj_async.archive.addresses import Guard, PrivateAddress
from kie_mj_async.archive.links import LinkRefused
from kie_mj_async.archive.object_client import Connector
from kie_mj_async.errors import DownloadError
from kie_mj_async.rules.proxies import read_proxy
from kie_mj_async.sessions import Way, open_session

pytestmark = pytest.mark.anyio
HOST = "files.test"
API = "https://1.1.1.1"
"""An API host on the internet, which need not be looked up."""
LOGIN = "fox:hu@sh"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority_in(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def behind(
    authority: Authority, *, tls: bool = True, **proxy: Any
) -> AsyncIterator[tuple[Host, RealProxy, Way]]:
    """A host of a file, behind a proxy that wants a login."""
    host = Host(padded(200_000))
    context = authority.serves(HOST) if tls else None
    async with (
        serving(host.handle, ssl=context) as raw,
        proxying(leads={HOST: raw.port}, **{"login": LOGIN, **proxy}) as made,
    ):
        host.url = f"{'https' if tls else 'http'}://{HOST}/file"
        way = Way.of(read_proxy(f"http://{LOGIN}@{made.at}", "proxy"), authority.ca_file)
        yield host, made, way


@pytest.mark.parametrize("tls", [True, False])
async def test_a_result_through_a_proxy(authority: Authority, tmp_path: Path, tls: bool) -> None:
    """In a tunnel, or without one if it is an http link; the host never sees the proxy's login."""
    place = await a_place(tmp_path)
    async with behind(authority, tls=tls) as (host, proxy, way):
        file = await fetch(host.url, place, api_url=API, way=way)
    assert saved(place) == host.content
    assert file.bytes == 200_000
    start = b"CONNECT files.test:443 " if tls else b"GET http://files.test/file "
    assert [one.startswith(start) for one in proxy.asked] == [True]
    assert basic(LOGIN) in proxy.asked[0]
    if tls:
        assert b"proxy" not in host.asked[0].raw.lower()


async def test_a_transfer_goes_on_through_a_new_tunnel(
    authority: Authority, tmp_path: Path
) -> None:
    """A proxy that breaks off costs no more than a host that does."""
    place = await a_place(tmp_path)
    async with behind(authority) as (host, proxy, way):

        def bend(number: int, _asked: object, _answer: object) -> None:
            if number == 0:
                proxy.die()

        host.bend = bend
        await fetch(host.url, place, api_url=API, way=way)
    assert saved(place) == host.content
    assert len(proxy.asked) == 2


def shows_the_password(error: BaseException, way: Way) -> bool:
    told = crash_report(error)
    assert way.proxy is not None
    assert way.proxy.login is not None
    coded = way.proxy.login.reveal().removeprefix("Basic ")
    return coded in told or LOGIN.partition(":")[2] in told


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ({"login": "other:login"}, "wants a user name and a password, or others (HTTP 407)"),
        ({"answer": b"HTTP/1.1 503 x\r\n\r\n"}, "made no connection to the host (HTTP 503)"),
        ({"answer": b""}, "broke off"),
        ({"hangs": True}, "stalled"),
    ],
)
async def test_a_proxy_in_the_way_is_not_the_links_fault(
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: dict[str, Any],
    words: str,
) -> None:
    """No fresh link is asked for: the file waits for the next run. The password shows nowhere."""
    monkeypatch.setattr(links, "CONNECT_TIMEOUT", 0.0)
    place = await a_place(tmp_path)
    async with behind(authority, **trouble) as (host, _, way):
        with pytest.raises(DownloadError) as caught:
            await fetch(host.url, place, api_url=API, way=way, attempts=2)
    assert not isinstance(caught.value, LinkRefused)
    assert words in str(caught.value)
    assert not shows_the_password(caught.value, way)


async def test_a_proxy_without_a_tunnel_that_wants_a_login(
    authority: Authority, tmp_path: Path
) -> None:
    """A 407 is the proxy's, not the host's."""
    place = await a_place(tmp_path)
    async with behind(authority, tls=False, login="other:login") as (host, _, way):
        with pytest.raises(DownloadError, match=r"through the proxy .* password") as caught:
            await fetch(host.url, place, api_url=API, way=way, attempts=1)
    assert not isinstance(caught.value, LinkRefused)
    assert not shows_the_password(caught.value, way)


async def test_a_proxy_that_is_not_there(authority: Authority, tmp_path: Path) -> None:
    """It is not gone past."""
    place = await a_place(tmp_path)
    async with behind(authority) as (host, _, _way):
        way = Way.of(read_proxy("127.0.0.1:1", "proxy"), authority.ca_file)
        with pytest.raises(
            DownloadError, match=r"through the proxy 127\.0\.0\.1:1: cannot connect"
        ):
            await fetch(host.url, place, api_url=API, way=way, attempts=1)
    assert host.asked == []


async def test_a_certificate_that_is_not_trusted(authority: Authority, tmp_path: Path) -> None:
    """What to do is said."""
    place = await a_place(tmp_path)
    async with behind(authority) as (host, _, way):
        with pytest.raises(LinkRefused, match=r"test is not trusted: .*KIE_CA_FILE") as caught:
            await fetch(host.url, place, api_url=API, way=Way(way.proxy))
    assert host.asked == []
    assert not shows_the_password(caught.value, way)


# --- Private networks ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "link",
    [
        "https://10.0.0.1/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[fd00::1]/x",
        "https://intranet/x",
        "https://printer.local/x",
        "https://metadata.google.internal/x",
        "http://localhost:1/x",
        "http://0x7f.1/",
    ],
)
async def test_a_proxy_is_asked_for_nothing_private(
    authority: Authority, tmp_path: Path, link: str
) -> None:
    """It may stand in a network whose doors are open to it."""
    place = await a_place(tmp_path)
    async with behind(authority) as (_, proxy, way):
        with pytest.raises(LinkRefused, match="private network"):
            await fetch(link, place, api_url=API, way=way)
    assert proxy.asked == []


async def test_a_redirect_is_looked_at_behind_a_proxy_too(
    authority: Authority, tmp_path: Path
) -> None:
    """Each step of it."""
    place = await a_place(tmp_path)
    moved = http(b"", "Location: http://10.0.0.1/x", status="302 Found")
    async with answering(moved) as there, proxying(leads={HOST: there.port}) as proxy:
        with pytest.raises(LinkRefused, match=r"10\.0\.0\.1 is in a private network"):
            await fetch(f"http://{HOST}/x", place, api_url=API, way=Way(proxy.value))
    assert proxy.targets == [f"GET http://{HOST}/x"]


async def test_the_proxys_own_place_may_be_private() -> None:
    """A company's proxy is in its own network; only that very port of it is let through."""
    names = Names(proxy="10.0.0.1", files="1.1.1.1")
    guard = Guard(API, names, ("proxy.corp.test", 3128))
    found = await guard.resolve("proxy.corp.test", 3128)
    assert [one["host"] for one in found] == ["10.0.0.1"]
    with pytest.raises(PrivateAddress):
        await guard.resolve("proxy.corp.test", 443)
    for proxied in (True, False):
        with pytest.raises(PrivateAddress):
            await guard.check(URL("https://Proxy.corp.test:3128/x"), proxied=proxied)
    await guard.check(URL("https://files.test/x"), proxied=True)


async def test_names_are_the_proxys_to_look_up(authority: Authority, tmp_path: Path) -> None:
    """Nobody else is asked: behind a proxy there may be no names of the internet at all."""
    async with behind(authority) as (host, proxy, _):
        names = Names(proxy="127.0.0.1")
        place = f"proxy.corp.test:{proxy.port}"
        way = Way.of(read_proxy(f"http://{LOGIN}@{place}", "proxy"), authority.ca_file)
        assert way.proxy is not None
        guard = Guard(API, names, way.proxy.place)
        session = open_session(None, resolver=guard)
        try:
            async with session.get(host.url, **way.options(URL(host.url))) as response:
                assert await response.read() == host.content
        finally:
            await session.close()
    assert names.asked == ["proxy.corp.test"]


@pytest.mark.parametrize(
    ("variable", "goes"),
    [("HTTPS_PROXY", True), ("ALL_PROXY", True), ("AWS_PROXY_URL", True), ("KIE_PROXY", False)],
)
async def test_object_stores_have_variables_of_their_own(
    monkeypatch: pytest.MonkeyPatch, variable: str, goes: bool
) -> None:
    """Their client library follows the environment's proxies, and does not know ours."""
    obstore = pytest.importorskip("obstore")
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "x"}
    async with proxying(answer=b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n") as proxy:
        for name, value in {**keys, variable: proxy.url}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:1")
        bucket = Connector.at("s3://bucket/prefix", {}).connect(1.0, retries=0)
        with pytest.raises(obstore.exceptions.BaseError):
            await obstore.head_async(bucket, "x")
        assert ("CONNECT 127.0.0.1:1" in proxy.targets) is goes
