"""The contract with the service, form by form: what it answers and reports is read rightly.

See ``test_contract`` for how, and for what is not here.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import attrs
import pytest
from contract_support import (
    IMAGE,
    ROOMY,
    accepted,
    ended,
    hook,
    of,
    posted,
    service,
    speaking,
    uploaded,
)
from support import picture, until

from kie_mj_async import errors
from kie_mj_async.errors import InvalidRequest, StaleTimestamp
from kie_mj_async.requests import (
    Extend,
    ImageToImage,
    ImageToVideo,
    Request,
    TextToImage,
)
from kie_mj_async.rules import bodies, callbacks, uploads, wire
from kie_mj_async.rules.wire import Record, Reply, Status
from kie_mj_async.simulator import Simulator
from kie_mj_async.transport import Transport

WEBHOOK_KEY = "a webhook key"
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
    "record-info": [
        "shape 1", "shape 1, ISO times", "shape 1, all as text", "shape 2", "successFlag 0",
        "successFlag 1", "successFlag 2", "successFlag 3", "successFlag unknown",
        "success without a URL", "unknown task",
    ],
    "callbacks": ["success", "failure", "video extend", "data.task_id", "signature"],
    "other calls": [
        "chat/credit", "common/download-url", "file-stream-upload", "file-base64-upload",
        "file-url-upload",
    ],
}  # fmt: skip
"""The forms that kie-api.md's sections list where they have no table."""


# --- record-info --------------------------------------------------------------------------------


@attrs.frozen
class Shape:
    """A form of a record.

    Args:
        faults: What makes the service answer so.
        status: What it means.
        look: What the raw body has to look like, or the test shows nothing.
        ends: Whether the task has ended.
    """

    faults: str
    status: Status
    look: Callable[[Any], bool]
    ends: bool = True


RECORDS: dict[str, Shape | None] = {
    "shape 1": Shape(
        "",
        Status.SUCCEEDED,
        lambda body: (
            type(body["data"]["createTime"]) is int
            and type(body["data"]["paramJson"]) is str
            and list(body["data"]["resultInfoJson"]["resultUrls"][0]) == ["resultUrl"]
        ),
    ),
    "shape 1, ISO times": Shape(
        "poll.iso=1", Status.SUCCEEDED, lambda body: body["data"]["completeTime"].endswith("Z")
    ),
    "shape 1, all as text": Shape(
        "poll.strings=1",
        Status.SUCCEEDED,
        lambda body: (
            body["code"] == "200"
            and body["data"]["successFlag"] == "1"
            and type(body["data"]["resultInfoJson"]) is str
        ),
    ),
    "shape 2": Shape(
        "poll.flat=1",
        Status.SUCCEEDED,
        lambda body: (
            "code" not in body
            and type(body["paramJson"]) is dict
            and type(body["resultUrls"][0]) is str
        ),
    ),
    "successFlag 0": Shape(
        "",
        Status.GENERATING,
        lambda body: (body["data"]["successFlag"], body["data"]["resultInfoJson"]) == (0, None),
        ends=False,
    ),
    "successFlag 1": Shape("", Status.SUCCEEDED, lambda body: body["data"]["successFlag"] == 1),
    "successFlag 2": Shape(
        "task.fail=1", Status.FAILED, lambda body: body["data"]["successFlag"] == 2
    ),
    "successFlag 3": Shape(
        "task.fail-create=1", Status.FAILED, lambda body: body["data"]["successFlag"] == 3
    ),
    "successFlag unknown": Shape(
        "poll.unknown-flag=1",
        Status.UNKNOWN,
        lambda body: body["data"]["successFlag"] not in (0, 1, 2, 3),
    ),
    "success without a URL": Shape(
        "poll.no-url=1",
        Status.NO_LINKS,
        lambda body: body["data"]["resultInfoJson"] == {"resultUrls": []},
    ),
    "unknown task": None,
}


@of(ROWS["record-info"], RECORDS)
async def test_records(row: Shape | None) -> None:
    """Every form of a record tells the same facts, and its flag says what became of the task."""
    if row is None:
        async with service() as (_, ours, _):
            with pytest.raises(errors.NotFound, match="recordInfo is null"):
                await ours.record("0" * 32)
        return
    made = TextToImage("a fox", speed="fast", version=7, stylization=50)
    async with service(row.faults) as (sim, ours, by_hand):
        task_id = await (ended(sim, ours, made) if row.ends else accepted(ours, made))
        async with by_hand.get(wire.RECORD_INFO, params={"taskId": task_id}) as answer:
            raw = await answer.read()
        assert row.look(json.loads(raw))
        record = wire.read_record(Reply(200, raw), task_id)
        check_record(record, row, sim.books()["tasks"][task_id])
        assert (record.task_id, record.task_type) == (task_id, "mj_txt2img")
        assert bodies.differences(made, record) == []


