"""What runs the blocks of the documentation: each page is played from its top, in a folder of its own.

A page's blocks belong together: what one writes, the next may read. How a block is run depends on its
language:

- ``python``: executed. A piece that awaits at its top level runs in an event loop. Names that it uses
  and nothing on the page defines are given to it: see ``GIVEN``.
- ``sh``: line by line. ``kie-mj`` runs in this process, and its question about the cost is answered with
  yes; ``pytest`` and ``python`` run as processes; of ``pip install`` the extras are looked up.
- ``toml``, ``json``, ``jsonl``, ``csv``, ``ini``, ``sql``: read by whoever reads such a file.
- anything else is only shown.

A block with ``title="NAME"`` is written to that file first; Python with a title is not executed but used
by a later block, and tests (``test_*.py``) are run by pytest.

On the lines above a block, a comment may say more: ``<!-- block: skip REASON -->`` (it is not run),
``<!-- block: exits 4 0 -->`` (the exit codes of its commands), ``<!-- block: faults SPEC -->`` (from
then on the service misbehaves), ``<!-- block: slow -->``.
"""

from __future__ import annotations

import ast
import asyncio
import configparser
import contextlib
import inspect
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Final

import attrs
import click
from cli_support import Shell
from PIL import Image
from tls_support import authority_in

import kie_mj_async as mj
from kie_mj_async import durations_file
from kie_mj_async.cli import setup
from kie_mj_async.cli.app import cli
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules.billing import read_prices
from kie_mj_async.rules.config import BY_NAME, read_config
from kie_mj_async.rules.kinds import kind_of
from kie_mj_async.rules.making import Wishes, as_requests
from kie_mj_async.settings import Settings
from kie_mj_async.testing import Simulated

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "docs"
SCALE: Final = 0.004

PAGES: Final = (
    "README.md",
    *sorted(
        str(path.relative_to(ROOT)) for path in DOCS.rglob("*.md") if "_make" not in path.parts
    ),
)
"""Where blocks are run; also the README's, which has the same conventions."""

ELSEWHERE: Final = {
    ("README.md", "python3 -m venv .venv && "): "CI runs it, word for word (.ci/run)",
}
"""Blocks that are run by something else: by their page and their beginning."""

LOCAL: Final = {
    "https://me.example/kie": "http://127.0.0.1:9/kie",
    "https://pictures.example": "http://127.0.0.1:9",
    "0.0.0.0:8080": "127.0.0.1:0",
    "kie-mj simulate": "kie-mj simulate --port 0",
}
"""What stands on the pages, and what it is where they are run: nothing leaves this machine."""

TASK: Final = "9f47c52047dda21bb3df0488736cce57"
"""The task of the pages; where they are run, one that is finished."""

CERTIFICATE: Final = "company-ca.pem"
"""A file that pages take for granted: the certificate of an authority."""

DATABASE: Final = "postgresql://kie:secret@db.internal/kie"

GIVEN: Final = ("client", "database_url", "mj", "task_id", "task_ids")
"""Names that pieces may use: an open client, a fleet's database, the package, finished tasks."""

_LOG: Final = logging.getLogger("kie_mj_async")

_FENCE: Final = re.compile(
    r"(?ms)^(?P<marks>(?:[ ]*<!-- block: [^\n]*? -->\n)*)"
    r"(?P<indent>[ ]*)(?P<fence>```+)(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)(?P=fence)[ ]*$"
)
_MARK: Final = re.compile(r"<!-- block: (\w+) ?(.*?) -->")


