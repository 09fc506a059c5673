"""A real S3-compatible server for tests: localbucket in threads of this process, on loopback.

It checks no credentials and keeps no attributes of objects; both are added here, and it can be told to
refuse, to wait, or to ignore conditions.
"""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import attrs
import localbucket  # type: ignore[import-untyped]

from kie_mj_async.archive import object_upload
from kie_mj_async.archive.object_store import ObjectStore
from kie_mj_async.archive.parts import PartFile

ACCESS_KEY = "AKIAFAKEFAKEFAKE0001"
SECRET = "fake+secret/0123456789abcdefghijklmnopqr"

CHUNK = 5 << 20
"""Bytes of a part in most tests: the smallest that the protocol allows."""

LARGE = 2 * CHUNK + 1234
"""Bytes that go as three parts."""

WHOLE = object_upload.WHOLE

Written = Callable[[bytes], PartFile]
"""Makes a finished part file of a content."""


def name(extension: str, attempt: int) -> str:
    """A final name."""
    return f"fox{'' if attempt == 1 else f'-{attempt}'}{extension}"


def video(size: int, seed: int = 0) -> bytes:
    """What looks like an MP4."""
    return b"\0\0\0\x10ftypisom\0\0\0\0" + random.Random(seed).randbytes(size - 16)


def digest(content: bytes) -> str:
    """Its SHA-256, in hex."""
    return hashlib.sha256(content).hexdigest()


@attrs.frozen
class Seen:
    """A request that came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: Message

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def sends_part(self) -> bool:
        return self.method == "PUT" and "partNumber" in self.query

    @property
    def copies(self) -> bool:
        return "x-amz-copy-source" in self.headers

    @property
    def creates(self) -> bool:
        """Whether an object comes under its name with this request."""
        if self.method == "PUT":
            return "partNumber" not in self.query
        return self.method == "POST" and "uploadId" in self.query


Watch = Callable[[Seen], int | None]


class Shelf:
    """The server, with one bucket called ``shelf``.

    Attributes:
        folder: The bucket's objects are the files in it.
        requests: What has come in.
        on_request: Called in the server's threads before a request is answered; may wait. A status
            it returns is the answer.
        on_reply: Called before the status of an answer goes out; ``False`` cuts the connection instead.
        access_key: The only one that is let in.
        ignores: Whether a request's ``If-None-Match`` is ignored.
    """

    def __init__(self, data: Path) -> None:
        self.folder = data / "shelf"
        self.folder.mkdir(parents=True)
        self.requests: list[Seen] = []
        self.on_request: Watch = lambda _seen: None
        self.on_reply: Callable[[Seen, int], bool] = lambda _seen, _status: True
        self.access_key = ACCESS_KEY
        self.ignores: Callable[[Seen], bool] = lambda _seen: False
        self.labels: dict[str, dict[str, str]] = {}
        self.promised: dict[str, dict[str, str]] = {}
        self._uploads = data / localbucket.UPLOADS_DIR
        self._handler = type("Handler", (_Handler,), {"data_root": data, "shelf": self})
        self._server: _Server
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that lead to it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    @property
    def unfinished(self) -> list[str]:
        """Uploads in parts that were neither completed nor taken back."""
        if not self._uploads.is_dir():
            return []
        # An upload that was taken back may leave an empty folder behind for a part that came late.
        return [entry.name for entry in self._uploads.iterdir() if (entry / "upload.json").exists()]

    @property
    def names(self) -> list[str]:
        """The objects."""
        return sorted(
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if path.is_file() and not path.name.startswith(localbucket.TEMP_PREFIX)
        )

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self.port), self._handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """End it; connections are cut."""
        self._server.shutdown()
        self._server.server_close()
        self._server.cut()

    def store(self, prefix: str = "", **config: Any) -> ObjectStore:
        """The store at a prefix of it."""
        settings: dict[str, Any] = {
            "patience": 1.0,
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET,
            "allow_http": True,
        }
        return ObjectStore.from_url(f"s3://shelf/{prefix}", **{**settings, **config})

    def wrote(self, name: str) -> list[Seen]:
        """The requests that brought an object under a name."""
        return [seen for seen in self.requests if seen.creates and seen.name == name]


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        super().__init__(address, handler)
        self._connections: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.append(connection)
        return connection, address

    def cut(self) -> None:
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, _request: object, _address: object) -> None:
        """Connections that clients leave are no news."""


class _Handler(localbucket.S3Handler):  # type: ignore[misc]
    shelf: Shelf
    seen: Seen
    wbufsize = -1  # one packet for the headers

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        url = urlsplit(self.path)
        query = {key: each[0] for key, each in parse_qs(url.query, keep_blank_values=True).items()}
        headers = cast("Message", self.headers)
        self.seen = Seen(self.command, unquote(url.path), query, headers)
        self.shelf.requests.append(self.seen)
        status = self.shelf.on_request(self.seen)
        if status is None and f"Credential={self.shelf.access_key}/" not in headers.get(
            "Authorization", ""
        ):
            status = 403
        if status is not None:
            self.rfile.read(int(headers.get("Content-Length") or 0))
            code = {403: "InvalidAccessKeyId", 503: "SlowDown"}.get(status, "Trouble")
            body = f"<Error><Code>{code}</Code><Message>{headers}</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            self.wfile.flush()
            return False
        if self.shelf.ignores(self.seen):
            del headers["If-None-Match"]
        return True

    def send_response(self, code: int, message: str | None = None) -> None:
        seen, shelf = self.seen, self.shelf
        if code == 200:
            given = {
                name.lower(): value
                for name, value in seen.headers.items()
                if name.lower().startswith("x-amz-meta-") or name.lower() == "content-type"
            }
            if seen.method == "POST" and "uploads" in seen.query:
                shelf.promised[seen.path] = given
            elif seen.method == "POST":
                shelf.labels[seen.path] = shelf.promised.pop(seen.path, {})
            elif seen.creates and not seen.copies:
                shelf.labels[seen.path] = given
        if not shelf.on_reply(seen, code):
            raise ConnectionAbortedError
        super().send_response(code, message)

    def send_header(self, keyword: str, value: str) -> None:
        labels = self.shelf.labels.get(self.seen.path, {})
        if self.seen.method in ("GET", "HEAD") and keyword == "ETag":
            for name in labels:
                if name != "content-type":
                    super().send_header(name, labels[name])
        if self.seen.method in ("GET", "HEAD") and keyword == "Content-Type":
            value = labels.get("content-type", value)
        super().send_header(keyword, value)


@contextmanager
def shelf_in(data: Path) -> Iterator[Shelf]:
    """A server that has its bucket in a folder."""
    made = Shelf(data)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def stored(shelf: Shelf, path: str) -> bytes:
    """The content of an object."""
    return (shelf.folder / path).read_bytes()


def part_of(folder: Path, content: bytes) -> PartFile:
    """A finished part file."""
    folder.mkdir(exist_ok=True)
    part = PartFile(folder / f"{len(list(folder.iterdir()))}-{threading.get_ident()}.part")
    for at in range(0, len(content), 1 << 20):
        part.write(content[at : at + (1 << 20)])
    return part
