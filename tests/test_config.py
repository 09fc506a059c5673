"""Settings from several places: which one counts, and what a file may not say."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_mj_async import Client
from kie_mj_async.errors import ConfigError
from kie_mj_async.rules.config import (
    BY_NAME,
    DEFAULT,
    MASK,
    OPTION,
    SETTINGS,
    ConfigFile,
    Resolved,
    read_config,
    resolve,
    without_password,
)

HERE = "/work/kie-mj.toml"


def read(text: str, path: str = HERE, *, found: bool = False) -> ConfigFile:
    return read_config(text, path, home="/home/fox", found=found)


def said(text: str, *, found: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, found=found)
    return str(caught.value)


def test_what_is_nearer_counts() -> None:
    """An argument, then the environment, then the files in their order, then the default."""
    near = ConfigFile("/near.toml", {"base_url": "http://near"}, {"base_url": 3})
    far = ConfigFile("/far.toml", {"base_url": "http://far"})
    environ = {"KIE_BASE_URL": "http://env"}
    given = {"base_url": "http://arg"}
    seen = [
        resolve(*places)["base_url"]
        for places in (
            (given, environ, [near, far]),
            ({"base_url": None}, environ, [near, far]),
            ({}, {"KIE_BASE_URL": ""}, [near, far]),
            ({}, {}, [far]),
            ({}, {}, []),
        )
    ]
    assert [(one.value, one.source) for one in seen] == [
        ("http://arg", OPTION),
        ("http://env", "KIE_BASE_URL"),
        ("http://near", "/near.toml, line 3"),
        ("http://far", "/far.toml"),
        ("https://api.kie.ai", DEFAULT),
    ]


@pytest.mark.parametrize(
    ("environ", "file", "source"),
    [
        ({"KIE_PROXY": "a:1", "HTTPS_PROXY": "b:1"}, True, "KIE_PROXY"),
        ({"HTTPS_PROXY": "b:1"}, True, HERE),
        ({"HTTPS_PROXY": "b:1", "ALL_PROXY": "c:1"}, False, "HTTPS_PROXY"),
        ({"ALL_PROXY": "c:1"}, False, "ALL_PROXY"),
        ({"HTTP_PROXY": "d:1"}, False, DEFAULT),
    ],
)
def test_what_is_meant_for_us_counts_more_than_what_is_for_all(
    environ: dict[str, str], file: bool, source: str
) -> None:
    """A file of ours comes before the variables that every program knows."""
    files = [ConfigFile(HERE, {"proxy": "http://file:1"})] if file else []
    found = resolve({}, environ, files)["proxy"]
    assert found.source == source
    assert found.is_ours is (source in ("KIE_PROXY", HERE))


@pytest.mark.parametrize(
    ("environ", "files", "expected"),
    [
        ({}, ["u"], "http://up"),
        ({}, ["bu"], "http://up"),
        ({}, ["u", "b"], "http://up"),
        ({}, ["b", "u"], None),
        ({"KIE_BASE_URL": "http://env"}, ["bu"], None),
        ({"KIE_BASE_URL": "http://env", "KIE_UPLOAD_URL": "http://too"}, ["bu"], "http://too"),
    ],
)
def test_a_files_upload_host_goes_with_its_api_host(
    environ: dict[str, str], files: list[str], expected: str | None
) -> None:
    """The key of another API host never goes to an upload host that a file names for its own."""
    values = {"b": ("base_url", "http://api"), "u": ("upload_url", "http://up")}
    read = [
        ConfigFile(f"/{number}.toml", dict(values[one] for one in names))
        for number, names in enumerate(files)
    ]
    assert resolve({}, environ, read)["upload_url"].value == expected


def test_a_file_is_read_with_its_lines() -> None:
    """Values as TOML has them; paths begin at the file's folder, or at home."""
    file = read(
        """# ours
rate = "20/5"

in_flight = 7
prices = "prices.toml"
state_dir = "~/state"
"""
    )
    assert file.values == {
        "rate": "20/5",
        "in_flight": 7,
        "prices": "/work/prices.toml",
        "state_dir": "/home/fox/state",
    }
    assert file.source("in_flight") == f"{HERE}, line 4"
    assert read("prices = '/etc/prices.toml'").values == {"prices": "/etc/prices.toml"}
    assert read("").values == {}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rates = 1", ["rates", "is no setting", "in_flight"]),
        ("[kie]\nrate = '20/10'", ["kie: is no setting"]),
        ("rate = 20", ["rate: 20 ", "20/10"]),
        ("rate = '0/10'", ["rate", "20/10"]),
        ("rate = '20/0'", ["rate", "20/10"]),
        ("rate = '20/inf'", ["rate", "20/10"]),
        ("in_flight = 0", ["in_flight: 0 ", "whole number from 1"]),
        ("in_flight = true", ["in_flight: True"]),
        ("in_flight = 1.5", ["in_flight: 1.5"]),
        ("timeout = nan", ["timeout: nan", "above 0"]),
        ("timeout = inf", ["timeout: inf", "above 0"]),
        ("max_credits = -1", ["max_credits: -1", "above 0"]),
        ("max_credits = '5'", ["max_credits: '5'", "above 0"]),
        ("on_unknown = 'hope'", ["on_unknown: 'hope'", "park", "repeat"]),
        ("base_url = 'ftp://x'", ["base_url: 'ftp://x'", "https://"]),
        ("prices = ''", ["prices: ''", "a file"]),
        ("database_url = 'mysql://u:hush@h/d'", ["database_url", "postgresql://"]),
        ("proxy = 'http://u:hush@proxy.test:1'", ["proxy: ", "http://host:port", "KIE_PROXY"]),
        ("proxy = 'u:hush@proxy.test:1'", ["proxy: ", "http://host:port"]),
        ("proxy = 'socks5://proxy.test'", ["proxy: 'socks5://proxy.test'", '"direct"']),
        ("no_proxy = 'a.test'", ["no_proxy", "is no setting"]),
        ("ca_file = ''", ["ca_file: ''", "a file"]),
        ("rate = \n", ["not TOML", "line 2"]),
    ],
)
def test_what_a_file_may_not_say_is_named(line: str, words: list[str]) -> None:
    """The file, the line, the key and what is allowed; no password."""
    told = said("# one\n" + line)
    assert told.startswith(HERE + ": ")
    assert "line 2" in told
    assert all(word in told for word in words), told
    assert "hush" not in told


