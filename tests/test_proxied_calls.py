"""API calls through a real proxy: what a create's end tells, and what the proxy gets to see."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from proxy_support import RealProxy, basic, proxying
from support import KEY, Raw, http, read_request, serving
from tls_support import Authority, authority_in
from transport_support import kept_image, speaking_to

from kie_mj_async.requests import TextToImage
from kie_mj_async.rules import uploads
from kie_mj_async.rules.billing import Accepted, Lost, Silence, Unsent, judge
from kie_mj_async.rules.proxies import read_proxy
from kie_mj_async.rules.wire import Reply
from kie_mj_async.sessions import Way
from kie_mj_async.transport import Transport

pytestmark = pytest.mark.anyio
FOX = TextToImage("a fox")
ACCEPTED = http(b'{"code":200,"data":{"taskId":"t1"}}')
HOST = "api.test"
"""A name that no resolver knows: only a proxy leads there."""
LOGIN = "fox:hu@sh"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority_in(tmp_path_factory.mktemp("authority"))


@attrs.define
class Scene:
    """An API host behind a proxy.

    Attributes:
        api: The calls.
        proxy: The proxy.
        host: The API host.
    """

    api: Transport
    proxy: RealProxy
    host: Raw


@asynccontextmanager
async def behind(
    authority: Authority,
    *,
    says: bytes | None = ACCEPTED,
    way: Way | None = None,
    session: Any = None,
    patience: float = 5.0,
    **proxy: Any,
) -> AsyncIterator[Scene]:
    """A host that says this, or lets the proxy die once it has the request, if that is ``None``."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host.seen.append(await reader.read(1))
        host.seen[-1] += await read_request(reader)
        if says is None:
            made.die()
            return
        writer.write(says)
        await writer.drain()

    async with (
        serving(handle, ssl=authority.serves(HOST)) as host,
        proxying(leads={HOST: host.port}, **proxy) as made,
        speaking_to(
            f"https://{HOST}",
            way=way or Way.of(made.value, authority.ca_file),
            session=session,
            request_timeout=patience,
        ) as api,
    ):
        yield Scene(api, made, host)


# --- What a create's end tells (SECURITY.md, and findings.md, the table) --------------------------


async def test_a_create_goes_through_the_tunnel(authority: Authority) -> None:
    """The proxy sees the host's name and its own login, the host sees the rest; never the reverse."""
    async with behind(authority, login=LOGIN) as scene:
        assert judge(await scene.api.create(FOX)) == Accepted("t1")
    [asked] = scene.proxy.asked
    assert asked.startswith(b"CONNECT api.test:443 HTTP/1.1\r\n")
    assert basic(LOGIN) in asked
    assert KEY.encode() not in asked
    [seen] = scene.host.seen
    assert f"Authorization: Bearer {KEY}".encode() in seen
    assert b"proxy" not in seen.lower()


async def test_each_create_has_a_tunnel_of_its_own(authority: Authority) -> None:
    """A stale tunnel's fate would be unknown; polls may share one."""
    body = b'{"code":200,"data":1}'
    kept = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    async with behind(authority, says=kept) as scene:
        for number in range(1, 4):
            await scene.api.create(FOX)
            assert len(scene.proxy.asked) == number


REFUSING = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ({"login": "other:login"}, "user name and a password, or others (HTTP 407)"),
        ({"answer": REFUSING}, "it made no connection to the host (HTTP 502)"),
        ({"answer": b"HTTP/1.1 403 No\r\n\r\n"}, "it made no connection to the host (HTTP 403)"),
        ({"answer": b"HTTP/1.1 302 x\r\nLocation: http://x.test\r\n\r\n"}, "(HTTP 302)"),
        ({"answer": b""}, "closed before an answer came"),
        ({"answer": b"HTTP/1.1 20"}, "closed before an answer came"),
        ({"answer": b"SSH-2.0-x\r\n\r\n"}, "not an HTTP answer"),
        ({"answer": b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"}, "cannot connect"),
        ({"hangs": True}, "timed out"),
        ({"most": 1}, "cannot connect"),
        ({"most": 400}, "cannot connect"),
    ],
)
async def test_without_a_tunnel_nothing_is_sent(
    authority: Authority, trouble: dict[str, Any], words: str
) -> None:
    """Whatever the proxy does before the host and we have agreed on keys: not sent, safe to repeat."""
    patience = 0.3 if "hangs" in trouble else 5.0
    async with behind(authority, patience=patience, **trouble) as scene:
        way = Way.of(read_proxy(f"http://{LOGIN}@{scene.proxy.at}", "proxy"), authority.ca_file)
        async with speaking_to(f"https://{HOST}", way=way, request_timeout=patience) as api:
            end = await api.create(FOX)
    assert isinstance(end, Silence)
    assert not end.sent
    assert end.reason.startswith(f"through the proxy 127.0.0.1:{scene.proxy.port}: ")
    assert words in end.reason
    assert isinstance(judge(end), Unsent)
    assert scene.host.seen == []
    assert len(scene.proxy.asked) == 1
    assert "\n" not in end.reason
    assert "hu@sh" not in end.reason


