"""The command line behind a proxy and an authority, and the file that its hints name again."""

from __future__ import annotations

import asyncio
import importlib.util
import shlex
from collections.abc import Iterator
from pathlib import Path

import anyio.from_thread
import attrs
import pytest
from cli_support import KEY, Shell, complaint
from cli_support import serving as simulating
from proxy_support import RealProxy, proxying
from support import http, read_request, serving
from tls_support import authority_in

HOST = "api.test"
BALANCE = http(b'{"code":200,"data":42}')


@attrs.frozen
class Network:
    """An API host with TLS, which only a proxy leads to.

    Attributes:
        proxy: The proxy; it wants a login.
        ca_file: Who has signed the host's certificate.
        port: The host's.
    """

    proxy: RealProxy
    ca_file: Path
    port: int


@pytest.fixture
def network(shell: Shell, tmp_path: Path) -> Iterator[Network]:
    authority = authority_in(tmp_path)
    shell.patch.setenv("KIE_API_KEY", KEY)
    shell.patch.setenv("KIE_BASE_URL", f"https://{HOST}")

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(BALANCE)
        await writer.drain()

    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(
            serving(handle, ssl=authority.serves(HOST, "127.0.0.1"))
        ) as host,
        portal.wrap_async_context_manager(
            proxying(leads={HOST: host.port}, login="fox:hush")
        ) as proxy,
    ):
        yield Network(proxy, authority.ca_file, host.port)


def test_a_proxy_and_an_authority_from_the_environment(shell: Shell, network: Network) -> None:
    """``KIE_PROXY`` with a password, and ``KIE_CA_FILE``."""
    shell.patch.setenv("KIE_PROXY", f"http://fox:hush@{network.proxy.at}")
    shell.patch.setenv("KIE_CA_FILE", str(network.ca_file))
    result = shell("credits")
    assert result.out == "42\n", result.err
    assert network.proxy.targets == [f"CONNECT {HOST}:443"]


def test_a_proxy_and_an_authority_from_a_file(shell: Shell, network: Network) -> None:
    """The file has no password: the proxy says so, and nothing else is shown."""
    text = f'proxy = "{network.proxy.url}"\nca_file = "{network.ca_file.name}"\n'
    (network.ca_file.parent / "ours.toml").write_text(text)
    result = shell("--config", str(network.ca_file.parent / "ours.toml"), "credits")
    assert result.code == 3
    assert "wants a user name and a password" in result.err
    assert "HTTP 407" in result.err
    network.proxy.login = None
    result = shell("--config", str(network.ca_file.parent / "ours.toml"), "credits")
    assert result.out == "42\n", result.err


def test_the_file_of_others_does_not_lead_through_a_proxy(shell: Shell, network: Network) -> None:
    """One that merely lies in the working directory."""
    (shell.folder / "kie-mj.toml").write_text(f'proxy = "{network.proxy.url}"\n')
    assert "may come from others" in complaint(shell("credits"))
    assert network.proxy.asked == []


def test_an_authority_without_a_proxy(shell: Shell, network: Network) -> None:
    """The error without it says what to do, and that helps."""
    shell.patch.setenv("KIE_BASE_URL", f"https://127.0.0.1:{network.port}")
    line = complaint(shell("credits"), code=3)
    assert "not trusted" in line
    assert "KIE_CA_FILE" in line
    shell.patch.setenv("KIE_CA_FILE", str(network.ca_file))
    assert shell("credits").out == "42\n"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("KIE_PROXY", "socks5://fox:hush@proxy.test:1080", "KIE_PROXY: not a proxy's URL"),
        ("ALL_PROXY", "socks5://proxy.test:1080", "ALL_PROXY: not a proxy's URL"),
        ("KIE_CA_FILE", "nowhere.pem", "ca_file: nowhere.pem cannot be read"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_sent(
    shell: Shell, network: Network, variable: str, value: str, words: str
) -> None:
    """One line, exit code 2, no password."""
    shell.patch.setenv(variable, value)
    commands = [["credits"], ["generate", "a fox", "--out", "out", "--yes"]]
    if importlib.util.find_spec("dbos") is not None:
        commands.append(["worker", "--out", "out", "--database-url", "postgresql://127.0.0.1:1/d"])
    for command in commands:
        line = complaint(shell(*command))
        assert words in line
        assert "hush" not in line
    assert not (shell.folder / "out").exists()


def test_where_they_come_from_is_shown(shell: Shell) -> None:
    """With the password masked; other programs' variables by their own names."""
    shell.patch.setenv("KIE_PROXY", "fox:hush@proxy.test:3128")
    shell.patch.setenv("NO_PROXY", "intranet.test,10.0.0.0/8")
    (shell.folder / "ours.toml").write_text('ca_file = "ca.pem"\n')
    result = shell("--config", "ours.toml", "config")
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in result.out.splitlines()}
    assert lines["proxy"] == ["fox:***@proxy.test:3128", "KIE_PROXY"]
    assert lines["no_proxy"] == ["intranet.test,10.0.0.0/8", "NO_PROXY"]
    assert lines["ca_file"] == [
        str(shell.folder / "ca.pem"),
        f"{shell.folder / 'ours.toml'}, line 1",
    ]
    shell.patch.delenv("KIE_PROXY")
    shell.patch.setenv("HTTPS_PROXY", "http://fox:hush@proxy.test")
    told = shell("config", "--json")
    assert told.told["settings"]["proxy"] == {
        "value": "http://fox:***@proxy.test",
        "source": "HTTPS_PROXY",
    }
    assert "hush" not in result.out + told.out


def test_other_programs_proxy_is_no_hindrance_to_a_simulator(shell: Shell) -> None:
    """Neither to one inside the process nor to one of this machine."""
    shell.patch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    shell.patch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert shell("generate", "a fox", "--out", "out", "--simulate").code == 0
    with simulating() as service:
        shell.use(service)
        assert shell("generate", "a fox", "--out", "o2", "--yes").code == 0


@pytest.mark.parametrize("name", ["ours.toml", "our settings.toml"])
def test_hints_name_the_file_again(shell: Shell, name: str) -> None:
    """What to do next is to be done with the same settings."""
    (shell.folder / name).write_text("in_flight = 5\n")
    with simulating("create.drop-reply=#1") as service:
        shell.use(service)
        run = shell("--config", name, "generate", "a fox", "--out", "out", "--yes")
        assert run.code == 4
        status = shell("--config", name, "status", "out")
        assert f"  kie-mj --config {shlex.quote(name)} resolve out --retry  " in status.out
        assert "kie-mj resolve" not in run.err + status.out
        retried = shell("--config", name, "resolve", "out", "--retry")
        assert f"kie-mj --config {shlex.quote(name)} resume out" in retried.err
        shell.patch.setenv("KIE_CONFIG", name)
        plain = shell("status", "out")
    assert "kie-mj resume out" in plain.out
    assert "--config" not in plain.out