@attrs.frozen
class Block:
    """A block of code on a page.

    Attributes:
        page: The page, from the repository's root.
        line: Where its text begins, from 1.
        language: Its first word.
        text: What it says.
        title: The file that it is, if it is one.
        marks: What the comments above it say.
    """

    page: str
    line: int
    language: str
    text: str
    title: str | None
    marks: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def skipped(self) -> str | None:
        """Why it is not run, if it is not."""
        for (page, beginning), reason in ELSEWHERE.items():
            if page == self.page and self.text.startswith(beginning):
                return reason
        return self.marks.get("skip")

    @property
    def is_test(self) -> bool:
        """Whether pytest runs it."""
        named = (self.title or "").startswith("test_")
        return self.language == "python" and (named or "\ndef test_" in self.text)

    @property
    def is_slow(self) -> bool:
        """Whether it takes long: it starts processes, or talks to a fleet's database."""
        commands = ("kie-mj worker", "kie-mj cluster", "kie-mj simulate", "kie-mj listen")
        begins = tuple(f"\n{one}" for one in (*commands, "pytest", "python "))
        return (
            "slow" in self.marks
            or self.is_test
            or self.language == "sql"
            or (self.language == "python" and "Cluster(" in self.text)
            or (self.language == "sh" and any(one in f"\n{self.text}" for one in begins))
            or "s3://" in self.text
        )


