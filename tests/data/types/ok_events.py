"""A program that watches a client: functions, coroutines, streams, numbers, telemetry."""

from typing import assert_type

import kie_mj_async as mj
from kie_mj_async import events
from kie_mj_async.telemetry import Telemetry


def told(event: events.Event) -> None:
    match event:
        case events.JobStarted(job, batch):
            assert_type(job, mj.Job)
            assert_type(batch, str | None)
        case events.FileSaved(job, file):
            assert_type(file, mj.SavedFile)
        case events.JobEnded(outcome):
            assert_type(outcome, mj.Outcome)
        case events.RateLimited(seconds=seconds) | events.CreatesPaused(seconds=seconds):
            assert_type(seconds, float | None)
        case events.Retrying(error=error):
            assert_type(error, mj.KieError)
        case _:
            pass


async def stored(event: events.Event) -> None:
    print(event)


async def watched(client: mj.Client) -> None:
    client.subscribe(Telemetry())
    client.subscribe(stored, buffer=50)
    with client.subscribe(told):
        stream = client.events()
        batch = client.render(["a fox"], "out/")
        async for outcome in batch:
            progress = batch.progress()
            assert_type(progress, mj.Progress)
            assert_type(progress.eta, mj.Left | None)
            print(outcome, progress.rate, progress.running)
    async for event in stream:
        assert_type(event, events.Event)
    print(stream.missed)
