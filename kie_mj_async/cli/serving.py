"""The commands that serve until they are interrupted: a simulator, and a receiver of callbacks."""

from __future__ import annotations

import os

import click

from .shell import Decorator, awaited, together


def _address(port: int) -> Decorator:
    """Where to listen."""
    return together(
        click.option(
            "--host", default="127.0.0.1", show_default=True, help="The address to listen at."
        ),
        click.option(
            "--port", type=click.IntRange(0, 65535), default=port, show_default=True,
            help="0 for any that is free.",
        ),
    )  # fmt: skip


@click.command()
@_address(8787)
@click.option(
    "--time-scale",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="0.1 runs ten times faster than the service.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Repeats a run's chances.")
@click.option("--faults", default="", metavar="SPEC", help="Such as create.429=5%,poll.drop=#3.")
@click.option(
    "--credits",
    "balance",
    type=click.FloatRange(min=0),
    default=100_000.0,
    show_default=True,
    help="The balance at the start.",
)
@click.option("--webhook-key", metavar="KEY", help="Signs callbacks; without it they are unsigned.")
def simulate(
    host: str,
    port: int,
    time_scale: float,
    seed: int,
    faults: str,
    balance: float,
    webhook_key: str | None,
) -> int:
    """A local KIE.ai, until it is interrupted. Its books are at GET /simulator/books."""
    from .serve import serve

    awaited(serve(host, port, time_scale, seed, faults, balance, webhook_key))
    return 0


@click.command()
@_address(8788)
@click.option(
    "--path", default="/", show_default=True, metavar="PATH", help="Where callbacks come to."
)
def listen(host: str, port: int, path: str) -> int:
    """Print the callbacks that come, one JSON object a line, until it is interrupted.

    Only those are believed that the account's webhook key has signed (KIE_WEBHOOK_KEY); without a
    key, those that bring the token which is told at the start. What is refused is told on stderr.
    """
    from .listen import listen as receive

    # Set to nothing is how many a shell and container file says "there is none".
    awaited(receive(host, port, path, os.environ.get("KIE_WEBHOOK_KEY") or None))
    return 0
