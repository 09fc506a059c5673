"""``kie-mj archive``: results of tasks made elsewhere, at no cost."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from cli_support import SCALE, Service, Shell, manifest, pictures, serving
from support import KEY

from kie_mj_async.client import Client
from kie_mj_async.requests import Request, TextToImage
from kie_mj_async.rules.pacing import Rate
from kie_mj_async.secret import Secret
from kie_mj_async.settings import Settings


def made_elsewhere(service: Service, *requests: Request) -> list[str]:
    """What a web app did: tasks, and nothing of them here."""

    async def make() -> list[str]:
        settings = Settings(
            key=Secret(KEY), base_url=service.url, host="elsewhere", rate=Rate(20, 10 * SCALE)
        )
        async with Client.from_settings(settings) as client:
            return [(await client.submit(request)).task_id for request in requests]

    return asyncio.run(make())


FOX = TextToImage("a fox", speed="fast", aspect_ratio="16:9")
OWL = TextToImage("an owl")


def test_tasks_by_their_ids(shell: Shell) -> None:
    """Every result of the named tasks is on disk, told with its prompt, and nothing was paid."""
    with serving() as service:
        shell.use(service)
        ids = made_elsewhere(service, FOX, OWL)
        result = shell("archive", *ids, "--out", "out", "--json")
        assert len(service.creates) == 2
    assert result.code == 0, result.err
    assert (result.told["saved"], result.told["files"], result.told["credits"]) == (2, 8, 0)
    assert [job["prompt"] for job in result.told["jobs"]] == ["a fox", "an owl"]
    lines = manifest(shell.folder / "out")
    assert pictures(shell.folder / "out") == sorted(line["path"] for line in lines)
    assert {line["task_id"] for line in lines} == set(ids)
    (params,) = {json.dumps(line["params"]) for line in lines if line["prompt"] == "a fox"}
    assert json.loads(params) == {"type": "TextToImage", "aspect_ratio": "16:9", "speed": "fast"}


def test_tasks_from_files_and_stdin(shell: Shell) -> None:
    """Ids come from the command line, files and stdin together; one listed twice is saved once."""
    with serving() as service:
        shell.use(service)
        ids = made_elsewhere(service, FOX, OWL, TextToImage("a hare"))
        shell.write("ids.txt", "# from the web app", "", ids[1], ids[0])
        result = shell(
            *("archive", ids[0], "--from", "ids.txt", "--from", "-", "--out", "out", "--json"),
            stdin=f"{ids[2]}\n",
        )
    assert result.code == 0, result.err
    assert (result.told["saved"], result.told["files"]) == (3, 12)


def test_archiving_again_fetches_nothing(shell: Shell) -> None:
    """A second run fetches only what is new; ``resume`` takes up what a first one left."""
    with serving() as service:
        shell.use(service)
        ids = made_elsewhere(service, FOX, OWL)
        assert shell("archive", ids[0], "--out", "out").code == 0
        downloads = len(service.books["downloads"])
        result = shell("archive", *ids, "--out", "out", "--json")
        assert (result.code, result.told["saved"]) == (0, 2)
        assert len(service.books["downloads"]) == downloads + 4
        assert "1 new job, 1 known already" in result.err


def test_a_task_that_fails(shell: Shell) -> None:
    """A failed task is an outcome like any other, with its prompt and the service's words."""
    with serving("task.fail=#1") as service:
        shell.use(service)
        ids = made_elsewhere(service, FOX, OWL)
        result = shell("archive", *ids, "--out", "out", "--json")
    assert result.code == 1
    assert (result.told["failed"], result.told["saved"]) == (1, 1)
    (failed,) = [job for job in result.told["jobs"] if job["state"] == "failed"]
    assert (failed["prompt"], failed["task_id"]) == ("a fox", ids[0])


def test_a_task_still_generating_is_waited_for(shell: Shell) -> None:
    """One that is not done in time is left for a resume, which finishes it."""
    with serving("task.stuck=#1") as service:
        shell.use(service)
        ids = made_elsewhere(service, FOX)
        result = shell("archive", *ids, "--out", "out", "--timeout", "0.2")
        assert result.code == 3
        service.finish_all()
        assert shell("resume", "out").code == 0
    assert len(pictures(shell.folder / "out")) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bad id"], "kie-mj: task_id: 'bad id' is not a task id"),
        (["--from", "ids.txt"], "kie-mj: ids.txt:2: task_id: 'x y' is not a task id"),
        (["--from", "missing.txt"], "kie-mj: missing.txt: cannot be read"),
        ([], "kie-mj: name the tasks: TASK_ID..., or --from FILE"),
    ],
)
def test_bad_input_leaves_nothing_behind(shell: Shell, arguments: list[str], message: str) -> None:
    """A bad list is an error that names its place, before anything is made or asked."""
    shell.write("ids.txt", "abc", "x y")
    shell.patch.setenv("KIE_API_KEY", KEY)
    result = shell("archive", *arguments, "--out", "out")
    assert result.code == 2
    assert result.err.startswith(message)
    assert not Path("out").exists()
