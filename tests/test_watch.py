"""A task that somebody waits for: what it remembers, and how little room it takes."""

from __future__ import annotations

import asyncio
import sys

import pytest

from kie_mj_async.engine.watch import NOWHERE, At, Watch, timed_out
from kie_mj_async.errors import ServerError
from kie_mj_async.logs import Ids
from kie_mj_async.rules.kinds import Kind

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def watch() -> Watch:
    done = asyncio.get_running_loop().create_future()
    kind = Kind("mj_txt2img")
    return Watch(kind, 5.0, "t1", 900.0, 905.0, done, relaxed=False, born_known=True, about=Ids())


async def test_others_of_the_same_task_are_behind_it() -> None:
    """Each is found once."""
    first, second, third = watch(), watch(), watch()
    first.other, second.other = second, third
    assert list(first.all()) == [first, second, third]
    assert list(third.all()) == [third]


async def test_it_begins_nowhere() -> None:
    """Neither in the heap nor being looked at, and unknown to the forecast."""
    new = watch()
    assert (new.due, new.at, new.looking) == (NOWHERE, At.ASKING, False)
    assert new.of is None
    for at in (At.LOOKING, At.LOOKING_TWICE):
        new.at = at
        assert new.looking


async def test_the_message_says_what_to_do() -> None:
    """How long was waited, what went wrong last, and that nothing is lost."""
    late = watch()
    assert "after waiting 900 s." in str(timed_out(late))
    late.trouble = 3, ServerError("gateway down", status=502)
    error = timed_out(late)
    assert "gateway down" in str(error)
    assert "wait again, or resume" in str(error)
    assert (error.task_id, error.billed) == ("t1", "yes")


async def test_it_is_small() -> None:
    """A hundred thousand of them are: no dictionary each, and no more than this."""
    one = watch()
    assert not hasattr(one, "__dict__")
    assert sys.getsizeof(one) <= 176
