"""The plugin in other people's test suites: each is written out, and run by a pytest of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

# Here before an inner pytest in this process runs, which forgets what it imports itself.
import kie_mj_async.client
import kie_mj_async.pytest_plugin
import kie_mj_async.testing

pytest_plugins = ["pytester"]


def run(pytester: pytest.Pytester, code: str, *options: str) -> pytest.RunResult:
    """Run a test file as its owner would: strict markers, warnings are errors."""
    head = "import os\nimport asyncio\nimport pytest\nimport kie_mj_async as mj\n"
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    (pytester.path / "test_mine.py").write_text(head + dedent(code), encoding="utf-8")
    strict = ["--strict-markers", "--strict-config", "-W", "error", "-p", "no:cacheprovider"]
    return pytester.runpytest_subprocess(*strict, *options, timeout=50)


def test_tests_of_every_kind(pytester: pytest.Pytester) -> None:
    """Plain tests, anyio's and pytest-asyncio's use the same fixtures; each has its own service."""
    code = """
    pytestmark = pytest.mark.kie(time_scale=0.004)
    SEEN = set()

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    async def one(service, unopened, folder):
        assert service.books()["creates"] == [] and service.url not in SEEN
        SEEN.add(service.url)
        async with unopened as client:
            result = await client.generate("a fox in the snow")
            paths = await result.save(folder)
        assert len(paths) == 4
        assert service.books()["charged_total"] == 25

    def test_plain(kie_simulator, kie_client, tmp_path):
        asyncio.run(one(kie_simulator, kie_client, tmp_path))

    @pytest.mark.anyio
    async def test_anyio(kie_simulator, kie_client, tmp_path):
        await one(kie_simulator, kie_client, tmp_path)

    @pytest.mark.asyncio
    async def test_asyncio(kie_simulator, kie_client, tmp_path):
        await one(kie_simulator, kie_client, tmp_path)

    def test_a_client_nobody_opens(kie_client):
        pass
    """
    run(pytester, code).assert_outcomes(passed=4)


def test_what_the_marker_says(pytester: pytest.Pytester) -> None:
    """Faults, credits and the rest come from the marker; the closest one wins, option by option."""
    code = """
    pytestmark = pytest.mark.kie(credits=30, seed=1, time_scale=0.004)

    async def generate(client, times=1):
        async with client:
            return [await client.generate("a fox") for _ in range(times)]

    @pytest.mark.kie(faults="create.429=#1")
    def test_refused_once(kie_simulator, kie_client):
        asyncio.run(generate(kie_client))
        books = kie_simulator.books()
        assert [one["code"] for one in books["creates"]] == [429, 200]
        assert books["credits"] == 5

    def test_too_poor_for_two(kie_client):
        with pytest.raises(mj.InsufficientCredits):
            asyncio.run(generate(kie_client, 2))

    @pytest.mark.kie(credits=1000, time_scale=0.002, api_key="the-one")
    class TestRich:
        @pytest.mark.kie(credits=2000)
        def test_closest(self, kie_simulator, kie_client):
            asyncio.run(generate(kie_client))
            assert kie_simulator.books()["credits"] == 1975
            assert kie_simulator.time_scale == 0.002
            assert os.environ["KIE_API_KEY"] == "the-one"
            with pytest.raises(mj.AuthenticationError):
                asyncio.run(generate(kie_simulator.client(api_key="another")))
    """
    run(pytester, code).assert_outcomes(passed=3)


def test_a_program_of_its_own(pytester: pytest.Pytester) -> None:
    """A program that makes its client itself meets the service, in its time; later all is as before."""
    code = """
    import time

    NAMES = ["KIE_API_KEY", "KIE_BASE_URL", "KIE_STATE_DIR", "KIE_UPLOAD_URL", "KIE_WEBHOOK_KEY"]

    async def program():
        async with mj.Client() as client:
            return [await client.submit(f"fox {number}") for number in range(30)]

    @pytest.mark.kie(time_scale=0.001, webhook_key="hook")
    def test_program(kie_simulator):
        began = time.monotonic()
        assert len(asyncio.run(program())) == 30
        assert time.monotonic() - began < 9, "the window of 10 s was a real one"
        assert kie_simulator.books()["refused_429_window"] == 0
        assert os.environ["KIE_WEBHOOK_KEY"] == "hook"
        assert "KIE_UPLOAD_URL" not in os.environ
        assert os.path.isdir(os.environ["KIE_STATE_DIR"])

    def test_afterwards():
        assert [os.environ[name] for name in NAMES] == ["mine"] * 5
    """
    with pytest.MonkeyPatch.context() as patch:
        names = ["KIE_API_KEY", "KIE_BASE_URL", "KIE_STATE_DIR", "KIE_UPLOAD_URL"]
        for name in [*names, "KIE_WEBHOOK_KEY"]:
            patch.setenv(name, "mine")
        run(pytester, code).assert_outcomes(passed=2)


def test_the_readme_s_test(pytester: pytest.Pytester) -> None:
    """Whoever copies the README's test has one that passes."""
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    [block] = [block for block in blocks if "kie_simulator" in block]
    run(pytester, block).assert_outcomes(passed=1)


