"""Connections to object stores: what they need, and what is said where it is missing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kie_mj_async.archive.object_client import Connector
from kie_mj_async.errors import ConfigError, WriteFailed

KEYS = {"access_key_id": "AKIAFAKE", "secret_access_key": "hush-hush"}


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(variable)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ConfigError, match=r"pip install 'kie-mj-async\[cloud\]'"):
        Connector.at("s3://bucket/x", {})


def test_nothing_is_loaded_before_it_is_needed() -> None:
    """Importing the package, its client and its command line does not import obstore."""
    code = (
        "import sys, kie_mj_async, kie_mj_async.client, kie_mj_async.cli.app\n"
        "import kie_mj_async.archive.object_store\n"
        "print([name for name in sys.modules if name.startswith('obstore')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("url", "config", "words"),
    [
        ("s3://bucket", {"access_key_id": "AKIAFAKE"}, "no complete credentials"),
        ("s3://bucket", {**KEYS, "no_such_setting": "1"}, "name that is not known"),
        ("s3://bucket", {**KEYS, "copy_if_not_exists": "hush-hush"}, "a value it cannot have"),
        ("s3://bucket", {**KEYS, "timeout": "hush-hush"}, "a value it cannot have"),
        ("az://container/x", {}, "AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)
def test_settings_that_cannot_be_used(url: str, config: dict[str, str], words: str) -> None:
    """They are found before any request, and their values are not repeated."""
    with pytest.raises(ConfigError) as caught:
        Connector.at(url, config).connect(1.0)
    assert words in str(caught.value)
    assert "hush-hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "config"),
    [
        ("gs://bucket/x", {"skip_signature": True}),
        ("az://container/x", {"account_name": "me", "skip_signature": True}),
        ("s3://bucket/x", {**KEYS, "AWS_COPY_IF_NOT_EXISTS": "multipart"}),
    ],
)
def test_other_stores_have_one_way_to_copy(url: str, config: dict[str, object]) -> None:
    """Their own; and what the user has chosen is the only way."""
    connector = Connector.at(url, config)
    connector.connect(1.0)
    assert connector.ways == (None,)
    assert connector.root == url
    assert "hush-hush" not in repr(connector)


def test_the_users_way_to_copy_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As every other setting."""
    assert len(Connector.at("s3://bucket", KEYS).ways) > 1
    monkeypatch.setenv("AWS_COPY_IF_NOT_EXISTS", "multipart")
    assert Connector.at("s3://bucket", KEYS).ways == (None,)


def test_other_errors_pass() -> None:
    """Errors of local files and our own are not the store's."""
    connector = Connector.at("s3://bucket", KEYS)
    with pytest.raises(FileNotFoundError), connector.telling("x"):
        raise FileNotFoundError(2, "No such file or directory")
    with pytest.raises(WriteFailed, match="mine"), connector.telling("x"):
        raise WriteFailed("mine")
    with (
        pytest.raises(WriteFailed, match="s3://bucket: x: there is no such bucket") as caught,
        connector.telling("x"),
    ):
        raise FileNotFoundError("Object at location ...")
    assert caught.value.billed == "yes"