def check_record(record: Record, shape: Shape, truth: dict[str, Any]) -> None:
    assert record.status is shape.status
    assert record.created_at is not None
    assert abs(record.created_at.timestamp() - truth["created"]) < 0.002
    assert (record.completed_at is not None) is shape.ends
    assert shape.status is not Status.SUCCEEDED or len(record.urls) == 4
    failed = shape.status is Status.FAILED
    assert (record.error_code, bool(record.error_message)) == ("500" if failed else None, failed)


# --- Callbacks ----------------------------------------------------------------------------------


@attrs.frozen
class Told:
    """A form of a callback.

    Args:
        succeeded: What it says.
        look: What the raw body has to look like.
        faults: What makes the service send it so.
        extend: Whether it is of an extended video.
    """

    succeeded: bool
    look: Callable[[Any], bool]
    faults: str = ""
    extend: bool = False


CALLBACKS: dict[str, Told] = {
    "success": Told(
        True,
        lambda body: (
            (body["code"], body["msg"]) == (200, "success")
            and type(body["data"]["promptJson"]) is str
            and set(body["data"]) == {"taskId", "promptJson", "resultUrls"}
        ),
    ),
    "failure": Told(
        False,
        lambda body: (
            (body["code"], body["msg"]) == (500, "Image generation failed")
            and body["data"]["resultUrls"] == []
        ),
        "task.fail=1",
    ),
    "video extend": Told(
        True,
        lambda body: (
            body["data"]["successFlag"] == 1 and "resultUrls" in body["data"]["resultInfoJson"]
        ),
        extend=True,
    ),
    "data.task_id": Told(True, lambda body: "taskId" not in body["data"], "callback.task_id=1"),
    "signature": Told(True, lambda body: body["code"] == 200),
}


@of(ROWS["callbacks"], CALLBACKS)
async def test_callbacks(row: Told) -> None:
    """Every form is read, agrees with the record, and is signed as we verify it."""
    options = {"webhook_key": WEBHOOK_KEY}
    async with hook() as here, service(row.faults, **options) as (sim, ours, _):
        request: Request = TextToImage("a fox", callback_url=here.url)
        if row.extend:
            film = await ended(sim, ours, ImageToVideo("a fox", image=IMAGE))
            request = Extend(film, 0, callback_url=here.url)
        task_id = await ended(sim, ours, request)
        await until(lambda: here.got)
        ((body, headers),) = here.got
        assert row.look(json.loads(body))
        now = float(headers[callbacks.TIMESTAMP])
        found = callbacks.verify(body, headers, WEBHOOK_KEY, now)
        assert found == callbacks.parse(body)
        record = await ours.record(task_id)
        assert (found.task_id, found.succeeded) == (task_id, row.succeeded)
        assert found.urls == record.urls
        assert found.succeeded is (record.status is Status.SUCCEEDED)
        with pytest.raises(errors.BadSignature):
            callbacks.verify(body, headers, "another key", now)
        with pytest.raises(StaleTimestamp):
            callbacks.verify(body, headers, WEBHOOK_KEY, now + 86_400)


@pytest.mark.parametrize("form", ["forged", "stale", "unsigned"])
async def test_callbacks_that_prove_nothing(form: str) -> None:
    """Signed with another key, long ago, or not at all: refused, though the body is a callback."""
    options = {} if form == "unsigned" else {"webhook_key": WEBHOOK_KEY}
    faults = "" if form == "unsigned" else f"callback.{form}=1"
    async with hook() as here, service(faults, **options) as (sim, ours, _):
        task_id = await ended(sim, ours, TextToImage("a fox", callback_url=here.url))
        await until(lambda: here.got)
        ((body, headers),) = here.got
        assert callbacks.parse(body).task_id == task_id
        now = float(headers.get(callbacks.TIMESTAMP, 0)) + (86_400 if form == "stale" else 0)
        kind = StaleTimestamp if form == "stale" else errors.BadSignature
        with pytest.raises(kind):
            callbacks.verify(body, headers, WEBHOOK_KEY, now)


# --- Other calls --------------------------------------------------------------------------------


async def credit(sim: Simulator) -> None:
    async with service(credits=100) as (_, ours, by_hand):
        assert await ours.credits() == 100
        await accepted(ours, TextToImage("a fox"))
        assert await ours.credits() == 75
        async with by_hand.post(wire.CREDITS) as answer:
            assert answer.status == 405


