"""The generating commands: take the list in, ask before spending, run, report."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import attrs

from ..batch import Batch, folder_of
from ..client import Client
from ..errors import ApiError, KieError, LedgerError, TransportError
from ..events import Event, Planned
from ..requests import Request
from ..rules.objects import is_store_url
from ..settings import JOB_TIMEOUT
from .report import Exit, check_out, read_report, resume_command, tell, write_json
from .report import now as present
from .setup import Options, open_client
from .view import View, choose_view, count_of, new_jobs, say

_FRAME: Final = 0.125
"""Seconds between two looks at how far the run is."""


@attrs.frozen
class Task:
    """What a generating command was asked to do.

    Attributes:
        out: The batch directory, as the user wrote it.
        requests: Makes the list anew each time it is called; ``None`` to go on with what is there.
        options: What the command line says about the client.
        work_dir: Where the ledger of an object store is kept, if the user says.
        timeout: Seconds to wait for each task.
        yes: Spend without asking.
        as_json: Print the directory as JSON at the end.
    """

    out: str
    requests: Callable[[], Iterable[Request]] | None
    options: Options
    work_dir: str | None = None
    timeout: float = JOB_TIMEOUT
    yes: bool = False
    as_json: bool = False

    @property
    def named(self) -> str:
        """What names the batch on any command line: its directory, or the address of its store."""
        return self.out if self.work_dir is None else self.work_dir

    def check(self) -> None:
        """Read the whole list once: a bad one costs nothing, not even a directory.

        Raises:
            KieError: It is bad.
        """
        for _ in self.requests() if self.requests is not None else ():
            pass


@attrs.frozen
class _End:
    """How a run ended.

    Attributes:
        error: What stopped it, if anything did.
        interrupted: Whether somebody waits for the command to be over.
    """

    error: KieError | None
    interrupted: bool = False


async def work(task: Task) -> Exit:
    """Run a generating command and return its exit code.

    Raises:
        KieError: Bad input; nothing was sent.
    """
    task.check()
    named = task.named
    folder = folder_of(named)
    await check_out(named, simulate=task.options.simulate, new=task.requests is not None)
    view = choose_view()
    batch: Batch | None = None

    def hear(event: Event) -> None:
        if batch is not None:
            view.show(batch.progress())
        view.hear(event)

    async with (
        open_client(task.options, out=folder, on_event=hear) as client,
        _listening(client, task.options.listen),
    ):
        batch = (
            client.resume(folder, timeout=task.timeout)
            if task.requests is None
            else client.render(
                task.requests(),
                task.out,
                timeout=task.timeout,
                # Named, for a simulated client has a state directory of its own.
                work_dir=folder if is_store_url(task.out) else task.work_dir,
            )
        )
        async with batch:
            try:
                planned = await batch.plan()
            except (ApiError, TransportError) as error:
                end = _End(_say_stopped(error, say))
            else:
                if not await _may_spend(planned, task):
                    say("Nothing was sent.")
                    return Exit.BAD_INPUT
                end = await _run(batch, view, task)
    if not (end.interrupted or is_store_url(task.out)):
        await _show(folder)
    try:
        report = await read_report(named, present())
    except LedgerError as error:
        if end.error is None:
            raise
        say(f"kie-mj: {error}")  # a full disk cannot even be looked at; what was sent, was sent
        return Exit.WORK_LEFT
    say("")
    tell(report, say)
    if task.as_json:
        await write_json(named, report, sys.stdout)
    return report.exit_code(stopped=end.error is not None)


@asynccontextmanager
async def _listening(client: Client, address: tuple[str, int] | None) -> AsyncIterator[None]:
    """Receive callbacks, if they are to be received here."""
    if address is None:
        yield
        return
    # At any path: a proxy in front may change it.
    receiver = client.receiver(path=None)
    async with receiver.listening(*address) as url:
        say(f"Callbacks are received at {url}")
        yield
    if receiver.counts.refused:
        say(f"{count_of(receiver.counts.refused, 'callback')} refused: not signed, or unknown")


async def _show(folder: Path) -> None:
    """Bring the page up to date. It is made from what is saved, so nothing is lost without it."""
    from ..gallery import build_gallery

    try:
        await build_gallery(folder)
    except KieError as error:
        say(f"kie-mj: the page is not up to date: {error}")


def _say_stopped(error: KieError, say_it: Callable[[str], None]) -> KieError:
    say_it(f"kie-mj: stopped: {error}")
    return error


async def _run(batch: Batch, view: View, task: Task) -> _End:
    """Run to the end, or to what stopped it."""
    with view, _signals(batch, view, task) as interrupted:
        following = asyncio.create_task(_follow(batch, view))
        try:
            async for _ in batch:
                pass
        except KieError as error:
            return _End(_say_stopped(error, view.say), interrupted.is_set())
        finally:
            following.cancel()
            view.show(batch.progress())
        return _End(None, interrupted.is_set())


async def _follow(batch: Batch, view: View) -> None:
    """Keep the view's numbers up to date. Here, for it may draw in a thread of its own."""
    while True:
        view.show(batch.progress())
        await asyncio.sleep(_FRAME)