def blocks(page: str) -> list[Block]:
    """The blocks of a page, from its top."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        language, _, rest = fence["info"].strip().partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        marks = dict(_MARK.findall(fence["marks"]))
        line = text.count("\n", 0, fence.start("text")) + 1
        code = textwrap.dedent(fence["text"])
        found.append(Block(page, line, language, code, title[1] if title else None, marks))
    return found


class Story:
    """A page that is being played.

    Args:
        folder: Where it is played.
        service: The local KIE.ai.
        shell: The command line.
        database: A fleet's database, once it is asked for.
        shelf: Makes an object store be there, once it is asked for.
    """

    def __init__(
        self,
        folder: Path,
        service: Simulated,
        shell: Shell,
        *,
        database: Callable[[], str] | None = None,
        shelf: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        self.folder = folder
        self.service = service
        self._shell = shell
        self._database = database
        self._shelf = shelf
        self._names: dict[str, Any] = {"__name__": "__main__", "mj": mj}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._logging = _LOG.handlers[:], _LOG.level
        patch = shell.patch
        patch.setattr(setup, "Settings", _scaled(service.time_scale))
        patch.setenv("KIE_API_KEY", service.api_key)
        patch.setenv("KIE_BASE_URL", service.url)
        _prepare(folder)
        # Processes of their own poll as they would the service: what tasks take here is known to them.
        path = durations_file.path_of(folder / "state", service.url)
        kinds = (TextToImage("a fox"), TextToImage("a fox", speed="fast"))
        durations_file.add(path, [(kind_of(one), 60 * service.time_scale) for one in kinds * 20])

    def play(self, block: Block) -> None:
        """Run a block.

        Raises:
            AssertionError: It does not do what a reader would expect of it.
        """
        if "faults" in block.marks:
            self.service.misbehave(block.marks["faults"])
        text = self._here(block)
        if block.title is not None:
            path = self.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        match block.language:
            case "python" if block.is_test:
                self._test(block, text)
            case "python" if block.title is None:
                self._execute(block, text)
            case "python":
                compile(text, str(block), "exec", dont_inherit=True)
            case "sh":
                self._type(block, text)
            case "sql":
                self._query(text)
            case language:
                READERS.get(language, _only_shown)(self.folder, block, text)

    def end(self) -> None:
        """End what was left running, in order, and leave no handler of logs behind."""
        _LOG.handlers[:], level = self._logging
        _LOG.setLevel(level)
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            assert process.wait(30) == 0, (self.folder / "processes.log").read_text()[-3000:]

    def _here(self, block: Block) -> str:
        text = block.text
        for address, local in LOCAL.items():
            text = text.replace(address, local)
        if TASK in text:
            text = text.replace(TASK, self._finished())
        if CERTIFICATE in text and not (self.folder / CERTIFICATE).exists():
            authority_in(self.folder).ca_file.rename(self.folder / CERTIFICATE)
        if DATABASE in text or "KIE_DATABASE_URL" in text or "database_url" in text:
            text = text.replace(DATABASE, self._fleet())
        if "s3://" in text:
            assert self._shelf is not None, f"{block}: is no block for a quick test"
            for name, value in self._shelf().items():
                self._shell.patch.setenv(name, value)
        return text

    def _finished(self) -> str:
        if TASK not in self._names:
            self._names[TASK] = asyncio.run(_one_task())
        return str(self._names[TASK])

    def _fleet(self) -> str:
        assert self._database is not None, "a fleet is nothing for a quick test"
        url = self._names.get("database_url")
        if url is None:
            url = self._names["database_url"] = self._database()
            self._shell.patch.setenv("KIE_DATABASE_URL", url)
            self._start("kie-mj", "worker", "--out", str(self.folder / "fleet"))
        return str(url)

    # --- Python ---

    def _execute(self, block: Block, text: str) -> None:
        padded = "\n" * (block.line - 1) + text
        allow = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(padded, block.page, "exec", flags=allow, dont_inherit=True)
        missing = [name for name in GIVEN if name in code.co_names and name not in self._names]

        async def run() -> None:
            async with contextlib.AsyncExitStack() as stack:
                names = {**self._names, **await self._given(missing, stack)}
                awaited = eval(code, names)
                if awaited is not None:
                    await awaited
                kept = {name: one for name, one in names.items() if name not in missing}
                self._names.update(kept)

        if code.co_flags & inspect.CO_COROUTINE or missing:
            asyncio.run(run())
        else:
            exec(code, {"__name__": "__main__", "mj": mj})

    async def _given(
        self, missing: list[str], stack: contextlib.AsyncExitStack
    ) -> Mapping[str, Any]:
        given: dict[str, Any] = {}
        if missing:
            client = await stack.enter_async_context(mj.Client())
            given["client"] = client
        if {"task_id", "task_ids"} & set(missing):
            made = [await client.generate(prompt) for prompt in ("a fox", "an owl")]
            given["task_ids"] = [one.task_id for one in made]
            given["task_id"] = made[0].task_id
        return {name: value for name, value in given.items() if name in missing}

    def _test(self, block: Block, text: str) -> None:
        name = block.title or "test_of_the_page.py"
        (self.folder / name).write_text(text, encoding="utf-8")
        if block.title is None:
            self._run(block, [sys.executable, "-m", "pytest", *_PYTEST, name])

    # --- The shell ---

    def _type(self, block: Block, text: str) -> None:
        lines = [shlex.split(one, comments=True) for one in text.replace("\\\n", " ").splitlines()]
        codes = [int(code) for code in block.marks.get("exits", "").split()]
        typed = (words for words in lines if words)
        for words, code in zip_longest(typed, codes, fillvalue=None):
            assert words is not None, f"{block}: more exit codes than commands"
            self._command(block, words, code or 0)

    def _command(self, block: Block, words: list[str], code: int) -> None:
        if words[0] == "export":
            words = [*words[1:], ""]
        while re.match(r"[A-Z_]+=", words[0]):
            name, _, value = words.pop(0).partition("=")
            # The key, and where it leads to, stay those of the test.
            if name not in ("KIE_API_KEY", "KIE_BASE_URL", "KIE_UPLOAD_URL", "KIE_DATABASE_URL"):
                self._shell.patch.setenv(name, value)
        match words:
            case [""]:
                pass
            case ["kie-mj", ("worker" | "simulate" | "listen"), *_]:
                self._start(*words)
            case ["kie-mj", *arguments]:
                result = self._shell(*_agreed(arguments))
                assert result.code == code, f"{block}: {words}:\n{result.out}{result.err}"
            case ["pip", "install", *packages]:
                _check_extras(packages)
            case ["pytest", *arguments]:
                self._run(block, [sys.executable, "-m", "pytest", *_PYTEST, *arguments])
            case ["python", *arguments]:
                self._run(block, [sys.executable, *arguments])
            case _:
                raise AssertionError(f"{block}: nobody knows how to run {shlex.join(words)}")

    def _run(self, block: Block, command: list[str]) -> None:
        ended = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert ended.returncode == 0, f"{block}: {command}:\n{ended.stdout}{ended.stderr}"

    def _start(self, *words: str) -> None:
        """Start what runs until it is told to stop, and see it begin."""
        log = self.folder / "processes.log"
        begun = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "kie_mj_async.cli", *words[1:]],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._processes.append(process)
        for _ in range(300):
            if log.stat().st_size > begun:
                return
            assert process.poll() is None, log.read_text()[-3000:]
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        raise AssertionError(f"{words}: it says nothing")

    def _query(self, text: str) -> None:
        import psycopg

        with psycopg.connect(self._fleet(), autocommit=True) as connection:
            known = connection.execute("SELECT FROM pg_roles WHERE rolname = 'kie'")
            if known.fetchone() is None:
                connection.execute("CREATE ROLE kie")
            connection.execute(text)


_PYTEST: Final = (
    "-q",
    "--strict-markers",
    "-W",
    "error",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:asyncio",
)


def _scaled(scale: float) -> Callable[..., Settings]:
    def make(**given: Any) -> Settings:
        return Settings(**{"time_scale": scale, **given})

    return make


async def _one_task() -> str:
    async with mj.Client() as client:
        return (await client.generate("a fox")).task_id


def _prepare(folder: Path) -> None:
    """What pages may take for granted: a list of prompts, and a picture of the reader's own."""
    for name in ("prompts.txt", "examples/prompts.txt"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("a fox in the snow\na lighthouse\n", encoding="utf-8")
    Image.new("RGB", (32, 32), "red").save(folder / "fox.png")


def _agreed(arguments: list[str]) -> list[str]:
    """A command line that needs no answer on a terminal."""
    command: click.Command | None = cli
    for word in arguments:
        if isinstance(command, click.Group) and word in command.commands:
            command = command.commands[word]
    asks = command is not None and any("--yes" in one.opts for one in command.params)
    free = {"--yes", "--dry-run", "--simulate", "--help"} & set(arguments)
    return [*arguments, "--yes"] if asks and not free else arguments


def _check_extras(packages: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for package in (one for one in packages if not one.startswith("-")):
        found = re.fullmatch(r"(?:\.|kie-mj-async)(?:\[([a-z,]+)\])?", package)
        assert found is not None, package
        extras = set((found[1] or "").split(",")) - {""}
        assert extras <= set(project["optional-dependencies"]), package


# --- Files ---


def _only_shown(_folder: Path, _block: Block, _text: str) -> None:
    """Text, and what no program of ours reads."""


def _read_toml(folder: Path, block: Block, text: str) -> None:
    known = set(tomllib.loads(text)) <= BY_NAME.keys()
    if block.title == "kie-mj.toml" or (block.title is None and known):
        assert read_config(text, str(folder / "kie-mj.toml"), home=str(folder), found=False).values
    else:
        read_prices(text, str(block))


def _read_list(folder: Path, block: Block, text: str) -> None:
    path = folder / (block.title or f"list.{block.language}")
    path.write_text(text, encoding="utf-8")
    prompts = list(mj.read_prompts(path))
    assert list(chain.from_iterable(as_requests(one, Wishes()) for one in prompts))


def _read_jsonl(folder: Path, block: Block, text: str) -> None:
    told = [json.loads(line) for line in text.splitlines()]
    if all("prompt" in one and "sha256" not in one for one in told):
        _read_list(folder, block, text)


def _read_json(_folder: Path, _block: Block, text: str) -> None:
    json.loads(text)


def _read_ini(_folder: Path, _block: Block, text: str) -> None:
    configparser.ConfigParser().read_string(text)


READERS: Final[Mapping[str, Callable[[Path, Block, str], None]]] = {
    "toml": _read_toml,
    "csv": _read_list,
    "jsonl": _read_jsonl,
    "json": _read_json,
    "ini": _read_ini,
}


def skipped() -> Iterator[Block]:
    """Blocks that are not run by the tests of the pages."""
    for page in PAGES:
        yield from (block for block in blocks(page) if block.skipped is not None)
