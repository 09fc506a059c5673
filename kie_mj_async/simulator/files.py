"""Result files over HTTP: whole, in ranges, and in every broken way that a download can be.

Thin handlers. Whether a file is stored and which fault happens is decided in ``world.py``, which
bytes a range means in ``ranges.py``.
"""

from __future__ import annotations

import gzip
import hashlib
from email.utils import formatdate
from typing import Final

import attrs
from aiohttp import web

from . import ranges
from .shell import ELSEWHERE, SLOW, Service, as_html, hang_up
from .tasks import Task

_TYPES: Final = {"jpeg": "image/jpeg", "png": "image/png", "mp4": "video/mp4"}
_STATUS: Final = {"403": 403, "404": 404, "429": 429, "500": 500, "503": 503, "dead-link": 403}
_PIECES: Final = 10


@attrs.frozen
class _File:
    """A file as a response sends it.

    Args:
        content: All its bytes.
        headers: What describes it.
    """

    content: bytes
    headers: dict[str, str]


class Files:
    """The handlers of result files.

    Args:
        service: What they work on.
    """

    def __init__(self, service: Service) -> None:
        self.service = service

    def routes(self) -> list[web.RouteDef]:
        """Where each handler belongs."""
        return [
            web.get("/m/{name}", self.fetch),
            web.get(ELSEWHERE + "/m/{name}", self.fetch),
            web.get("/f/{token}/{name}", self.fetch),
        ]

    async def fetch(self, request: web.Request) -> web.StreamResponse:
        """A result file."""
        world, now = self.service.world, self.service.clock()
        name, token = request.match_info["name"], request.match_info.get("token")
        if token is not None and not world.is_fresh(token, name, now):
            return _refusal(403)
        moved = request.path.startswith(ELSEWHERE)
        look = world.download(
            name, now, fresh=token is not None, moved=moved, ranged="Range" in request.headers
        )
        await self.service.commit()
        if look.task is None:
            return _refusal(404)
        if look.dead:
            return _refusal(403)
        fault = look.fault
        if fault in _STATUS:
            return _refusal(_STATUS[fault], hint=look.hint)
        match fault:
            case "drop":
                return hang_up(request)
            case "html":
                return as_html(200, "Welcome")
            case "redirect":
                return web.Response(status=302, headers={"Location": f"{ELSEWHERE}/m/{name}"})
        return await self._send(request, await self._file(look.task, name, fault), fault)

    async def _file(self, task: Task, name: str, fault: str | None) -> _File:
        stem, _, ending = name.rpartition(".")
        index = int(stem.rpartition("_")[2])
        content = await self.service.media.content(task, index, changed=fault == "changed")
        headers = {
            "Content-Type": _TYPES[ending],
            "ETag": f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"',
            "Last-Modified": formatdate(task.completes, usegmt=True),
            "Accept-Ranges": "bytes",
        }
        return _File(content, headers)

    async def _send(
        self, request: web.Request, file: _File, fault: str | None
    ) -> web.StreamResponse:
        status, headers, content = 200, dict(file.headers), file.content
        length = len(content)
        if fault not in {"no-range", "gzip", "empty"}:
            try:
                part = ranges.part(
                    request.headers.get("Range"),
                    request.headers.get("If-Range"),
                    headers["ETag"],
                    headers["Last-Modified"],
                    length,
                )
            except ranges.Unsatisfiable:
                return _refusal(416, {"Content-Range": f"bytes */{length}"})
            if part is not None:
                start, stop = part
                if fault == "wrong-range":
                    start = 0 if start else min(1, length - 1)
                    stop = max(stop, start + 1)
                content = content[start:stop]
                status = 206
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{length}"
        match fault:
            case "truncate" | "truncate-silent" | "stall" | "slow":
                return await self._stream(
                    request, web.StreamResponse(status=status), headers, content, fault
                )
            case "empty":
                content = b""
            case "longer":
                content += bytes(512)
            case "gzip":
                content = gzip.compress(content, 1, mtime=0)
                headers["Content-Encoding"] = "gzip"
        return web.Response(status=status, headers=headers, body=content)

    async def _stream(
        self,
        request: web.Request,
        response: web.StreamResponse,
        headers: dict[str, str],
        content: bytes,
        fault: str,
    ) -> web.StreamResponse:
        response.headers.update(headers)
        if fault != "truncate-silent":
            response.content_length = len(content)
        await response.prepare(request)
        if fault == "slow":
            step = -(-len(content) // _PIECES)
            for start in range(0, len(content), step):
                await self.service.pause(SLOW / _PIECES)
                await response.write(content[start : start + step])
            return response
        await response.write(content[: len(content) // 2])
        if fault == "stall":
            await self.service.stall(request)
        elif fault == "truncate":
            hang_up(request)
        return response


def _refusal(
    status: int, headers: dict[str, str] | None = None, *, hint: bool = False
) -> web.Response:
    """What a store of files answers when it does not send one."""
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{status}</Code></Error>'
    response = web.Response(status=status, text=body, content_type="application/xml")
    response.headers.update(headers or {})
    if hint and status in {429, 503}:
        response.headers["Retry-After"] = "1"
    return response
