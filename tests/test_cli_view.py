"""What a run looks like: plain lines where nobody looks, a live view on a terminal."""

from __future__ import annotations

import io
import sys
import threading
from pathlib import Path

import attrs
import pytest
from rich.console import Console

from kie_mj_async.cli.view import (
    LiveView,
    PlainView,
    View,
    choose_view,
    printable,
    say,
    time_left,
)
from kie_mj_async.errors import TaskFailed
from kie_mj_async.events import CreatesPaused, Event, JobEnded, JobSubmitted, JobSucceeded, Planned
from kie_mj_async.jobs import Failed, Job, Outcome, Saved, Unresolved
from kie_mj_async.progress import Left
from kie_mj_async.requests import TextToImage

NASTY = "a fox \x1b[31m[red]\x07\r\n[/nothing] :fox: \u202egnp \x9b2J"


def job(prompt: str = "a fox") -> Job:
    return Job(key="1-a", request=TextToImage(prompt), price=25, credits=25)


def saved(prompt: str = "a fox", files: int = 4) -> Saved:
    paths = tuple(Path(f"{index}.png") for index in range(files))
    return Saved(job(prompt), paths, tuple(map(str, paths)))


def failed(prompt: str = "a fox", why: str = "it is too red") -> Outcome:
    return Failed(job(prompt), TaskFailed(why))


def tell(view: View, *events: Event, at: float = 0.0) -> None:
    """Let a view hear of events, so many seconds after the run began."""
    for event in events:
        view.show(view._progress.after(event, at))
        view.hear(event)


def is_plain(text: str) -> bool:
    """Whether there are only characters that a terminal prints, and line breaks."""
    return all(one == "\n" or one.isprintable() for one in text)


def test_plain_lines_one_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal each job that ends is one line on stderr, without control codes."""
    with PlainView() as view:
        tell(view, Planned(3, 0, 0, 75))
        tell(view, JobSubmitted(job()))
        tell(view, JobEnded(saved()))
        tell(view, JobEnded(saved(files=1)))
        tell(view, JobEnded(failed(NASTY)))
    out, err = capsys.readouterr()
    assert out == ""
    assert is_plain(err)
    first, second, third = err.splitlines()
    assert first == "[1/3] saved 4 files: a fox"
    assert second == "[2/3] saved 1 file: a fox"
    assert third.startswith("[3/3] failed: a fox")
    assert third.endswith("it is too red")


def test_jobs_of_earlier_runs_are_not_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    """What ended before this run counts, and is not said again."""
    view = PlainView()
    tell(view, Planned(1, 1, 0, 25))
    tell(view, JobEnded(saved("an owl"), earlier=True))
    tell(view, JobEnded(saved()))
    assert capsys.readouterr().err == "[2/2] saved 4 files: a fox\n"


def test_a_summary_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """Now and then a line sums up: what is done, what it cost, how long it will take."""
    view = PlainView()
    tell(view, Planned(4, 0, 0, 100))
    view.show(attrs.evolve(view._progress, eta=Left(9.0, 10.0, 11.0)))
    for at in (4.0, 9.9, 10.1, 19.1):
        tell(view, JobSubmitted(job()), JobSucceeded(job()), JobEnded(saved()), at=at)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert lines[3] == "submitted 3, generated 3, saved 3 of 4; 75 credits, about 10 s left"


@pytest.mark.parametrize(
    ("left", "told"),
    [
        (None, ""),
        (Left(0.0, 0.0, 0.0), ""),
        (Left(0.0, 0.4, 3.0), ""),
        (Left(2.0, 3.4, 9.0), "about 3 s left"),
        (Left(40.0, 44.0, 49.0), "about 45 s left"),
        (Left(20.0, 44.0, 97.0), "20 s to 95 s left"),
        (Left(170.0, 182.0, 200.0), "about 3 min left"),
        (Left(90.0, 182.0, 400.0), "90 s to 7 min left"),
        (Left(3500.0, 3600.0, 3700.0), "about 60 min left"),
        (Left(9000.0, 9100.0, 9200.0), "about 2 h 30 min left"),
        (Left(1000.0, 7200.0, 40_000.0), "17 min to 11 h 05 min left"),
    ],
)
def test_the_time_left_is_as_exact_as_it_is_known(left: Left | None, told: str) -> None:
    """One round number while the spread is small, from and to where it is not."""
    assert time_left(left) == told


def test_a_pause_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A pause is a line with its length and its reason."""
    PlainView().hear(CreatesPaused("429: too \x1b[5mfast", 12.4))
    err = capsys.readouterr().err
    assert err == "nothing is submitted for 12 s: 429: too \\x1b[5mfast\n"


def test_long_prompts_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """A prompt of many words takes one line."""
    PlainView().hear(JobEnded(saved("word \n" * 300)))
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) < 90
    assert line.endswith("...")


