"""What every command shares: a help page in sections, and an event loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_T = TypeVar("_T")

Decorator = Callable[[Any], Any]


class Option(click.Option):
    """An option that knows its section of the help page, if it belongs to one."""

    def __init__(self, *arguments: Any, section: str | None = None, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.section = section


class Command(click.Command):
    """A command whose help page has its options in sections, in the order they are named."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a list for each section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        rest: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Option) and record is not None:
                own = isinstance(parameter, Option) and parameter.section
                (sections.setdefault(own, []) if own else rest).append(record)
        for title, records in (*sections.items(), ("Other options", rest)):
            with formatter.section(title):
                formatter.write_dl(records)


class Group(click.Group):
    """A group that lists its commands in the order they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names."""
        return list(self.commands)


def option(section: str | None, *names: str, **settings: Any) -> Decorator:
    """A click option of a section; of ``None``: of the last one."""
    return click.option(*names, cls=Option, section=section, **settings)


def a_file(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete the name of a file."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def a_folder(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete the name of a folder."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]


def together(*options: Decorator) -> Decorator:
    """Several options as one decorator, in this order."""

    def add(command: Any) -> Any:
        for one in reversed(options):
            command = one(command)
        return command

    return add


def awaited(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """What a coroutine returns, run in an event loop of its own."""
    import asyncio

    return asyncio.run(coroutine)
