"""Settings: arguments first, then the environment; what cannot work is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crash_report import crash_report
from support import KEY

from kie_mj_async import Client
from kie_mj_async.errors import ConfigError
from kie_mj_async.rules.pacing import Rate
from kie_mj_async.secret import Secret
from kie_mj_async.settings import (
    DEFAULT_BASE_URL,
    DEFAULT_UPLOAD_URL,
    Settings,
    at_least_one,
    checked_base_url,
    checked_key,
    checked_prices,
    checked_rate,
    checked_upload_url,
    one_of,
    positive,
)

HOOK, PASSWORD = "webhook-key-5d1e", "pass-7c40"


def test_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument wins over the environment; blanks around it do not count."""
    monkeypatch.setenv("KIE_API_KEY", " from-env\n")
    assert checked_key(None).reveal() == "from-env"
    assert checked_key(" from-arg ").reveal() == "from-arg"


@pytest.mark.parametrize("key", ["", "  ", "two words", "sch\u00fcssel", "line\nbreak", "\x07bell"])
def test_what_is_no_key(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, or one that no header could carry, is refused without being shown."""
    monkeypatch.setenv("KIE_API_KEY", key)
    for given in (key, None):
        with pytest.raises(ConfigError, match="KIE_API_KEY") as caught:
            checked_key(given)
        if key.strip():
            assert key.strip() not in str(caught.value)


def test_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument, the environment, the service itself; without a slash at the end."""
    monkeypatch.delenv("KIE_BASE_URL", raising=False)
    assert checked_base_url(None) == DEFAULT_BASE_URL
    monkeypatch.setenv("KIE_BASE_URL", "http://127.0.0.1:8000/")
    assert checked_base_url(None) == "http://127.0.0.1:8000"
    assert checked_base_url("https://other.test") == "https://other.test"


@pytest.mark.parametrize(
    "url", ["api.kie.ai", "ftp://x.test", "http://", "http://a b", "file:///x"]
)
def test_what_is_no_host(url: str) -> None:
    """Anything but an http(s) URL is refused, with what it was."""
    with pytest.raises(ConfigError, match="base_url"):
        checked_base_url(url)


def test_the_upload_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument, the environment, the service's own; without a slash at the end."""
    monkeypatch.delenv("KIE_UPLOAD_URL", raising=False)
    assert checked_upload_url(None, DEFAULT_BASE_URL) == DEFAULT_UPLOAD_URL
    monkeypatch.setenv("KIE_UPLOAD_URL", "http://127.0.0.1:8001/")
    assert checked_upload_url(None, DEFAULT_BASE_URL) == "http://127.0.0.1:8001"
    assert checked_upload_url("https://other.test/", DEFAULT_BASE_URL) == "https://other.test"
    for url in ("kieai.redpandaai.co", "ftp://x.test", "http://"):
        with pytest.raises(ConfigError, match=r"upload_url: .*KIE_UPLOAD_URL"):
            checked_upload_url(url, DEFAULT_BASE_URL)


@pytest.mark.parametrize(
    ("base_url", "upload_url"),
    [
        ("https://api.kie.ai", DEFAULT_UPLOAD_URL),
        ("https://API.kie.ai:443", DEFAULT_UPLOAD_URL),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https://gateway.test/kie", "https://gateway.test/kie"),
        ("https://api.kie.ai.evil.test", "https://api.kie.ai.evil.test"),
    ],
)
def test_another_api_host_takes_the_uploads_too(
    monkeypatch: pytest.MonkeyPatch, base_url: str, upload_url: str
) -> None:
    """A simulator's or a gateway's key never reaches the service's upload host by default."""
    monkeypatch.delenv("KIE_UPLOAD_URL", raising=False)
    assert checked_upload_url(None, base_url) == upload_url
    assert Settings(key=Secret("k"), base_url=base_url, host="x").upload_url == upload_url


def test_the_rate() -> None:
    """A pair of a whole number and seconds."""
    assert checked_rate((20, 10)) == Rate(20, 10.0)


WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: checked_rate(20), "rate"),  # type: ignore[arg-type]
    (lambda: checked_rate((1, 2, 3)), "rate"),  # type: ignore[arg-type]
    (lambda: checked_rate((0, 10)), "rate: creates"),
    (lambda: checked_rate((True, 10)), "rate: creates"),
    (lambda: checked_rate((2.5, 10)), "rate: creates"),  # type: ignore[arg-type]
    (lambda: checked_rate((20, 0)), "rate: seconds"),
    (lambda: at_least_one("in_flight", 0), "in_flight"),
    (lambda: positive("timeout", 0), "timeout"),
    (lambda: positive("timeout", float("inf")), "timeout"),
    (lambda: positive("timeout", float("nan")), "timeout"),
    (lambda: positive("timeout", True), "timeout"),
    (lambda: positive("timeout", "9"), "timeout"),  # type: ignore[arg-type]
    (lambda: one_of("on_unknown", "maybe", ("park", "repeat")), "park, repeat"),
]


@pytest.mark.parametrize(("make", "named"), WRONG)
def test_what_cannot_work(make: Callable[[], object], named: str) -> None:
    """A value out of range is refused with its name."""
    with pytest.raises(ConfigError, match=named):
        make()


def test_what_works() -> None:
    """Good values come back, numbers as floats."""
    kept: list[Any] = [at_least_one("n", 1), positive("s", 3), one_of("w", "a", ("a", "b"))]
    assert kept == [1, 3.0, "a"]
    assert isinstance(kept[1], float)


def test_a_price_table_that_cannot_be_read(tmp_path: Path) -> None:
    """A price file that is missing or no text is refused with its name; none is the default."""
    assert checked_prices(None) == checked_prices(None)
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        checked_prices(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"bad\.toml.*UTF-8"):
        checked_prices(tmp_path / "bad.toml")


BAD = [
    {"base_url": "ftp://x"},
    {"upload_url": "nowhere"},
    {"rate": (0, 10)},
    {"in_flight": 0},
    {"on_unknown": "maybe"},
    {"max_credits": -1},
    {"prices": "/nowhere/prices.toml"},
    {"ca_file": "/nowhere/ca.pem"},
    {"proxy": f"socks5://me:{PASSWORD}@proxy.test:1080"},
    {"proxy": f"http://me:{PASSWORD}@proxy.test:8080", "base_url": "http://api.test"},
    {"api_key": f"{KEY} \x00"},
    {"session_owner": True},
    {"stall_timeout": 0},
]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("environment", [False, True])
def test_no_frame_of_a_settings_error_holds_a_secret(
    monkeypatch: pytest.MonkeyPatch, bad: dict[str, Any], environment: bool
) -> None:
    """Tools that show a traceback with the locals of its frames show no key and no password."""
    given: dict[str, Any] = {"api_key": KEY, "webhook_key": HOOK, **bad}
    if environment:
        monkeypatch.setenv("KIE_API_KEY", given.pop("api_key").replace("\x00", "\x01"))
        monkeypatch.setenv("KIE_WEBHOOK_KEY", given.pop("webhook_key"))
        if "proxy" in given:
            monkeypatch.setenv("KIE_PROXY", given.pop("proxy"))
    with pytest.raises(ConfigError) as caught:
        Client(**given)
    told = crash_report(caught.value)
    for secret in (KEY, HOOK, PASSWORD):
        assert secret not in told
