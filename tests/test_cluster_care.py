"""Holding jobs back: how long, for what, and until when."""

from __future__ import annotations

import anyio
import pytest
from support import VIRTUAL

from kie_mj_async.cluster.care import CEILING, Care, pause_after
from kie_mj_async.errors import AuthenticationError, InsufficientCredits, WriteFailed

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", [VIRTUAL])]

NO_KEY = AuthenticationError("the key was refused")
FULL = WriteFailed("the disk is full")


class Board:
    """What the operators are told."""

    def __init__(self) -> None:
        self.changes = 0

    def changed(self) -> None:
        self.changes += 1


def careful(board: Board | None = None) -> Care:
    return Care(anyio.current_time, (board or Board()).changed)


async def passed(care: Care) -> float:
    """Seconds until something may be begun."""
    began = anyio.current_time()
    await care.passed()
    return anyio.current_time() - began


async def test_nothing_is_held_back_before_anything_failed() -> None:
    care = careful()
    assert await passed(care) == 0
    assert not care.holds
    assert care.trouble is None


async def test_each_failure_in_a_row_holds_back_for_longer() -> None:
    care = careful()
    waited = []
    for _ in range(4):
        care.failed(NO_KEY)
        assert care.holds
        waited.append(round(await passed(care), 3))
    assert waited == [5, 10, 20, 40]
    assert pause_after(10_000) == CEILING


async def test_failures_at_the_same_time_are_one() -> None:
    care = careful()
    for _ in range(40):
        care.failed(NO_KEY)
    assert await passed(care) == pytest.approx(5)


async def test_one_success_ends_it_for_all_who_wait() -> None:
    board = Board()
    care = careful(board)
    care.failed(NO_KEY)
    care.went_well()
    assert (care.trouble, care.holds, board.changes) == (None, False, 2)
    assert await passed(care) == 0
    care.failed(NO_KEY)
    assert await passed(care) == pytest.approx(5), "it begins anew"


async def test_success_without_a_failure_is_not_told() -> None:
    board = Board()
    careful(board).went_well()
    assert board.changes == 0


async def test_the_operators_hear_of_the_last_trouble() -> None:
    board = Board()
    care = careful(board)
    care.failed(NO_KEY)
    await care.passed()
    care.failed(InsufficientCredits("no credits"))
    assert (care.trouble, board.changes) == ("no credits", 2)


async def test_only_written_files_end_the_trouble_of_a_full_disk() -> None:
    care = careful()
    care.failed(FULL)
    care.went_well()
    assert care.trouble == "the disk is full"
    care.went_well(saved=True)
    assert care.trouble is None


async def test_whoever_waits_waits_longer_when_it_fails_again_meanwhile() -> None:
    care = careful()
    care.failed(NO_KEY)
    async with anyio.create_task_group() as tasks:

        async def again() -> None:
            await anyio.sleep(5)
            care.failed(NO_KEY)

        tasks.start_soon(again)
        await anyio.sleep(5.1)
        assert await passed(care) == pytest.approx(9.9)
