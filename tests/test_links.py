"""Links: redirects are followed, each looked at first, a few at most, and with nothing of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import pytest
from support import Raw, answering, http, read_request, server_certificate, serving
from yarl import URL

from kie_mj_async.archive.addresses import Guard
from kie_mj_async.archive.links import MAX_REDIRECTS, LinkRefused, opened
from kie_mj_async.sessions import open_session

pytestmark = pytest.mark.anyio
LOCAL = "http://127.0.0.1"


@asynccontextmanager
async def asking(api: str | None = LOCAL) -> AsyncIterator[tuple[aiohttp.ClientSession, Guard]]:
    """A session that takes any certificate."""
    guard = Guard(api)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as lent:
        session = open_session(lent)
        yield session, guard
        await session.close()


async def ask(
    link: str,
    api: str | None = LOCAL,
    headers: Mapping[str, str] | None = None,
    patience: float = 5.0,
) -> bytes:
    async with (
        asking(api) as (session, guard),
        opened(session, guard, link, headers or {}, patience=patience) as response,
    ):
        return await response.read()


def redirect(location: str, status: str = "302 Found") -> bytes:
    return http(b"elsewhere", f"Location: {location}", status=status)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Temp", "308 Perm"])
async def test_redirects_are_followed(status: str) -> None:
    """Whatever kind of redirect it is, a GET follows it."""
    async with (
        answering(http(b"here")) as there,
        answering(redirect(there.url + "/a?b=c", status)) as first,
    ):
        assert await ask(first.url) == b"here"
    assert there.seen[0].startswith(b"GET /a?b=c HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/there?x=1", "/there?x=1"),
        ("there", "/one/there"),
        ("../there", "/there"),
        ("?y", "/one/two?y"),
        ("//{host}/there", "/there"),
        ("/there#part", "/there"),
        ("/caf\u00e9 au lait", "/caf%C3%A9%20au%20lait"),
        ("/a%2Fb?sig=a%2Fb%2B", "/a%2Fb?sig=a%2Fb%2B"),
    ],
)
async def test_relative_redirects(location: str, target: str) -> None:
    """A Location is read against the link that it came from, and not quoted anew."""
    answers = [b""]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw.seen.append(await read_request(reader))
        writer.write(answers.pop(0))

    async with serving(handle) as raw:
        where = location.format(host=f"127.0.0.1:{raw.port}")
        answers = [redirect(where), http(b"here")]
        assert await ask(f"{raw.url}/one/two") == b"here"
    assert raw.seen[1].split(b" ")[1].decode() == target


@pytest.mark.parametrize(
    "path", ["/a?X-Credential=k%2F2025%2Fs3&sig=a%2Bb%3D", "/a%2fb%7Ec?d=%7e", "/x?a=b+c"]
)
async def test_a_link_is_asked_for_as_it_is(path: str) -> None:
    """A signed link is not written anew: its signature could be over the very spelling."""
    async with answering(http(b"here")) as raw:
        await ask(raw.url + path)
    assert raw.seen[0].split(b" ")[1].decode() == path


async def test_a_link_with_other_letters() -> None:
    """What cannot be sent as it is is quoted."""
    async with answering(http(b"here")) as raw:
        await ask(raw.url + "/f\u00f6x one.png")
    assert raw.seen[0].split(b" ")[1] == b"/f%C3%B6x%20one.png"


async def test_redirects_are_bounded() -> None:
    """A link that leads round and round ends; one that leads far, but not too far, does not."""
    async with answering(redirect("/again")) as raw:
        with pytest.raises(LinkRefused, match=f"more than {MAX_REDIRECTS} redirects"):
            await ask(raw.url)
        assert len(raw.seen) == MAX_REDIRECTS + 1
    async with answering(*[redirect("/again")] * MAX_REDIRECTS, http(b"here")) as raw:
        assert await ask(raw.url) == b"here"


async def test_an_endless_redirect() -> None:
    """The body of a redirect is of no interest, however long it is."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        if b"/there" in request:
            writer.write(http(b"here"))
            return
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /there\r\n\r\n")
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()

    with anyio.fail_after(5):
        async with serving(handle) as raw:
            assert await ask(raw.url) == b"here"


async def test_a_redirect_to_nowhere_is_an_answer() -> None:
    """Without a Location there is nothing to follow."""
    async with (
        answering(http(b"", status="302 Found")) as raw,
        asking() as (session, guard),
        opened(session, guard, raw.url, {}, patience=5.0) as response,
    ):
        assert response.status == 302


