"""The fleet's queue: what dbos does for us, and the only module that knows it.

One workflow per job, under a name that the caller chooses. Its body has two steps, and dbos keeps no
more of them than a word each: the truth about a job is in our own tables. dbos queues the jobs, holds
the number of those under way over all workers, and lets a job go on at another worker from its last
finished step. It does not notice that a worker is dead (``lease.py`` does), and it does not pace
creates (the account's window does).

What is leaned on, public or not, is in ``tests/test_dbos_contract.py``, test by test.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

import anyio
import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer
from dbos import error as dbos_error
from sqlalchemy.exc import SQLAlchemyError

from ..errors import KieError, LedgerError
from ..logs import logger
from ..waiting import outlast
from .database import IDLE_IN_TRANSACTION, checked, lost, parameters, where
from .enqueuing import APPLICATION, BODY, QUEUE, SCHEMA, SHAPE, Load

log = logger(__name__)

MAX_DISPATCHES: Final = 1_000_000
"""How often a job may be taken over. dbos parks it for good beyond that, and its default is 100."""

POLL: Final = 0.5
"""Seconds between two looks of a worker into the queue."""

CONNECTIONS: Final = 4
"""Connections of dbos's pool in a worker; its listener has one more."""

THREADS: Final = 8
"""Threads of dbos in a worker at most, beside those that look after the queue."""

_RETRY_FIRST, _RETRY_CEILING = 0.5, 30.0
_LOOK: Final = 0.02
_HAND_OVER: Final = 3.0
_DESTROY: Final = 20.0


class Road(Protocol):
    """What a worker does with a job, by its name. Both return the job's state, in a word.

    An exception means "again later, here": only a returned word goes on to the next step.
    """

    async def submit(self, name: str) -> str:
        """Submit it, if that has not happened; after a crash it must know by itself."""

    async def collect(self, name: str) -> str:
        """Wait for its result and save it, as far as that has not happened."""

    def hurry(self, seconds: float) -> None:
        """What does not stop at once when it is cancelled has so many seconds left."""


def migrate(url: str, load: Load | None = None) -> None:
    """Make or renew dbos's tables, and the queue. It needs a role that may do so; it blocks.

    Raises:
        LedgerError: The database cannot be used.
    """
    _quiet()
    pool = _pool(url, "kie-mj migrate", 1)
    try:
        _ends_at_a_pooler(pool)  # dbos would make a database that is not there
        DBOS.migrate(_driver(url), schema=SCHEMA)
        _register(_client(url, pool), load or Load())
    except (SQLAlchemyError, dbos_error.DBOSException) as error:
        raise lost(url, error) from None
    finally:
        pool.dispose()


