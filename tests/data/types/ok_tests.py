"""Tests of a program, with what the package has for them."""

import asyncio
from typing import assert_type

import pytest

import kie_mj_async as mj
from kie_mj_async.testing import (
    Simulated,
    SimulatedOptions,
    VirtualLoop,
    simulated,
    simulated_in_thread,
)

OPTIONS: SimulatedOptions = {"faults": "create.429=5%", "time_scale": 0.01}


@pytest.mark.kie(faults="create.429=#1", seed=3)
def test_plain(kie_simulator: Simulated, kie_client: mj.Client) -> None:
    async def main() -> mj.Generation:
        async with kie_client as client:
            return await client.generate("a fox")

    assert_type(asyncio.run(main()), mj.Generation)
    assert kie_simulator.books()["charged_total"] == 25


async def test_by_hand() -> None:
    async with simulated(**OPTIONS) as service, service.client() as client:
        assert_type(service, Simulated)
        assert_type(client, mj.Client)
        task = await client.submit("a fox")
        service.finish(task.task_id)
    with simulated_in_thread(rate=(5, 10)) as service:
        assert_type(service.url, str)


def test_virtual_time() -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(asyncio.sleep(3600))
