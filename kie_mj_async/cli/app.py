"""The commands and their options. What they do is elsewhere and imported when they run."""

from __future__ import annotations

import io
import math
import stat
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from .._version import __version__
from ..errors import BudgetReached, InvalidRequest, KieError
from ..requests import (
    BATCH_SIZES,
    MOTIONS,
    ExistingTask,
    ImageToImage,
    ImageToVideo,
    PromptRequest,
    Request,
    TextToImage,
)
from ..rules.prompts import Prompt, as_request, parse_lines, parse_task_ids

_T = TypeVar("_T")

_BAD_INPUT: Final = 2

_TYPES: Final[dict[str, type[PromptRequest]]] = {
    "text-to-image": TextToImage,
    "image-to-image": ImageToImage,
    "image-to-video": ImageToVideo,
    **{kind.task_type: kind for kind in (TextToImage, ImageToImage, ImageToVideo)},
}
_OPTION_OF: Final = {"version": "--model"}


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code. Errors are one line on stderr."""
    try:
        code = cli.main(arguments, prog_name="kie-mj", standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        return _fail("stopped", 3)
    except click.ClickException as error:
        command = (
            error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        )
        hint = f" (see {command} --help)" if command else ""
        return _fail(error.format_message().rstrip(".") + hint, _BAD_INPUT)
    except KieError as error:
        return _fail(_told(error), _BAD_INPUT if _nothing_sent(error) else 3)
    except KeyboardInterrupt:
        return _fail("stopped", 3)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    from .view import printable

    click.echo(printable(f"kie-mj: {message}"), err=True)
    return code


def _nothing_sent(error: KieError) -> bool:
    from ..errors import ApiError, NotFound, TransportError

    if isinstance(error, NotFound):  # the user named a task that does not exist
        return True
    return not isinstance(error, ApiError | TransportError | BudgetReached)


def _told(error: KieError) -> str:
    """The message, with a field's name as the option that sets it."""
    message = str(error)
    field: str | None = getattr(error, "field", None)
    if field and message.startswith(f"{field}: "):
        option = _OPTION_OF.get(field, "--" + field.replace("_", "-"))
        if field not in ("prompt", "job", "task_id"):
            return f"{option}{message[len(field) :]}"
    return message


