"""Fixtures for the tests of programs that use this package; pytest finds them by itself.

``kie_simulator`` is a local KIE.ai in scaled time, a :class:`~kie_mj_async.testing.Simulated`; each
test has its own. ``kie_client`` is a client for it::

    @pytest.mark.kie(faults="create.429=#1", credits=500)
    async def test_one_picture(kie_simulator, kie_client, tmp_path):
        async with kie_client as client:
            result = await client.generate("a fox in the snow")
            await result.save(tmp_path)
        assert kie_simulator.books()["charged_total"] == 25

They suit tests of every kind: plain ones, anyio's, pytest-asyncio's. So the service runs on a thread of
its own, and the client comes unopened: whatever opens in an event loop belongs to the loop of the test,
and which one that is, only the test knows.

For the duration of a test with ``kie_simulator``, ``KIE_API_KEY``, ``KIE_BASE_URL`` and
``KIE_STATE_DIR`` lead to it, and ``KIE_UPLOAD_URL`` is unset; so a program that makes its own
``Client()`` talks to it too. ``KIE_WEBHOOK_KEY`` is what the marker says, or unset.

The marker ``kie`` takes what :class:`~kie_mj_async.testing.SimulatedOptions` lists. On a class or a
module it holds for every test there, and what stands closer to a test wins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .client import Client
    from .testing import Simulated, SimulatedOptions

# pytest imports this module at every start, wherever the package is installed: what needs aiohttp
# waits for the first test that asks for it.

_MARKER = (
    "kie(time_scale, seed, faults, credits, rate, max_running, api_key, webhook_key, picture_side, "
    "create_latency): how kie_simulator behaves (kie_mj_async.testing.SimulatedOptions)"
)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, for ``--strict-markers``."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def kie_simulator(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Simulated]:
    """A local KIE.ai of this test, in scaled time; ``@pytest.mark.kie(...)`` says how it behaves."""
    from .testing import simulated_in_thread

    options = _options(request.node)
    with simulated_in_thread(**options) as service:
        monkeypatch.setenv("KIE_API_KEY", service.api_key)
        monkeypatch.setenv("KIE_BASE_URL", service.url)
        monkeypatch.setenv("KIE_STATE_DIR", str(service.state_dir))
        monkeypatch.delenv("KIE_UPLOAD_URL", raising=False)
        monkeypatch.delenv("KIE_WEBHOOK_KEY", raising=False)
        if "webhook_key" in options:
            monkeypatch.setenv("KIE_WEBHOOK_KEY", options["webhook_key"])
        yield service


@pytest.fixture
def kie_client(kie_simulator: Simulated) -> Client:
    """A client for ``kie_simulator``, to be opened with ``async with``.

    ``kie_simulator.client(...)`` makes more of them, with options.
    """
    return kie_simulator.client()


def _options(test: pytest.Item) -> SimulatedOptions:
    """What the markers of a test ask for; the closest one wins."""
    from .testing import SimulatedOptions

    options: SimulatedOptions = {}
    known = SimulatedOptions.__annotations__
    for marker in reversed(list(test.iter_markers("kie"))):
        unknown = [*map(repr, marker.args), *(name for name in marker.kwargs if name not in known)]
        if unknown:
            message = f"@pytest.mark.kie has no option {unknown[0]}; there are: {', '.join(known)}"
            pytest.fail(message, pytrace=False)
        options.update(marker.kwargs)  # type: ignore[typeddict-item]
    return options
