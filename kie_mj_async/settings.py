"""A client's settings: from arguments and the environment to checked values."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypedDict, TypeVar
from urllib.parse import urlsplit

import attrs

from .errors import ConfigError
from .requests import is_http_url
from .rules import config
from .rules.billing import OnUnknown, Prices, read_prices
from .rules.pacing import Rate
from .rules.proxies import Proxy, from_environment, readable
from .secret import Secret, Unseen

DEFAULT_BASE_URL: Final = config.BASE_URL
DEFAULT_UPLOAD_URL: Final = config.UPLOAD_URL
JOB_TIMEOUT: Final = 1800.0
"""Seconds to wait for a task by default; the service takes a minute to ten."""

MAX_FILE_BYTES: Final = 1 << 30
STALL_TIMEOUT: Final = 30.0

_SCALES: Final[dict[str, float]] = {}
"""How fast the simulators run that a test of this process has open, by their URL."""

_T = TypeVar("_T")


def upload_host_of(base_url: str) -> str:
    """The upload host that goes with an API host.

    The service has two; whatever else stands for the API stands for both. So a simulator takes
    uploads too, and its key, or a gateway's, never reaches the service's host.
    """
    genuine = urlsplit(base_url).hostname == urlsplit(DEFAULT_BASE_URL).hostname
    return DEFAULT_UPLOAD_URL if genuine else base_url


@attrs.frozen
class Settings:
    """A client's settings, checked.

    Attributes:
        key: The account's key.
        base_url: The API host.
        host: The name that ledgers know the host by.
        upload_url: The host that takes uploads.
        rate: Creates per window.
        in_flight: Tasks that may run at once.
        webhook_key: What callbacks are signed with, if the account has such a key.
        on_unknown: What to do about a create whose fate is unknown.
        max_credits: The cap on what this client may spend.
        prices: What tasks cost.
        state_dir: Where state that outlives a run belongs; ``None`` for nowhere.
        request_timeout: Seconds an API call may take.
        polls_per_second: Polls that all pending tasks share.
        max_file_bytes: The largest result to accept.
        stall_timeout: Seconds without progress after which a transfer is tried again.
        proxy: The proxy that requests go through.
        ca_file: Certificates of authorities to trust beside the system's.
        time_scale: How much faster than real the service runs (a simulator's 0.05); scales waits.

    Raises:
        ConfigError: The proxy could read the key.
    """

    key: Secret
    base_url: str
    host: str
    upload_url: str = attrs.field(
        default=attrs.Factory(lambda self: upload_host_of(self.base_url), takes_self=True)
    )
    webhook_key: Secret | None = None
    rate: Rate = attrs.field(factory=Rate)
    in_flight: int = 100
    on_unknown: OnUnknown = "park"
    max_credits: float | None = None
    prices: Prices = attrs.field(factory=Prices)
    state_dir: Path | None = None
    request_timeout: float = 60.0
    polls_per_second: float = 5.0
    max_file_bytes: int = MAX_FILE_BYTES
    stall_timeout: float = STALL_TIMEOUT
    proxy: Proxy | None = None
    ca_file: Path | None = None
    time_scale: float = 1.0

    def __attrs_post_init__(self) -> None:
        if (url := readable(self.proxy, (self.base_url, self.upload_url))) is not None:
            raise ConfigError(
                f"proxy: with {config.without_password(url)} it could read the API key; use https://, "
                "or except the host from the proxy with NO_PROXY"
            )


class Surroundings(TypedDict):
    """Those of the settings that arguments or the environment give: see :class:`Settings`."""

    key: Secret
    base_url: str
    host: str
    upload_url: str
    webhook_key: Secret | None
    state_dir: Path
    proxy: Proxy | None
    ca_file: Path | None


def surroundings(
    *,
    api_key: Secret | None = None,
    base_url: str | None = None,
    upload_url: str | None = None,
    webhook_key: Secret | None = None,
    state_dir: str | os.PathLike[str] | None = None,
    proxy: Secret | None = None,
    ca_file: str | os.PathLike[str] | None = None,
) -> Surroundings:
    """Who asks whom, and by which way: from arguments, else the environment, else the service's own.

    Raises:
        ConfigError: One of them cannot work. No frame of its traceback holds a secret.
    """
    from .account import state_directory

    with Unseen():
        url = checked_base_url(base_url)
        return {
            "key": checked_key(_revealed(api_key)),
            "base_url": url,
            "host": url,
            "upload_url": checked_upload_url(upload_url, url),
            "webhook_key": checked_webhook_key(_revealed(webhook_key)),
            "state_dir": state_directory(state_dir),
            "proxy": checked_proxy(_revealed(proxy)),
            "ca_file": checked_ca_file(ca_file),
        }


def _revealed(secret: Secret | None) -> str | None:
    return None if secret is None else secret.reveal()


@contextmanager
def scaled_time(base_url: str, time_scale: float) -> Iterator[None]:
    """Let each ``Client`` that is made for a simulator meanwhile live in the simulator's time.

    Args:
        base_url: Where it listens.
        time_scale: Factor on its durations.
    """
    _SCALES[base_url] = time_scale
    try:
        yield
    finally:
        del _SCALES[base_url]


def in_its_time(settings: Settings) -> Settings:
    """Settings whose waits and window are a simulator's, where :func:`scaled_time` knows one."""
    scale = _SCALES.get(settings.base_url)
    if scale is None:
        return settings
    rate = attrs.evolve(settings.rate, seconds=settings.rate.seconds * scale)
    return attrs.evolve(settings, rate=rate, time_scale=scale)


def checked_key(key: str | None) -> Secret:
    """The account's key from an argument or the environment.

    Raises:
        ConfigError: There is none, or it cannot be one.
    """
    found = (key if key is not None else os.environ.get("KIE_API_KEY", "")).strip()
    if not found:
        raise ConfigError(
            "no API key: set KIE_API_KEY (https://kie.ai/api-key has one for you); "
            "to try without one, use the command line's --simulate"
        )
    if not found.isascii() or not found.isprintable() or " " in found:
        raise ConfigError("the API key holds characters that no key has; check KIE_API_KEY")
    return Secret(found)


def checked_webhook_key(key: str | None) -> Secret | None:
    """The account's webhook key from an argument or the environment; an empty one is none."""
    found = key if key is not None else os.environ.get("KIE_WEBHOOK_KEY", "")
    return Secret(found) if found else None


def checked_base_url(url: str | None) -> str:
    """The API host from an argument or the environment.

    Raises:
        ConfigError: It is no http(s) URL.
    """
    return _checked_host("base_url", "KIE_BASE_URL", url, DEFAULT_BASE_URL)


def checked_upload_url(url: str | None, base_url: str) -> str:
    """The host that takes uploads, from an argument or the environment.

    Args:
        url: The argument.
        base_url: The API host, checked; without another word its upload host is the one.

    Raises:
        ConfigError: It is no http(s) URL.
    """
    return _checked_host("upload_url", "KIE_UPLOAD_URL", url, upload_host_of(base_url))


def _checked_host(name: str, variable: str, url: str | None, default: str) -> str:
    found = url or os.environ.get(variable) or default
    if not is_http_url(found):
        message = f"{name}: {found!r} is not allowed; use an http:// or https:// URL ({variable})"
        raise ConfigError(message)
    return found.rstrip("/")


def checked_proxy(proxy: str | None) -> Proxy | None:
    """The proxy from an argument or the environment (``KIE_PROXY``, else the customary variables).

    Raises:
        ConfigError: It is none that can be spoken to.
    """
    return from_environment(proxy, os.environ)


def checked_ca_file(path: str | os.PathLike[str] | None) -> Path | None:
    """The file of certificates from an argument or the environment.

    Raises:
        ConfigError: It cannot be read, or holds no certificate.
    """
    found = path if path is not None else os.environ.get("KIE_CA_FILE")
    if not found:
        return None
    import ssl

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(found)
        number = context.cert_store_stats()["x509"]
    except (ssl.SSLError, ValueError):
        number = 0
    except OSError as error:
        message = f"ca_file: {found} cannot be read: {error.strerror} (KIE_CA_FILE)"
        raise ConfigError(message) from None
    if not number:
        raise ConfigError(
            f"ca_file: {found} holds no certificate that can be read; use PEM, that is text with "
            "-----BEGIN CERTIFICATE----- in it (KIE_CA_FILE)"
        )
    return Path(found)


def checked_rate(rate: tuple[int, float]) -> Rate:
    """Creates per seconds.

    Raises:
        ConfigError: It is no such pair.
    """
    try:
        creates, seconds = rate
    except (TypeError, ValueError):
        message = f"rate: {rate!r} is not allowed; use (creates, seconds) such as (20, 10)"
        raise ConfigError(message) from None
    return Rate(at_least_one("rate: creates", creates), positive("rate: seconds", seconds))


def checked_prices(path: str | os.PathLike[str] | None) -> Prices:
    """A price table from a TOML file; the service's own 25 credits a task without one.

    Raises:
        ConfigError: The file cannot be read, or is no price table.
    """
    if path is None:
        return Prices()
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{path}: cannot be read: {why}") from None
    return read_prices(text, str(path))


def at_least_one(name: str, value: int) -> int:
    """A whole number from 1.

    Raises:
        ConfigError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name}: {value!r} is not allowed; use a whole number from 1")
    return value


def positive(name: str, value: float) -> float:
    """A finite number above 0.

    Raises:
        ConfigError: It is not.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
        raise ConfigError(f"{name}: {value!r} is not allowed; use a number above 0")
    return float(value)


def one_of(name: str, value: _T, allowed: tuple[str, ...]) -> _T:
    """One of the allowed words.

    Raises:
        ConfigError: It is not.
    """
    if value not in allowed:
        raise ConfigError(f"{name}: {value!r} is not allowed; use one of {', '.join(allowed)}")
    return value
