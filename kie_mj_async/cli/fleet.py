"""The commands of a fleet: a worker, and its operators' view."""

from __future__ import annotations

from typing import Any

import click

from . import options as of
from .configured import limits
from .shell import Command, Group, awaited, option


@click.command(cls=Command)
@of.database_url
@of.fleet_out
@of.fleet_pace
@of.timeout
@of.on_unknown
@of.prices
def worker(**options: Any) -> int:
    """Work for a fleet: render what Cluster.submit, generate and render put into the queue.

    As many workers as you like, on any machines, share one account, one window and one set of books in
    PostgreSQL. A worker that dies is replaced by the others within seconds; at SIGTERM (or Ctrl-C) it
    sends nothing more, finishes what it can within the grace, and hands the rest over. A second one ends
    the grace.
    """
    from .fleet_work import work

    awaited(work(**options, limits=limits()))
    return 0


@click.group(cls=Group)
def cluster() -> None:
    """A fleet's database: how it stands, its tables, decisions."""


@cluster.command(cls=Command)
@option(None, "--batch", metavar="NAME", help="Only the jobs of this batch.")
@of.database_url
@option(None, "--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(database_url: str, batch: str | None, as_json: bool) -> int:
    """Jobs by what became of them, the workers, and the account's window. Needs no key."""
    from .fleet_work import tell_status

    awaited(tell_status(database_url, batch, as_json=as_json))
    return 0


@cluster.command(cls=Command)
@of.database_url
def migrate(database_url: str) -> int:
    """Make the fleet's tables, or bring them up to date. Needs a role that may make tables.

    Run it before the first worker, and at each upgrade of the package; again does no harm.
    """
    from .fleet_work import migrate as make

    make(database_url)
    return 0


@cluster.command(cls=Command)
@click.argument("jobs", nargs=-1, metavar="[JOB...]")
@option(None, "--retry", is_flag=True, help="Plan them again, at the risk of paying twice.")
@option(None, "--abandon", is_flag=True, help="Give them up.")
@option(
    None, "--batch", default="default", show_default=True, metavar="NAME", help="The jobs' batch."
)
@of.database_url
def resolve(
    database_url: str, batch: str, jobs: tuple[str, ...], retry: bool, abandon: bool
) -> int:
    """Decide about jobs of which nobody knows whether they were accepted.

    Without a JOB (a key, or the start of one) it is about all unresolved ones of the batch. A failed or
    expired JOB that is named can be retried too.
    """
    from .fleet_work import decide

    if retry == abandon:
        raise click.UsageError("choose one of --retry and --abandon")
    awaited(decide(database_url, batch, list(jobs), "retry" if retry else "abandon"))
    return 0


@cluster.command(cls=Command)
@option(
    None, "--batch", default="default", show_default=True, metavar="NAME", help="The files' batch."
)
@of.database_url
def manifest(database_url: str, batch: str) -> int:
    """Print the list of a batch's files, one JSON object a line, as manifest.jsonl has it."""
    from .fleet_work import list_files

    awaited(list_files(database_url, batch))
    return 0
