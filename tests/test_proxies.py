"""Proxies by their names: what is one, what it carries, and that its password does not show."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_mj_async.errors import ConfigError
from kie_mj_async.rules.proxies import Proxy, from_environment, read_proxy, readable


def login(proxy: Proxy) -> str:
    assert proxy.login is not None
    return base64.b64decode(proxy.login.reveal().removeprefix("Basic ")).decode()


@pytest.mark.parametrize(
    ("text", "url", "place"),
    [
        ("http://proxy.test:3128", "http://proxy.test:3128", ("proxy.test", 3128)),
        ("proxy.test:3128", "http://proxy.test:3128", ("proxy.test", 3128)),
        (" http://Proxy.test/\n", "http://Proxy.test", ("proxy.test", 80)),
        ("https://proxy.test", "https://proxy.test", ("proxy.test", 443)),
        ("http://[fd00::1]:8080", "http://[fd00::1]:8080", ("fd00::1", 8080)),
    ],
)
def test_a_proxy_by_its_url(text: str, url: str, place: tuple[str, int]) -> None:
    """The scheme may be missing, as in other programs."""
    proxy = read_proxy(text, "proxy")
    assert (proxy.url, proxy.place, proxy.login) == (url, place, None)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("http://fox:hush@proxy.test:1", "fox:hush"),
        ("fox:hush@proxy.test:1", "fox:hush"),
        ("http://fox@proxy.test:1", "fox:"),
        ("http://fox:hu%40%2F%23%25sh@proxy.test:1", "fox:hu@/#%sh"),
        ("http://fox:hu@sh@proxy.test:1", "fox:hu@sh"),
        ("http://corp%5Cfox:gr%C3%BCn@proxy.test:1", "corp\\fox:grün"),
    ],
)
def test_a_user_name_and_a_password(text: str, plain: str) -> None:
    """They leave the URL, and do not show."""
    proxy = read_proxy(text, "proxy")
    assert login(proxy) == plain
    assert proxy.url == "http://proxy.test:1"
    assert proxy.login is not None
    for secret in ("hush", "hu@", proxy.login.reveal()):
        assert secret not in repr(proxy)


@pytest.mark.parametrize(
    "text",
    [
        "socks5://proxy.test:1080",
        "socks5h://fox:hush@proxy.test:1080",
        "ftp://proxy.test",
        "http://",
        "http://proxy.test/path",
        "http://proxy.test?x",
        "http://proxy.test:0",
        "http://proxy.test:99999",
        "http://proxy.test:port",
        "http://fox:hu#sh@proxy.test:1",
        "http://fox:hu/sh@proxy.test:1",
        "fox:hush",
        "http://pro xy.test",
        "http://pröxy.test",
        "http://[::1",
        "http://fox:hush@proxy.test:1\x00",
    ],
)
def test_what_is_no_proxy(text: str) -> None:
    """It is refused by the name of what said so, without a password, and with what is right."""
    with pytest.raises(ConfigError, match=r"^KIE_PROXY: .*http://host:port.*SOCKS") as caught:
        read_proxy(text, "KIE_PROXY")
    assert "hu" not in str(caught.value)


ANY = "http://any.test:1"


@pytest.mark.parametrize(
    ("argument", "environ", "expected"),
    [
        (None, {}, None),
        (None, {"KIE_PROXY": "ours:1", "HTTPS_PROXY": "all:1"}, ("http://ours:1", False)),
        (None, {"HTTPS_PROXY": "up:1", "ALL_PROXY": "all:1"}, ("http://up:1", True)),
        (None, {"HTTPS_PROXY": "up:1", "https_proxy": "low:1"}, ("http://low:1", True)),
        (None, {"ALL_PROXY": "all:1"}, ("http://all:1", False)),
        (None, {"HTTP_PROXY": "plain:1", "http_proxy": "plain:1"}, None),
        (None, {"KIE_PROXY": "", "HTTPS_PROXY": ""}, None),
        (None, {"KIE_PROXY": "direct", "HTTPS_PROXY": "up:1"}, None),
        ("direct", {"KIE_PROXY": "ours:1"}, None),
        ("", {"KIE_PROXY": "ours:1"}, None),
        ("arg:1", {"KIE_PROXY": "ours:1"}, ("http://arg:1", False)),
    ],
)
def test_where_it_comes_from(
    argument: str | None, environ: dict[str, str], expected: tuple[str, bool] | None
) -> None:
    """The argument, our variable, then those that other programs know; ``direct`` is none."""
    proxy = from_environment(argument, environ)
    assert (proxy and (proxy.url, proxy.https_only)) == expected


def test_a_wrong_variable_is_named() -> None:
    """Also one of other programs: nobody is taken past a proxy unasked."""
    with pytest.raises(ConfigError, match=r"^ALL_PROXY: .*SOCKS"):
        from_environment(None, {"ALL_PROXY": "socks5://proxy.test:1080"})


@pytest.mark.parametrize(
    ("entries", "host", "port", "carried"),
    [
        ("", "api.kie.ai", None, True),
        ("*", "api.kie.ai", None, False),
        ("kie.ai", "api.kie.ai", None, False),
        ("kie.ai", "kie.ai", None, False),
        (".kie.ai", "api.kie.ai", None, False),
        (".kie.ai", "kie.ai", None, False),
        ("*.kie.ai", "api.kie.ai", None, False),
        ("KIE.ai.", "API.kie.ai.", None, False),
        ("kie.ai", "notkie.ai", None, True),
        ("api.kie.ai", "kie.ai", None, True),
        ("kie.ai:443", "kie.ai", None, False),
        ("kie.ai:443", "kie.ai", 443, False),
        ("kie.ai:8443", "kie.ai", None, True),
        ("other.test, kie.ai", "kie.ai", None, False),
        ("other.test kie.ai", "kie.ai", None, False),
        ("10.0.0.0/8", "10.1.2.3", None, False),
        ("10.0.0.0/8", "11.1.2.3", None, True),
        ("10.1.2.3", "10.1.2.3", None, False),
        ("10.1.2.3:443", "10.1.2.3", None, False),
        ("[fd00::1]:443", "fd00::1", None, False),
        ("[fd00::1]", "fd00::1", None, False),
        ("fd00::/8", "fd00::1", None, False),
        (",, ,", "kie.ai", None, True),
        (".", "kie.ai", None, True),
        ("10.0.0.0/99", "10.1.2.3", None, True),
    ],
)
def test_what_is_asked_for_directly(
    entries: str, host: str, port: int | None, carried: bool
) -> None:
    """``NO_PROXY``: names and all below them, addresses, networks, each with a port or without."""
    proxy = from_environment(ANY, {"NO_PROXY": entries})
    assert proxy is not None
    assert proxy.carries("https", host, port) is carried


def test_the_lower_case_variable_counts_first() -> None:
    """As in most programs."""
    proxy = from_environment(ANY, {"no_proxy": "a.test", "NO_PROXY": "b.test"})
    assert proxy is not None
    assert proxy.besides == ("a.test",)


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "LOCALHOST.", "127.0.0.1", "::1"])
def test_this_machine_is_no_business_of_a_proxy(host: str) -> None:
    """It would take it for itself; a simulator is reached whatever the environment says."""
    assert not read_proxy(ANY, "proxy").carries("https", host, 1)


def test_a_proxy_for_https_only() -> None:
    """``HTTPS_PROXY`` says nothing of http addresses."""
    proxy = read_proxy(ANY, "HTTPS_PROXY", https_only=True)
    assert proxy.carries("https", "a.test", None)
    assert not proxy.carries("http", "a.test", None)


def test_what_a_proxy_can_read() -> None:
    """What it carries without a tunnel."""
    proxy = read_proxy(ANY, "proxy", besides="spared.test")
    urls = ["https://a.test", "http://127.0.0.1:9", "http://spared.test"]
    assert readable(proxy, urls) is None
    assert readable(proxy, [*urls, "http://a.test:80"]) == "http://a.test:80"
    assert readable(None, ["http://a.test"]) is None


@given(st.text(), st.text())
def test_every_text_is_taken_or_refused(text: str, besides: str) -> None:
    """Whatever stands in the environment."""
    try:
        proxy = read_proxy(text, "KIE_PROXY", besides=besides)
    except ConfigError:
        return
    assert proxy.carries("https", "a.test", None) in (True, False)
