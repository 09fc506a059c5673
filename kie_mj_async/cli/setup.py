"""From options to a client: the real service, or a simulator inside the process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from .. import batch
from ..batch import WORK_FOLDER
from ..client import Client
from ..disk import private_folder
from ..errors import ConfigError
from ..events import Event
from ..rules.billing import OnUnknown, Prices
from ..rules.pacing import Rate
from ..secret import Secret
from ..settings import (
    Settings,
    surroundings,
)
from .observed import telemetry

SIMULATED_SCALE: Final = 0.1
"""``--simulate`` runs ten times faster than the service does."""
SIMULATED_HOST: Final = batch.SIMULATED_HOST
_JOURNAL: Final = "simulator.jsonl"


@attrs.frozen
class Options:
    """What the command line says about the client.

    Attributes:
        simulate: Use a simulator inside the process.
        rate: Creates per seconds, or ``None`` for the service's.
        in_flight: Tasks that may run at once.
        on_unknown: What to do about a create whose fate is unknown.
        max_credits: The cap on what this run may spend, or ``None``.
        prices: What tasks cost.
        listen: Where to receive callbacks, if anywhere: host and port.
        limits: More of the client's settings, by their names.
    """

    simulate: bool = False
    rate: Rate | None = None
    in_flight: int = 100
    on_unknown: OnUnknown = "park"
    max_credits: float | None = None
    prices: Prices = attrs.field(factory=Prices)
    listen: tuple[str, int] | None = None
    limits: Mapping[str, Any] = attrs.field(factory=dict)


@asynccontextmanager
async def open_client(
    options: Options,
    *,
    out: Path | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> AsyncIterator[Client]:
    """A client, and its simulator if one was asked for.

    Args:
        options: What the command line says.
        out: The batch directory; a simulator keeps its books there, so that a killed run resumes.
        on_event: Who hears of events.

    Raises:
        ConfigError: No key, or settings that cannot work.
    """
    if options.simulate:
        async with _simulated(options, out, on_event) as client:
            yield client
        return
    settings = Settings(
        **surroundings(),
        rate=options.rate or Rate(),
        in_flight=options.in_flight,
        on_unknown=options.on_unknown,
        max_credits=options.max_credits,
        prices=options.prices,
        **options.limits,
    )
    async with _opened(settings, on_event) as client:
        yield client


@asynccontextmanager
async def _opened(
    settings: Settings, on_event: Callable[[Event], None] | None
) -> AsyncIterator[Client]:
    async with Client.from_settings(settings, on_event=on_event) as client:
        if (listener := telemetry()) is not None:
            client.subscribe(listener)
        yield client


@asynccontextmanager
async def _simulated(
    options: Options, out: Path | None, on_event: Callable[[Event], None] | None
) -> AsyncIterator[Client]:
    """Neither the real key nor the state directory is touched."""
    from ..simulator import Simulator

    folder = None if out is None else out / WORK_FOLDER
    journal = None if folder is None else folder / _JOURNAL
    rate = Rate()
    simulator = Simulator(time_scale=SIMULATED_SCALE, journal=journal)
    try:
        if folder is not None:
            private_folder(folder)
        await simulator.start()
    except OSError as error:
        where = "the simulator" if out is None else out
        raise ConfigError(f"{where}: cannot be used: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{error}; choose another directory") from None
    async with aclosing(simulator):
        settings = Settings(
            key=Secret("simulated"),
            base_url=simulator.url,
            host=SIMULATED_HOST,
            upload_url=simulator.url,
            rate=options.rate or Rate(rate.creates, rate.seconds * SIMULATED_SCALE),
            in_flight=options.in_flight,
            on_unknown=options.on_unknown,
            max_credits=options.max_credits,
            prices=options.prices,
            state_dir=folder,
            time_scale=SIMULATED_SCALE,
            **options.limits,
        )
        async with _opened(settings, on_event) as client:
            yield client
