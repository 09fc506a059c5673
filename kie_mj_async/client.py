"""What a user holds: the client.

A client owns the account's traffic: one window, one gate, one poll loop, whatever is started on it.
Its work runs in tasks of its own, so that cancelling a caller never cuts a paid request in two.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, InvalidRequest
from .events import Event
from .jobs import Generation, Job
from .requests import Extend, PromptRequest, Request, Upscale, Vary
from .rules.billing import OnUnknown
from .rules.making import Wishes, single
from .secret import hidden
from .settings import (
    JOB_TIMEOUT,
    MAX_FILE_BYTES,
    STALL_TIMEOUT,
    Settings,
    at_least_one,
    checked_prices,
    checked_rate,
    in_its_time,
    one_of,
    positive,
    surroundings,
)
from .subscribers import BUFFER, EventStream, Listener, Subscription
from .tasks import Task

if TYPE_CHECKING:
    import aiohttp

    from .batch import Batch, Item
    from .engine.house import House
    from .engine.resolving import Decision
    from .receiver import Receiver


class Client:
    """The service, for an asyncio program. Use it with ``async with``.

    Args:
        api_key: The account's key; by default ``KIE_API_KEY`` from the environment.
        base_url: The API host; by default ``KIE_BASE_URL``, else ``https://api.kie.ai``.
        upload_url: The host that takes local images; by default ``KIE_UPLOAD_URL``, else the service's
            own (with another API host: that one).
        webhook_key: The account's webhook key, for :meth:`receiver`; by default ``KIE_WEBHOOK_KEY``.
        proxy: The proxy that all of it goes through, ``http://user:password@host:port``; by default
            ``KIE_PROXY``, else ``HTTPS_PROXY`` or ``ALL_PROXY``, as other programs know them.
            ``"direct"`` for none. What ``NO_PROXY`` lists, and this machine, is spoken to directly.
        ca_file: Certificates (PEM) of authorities to trust beside the system's, such as a company's;
            by default ``KIE_CA_FILE``.
        session: A session of yours whose connector is used for everything but creates, which need a
            connection each. Nothing else of it is used: no headers, cookies, proxy or ``.netrc``;
            ``proxy`` and ``ca_file`` hold on its connector, too.
        session_owner: Whether the session is the client's from the moment that it is opened, and
            closed with it; else it stays yours.
        ledger: A file that makes ``submit`` and ``generate`` durable; by default they are remembered
            only as long as the client lives.
        rate: Creates per seconds, ``(20, 10)`` at the service (kie-api.md, "Limits").
        in_flight: Tasks that may run at once, 1 or more; "typically 100+" at the service.
        on_unknown: What to do about a create that may have been accepted: ``"park"`` it for your
            decision, or ``"repeat"`` it at the risk of paying twice.
        max_credits: A cap on what this client may spend; the job that would pass it is not sent.
        prices: A TOML file of what tasks cost by type and speed; 25 credits each without one.
        state_dir: Where the account's window is kept for all processes; by default
            ``KIE_STATE_DIR``, else the platform's place.
        request_timeout: Seconds an API call may take.
        polls_per_second: Polls that all pending tasks share.
        max_file_bytes: The largest result to accept, 1 GiB by default.
        stall_timeout: Seconds without progress after which a transfer is tried again.
        on_event: Called with each event (``kie_mj_async.events``) of every batch; must not block.

    Raises:
        ConfigError: A setting cannot work.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        upload_url: str | None = None,
        webhook_key: str | None = None,
        proxy: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        session: aiohttp.ClientSession | None = None,
        session_owner: bool = False,
        ledger: str | os.PathLike[str] | None = None,
        rate: tuple[int, float] = (20, 10),
        in_flight: int = 100,
        on_unknown: OnUnknown = "park",
        max_credits: float | None = None,
        prices: str | os.PathLike[str] | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        request_timeout: float = 60.0,
        polls_per_second: float = 5.0,
        max_file_bytes: int = MAX_FILE_BYTES,
        stall_timeout: float = STALL_TIMEOUT,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        # What works comes with the first client: whoever only imports its class need not wait.
        from .engine.house import House

        # Under no plain name, which an error's traceback with locals would show.
        secrets = hidden(api_key), hidden(webhook_key), hidden(proxy)
        del api_key, webhook_key, proxy
        settings = Settings(
            **surroundings(
                api_key=secrets[0],
                base_url=base_url,
                upload_url=upload_url,
                webhook_key=secrets[1],
                state_dir=state_dir,
                proxy=secrets[2],
                ca_file=ca_file,
            ),
            rate=checked_rate(rate),
            in_flight=at_least_one("in_flight", in_flight),
            on_unknown=one_of("on_unknown", on_unknown, ("park", "repeat")),
            max_credits=None if max_credits is None else positive("max_credits", max_credits),
            prices=checked_prices(prices),
            request_timeout=positive("request_timeout", request_timeout),
            polls_per_second=positive("polls_per_second", polls_per_second),
            max_file_bytes=at_least_one("max_file_bytes", max_file_bytes),
            stall_timeout=positive("stall_timeout", stall_timeout),
        )
        if session_owner and session is None:
            raise ConfigError("session_owner: there is no session= to own")
        path = None if ledger is None else Path(ledger)
        self._move_in(
            House(
                in_its_time(settings),
                session=session,
                session_owner=session_owner,
                ledger_path=path,
                tell=on_event,
            )
        )

    @classmethod
    def from_settings(
        cls, settings: Settings, *, on_event: Callable[[Event], None] | None = None
    ) -> Client:
        """A client from settings that were checked elsewhere."""
        from .engine.house import House

        client = cls.__new__(cls)
        client._move_in(House(settings, tell=on_event))
        return client

    def _move_in(self, house: House) -> None:
        from .engine.single import Singles

        self._house = house
        self._singles = Singles(house)

    def __repr__(self) -> str:
        # Also while it is being made: tracebacks with locals ask then.
        house = getattr(self, "_house", None)
        return "Client()" if house is None else f"Client(base_url={house.settings.base_url!r})"

    async def __aenter__(self) -> Client:
        await self._house.open()
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop what is running, cleanly: creates under way end, files being saved get a grace."""
        await self._house.close()

    async def generate(
        self,
        prompt: str | Request,
        *,
        timeout: float = JOB_TIMEOUT,
        key: str | None = None,
        **fields: Any,
    ) -> Generation:
        """Make one thing and wait for it.

        Args:
            prompt: A prompt (of a :class:`TextToImage`), or a request.
            timeout: Seconds to wait for the task, once it is accepted.
            key: A name of yours for this job: where the ledger knows it, its task is taken up again
                instead of paying for another.
            **fields: The request's fields, when ``prompt`` is a text.

        Raises:
            InvalidRequest: A field is out of range; nothing was sent.
            TaskFailed: The service could not make it; it is not charged.
            TaskTimedOut: It was not finished in time; it goes on, ``client.task(error.task_id)``.
            ReplyLost: The create was sent and its fate is unknown (``billed="unknown"``).
            KieError: Anything else of the tree in ``errors.py``.
        """
        patience = positive("timeout", timeout)
        task = await self._submit(single(prompt, fields), key, patience)
        return await task.wait(timeout)

    async def submit(self, prompt: str | Request, *, key: str | None = None, **fields: Any) -> Task:
        """Send one job, and return as soon as the service has accepted it.

        Args and errors: as :meth:`generate`.
        """
        return await self._submit(single(prompt, fields), key, 0.0)

    async def upscale(
        self, task_id: str, index: int, *, key: str | None = None, **fields: Any
    ) -> Task:
        """One of a task's images, larger (kie-api.md, "Follow-up tasks").

        Args:
            task_id: The task, of any day and any process, as long as its results are stored.
            index: Which of its images, from 0.
            key: As for :meth:`submit`.
            **fields: ``watermark``, ``callback_url``.

        Returns:
            The new task, once the service has accepted it.

        Raises:
            InvalidRequest: A field is out of range, or the service refuses the task.
            KieError: As :meth:`submit`.
        """
        return await self.submit(Upscale(task_id, index, **fields), key=key)

    async def vary(
        self, task_id: str, index: int, *, key: str | None = None, **fields: Any
    ) -> Task:
        """Four variations of one of a task's images. Args and errors: as :meth:`upscale`."""
        return await self.submit(Vary(task_id, index, **fields), key=key)

    async def extend(
        self, task_id: str, index: int, *, key: str | None = None, **fields: Any
    ) -> Task:
        """One of a task's videos, longer.

        Args and errors: as :meth:`upscale`; besides ``prompt=`` says how it goes on.
        """
        return await self.submit(Extend(task_id, index, **fields), key=key)

    def receiver(
        self,
        *,
        key: str | None = None,
        path: str | None = "/",
        **options: Any,
    ) -> Receiver:
        """A receiver of the service's callbacks for the tasks of this client.

        Mount it in an aiohttp application of yours, or let it listen by itself; give requests its
        public address as ``callback_url``. From now on tasks with a callback are polled only as a
        safety net, and a create whose reply was lost is found again by its callback.

        Args:
            key: The account's webhook key; by default the client's. Without one the random token in
                each callback's address is what is believed.
            path: Where callbacks come to; ``None`` for any path.
            **options: More of :class:`~kie_mj_async.receiver.Receiver`'s.

        Raises:
            ConfigError: A setting cannot work.
        """
        from .receiver import Receiver

        known = self._house.settings.webhook_key
        receiver = Receiver(
            self._house.deliver,
            key=key or (None if known is None else known.reveal()),
            path=path,
            known_token=self._house.knows,
            **options,
        )
        self._house.listen()
        return receiver

    def subscribe(self, listener: Listener, *, buffer: int = BUFFER) -> Subscription:
        """Have a function told of every event (``kie_mj_async.events``) from now on.

        It can neither hurt nor hold up the work: what it raises is logged, and one that is too slow
        loses the oldest events. It may use the client, and come and go at any time, in the thread of
        the client's loop. A coroutine function has two seconds to hear the rest when the client is
        closed; then it is cancelled.

        Args:
            listener: A function, which is called at once and must not block; or a coroutine function,
                whose calls are awaited one after the other in a task of their own.
            buffer: Events that wait for a coroutine function at most.

        Returns:
            A context manager; its ``close()`` ends it.
        """
        return self._house.subscribers.add(listener, at_least_one("buffer", buffer))

    def events(self, *, buffer: int = BUFFER) -> EventStream:
        """Every event from now on, to be iterated with ``async for``; it ends when the client is closed.

        Args:
            buffer: Events that wait for its reader at most; beyond that the oldest are dropped, and
                counted in ``.missed``.
        """
        return self._house.subscribers.stream(at_least_one("buffer", buffer))

    def task(self, task_id: str) -> Task:
        """A task by its id, of any day and any process."""
        if not isinstance(task_id, str) or not task_id.strip():
            raise InvalidRequest(f"task_id: {task_id!r} is not allowed; give the service's id")
        return Task(self._singles, task_id.strip(), None)

    def render(
        self,
        prompts: Iterable[Item] | AsyncIterable[Item],
        out: str | os.PathLike[str],
        *,
        timeout: float = JOB_TIMEOUT,
        deadline: float | None = None,
        kind: type[PromptRequest] | None = None,
        work_dir: str | os.PathLike[str] | None = None,
        **fields: Any,
    ) -> Batch:
        """A list of prompts to files in a directory, each paid for once, however often it is run.

        Nothing happens until the batch is iterated (or ``async with`` enters it, or its ``plan`` is
        awaited). The whole list is checked before the first job is sent.

        Args:
            prompts: Prompts or requests; any iterable or async iterable.
            out: The batch directory; made if it does not exist. Run again on it, with the same list
                or an edited one, only what is new is paid for. Or an object store, such as
                ``s3://bucket/prefix`` (needs the extra ``cloud``).
            timeout: Seconds to wait for each task; what is not there then is left pending.
            deadline: Seconds for the whole batch, from its first iteration on; then it stops with
                ``BatchTimedOut``, and can be resumed.
            kind: What prompts become; by default ``ImageToImage`` with an image, else ``TextToImage``.
            work_dir: Of an object store: the local directory of the ledger and the manifest; by
                default one below ``state_dir``, the same for the same address.
            **fields: Fields that every prompt is given; requests are taken as they are.

        Returns:
            A batch; iterate it for an outcome of each job.
        """
        from .batch import requests_of

        wishes = Wishes(fields, kind)
        return self._batch(out, requests_of(prompts, wishes), timeout, deadline, work_dir)

    def archive(
        self,
        task_ids: Iterable[str] | AsyncIterable[str],
        out: str | os.PathLike[str],
        *,
        timeout: float = JOB_TIMEOUT,
        deadline: float | None = None,
        work_dir: str | os.PathLike[str] | None = None,
    ) -> Batch:
        """Save the results of tasks made elsewhere: by a web app, a colleague, another machine.

        Nothing is paid. Tasks that are still generating are waited for; ids that are listed twice, or
        that the directory has already, are saved once. Run it again to go on where it stopped.

        Args:
            task_ids: The service's ids; any iterable or async iterable.
            out: The batch directory, made if it does not exist; or an object store, as for
                :meth:`render`.
            timeout: Seconds to wait for each task.
            deadline: Seconds for the whole batch.
            work_dir: Of an object store, as for :meth:`render`.

        Returns:
            A batch; iterate it for an outcome of each task. ``Expired`` means that the service does
            not know the task (any more).

        Raises:
            InvalidRequest: Something listed is no task id.
        """
        from .batch import existing_tasks

        return self._batch(out, existing_tasks(task_ids), timeout, deadline, work_dir)

    def resume(
        self,
        out: str | os.PathLike[str],
        *,
        timeout: float = JOB_TIMEOUT,
        deadline: float | None = None,
    ) -> Batch:
        """Go on with whatever is unfinished in a batch directory.

        Args:
            out: The directory of an earlier :meth:`render`, or its object store.
            timeout: Seconds to wait for each task.
            deadline: Seconds for the whole batch.
        """
        return self._batch(out, None, timeout, deadline)

    async def resolve(
        self, out: str | os.PathLike[str] | None, decision: Decision, *jobs: str
    ) -> int:
        """Decide about jobs whose fate is unknown. Sends nothing.

        Args:
            out: The batch directory; ``None`` for the client's own ledger.
            decision: ``"retry"`` plans them again, at the risk of paying twice; ``"abandon"`` gives
                them up.
            *jobs: Keys, or starts of keys; all unresolved jobs when none is given. A failed or expired
                job that is named can be retried too.

        Returns:
            How many jobs were decided about.

        Raises:
            InvalidRequest: A name fits no job, or one that this cannot be decided about.
            LedgerError: The directory holds no ledger that can be used.
        """
        one_of("decision", decision, ("retry", "abandon"))
        return await self._house.call(self._resolve, out, decision, list(jobs))

    async def adopt(self, out: str | os.PathLike[str], job: str, task_id: str) -> Job:
        """Give an unresolved job of a batch directory the task that you found for it.

        Args:
            out: The batch directory.
            job: The job's key, or the start of it.
            task_id: The task; its parameters must be the job's.

        Raises:
            InvalidRequest: It is not the job's task, or the job is not unresolved.
            LedgerError: The directory holds no ledger that can be used.
            KieError: The task could not be looked up.
        """
        return await self._house.call(self._adopt, self._folder(out), job, task_id)

    async def credits(self) -> float:
        """The account's balance.

        Raises:
            ApiError: The service refused.
            TransportError: It did not answer.
        """
        return await self._house.call(self._house.transport.credits)

    async def _submit(self, request: Request, key: str | None, patience: float) -> Task:
        job = await self._singles.submit(request, key, patience)
        return Task(self._singles, job.task_id or "", job)

    def _batch(
        self,
        out: str | os.PathLike[str],
        requests: AsyncIterable[Request] | None,
        timeout: float,
        deadline: float | None,
        work_dir: str | os.PathLike[str] | None = None,
    ) -> Batch:
        from .batch import Batch

        return Batch(
            self._house,
            out,
            requests,
            positive("timeout", timeout),
            None if deadline is None else positive("deadline", deadline),
            work_dir=work_dir,
        )

    def _folder(self, out: str | os.PathLike[str]) -> Path:
        from .batch import folder_of

        return folder_of(out, self._house.settings.state_dir)

    async def _resolve(
        self, out: str | os.PathLike[str] | None, decision: Decision, jobs: list[str]
    ) -> int:
        from .batch import recovered
        from .engine import resolving

        now = self._house.clock.now()
        if out is None:
            return await resolving.decide(self._house.ledger, jobs, decision, now)
        async with recovered(self._folder(out), self._house.settings.host) as ledger:
            return await resolving.decide(ledger, jobs, decision, now)

    async def _adopt(self, out: Path, job: str, task_id: str) -> Job:
        from .batch import recovered
        from .engine import resolving
        from .engine.preparing import Preparer

        house = self._house
        async with recovered(out, house.settings.host) as ledger:
            preparer = Preparer(ledger, house.transport, house.clock)
            return await resolving.adopt(ledger, job, task_id, house.transport, preparer)
