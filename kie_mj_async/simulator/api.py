"""The API's calls over HTTP: creates, record-info, credits, fresh links.

Thin handlers: read the request, let the world decide, commit, render the decision. A fault changes
only the rendering here; what it means for the account is settled in ``world.py`` before.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import web

from . import answers, contract
from .shell import ELSEWHERE, SLOW, Service, as_envelope, as_html, as_json, body_of, hang_up
from .verdicts import REFUSALS, Answer
from .world import plain


class Api:
    """The handlers of the API's calls.

    Args:
        service: What they work on.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.world = service.world

    def routes(self) -> list[web.RouteDef]:
        """Where each handler belongs."""
        creates = [
            web.post(prefix + path, self.create)
            for path in contract.PATHS
            for prefix in ("", ELSEWHERE)
        ]
        return [
            *creates,
            web.get("/api/v1/mj/record-info", self.record_info),
            web.get("/api/v1/chat/credit", self.credit),
            web.post("/api/v1/common/download-url", self.download_url),
            web.get("/simulator/books", self.books),
            web.get("/simulator/health", self.health),
        ]

    async def create(self, request: web.Request) -> web.StreamResponse:
        """A paid call."""
        body = await body_of(request)
        answer = self.world.create(
            request.path.removeprefix(ELSEWHERE),
            body,
            self.service.clock(),
            route=request.path,
            known_key=self.service.has_key(request),
            host=request.host,
        )
        await self.service.commit()
        if answer.early and answer.task_id is not None:
            await self.service.reported(answer.task_id)
        await self.service.create_delay(answer.number)
        return await self._created(request, answer)

    async def _created(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        match answer.fault:
            case "drop" | "drop-reply":
                return hang_up(request)
            case "stall":
                return await self.service.stall(request)
            case "redirect":
                return web.Response(status=307, headers={"Location": ELSEWHERE + request.path})
            case "html":
                return as_html(502, "Bad Gateway")
            case "html-charged":
                return as_html(200, "Welcome")
            case "empty":
                return web.Response()
            case "429-bare":
                return web.Response(status=429, headers=_retry_after(answer.retry_after))
            case "500-charged":
                return as_envelope(*REFUSALS["500"])
            case "slow":
                await self.service.pause(SLOW)
        if answer.task_id is None:
            return as_envelope(answer.code, answer.message, retry_after=answer.retry_after)
        data = {} if answer.fault == "no-id" else {"taskId": answer.task_id}
        code = "200" if answer.fault == "string-code" else 200
        return as_json(answers.envelope(code, answer.message, data), cut=answer.fault == "truncate")

    async def record_info(self, request: web.Request) -> web.StreamResponse:
        """How a task is doing."""
        if not self.service.has_key(request):
            return as_envelope(*REFUSALS["401"])
        task_id = request.query.get("taskId", "")
        look = self.world.poll(task_id, self.service.clock())
        await self.service.commit()
        match look.fault:
            case "401" | "455":
                return as_envelope(*REFUSALS[look.fault])
            case "429":
                return as_envelope(*REFUSALS["429"], retry_after=1 if look.hint else None)
            case "500":
                code, message = REFUSALS["500"]
                return as_json(answers.envelope(code, message), status=500)
            case "html":
                return as_html(503, "Service Temporarily Unavailable")
            case "empty":
                return web.Response()
            case "drop":
                return hang_up(request)
            case "stall":
                return await self.service.stall(request)
            case "slow":
                await self.service.pause(SLOW)
        if look.task is None or look.fault == "null-record":
            return as_json(answers.no_record(), cut=look.fault == "truncate")
        files = look.task.files(self.world.picture_suffix)
        links = [f"http://{request.host}/m/{name}" for name in files]
        record = answers.record(look.task, links, look.fault)
        return as_json(record, cut=look.fault == "truncate")

    async def credit(self, request: web.Request) -> web.StreamResponse:
        """The balance."""
        if not self.service.has_key(request):
            return as_envelope(*REFUSALS["401"])
        self.world.advance(self.service.clock())
        return as_envelope(200, "success", plain(self.world.credits))

    async def download_url(self, request: web.Request) -> web.StreamResponse:
        """A fresh link to a result, as long as the result is stored."""
        if not self.service.has_key(request):
            return as_envelope(*REFUSALS["401"])
        body = await body_of(request)
        url = body.get("url") if isinstance(body, dict) else None
        name = _result_name(url, request.host)
        if name is None:
            return as_envelope(422, "url must be a link to a result of this service")
        now = self.service.clock()
        if self.world.stored(name, now) is None:
            return as_envelope(422, "url is of a result that is not stored")
        link = f"http://{request.host}/f/{self.world.fresh_token(name, now)}/{name}"
        return as_envelope(200, "success", link)

    async def books(self, _request: web.Request) -> web.StreamResponse:
        """What the service has seen."""
        return as_json(self.world.books(self.service.clock()))

    async def health(self, _request: web.Request) -> web.StreamResponse:
        """That it runs."""
        return as_json({"ok": True})


def _retry_after(seconds: float | None) -> dict[str, str]:
    return {} if seconds is None else {"Retry-After": f"{seconds:g}"}


def _result_name(url: object, host: str) -> str | None:
    """The file that a result's link, or a fresh one, leads to."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
    except ValueError:
        return None
    if parts is None or parts.scheme not in {"http", "https"} or parts.netloc != host:
        return None
    folder, _, name = parts.path.rpartition("/")
    return name if folder == "/m" or folder.startswith("/f/") else None
