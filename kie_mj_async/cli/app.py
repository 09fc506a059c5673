"""The command line as a whole: its commands by name, and how an error becomes a line and an exit code.

What commands do is imported when they run, so that help and mistakes cost nothing.
"""

from __future__ import annotations

from typing import Final

import click
from click.core import ParameterSource

from .._version import __version__
from ..errors import ApiError, BudgetReached, KieError, NotFound, TransportError
from . import configured, fleet, generating, knowing, serving, tending
from .shell import Group, a_file

_BAD_INPUT: Final = 2
_WORK_LEFT: Final = 3


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code. Errors are one line on stderr."""
    try:
        code = cli.main(arguments, prog_name="kie-mj", standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        return _fail("stopped", _WORK_LEFT)
    except click.ClickException as error:
        command = (
            error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        )
        hint = f" (see {command} --help)" if command else ""
        return _fail(error.format_message().rstrip(".") + hint, _BAD_INPUT)
    except KieError as error:
        return _fail(_told(error), _BAD_INPUT if _nothing_sent(error) else _WORK_LEFT)
    except KeyboardInterrupt:
        return _fail("stopped", _WORK_LEFT)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    from .view import printable

    click.echo(printable(f"kie-mj: {message}"), err=True)
    return code


def _nothing_sent(error: KieError) -> bool:
    if isinstance(error, NotFound):  # the user named a task that does not exist
        return True
    return not isinstance(error, ApiError | TransportError | BudgetReached)


def _told(error: KieError) -> str:
    """The message, with a field's name as the option that sets it."""
    from .making import in_options

    return in_options(str(error), getattr(error, "field", None))


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="kie-mj")
@click.option(
    "--config", envvar="KIE_CONFIG", metavar="FILE", shell_complete=a_file,
    help="The settings' file; without it kie-mj.toml in the working directory, then the user's own.",
)  # fmt: skip
@click.pass_context
def cli(context: click.Context, config: str | None) -> None:
    """Batch generation with Midjourney through KIE.ai: every image on disk, paid once.

    The account's key comes from KIE_API_KEY. With --simulate nothing is sent anywhere: a simulator
    inside the process answers, needs no key and costs nothing.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(_BAD_INPUT)
    if context.invoked_subcommand != "completion":  # a shell's start hangs on no file
        option = context.get_parameter_source("config") is ParameterSource.COMMANDLINE
        held = configured.load(config, option=option)
        context.with_resource(configured.in_force(context, held))


for _command in (
    *(generating.render, generating.generate, generating.upscale, generating.vary),
    *(generating.extend, generating.archive, generating.resume),
    *(tending.status, tending.resolve, tending.gallery, tending.credits),
    *(serving.simulate, serving.listen),
    *(fleet.worker, fleet.cluster),
    *(knowing.config, knowing.completion),
):
    cli.add_command(_command)
