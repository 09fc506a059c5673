"""The table of settings, from the one that resolves them."""

from __future__ import annotations

import re
from typing import Any, Final

import click
import griffe

from kie_mj_async.cli import configured
from kie_mj_async.cli.app import cli
from kie_mj_async.client import Client
from kie_mj_async.rules.config import SETTINGS, Setting

_OTHERS: Final = {
    "no_proxy": "Hosts that no proxy is used for, separated by commas.",
}
"""What neither ``Client`` nor an option explains."""


def settings_in_markdown() -> str:
    """Every setting: its names in each place, what it may be, and what it is for."""
    head = "| setting | set by | default | what it is |\n| --- | --- | --- | --- |"
    meanings, options = _meanings(), _options()
    return "\n".join([head, *(_row(one, meanings, options) for one in SETTINGS)])


def _row(one: Setting, meanings: dict[str, str], options: dict[str, click.Option]) -> str:
    option = options.get(one.name)
    meaning = meanings.get(one.name) or (option and option.help) or _OTHERS.get(one.name)
    if not meaning:
        raise LookupError(f"{one.name}: nothing says what it is for")
    remarks = [] if one.name in meanings else ["not of `Client`"]
    if one.fits is None:
        remarks.append("not in the file")
    names = [name for name in (one.variable, *one.customary) if name]
    names += [] if option is None else [option.opts[0]]
    allowed = f" In the file: {one.allowed}." if one.fits is not None and not one.is_path else ""
    cells = (
        "<br>".join([f"`{one.name}`", *remarks]),
        "<br>".join(f"`{name}`" for name in names),
        "" if one.default is None else f"`{_shown(one.default)}`",
        (_sentence(meaning) + allowed).replace("|", "\\|"),
    )
    return f"| {' | '.join(cells)} |"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _sentence(text: str) -> str:
    text = re.sub(r" \(kie-api\.md[^)]*\)", "", " ".join(text.split()))
    text = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", text).replace("``", "`")
    return text if text.endswith(".") else f"{text}."


def _meanings() -> dict[str, str]:
    """What ``Client`` says of its arguments."""
    sections = griffe.Docstring(Client.__doc__ or "", lineno=1).parse(
        "google", warn_missing_types=False, warn_unknown_params=False
    )
    return {
        one.name: one.description
        for section in sections
        if section.kind is griffe.DocstringSectionKind.parameters
        for one in section.value
    }


def _options() -> dict[str, click.Option]:
    """The options that set something, each from the first command that has it."""
    found: dict[str, click.Option] = {}
    for command in cli.commands.values():
        for one in command.params:
            if isinstance(one, click.Option) and one.name in configured._OPTIONS:
                found.setdefault(str(one.name), one)
    return found
