"""The upload host's calls over HTTP, and the files that were uploaded.

Thin handlers: take the file in, let the world decide, commit, render the decision. Nothing is
fetched from another machine: a URL that leads there is answered with a picture drawn from it.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import aiohttp
from aiohttp import BodyPartReader, web
from anyio import to_thread

from ..requests import is_http_url
from . import inputs, pictures, uploads
from .courier import PATIENCE
from .shelf import Content, TooLarge
from .shell import SLOW, Service, as_html, as_json, body_of, hang_up
from .uploads import Arrival, Outcome

FETCH_TIMEOUT: Final = 30.0
"""Unscaled seconds that fetching a file by its URL may take."""

_PIECE: Final = 2**16
_WORDS: Final = 4096


class _Refused(Exception):
    """The service will not take it; the text says why."""


class UploadApi:
    """The handlers of uploads.

    Args:
        service: What they work on.
        picture_side: Pixels of a picture that stands for one on another machine.
    """

    def __init__(self, service: Service, picture_side: int) -> None:
        self.service = service
        self.world = service.world
        self.shelf = service.shelf
        self._side = picture_side

    def routes(self) -> list[web.RouteDef]:
        """Where each handler belongs."""
        takers = {
            uploads.STREAM: self._stream,
            uploads.BASE64: self._base64,
            uploads.FROM_URL: self._from_url,
        }
        return [
            *(web.post(path, self._handler(path, taker)) for path, taker in takers.items()),
            web.get(uploads.LINKS + "{path:.+}", self.fetch),
        ]

    def _handler(self, call: str, taker: Callable[[web.Request], Any]) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            known = self.service.has_key(request)
            arrival: Arrival | str = ""
            if known:
                try:
                    arrival = await taker(request)
                except _Refused as error:
                    arrival = str(error)
                except TooLarge:
                    arrival = f"file cannot be larger than {self.shelf.limit} bytes"
            outcome = self.world.upload(call, arrival, self.service.clock(), known_key=known)
            await self.service.commit()
            return await self._answer(request, outcome)

        return handle

    async def _answer(self, request: web.Request, outcome: Outcome) -> web.StreamResponse:
        fault = outcome.fault
        match fault:
            case "drop" | "drop-reply":
                return hang_up(request)
            case "stall":
                return await self.service.stall(request)
            case "html":
                return as_html(502, "Bad Gateway")
            case "empty":
                return web.Response()
            case "slow":
                await self.service.pause(SLOW)
        if outcome.upload is None:
            status = outcome.code if outcome.code in {401, 429} else 200
            return as_json(uploads.answer(outcome.code, outcome.message), status=status)
        link = f"http://{request.host}{uploads.LINKS}{quote(outcome.upload.path)}"
        told = uploads.stored(outcome.upload, link, self.world.uploads.life, fault)
        return as_json(told, cut=fault == "truncate")

    async def _stream(self, request: web.Request) -> Arrival:
        """A multipart form; the file goes to the disk as it comes in."""
        if request.content_type != "multipart/form-data":
            raise _Refused("file cannot be empty: the body must be multipart/form-data")
        fields: dict[str, str] = {}
        content: Content | None = None
        declared = None
        try:
            async for part in await request.multipart():
                if not isinstance(part, BodyPartReader):
                    raise _Refused("the body must not hold a multipart of its own")
                if part.name == "file":
                    declared = part.headers.get("Content-Type")
                    content = await self.shelf.take(_pieces(part))
                elif part.name in {"uploadPath", "fileName"}:
                    fields[part.name] = await _words(part)
                else:
                    raise _Refused(f"{part.name} is not a field of this call")
        except ValueError:
            raise _Refused("the body is no multipart/form-data that can be read") from None
        if content is None:
            raise _Refused("file cannot be empty")
        folder, name = _names(fields)
        mime = uploads.media_type(content.head, declared)
        return Arrival(folder, name, content.size, content.sha256, mime)

    async def _base64(self, request: web.Request) -> Arrival:
        """Bytes as a text in JSON, with or without the head of a data URL."""
        # Four letters for three bytes, and room for the rest.
        body = await body_of(request, self.shelf.limit * 4 // 3 + 2**16)
        fields = _checked(body, "base64Data")
        folder, name = _names(fields)
        declared, data = None, fields["base64Data"]
        if data.startswith("data:"):
            head, _, data = data.partition(",")
            declared = head[5:].partition(";")[0]
            if not head.endswith(";base64"):
                raise _Refused("base64Data must be Base64, or a data URL of it")
        try:
            raw = await to_thread.run_sync(_decoded, data)
        except ValueError:
            raise _Refused("base64Data must be Base64, or a data URL of it") from None
        content = await self.shelf.take(_once(raw))
        mime = uploads.media_type(content.head, declared)
        return Arrival(folder, name, content.size, content.sha256, mime)

    async def _from_url(self, request: web.Request) -> Arrival:
        """A file that the service fetches by itself."""
        fields = _checked(await body_of(request, 2**20), "fileUrl")
        url = fields["fileUrl"]
        if not is_http_url(url):
            raise _Refused("fileUrl must be an http or https URL")
        name = fields.get("fileName") or _last(url)
        folder, name = _names({**fields, "fileName": name} if name else fields)
        if inputs.is_loopback(url):
            content, declared = await self._fetched(url)
        else:
            sketch = pictures.Sketch(url, url, self._side, self._side)
            content = await self.shelf.take(_once(await to_thread.run_sync(pictures.draw, sketch)))
            declared = None
        mime = uploads.media_type(content.head, declared)
        return Arrival(folder, name, content.size, content.sha256, mime, url)

    async def _fetched(self, url: str) -> tuple[Content, str | None]:
        seconds = max(PATIENCE, FETCH_TIMEOUT * self.world.time_scale)
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url, allow_redirects=False) as answer,
            ):
                if answer.status != 200:
                    raise _Refused(f"fileUrl could not be fetched: status {answer.status}")
                content = await self.shelf.take(answer.content.iter_chunked(_PIECE))
                return content, answer.content_type
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _Refused(f"fileUrl could not be fetched: {type(error).__name__}") from None

    async def fetch(self, request: web.Request) -> web.StreamResponse:
        """An uploaded file; no key is needed."""
        upload = self.world.uploads.find(request.match_info["path"], self.service.clock())
        path = None if upload is None else self.shelf.path(upload.sha256)
        if upload is None or path is None or not await to_thread.run_sync(path.is_file):
            raise web.HTTPNotFound
        return web.FileResponse(path, headers={"Content-Type": upload.mime})


async def _pieces(part: BodyPartReader) -> AsyncIterator[bytes]:
    while piece := await part.read_chunk(_PIECE):
        yield piece


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _words(part: BodyPartReader) -> str:
    words = b""
    while piece := await part.read_chunk(_WORDS):
        words += piece
        if len(words) > _WORDS:
            raise _Refused(f"{part.name} is too long")
    try:
        return words.decode()
    except UnicodeDecodeError:
        raise _Refused(f"{part.name} must be a text in UTF-8") from None


def _checked(body: Any, content: str) -> dict[str, Any]:
    """The fields of a JSON body that names its content in one of them."""
    if not isinstance(body, dict):
        raise _Refused("the body must be a JSON object")
    fields = {name: value for name, value in body.items() if value is not None}
    for name in fields:
        if name not in {content, "uploadPath", "fileName"}:
            raise _Refused(f"{name} is not a field of this call")
    if not isinstance(fields.get(content), str) or not fields[content].strip():
        raise _Refused(f"{content} cannot be empty")
    return fields


def _names(fields: dict[str, Any]) -> tuple[str, str | None]:
    folder, name = fields.get("uploadPath"), fields.get("fileName")
    if wrong := uploads.complaint(folder, name):
        raise _Refused(wrong)
    assert isinstance(folder, str)  # noqa: S101 - complaint() has seen to it
    return folder, name


def _decoded(data: str) -> bytes:
    return base64.b64decode(data, validate=True)


def _last(url: str) -> str | None:
    """The name a URL ends in, where it can be a file's."""
    name = unquote(urlsplit(url).path.rpartition("/")[2])
    return name if uploads.complaint("x", name) is None else None
