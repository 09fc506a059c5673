"""What several test files share: virtual time's parts, a service in memory, a time-scaled client."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import ssl
import struct
import subprocess
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import attrs

from kie_mj_async import events
from kie_mj_async.account import MemorySlots, Window
from kie_mj_async.archive.directory import Directory
from kie_mj_async.archive.downloader import Downloader
from kie_mj_async.archive.manifest import Manifest
from kie_mj_async.archive.parts import Parts
from kie_mj_async.archive.store import NameOf, Place
from kie_mj_async.client import Client
from kie_mj_async.engine.admission import Admission, Reach
from kie_mj_async.engine.clock import Clock
from kie_mj_async.engine.hints import HintDesk
from kie_mj_async.engine.pipeline import Destination, Pipeline
from kie_mj_async.engine.poll_scheduler import PollScheduler
from kie_mj_async.engine.preparing import Preparer
from kie_mj_async.engine.prospect import Prospect
from kie_mj_async.engine.run import Run
from kie_mj_async.engine.saving import Saver
from kie_mj_async.errors import KieError
from kie_mj_async.jobs import Job, Outcome, SavedFile
from kie_mj_async.ledger import Ledger, MemoryLedger
from kie_mj_async.requests import Request
from kie_mj_async.rules import lifecycle
from kie_mj_async.rules.billing import OnUnknown, Prices, Silence
from kie_mj_async.rules.bodies import call_of
from kie_mj_async.rules.callbacks import token_of
from kie_mj_async.rules.forecast import Forecast
from kie_mj_async.rules.lifecycle import Move
from kie_mj_async.rules.pacing import PollBudget, Rate
from kie_mj_async.rules.wire import Record, Reply, Status
from kie_mj_async.secret import Secret
from kie_mj_async.settings import Settings
from kie_mj_async.simulator import Simulator
from kie_mj_async.testing import VirtualLoop, virtual_clock

VIRTUAL = ("asyncio", {"loop_factory": VirtualLoop})
"""anyio's backend in virtual time."""

KEY = "sk-secret-0123456789abcdef"
SCALE = 0.004
RATE = Rate(20, 10.0)
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def reply(code: int, data: object = None, *, retry_after: float | None = None) -> Reply:
    """An envelope as the service writes it."""
    body = json.dumps({"code": code, "msg": f"code {code}", "data": data}).encode()
    return Reply(200, body, retry_after)


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def picture(shade: int = 0, size: int = 8) -> bytes:
    """A small PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes([shade]) * size) * size)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@attrs.define
class Made:
    """A task of :class:`FakeService`."""

    id: str
    request: Request
    created: float
    lasts: float
    looks: int = 0


class FakeService:
    """The service in memory, in the loop's time. Set ``on_create`` and ``on_record`` to break it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.connecting = 0.0
        self.latency = 0.1
        self.lasts = 60.0
        self.tasks: dict[str, Made] = {}
        self._numbers = itertools.count(1)
        self.log: list[str] = []
        self.creates: list[tuple[float, Request]] = []
        self.polls: list[tuple[float, str]] = []
        self.minted: list[str] = []
        self.uploads: list[str] = []
        self.most_running = 0
        self.on_create: Callable[[int, Request], Reply | Silence | None] = lambda _n, _r: None
        self.on_record: Callable[[Made, int], Record | KieError | None] = lambda _t, _n: None
        self.on_link: Callable[[str], str | KieError] = lambda url: url + "?fresh"
        self.on_upload: Callable[[str], str | KieError] = lambda name: f"http://up.test/{name}"
        self.on_made: Callable[[Made], None] = lambda _task: None

    async def create(
        self, request: Request, *, may_send: Callable[[], bool] = lambda: True
    ) -> Reply | Silence:
        if self.connecting:
            await anyio.sleep(self.connecting)
        if not may_send():
            return Silence(sent=False, reason="too late", held=True)
        self.creates.append((self.clock.monotonic(), request))
        self.log.append("POST")
        number = len(self.creates)
        await anyio.sleep(self.latency)
        answer = self.on_create(number, request)
        if answer is not None:
            return answer
        return reply(200, {"taskId": self.make(request).id})

    def make(self, request: Request, task_id: str | None = None) -> Made:
        """Let a task begin."""
        task = Made(
            task_id or f"t{next(self._numbers)}", request, self.clock.monotonic(), self.lasts
        )
        self.tasks[task.id] = task
        self.most_running = max(self.most_running, self.running)
        self.on_made(task)
        return task

    @property
    def running(self) -> int:
        now = self.clock.monotonic()
        return sum(1 for task in self.tasks.values() if now < task.created + task.lasts)

    async def record(self, task_id: str) -> Record:
        self.polls.append((self.clock.monotonic(), task_id))
        await anyio.sleep(0.01)
        task = self.tasks[task_id]
        task.looks += 1
        answer = self.on_record(task, task.looks)
        if isinstance(answer, KieError):
            raise answer
        return answer or self.truth(task)

    def truth(self, task: Made) -> Record:
        """What is so."""
        now = self.clock.monotonic()
        wall = self.clock.wall() - now
        told: dict[str, Any] = {
            "created_at": moment(wall + task.created),
            "task_type": task.request.task_type,
            "params": call_of(task.request).body,
        }
        if now < task.created + task.lasts:
            return Record(task.id, Status.GENERATING, 0, **told)
        urls = tuple(f"http://files.test/{task.id}/{index}" for index in range(2))
        completed = moment(wall + task.created + task.lasts)
        return Record(task.id, Status.SUCCEEDED, 1, urls, completed_at=completed, **told)

    def failure(self, task: Made) -> Record:
        """That it failed."""
        return Record(task.id, Status.FAILED, 2, error_message="no")

    async def fresh_link(self, url: str) -> str:
        self.minted.append(url)
        await anyio.sleep(0.01)
        answer = self.on_link(url)
        if isinstance(answer, KieError):
            raise answer
        return answer

    async def uploaded(self, name: str) -> str:
        """Take a kept image; a link to it."""
        self.uploads.append(name)
        await anyio.sleep(0.5)
        answer = self.on_upload(name)
        if isinstance(answer, KieError):
            raise answer
        return answer


