"""``kie-mj listen``: the callback receiver on its own, until it is interrupted."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import attrs

from ..receiver import CallbackCounts, Notice, Receiver
from ..rules.callbacks import TOKEN_BYTES, WINDOW, new_token, with_token
from .view import count_of, say

_EVERY: Final = 1.0
"""Seconds between looks at what was refused: a flood of it makes few lines."""


def _print(text: str) -> None:
    with suppress(BrokenPipeError):
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


async def listen(
    host: str,
    port: int,
    path: str,
    key: str | None,
    *,
    window: float = WINDOW,
    tell: Callable[[str], None] = _print,
) -> None:
    """Print a line for each callback until SIGINT or SIGTERM.

    Args:
        host: Where to listen.
        port: Where to listen; 0 takes a free one.
        path: Where callbacks come to.
        key: The account's webhook key. Without one a token is made up that callbacks must bring.
        window: Seconds that a signature's timestamp may differ from the present.
        tell: Takes each line.

    Raises:
        ConfigError: The port cannot be had, or the key or the path cannot work.
    """
    token = None if key is not None else new_token(secrets.token_bytes(TOKEN_BYTES))
    receiver = Receiver(
        lambda notice: tell(line(notice)),
        key=key,
        path=path,
        window=window,
        known_token=None if token is None else lambda one: hmac.compare_digest(one, token),
    )
    with _interruption() as ended:
        async with receiver.listening(host, port) as url:
            say(f"Callbacks are received at {url}")
            if token is None:
                say("They must be signed with the account's webhook key.")
            else:
                say(
                    "There is no webhook key (KIE_WEBHOOK_KEY): only callbacks that bring this token "
                    f"are believed. Use it with: --callback-url {with_token(url, token)}"
                )
            await _tell_refusals(receiver.counts, ended)
        counts = receiver.counts
        say(f"{count_of(counts.received, 'callback')} received, {counts.refused:,} refused")


def line(notice: Notice) -> str:
    """A callback as one line of JSON."""
    callback = notice.callback
    told = {
        "task_id": callback.task_id,
        "succeeded": callback.succeeded,
        "code": callback.code,
        "urls": callback.urls,
        "signed": notice.signed,
    }
    return json.dumps(told)


async def _tell_refusals(counts: CallbackCounts, ended: asyncio.Event) -> None:
    """Say what is refused, now and then, until the end."""
    told = attrs.evolve(counts)
    while not ended.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), _EVERY)
        if counts.refused > told.refused:
            news = {
                field.name: getattr(counts, field.name) - getattr(told, field.name)
                for field in attrs.fields(CallbackCounts)
                if field.name != "received"
            }
            parts = [f"{n:,} {kind.replace('_', ' ')}" for kind, n in news.items() if n]
            say(f"refused: {', '.join(parts)}")
            told = attrs.evolve(counts)


@contextmanager
def _interruption() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = () if sys.platform == "win32" else (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, ended.set)
    try:
        yield ended
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
