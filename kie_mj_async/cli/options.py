"""The options of the commands, in groups that several commands share.

They are named by the fields they fill. What a field may be is checked where requests are made, not
here, so that it is said in one way wherever it comes from.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import click

from .shell import a_file, a_folder, option, together

_WHERE = "Where results go"
_WHAT = "What to make"
_PROMPTS = "How prompts are read"
_AFTER = "What follows"
_MONEY = "What it may cost"
_PACE = "How fast"
_FLEET = "Which fleet"


def _rate(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    from ..errors import ConfigError
    from ..settings import checked_rate

    creates, _, seconds = value.partition("/")
    try:
        return checked_rate((int(creates), float(seconds)))
    except (ValueError, ConfigError):
        message = f"{value!r} is not allowed; use CREATES/SECONDS such as 20/10"
        raise click.BadParameter(message) from None


def _host_and_port(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[str, int] | None:
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port[:9]) > 65535:
        message = f"{value!r} is not allowed; use HOST:PORT such as 0.0.0.0:8080"
        raise click.BadParameter(message)
    return host.removeprefix("[").removesuffix("]"), int(port)


def _finite(
    _context: click.Context, _parameter: click.Parameter, value: float | None
) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not allowed; use a number above 0")
    return value


_above_zero = partial(click.FloatRange, min=0, min_open=True)

out = together(
    option(
        _WHERE, "--out", required=True, metavar="DIR", shell_complete=a_folder,
        help="Where the files go; made if it does not exist. Or an object store: s3://bucket/prefix.",
    ),
    option(
        _WHERE, "--work-dir", metavar="DIR", shell_complete=a_folder,
        help="Of an object store: where the ledger is kept; below the state directory without.",
    ),
)  # fmt: skip

simulate = option(
    _MONEY, "--simulate", is_flag=True, help="Use a simulator inside the process: no key, no cost."
)

as_json = option(
    None, "--json", "as_json", is_flag=True,
    help="Print the directory as one JSON object at the end.",
)  # fmt: skip

_watermark = option(_WHAT, "--watermark", metavar="TEXT", help="A text to mark the results with.")

making = together(
    option(
        _WHAT, "--task-type", metavar="TYPE",
        help="text-to-image, image-to-image, style-reference, omni-reference or image-to-video. "
        "Without it: image-to-image with an --image, else text-to-image.",
    ),
    option(
        _WHAT, "--image", multiple=True, metavar="PATH-or-URL", shell_complete=a_file,
        help="An image to start from or to refer to; again for several.",
    ),
    option(_WHAT, "--model", "version", metavar="NAME", help="7, 6.1, 6, 5.2, 5.1, niji6 or niji7."),
    option(_WHAT, "--speed", metavar="NAME", help="relaxed (cheapest), fast or turbo (dearest)."),
    option(_WHAT, "--aspect-ratio", metavar="W:H", help="Width to height, such as 16:9."),
    option(_WHAT, "--stylization", type=int, metavar="N", help="0 to 1000."),
    option(_WHAT, "--weirdness", type=int, metavar="N", help="0 to 3000."),
    option(_WHAT, "--variety", type=int, metavar="N", help="0 to 100."),
    option(
        _WHAT, "--omni-weight", type=int, metavar="N",
        help="Of omni-reference: how closely to keep to the images, 1 to 1000.",
    ),
    option(_WHAT, "--motion", metavar="NAME", help="Of videos: high (as without it) or low."),
    option(_WHAT, "--batch-size", type=int, metavar="N", help="Of videos: 1, 2 or 4 a task; 1."),
    option(_WHAT, "--hd", is_flag=True, help="Of videos: in high definition."),
    option(
        _WHAT, "--translate", is_flag=True, help="Let the service translate prompts to English."
    ),
    _watermark,
)  # fmt: skip

list_format = option(
    _PROMPTS, "--format", "form", type=click.Choice(["text", "csv", "jsonl"], case_sensitive=False),
    help="How the lists are written; without it as their names end (.csv, .tsv, .jsonl), else text.",
)  # fmt: skip

prompts = together(
    option(_PROMPTS, "--prefix", metavar="TEXT", default="", help="Goes before every prompt."),
    option(
        _PROMPTS, "--suffix", metavar="TEXT", default="",
        help="Goes behind every prompt, but before its flags; may hold flags itself.",
    ),
    option(
        _PROMPTS, "--raw", is_flag=True,
        help="Send prompts as they are: braces make no permutations, flags stay in the text.",
    ),
)  # fmt: skip

after = together(
    option(
        _AFTER, "--then", multiple=True, metavar="STEP",
        help="What to do with the results, such as upscale:0,2 (counted from 0); again for what to "
        "do with the results of that. Steps: upscale, vary, video, video-hd, extend.",
    ),
    option(
        _AFTER, "--callback-url", metavar="URL", help="Where the service reports a task's end."
    ),
)  # fmt: skip

listen = option(
    _AFTER, "--listen", metavar="HOST:PORT", callback=_host_and_port,
    help="Receive the callbacks here; --callback-url is how the service reaches this place.",
)  # fmt: skip

follow_up = together(_watermark, after)

extend_prompt = option(
    _WHAT, "--prompt", metavar="TEXT", default="",
    help="How the video goes on; without it the service decides.",
)  # fmt: skip

dry_run = option(
    _MONEY, "--dry-run", is_flag=True,
    help="Print the jobs, what would be sent and the cost (with --json: as one object); send nothing, "
    "write nothing, need no key.",
)  # fmt: skip

timeout = option(
    _PACE, "--timeout", type=_above_zero(), callback=_finite, default=1800.0, show_default=True,
    metavar="SECONDS", help="How long to wait for each task.",
)  # fmt: skip

prices = option(
    _MONEY,
    "--prices",
    metavar="FILE",
    shell_complete=a_file,
    help="A TOML table of what tasks cost; 25 credits each without.",
)

on_unknown = option(
    _MONEY, "--on-unknown", type=click.Choice(["park", "repeat"]), default="park",
    show_default=True,
    help="What to do when it is not known whether a job was accepted: leave it to you, or send "
    "it again at the risk of paying twice.",
)  # fmt: skip

rate = option(
    _PACE, "--rate", callback=_rate, metavar="CREATES/SECONDS",
    help="How fast tasks may be created; 20/10, the account's limit.",
)  # fmt: skip

database_url = option(
    _FLEET, "--database-url", required=True, envvar="KIE_DATABASE_URL", metavar="URL",
    help="The fleet's PostgreSQL: postgresql://user:password@host:5432/name; or KIE_DATABASE_URL, "
    "which keeps the password out of the list of processes.",
)  # fmt: skip

fleet_out = together(
    option(
        _WHERE, "--out", required=True, metavar="DIR", shell_complete=a_folder,
        help="Where results go, each batch in a folder of its own: an object store such as "
        "s3://bucket/prefix, or a directory that all workers share.",
    ),
    option(
        _WHERE, "--work-dir", metavar="DIR", shell_complete=a_folder,
        help="A local folder for what is under way; one of the system's for such files without.",
    ),
)  # fmt: skip

fleet_pace = together(
    option(
        _PACE, "--in-flight", type=click.IntRange(min=1), default=100, show_default=True,
        metavar="N", help="Tasks that may run at once, over all workers; the same for each of them.",
    ),
    option(
        _PACE, "--per-worker", type=click.IntRange(min=1), metavar="N",
        help="Jobs that one worker has under way at once at most; an even share without.",
    ),
    rate,
    option(
        _PACE, "--grace", type=click.FloatRange(min=0), callback=_finite, default=30.0,
        show_default=True, metavar="SECONDS",
        help="For jobs under way when it is told to stop; what is left goes to others.",
    ),
)  # fmt: skip

running = together(
    option(
        _MONEY, "--max-credits", type=_above_zero(), callback=_finite, metavar="N",
        help="Stop before the job that would pass this, in this run.",
    ),
    prices,
    option(_MONEY, "--yes", is_flag=True, help="Spend the credits without asking."),
    on_unknown,
    simulate,
    option(
        _PACE, "--in-flight", type=click.IntRange(min=1), default=100, show_default=True,
        metavar="N", help="Tasks that may run at once.",
    ),
    rate,
    timeout,
    as_json,
)  # fmt: skip

saving = together(timeout, simulate, as_json)