def _run(function: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
    import asyncio

    return asyncio.run(function(*arguments))


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="kie-mj")
@click.pass_context
def cli(context: click.Context) -> None:
    """Batch generation with Midjourney through KIE.ai: every image on disk, paid once.

    The account's key comes from KIE_API_KEY. With --simulate nothing is sent anywhere: a simulator
    inside the process answers, needs no key and costs nothing.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(_BAD_INPUT)


def _rate(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    from ..errors import ConfigError
    from ..settings import checked_rate

    creates, _, seconds = value.partition("/")
    try:
        return checked_rate((int(creates), float(seconds)))
    except (ValueError, ConfigError):
        message = f"{value!r} is not allowed; use CREATES/SECONDS such as 20/10"
        raise click.BadParameter(message) from None


def _finite(
    _context: click.Context, _parameter: click.Parameter, value: float | None
) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not allowed; use a number above 0")
    return value


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_out = _options(
    click.option(
        "--out", required=True, metavar="DIR",
        help="Where the files go; made if it does not exist. Or an object store: s3://bucket/prefix.",
    ),
    click.option(
        "--work-dir", metavar="DIR",
        help="Of an object store: where the ledger is kept; below the state directory without.",
    ),
)  # fmt: skip
_simulate = click.option(
    "--simulate", is_flag=True, help="Use a simulator inside the process: no key, no cost."
)
_json = click.option(
    "--json", "as_json", is_flag=True, help="Print the directory as one JSON object at the end."
)
_making = _options(
    click.option("--speed", help="relaxed (cheapest), fast or turbo (dearest)."),
    click.option("--model", help="7, 6.1, 6, 5.2, 5.1, niji6 or niji7."),
    click.option("--aspect-ratio", metavar="W:H", help="Such as 16:9."),
    click.option("--stylization", type=int, help="0 to 1000."),
    click.option("--weirdness", type=int, help="0 to 3000."),
    click.option(
        "--task-type",
        type=click.Choice(list(_TYPES), case_sensitive=False),
        help="What to make; image-to-image if an --image is given, else text-to-image.",
    ),
    click.option("--image", metavar="URL", help="The image to start from."),
    click.option(
        "--motion", type=click.Choice(MOTIONS, case_sensitive=False), help="Of videos; high."
    ),
    click.option(
        "--batch-size", type=click.Choice([str(n) for n in BATCH_SIZES]), help="Videos a task; 1."
    ),
    click.option("--watermark", help="A text to mark the results with."),
    click.option("--callback-url", metavar="URL", help="Where the service reports a task's end."),
)
_following = _options(
    click.option(
        "--timeout", type=click.FloatRange(min=0, min_open=True), callback=_finite,
        default=1800.0, show_default=True, metavar="SECONDS", help="How long to wait for each task.",
    ),
    _simulate,
    _json,
)  # fmt: skip
_running = _options(
    click.option(
        "--max-credits",
        type=click.FloatRange(min=0, min_open=True),
        callback=_finite,
        metavar="N",
        help="Stop before the job that would pass this, in this run.",
    ),
    click.option(
        "--prices", metavar="FILE", help="A TOML table of what tasks cost; 25 credits each without."
    ),
    click.option(
        "--in-flight", type=click.IntRange(min=1), default=100, show_default=True,
        metavar="N", help="Tasks that may run at once.",
    ),
    click.option(
        "--rate", callback=_rate, metavar="CREATES/SECONDS",
        help="How fast tasks may be created; 20/10, the account's limit.",
    ),
    click.option(
        "--on-unknown",
        type=click.Choice(["park", "repeat"]),
        default="park",
        show_default=True,
        help="What to do when it is not known whether a job was accepted: leave it to you, or send "
        "it again at the risk of paying twice.",
    ),
    _following,
    click.option("--yes", is_flag=True, help="Spend the credits without asking."),
)  # fmt: skip


@cli.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@_out
@_making
@_running
def render(files: tuple[str, ...], out: str, **options: Any) -> int:
    """A prompt list to images: one prompt a line, "-" for stdin.

    Run it again to go on where it stopped: what is known already is not paid for again.
    """
    return _generate(out, _listed(files, parse_lines), options)


@cli.command()
@click.argument("prompt")
@_out
@_making
@_running
def generate(prompt: str, out: str, **options: Any) -> int:
    """One prompt to images. Run it again to go on where it stopped."""
    return _generate(out, lambda: iter([prompt]), options)


@cli.command()
@click.argument("task_ids", nargs=-1, metavar="TASK_ID...")
@click.option(
    "--from",
    "files",
    multiple=True,
    metavar="FILE",
    help='A list of ids, one a line; "-" for stdin.',
)
@_out
@_following
def archive(task_ids: tuple[str, ...], files: tuple[str, ...], out: str, **options: Any) -> int:
    """Save the results of tasks made elsewhere: by a web app, a colleague, another machine.

    Nothing is paid. Tasks that are still generating are waited for. Run it again to go on where it
    stopped: what is saved already is not fetched again.
    """
    if not task_ids and not files:
        raise click.UsageError("name the tasks: TASK_ID..., or --from FILE")
    listed = _listed(files, parse_task_ids)

    def tasks() -> Iterator[Request]:
        yield from map(ExistingTask, task_ids)
        yield from listed()

    return _work(out, tasks, options)


@cli.command()
@click.argument("directory", metavar="DIR")
@_running
def resume(directory: str, **options: Any) -> int:
    """Go on with what is unfinished in a directory."""
    return _work(directory, None, options)


@cli.command()
@click.argument("directory", metavar="DIR")
@_json
def status(directory: str, as_json: bool) -> int:
    """What stands where in a directory, and what to do next. Sends nothing, needs no key.

    The exit code is that of a run that ended here: 0 all saved, 1 some failed or expired, 3 work is
    left, 4 unresolved jobs need a decision.
    """
    from .report import now, read_report, tell, write_json
    from .view import printable

    async def look() -> int:
        report = await read_report(directory, now())
        if as_json:
            await write_json(directory, report, sys.stdout)
        else:
            tell(report, lambda text: click.echo(printable(text)))
        return int(report.exit_code())

    code = _run(look)
    return int(code)


@cli.command()
@click.argument("directory", metavar="DIR")
@click.argument("jobs", nargs=-1, metavar="[JOB...]")
@click.option("--retry", is_flag=True, help="Plan them again, at the risk of paying twice.")
@click.option("--abandon", is_flag=True, help="Give them up.")
@click.option("--adopt", metavar="TASK_ID", help="This is the task of the one JOB named.")
@_simulate
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
        _run(decide.adopt, directory, list(jobs), adopt, Options(simulate=simulate))
    else:
        _run(decide.decide, directory, list(jobs), "retry" if retry else "abandon")
    return 0


@cli.command()
@click.argument("directory", metavar="DIR")
def gallery(directory: str) -> int:
    """Make a directory's page, index.html, to look at its pictures. Sends nothing, needs no key.

    Also while a run works there. Thumbnails are made once; manifest.jsonl is made anew too.
    """
    from .gallery import make
    from .view import printable

    for line in _run(make, directory):
        click.echo(printable(line))
    return 0


@cli.command()
@_simulate
def credits(simulate: bool) -> int:
    """The account's balance."""
    from .setup import Options, open_client

    async def ask() -> float:
        async with open_client(Options(simulate=simulate)) as client:
            return await client.credits()

    click.echo(f"{_run(ask):g}")
    return 0


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8787,
    show_default=True,
    help="0 for any that is free.",
)
@click.option(
    "--time-scale",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="0.1 runs ten times faster than the service.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Repeats a run's chances.")
