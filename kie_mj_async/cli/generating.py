"""The commands that fill a directory: from prompts, from tasks, or from what it holds unfinished."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from . import options as of
from .configured import limits
from .shell import Command, Decorator, a_file, a_folder, awaited, together

if TYPE_CHECKING:
    from ..requests import FollowUp, Request


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", shell_complete=a_file)
@together(
    of.out, of.making, of.list_format, of.prompts, of.after, of.listen, of.dry_run, of.running
)
def render(files: tuple[str, ...], out: str, form: Any, **options: Any) -> int:
    """Prompt lists to images and videos; "-" is stdin.

    A list is text with one prompt a line (# starts a comment), or CSV, TSV or JSONL with a column
    "prompt" and one for each option that some prompts have otherwise (task_type, aspect_ratio,
    image, then and so on). Prompts may hold Midjourney's flags and permutations:
    "{red, green} bird --ar 16:9".

    Run it again to go on where it stopped: what is known already is not paid for again.
    """
    from .making import prompts_in, requests_of, taken_wishes

    _check_listening(options)
    return _work(out, requests_of(prompts_in(files, form), taken_wishes(options)), options)


@click.command(cls=Command)
@click.argument("prompt")
@together(of.out, of.making, of.prompts, of.after, of.listen, of.dry_run, of.running)
def generate(prompt: str, out: str, **options: Any) -> int:
    """One prompt to images or videos. Run it again to go on where it stopped.

    It may hold Midjourney's flags and permutations: "{red, green} bird --ar 16:9".
    """
    from .making import requests_of, taken_wishes

    _check_listening(options)
    return _work(out, requests_of(lambda: iter([prompt]), taken_wishes(options)), options)


def _of_a_task(*own: Decorator) -> Decorator:
    """What the follow-ups of tasks take."""
    task_id, index = click.argument("task_id"), click.argument("index", type=int)
    return together(task_id, index, of.out, *own, of.follow_up, of.listen, of.dry_run, of.running)


@click.command(cls=Command)
@_of_a_task()
def upscale(task_id: str, index: int, out: str, **options: Any) -> int:
    """One of a task's images, larger. INDEX counts from 0."""
    from ..requests import Upscale

    return _follow_up(Upscale, task_id, index, out, options)


@click.command(cls=Command)
@_of_a_task()
def vary(task_id: str, index: int, out: str, **options: Any) -> int:
    """Four variations of one of a task's images. INDEX counts from 0."""
    from ..requests import Vary

    return _follow_up(Vary, task_id, index, out, options)


@click.command(cls=Command)
@_of_a_task(of.extend_prompt)
def extend(task_id: str, index: int, out: str, prompt: str, **options: Any) -> int:
    """One of a task's videos, longer. INDEX counts from 0."""
    from ..requests import Extend

    return _follow_up(Extend, task_id, index, out, options, prompt=prompt)


@click.command()
@click.argument("task_ids", nargs=-1, metavar="TASK_ID...")
@click.option(
    "--from", "files", multiple=True, metavar="FILE", shell_complete=a_file,
    help='A list of ids, one a line; "-" for stdin.',
)  # fmt: skip
@together(of.out, of.saving)
def archive(task_ids: tuple[str, ...], files: tuple[str, ...], out: str, **options: Any) -> int:
    """Save the results of tasks made elsewhere: by a web app, a colleague, another machine.

    Nothing is paid. Tasks that are still generating are waited for. Run it again to go on where it
    stopped: what is saved already is not fetched again.
    """
    if not task_ids and not files:
        raise click.UsageError("name the tasks: TASK_ID..., or --from FILE")
    from ..requests import ExistingTask
    from ..rules.prompts import parse_task_ids
    from .making import listed

    more = listed(files, lambda lines, source, _folder: parse_task_ids(lines, source))

    def tasks() -> Iterator[Request]:
        yield from map(ExistingTask, task_ids)
        yield from more()

    return _work(out, tasks, options)


@click.command(cls=Command)
@click.argument("directory", metavar="DIR", shell_complete=a_folder)
@together(of.listen, of.running)
def resume(directory: str, **options: Any) -> int:
    """Go on with what is unfinished in a directory."""
    return _work(directory, None, options)


def _follow_up(
    kind: type[FollowUp], task_id: str, index: int, out: str, options: dict[str, Any], **more: Any
) -> int:
    from ..rules.making import Wishes
    from .making import requests_of, taken_fields

    _check_listening(options)
    request = kind(task_id, index, **taken_fields(options), **more)
    return _work(out, requests_of(lambda: iter([request]), Wishes()), options)


def _check_listening(options: dict[str, Any]) -> None:
    if options["listen"] and not options["callback_url"]:
        message = (
            "--listen: add --callback-url URL, the address at which the service reaches this place"
        )
        raise click.UsageError(message)


def _work(
    out: str, requests: Callable[[], Iterable[Request]] | None, options: dict[str, Any]
) -> int:
    from ..settings import checked_prices
    from .setup import Options
    from .work import Task, work

    dry_run = options.pop("dry_run", False)
    task = Task(
        out=out,
        requests=requests,
        work_dir=options.pop("work_dir", None),
        timeout=options.pop("timeout"),
        yes=options.pop("yes", False),
        as_json=options.pop("as_json"),
        options=Options(
            prices=checked_prices(options.pop("prices", None)), limits=limits(), **options
        ),
    )
    if dry_run:
        from .rehearsal import rehearse

        return int(awaited(rehearse(task)))
    return int(awaited(work(task)))