def test_what_others_wrote_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters are shown as what they are; every other character stays."""
    assert printable("a\x1b[31mb\r\n\x9b\u202e\u2028") == r"a\x1b[31mb\r\n\x9b\u202e\u2028"
    assert (
        printable("ein Füchslein 狐 👨‍👩‍👧 [red] \\ :fox:")
        == "ein Füchslein 狐 👨‍👩‍👧 [red] \\ :fox:"
    )
    say(NASTY)
    err = capsys.readouterr().err
    assert is_plain(err)
    assert err.count("\n") == 1


def test_a_reader_who_went_away_does_not_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed stderr is no reason to fail."""

    class Closed(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    PlainView().hear(JobEnded(saved()))


def test_plain_lines_without_a_terminal() -> None:
    """The live view is for terminals only."""
    assert isinstance(choose_view(), PlainView)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_live_view_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the live view is drawn there, hides the cursor and brings it back."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    view = choose_view()
    assert isinstance(view, LiveView)
    with view:
        tell(view, Planned(2, 0, 0, 50))
        tell(view, JobEnded(saved()))
        view.say(NASTY)
    shown = terminal.getvalue()
    assert "1/2" in shown
    assert "[red]" in shown
    assert ":fox:" in shown
    assert "\x1b[31m[red]" not in shown
    assert "\x07" not in shown
    assert "\u202e" not in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> LiveView:
    """A live view whose terminal is a text."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    return LiveView()


def drawn(view: LiveView, width: int = 100) -> str:
    """The live view as it looks now."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, color_system=None)
    console.print(view._draw())
    return screen.getvalue()


def test_three_lanes(live: LiveView) -> None:
    """Submitted, generated and saved each have a lane with their count; below is the money."""
    tell(live, Planned(10, 0, 0, 250))
    for _ in range(4):
        tell(live, JobSubmitted(job()))
    for _ in range(2):
        tell(live, JobSucceeded(job()))
    tell(live, JobEnded(saved()), at=60.0)
    live.show(attrs.evolve(live._progress, eta=Left(400.0, 540.0, 680.0)))
    lines = drawn(live).splitlines()
    for line, words in zip(
        lines[:3],
        (
            ["submitted", "4/10"],
            ["generated", "2/10", "2 generating"],
            ["saved", "1/10", "0 files"],
        ),
        strict=True,
    ):
        assert all(word in line for word in words), line
    assert lines[3].strip() == "100 credits · 1.0 jobs/min · 1 min 00 s gone · 7 min to 11 min left"
    assert len(lines) == 4


def test_the_lanes_before_anything_is_known(live: LiveView) -> None:
    """A view that has heard nothing can be drawn."""
    assert "0/0" in drawn(live)


def test_a_pause_is_shown_while_it_lasts(live: LiveView) -> None:
    """A pause counts down in the view and is gone when it is over."""
    tell(live, CreatesPaused("too fast", 10), at=100.0)
    live.show(attrs.evolve(live._progress, at=104.0))
    assert "nothing is submitted for 6 s: too fast" in drawn(live)
    live.show(attrs.evolve(live._progress, at=111.0))
    assert "nothing is submitted" not in drawn(live)


def test_the_latest_troubles_stay_in_sight(live: LiveView) -> None:
    """The last eight jobs that did not end well are listed, what went well is not."""
    tell(live, Planned(20, 0, 0, 500))
    for number in range(12):
        tell(live, JobEnded(failed(f"fox {number}")))
    tell(live, JobEnded(saved("a fine owl")))
    tell(live, JobEnded(Unresolved(job("a hare"), TaskFailed("lost"))))
    shown = drawn(live)
    assert "fox 4" not in shown
    assert "fox 5:" in shown
    assert "unresolved: a hare: lost" in shown
    assert "a fine owl" not in shown
    assert "12 failed · 1 unresolved" in shown


@pytest.mark.parametrize("width", [30, 100])
def test_prompts_neither_break_nor_style_the_view(live: LiveView, width: int) -> None:
    """Markup and control characters in prompts and errors are shown as text."""
    tell(live, JobEnded(failed(NASTY, why=NASTY)))
    tell(live, CreatesPaused(NASTY, 10))
    tell(live, JobEnded(failed("x" * 500)))
    shown = drawn(live, width)
    assert is_plain(shown)
    assert "[red]" in shown
    assert all(len(line) <= width for line in shown.splitlines())


def test_troubles_may_come_while_it_is_drawn(live: LiveView) -> None:
    """The view is drawn by another thread than the one that hears."""
    over = threading.Event()

    def hear() -> None:
        while not over.is_set():
            tell(live, JobEnded(failed()))

    hearing = threading.Thread(target=hear)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    hearing.start()
    try:
        for _ in range(300):
            live._draw()
    finally:
        over.set()
        hearing.join()
        sys.setswitchinterval(interval)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (61, "1 min 01 s"),
        (3599.6, "1 h 00 min"),
        (7384, "2 h 03 min"),
    ],
)
def test_durations_are_for_people(live: LiveView, seconds: float, words: str) -> None:
    """Times are told in the units that fit."""
    live.show(attrs.evolve(live._progress, at=seconds))
    assert f"{words} gone" in drawn(live)
