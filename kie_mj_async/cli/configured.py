"""What the command line is set to: ``kie-mj.toml`` found, read, and put where commands look."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import click

from ..errors import ConfigError
from ..rules.config import DEFAULT, FILE_NAME, ConfigFile, Resolved, read_config, resolve

_OPTIONS: Final = (
    "rate", "in_flight", "on_unknown", "max_credits", "prices", "timeout", "database_url",
)  # fmt: skip
_LIMITS: Final = ("request_timeout", "polls_per_second", "stall_timeout", "max_file_bytes")
_VARIABLES: Final = ("base_url", "upload_url", "state_dir", "proxy", "ca_file")


@attrs.frozen
class Configured:
    """What holds for a command.

    Attributes:
        files: The files that were read, the one that counts most first.
        settings: Every setting by its name.
        option: The file that ``--config`` names.
    """

    files: tuple[ConfigFile, ...]
    settings: dict[str, Resolved]
    option: str | None = None

    def set(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Those of these settings that somebody has set."""
        found = (self.settings[name] for name in names)
        return {one.setting.name: one.value for one in found if one.source != DEFAULT}


def load(chosen: str | None, *, option: bool = False) -> Configured:
    """Read what there is to read.

    Args:
        chosen: The file that the user names; nothing else is read then.
        option: Whether it is named on the command line, so that another command has to name it again.

    Raises:
        ConfigError: A file cannot be read, or is none.
    """
    files = tuple(_files(chosen))
    return Configured(files, resolve({}, os.environ, files), chosen if option else None)


def _files(chosen: str | None) -> Iterator[ConfigFile]:
    if chosen is not None:
        yield _read(Path(chosen).absolute(), found=False)
        return
    here, own = _there(Path.cwd), _there(user_folder)
    if here is not None and here != own:
        yield _read(here, found=True)
    if own is not None:
        yield _read(own, found=False)


def _there(folder: Callable[[], Path]) -> Path | None:
    """The file of a folder, if it has one; no home, or a folder that may not be seen, has none."""
    try:
        path = folder() / FILE_NAME
        return path if path.is_file() else None
    except (OSError, RuntimeError):
        return None


def user_folder() -> Path:
    """Where the user's own settings belong: ``XDG_CONFIG_HOME``, or the platform's place.

    Raises:
        RuntimeError: The user has no home.
    """
    named = os.environ.get("XDG_CONFIG_HOME", "")
    if Path(named).is_absolute():  # else it would lie in the working directory, and be trusted
        return Path(named) / "kie-mj-async"
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or home / "AppData" / "Roaming") / "kie-mj-async"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "kie-mj-async"
    return home / ".config" / "kie-mj-async"


def _read(path: Path, *, found: bool) -> ConfigFile:
    try:
        with path.open("rb") as file:
            owner, text = os.fstat(file.fileno()).st_uid, file.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{path}: cannot be read: {why}") from None
    if found and sys.platform != "win32" and owner not in (os.geteuid(), 0):
        raise ConfigError(
            f"{path}: belongs to another user; choose it with --config if you mean it"
        )
    home = os.path.expanduser("~")  # noqa: PTH111 - never fails
    return read_config(text, str(path), home=home, found=found)


@contextmanager
def in_force(context: click.Context, configured: Configured) -> Iterator[None]:
    """Let a command run with it: options get their defaults, and what has a variable gets that one.

    The hosts and the state directory are asked of the environment in many places, down to the ledger
    of an object store; so a file's are put there, for as long as the command runs.
    """
    commands = context.command
    assert isinstance(commands, click.Group)  # noqa: S101 - the command line as a whole
    defaults = configured.set(_OPTIONS)
    context.default_map = {
        name: dict.fromkeys(one.commands, defaults) if isinstance(one, click.Group) else defaults
        for name, one in commands.commands.items()
    }
    context.obj = configured
    before = dict(os.environ)
    os.environ.update(_texts(configured))
    try:
        yield
    finally:
        for name in _texts(configured):
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


def _texts(configured: Configured) -> dict[str, str]:
    found = (configured.settings[name] for name in _VARIABLES)
    return {str(one.setting.variable): str(one.value) for one in found if one.is_ours}


def limits() -> dict[str, Any]:
    """What is set of a client and has no option, by the names of :class:`Settings`'s fields."""
    context = click.get_current_context(silent=True)
    configured = None if context is None else context.find_object(Configured)
    return {} if configured is None else configured.set(_LIMITS)


def next_command(words: str) -> str:
    """A command for the user to run next: with the file that this one was run with.

    Args:
        words: What stands behind ``kie-mj``.
    """
    context = click.get_current_context(silent=True)
    configured = None if context is None else context.find_object(Configured)
    if configured is None or configured.option is None:
        return f"kie-mj {words}"
    return f"kie-mj --config {shlex.quote(configured.option)} {words}"


def current() -> Configured:
    """What holds for the command that runs."""
    return click.get_current_context().find_object(Configured) or load(None)
