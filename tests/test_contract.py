"""The contract with the service, row by row: what our code sends is taken, and only that.

Every row of the tables of kie-api.md is a test here, named after it, against a simulator that holds
to the official rules strictly: it refuses unknown fields, other spellings, and what does not belong
to a type. What is sent is what our own code makes (``bodies.call_of`` by way of ``Transport``), what
is read is read by our own readers; the wrong form is sent by hand, and has to be refused, or the test
would show nothing. What the service answers and reports is in ``test_contract_answers``.

Not here, because no answer of the service shows them, or other tests do:

- that nothing of all this has changed at the live service: no test asks it;
- who fetches the images, and whether a prompt is translated or a mark drawn: only results tell;
- limits and retention: ``test_admission``, ``test_simulation`` and ``test_house`` (creates per window,
  tasks at once), ``test_saving`` (links that die, expiry), ``test_simulator_uploads``
  (how long uploads live);
- prices: the service tells none; ``test_billing`` has how ours are counted;
- repeats of callbacks: ``test_simulator_courier`` (when they are sent), ``test_receiver`` (that they
  do no harm).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import pytest
from contract_support import (
    IMAGE,
    OTHER,
    QUICK,
    ROOMY,
    accepted,
    check_refused,
    ended,
    of,
    posted,
    service,
    speaking,
    uploaded,
)
from support import KEY, sim_client

from kie_mj_async import errors
from kie_mj_async.errors import InvalidRequest, KieError
from kie_mj_async.requests import (
    ASPECT_RATIOS,
    SPEEDS,
    VERSIONS,
    Extend,
    ImageToImage,
    ImageToVideo,
    OmniReference,
    PromptRequest,
    Request,
    StyleReference,
    TextToImage,
    Upscale,
    Vary,
)
from kie_mj_async.rules import billing, bodies, uploads, wire
from kie_mj_async.rules.billing import Accepted, Lost, Refused
from kie_mj_async.rules.wire import Reply, Status
from kie_mj_async.settings import DEFAULT_BASE_URL, DEFAULT_UPLOAD_URL
from kie_mj_async.simulator import Simulator

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def sim(anyio_backend: str) -> AsyncIterator[Simulator]:
    """One service for all rows that break nothing."""
    async with Simulator(**ROOMY) as one:
        yield one


ROWS: dict[str, list[str]] = {
    "hosts and auth": [
        "https://api.kie.ai",
        "https://kieai.redpandaai.co",
        "result hosts",
    ],
    "codes": ["200", "400", "401", "402", "404", "422", "429", "455", "500", "501", "505"],
    "POST /api/v1/mj/generate": [
        "taskType", "prompt", "speed", "version", "aspectRatio", "stylization", "weirdness",
        "variety", "ow", "fileUrl", "fileUrls", "motion", "videoBatchSize", "enableTranslation",
        "waterMark", "callBackUrl",
    ],
    "follow-up tasks": ["generateUpscale", "generateVary", "generateVideoExtend"],
}  # fmt: skip
"""The rows of kie-api.md's tables."""


# --- Hosts and auth -----------------------------------------------------------------------------


async def api_host() -> None:
    assert DEFAULT_BASE_URL == "https://api.kie.ai"
    async with service(api_key=KEY) as (sim, ours, by_hand):
        task_id = await accepted(ours, TextToImage("a fox"))
        assert (await ours.record(task_id)).task_id == task_id
        assert await ours.credits() > 0
        calls = {(one["prefix"], one["authorization"]) for one in sim.books()["keys"]}
        assert calls == {("/api/v1/mj", True), ("/api/v1/chat", True)}
        # The header in any other form is refused, and so is another type of content.
        for wrong in ("", KEY, f"Basic {KEY}", "Bearer other"):
            headers = {"Authorization": wrong}
            call = bodies.call_of(TextToImage("a fox"))
            async with by_hand.post(call.path, json=call.body, headers=headers) as answer:
                assert (await answer.json())["code"] == 401
        async with by_hand.post(call.path, data=dict(call.body)) as answer:
            assert (await answer.json())["code"] == 422


