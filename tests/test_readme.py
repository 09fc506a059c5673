"""The README's program, run as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.from_thread
import pytest

from kie_mj_async import durations_file
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules.kinds import kind_of
from kie_mj_async.simulator import Simulator

ROOT = Path(__file__).parent.parent
SCALE = 0.004


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """A simulator that runs beside the test."""
    started = threading.Event()
    found: list[Simulator] = []
    ended: list[anyio.Event] = []

    async def serve(token_ready: threading.Event) -> None:
        async with Simulator(time_scale=SCALE, picture_side=64) as one:
            found.append(one)
            ended.append(anyio.Event())
            token_ready.set()
            await ended[0].wait()

    with anyio.from_thread.start_blocking_portal() as portal:
        future = portal.start_task_soon(serve, started)
        assert started.wait(20)
        try:
            yield found[0]
        finally:
            portal.call(ended[0].set)
            future.result(20)


def test_the_readme_program_runs(simulator: Simulator, tmp_path: Path) -> None:
    """Whoever copies the README's program gets pictures."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert found is not None
    # Known to be quick, it is not polled as rarely as the service is.
    path = durations_file.path_of(tmp_path / "state", simulator.url)
    kinds = (TextToImage("a fox"), TextToImage("a fox", speed="fast"))
    durations_file.add(path, [(kind_of(one), 60 * SCALE) for one in kinds * 20])
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "prompts.txt").write_text("a fox\na lighthouse\n", encoding="utf-8")
    environment = {
        "KIE_API_KEY": "any",
        "KIE_BASE_URL": simulator.url,
        "KIE_STATE_DIR": str(tmp_path / "state"),
        "PYTHONPATH": str(ROOT),
        "PATH": "",
    }
    ended = subprocess.run(
        [sys.executable, "-c", found[1]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert ended.stderr == ""
    assert ended.returncode == 0
    assert len(list((tmp_path / "fox").iterdir())) == 4
    assert len(list((tmp_path / "renders").glob("*.jpeg"))) == 8
