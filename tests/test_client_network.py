"""A client's way to the service: a proxy, a certificate authority, and a session of the caller's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from file_host import padded
from proxy_support import proxying
from support import KEY, Raw, answering, http, read_request, serving
from tls_support import Authority, authority_in

from kie_mj_async import Client
from kie_mj_async.errors import ConfigError, LedgerError, NotSent

pytestmark = pytest.mark.anyio
HOST = "api.test"
BALANCE = http(b'{"code":200,"data":42}')


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority_in(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIE_API_KEY", KEY)


@asynccontextmanager
async def host(authority: Authority, name: str = "127.0.0.1") -> AsyncIterator[Raw]:
    """An API host with TLS that has a balance; its URL is an http one."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw.seen.append(await read_request(reader))
        writer.write(BALANCE)
        await writer.drain()

    async with serving(handle, ssl=authority.serves(name)) as raw:
        yield raw


def https(raw: Raw) -> str:
    return raw.url.replace("http:", "https:")


# --- Certificates ----------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["argument", "variable"])
async def test_an_authority_of_ones_own(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Its file makes the host trusted, for this client."""
    if by == "variable":
        monkeypatch.setenv("KIE_CA_FILE", str(authority.ca_file))
    ca_file = authority.ca_file if by == "argument" else None
    async with host(authority) as raw, Client(base_url=https(raw), ca_file=ca_file) as client:
        assert await client.credits() == 42


async def test_without_it_the_error_says_what_to_do(authority: Authority) -> None:
    """And nothing is sent."""
    async with host(authority) as raw, Client(base_url=https(raw)) as client:
        with pytest.raises(NotSent, match=r"127\.0\.0\.1 is not trusted: .*issuer.*KIE_CA_FILE"):
            await client.credits()
    assert raw.seen == []


async def test_another_name_is_no_matter_of_authorities(authority: Authority) -> None:
    """The error says so, and gives no wrong advice."""
    async with (
        host(authority, "other.test") as raw,
        Client(base_url=https(raw), ca_file=authority.ca_file) as client,
    ):
        with pytest.raises(NotSent, match="not trusted: IP address mismatch") as caught:
            await client.credits()
    assert "KIE_CA_FILE" not in str(caught.value)


async def test_it_is_trusted_beside_the_systems(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """``SSL_CERT_FILE``, OpenSSL's own variable, stands for the system's: both are trusted."""
    system = authority_in(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(system.ca_file))
    for one in (authority, system):
        async with (
            host(one) as raw,
            Client(base_url=https(raw), ca_file=authority.ca_file) as client,
        ):
            assert await client.credits() == 42


@pytest.mark.parametrize("trouble", ["missing", "folder", "no certificate", "empty", "nul"])
async def test_a_file_that_is_none(tmp_path: Path, trouble: str) -> None:
    """It is said when the client is made, by the setting's name."""
    path = tmp_path / "ca.pem"
    if trouble == "folder":
        path.mkdir()
    elif trouble in ("empty", "no certificate"):
        path.write_text("-----BEGIN CERTIFICATE-----\n" if trouble == "no certificate" else "")
    name = "\0" if trouble == "nul" else str(path)
    with pytest.raises(ConfigError, match=r"^ca_file: .*KIE_CA_FILE"):
        Client(ca_file=name)


async def test_it_holds_on_a_lent_connector_and_for_results(
    authority: Authority, tmp_path: Path
) -> None:
    """For polls on the lent one, creates on their own, and files, wherever these come from."""
    picture = padded(2000)
    seen: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        seen.append(request.split(b" HTTP/")[0])
        if b"/generate" in request:
            writer.write(http(b'{"code":200,"data":{"taskId":"t1"}}'))
        elif b"/record-info" in request:
            writer.write(http(RECORD.replace(b"HOST", https(raw).encode())))
        else:
            writer.write(http(picture))
        await writer.drain()

    async with (
        serving(handle, ssl=authority.serves("127.0.0.1")) as raw,
        aiohttp.ClientSession() as lent,
        Client(base_url=https(raw), ca_file=authority.ca_file, session=lent) as client,
    ):
        made = await client.generate("a fox")
        [path] = await made.save(tmp_path)
    assert Path(path).read_bytes() == picture
    assert {one.split(b"?")[0].rpartition(b"/")[2] for one in seen} == {
        b"generate",
        b"record-info",
        b"fox.png",
    }


RECORD = (
    b'{"code":200,"data":{"taskId":"t1","successFlag":1,"completeTime":1700000000000,'
    b'"createTime":1700000000000,"resultInfoJson":{"resultUrls":[{"resultUrl":"HOST/fox.png"}]}}}'
)


# --- Proxies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["argument", "KIE_PROXY", "HTTPS_PROXY", "all_proxy"])
async def test_a_proxy(authority: Authority, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """By argument, by our variable, or by one that other programs know too."""
    async with host(authority, HOST) as raw, proxying(leads={HOST: raw.port}) as proxy:
        if by != "argument":
            monkeypatch.setenv(by, proxy.url)
        async with Client(
            base_url=f"https://{HOST}",
            ca_file=authority.ca_file,
            proxy=proxy.url if by == "argument" else None,
        ) as client:
            assert await client.credits() == 42
    assert proxy.targets == [f"CONNECT {HOST}:443"]


async def test_no_proxy(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """``"direct"`` for a client, ``NO_PROXY`` for a host."""

    async def resolve(*_args: object, **_options: object) -> object:
        raise OSError(None, "no such name")

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    monkeypatch.setattr(aiohttp.resolver.DefaultResolver, "resolve", resolve)
    async with proxying() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        for argument in ("direct", None):
            async with Client(base_url=f"https://{HOST}:1", proxy=argument) as client:
                with pytest.raises(NotSent, match=r"^the host api\.test is unknown"):
                    await client.credits()
            monkeypatch.setenv("NO_PROXY", "test")
        assert proxy.asked == []


@pytest.mark.parametrize("by", ["argument", "KIE_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("which", ["base_url", "upload_url"])
async def test_the_key_is_shown_to_no_proxy(
    monkeypatch: pytest.MonkeyPatch, by: str, which: str
) -> None:
    """Without TLS it would read it: that is refused when the client is made."""
    proxy = "http://fox:hush@proxy.test:3128"
    if by != "argument":
        monkeypatch.setenv(by, proxy)
    urls = {"base_url": "https://gateway.test", which: "http://gateway.test"}
    with pytest.raises(
        ConfigError, match=r"^proxy: with http://gateway\.test it could read"
    ) as caught:
        Client(proxy=proxy if by == "argument" else None, **urls)  # type: ignore[arg-type]
    assert "hush" not in str(caught.value)
    monkeypatch.setenv("NO_PROXY", "gateway.test")
    Client(proxy=proxy if by == "argument" else None, **urls)  # type: ignore[arg-type]


async def test_a_proxy_for_https_leaves_http_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain gateway is spoken to as before where the environment says ``HTTPS_PROXY``."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    async with answering(BALANCE) as raw, Client(base_url=raw.url) as client:
        assert await client.credits() == 42
    Client(base_url="http://gateway.test")


async def test_a_proxys_password_is_nowhere() -> None:
    """In no repr, no error."""
    client = Client(proxy="http://fox:hush@127.0.0.1:1", base_url="https://api.test")
    told = repr(client) + repr(client._house.settings) + repr(vars(client._house.transport))
    async with client:
        with pytest.raises(NotSent, match=r"^through the proxy 127\.0\.0\.1:1: ") as caught:
            await client.credits()
    told += repr(caught.value) + str(vars(caught.value))
    assert "hush" not in told
    assert "Zm94Omh1c2g=" not in told


# --- A session of the caller's ---------------------------------------------------------------------


@pytest.mark.parametrize("owner", [True, False])
async def test_a_session_is_lent_or_given(owner: bool) -> None:
    """One that is given is closed with the client; one that is lent stays open."""
    async with aiohttp.ClientSession() as session, answering(BALANCE) as raw:
        async with Client(base_url=raw.url, session=session, session_owner=owner) as client:
            assert await client.credits() == 42
            assert not session.closed
        assert session.closed is owner


async def test_a_session_that_is_given_to_a_client_that_cannot_open(tmp_path: Path) -> None:
    """It is closed: nobody else would do that."""
    (tmp_path / "app.sqlite3").mkdir()
    async with aiohttp.ClientSession() as session:
        client = Client(session=session, session_owner=True, ledger=tmp_path / "app.sqlite3")
        with pytest.raises(LedgerError):
            async with client:
                pytest.fail("it was opened")
        assert session.closed


async def test_a_session_that_is_given_to_a_client_that_is_cancelled() -> None:
    """However early."""
    async with aiohttp.ClientSession() as session, answering(BALANCE) as raw:
        client = Client(base_url=raw.url, session=session, session_owner=True)
        opening = asyncio.ensure_future(client.__aenter__())
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        assert session.closed


async def test_a_session_that_is_closed_already() -> None:
    """It is said, and closing it again is no trouble."""
    session = aiohttp.ClientSession()
    await session.close()
    with pytest.raises(RuntimeError, match="session= is closed"):
        async with Client(session=session, session_owner=True):
            pytest.fail("it was opened")


async def test_nothing_to_own() -> None:
    """``session_owner`` without a session is a mistake."""
    with pytest.raises(ConfigError, match="session_owner"):
        Client(session_owner=True)