@click.option("--faults", default="", metavar="SPEC", help="Such as create.429=5%,poll.drop=#3.")
@click.option(
    "--credits",
    "balance",
    type=click.FloatRange(min=0),
    default=100_000.0,
    show_default=True,
    help="The balance at the start.",
)
@click.option("--webhook-key", metavar="KEY", help="Signs callbacks; without it they are unsigned.")
def simulate(
    host: str,
    port: int,
    time_scale: float,
    seed: int,
    faults: str,
    balance: float,
    webhook_key: str | None,
) -> int:
    """A local KIE.ai, until it is interrupted. Its books are at GET /simulator/books."""
    from .serve import serve

    _run(serve, host, port, time_scale, seed, faults, balance, webhook_key)
    return 0


def _generate(
    out: str, prompts: Callable[[], Iterable[str | Prompt]], options: dict[str, Any]
) -> int:
    kind, fields = _fields(options)
    kind("a prompt", **fields)  # a bad option is an error of the option, not of line 1

    def requests() -> Iterator[Request]:
        return (as_request(prompt, fields, kind) for prompt in prompts())

    return _work(out, requests, options)


def _fields(options: dict[str, Any]) -> tuple[type[PromptRequest], dict[str, Any]]:
    """The type of request and its fields, as the options say."""
    fields = {
        "version": options.pop("model"),
        "speed": options.pop("speed"),
        "aspect_ratio": options.pop("aspect_ratio"),
        "stylization": options.pop("stylization"),
        "weirdness": options.pop("weirdness"),
        "image": options.pop("image"),
        "motion": options.pop("motion"),
        "batch_size": int(size) if (size := options.pop("batch_size")) else None,
        "watermark": options.pop("watermark"),
        "callback_url": options.pop("callback_url"),
    }
    given = {name: value for name, value in fields.items() if value is not None}
    chosen = options.pop("task_type")
    kind = _TYPES[chosen or ("image-to-image" if "image" in given else "text-to-image")]
    takers = {"image": (ImageToImage, ImageToVideo), "motion": (ImageToVideo,),
              "batch_size": (ImageToVideo,)}  # fmt: skip
    for name, kinds in takers.items():
        if name in given and kind not in kinds:
            names = " and ".join(
                key for key, value in _TYPES.items() if value in kinds and "-" in key
            )
            option = "--" + name.replace("_", "-")
            raise click.UsageError(f"{option}: is only for --task-type {names}")
    if issubclass(kind, ImageToImage | ImageToVideo) and "image" not in given:
        raise click.UsageError(f"--image: is needed for --task-type {chosen}")
    return kind, given


def _work(
    out: str, requests: Callable[[], Iterable[Request]] | None, options: dict[str, Any]
) -> int:
    from ..settings import checked_prices
    from .setup import Options
    from .work import Task, work

    task = Task(
        out=out,
        requests=requests,
        work_dir=options.pop("work_dir", None),
        timeout=options.pop("timeout"),
        yes=options.pop("yes", False),
        as_json=options.pop("as_json"),
        options=Options(prices=checked_prices(options.pop("prices", None)), **options),
    )
    return int(_run(work, task))


def _listed(
    files: tuple[str, ...], parse: Callable[[Iterable[bytes], str], Iterator[_T]]
) -> Callable[[], Iterator[_T]]:
    """The entries of some files, anew with each call: a list is checked first, and then taken in."""
    spooled = {name: _read_all(name) for name in files if _can_be_read_once(name)}

    def entries() -> Iterator[_T]:
        from ..prompt_files import opened

        for name in files:
            if name in spooled:
                yield from parse(io.BytesIO(spooled[name]), "stdin" if name == "-" else name)
            else:
                with opened(name) as file:
                    yield from parse(file, name)

    return entries


def _can_be_read_once(name: str) -> bool:
    """Whether this is stdin or a pipe, such as a shell's ``<(...)``."""
    if name == "-":
        return True
    try:
        mode = Path(name).stat().st_mode
    except OSError:  # said where it is opened
        return False
    return stat.S_ISFIFO(mode)


def _read_all(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{name}: cannot be read: {error.strerror}", field="prompt") from None