async def upload_host() -> None:
    assert DEFAULT_UPLOAD_URL == "https://kieai.redpandaai.co"
    async with service(api_key=KEY) as (sim, ours, _), speaking(sim, "other") as (stranger, _):
        link, refusal = await uploaded(ours), await uploaded(stranger)
        assert isinstance(link, str)
        assert isinstance(refusal, uploads.Failure)
        assert isinstance(refusal.error, errors.AuthenticationError)
        assert [one["code"] for one in sim.books()["uploads"]] == [200, 401]
        told = {one["prefix"]: one["authorization"] for one in sim.books()["keys"]}
        assert told == {uploads.UPLOAD: True}


async def result_hosts() -> None:
    async with Simulator(**QUICK, api_key=KEY) as sim, sim_client(sim, 0.01) as client:
        result = await client.generate("a fox")
        with TemporaryDirectory() as folder:
            assert len(await result.save(folder)) == 4
        told = {one["prefix"]: one["authorization"] for one in sim.books()["keys"]}
        assert told["/m"] is False
        assert told["/api/v1/mj"] is True


HOSTS: dict[str, Callable[[], Any]] = {
    "https://api.kie.ai": api_host,
    "https://kieai.redpandaai.co": upload_host,
    "result hosts": result_hosts,
}


@of(ROWS["hosts and auth"], HOSTS)
async def test_hosts_and_auth(row: Callable[[], Any]) -> None:
    """The key goes to the API and to uploads, in the one form that is taken, and nowhere else."""
    await row()


# --- Codes --------------------------------------------------------------------------------------


@attrs.frozen
class Code:
    """What a code means, by the words of kie-api.md.

    Args:
        error: Our error.
        then: What becomes of the create; ``None`` where its fate is unknown.
        real: Settings under which the service answers so by itself.
        polled: Whether polls can be answered so too.
    """

    error: type[KieError]
    then: str | None
    real: dict[str, Any] | None = None
    polled: bool = False


CODES: dict[str, Code | None] = {
    "200": None,
    "400": Code(InvalidRequest, "fail"),
    "401": Code(errors.AuthenticationError, "halt", {"api_key": "another"}, polled=True),
    "402": Code(errors.InsufficientCredits, "halt", {"credits": 0}),
    "404": Code(errors.NotFound, "fail"),
    "422": Code(InvalidRequest, "fail"),
    "429": Code(errors.RateLimited, "again", {"rate": (0, 10.0)}, polled=True),
    "455": Code(errors.Maintenance, "again", polled=True),
    "500": Code(errors.ServerError, None, polled=True),
    "501": Code(errors.ServerError, None),
    "505": Code(errors.FeatureDisabled, "fail"),
}


@of(ROWS["codes"], CODES)
async def test_codes(row: Code | None, request: pytest.FixtureRequest) -> None:
    """Each code is our error, says what to do about the create, and costs nothing (or may have)."""
    code = request.node.callspec.id
    if row is None:
        for faults in ("", "create.string-code=1"):
            async with service(faults) as (sim, ours, _):
                assert isinstance(billing.judge(await ours.create(TextToImage("x"))), Accepted)
                assert sim.books()["charged_total"] == 25
        return
    for faults, options in ((f"create.{code}=#1", {}), ("", row.real)):
        if options is None:
            continue
        async with service(faults, **options) as (sim, ours, _):
            answer = await ours.create(TextToImage("a fox"))
            assert isinstance(answer, Reply)
            with pytest.raises(row.error) as caught:
                wire.read_task_id(answer)
            assert getattr(caught.value, "code", None) == int(code)
            verdict = billing.judge(answer)
            if row.then is None:
                assert isinstance(verdict, Lost)
            else:
                assert isinstance(verdict, Refused)
                assert verdict.then == row.then
            assert (sim.books()["accepted"], sim.books()["charged_total"]) == (0, 0)
    if row.polled:
        async with service(f"poll.{code}=#1") as (_, ours, _):
            task_id = await accepted(ours, TextToImage("a fox"))
            with pytest.raises(row.error):
                await ours.record(task_id)
            assert (await ours.record(task_id)).task_id == task_id