def lined(name: str) -> str:
    return f"{name} = 'sk-hush'"


@pytest.mark.parametrize("name", ["api_key", "API_KEY", "api-key", "KIE_API_KEY", "webhook_key"])
def test_keys_do_not_belong_in_a_file(name: str) -> None:
    """The message says where they belong, and does not repeat them."""
    told = said(lined(name))
    assert "environment" in told
    assert "KIE_" in told
    assert "hush" not in told


@pytest.mark.parametrize(
    "line",
    [
        "base_url = 'https://api.kie.ai.example'",
        "base_url = 'http://api.kie.ai'",
        "base_url = 'http://127.0.0.1@example.com'",
        "upload_url = 'http://10.0.0.1'",
        "database_url = 'postgresql://db.example/kie'",
        "database_url = 'postgresql:///kie?host=db.example'",
        "database_url = 'postgresql://127.0.0.1/kie?hostaddr=10.0.0.1'",
        "database_url = 'postgresql://127.0.0.1,db.example/kie'",
        "proxy = 'http://proxy.test:3128'",
        "proxy = 'http://127.0.0.1:3128'",
        "proxy = 'direct'",
        "ca_file = 'ca.pem'",
        "on_unknown = 'repeat'",
    ],
)
def test_what_a_file_that_was_found_cannot_say(line: str) -> None:
    """A project from elsewhere cannot have the key, or paid work, sent to it, read what is sent, or
    have us pay twice; a file that was chosen can."""
    told = said(line, found=True)
    assert "--config" in told
    assert "KIE_" in told or "--on-unknown" in told
    assert read(line).values


@pytest.mark.parametrize(
    "line",
    [
        "base_url = 'https://api.kie.ai/'",
        "base_url = 'http://localhost:8787'",
        "upload_url = 'http://[::1]:8787'",
        "database_url = 'postgresql://u@127.0.0.1:5432/kie'",
        "on_unknown = 'park'",
    ],
)
def test_what_a_file_that_was_found_may_say(line: str) -> None:
    """It names a simulator, a database for trying, the service itself, or what holds anyway."""
    assert read(line, found=True).values


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:hush@h:5432/d", "postgresql://u:***@h:5432/d"),
        ("postgresql://u:hu/sh@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:hu@sh@h/d", "postgresql://u:***@h/d"),
        ("https://hush@h/", "https://***@h/"),
        ("postgresql://h/d?user=u&password=hush&x=1", "postgresql://h/d?user=u&password=***&x=1"),
        ("host=h password='hu sh' dbname=d", "host=h password=*** dbname=d"),
        ("http://127.0.0.1:9", "http://127.0.0.1:9"),
        ("u:hush@proxy.test:3128", "u:***@proxy.test:3128"),
        ("proxy.test:3128", "proxy.test:3128"),
    ],
)
def test_passwords_are_masked(text: str, shown: str) -> None:
    """Wherever a URL or a database's parameters have them."""
    assert without_password(text) == shown


def test_keys_are_masked_and_not_measured() -> None:
    """Only that there is one is shown, also in a traceback's locals."""
    for name in ("api_key", "webhook_key"):
        one = Resolved(BY_NAME[name], "sk-hush-hush", OPTION)
        assert one.shown == MASK
        assert "hush" not in repr(one)
    assert Resolved(BY_NAME["api_key"], None, DEFAULT).shown is None


def test_the_defaults_are_the_clients() -> None:
    """What is shown as a default is what a client takes."""
    takes = inspect.signature(Client).parameters
    for one in SETTINGS:
        if one.name in takes and one.name not in ("base_url", "rate"):
            assert takes[one.name].default == one.default, one.name
    creates, seconds = takes["rate"].default
    assert BY_NAME["rate"].default == f"{creates}/{seconds}"


plain = st.one_of(
    st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers())
)


@given(st.sampled_from(SETTINGS), plain)
def test_every_value_is_taken_or_refused(setting: Any, value: object) -> None:
    """No value makes a check fail otherwise."""
    if setting.fits is not None:
        assert setting.fits(value) in (True, False)


@given(st.text())
def test_every_text_is_read_or_refused(text: str) -> None:
    """Whatever stands in a file."""
    try:
        told = read(text, found=True).path
    except ConfigError as error:
        told = str(error)
    assert told.startswith(HERE)