@asynccontextmanager
async def secure(folder: Path, answer: bytes) -> AsyncIterator[Raw]:
    """A host with TLS."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw.seen.append(await read_request(reader))
        writer.write(answer)
        await writer.drain()

    with server_certificate(folder) as context:
        async with serving(handle, ssl=context) as raw:
            yield raw


async def test_https_never_leads_down_to_http(tmp_path: Path) -> None:
    """A link that was secret and unaltered on its way does not go on in the open."""
    async with answering(http(b"here")) as there, secure(tmp_path, redirect(there.url)) as first:
        with pytest.raises(LinkRefused, match="from https to http"):
            await ask(first.url.replace("http:", "https:"))
    assert there.seen == []
    assert len(first.seen) == 1


async def test_http_may_lead_up_to_https(tmp_path: Path) -> None:
    """The other way round is fine."""
    async with (
        secure(tmp_path, http(b"here")) as there,
        answering(redirect(there.url.replace("http:", "https:"))) as first,
    ):
        assert await ask(first.url) == b"here"


@pytest.mark.parametrize("user", ["user:secret@", "user@", ":secret@"])
async def test_no_credentials_from_a_redirect(user: str) -> None:
    """Nobody can make us log in somewhere."""
    async with (
        answering(http(b"here")) as there,
        answering(redirect(there.url.replace("//", f"//{user}"))) as first,
    ):
        with pytest.raises(LinkRefused, match="user name") as caught:
            await ask(first.url)
    assert there.seen == []
    assert "secret" not in str(caught.value)


async def test_every_step_gets_the_same_few_headers() -> None:
    """The headers that were asked for go along, and nothing else that could tell who we are."""
    async with answering(http(b"here")) as there, answering(redirect(there.url)) as first:
        await ask(first.url, headers={"Range": "bytes=5-"})
    for request in (*first.seen, *there.seen):
        names = {line.partition(b":")[0].lower() for line in request.split(b"\r\n")[1:] if line}
        assert names == {b"host", b"range", b"user-agent", b"accept", b"accept-encoding"}


@pytest.mark.parametrize("location", ["http://127.0.0.1:{port}/", "http://localhost:{port}/"])
async def test_a_link_into_a_private_network(location: str) -> None:
    """Refused, with the reason, before anything is sent."""
    async with answering(http(b"secret")) as raw:
        link = location.format(port=raw.port)
        with pytest.raises(LinkRefused, match="private network, and the API host is not"):
            await ask(link, api=None)
    assert raw.connections == 0


async def test_a_redirect_into_a_private_network() -> None:
    """Each step is looked at, not the first one alone."""
    async with answering(redirect("http://10.0.0.1/")) as raw, asking() as (session, _):
        host = f"localhost:{raw.port}"

        class Half(Guard):
            async def check(self, url: URL, *, proxied: bool = False) -> None:
                if host not in str(url):
                    await super().check(url)

        with pytest.raises(LinkRefused, match=r"10\.0\.0\.1 is in a private network"):
            async with opened(session, Half(None), f"http://{host}/", {}, patience=5.0):
                pytest.fail("it was opened")
    assert len(raw.seen) == 1


@pytest.mark.parametrize(
    "link",
    [
        "http://127.0.0.1:1/x",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "http://",
        "http://[::1",
        "http://127.0.0.1:99999/",
        "",
        "/x",
        "http://127.0.0.1\r\nX: y/",
    ],
)
async def test_a_link_to_nowhere(link: str) -> None:
    """What cannot be asked asks for a fresh link."""
    with pytest.raises(LinkRefused):
        await ask(link)


@pytest.mark.parametrize(
    "location", ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://", "http://[::1", "data:,x"]
)
async def test_a_redirect_to_nowhere(location: str) -> None:
    """A redirect to what cannot be asked is one of a dead link."""
    async with answering(redirect(location)) as raw:
        with pytest.raises(LinkRefused):
            await ask(raw.url)


async def test_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that takes the request and is silent ends with a time-out."""
    monkeypatch.setattr("kie_mj_async.archive.links.CONNECT_TIMEOUT", 0.05)

    async def handle(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(handle) as raw:
        with pytest.raises(TimeoutError):
            await ask(raw.url, patience=0.05)
