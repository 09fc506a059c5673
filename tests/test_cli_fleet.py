"""The commands of a fleet: a worker, and its operators' view."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from cli_support import KEY, Result, Service, Shell, complaint, serving, wait_until
from cluster_support import ask
from fleet_support import player_on
from s3_support import ACCESS_KEY, SECRET, shelf_in

from kie_mj_async import durations_file
from kie_mj_async.cluster import Cluster, road
from kie_mj_async.cluster import worker as worker_module
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules import leases
from kie_mj_async.rules.kinds import kind_of

NOWHERE = "postgresql://fox:s3cr3t-word@127.0.0.1:1/nowhere"
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("worker", "--out", "out"),
    ("cluster", "status"),
    ("cluster", "migrate"),
    ("cluster", "resolve", "--retry"),
    ("cluster", "manifest"),
)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "EVERY", 0.3)
    monkeypatch.setattr(worker_module, "AGAIN", 0.3)
    monkeypatch.setattr(road, "_LOOK", 0.05)
    monkeypatch.delenv("KIE_DATABASE_URL", raising=False)


@pytest.fixture
def service(shell: Shell) -> Iterator[Service]:
    with serving() as service:
        shell.use(service)
        # It is known how quick it is.
        path = durations_file.path_of(shell.folder / "state", service.url)
        durations_file.add(path, [(kind_of(TextToImage("a fox")), 60 * service.scale)] * 30)
        yield service


def put_in(url: str, number: int = 3, batch: str = "default") -> None:
    """A list, as a web replica would put it in."""

    async def go() -> None:
        async with Cluster(url) as cluster:
            for one in range(number):
                await cluster.submit(f"fox {one}", batch=batch)

    anyio.run(go)


def states(url: str) -> dict[str, int]:
    return dict(ask(url, "SELECT state, count(*) FROM kie_mj.job GROUP BY 1"))


@contextmanager
def signalled(*whens: Callable[[], object]) -> Iterator[list[int]]:
    """A signal to this process each time one of these has come about, one after the other."""
    sent: list[int] = []
    over = threading.Event()

    def kill() -> None:
        if not over.is_set():  # with nobody to hear it, it would end the tests
            sent.append(len(sent))
            os.kill(os.getpid(), signal.SIGTERM)

    def send() -> None:
        try:
            for when in whens:
                wait_until(partial(_or_over, over, when))
                kill()
        except AssertionError:  # it never came about
            kill()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()


def _or_over(over: threading.Event, when: Callable[[], object]) -> object:
    return over.is_set() or when()


def at_work(url: str) -> Callable[[], object]:
    return lambda: ask(url, "SELECT 1 FROM kie_mj.worker WHERE ended_at IS NULL AND beats > 0")


def work(shell: Shell, url: str, *options: str) -> Result:
    # Against a quick simulator, the true window is no window.
    return shell(
        *("worker", "--database-url", url, "--rate", "20/0.1", "--grace", "5"),
        *(options or ("--out", "out")),
    )


# --- What it is told ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_each_has_a_page_of_help(shell: Shell, command: tuple[str, ...]) -> None:
    result = shell(*command[:2] if command[0] == "cluster" else ["worker"], "--help")
    assert result.code == 0
    assert "--database-url" in result.out


def test_the_group_lists_its_commands(shell: Shell) -> None:
    result = shell("cluster", "--help")
    assert [
        word for word in ("status", "migrate", "resolve", "manifest") if word in result.out
    ] == [
        "status",
        "migrate",
        "resolve",
        "manifest",
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_database_each_says_how_to_name_one(
    shell: Shell, command: tuple[str, ...]
) -> None:
    assert "--database-url" in complaint(shell(*command))


def test_without_a_destination_a_worker_does_not_begin(shell: Shell) -> None:
    assert "--out" in complaint(shell("worker", "--database-url", NOWHERE))


def test_without_a_key_a_worker_does_not_begin(shell: Shell) -> None:
    assert "KIE_API_KEY" in complaint(shell("worker", "--database-url", NOWHERE, "--out", "o"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_that_is_not_there_is_told_without_its_password(
    shell: Shell, command: tuple[str, ...]
) -> None:
    shell.patch.setenv("KIE_API_KEY", KEY)
    shell.patch.setenv("KIE_DATABASE_URL", NOWHERE)
    told = complaint(shell(*command))
    assert "127.0.0.1:1/nowhere" in told
    assert "s3cr3t" not in told


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("url", ["mysql://fox:s3cr3t-word@h/db", "postgresql://fox:s3cr3t%zz@h/d"])
def test_what_is_no_database_is_told_without_its_password(
    shell: Shell, command: tuple[str, ...], url: str
) -> None:
    shell.patch.setenv("KIE_API_KEY", KEY)
    told = complaint(shell(*command, "--database-url", url))
    assert "database URL" in told
    assert "s3cr3t" not in told


@pytest.mark.parametrize("command", [one for one in COMMANDS if "migrate" not in one])
def test_a_database_without_tables_is_told_in_one_line(
    shell: Shell, database: str, command: tuple[str, ...]
) -> None:
    shell.patch.setenv("KIE_API_KEY", KEY)
    told = complaint(shell(*command, "--database-url", database))
    assert "run: kie-mj cluster migrate" in told


def test_resolving_needs_a_decision(shell: Shell) -> None:
    told = complaint(shell("cluster", "resolve", "--database-url", NOWHERE))
    assert "--retry and --abandon" in told


@pytest.mark.parametrize(
    "options", [("--per-worker", "0"), ("--in-flight", "0"), ("--grace", "-1"), ("--rate", "x")]
)
def test_settings_that_cannot_work_are_told(shell: Shell, options: tuple[str, str]) -> None:
    shell.patch.setenv("KIE_API_KEY", KEY)
    told = complaint(shell("worker", "--database-url", NOWHERE, "--out", "o", *options))
    assert options[0] in told


# --- The database ---------------------------------------------------------------------------------


def test_migrating_makes_the_tables_and_may_be_done_again(shell: Shell, database: str) -> None:
    for _ in range(2):
        result = shell("cluster", "migrate", "--database-url", database)
        assert result.code == 0
        assert "ready for a fleet (schema 2)" in result.out
    assert shell("cluster", "status", "--database-url", database).code == 0


def test_tables_of_a_newer_version_are_left_alone(shell: Shell, queue_url: str) -> None:
    ask(queue_url, "UPDATE kie_mj.meta SET value = '99' WHERE name = 'version'")
    told = complaint(shell("cluster", "migrate", "--database-url", queue_url))
    assert "newer version" in told


# --- The operators' view --------------------------------------------------------------------------


def test_the_status_of_a_fleet_that_has_nothing(shell: Shell, queue_url: str) -> None:
    result = shell("cluster", "status", "--database-url", queue_url)
    assert result.code == 0
    assert "No worker is at work" in result.out
    assert "none" in result.out


def test_the_status_says_what_holds_a_worker_back(shell: Shell, queue_url: str) -> None:
    put_in(queue_url)
    ask(
        queue_url,
        "INSERT INTO kie_mj.worker (name, host, pid, trouble) "
        "VALUES ('w1', 'h', 1, 'no credits\x1b[31m')",
    )
    shell.patch.setenv("KIE_DATABASE_URL", queue_url)
    result = shell("cluster", "status")
    assert "3 " in result.out
    assert "Worker w1: at work" in result.out
    assert "begins no job: no credits" in result.out
    assert "\x1b" not in result.out
    told = shell("cluster", "status", "--json").told
    assert [one["name"] for one in told["workers"]] == ["w1"]
    assert told["workers"][0]["trouble"].startswith("no credits")
    assert sum(told["jobs"].values()) == 3


def test_a_batch_that_is_not_there_is_told(shell: Shell, queue_url: str) -> None:
    command = ("cluster", "status", "--database-url", queue_url, "--batch", "nope")
    assert "nope" in complaint(shell(*command))


def test_decisions_about_jobs(shell: Shell, queue_url: str) -> None:
    put_in(queue_url)
    shell.patch.setenv("KIE_DATABASE_URL", queue_url)
    assert "No job is unresolved" in shell("cluster", "resolve", "--abandon").err

    async def lose() -> None:
        async with player_on(queue_url) as player:
            for job in await player.jobs():
                await player.lose(job)

    anyio.run(lose)
    key = ask(queue_url, "SELECT key FROM kie_mj.job ORDER BY seq")[0][0]
    assert "1 job planned again" in shell("cluster", "resolve", key, "--retry").err
    assert "2 jobs given up" in shell("cluster", "resolve", "--abandon").err
    assert states(queue_url) == {"planned": 1, "abandoned": 2}
    assert "nobody" in complaint(shell("cluster", "resolve", "nobody", "--retry"))


# --- A worker -------------------------------------------------------------------------------------


def dump(url: str) -> str:
    """Everything that is in the database."""
    tables = ask(
        url, "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname ~ '^kie_mj'"
    )
    return "\n".join(
        str(row) for (name,) in tables for row in ask(url, f"SELECT t::text FROM {name} AS t")
    )


def test_a_worker_renders_and_leaves_in_order(
    shell: Shell, service: Service, queue_url: str
) -> None:
    put_in(queue_url)
    with signalled(lambda: states(queue_url) == {"saved": 3}) as sent:
        result = work(shell, queue_url)
    assert sent
    assert result.code == 0, result.err
    assert "is at work" in result.err
    assert "SIGTERM: nothing more is sent" in result.err
    assert result.err.rstrip().endswith("left the fleet")
    assert "Traceback" not in result.err
    assert len(list((shell.folder / "out" / "default").iterdir())) == 12
    assert len([one for one in service.creates if one["charged"]]) == 3

    listed = shell("cluster", "manifest", "--database-url", queue_url)
    lines = [json.loads(line) for line in listed.out.splitlines()]
    assert {line["path"] for line in lines} == {
        path.name for path in (shell.folder / "out" / "default").iterdir()
    }
    status = shell("cluster", "status", "--database-url", queue_url, "--json")
    assert status.told["jobs"]["saved"] == 3
    for said in (result.out, result.err, listed.out, status.out, dump(queue_url)):
        assert KEY not in said
    assert "fox 1" in dump(queue_url)


def test_a_worker_without_jobs_leaves_at_once(
    shell: Shell, service: Service, queue_url: str
) -> None:
    with signalled(at_work(queue_url)):
        result = work(shell, queue_url)
    assert result.code == 0, result.err
    assert service.creates == []


@pytest.mark.slow
def test_a_second_signal_ends_the_grace(shell: Shell, service: Service, queue_url: str) -> None:
    service.break_with("task.stuck=100%")
    put_in(queue_url, 1)
    gone = threading.Event()

    def again() -> bool:
        return gone.wait(1.0) or True

    # It has looked: so it collects, and the grace is for that.
    with signalled(lambda: service.books["polls"], again):
        result = work(shell, queue_url, "--out", "out", "--grace", "50")
    assert result.code == 0, result.err
    assert "again: the grace is over" in result.err
    assert states(queue_url) == {"running": 1}


def test_a_worker_of_another_account_is_refused(
    shell: Shell, service: Service, queue_url: str
) -> None:
    ask(
        queue_url,
        "INSERT INTO kie_mj.worker (name, host, pid, account) VALUES ('w', 'h', 1, 'another')",
    )
    told = complaint(work(shell, queue_url))
    assert "another key or another API host" in told
    assert KEY not in told


def test_a_destination_that_cannot_be_written_is_told(
    shell: Shell, service: Service, queue_url: str
) -> None:
    (shell.folder / "out").write_text("no folder")
    told = complaint(work(shell, queue_url))
    assert "out" in told


@pytest.mark.parametrize("out", ["ftp://host/x", "s3://", "https://bucket/x"])
def test_a_destination_that_is_none_is_told(
    shell: Shell, service: Service, queue_url: str, out: str
) -> None:
    complaint(work(shell, queue_url, "--out", out))


def test_a_work_folder_that_cannot_be_made_is_told(
    shell: Shell, service: Service, queue_url: str
) -> None:
    (shell.folder / "file").write_text("no folder")
    shell.patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    shell.patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    options = ("--out", "s3://shelf/x", "--work-dir", "file/below")
    with shelf_in(shell.folder / "buckets") as shelf:
        shell.patch.setenv("AWS_ENDPOINT_URL", shelf.endpoint)
        shell.patch.setenv("AWS_ALLOW_HTTP", "true")
        shell.patch.setenv("AWS_REGION", "us-east-1")
        told = complaint(work(shell, queue_url, *options))
    assert "file" in told


def test_a_worker_renders_into_an_object_store(
    shell: Shell, service: Service, queue_url: str
) -> None:
    put_in(queue_url, 2)
    with shelf_in(shell.folder / "buckets") as shelf:
        for name, value in shelf.environment.items():
            shell.patch.setenv(name, value)
        with signalled(lambda: states(queue_url) == {"saved": 2}):
            result = work(shell, queue_url, "--out", "s3://shelf/runs/", "--work-dir", "work")
        assert result.code == 0, result.err
        assert len(shelf.names) == 8
        assert all(name.startswith("runs/default/") for name in shelf.names)
    assert not [path for path in Path("work").rglob("*") if path.is_file()]
    assert SECRET not in result.err + dump(queue_url)
