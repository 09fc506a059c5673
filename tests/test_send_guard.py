"""A real process that freezes between its slot and its create's first byte sends nothing.

One that freezes behind it finds the answer that came meanwhile.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest
from support import KEY

from kie_mj_async.account import FileSlots, Taken, Window
from kie_mj_async.rules.pacing import Rate

pytestmark = pytest.mark.anyio
ROOT = str(Path(__file__).parent.parent)
RATE = Rate(1, 0.2)
GIVES_UP_AFTER, STALE_AFTER = 0.5, 0.5

SENDER = f"""
import sys, anyio
sys.path.insert(0, {ROOT!r})
from pathlib import Path
from kie_mj_async.account import FileSlots, Window
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules.pacing import Rate
from kie_mj_async.transport import Transport
from kie_mj_async.secret import Secret

async def main():
    path, url = sys.argv[1:]
    window = Window(FileSlots(Path(path)), Rate(1, 0.2),
                    gives_up_after={GIVES_UP_AFTER}, stale_after={STALE_AFTER})
    async with Transport(url, Secret({KEY!r}), request_timeout=2.0) as api:
        taken = await window.take()
        end = await api.create(TextToImage("a fox"), may_send=lambda: window.fresh(taken))
        print(end, flush=True)

anyio.run(main)
"""


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for this machine, and a server's context with it."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


@pytest.mark.parametrize("frozen", [True, False])
async def test_a_process_that_froze_inside_the_handshake(tmp_path: Path, frozen: bool) -> None:
    """Its slot has become another's meanwhile, so it sends nothing; one that was quick does."""
    cert, context = certificate(tmp_path)
    path = tmp_path / "slots.sqlite3"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        url = f"https://127.0.0.1:{server.getsockname()[1]}"
        process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", SENDER, str(path), url],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "SSL_CERT_FILE": str(cert)},
        )
        try:
            link, _ = server.accept()
            if frozen:
                process.send_signal(signal.SIGSTOP)
                other = Window(
                    FileSlots(path), RATE, gives_up_after=GIVES_UP_AFTER, stale_after=STALE_AFTER
                )
                deadline = time.monotonic() + 10
                while not isinstance(await other.take(), Taken):
                    assert time.monotonic() < deadline
                    await anyio.sleep(0.02)
                await other.aclose()
                process.send_signal(signal.SIGCONT)
            with context.wrap_socket(link, server_side=True) as connection:
                connection.settimeout(20)
                seen = connection.recv(100_000)
            output, _ = process.communicate(timeout=20)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0
    if frozen:
        assert seen == b""
        assert "held=True" in output
    else:
        assert seen.startswith(b"POST /api/v1/mj/generate ")
        assert "sent=True" in output


async def test_a_process_that_froze_while_its_answer_came_reads_it(tmp_path: Path) -> None:
    """However long it was frozen: what is paid is in that answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", SENDER, str(tmp_path / "slots.sqlite3"), url],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            link, _ = server.accept()
            with link:
                link.settimeout(20)
                seen = link.recv(100_000)
                process.send_signal(signal.SIGSTOP)
                link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npaid 1")
                await anyio.sleep(2.5)
                process.send_signal(signal.SIGCONT)
                output, _ = process.communicate(timeout=20)
        finally:
            process.kill()
            process.communicate()
    assert seen.startswith(b"POST /api/v1/mj/generate ")
    assert "paid 1" in output
