"""The key, under every fault: in no output, no log, no traceback with its locals, and no file."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cli_support import KEY, Shell, serving

from kie_mj_async import errors

SLOW = pytest.mark.slow
SCRIPTS = [
    "create.401=#1,create.drop-reply=#2,create.500=#3,task.fail=#2",
    pytest.param("create.html=#2,create.truncate=#3,create.422=#4", marks=SLOW),
    pytest.param(
        "create.402=#2,poll.401=#1,poll.html=#2,poll.truncate=#3,poll.drop=#4", marks=SLOW
    ),
    pytest.param("create.429=#1,poll.flat=#3,poll.no-url=#1,poll.unknown-flag=#4", marks=SLOW),
    pytest.param("download.403=#1,download.html=#2,download.redirect=#4", marks=SLOW),
    pytest.param("upload.html=#1,upload.drop=#2,upload.no-url=#3,upload.401=#4", marks=SLOW),
]


@pytest.fixture
def _telling_errors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No error of ours, nor a traceback with the locals of its frames, tells the key."""
    told: list[str] = []
    kept: list[BaseException] = []
    real: Callable[..., None] = errors.KieError.__init__

    def make(self: errors.KieError, *args: Any, **named: Any) -> None:
        real(self, *args, **named)
        kept.append(self)

    monkeypatch.setattr(errors.KieError, "__init__", make)
    yield
    assert kept
    for error in kept:
        told.append(repr(error) + repr(vars(error)))
        report = traceback.TracebackException.from_exception(error, capture_locals=True)
        report.stack = traceback.StackSummary.from_list(
            [frame for frame in report.stack if "/tests/" not in frame.filename]
        )
        told += report.format(chain=False)
    assert not any(KEY in one for one in told)


@pytest.mark.usefixtures("_telling_errors")
@pytest.mark.parametrize("faults", SCRIPTS)
def test_the_key_is_nowhere(shell: Shell, caplog: pytest.LogCaptureFixture, faults: str) -> None:
    """Whatever the service does, and however much is logged."""
    caplog.set_level(logging.DEBUG)
    shell.write("list.txt", "a fox", "an owl", "a newt", "a hare")
    shown = []
    with serving(faults) as service:
        shell.use(service)
        for command in (
            ["render", "list.txt", "--out", "out", "--yes", "--json"],
            ["resume", "out", "--yes", "--json"],
            ["status", "out", "--json"],
            ["status", "out"],
            ["generate", "a hen", "--image", shell.draw("cat.png"), "--out", "hen", "--yes"],
            ["gallery", "out"],
            ["credits"],
        ):
            result = shell(*command)
            shown.append(result.out + result.err)
        assert any(one["authorization"] for one in service.books["keys"])
    assert any(shown)
    shown.append(caplog.text)
    shown += [repr(vars(record)) for record in caplog.records]
    assert not any(KEY in text for text in shown)
    files = [path for path in shell.folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not any(KEY.encode() in path.read_bytes() for path in files)
