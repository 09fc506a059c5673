"""Callbacks on the command line: ``--callback-url`` with ``--listen``."""

from __future__ import annotations

import socket

import pytest
from cli_support import Shell, complaint, pictures, serving
from crash_runs import free_port

PROMPTS = [f"a fox, number {n}" for n in range(12)]


def addressed() -> list[str]:
    """The options of a run that callbacks come to."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/behind/a/proxy?mine=1"
    return ["--callback-url", url, "--listen", f"127.0.0.1:{port}"]


@pytest.mark.parametrize("key", [None, "the webhook key"])
def test_callbacks_save_the_polls(shell: Shell, key: str | None) -> None:
    """Signed or by their tokens alone: one poll a job, and everything is saved."""
    prompts = shell.write("prompts.txt", *PROMPTS)
    with serving(webhook_key=key) as service:
        shell.use(service)
        if key is not None:
            shell.patch.setenv("KIE_WEBHOOK_KEY", key)
        ended = shell("render", prompts, "--out", "r", "--yes", *addressed())
        books = service.books
    assert ended.code == 0, ended.err
    assert "Callbacks are received at http://127.0.0.1:" in ended.err
    assert len(pictures(shell.folder / "r")) == 48
    assert len(books["callbacks"]) == 12
    assert books["poll_total"] <= 12
    assert "refused" not in ended.err


def test_a_lost_reply_is_found_again(shell: Shell) -> None:
    """Creates whose replies were dropped are found by their callbacks; nothing is paid twice."""
    prompts = shell.write("prompts.txt", *PROMPTS)
    with serving("create.drop-reply=#2+5+9") as service:
        shell.use(service)
        ended = shell("render", prompts, "--out", "r", "--yes", "--json", *addressed())
        books = service.books
    assert ended.code == 0, ended.err
    told = ended.told
    assert (told["saved"], told["unresolved"], told["credits"]) == (12, 0, 300)
    assert books["charged_total"] == 300
    assert "its create was not answered" in ended.err


def test_a_resume_listens_too(shell: Shell) -> None:
    """What an earlier run lost is found when its callback comes to a later one."""
    prompts = shell.write("prompts.txt", *PROMPTS[:2])
    where = addressed()
    with serving("create.drop-reply=#1", webhook_key="k", scale=0.01) as service:
        shell.use(service)
        shell.patch.setenv("KIE_WEBHOOK_KEY", "k")
        # The callback that comes when nobody listens is repeated after a minute (0.6 s here).
        first = shell("render", prompts, "--out", "r", "--yes", *where[:2])
        assert first.code == 4, first.err
        again = shell("resume", "r", "--yes", "--json", *where[2:], "--timeout", "20")
    assert again.code == 0, again.err
    assert again.told["saved"] == 2


def test_a_webhook_key_of_the_account_is_none_of_the_simulators(shell: Shell) -> None:
    """``--simulate`` never uses what belongs to the real account."""
    shell.patch.setenv("KIE_WEBHOOK_KEY", "real")
    prompts = shell.write("prompts.txt", *PROMPTS[:2])
    ended = shell("render", prompts, "--out", "r", "--simulate", *addressed())
    assert ended.code == 0, ended.err
    assert "refused" not in ended.err


def test_a_strangers_callback_is_counted(shell: Shell) -> None:
    """The service signs with another key: it is refused, told, and the run goes on by polling."""
    prompts = shell.write("prompts.txt", *PROMPTS[:2])
    with serving(webhook_key="theirs") as service:
        shell.use(service)
        shell.patch.setenv("KIE_WEBHOOK_KEY", "ours")
        ended = shell("render", prompts, "--out", "r", "--yes", *addressed())
    assert ended.code == 0, ended.err
    assert "callbacks refused: not signed, or unknown" in ended.err


def test_listening_needs_an_address_to_be_reached_at(shell: Shell) -> None:
    prompts = shell.write("prompts.txt", "a fox")
    ended = shell("render", prompts, "--out", "r", "--simulate", "--listen", "127.0.0.1:0")
    assert "--callback-url" in complaint(ended)


@pytest.mark.parametrize(
    "address", ["8080", "localhost:", "localhost:http", "localhost:99999", ":1"]
)
def test_an_address_that_is_none(shell: Shell, address: str) -> None:
    ended = shell("resume", "r", "--listen", address)
    assert "HOST:PORT" in complaint(ended)


def test_a_port_that_is_taken(shell: Shell) -> None:
    """It is said before anything is spent."""
    prompts = shell.write("prompts.txt", "a fox")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        where = ["--callback-url", f"http://127.0.0.1:{port}/", "--listen", f"127.0.0.1:{port}"]
        ended = shell("render", prompts, "--out", "r", "--simulate", *where)
    assert str(port) in complaint(ended)