class Engine:
    """What takes jobs from the queue in this process. There is one at a time in a process.

    dbos runs in threads and an event loop of its own, the steps of jobs in the loop of whoever opens
    this: dbos puts a pool of its own in the place of its loop's, and takes that away at its end.

    Args:
        url: The database.
        road: What is done with a job.
        worker: The worker's name, which no other worker ever has.
        load: What the fleet may do at once.
    """

    def __init__(self, url: str, road: Road, *, worker: str, load: Load | None = None) -> None:
        self.worker = worker
        self.road = road
        self._url = checked(url)
        self._load = load or Load()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dbos: DBOS | None = None
        self._jobs: set[str] = set()
        self._steps: dict[anyio.CancelScope, bool] = {}
        self._closing = False
        self._cut = False
        self._pooled = False

    @property
    def running(self) -> int:
        """Jobs under way here."""
        return len(self._jobs)

    async def open(self) -> None:
        """Begin to take jobs.

        Raises:
            LedgerError: The database cannot be used, or has to be migrated.
            KieError: There is one already in this process.
        """
        global _current  # noqa: PLW0603
        if _current is not None:
            raise KieError("a process has one worker at a time")
        _current = self
        self._loop = asyncio.get_running_loop()
        launching = asyncio.ensure_future(_in_thread(self._launch))
        try:
            await outlast(launching.done, lambda: asyncio.wait([launching]))
            launching.result()
        except BaseException as error:
            await self.aclose()
            if isinstance(error, dbos_error.DBOSException):
                message = f"{error}".splitlines()[0]
                raise LedgerError(
                    f"{where(self._url)}: {message}; run: kie-mj cluster migrate"
                ) from None
            if isinstance(error, SQLAlchemyError):
                raise lost(self._url, error) from None
            raise

    def cut(self) -> None:
        """Stop every job under way here where it may stop, and begin none."""
        self._refuse()
        self._cut = True
        self.road.hurry(0.0)
        logging.getLogger("dbos").setLevel(logging.ERROR)  # it warns of every job that stops
        for scope in self._steps:
            scope.cancel()

    async def aclose(self, grace: float = 0.0) -> int:
        """Take no more jobs, give those under way some time, and hand the rest over.

        What was not sent yet is not sent any more. A step that must not be cut (a create under way)
        is waited for, however long it takes.

        Args:
            grace: Seconds for jobs under way to end; :meth:`cut` shortens them.

        Returns:
            How many jobs were left for others.
        """
        self._refuse()
        self.road.hurry(grace)
        for scope, submits in self._steps.items():
            if submits:
                scope.cancel()
        try:
            with anyio.move_on_after(grace):
                await _until(lambda: not self._jobs or self._cut)
        finally:
            left = len(self._jobs)
            self.cut()
            closing = asyncio.ensure_future(self._end())
            await outlast(closing.done, lambda: asyncio.wait([closing]))
            closing.result()
        return left

    async def at_work(self) -> Collection[str]:
        """The names of workers that have jobs under way, alive or not.

        Raises:
            LedgerError: The database cannot be used.
        """
        if self._closing:
            return ()
        look = partial(DBOS.list_workflows, status="PENDING", queues_only=True, **_LIGHT)
        found = await self._ask(look)
        return {one.executor_id for one in found if one.executor_id}

    async def recover(self, workers: Sequence[str]) -> int:
        """Give the jobs under way of these workers back to the queue, and return how many.

        Raises:
            LedgerError: The database cannot be used.
        """
        if self._closing:
            return 0
        return len(await self._ask(DBOS._recover_pending_workflows, list(workers)))

    async def walk(self, name: str) -> str:
        """One job, from wherever it stands. Runs in dbos's loop."""
        if self._closing:  # dbos may have claimed it a moment ago
            raise asyncio.CancelledError(f"job {name}: this worker stops")
        self._jobs.add(name)
        try:
            await _submit(name)
            return await _collect(name)
        finally:
            self._jobs.discard(name)

    async def across(self, act: Callable[[str], Awaitable[str]], name: str) -> str:
        """One step of a job. Called in dbos's loop, done in ours."""
        if self._loop is None:
            raise asyncio.CancelledError(f"job {name}: this worker has not begun")
        work = asyncio.run_coroutine_threadsafe(self._step(act, name), self._loop)
        # A cancellation would pass through the shields of what must not be cut.
        return await asyncio.shield(asyncio.wrap_future(work))

    async def _step(self, act: Callable[[str], Awaitable[str]], name: str) -> str:
        failures = 0
        with anyio.CancelScope() as scope:
            self._steps[scope] = act == self.road.submit
            if self._closing and self._steps[scope]:
                scope.cancel()
            try:
                while not self._cut:
                    try:
                        word = await act(name)
                    except Exception as error:
                        failures += 1
                        # Of what people can do something about the message is enough.
                        trace = None if isinstance(error, KieError) else error
                        log.warning(
                            "job %s: a step failed here; once more soon: %s",
                            name,
                            error,
                            exc_info=trace,
                        )
                        pause = _RETRY_FIRST * 2.0 ** min(failures - 1, 10)
                        await anyio.sleep(min(_RETRY_CEILING, pause))
                    else:
                        if not self._cut:
                            return word
            finally:
                del self._steps[scope]
        # No Exception: dbos would write down that the job has failed.
        raise asyncio.CancelledError(f"job {name}: this worker stops")

    def _launch(self) -> None:
        _quiet()
        # dbos would wait for a database that is away, however long.
        probe = _pool(self._url, self.worker, 1)
        try:
            self._pooled = _ends_at_a_pooler(probe)
            # Before the launch: dbos takes jobs at once, by the load that it finds.
            _register(_client(self._url, probe), self._load)
        finally:
            probe.dispose()
        # One per process, silently: a second one would be the first.
        self._dbos = DBOS(config=self._config())
        DBOS.listen_queues([QUEUE])
        DBOS.launch()

    def _refuse(self) -> None:
        """Claim nothing more. dbos has no call for this alone; its destroy() begins with it."""
        self._closing = True
        if self._dbos is not None:
            for event in self._dbos.background_thread_stop_events:
                event.set()

    async def _end(self) -> None:
        """Hand over what is left, and end dbos."""
        global _current  # noqa: PLW0603
        await _until(lambda: not self._steps)
        if self._dbos is not None:
            await asyncio.sleep(_LOOK)  # the jobs learn it in dbos's loop
            with anyio.move_on_after(_HAND_OVER), suppress(LedgerError):
                await self._ask(DBOS._recover_pending_workflows, [self.worker])
        # Its own threads may be waiting for a database that is away.
        with anyio.move_on_after(_DESTROY) as scope:
            await _in_thread(DBOS.destroy)
        if scope.cancelled_caught:
            log.error("dbos does not end; this process cannot have another worker")
        elif _current is self:
            _current = None

    async def _ask(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return await _in_thread(function, *args)
        except (SQLAlchemyError, dbos_error.DBOSException) as error:
            raise lost(self._url, error) from None

    def _config(self) -> DBOSConfig:
        return DBOSConfig(
            name=APPLICATION,
            system_database_url=_driver(self._url),
            dbos_system_schema=SCHEMA,
            executor_id=self.worker,
            application_version=SHAPE,
            serializer=DBOSPortableJSONSerializer(),
            run_migrations=False,
            sys_db_pool_size=CONNECTIONS,
            max_executor_threads=THREADS,
            sys_db_idle_transaction_timeout_sec=IDLE_IN_TRANSACTION,
            db_engine_kwargs={"connect_args": _network(self.worker, pooled=self._pooled)},
            log_level="WARNING",
        )


_LIGHT: Final[dict[str, Any]] = {"load_input": False, "load_output": False}

_current: Engine | None = None


def _engine() -> Engine:
    if _current is None:
        raise asyncio.CancelledError("this worker has stopped")
    return _current


@DBOS.workflow(name=BODY, max_recovery_attempts=MAX_DISPATCHES)
async def _job(name: str) -> str:
    return await _engine().walk(name)


@DBOS.step(name="submit")
async def _submit(name: str) -> str:
    engine = _engine()
    return await engine.across(engine.road.submit, name)


@DBOS.step(name="collect")
async def _collect(name: str) -> str:
    engine = _engine()
    return await engine.across(engine.road.collect, name)


async def _until(done: Callable[[], bool]) -> None:
    while not done():  # noqa: ASYNC110 - what is waited for happens in another thread
        await anyio.sleep(_LOOK)


async def _in_thread(step: Callable[..., Any], *args: Any) -> Any:
    """A call of dbos's, in a thread of its own, where no event loop runs.

    dbos waits for a database that is away, however long: the thread is one that nobody has to wait
    for at the end, and cancelling leaves it alone.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def tell(result: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def run() -> None:
        result, failed = None, None
        try:
            result = step(*args)
        except BaseException as error:
            failed = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, result, failed)

    threading.Thread(target=run, name="kie-mj dbos", daemon=True).start()
    return await done


def _register(client: DBOSClient, load: Load) -> None:
    client.register_queue(
        QUEUE,
        global_concurrency=load.in_flight,
        worker_concurrency=load.per_worker,
        polling_interval_sec=POLL,
        on_conflict="always_update",
    )


def _client(url: str, pool: sa.Engine) -> DBOSClient:
    return DBOSClient(
        system_database_url=_driver(url),
        system_database_engine=pool,
        dbos_system_schema=SCHEMA,
        serializer=DBOSPortableJSONSerializer(),
        application_name=APPLICATION,
        lazy=True,
        retry_connection_errors=False,
    )


def _pool(url: str, name: str, connections: int) -> sa.Engine:
    return sa.create_engine(
        _driver(url),
        connect_args=_network(name, pooled=True),  # it may be, and little is asked here
        pool_size=connections,
        max_overflow=0,
        pool_timeout=30,
        pool_pre_ping=True,
    )


def _ends_at_a_pooler(pool: sa.Engine) -> bool:
    """Whether connections end at a pooler, and not at the server.

    Raises:
        SQLAlchemyError: There is none to be had.
    """
    with pool.connect() as link:
        told = link.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        made: Any = link.connection.driver_connection
        return bool(told != made.info.backend_pid)


def _driver(url: str) -> str:
    """The URL as SQLAlchemy wants it, which reads one otherwise than libpq: hosts, sockets, signs."""
    given = {key: str(value) for key, value in parameters(url, "kie-mj migrate").items()}
    user, password, name = (given.pop(key, None) for key in ("user", "password", "dbname"))
    made = sa.URL.create("postgresql+psycopg", user, password, database=name, query=given)
    return made.render_as_string(hide_password=False)


def _network(name: str, *, pooled: bool) -> dict[str, Any]:
    ours: dict[str, Any] = {"application_name": f"{name} dbos"}
    return {**ours, "prepare_threshold": None} if pooled else ours


def _quiet() -> None:
    """What dbos logs goes where every other log of this process goes."""
    logger = logging.getLogger("dbos")
    if not logger.handlers:  # else it adds one of its own, on stderr
        logger.addHandler(logging.NullHandler())
