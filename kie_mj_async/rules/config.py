"""Settings and where they come from: an argument, the environment, ``kie-mj.toml``, or a default.

The file is the command line's. Keys have no place in it, for such files get committed; and one that
merely lies in the working directory may have come with somebody else's project, so it names no host
that the key, or work to be paid for, could be sent to, nobody who could read what is sent, and no
risk of paying twice.
"""

from __future__ import annotations

import ipaddress
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from ..errors import ConfigError
from ..fields import is_http_url

FILE_NAME: Final = "kie-mj.toml"
BASE_URL: Final = "https://api.kie.ai"
UPLOAD_URL: Final = "https://kieai.redpandaai.co"

DEFAULT: Final = "default"
"""The source of what nobody has set."""
OPTION: Final = "option"
"""The source of an argument, or of an option of the command line."""
MASK: Final = "***"
DIRECT: Final = "direct"
"""The proxy of who wants none, whatever else says so."""

_SECRETS: Final = {
    "api_key": "KIE_API_KEY", "kie_api_key": "KIE_API_KEY", "key": "KIE_API_KEY",
    "webhook_key": "KIE_WEBHOOK_KEY", "kie_webhook_key": "KIE_WEBHOOK_KEY",
}  # fmt: skip

Check = Callable[[object], bool]


@attrs.frozen
class Setting:
    """What can be set.

    Attributes:
        name: Its key in the file, and its argument's name.
        default: What holds without it; ``None`` for nothing, or what depends on the machine.
        variable: The environment variable that sets it, if one does.
        fits: Whether a value can be it; ``None`` for what the file may not hold.
        allowed: What it may be, for people.
        secret: Whether it is never shown.
        is_path: Whether it is a path, which the file writes as seen from its own folder.
        is_host: Whether it is a URL, which may hold a password.
        fits_found: What it may be, of this, in a file that was merely found in the working directory.
        customary: Variables of other programs that set it too, the one that counts most first. What
            is meant for us counts more: they come behind the file.
    """

    name: str
    default: str | float | None = None
    variable: str | None = None
    fits: Check | None = None
    allowed: str = ""
    secret: bool = False
    is_path: bool = False
    is_host: bool = False
    fits_found: Check = lambda _: True
    customary: tuple[str, ...] = ()


@attrs.frozen
class Resolved:
    """A setting's value.

    Attributes:
        setting: What is set.
        value: Its value; ``None`` for none.
        source: ``"option"``, an environment variable's name, a file with the line, or ``"default"``.
    """

    setting: Setting
    value: Any = attrs.field(repr=False)
    source: str

    @property
    def is_ours(self) -> bool:
        """Whether somebody has set it, and meant it for this program."""
        return self.source != DEFAULT and self.source not in self.setting.customary

    @property
    def shown(self) -> Any:
        """The value, fit to be shown: no key, no password."""
        if self.value is None:
            return None
        if self.setting.secret:
            return MASK
        return without_password(self.value) if self.setting.is_host else self.value


@attrs.frozen
class ConfigFile:
    """A ``kie-mj.toml`` that was read.

    Attributes:
        path: Where it is.
        values: Its values by their settings' names, paths absolute.
        lines: The lines that they stand in, from 1, where those are known.
    """

    path: str
    values: Mapping[str, Any]
    lines: Mapping[str, int] = attrs.field(factory=dict)

    def source(self, name: str) -> str:
        """Where a value stands."""
        line = self.lines.get(name)
        return self.path if line is None else f"{self.path}, line {line}"


def _above_zero(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < math.inf


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _rate(value: object) -> bool:
    if not isinstance(value, str):
        return False
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9}(?:\.[0-9]{1,9})?)", value)
    return found is not None and int(found[1]) >= 1 and float(found[2]) > 0


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _database(value: object) -> bool:
    return isinstance(value, str) and value.startswith(("postgresql://", "postgres://"))


def _choice(value: object) -> bool:
    return value in ("park", "repeat")


