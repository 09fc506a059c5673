"""The command line's reference, from the commands themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from html import escape

import click

from kie_mj_async.cli.app import cli
from kie_mj_async.cli.shell import Option


def commands_in_markdown() -> str:
    """Every command: how it is called, what it does, and its options."""
    return "\n".join(_lines(cli, click.Context(cli, info_name="kie-mj"), level=2))


def _lines(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    yield f"{'#' * level} {context.command_path}\n"
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"```text\n{usage}\n```\n"
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield plain(" ".join(paragraph.split())) + "\n"
    yield from _options(command, context)
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            inner = click.Context(one, info_name=name, parent=context)
            yield from _lines(one, inner, level if command is cli else level + 1)


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    rows: dict[str, list[str]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or not record[1] or "--help" in parameter.opts:
            continue
        section = (isinstance(parameter, Option) and parameter.section) or "Other options"
        names, told = record
        rows.setdefault(section, []).append(f"| {_typed(names)} | {plain(told)} |")
    last = rows.pop("Other options", None)
    for section, lines in {**rows, **({"Other options": last} if last else {})}.items():
        yield f"| {section} | |\n| --- | --- |\n" + "\n".join(lines) + "\n"


def _typed(text: str) -> str:
    return f"<code>{escape(text).replace('|', '&#124;')}</code>"


def plain(text: str) -> str:
    """A text that is no Markdown, as Markdown; what is typed as it stands is set as code."""
    marked = re.sub(r"([\\*_|\[\]{}`])", r"\\\1", escape(text, quote=False))
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*|KIE(?:\\_[A-Z]+)+)", _code, marked)


def _code(found: re.Match[str]) -> str:
    return "`" + found[0].replace("\\", "") + "`"
