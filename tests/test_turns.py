"""Turns: so many at a time, the most urgent first, and no place is ever lost."""

from __future__ import annotations

import math
import random

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.archive.turns import Turns

pytestmark = pytest.mark.anyio


class Hall:
    """People who want a turn, and the order in which they got it."""

    def __init__(self, places: int) -> None:
        self.turns = Turns(places)
        self.order: list[str] = []
        self.inside = 0
        self.most = 0
        self.open = anyio.Event()

    async def visit(self, who: str, urgency: float) -> None:
        async with self.turns.turn(urgency):
            self.order.append(who)
            self.inside += 1
            self.most = max(self.most, self.inside)
            try:
                await self.open.wait()
                await anyio.lowlevel.checkpoint()
            finally:
                self.inside -= 1


async def settle() -> None:
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


async def test_the_most_urgent_goes_first() -> None:
    """Whoever came first is in; of those who wait the soonest is next, ties by arrival."""
    hall = Hall(1)
    async with anyio.create_task_group() as tasks:
        wishes = [("a", 9.0), ("b", math.inf), ("c", 5.0), ("d", 1.0), ("e", 5.0), ("f", math.inf)]
        for who, urgency in wishes:
            tasks.start_soon(hall.visit, who, urgency)
            await settle()
        hall.open.set()
    assert hall.order == ["a", "d", "c", "e", "b", "f"]


async def test_so_many_at_a_time() -> None:
    """No more than there are places, and no fewer while somebody waits."""
    hall = Hall(3)
    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(hall.visit, str(number), 0.0)
        await settle()
        assert hall.inside == 3
        hall.open.set()
    assert (hall.most, hall.inside, len(hall.order)) == (3, 0, 10)


async def test_a_place_handed_over_to_somebody_who_left_is_passed_on() -> None:
    """Cancelled in the very moment in which the turn came, the next one gets it."""
    hall = Hall(1)
    async with anyio.create_task_group() as tasks:
        holder, waiter = anyio.CancelScope(), anyio.CancelScope()

        async def within(scope: anyio.CancelScope, who: str) -> None:
            with scope:
                await hall.visit(who, 0.0)

        tasks.start_soon(within, holder, "holder")
        await settle()
        tasks.start_soon(within, waiter, "waiter")
        await settle()
        tasks.start_soon(hall.visit, "next", 0.0)
        await settle()
        hall.open.set()
        while hall.inside:
            await anyio.lowlevel.checkpoint()
            waiter.cancel()
    assert hall.order[0] == "holder"
    assert hall.order[-1] == "next"
    assert hall.inside == 0


async def test_cancelled_before_it_came() -> None:
    """Who is cancelled already takes no place."""
    turns = Turns(1)
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with turns.turn(0.0):
            pytest.fail("it went in")
    with anyio.fail_after(1):
        async with turns.turn(0.0):
            pass


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(0, 2**32))
def test_no_place_is_lost(places: int, seed: int) -> None:
    """Whoever comes, goes, fails or is cancelled, and when: in the end all places are free."""
    chance = random.Random(seed)

    async def play() -> None:
        turns = Turns(places)
        inside = 0

        async def visit(scope: anyio.CancelScope) -> None:
            nonlocal inside
            with scope:
                async with turns.turn(chance.choice([1.0, 2.0, math.inf])):
                    inside += 1
                    assert inside <= places
                    try:
                        for _ in range(chance.randrange(4)):
                            await anyio.lowlevel.checkpoint()
                    finally:
                        inside -= 1

        async with anyio.create_task_group() as tasks:
            scopes = [anyio.CancelScope() for _ in range(12)]
            for scope in scopes:
                tasks.start_soon(visit, scope)
            for _ in range(20):
                chance.choice(scopes).cancel()
                await anyio.lowlevel.checkpoint()
        assert inside == 0
        with anyio.fail_after(1):
            async with anyio.create_task_group() as tasks:
                ready = anyio.Event()

                async def stay() -> None:
                    nonlocal inside
                    async with turns.turn(0.0):
                        inside += 1
                        if inside == places:
                            ready.set()
                        await ready.wait()

                for _ in range(places):
                    tasks.start_soon(stay)

    anyio.run(play)