async def _may_spend(planned: Planned, task: Task) -> bool:
    jobs = new_jobs(planned.new, planned.steps)
    known = f", {planned.known:,} known already" if planned.known else ""
    if task.options.simulate or not planned.cost:
        say(f"{task.out}: {jobs}{known}{' (simulated)' if task.options.simulate else ''}")
        return True
    cost = f"{planned.cost:,.0f} credits"
    cap = task.options.max_credits
    if cap is not None and cap < planned.cost:
        cost += f", of which at most {cap:,.0f} (--max-credits)"
    if planned.balance is not None:
        cost += f" (balance: {planned.balance:,.0f})"
    if task.yes:
        say(f"{task.out}: {jobs}{known}, {cost}")
        if warning := _warning(planned):
            say(warning)
        return True
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        say(f"kie-mj: this would spend {cost} for {jobs}; add --yes to do it")
        return False
    say(f"{task.out}: {jobs}{known}, {cost}.")
    if warning := _warning(planned):
        say(warning)
    sys.stderr.write("Go on? [y/N] ")
    sys.stderr.flush()
    answer = await _answer()
    return answer.strip().lower() in ("y", "yes")


async def _answer() -> str:
    """A line from the terminal, which an interrupt does not wait for."""
    loop = asyncio.get_running_loop()
    if sys.platform == "win32":
        return await asyncio.to_thread(sys.stdin.readline)
    there = asyncio.Event()
    loop.add_reader(sys.stdin, there.set)
    try:
        await there.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return sys.stdin.readline()


def _warning(planned: Planned) -> str | None:
    """What to say about a balance that will not last for the list."""
    if planned.balance is None or planned.balance >= planned.cost or not planned.cost:
        return None
    enough = int(planned.new * planned.balance / planned.cost)
    return (
        f"Warning: the balance of {planned.balance:,.0f} credits lasts for about {enough:,} of "
        f"{planned.new:,} jobs; the rest can be resumed once there are more."
    )


@contextmanager
def _signals(batch: Batch, view: View, task: Task) -> Iterator[asyncio.Event]:
    """The first interrupt ends the run cleanly, the second at once; whether there was one."""
    loop = asyncio.get_running_loop()
    go_on = resume_command(task.named, simulate=task.options.simulate)
    asked = asyncio.Event()

    def interrupted() -> None:
        if asked.is_set():
            view.__exit__()  # gives the terminal back as it was
            view.say("Stopped at once. What was under way is in the ledger.")
            os._exit(Exit.WORK_LEFT)
        asked.set()
        view.say(
            "Stopping: creates under way are seen through and files being saved get a moment "
            f"(again to stop at once). Go on later with: {go_on}"
        )
        batch.stop()

    if sys.platform == "win32":
        before = signal.signal(
            signal.SIGINT, lambda *_: loop.call_soon_threadsafe(interrupted) and None
        )
        try:
            yield asked
        finally:
            signal.signal(signal.SIGINT, before)
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)
    try:
        yield asked
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
