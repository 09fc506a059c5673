"""From options to a client: which service, which key, which limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_support import KEY, SCALE

from kie_mj_async.cli import setup
from kie_mj_async.cli.setup import SIMULATED_HOST, Options, open_client
from kie_mj_async.client import Client
from kie_mj_async.errors import ConfigError
from kie_mj_async.rules.pacing import Rate
from kie_mj_async.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that clients were made from."""
    made: list[Settings] = []
    make = Client.from_settings

    def watched(settings: Settings, **options: Any) -> Client:
        made.append(settings)
        return make(settings, **options)

    monkeypatch.setattr(Client, "from_settings", watched)
    monkeypatch.setattr(setup, "SIMULATED_SCALE", SCALE)
    monkeypatch.setenv("KIE_API_KEY", KEY)
    monkeypatch.setenv("KIE_BASE_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("KIE_UPLOAD_URL", "http://127.0.0.1:10/")
    monkeypatch.setenv("KIE_STATE_DIR", str(tmp_path / "state"))
    return made


async def test_the_environment_and_the_options_reach_the_client(
    seen: list[Settings], tmp_path: Path
) -> None:
    """Key, host and state come from the environment, limits from the options."""
    options = Options(rate=Rate(3, 7.0), in_flight=4, on_unknown="repeat", max_credits=50)
    async with open_client(options):
        pass
    (settings,) = seen
    assert settings.key.reveal() == KEY
    assert settings.base_url == settings.host == "http://127.0.0.1:9"
    assert settings.upload_url == "http://127.0.0.1:10"
    assert settings.state_dir == tmp_path / "state"
    assert (settings.rate, settings.in_flight) == (Rate(3, 7.0), 4)
    assert (settings.on_unknown, settings.max_credits) == ("repeat", 50)
    assert settings.time_scale == 1


async def test_the_defaults_are_the_services(seen: list[Settings]) -> None:
    """Without options the account's own limits hold."""
    async with open_client(Options()):
        pass
    (settings,) = seen
    assert (settings.rate, settings.in_flight) == (Rate(20, 10.0), 100)
    assert (settings.on_unknown, settings.max_credits) == ("park", None)


async def test_the_simulator_never_gets_the_real_key(seen: list[Settings], tmp_path: Path) -> None:
    """Simulated, the key and the state directory stay untouched; its state is the batch's own."""
    out = tmp_path / "out"
    async with open_client(Options(simulate=True), out=out) as client:
        assert await client.credits() == 100_000
    (settings,) = seen
    assert settings.key.reveal() != KEY
    assert settings.host == SIMULATED_HOST
    assert settings.base_url.startswith("http://127.0.0.1:")
    assert settings.upload_url == settings.base_url
    assert settings.base_url != "http://127.0.0.1:9"
    assert settings.state_dir == out / ".kie-mj"
    assert settings.rate == Rate(20, 10 * SCALE)
    assert not (tmp_path / "state").exists()
    assert (out / ".kie-mj" / "simulator.jsonl").is_file()


async def test_a_simulator_without_a_directory_leaves_nothing(
    seen: list[Settings], tmp_path: Path
) -> None:
    """Without a batch the simulator keeps no books on disk."""
    async with open_client(Options(simulate=True, rate=Rate(5, 1.0))):
        pass
    assert (seen[0].state_dir, seen[0].rate) == (None, Rate(5, 1.0))
    assert list(tmp_path.iterdir()) == []


async def test_a_simulator_goes_on_from_its_journal(tmp_path: Path) -> None:
    """What was spent in one simulated run is spent in the next."""
    out = tmp_path / "out"
    async with open_client(Options(simulate=True), out=out) as client:
        await client.submit("a fox")
    async with open_client(Options(simulate=True), out=out) as client:
        assert await client.credits() == 100_000 - 25


@pytest.mark.parametrize("name", ["KIE_API_KEY", "KIE_BASE_URL", "KIE_UPLOAD_URL"])
async def test_a_setting_that_cannot_work_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, seen: list[Settings]
) -> None:
    """Settings are checked before a client is made."""
    monkeypatch.setenv(name, "not a\nsetting")
    with pytest.raises(ConfigError, match=name):
        async with open_client(Options()):
            pass
    assert seen == []