# --- POST /api/v1/mj/generate -------------------------------------------------------------------

NEEDED: dict[type[PromptRequest], dict[str, Any]] = {
    TextToImage: {},
    ImageToImage: {"image": IMAGE},
    StyleReference: {"images": [IMAGE]},
    OmniReference: {"images": [IMAGE]},
    ImageToVideo: {"image": IMAGE},
}
ALL = tuple(NEEDED)


@attrs.frozen
class Field:
    """A row of the table of fields.

    Args:
        values: What our requests take for it, and how it is to arrive; for each type.
        wrong: What the service refuses.
        ours: Our name for it, where it is a field of the request by itself.
        types: The types that take it.
        needed: Whether a body without it is refused, for these types.
        elsewhere: A value that other types refuse.
    """

    values: list[tuple[Any, Any]]
    wrong: list[Any]
    ours: str | None = None
    types: tuple[type[PromptRequest], ...] = ALL
    needed: tuple[type[PromptRequest], ...] = ()
    elsewhere: Any = None


def same(*values: Any) -> list[tuple[Any, Any]]:
    return [(value, value) for value in values]


def range_of(low: int, high: int) -> dict[str, Any]:
    return {"values": same(low, high), "wrong": [low - 1, high + 1, str(low), float(low), True]}


FIELDS: dict[str, Field] = {
    "taskType": Field(
        [(None, "mj_txt2img")], ["mj_text", "TXT2IMG", 1], types=(TextToImage,), needed=ALL
    ),
    "prompt": Field(
        [*same("a fox", "狐" * 2000, "x --no cats --sref https://a.example/b.png --seed 1"),
         ("a fox --tile --ar 3:4 --v 7", "a fox --tile")],
        ["", " ", "x" * 2001, 5, ["a fox"]], "prompt", needed=ALL,
    ),
    "speed": Field(
        [*same(*SPEEDS), ("Relax", "relaxed"), ("Fast", "fast"), ("Turbo", "turbo")],
        ["Relax", "relax", "FAST", "warp", 1], "speed",
    ),
    "version": Field(
        [*same(*VERSIONS), ("Niji6", "niji6"), (7, "7"), (6.1, "6.1")],
        ["Niji6", "8", 7, 6.1], "version",
    ),
    "aspectRatio": Field(same(*ASPECT_RATIOS), ["7:3", "16x9", 1], "aspect_ratio"),
    "stylization": Field(**range_of(0, 1000), ours="stylization"),
    "weirdness": Field(**range_of(0, 3000), ours="weirdness"),
    "variety": Field(**range_of(0, 100), ours="variety"),
    "ow": Field(**range_of(1, 1000), ours="omni_weight", types=(OmniReference,), elsewhere=100),
    "fileUrl": Field([], ["fox.png", "ftp://a.example/b", "", 5, [IMAGE]]),
    "fileUrls": Field(
        [(IMAGE, [IMAGE]), ([IMAGE, OTHER], [IMAGE, OTHER])],
        [[], ["fox.png"], IMAGE, [5], [[IMAGE]]], "images",
        types=(ImageToImage, StyleReference, OmniReference, ImageToVideo),
        needed=(ImageToImage, StyleReference, OmniReference, ImageToVideo), elsewhere=[IMAGE],
    ),
    "motion": Field(
        [*same("high", "low"), ("Low", "low")], ["Low", "medium", 1], "motion",
        types=(ImageToVideo,), needed=(ImageToVideo,), elsewhere="low",
    ),
    "videoBatchSize": Field(
        same(1, 2, 4), [0, 3, 5, "1", 2.0, True], "batch_size", types=(ImageToVideo,), elsewhere=2
    ),
    "enableTranslation": Field(same(True, False), ["true", 1], "translate"),
    "waterMark": Field(same("mine", "キツネ"), ["", " ", 5], "watermark"),
    "callBackUrl": Field(
        same("https://me.example/hook?x=1"), ["me.example", "ftp://me.example", "", 5],
        "callback_url",
    ),
}  # fmt: skip


