"""``kie-mj.toml``, ``kie-mj config`` and a shell's completion."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cli_support import KEY, SCALE, Shell, complaint, serving
from support import server_certificate

from kie_mj_async.cli import configured, setup
from kie_mj_async.cli.app import cli
from kie_mj_async.settings import Settings

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="users and shells")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own file, which is not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "etc"))
    path = tmp_path / "etc" / "kie-mj-async" / "kie-mj.toml"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, shell: Shell) -> list[Settings]:
    """The settings that clients were made from."""
    seen: list[Settings] = []
    make = partial(Settings, time_scale=SCALE)

    def watched(**options: object) -> Settings:
        seen.append(make(**options))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(setup, "Settings", watched)
    return seen


def sources(shell: Shell, *options: str) -> dict[str, tuple[object, str]]:
    result = shell(*options, "config", "--json")
    assert result.code == 0, result.err
    return {name: (one["value"], one["source"]) for name, one in result.told["settings"].items()}


def test_where_each_setting_comes_from(shell: Shell, own: Path) -> None:
    """The environment, the working directory's file, the user's own, defaults."""
    here = shell.folder / "kie-mj.toml"
    here.write_text('rate = "10/10"\n')
    own.write_text('rate = "1/1"\nbase_url = "https://gateway.example"\nin_flight = 9\n')
    told = sources(shell)
    assert told["rate"] == ("10/10", f"{here}, line 1")
    assert told["in_flight"] == (9, f"{own}, line 3")
    assert told["base_url"] == ("http://127.0.0.1:9", "KIE_BASE_URL")
    assert told["timeout"] == (1800.0, "default")
    shell.patch.delenv("KIE_BASE_URL")
    assert sources(shell)["base_url"] == ("https://gateway.example", f"{own}, line 2")
    assert sources(shell)["upload_url"] == ("https://gateway.example", "default")


def test_a_file_that_is_chosen_is_the_only_one(shell: Shell, own: Path) -> None:
    """``--config``, or ``KIE_CONFIG``; the option counts more."""
    own.write_text("in_flight = 9\n")
    (shell.folder / "one.toml").write_text("timeout = 5\n")
    (shell.folder / "two.toml").write_text("timeout = 6\n")
    shell.patch.setenv("KIE_CONFIG", "two.toml")
    assert sources(shell)["timeout"][0] == 6
    told = sources(shell, "--config", "one.toml")
    assert told["timeout"] == (5, f"{shell.folder / 'one.toml'}, line 1")
    assert told["in_flight"] == (100, "default")


def test_the_table_is_for_people_and_shows_no_secret(shell: Shell) -> None:
    """A line a setting; keys and passwords masked."""
    shell.patch.setenv("KIE_API_KEY", KEY)
    shell.patch.setenv("KIE_DATABASE_URL", "postgresql://fox:hush@db.example/kie")
    result = shell("config")
    lines = {line.split()[0]: line.split()[1:] for line in result.out.splitlines()}
    assert lines["api_key"] == ["***", "KIE_API_KEY"]
    assert lines["webhook_key"] == ["-", "default"]
    assert lines["database_url"] == ["postgresql://fox:***@db.example/kie", "KIE_DATABASE_URL"]
    assert lines["state_dir"] == [str(shell.folder / "state"), "KIE_STATE_DIR"]
    for told in (result, shell("config", "--json")):
        assert "hush" not in told.out + told.err
        assert KEY not in told.out + told.err


def test_options_take_their_defaults_from_the_file(shell: Shell, made: list[Settings]) -> None:
    """And what is on the command line wins."""
    (shell.folder / "prices.toml").write_text("default = 7\n")
    (shell.folder / "ours.toml").write_text(
        'rate = "10/5"\nin_flight = 3\non_unknown = "repeat"\nmax_credits = 500\n'
        'prices = "prices.toml"\nrequest_timeout = 11\npolls_per_second = 2\n'
    )
    with serving() as service:
        shell.use(service)
        shell.patch.setenv("KIE_CONFIG", "ours.toml")
        assert shell("generate", "a fox", "--out", "out", "--yes").code == 0
        assert shell("generate", "a fox", "--out", "o2", "--yes", "--in-flight", "4").code == 0
    first, second = made
    assert (first.rate.creates, first.rate.seconds) == (10, 5.0)
    assert (first.in_flight, first.on_unknown, first.max_credits) == (3, "repeat", 500)
    assert (first.prices.default, first.request_timeout, first.polls_per_second) == (7, 11, 2)
    assert (second.in_flight, second.rate) == (4, first.rate)


def test_hosts_and_state_come_from_the_file_for_one_command(shell: Shell) -> None:
    """They hold wherever a command asks for them, and the environment is as it was afterwards."""
    with serving() as service:
        shell.use(service)
        for name in ("KIE_BASE_URL", "KIE_STATE_DIR"):
            shell.patch.delenv(name)
        text = f'base_url = "{service.url}"\nstate_dir = "mine"\n'
        (shell.folder / "kie-mj.toml").write_text(text)
        before = dict(os.environ)
        assert shell("generate", "a fox", "--out", "out", "--yes").code == 0
        assert dict(os.environ) == before
        assert len(service.creates) == 1
    assert list((shell.folder / "mine").iterdir())


def test_a_fleet_takes_its_database_from_the_file(shell: Shell) -> None:
    """Also the commands below ``cluster``; nothing listens there, which is said without a password."""
    pytest.importorskip("psycopg")
    shell.patch.delenv("KIE_DATABASE_URL", raising=False)
    url = "postgresql://fox:hush@127.0.0.1:1/kie"
    (shell.folder / "kie-mj.toml").write_text(f'database_url = "{url}"\n')
    result = shell("cluster", "status")
    assert result.code != 0
    assert "127.0.0.1" in result.err
    assert "hush" not in result.err


@pytest.mark.parametrize("command", [["config"], ["status", "out"], ["credits", "--simulate"]])
def test_a_bad_file_is_one_line(shell: Shell, command: list[str]) -> None:
    """It names the file and the line, whatever was to be done."""
    path = shell.folder / "kie-mj.toml"
    path.write_text("\nin_flight = 0\n")
    assert f"{path}: line 2: in_flight: 0 is not allowed" in complaint(shell(*command))


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"\xff\xfe", "not UTF-8"), (b"api_key = 'x'", "KIE_API_KEY")],
)
def test_a_chosen_file_that_cannot_be_read(shell: Shell, content: bytes | None, words: str) -> None:
    """It is named, with why."""
    path = shell.folder / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    line = complaint(shell("--config", "mine.toml", "config"))
    assert str(path) in line
    assert words in line


@needs_posix
def test_a_file_of_another_user_is_not_followed(shell: Shell) -> None:
    """In a folder that all may write to, anybody could have put it there."""
    (shell.folder / "kie-mj.toml").write_text("in_flight = 1\n")
    other = os.geteuid() + 1
    shell.patch.setattr(os, "geteuid", lambda: other)
    if other == 1:  # root's files are everybody's
        os.chown(shell.folder / "kie-mj.toml", 2, 2)
    assert "another user" in complaint(shell("config"))
    assert sources(shell, "--config", "kie-mj.toml")["in_flight"][0] == 1


@pytest.mark.parametrize("trouble", ["no home", "no folder", "relative", "not allowed"])
def test_a_place_that_cannot_be_looked_at_has_no_file(shell: Shell, trouble: str) -> None:
    """Nothing is read there, and nothing fails."""

    def fails() -> Path:
        raise (RuntimeError if trouble == "no home" else FileNotFoundError)

    def denied(_path: Path) -> bool:
        raise PermissionError

    (shell.folder / "etc" / "kie-mj-async").mkdir(parents=True)
    (shell.folder / "etc" / "kie-mj-async" / "kie-mj.toml").write_text("in_flight = 3\n")
    if trouble == "not allowed":
        shell.patch.setattr(Path, "is_file", denied)
    elif trouble == "no folder":
        shell.patch.setattr(Path, "cwd", fails)
    else:
        shell.patch.setenv("XDG_CONFIG_HOME", "etc" if trouble == "relative" else "")
        shell.patch.setattr(Path, "home", fails)
    assert sources(shell)["in_flight"] == (100, "default")


def test_every_default_of_the_file_is_an_option_somewhere() -> None:
    """A setting that should fill an option has one of that name."""
    commands = [*cli.commands.values(), *getattr(cli.commands["cluster"], "commands", {}).values()]
    names = {parameter.name for command in commands for parameter in command.params}
    assert set(configured._OPTIONS) <= names


class _Balance(BaseHTTPRequestHandler):
    """Has 42 credits, whatever it is asked."""

    def do_GET(self) -> None:
        body = b'{"code": 200, "msg": "success", "data": 42}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@needs_posix
def test_an_authority_of_ones_own_is_trusted(tmp_path: Path) -> None:
    """``SSL_CERT_FILE`` names its certificate, as for any program that uses OpenSSL."""
    with server_certificate(tmp_path, "subjectAltName=DNS:localhost") as context:
        server = HTTPServer(("127.0.0.1", 0), _Balance)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            env = {**os.environ, "KIE_API_KEY": KEY}
            env["KIE_BASE_URL"] = f"https://localhost:{server.server_port}"
            command = [sys.executable, "-c", STARTER, "credits"]
            trusting = subprocess.run(
                command, env={**env, "SSL_CERT_FILE": str(tmp_path / "cert.pem")},
                cwd=tmp_path, capture_output=True, text=True, timeout=50,
            )  # fmt: skip
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
    assert trusting.stdout == "42\n", trusting.stderr


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
def test_a_shells_completion_is_printed(shell: Shell, kind: str) -> None:
    """Also where a settings' file is broken: a shell's start hangs on none."""
    (shell.folder / "kie-mj.toml").write_text("?")
    result = shell("completion", kind)
    assert result.code == 0
    assert "_KIE_MJ_COMPLETE" in result.out
    assert f"{kind}_complete" in result.out


@needs_posix
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["kie-mj", "conf"], ["config"]),
        (["kie-mj", "render", "--on-u"], ["--on-unknown"]),
        (["kie-mj", "render", "--on-unknown", ""], ["park", "repeat"]),
        (["kie-mj", "cluster", "mig"], ["migrate"]),
    ],
)
def test_bash_completes(tmp_path: Path, words: list[str], expected: list[str]) -> None:
    """A real bash takes the script, and asks the command for what fits."""
    program = tmp_path / "kie-mj"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{STARTER}" "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(kie-mj completion bash)"; declare -F _kie_mj_completion >&2\n'
        f"COMP_WORDS=({' '.join(json.dumps(word) for word in words)}); COMP_CWORD={len(words) - 1}\n"
        '_kie_mj_completion kie-mj; printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert "_kie_mj_completion" in done.stderr
    assert done.stdout.split() == expected


STARTER = "import sys; from kie_mj_async.cli.app import run; sys.exit(run(sys.argv[1:]))"