async def download_url(sim: Simulator) -> None:
    async with speaking(sim) as (ours, by_hand), aiohttp.ClientSession() as stranger:
        task_id = await ended(sim, ours, TextToImage("a fox"))
        old = (await ours.record(task_id)).urls[2]
        fresh = await ours.fresh_link(old)
        assert fresh != old
        contents = []
        for link in (old, fresh):
            async with stranger.get(link) as answer:
                assert answer.status == 200
                contents.append(await answer.read())
        assert contents[0] == contents[1]
        for foreign in ("https://example.com/m/a.jpeg", sim.url + "/x"):
            with pytest.raises(InvalidRequest) as caught:
                await ours.fresh_link(foreign)
            assert caught.value.code == 422
        for wrong in ({}, {"url": None}, {"link": old}, [old]):
            assert (await posted(by_hand, wire.DOWNLOAD_URL, wrong))["code"] == 422


async def check_uploaded(sim: Simulator, ours: Transport, link: str, content: bytes) -> None:
    """An uploaded picture can be fetched by anybody, and a task be made of it."""
    async with aiohttp.ClientSession() as stranger, stranger.get(link) as answer:
        assert await answer.read() == content
    for request in (ImageToImage("a fox", image=link), ImageToVideo("a fox", image=link)):
        record = await ours.record(await ended(sim, ours, request))
        assert record.status is Status.SUCCEEDED


async def stream_upload(sim: Simulator) -> None:
    content = picture(7)
    name = hashlib.sha256(content).hexdigest() + ".png"
    async with speaking(sim) as (ours, by_hand):
        link = await uploaded(ours, content)
        assert isinstance(link, str)
        assert link.endswith(f"{uploads.FOLDER}/{name}")
        entry = sim.books()["uploads"][-1]
        assert (entry["call"], entry["code"], entry["name"]) == (uploads.UPLOAD, 200, name)
        await check_uploaded(sim, ours, link, content)
        for fields in ({}, {"uploadPath": ""}, {"uploadPath": "a", "fileName": "a/b"}):
            form = aiohttp.FormData(fields)
            form.add_field("file", content, filename="fox.png")
            await check_upload_refused(by_hand, uploads.UPLOAD, data=form)
        await check_upload_refused(by_hand, uploads.UPLOAD, data={"uploadPath": "a"})
    for faults in ("upload.file-url=1", "upload.both-urls=1", "upload.string-code=1"):
        async with service(faults) as (other, there, _):
            link = await uploaded(there, content)
            assert isinstance(link, str)
            await check_uploaded(other, there, link, content)


async def check_upload_refused(by_hand: aiohttp.ClientSession, path: str, **body: Any) -> None:
    async with by_hand.post(path, **body) as answer:
        failure = uploads.judge(Reply(answer.status, await answer.read()), "fox.png")
    assert isinstance(failure, uploads.Failure)
    assert (type(failure.error), failure.then) == (InvalidRequest, "fail")


async def base64_upload(sim: Simulator) -> None:
    path, content = "/api/file-base64-upload", picture(8)
    text = base64.b64encode(content).decode()
    async with speaking(sim) as (ours, by_hand):
        for data in (text, f"data:image/png;base64,{text}"):
            body = {"base64Data": data, "uploadPath": "kie-mj", "fileName": "a.png"}
            raw = json.dumps(await posted(by_hand, path, body)).encode()
            await check_uploaded(sim, ours, uploads.read_upload(Reply(200, raw)), content)
        for wrong in ({"base64Data": "!"}, {"uploadPath": None}, {"file": text}):
            await check_upload_refused(by_hand, path, json=body | wrong)


async def url_upload(sim: Simulator) -> None:
    path = "/api/file-url-upload"
    async with speaking(sim) as (ours, by_hand), aiohttp.ClientSession() as stranger:
        task_id = await ended(sim, ours, TextToImage("a fox"))
        url = (await ours.record(task_id)).urls[0]
        async with stranger.get(url) as answer:
            content = await answer.read()
        body = {"fileUrl": url, "uploadPath": "kie-mj", "fileName": "b.jpeg"}
        raw = json.dumps(await posted(by_hand, path, body)).encode()
        await check_uploaded(sim, ours, uploads.read_upload(Reply(200, raw)), content)
        for wrong in ({"fileUrl": "fox.png"}, {"uploadPath": ""}, {"url": url}):
            await check_upload_refused(by_hand, path, json=body | wrong)


OTHERS: dict[str, Callable[[Simulator], Any]] = {
    "chat/credit": credit,
    "common/download-url": download_url,
    "file-stream-upload": stream_upload,
    # Not calls of ours: we stream. The answers are the same, and read by the same reader.
    "file-base64-upload": base64_upload,
    "file-url-upload": url_upload,
}


@of(ROWS["other calls"], OTHERS)
async def test_other_calls(row: Callable[[Simulator], Any], sim: Simulator) -> None:
    """The balance, fresh links, and uploads in every form: taken, read, and refused where wrong."""
    await row(sim)