@pytest.mark.slow
def test_under_xdist(pytester: pytest.Pytester) -> None:
    """Tests that run at the same time do not meet."""
    code = """
    @pytest.mark.parametrize("number", range(6))
    def test_one(kie_simulator, kie_client, number):
        async def generate():
            async with kie_client as client:
                await client.generate(f"fox {number}")
        asyncio.run(generate())
        [create] = kie_simulator.books()["creates"]
        assert create["code"] == 200
    """
    run(pytester, code, "-n", "2").assert_outcomes(passed=6)


def test_a_marker_that_cannot_be_meant(pytester: pytest.Pytester) -> None:
    """An option that does not exist, or cannot work, fails the test and says what there is."""
    pytester.makepyfile("""
        import pytest

        @pytest.mark.kie(fault="create.429=1")
        def test_misspelt(kie_simulator): pass

        @pytest.mark.kie("create.429=1")
        def test_unnamed(kie_simulator): pass

        @pytest.mark.kie(faults="create.nothing=1")
        def test_no_such_fault(kie_simulator): pass
    """)
    result = pytester.runpytest_inprocess("-p", "no:asyncio", "--strict-markers")
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(
        [
            "*@pytest.mark.kie has no option fault; there are: time_scale, seed, faults, *",
            "*@pytest.mark.kie has no option 'create.429=1'; there are: *",
            "*ValueError: fault 'create.nothing=1': no kind 'nothing'; create has *",
        ]
    )


def test_fixtures_in_this_process(pytester: pytest.Pytester) -> None:
    """The environment of a test leads to its service, and its service is gone after it."""
    pytester.makepyfile("""
        import os, socket, pytest

        URL = []

        @pytest.mark.kie(webhook_key="hook")
        def test_during(kie_simulator, kie_client):
            assert repr(kie_client) == f"Client(base_url={kie_simulator.url!r})"
            assert os.environ["KIE_BASE_URL"] == kie_simulator.url
            assert os.environ["KIE_WEBHOOK_KEY"] == "hook"
            URL.append(kie_simulator.url)

        def test_after():
            host, port = URL[0].removeprefix("http://").split(":")
            with pytest.raises(OSError):
                socket.create_connection((host, int(port)), timeout=1)
    """)
    pytester.runpytest_inprocess("-p", "no:asyncio").assert_outcomes(passed=2)


def test_it_is_listed_for_people(pytester: pytest.Pytester) -> None:
    """``--fixtures`` and ``--markers`` tell what there is; the marker's options are all in it."""
    options = kie_mj_async.testing.SimulatedOptions.__annotations__
    told = pytester.runpytest_inprocess("-p", "no:asyncio", "--markers").stdout.str()
    found = re.search(r"@pytest\.mark\.kie\(([^)]*)\)", told)
    assert found is not None
    assert set(found[1].split(", ")) == set(options)
    told = pytester.runpytest_inprocess("-p", "no:asyncio", "--fixtures").stdout.str()
    assert "A local KIE.ai of this test" in told
    assert "A client for ``kie_simulator``" in told


def test_it_costs_nothing_while_unused(pytester: pytest.Pytester) -> None:
    """A suite without these fixtures imports no aiohttp, no simulator and no client for the plugin."""
    code = """
    import sys

    def test_light(request):
        assert request.config.pluginmanager.has_plugin("kie_mj_async")
        heavy = {"aiohttp", "sqlite3", "PIL", "kie_mj_async.simulator", "kie_mj_async.client"}
        assert not heavy & set(sys.modules)
    """
    # Other plugins may import what they like.
    run(pytester, code, "-p", "no:xdist", "-p", "no:cov").assert_outcomes(passed=1)


def test_the_module_alone_imports_only_pytest() -> None:
    """Beside pytest it brings nothing that the package itself does not bring."""
    code = (
        "import sys, pytest, kie_mj_async\nbefore = set(sys.modules)\n"
        "import kie_mj_async.pytest_plugin\nprint(sorted(set(sys.modules) - before))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert told.stdout == "['kie_mj_async.pytest_plugin']\n"
