"""What the tests of the command line share: a shell that runs it, a simulator beside it."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio.from_thread
import attrs
import pytest
from PIL import Image

from kie_mj_async import simulator
from kie_mj_async.cli import setup
from kie_mj_async.cli.app import run
from kie_mj_async.settings import Settings
from kie_mj_async.simulator import Faults, Simulator

SCALE = 0.002
PICTURE = 16
"""Pixels of a picture's longer side."""
KEY = "sk-command-line-0123456789abcdef"


@attrs.frozen
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        told = json.loads(self.out)
        assert isinstance(told, dict)
        return told


class Service:
    """A simulator in a thread, with an event loop of its own."""

    def __init__(
        self, portal: anyio.from_thread.BlockingPortal, sim: Simulator, scale: float
    ) -> None:
        self._portal = portal
        self._sim = sim
        self.url = sim.url
        self.scale = scale

    @property
    def books(self) -> dict[str, Any]:
        return self._portal.call(self._sim.books)

    @property
    def creates(self) -> list[dict[str, Any]]:
        creates: list[dict[str, Any]] = self.books["creates"]
        return creates

    def break_with(self, faults: str) -> None:
        """From now on, these faults."""
        self._portal.call(setattr, self._sim.world, "faults", Faults.parse(faults))

    def stop(self) -> None:
        """Go away, now."""
        self._portal.call(self._sim.aclose)

    def finish_all(self) -> None:
        """Let every running task end now."""
        for task_id, task in self.books["tasks"].items():
            if task["state"] == "running":
                self._portal.call(self._sim.world.finish, task_id)


@contextmanager
def serving(faults: str = "", *, scale: float = SCALE, **options: Any) -> Iterator[Service]:
    """A quick simulator outside of the command line."""
    with anyio.from_thread.start_blocking_portal() as portal:
        sim = Simulator(time_scale=scale, picture_side=PICTURE, faults=faults, **options)
        portal.call(sim.start)
        try:
            yield Service(portal, sim, scale)
        finally:
            portal.call(sim.aclose)


class Shell:
    """Runs the command line in this process, away from the real home and the real service."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self.folder = folder
        self.patch = monkeypatch
        self._capfd = capfd
        monkeypatch.chdir(folder)
        monkeypatch.setenv("KIE_STATE_DIR", str(folder / "state"))
        for name in ("KIE_API_KEY", "KIE_UPLOAD_URL", "KIE_WEBHOOK_KEY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("KIE_BASE_URL", "http://127.0.0.1:9")
        monkeypatch.setattr(setup, "SIMULATED_SCALE", SCALE)
        monkeypatch.setattr(simulator, "Simulator", partial(Simulator, picture_side=PICTURE))
        # Against a simulator that is quick, wait as briefly as it works.
        monkeypatch.setattr(setup, "Settings", partial(Settings, time_scale=SCALE))

    def __call__(self, *arguments: str, stdin: str | None = None) -> Result:
        self._capfd.readouterr()
        if stdin is not None:
            self.patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = run(list(arguments))
        told = self._capfd.readouterr()
        return Result(code, told.out, told.err)

    def use(self, service: Service, key: str = KEY) -> None:
        """From now on, this service and this key."""
        self.patch.setenv("KIE_BASE_URL", service.url)
        self.patch.setenv("KIE_API_KEY", key)

    def write(self, name: str, *lines: str) -> str:
        """A prompt list."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return name

    def draw(self, name: str, colour: str = "red") -> str:
        """A picture of the user's own."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), colour).save(path)
        return name


def pictures(out: Path) -> list[str]:
    """The names of the results in a batch directory."""
    return sorted(path.name for path in out.glob("*.[jp][pn]*g"))


def manifest(out: Path) -> list[dict[str, Any]]:
    """The lines of a batch directory's manifest."""
    lines = (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def books(out: Path) -> list[dict[str, Any]]:
    """What the simulator of a directory has seen, in its order."""
    lines = (out / ".kie-mj" / "simulator.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def bodies(out: Path) -> list[dict[str, Any]]:
    """The bodies of the creates that the simulator of a directory has seen."""
    return [event["body"] for event in books(out) if event["kind"] == "create"]


def complaint(result: Result, code: int = 2) -> str:
    """The one line that an error is."""
    assert result.code == code, result.err
    assert result.out == ""
    assert result.err.startswith("kie-mj: ")
    assert result.err.count("\n") == 1, result.err
    assert "Traceback" not in result.err
    return result.err.removeprefix("kie-mj: ").removesuffix("\n")


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)