def requests_of(row: Field) -> list[tuple[PromptRequest, Any]]:
    """Requests of ours that say each value of a field, of each type that takes it."""
    made: list[tuple[PromptRequest, Any]] = []
    for kind in row.types:
        for value, arrives in row.values:
            fields = dict(NEEDED[kind])
            if row.ours == "images":
                name = next(iter(fields))
                if kind is ImageToVideo and isinstance(value, list):
                    continue  # one URL only for video
                fields[name] = value
            elif row.ours is not None:
                fields[row.ours] = value
            made.append((kind(**{"prompt": "a fox"} | fields), arrives))
    return made


def bodies_of(kinds: tuple[type[PromptRequest], ...]) -> list[dict[str, Any]]:
    return [dict(bodies.call_of(kind("a fox", **NEEDED[kind])).body) for kind in kinds]


@of(ROWS["POST /api/v1/mj/generate"], FIELDS)
async def test_fields(row: Field, sim: Simulator, request: pytest.FixtureRequest) -> None:
    """What we send for a field is taken as it is, by each type; what is wrong is refused by name."""
    field = request.node.callspec.id
    async with speaking(sim) as (ours, by_hand):
        for made, arrives in requests_of(row):
            task_id = await accepted(ours, made)
            record = await ours.record(task_id)
            assert record.params[field] == arrives
            assert bodies.differences(made, record) == []
        for kind in row.types:
            (body,) = bodies_of((kind,))
            if field == "fileUrl":
                body.pop("fileUrls", None)
            for wrong in row.wrong:
                await check_refused(by_hand, bodies.GENERATE, body | {field: wrong}, field)
        for body in bodies_of(row.needed):
            del body[field]
            await check_refused(by_hand, bodies.GENERATE, body, field)
        if row.elsewhere is not None:
            others = tuple(kind for kind in ALL if kind not in row.types)
            for body in bodies_of(others):
                await check_refused(by_hand, bodies.GENERATE, body | {field: row.elsewhere}, field)
            for kind in others:
                with pytest.raises(InvalidRequest, match=f"is no field of {kind.__name__}"):
                    kind("a fox", **NEEDED[kind], **{row.ours or "": row.elsewhere})


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (TextToImage("a fox"), "mj_txt2img"),
        (ImageToImage("a fox", image=[IMAGE, OTHER]), "mj_img2img"),
        (StyleReference("a fox", images=[IMAGE, OTHER]), "mj_style_reference"),
        (OmniReference("a fox", images=IMAGE, omni_weight=500), "mj_omni_reference"),
        (ImageToVideo("a fox", image=IMAGE), "mj_video"),
        (ImageToVideo("a fox", image=IMAGE, hd=True), "mj_video_hd"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
async def test_task_types(made: PromptRequest, name: str, sim: Simulator) -> None:
    """Each type is taken with everything it can have, and its record tells it by that name."""
    everything = attrs.evolve(
        made,
        version="niji7",
        speed="fast",
        aspect_ratio="9:16",
        stylization=50,
        weirdness=100,
        variety=5,
        watermark="mine",
        translate=True,
        callback_url="https://me.example/hook",
    )
    async with speaking(sim) as (ours, _):
        for one in (made, everything):
            task_id = await ended(sim, ours, one)
            record = await ours.record(task_id)
            assert record.task_type == record.params["taskType"] == name
            assert bodies.differences(one, record) == []
            assert len(record.urls) == (1 if "video" in name else 4)


async def test_a_single_url_in_either_field(sim: Simulator) -> None:
    """``fileUrl`` and ``fileUrls`` are both taken; our comparison reads both; text takes neither."""
    async with speaking(sim) as (ours, by_hand):
        for form in ({"fileUrl": IMAGE}, {"fileUrls": [IMAGE]}):
            body = {"taskType": "mj_img2img", "prompt": "a fox"} | form
            task_id = (await posted(by_hand, bodies.GENERATE, body))["data"]["taskId"]
            wish = ImageToImage("a fox", image=IMAGE)
            assert bodies.differences(wish, await ours.record(task_id)) == []
            text = {"taskType": "mj_txt2img", "prompt": "a fox"} | form
            await check_refused(by_hand, bodies.GENERATE, text, next(iter(form)))
        (video,) = bodies_of((ImageToVideo,))
        await check_refused(
            by_hand, bodies.GENERATE, video | {"fileUrls": [IMAGE, OTHER]}, "fileUrls"
        )


async def test_unknown_fields_are_refused(sim: Simulator) -> None:
    """The simulator is strict, so that nothing we send lives on the service's leniency."""
    async with speaking(sim) as (_, by_hand):
        for body in bodies_of(ALL):
            await check_refused(by_hand, bodies.GENERATE, body | {"raw": True}, "raw")


# --- Follow-up tasks ----------------------------------------------------------------------------


@attrs.frozen
class FollowUp:
    """A row of the table of follow-ups.

    Args:
        requests: Ours, for a parent's id.
        results: How many results it makes.
        video: Whether the parent's results are videos.
        index: What the call names its index.
    """

    requests: Callable[[str], list[Request]]
    results: int
    video: bool = False
    index: str = "imageIndex"


TOLD: dict[str, Any] = {"watermark": "mine", "callback_url": "https://me.example/hook"}
FOLLOW_UPS: dict[str, FollowUp] = {
    "generateUpscale": FollowUp(
        lambda task: [*(Upscale(task, n) for n in range(4)), Upscale(task, 0, **TOLD)], 1
    ),
    "generateVary": FollowUp(
        lambda task: [*(Vary(task, n) for n in range(4)), Vary(task, 0, **TOLD)], 4
    ),
    "generateVideoExtend": FollowUp(
        lambda task: [
            Extend(task, 0),
            Extend(task, 1, prompt="more rain", **TOLD),
            Extend(task, 0, **TOLD),
        ],
        1,
        video=True,
        index="index",
    ),
}


@of(ROWS["follow-up tasks"], FOLLOW_UPS)
async def test_follow_ups(row: FollowUp, sim: Simulator, request: pytest.FixtureRequest) -> None:
    """Each is taken of the right parent, polled the same way, and refused in any other form."""
    path = f"/api/v1/mj/{request.node.callspec.id}"
    film = ImageToVideo("a fox", image=IMAGE, batch_size=2)
    async with speaking(sim) as (ours, by_hand):
        images, films = [await ended(sim, ours, one) for one in (TextToImage("a fox"), film)]
        parent, other = (films, images) if row.video else (images, films)
        for made in row.requests(parent):
            call = bodies.call_of(made)
            assert call.path == path
            task_id = await ended(sim, ours, made)
            assert task_id != parent
            record = await ours.record(task_id)
            assert (record.status, len(record.urls)) == (Status.SUCCEEDED, row.results)
            assert record.task_type == made.task_type
            assert dict(record.params) == dict(call.body)
            assert bodies.differences(made, record) == []
        body = dict(bodies.call_of(row.requests(parent)[0]).body)
        for wrong in (-1, 4, "0", True, None):
            await check_refused(by_hand, path, body | {row.index: wrong}, row.index)
        for missing in body:
            left = {name: value for name, value in body.items() if name != missing}
            await check_refused(by_hand, path, left, missing)
        for task in (other, "0" * 32, "", 5):
            await check_refused(by_hand, path, body | {"taskId": task}, "taskId")
        for name, wrong in (("waterMark", " "), ("callBackUrl", "me.example"), ("speed", "fast")):
            await check_refused(by_hand, path, body | {name: wrong}, name)
        if row.video:
            manual = body | {"taskType": "mj_video_extend_manual"}
            await check_refused(by_hand, path, manual, "prompt")
            await check_refused(by_hand, path, body | {"taskType": "mj_video"}, "taskType")
            await check_refused(by_hand, path, body | {"index": 2}, "index")
        running = await accepted(ours, film if row.video else TextToImage("a fox"))
        await check_refused(by_hand, path, body | {"taskId": running}, "taskId")