class FakeDownloader(Downloader):
    """Downloads that take a second and write a small file. Set ``on_fetch`` to break them."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.seconds = 1.0
        self.on_fetch: Callable[[str, int], KieError | None] = lambda _url, _count: None
        self._counts: Counter[str] = Counter()

    async def fetch(
        self, url: str, index: int, into: Place, name_of: NameOf, **_how: object
    ) -> SavedFile:
        self.fetched.append(url)
        self._counts[url] += 1
        await anyio.sleep(self.seconds)
        if (error := self.on_fetch(url, self._counts[url])) is not None:
            raise error
        content = url.encode()
        path = Path(into.store.root) / name_of(".png", 1)
        await anyio.Path(path).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        return SavedFile(
            index, path.name, url, digest, len(content), "image/png", 8, 8, datetime.now(UTC)
        )


class WatchedLedger(MemoryLedger):
    """A ledger in memory that writes each move to a log and can be made to fail."""

    def __init__(self, log: list[str] | None = None) -> None:
        super().__init__()
        self.log: list[str] = [] if log is None else log
        self.on_move: Callable[[Job, Move], KieError | None] = lambda _job, _move: None
        self.seconds = 0.0

    async def record(self, job: Job, move: Move) -> Job:
        if self.seconds:
            await anyio.sleep(self.seconds)
        if (error := self.on_move(job, move)) is not None:
            raise error
        after = await super().record(job, move)
        self.log.append(move.event.value)
        return after


class Rig:
    """An engine in virtual time over a service in memory. Make it inside a running loop."""

    def __init__(
        self,
        *,
        rate: Rate = RATE,
        in_flight: int = 100,
        max_credits: float | None = None,
        on_unknown: OnUnknown = "park",
        ledger: Ledger | None = None,
        service: FakeService | None = None,
        callbacks: bool = False,
    ) -> None:
        self.clock = virtual_clock()
        self.service = service or FakeService(self.clock)
        self.ledger = ledger if ledger is not None else WatchedLedger(self.service.log)
        self.in_flight = in_flight
        self.events: list[events.Event] = []
        self.reach = Reach(self.clock)
        self.window = Window(MemorySlots(self.clock.monotonic), rate, gives_up_after=60.0)
        self.admission = Admission(
            self.window,
            in_flight=in_flight,
            max_credits=max_credits,
            clock=self.clock,
            reach=self.reach,
            chance=lambda: 0.5,
            tell=self.events.append,
        )
        self.forecast = Forecast()
        self.poller = PollScheduler(
            self.service,
            forecast=self.forecast,
            clock=self.clock,
            reach=self.reach,
            budget=PollBudget(5.0, 5.0),
            chance=lambda: 0.5,
        )
        self.downloader = FakeDownloader()
        self.saver = Saver(self.service, self.downloader)
        self.listening = callbacks
        self.tells_after: Callable[[Made], float | None] = lambda task: task.lasts
        """When the service calls back, in seconds after a task was made; ``None`` for never."""
        self.pipeline = self.new_pipeline(self.ledger, on_unknown)
        self.desk = HintDesk(
            self.ledger,
            self.service,
            self.pipeline.preparer,
            self.pipeline.create_ended,
            listening=lambda: self.listening,
            found=self.admission.found,
            tell=self.events.append,
            chance=lambda: 0.5,
        )

    def new_pipeline(self, ledger: Ledger, on_unknown: OnUnknown = "park") -> Pipeline:
        return Pipeline(
            ledger=ledger,
            service=self.service,
            admission=self.admission,
            poller=self.poller,
            saver=self.saver,
            clock=self.clock,
            prices=Prices(),
            preparer=Preparer(ledger, self.service, self.clock, self.service.uploaded),
            on_unknown=on_unknown,
            promised=lambda job: self.listening and job.request.callback_url is not None,
            tell=self.events.append,
        )

    async def callback(self, task: Made, token: str | None = None) -> None:
        """The service tells that a task has ended; by default with the token it was given."""
        self.poller.wake(task.id)
        told = token or token_of(urlsplit(task.request.callback_url or "").query)
        if told is not None:
            await self.desk.take(told, task.id)

    async def intend(self, job: Job) -> Job:
        """The job with a create begun."""
        return await self.ledger.record(job, lifecycle.intent(self.clock.now(), 25))

    async def accept(self, job: Job, task_id: str) -> Job:
        """The job with a task, from an earlier run."""
        job = await self.intend(job)
        return await self.ledger.record(job, lifecycle.accepted(task_id, self.clock.now()))

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    def run(self, out: Path, *, job_timeout: float = 1800.0) -> Run:
        out.mkdir(parents=True, exist_ok=True)
        self.prospect = Prospect(self.forecast, self.admission, self.clock)
        return Run(
            self.pipeline,
            admission=self.admission,
            to=destination(out),
            clock=self.clock,
            in_flight=self.in_flight,
            job_timeout=job_timeout,
            tell=self.events.append,
            hints=self.desk,
            prospect=self.prospect,
        )

    async def render(
        self, out: Path, requests: Sequence[Request] | None, *, job_timeout: float = 1800.0
    ) -> tuple[list[Outcome], KieError | None]:
        """Run a list to its end: the outcomes, and the error that stopped it, if any."""
        run = self.run(out, job_timeout=job_timeout)
        outcomes: list[Outcome] = []

        async def send(outcome: Outcome) -> None:
            outcomes.append(outcome)

        async with self.polling():
            await run.plan(requests)
            try:
                await run.go(send)
            except KieError as error:
                return outcomes, error
        return outcomes, None

    @asynccontextmanager
    async def polling(self) -> AsyncIterator[None]:
        """With the poll loop running."""
        async with anyio.create_task_group() as tasks:

            async def tell(task: Made) -> None:
                if (after := self.tells_after(task)) is not None:
                    await anyio.sleep(after)
                    await self.callback(task)

            tasks.start_soon(self.poller.run)

            def made(task: Made) -> None:
                tasks.start_soon(tell, task)

            if self.listening:
                self.service.on_made = made
            yield
            self.service.on_made = lambda _task: None
            tasks.cancel_scope.cancel()


def place(out: Path) -> Place:
    """A local directory whose part files lie in it too."""
    return Place(Directory(out), Parts(out))


def destination(out: Path) -> Destination:
    return Destination(place(out), Manifest(out))


def most_in(times: Sequence[float], seconds: float) -> int:
    """The most of these times in any half-open window of so many seconds."""
    times = sorted(times)
    most, first = 0, 0
    for last, at in enumerate(times):
        while times[first] <= at - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def scaled(sim: Simulator, scale: float = SCALE, **changes: Any) -> Settings:
    """Settings for a simulator that runs faster than the service."""
    settings = Settings(
        key=Secret(KEY),
        base_url=sim.url,
        host="sim",
        upload_url=sim.url,
        rate=Rate(20, 10 * scale),
        time_scale=scale,
        request_timeout=10.0,
    )
    return attrs.evolve(settings, **changes)


@asynccontextmanager
async def simulated(
    faults: str = "", *, scale: float = SCALE, **options: Any
) -> AsyncIterator[Simulator]:
    """A simulator that is quick."""
    async with Simulator(time_scale=scale, picture_side=64, faults=faults, **options) as sim:
        yield sim


@asynccontextmanager
async def sim_client(
    sim: Simulator,
    scale: float = SCALE,
    on_event: Callable[[events.Event], None] | None = None,
    **changes: Any,
) -> AsyncIterator[Client]:
    """A client for it."""
    async with Client.from_settings(scaled(sim, scale, **changes), on_event=on_event) as client:
        yield client


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until something holds; fail if it does not in time."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.005)


@contextmanager
def server_certificate(folder: Path, *extensions: str) -> Iterator[ssl.SSLContext]:
    """A self-signed certificate, as a server's context."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)]
    command += [word for one in extensions for word in ("-addext", one)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    yield context


@attrs.define
class Raw:
    """A server of raw bytes, and what it was sent."""

    port: int
    seen: list[bytes]
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """One request, whole."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)


@asynccontextmanager
async def serving(handler: Handler, **options: object) -> AsyncIterator[Raw]:
    raw = Raw(0, [])

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw.connections += 1
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, **options)  # type: ignore[arg-type]
    raw.port = server.sockets[0].getsockname()[1]
    try:
        yield raw
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[Raw]:
    """A server that reads a request, says these bytes and closes; again for each connection."""
    left = list(answers)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        raw.seen.append(request)
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()

    async with serving(handle) as raw:
        yield raw


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
