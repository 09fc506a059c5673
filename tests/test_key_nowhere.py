"""The key, under every fault: in no output, no log, no traceback with its locals, and no file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cli_support import KEY, Shell, serving
from crash_report import crash_report
from crash_runs import free_port

from kie_mj_async import errors
from kie_mj_async.simulator.faults import KINDS, MODIFIERS

WEBHOOK_KEY = "webhook-key-7f3a9c2e"

SETTINGS = ["request_timeout = 1.5", "stall_timeout = 1.5", 'rate = "20/0.2"']

STOPS = {("create", "401"), ("create", "402"), ("poll", "401"), ("upload", "401")}
"""What ends a run, so that nothing behind it would come about."""

AT_ONCE = {"create": 30, "poll": 2, "download": 3, "upload": 3, "task": 5, "callback": 8}
"""Faults of a place in one run: polls and downloads are counted for each task and file."""


def scripts() -> Iterator[str]:
    """Runs in which every fault of the simulator comes about once."""
    for place, known in KINDS.items():
        kinds = [kind for kind in known if kind not in MODIFIERS and (place, kind) not in STOPS]
        for some in batched(kinds, AT_ONCE[place]):
            faults = [f"{place}.{kind}=#{number}" for number, kind in enumerate(some, 1)]
            extra = [f"{place}.{kind}=100%" for kind in MODIFIERS if kind in known]
            yield ",".join(faults + extra)
    for place, kind in sorted(STOPS):
        yield f"{place}.{kind}=#1"


def batched(kinds: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(kinds), size):
        yield kinds[start : start + size]


SCRIPTS = [
    "create.401=#1,create.drop-reply=#2,create.500=#3,task.fail=#2",
    *(pytest.param(script, marks=pytest.mark.slow) for script in scripts()),
]


def test_every_fault_has_its_run() -> None:
    """A fault that is added to the simulator is looked at here."""
    named = {one.split("=")[0] for script in scripts() for one in script.split(",")}
    assert named == {f"{place}.{kind}" for place, kinds in KINDS.items() for kind in kinds}


@pytest.fixture
def raised(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """No error of ours, nor a traceback with the locals of its frames, tells the key."""
    kept: list[BaseException] = []
    real: Callable[..., None] = errors.KieError.__init__

    def make(self: errors.KieError, *args: Any, **named: Any) -> None:
        real(self, *args, **named)
        kept.append(self)

    monkeypatch.setattr(errors.KieError, "__init__", make)
    yield kept
    for error in kept:
        told = crash_report(error)
        assert KEY not in told
        assert WEBHOOK_KEY not in told


@pytest.mark.parametrize("faults", SCRIPTS)
def test_the_key_is_nowhere(
    shell: Shell,
    caplog: pytest.LogCaptureFixture,
    raised: list[BaseException],
    faults: str,
) -> None:
    """Whatever the service does, and however much is logged; the webhook key neither."""
    caplog.set_level(logging.DEBUG)
    shell.write("list.txt", *(f"a fox no. {n}" for n in range(28 if "create" in faults else 8)))
    shell.write("kie-mj.toml", *SETTINGS)
    shell.patch.setenv("KIE_WEBHOOK_KEY", WEBHOOK_KEY)
    here = f"127.0.0.1:{free_port()}"
    callbacks = ["--listen", here, "--callback-url", f"http://{here}/"]
    more = callbacks if "callback" in faults else []
    shown = []
    with serving(faults, webhook_key=WEBHOOK_KEY) as service:
        shell.use(service)
        for command in (
            ["render", "list.txt", "--out", "out", "--yes", "--json", "--timeout", "4", *more],
            ["resume", "out", "--yes", "--json", "--timeout", "4"],
            ["status", "out", "--json"],
            ["status", "out"],
            ["generate", "a hen", "--image", shell.draw("cat.png"), "--out", "hen", "--yes"],
            ["gallery", "out"],
            ["config"],
            ["credits"],
        ):
            result = shell(*command)
            shown.append(result.out + result.err)
        assert any(one["authorization"] for one in service.books["keys"])
    assert any(shown)
    assert raised or "create." not in faults
    shown.append(caplog.text)
    shown += [repr(vars(record)) for record in caplog.records]
    for key in (KEY, WEBHOOK_KEY):
        assert not any(key in text for text in shown)
    files = [path for path in shell.folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        assert KEY.encode() not in content
        assert WEBHOOK_KEY.encode() not in content
