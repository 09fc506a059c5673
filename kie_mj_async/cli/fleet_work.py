"""What the commands of a fleet do."""

from __future__ import annotations

import json
import logging
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import click

from ..engine.resolving import Decision
from ..errors import ConfigError
from ..events import CreatesPaused, Event, FileSaved
from ..logs import logger
from ..rules import objects
from ..rules.billing import OnUnknown
from ..rules.pacing import Rate
from ..settings import (
    Settings,
    checked_prices,
    surroundings,
)
from ..waiting import sole
from .observed import telemetry
from .view import printable, say

if TYPE_CHECKING:
    from ..cluster import Cluster, FleetStatus
    from ..cluster.engine import Engine

log = logger(__name__)

_NEEDED: Final = "a fleet needs the extra 'cluster': pip install 'kie-mj-async[cluster]'"


async def work(
    *,
    database_url: str,
    out: str,
    work_dir: str | None,
    in_flight: int,
    per_worker: int | None,
    rate: Rate | None,
    timeout: float,
    on_unknown: OnUnknown,
    grace: float,
    prices: str | None,
    limits: Mapping[str, Any] | None = None,
) -> None:
    """Work for a fleet until SIGTERM or SIGINT.

    Raises:
        ConfigError: No key, a setting that cannot work, or a fleet of another account.
        LedgerError: The database cannot be used, or has to be migrated.
    """
    try:
        from ..cluster.serving import Work, serve
    except ModuleNotFoundError:
        raise ConfigError(_NEEDED) from None

    settings = Settings(
        **surroundings(),
        rate=rate or Rate(),
        in_flight=in_flight,
        on_unknown=on_unknown,
        prices=checked_prices(prices),
        **(limits or {}),
    )
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("dbos").setLevel(logging.WARNING)
    stop = anyio.Event()
    with _work_dir(work_dir) as folder:
        orders = Work(
            database_url,
            settings,
            _place(out),
            folder,
            per_worker=per_worker,
            job_timeout=timeout,
            grace=grace,
        )
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_obey, stop, tasks.cancel_scope)
                await serve(orders, stop=stop, tell=_listener(), joined=_joined)
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise sole(group) from None
    say("left the fleet")


@contextmanager
def _work_dir(chosen: str | None) -> Iterator[Path]:
    """The folder that the user chose, where later workers sweep after those that died; or a new one."""
    if chosen is not None:
        yield Path(chosen).absolute()
        return
    with tempfile.TemporaryDirectory(prefix="kie-mj-") as folder:
        yield Path(folder)


def _place(out: str) -> str:
    """Where results go, as every worker understands it."""
    return objects.parse(out).root if objects.is_store_url(out) else str(Path(out).absolute())


async def _obey(stop: anyio.Event, scope: anyio.CancelScope) -> None:
    """Leave in order at the first signal, at once at the second."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    with anyio.open_signal_receiver(*numbers) as signals:
        async for number in signals:
            if stop.is_set():
                say(f"{number.name} again: the grace is over")
                scope.cancel()
                return
            say(f"{number.name}: nothing more is sent; again to end the grace")
            stop.set()


def _joined(engine: Engine) -> None:
    say(f"worker {engine.worker} is at work")


def _listener() -> Callable[[Event], None]:
    observed = telemetry()
    if observed is None:
        return _tell

    def both(event: Event) -> None:
        _tell(event)
        observed(event)

    return both


def _tell(event: Event) -> None:
    match event:
        case FileSaved(job, file):
            log.info("job %s: %s saved", job.key, file.path)
        case CreatesPaused(reason, seconds):
            log.warning("no creates for %.0f s: %s", seconds, reason)


def migrate(database_url: str) -> None:
    """Make or renew the tables.

    Raises:
        LedgerError: The database cannot be used, or a newer version has made its tables.
    """
    try:
        from ..cluster import engine, schema
        from ..cluster.database import where
    except ModuleNotFoundError:
        raise ConfigError(_NEEDED) from None
    before = schema.migrate(database_url)
    engine.migrate(database_url)
    now = schema.VERSION
    what = f"schema {before} is schema {now} now" if 0 < before < now else f"schema {now}"
    click.echo(f"{where(database_url)}: ready for a fleet ({what})")


async def tell_status(database_url: str, batch: str | None, *, as_json: bool) -> None:
    """Print how a fleet stands.

    Raises:
        LedgerError: The database cannot be used, or there is no such batch.
    """
    async with _cluster(database_url) as cluster:
        status = await cluster.status(batch)
    if as_json:
        click.echo(json.dumps(status.to_dict()))
    else:
        for line in lines_of(status):
            click.echo(printable(line))


def lines_of(status: FleetStatus) -> list[str]:
    """A fleet's status, for people."""
    jobs = [f"{number:,} {what}" for what, number in status.jobs.items() if number]
    lines = [
        f"Batch {status.batch}" if status.batch is not None else "All batches",
        f"  jobs      {', '.join(jobs) or 'none'}",
        f"  files     {status.files:,} ({status.bytes / 1e6:,.1f} MB)",
        f"  credits   {status.credits:g}"
        + (f", {status.at_risk:g} at risk" if status.at_risk else ""),
    ]
    for account in status.accounts:
        slots = f"{account.slots} of {account.creates} in {account.seconds:g} s"
        lines.append(f"  window    {slots}")
        if account.in_flight is not None:
            lines.append(f"  in flight {account.in_flight} at most, as refusals have taught")
        if account.paused:
            lines.append(f"  paused    no creates for {account.paused:.0f} s more, after a refusal")
    if not status.workers:
        lines.append("No worker is at work. Start one with: kie-mj worker --out ...")
    for worker in status.workers:
        state = "at work" if worker.alive else f"silent for {worker.silent:.0f} s"
        lines.append(
            f"Worker {worker.name}: {state}, {worker.jobs} jobs, since {worker.since:%Y-%m-%d %H:%M}"
        )
        if worker.trouble:
            lines.append(f"  begins no job: {worker.trouble}")
    return lines


async def decide(database_url: str, batch: str, jobs: list[str], decision: Decision) -> None:
    """Retry or abandon jobs.

    Raises:
        InvalidRequest: A name fits no job, or one that this cannot be decided about.
        LedgerError: The database cannot be used.
    """
    async with _cluster(database_url) as cluster:
        number = await cluster.resolve(decision, *jobs, batch=batch)
    told = f"{number:,} job{'' if number == 1 else 's'}"
    if not number:
        say("No job is unresolved.")
    elif decision == "retry":
        say(f"{told} planned again, and in the queue.")
    else:
        say(f"{told} given up.")


async def list_files(database_url: str, batch: str) -> None:
    """Print a batch's files.

    Raises:
        LedgerError: The database cannot be used, or there is no such batch.
    """
    from ..archive.manifest import line

    async with _cluster(database_url) as cluster:
        async for job, file in cluster.files(batch):
            sys.stdout.write(line(job, file))


@asynccontextmanager
async def _cluster(database_url: str) -> AsyncIterator[Cluster]:
    """The fleet; a database that is not there is told at once, not waited for."""
    try:
        from ..cluster import Cluster
        from ..cluster.database import connect
    except ImportError:
        raise ConfigError(_NEEDED) from None
    await (await connect(database_url, "kie-mj cluster")).close()
    async with Cluster(database_url) as cluster:
        yield cluster
