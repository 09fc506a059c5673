"""The commands about what is there: a directory, and the account."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import click

from . import options as of
from .configured import limits
from .shell import a_folder, awaited


@click.command()
@click.argument("directory", metavar="DIR", required=False, shell_complete=a_folder)
@click.option(
    "--forecast",
    is_flag=True,
    help="How long tasks take, as was learned at the directory's API host; without DIR at yours.",
)
@of.as_json
def status(directory: str | None, forecast: bool, as_json: bool) -> int:
    """What stands where in a directory, and what to do next. Sends nothing, needs no key.

    The exit code is that of a run that ended here: 0 all saved, 1 some failed or expired, 3 work is
    left, 4 unresolved jobs need a decision. With --forecast it is 0.
    """
    from .report import now, read_report, tell, write_json
    from .view import printable

    def say(text: str) -> None:
        click.echo(printable(text))

    if forecast:
        return _foretell(directory, say, as_json=as_json)
    if directory is None:
        raise click.UsageError("Missing argument 'DIR'.")

    async def look() -> int:
        report = await read_report(directory, now())
        if as_json:
            await write_json(directory, report, sys.stdout)
        else:
            tell(report, say)
        return int(report.exit_code())

    return awaited(look())


def _foretell(directory: str | None, say: Callable[[str], None], *, as_json: bool) -> int:
    from .forecast import plain, read, tell

    learned = awaited(read(directory))
    if as_json:
        click.echo(json.dumps(plain(learned)))
    else:
        tell(learned, say)
    return 0


@click.command()
@click.argument("directory", metavar="DIR", shell_complete=a_folder)
@click.argument("jobs", nargs=-1, metavar="[JOB...]")
@click.option("--retry", is_flag=True, help="Plan them again, at the risk of paying twice.")
@click.option("--abandon", is_flag=True, help="Give them up.")
@click.option("--adopt", metavar="TASK_ID", help="This is the task of the one JOB named.")
@of.simulate
def resolve(
    directory: str, jobs: tuple[str, ...], retry: bool, abandon: bool, adopt: str | None,
    simulate: bool,
) -> int:  # fmt: skip
    """Decide about jobs of which nobody knows whether they were accepted.

    Without a JOB (a key, or the start of one) it is about all unresolved ones. A failed or expired
    JOB that is named can be retried too.
    """
    from . import decide
    from .setup import Options

    if retry + abandon + (adopt is not None) != 1:
        raise click.UsageError("choose one of --retry, --abandon and --adopt TASK_ID")
    if adopt is not None:
        awaited(
            decide.adopt(directory, list(jobs), adopt, Options(simulate=simulate, limits=limits()))
        )
    else:
        awaited(decide.decide(directory, list(jobs), "retry" if retry else "abandon"))
    return 0


@click.command()
@click.argument("directory", metavar="DIR", shell_complete=a_folder)
def gallery(directory: str) -> int:
    """Make a directory's page, index.html, to look at its pictures. Sends nothing, needs no key.

    Also while a run works there. Thumbnails are made once; manifest.jsonl is made anew too.
    """
    from .gallery import make
    from .view import printable

    for line in awaited(make(directory)):
        click.echo(printable(line))
    return 0


@click.command()
@of.simulate
def credits(simulate: bool) -> int:
    """The account's balance."""
    from .setup import Options, open_client

    async def ask() -> float:
        async with open_client(Options(simulate=simulate, limits=limits())) as client:
            return await client.credits()

    click.echo(f"{awaited(ask()):g}")
    return 0
