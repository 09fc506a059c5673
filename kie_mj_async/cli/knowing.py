"""The commands about the command line itself: what it is set to, and how a shell completes it."""

from __future__ import annotations

import json
import sys

import attrs
import click

from ..rules.config import Resolved
from . import configured
from .shell import Command, option


@click.command(cls=Command)
@option(None, "--json", "as_json", is_flag=True, help="Print one JSON object.")
def config(as_json: bool) -> int:
    """Every setting, its value and where it comes from. Sends nothing; shows no key, no password.

    What an option does not say comes from the environment, then from kie-mj.toml in the working
    directory, then from the user's own, then from the defaults.
    """
    from .view import printable

    held = configured.current()
    settings = [_with_default(held, one) for one in held.settings.values()]
    if as_json:
        told = {
            "files": [file.path for file in held.files],
            "settings": {
                one.setting.name: {"value": one.shown, "source": one.source} for one in settings
            },
        }
        sys.stdout.write(json.dumps(told) + "\n")
        return 0
    rows = [(one.setting.name, _plain(one.shown), one.source) for one in settings]
    names, values = (max(len(row[column]) for row in rows) for column in (0, 1))
    for name, value, source in rows:
        click.echo(printable(f"{name:{names}}  {value:{values}}  {source}"))
    return 0


def _with_default(held: configured.Configured, one: Resolved) -> Resolved:
    """What a default that hangs on the machine, or on another setting, comes to."""
    if one.value is not None:
        return one
    if one.setting.name == "state_dir":
        from ..account import state_directory

        return attrs.evolve(one, value=str(state_directory()))
    if one.setting.name == "upload_url":
        from ..settings import upload_host_of

        return attrs.evolve(one, value=upload_host_of(held.settings["base_url"].value))
    return one


def _plain(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.15g}" if isinstance(value, float) else str(value)


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print what makes a shell complete commands, options and files.

    For bash: eval "$(kie-mj completion bash)" in ~/.bashrc; likewise zsh in ~/.zshrc. For fish:
    kie-mj completion fish > ~/.config/fish/completions/kie-mj.fish.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click has these three
    commands = context.find_root().command
    click.echo(kind(commands, {}, "kie-mj", "_KIE_MJ_COMPLETE").source())
    return 0