def _proxy(value: object) -> bool:
    """A proxy's URL without a password; whether it can be spoken to is seen later."""
    if not isinstance(value, str) or "@" in value:
        return False
    return value == DIRECT or is_http_url(with_scheme(value))


def _is_harmless(url: object) -> bool:
    """Whether a URL leads to the service itself, or stays on this machine."""
    try:
        parts = urlsplit(str(url))
        host = parts.hostname or ""
        if str(url).rstrip("/") in (BASE_URL, UPLOAD_URL):
            return True
        # A database's query can name another host.
        return not parts.query and (host == "localhost" or ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False


def _never(_value: object) -> bool:
    return False


_URL: Final = "an http:// or https:// URL"
_NUMBER: Final = "a number above 0"
_COUNT: Final = "a whole number from 1"

SETTINGS: Final = (
    Setting("api_key", variable="KIE_API_KEY", secret=True),
    Setting("webhook_key", variable="KIE_WEBHOOK_KEY", secret=True),
    Setting(
        "base_url", BASE_URL, "KIE_BASE_URL", is_http_url, _URL,
        is_host=True, fits_found=_is_harmless,
    ),
    Setting(
        "upload_url", None, "KIE_UPLOAD_URL", is_http_url, _URL,
        is_host=True, fits_found=_is_harmless,
    ),
    Setting(
        "proxy", None, "KIE_PROXY", _proxy,
        f'http://host:port, https://host:port or "{DIRECT}" (KIE_PROXY may hold a password, too)',
        is_host=True, fits_found=_never,
        customary=("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
    ),
    Setting("no_proxy", customary=("no_proxy", "NO_PROXY")),
    Setting(
        "ca_file", None, "KIE_CA_FILE", _text, "a file", is_path=True, fits_found=_never
    ),
    Setting("state_dir", None, "KIE_STATE_DIR", _text, "a folder", is_path=True),
    Setting("rate", "20/10", None, _rate, 'CREATES/SECONDS such as "20/10"'),
    Setting("in_flight", 100, None, _whole, _COUNT),
    Setting("polls_per_second", 5.0, None, _above_zero, _NUMBER),
    Setting(
        "on_unknown", "park", None, _choice, '"park" or "repeat"',
        fits_found=lambda value: value == "park",
    ),
    Setting("max_credits", None, None, _above_zero, _NUMBER),
    Setting("prices", None, None, _text, "a file", is_path=True),
    Setting("timeout", 1800.0, None, _above_zero, "seconds above 0"),
    Setting("request_timeout", 60.0, None, _above_zero, "seconds above 0"),
    Setting("stall_timeout", 30.0, None, _above_zero, "seconds above 0"),
    Setting("max_file_bytes", 1 << 30, None, _whole, _COUNT),
    Setting(
        "database_url", None, "KIE_DATABASE_URL", _database, "a postgresql:// URL",
        is_host=True, fits_found=_is_harmless,
    ),
)  # fmt: skip
BY_NAME: Final = {one.name: one for one in SETTINGS}


def read_config(text: str, path: str, *, home: str, found: bool) -> ConfigFile:
    """The settings of a ``kie-mj.toml``.

    Args:
        text: The TOML.
        path: Where it is, absolute; it names the file in errors, and paths in it begin there.
        home: The user's home, which ``~`` stands for.
        found: Whether it was found in the working directory, so that nobody has chosen it.

    Raises:
        ConfigError: It is no such file; the message names the key and what is allowed.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    lines = _lines(text)
    values = {}
    for name, value in table.items():
        line = lines.get(name)
        place = f"{path}: {name}" if line is None else f"{path}: line {line}: {name}"
        values[name] = _checked(place, name, value, found=found)
        if BY_NAME[name].is_path:
            values[name] = _seen_from(path, value, home)
    return ConfigFile(path, values, lines)


def _lines(text: str) -> dict[str, int]:
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if begins := re.match(r"\s*\[*\s*\"?([A-Za-z0-9_-]+)\"?\s*[=.\]]", line):
            lines.setdefault(begins[1], number)
    return lines


def _checked(place: str, name: str, value: object, *, found: bool) -> object:
    if variable := _SECRETS.get(name.lower().replace("-", "_")):
        raise ConfigError(
            f"{place}: keys do not belong in a file that may get committed or copied; take it out "
            f"and set {variable} in the environment"
        )
    setting = BY_NAME.get(name)
    if setting is None or setting.fits is None:
        known = ", ".join(one.name for one in SETTINGS if one.fits is not None)
        raise ConfigError(f"{place}: is no setting; use one of {known}")
    if not setting.fits(value):
        told = repr(without_password(value) if isinstance(value, str) else value)
        raise ConfigError(f"{place}: {told} is not allowed; use {setting.allowed}")
    if found and not setting.fits_found(value):
        instead = (
            f"set {setting.variable}" if setting.variable else f"give {_option(name)} yourself"
        )
        raise ConfigError(
            f"{place}: a file in the working directory may come from others, so it cannot say this; "
            f"{instead}, or choose the file with --config"
        )
    return value


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _seen_from(path: str, value: str, home: str) -> str:
    if value == "~" or value.startswith(("~/", "~\\")):
        return str(PurePath(home, value[2:]))
    return str(PurePath(path).parent / value)


def resolve(
    given: Mapping[str, Any], environ: Mapping[str, str], files: Sequence[ConfigFile] = ()
) -> dict[str, Resolved]:
    """Every setting, from the first place that has it.

    An upload host in a file counts only with the API host that it was written for: where an API host
    comes from a place before it, uploads go where that one's do, and the key with them.

    Args:
        given: Arguments or options, by their settings' names; ``None`` is not given.
        environ: The environment; a variable that is empty is not set.
        files: What was read, the one that counts most first.
    """
    ranked = {one.name: _first(one, given, environ, files) for one in SETTINGS}
    resolved = {name: found for name, (_, found) in ranked.items()}
    api, uploads = ranked["base_url"][0], ranked["upload_url"][0]
    if api < uploads and uploads >= _FILES:
        resolved["upload_url"] = Resolved(BY_NAME["upload_url"], None, DEFAULT)
    return resolved


_FILES: Final = 2
"""The rank of the first file, behind arguments and the environment."""


def _first(
    setting: Setting,
    given: Mapping[str, Any],
    environ: Mapping[str, str],
    files: Sequence[ConfigFile],
) -> tuple[int, Resolved]:
    """The rank of the first place that has it, and what stands there."""
    if (value := given.get(setting.name)) is not None:
        return 0, Resolved(setting, value, OPTION)
    if setting.variable is not None and (text := environ.get(setting.variable)):
        return 1, Resolved(setting, text, setting.variable)
    for rank, file in enumerate(files, _FILES):
        if setting.name in file.values:
            found = file.values[setting.name]
            return rank, Resolved(setting, found, file.source(setting.name))
    last = _FILES + len(files)
    for name in setting.customary:
        if text := environ.get(name):
            return last, Resolved(setting, text, name)
    return last, Resolved(setting, setting.default, DEFAULT)


def with_scheme(proxy: str) -> str:
    """A proxy's URL, whose scheme may be missing."""
    return proxy if "://" in proxy else f"http://{proxy}"


def without_password(text: str) -> str:
    """A URL, or a database's parameters, fit to be shown; masks too much rather than too little."""
    scheme, separator, rest = text.partition("://")
    if not separator:  # a proxy's scheme may be missing
        scheme, rest = "", text
    if "@" in rest:
        credentials, _, place = rest.rpartition("@")
        user, colon, _ = credentials.partition(":")
        rest = f"{user}:{MASK}@{place}" if colon else f"{MASK}@{place}"
    return re.sub(
        r"(?i)((?:password|token|secret|key|sig)[a-z_]*\s*=\s*)('[^']*'|[^&\s]+)",
        rf"\g<1>{MASK}",
        scheme + separator + rest,
    )
