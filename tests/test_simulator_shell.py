"""What the handlers share."""

from __future__ import annotations

import json

import anyio
import pytest
from aiohttp.test_utils import make_mocked_request

from kie_mj_async.simulator import World, shell
from kie_mj_async.simulator.media import Media

pytestmark = pytest.mark.anyio


def a_service(key: str | None = None, time_scale: float = 1.0) -> shell.Service:
    return shell.Service(World(time_scale=time_scale), Media(16), api_key=key)


@pytest.mark.parametrize(
    ("header", "any_key", "one_key"),
    [
        ("Bearer right", True, True),
        ("bearer  right", True, True),
        ("Bearer wrong", True, False),
        ("Bearer ", False, False),
        ("right", False, False),
        ("", False, False),
    ],
)
async def test_keys(header: str, any_key: bool, one_key: bool) -> None:
    """Without a key of its own the service takes any; none at all is never enough."""
    request = make_mocked_request("GET", "/", headers={"Authorization": header})
    assert a_service().has_key(request) == any_key
    assert a_service("right").has_key(request) == one_key


async def test_statuses_of_envelopes() -> None:
    """Most verdicts come with status 200; the code is what counts."""
    statuses = {code: shell.as_envelope(code, "x").status for code in (200, 401, 402, 429, 500)}
    assert statuses == {200: 200, 401: 401, 402: 200, 429: 429, 500: 200}


async def test_json_can_be_cut() -> None:
    """Cut JSON is the beginning of the whole."""
    whole = shell.as_json({"a": "b" * 20}, retry_after=2.5)
    cut = shell.as_json({"a": "b" * 20}, cut=True)
    assert json.loads(whole.text or "")
    assert whole.headers["Retry-After"] == "2.5"
    assert (whole.text or "").startswith(cut.text or "x")
    assert 0 < len(cut.text or "") < len(whole.text or "")


async def test_pauses_end_with_the_service() -> None:
    """A pause is scaled, and does not hold up the end."""
    with anyio.fail_after(5):
        await a_service(time_scale=0.001).pause(10)
        service = a_service()
        service.closing.set()
        await service.pause(1000)
        await service.create_delay(1)


async def test_hanging_up_closes_the_connection() -> None:
    """The connection is closed; one that is gone already is no problem."""
    request = make_mocked_request("GET", "/")
    shell.hang_up(request)
    assert request.transport is not None
    request.transport.close.assert_called_once_with()  # type: ignore[attr-defined]