async def test_a_proxy_that_is_not_there(authority: Authority) -> None:
    """Nothing is sent, and nobody is asked without it."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{unused.getsockname()[1]}"
        async with speaking_to(f"https://{HOST}", way=Way(read_proxy(at, "proxy"))) as api:
            end = await api.create(FOX)
    assert isinstance(end, Silence)
    assert not end.sent
    assert end.reason.startswith(f"through the proxy {at}: cannot connect to it (")


async def test_a_proxy_that_reads_along_is_not_sent_to(authority: Authority) -> None:
    """One that pretends to be the host, with a certificate that nobody has signed: not sent."""
    async with (
        behind(authority) as scene,
        speaking_to(f"https://{HOST}", way=Way(scene.proxy.value)) as api,
    ):
        end = await api.create(FOX)
    assert isinstance(end, Silence)
    assert not end.sent
    assert "the certificate of api.test is not trusted" in end.reason
    assert "KIE_CA_FILE" in end.reason
    assert scene.host.seen == []


async def test_a_proxy_that_dies_with_the_request_under_way(authority: Authority) -> None:
    """The host has read it: it may have been accepted."""
    async with behind(authority, says=None) as scene:
        verdict = judge(await scene.api.create(FOX))
    assert isinstance(verdict, Lost)
    assert verdict.error.billed == "unknown"
    assert "through the proxy" in str(verdict.error)
    assert len(scene.host.seen) == 1


SOME = [1, 300, 500, 517, 560, 580, 590, 600, 610, 640, 700, 800, 900, 920, 930, 940, 1000, 5000]


@pytest.mark.parametrize("most", [SOME, pytest.param(range(440, 960, 4), marks=pytest.mark.slow)])
async def test_wherever_a_proxy_dies_what_is_not_sent_was_not_seen(
    authority: Authority, most: Any
) -> None:
    """After so many bytes of the tunnel: where the host has seen any of it, it is not "not sent"."""
    ends = []
    for number in most:
        async with behind(authority, most=number) as scene:
            end = await scene.api.create(FOX)
        seen = b"".join(scene.host.seen)
        ends.append("reply" if isinstance(end, Reply) else "sent" if end.sent else "not sent")
        if ends[-1] == "not sent":
            assert seen == b"", number
    assert set(ends) >= {"sent", "not sent"}


async def test_a_create_that_may_no_longer_be_sent(authority: Authority) -> None:
    """It is asked for with the tunnel there: after a no, the host has seen nothing."""
    asked: list[int] = []
    async with behind(authority) as scene:

        def may_send() -> bool:
            asked.append(len(scene.proxy.asked))
            return False

        end = await scene.api.create(FOX, may_send=may_send)
    assert end == Silence(sent=False, reason="it had become too late for it", held=True)
    assert asked == [1]
    assert b"".join(scene.host.seen) == b""


# --- What else goes by it, and what does not -------------------------------------------------------


async def test_all_calls_go_through_it(authority: Authority, tmp_path: Path) -> None:
    """Polls, the balance, fresh links and uploads."""
    fox = kept_image(tmp_path)
    answer = http(b'{"code":200,"success":true,"data":{"downloadUrl":"https://f.test/x"}}')
    async with behind(authority, says=answer) as scene:
        uploads.judge(await scene.api.upload(fox, fox.name), "fox")
        for call in (scene.api.credits, lambda: scene.api.fresh_link("https://f.test/x")):
            with pytest.raises(Exception, match=r"."):
                await call()
    assert set(scene.proxy.targets) == {"CONNECT api.test:443"}
    assert len(scene.host.seen) == 3


@pytest.mark.parametrize("lends", [False, True])
async def test_the_environment_is_a_setting_and_nothing_else(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lends: bool
) -> None:
    """Neither its proxies nor ``.netrc`` are followed by a session itself, a lent one or ours."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {HOST} login other password account\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    async with (
        aiohttp.ClientSession(trust_env=True) as lent,
        behind(authority, session=lent if lends else None) as scene,
    ):
        assert judge(await scene.api.create(FOX)) == Accepted("t1")
        assert isinstance(await scene.api.upload(kept_image(tmp_path), "fox.png"), Reply)
    for seen in scene.host.seen:
        assert seen.count(b"Authorization:") == 1
        assert f"Authorization: Bearer {KEY}".encode() in seen


async def test_this_machine_is_spoken_to_directly() -> None:
    """A simulator needs no proxy, and its calls are not shown to one."""
    async with (
        proxying() as proxy,
        serving(_accepting) as host,
        speaking_to(host.url, way=Way(proxy.value)) as api,
    ):
        assert judge(await api.create(FOX)) == Accepted("t1")
    assert proxy.asked == []


async def _accepting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(ACCEPTED)


async def test_a_proxy_that_speaks_tls(authority: Authority) -> None:
    """``https://`` keeps its login from those on the way to it."""
    inner = RealProxy(login=LOGIN)
    async with (
        serving(_accepting, ssl=authority.serves(HOST)) as host,
        serving(inner.handle, ssl=authority.serves("127.0.0.1")) as outer,
    ):
        inner.leads[HOST] = host.port
        proxy = read_proxy(f"https://{LOGIN}@127.0.0.1:{outer.port}", "proxy")
        async with speaking_to(f"https://{HOST}", way=Way.of(proxy, authority.ca_file)) as api:
            assert judge(await api.create(FOX)) == Accepted("t1")
        inner.die()
    assert inner.targets == ["CONNECT api.test:443"]
