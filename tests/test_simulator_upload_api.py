"""Uploads over a real socket, with every fault, and what creates make of them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from PIL import Image

from kie_mj_async.simulator import KINDS, Simulator
from kie_mj_async.simulator.uploads import BASE64, FROM_URL, STREAM, UPLOADS

pytestmark = pytest.mark.anyio
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
GENERATE = "/api/v1/mj/generate"


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def service(faults: str = "", **options: Any) -> AsyncIterator[tuple[Simulator, Any]]:
    options = {"time_scale": 0.01, "picture_side": 16} | options
    headers = {"Authorization": "Bearer key"}
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        Simulator(faults=faults, **options) as sim,
        aiohttp.ClientSession(sim.url, headers=headers, connector=connector) as session,
    ):
        yield sim, session


def multipart(**fields: str) -> aiohttp.FormData:
    """A form without a file, in parts all the same."""
    data = aiohttp.FormData()
    for name, value in fields.items():
        data.add_field(name, value, content_type="text/plain")
    return data


def form(content: bytes = PNG, name: str | None = "fox.png", **fields: str) -> aiohttp.FormData:
    data = aiohttp.FormData({"uploadPath": "images/a"} | fields)
    data.add_field("file", content, filename="C:\\fox.png", content_type="text/plain")
    if name is not None:
        data.add_field("fileName", name)
    return data


async def look(session: Any, method: str, path: str, **options: Any) -> tuple[Any, Any]:
    """Status and body; or the exception's name where there is no answer."""
    options = {"timeout": aiohttp.ClientTimeout(total=20)} | options
    try:
        async with session.request(method, path, **options) as answer:
            content = await answer.read()
            try:
                return answer.status, json.loads(content)
            except ValueError:
                return answer.status, content
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__, None


async def upload(session: Any, content: bytes = PNG, **options: Any) -> tuple[Any, Any]:
    return await look(session, "POST", STREAM, data=form(content), **options)


async def link_of(session: Any, content: bytes = PNG) -> str:
    _, answer = await upload(session, content)
    link: str = answer["data"]["downloadUrl"]
    return link


async def flag(sim: Simulator, session: Any, *urls: str, **fields: Any) -> tuple[int, Any]:
    """The successFlag, and words, of a task made with these images."""
    body = {"taskType": "mj_img2img", "prompt": "a fox", "fileUrls": list(urls)} | fields
    _, answer = await look(session, "POST", GENERATE, json=body)
    task_id = answer["data"]["taskId"]
    sim.world.finish(task_id)
    _, record = await look(session, "GET", f"/api/v1/mj/record-info?taskId={task_id}")
    return record["data"]["successFlag"], record["data"]["errorMessage"]


async def test_a_streamed_file() -> None:
    """A multipart upload is answered as documented, served without a key, and in the books."""
    async with service() as (sim, session):
        status, answer = await upload(session)
        assert (status, answer["success"], answer["code"]) == (200, True, 200)
        data = answer["data"]
        assert data["downloadUrl"] == f"{sim.url}/u/images/a/fox.png"
        assert (data["fileName"], data["filePath"]) == ("fox.png", "images/a/fox.png")
        assert (data["fileSize"], data["mimeType"]) == (len(PNG), "image/png")
        async with (
            aiohttp.ClientSession() as stranger,
            stranger.get(data["downloadUrl"]) as got,
        ):
            assert (got.status, got.content_type) == (200, "image/png")
            assert await got.read() == PNG
        books = sim.books()
        assert (books["upload_total"], books["upload_bytes"]) == (1, len(PNG))
        (entry,) = books["uploads"]
        assert (entry["call"], entry["code"], entry["name"]) == (STREAM, 200, "fox.png")
        assert entry["sha256"] == hashlib.sha256(PNG).hexdigest()
        assert {one["prefix"]: one["authorization"] for one in books["keys"]} == {
            STREAM: True,
            "/u": False,
        }


async def test_a_file_in_base64() -> None:
    """Base64 is taken plain and as a data URL; the file's own name is chosen by the service."""
    text = base64.b64encode(PNG).decode()
    async with service() as (_, session):
        for data in (text, f"data:image/jpeg;base64,{text}"):
            body = {"base64Data": data, "uploadPath": "images"}
            _, answer = await look(session, "POST", BASE64, json=body)
            assert answer["data"]["mimeType"] == "image/png"
            assert answer["data"]["fileName"].endswith(".png")
            status, content = await look(session, "GET", answer["data"]["downloadUrl"])
            assert (status, content) == (200, PNG)


async def test_a_large_file_in_base64() -> None:
    """More than a megabyte of JSON is no problem for this call."""
    content = PNG + bytes(2**21)
    body = {"base64Data": base64.b64encode(content).decode(), "uploadPath": "images"}
    data = json.dumps(body).encode()
    async with service() as (_, session):
        _, answer = await look(session, "POST", BASE64, data=io.BytesIO(data))
        assert answer["data"]["fileSize"] == len(content)
    async with service(upload_limit=2**20) as (sim, session):
        assert (await look(session, "POST", BASE64, data=io.BytesIO(data)))[0] == 413
        assert sim.books()["uploads"] == []


@asynccontextmanager
async def file_host() -> AsyncIterator[str]:
    async def get(request: web.Request) -> web.Response:
        assert "Authorization" not in request.headers
        if request.path != "/pictures/лиса.png":
            raise web.HTTPFound("/pictures/лиса.png")
        return web.Response(body=PNG, content_type="image/png")

    app = web.Application()
    app.router.add_get("/{path:.*}", get)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_file_by_its_url() -> None:
    """A URL of this machine is fetched without a key, its last part names the file."""
    async with service() as (sim, session), file_host() as host:
        body = {"fileUrl": f"{host}/pictures/%D0%BB%D0%B8%D1%81%D0%B0.png", "uploadPath": "images"}
        _, answer = await look(session, "POST", FROM_URL, json=body)
        assert (answer["data"]["fileName"], answer["data"]["fileSize"]) == ("лиса.png", len(PNG))
        assert (await look(session, "GET", answer["data"]["downloadUrl"]))[1] == PNG
        assert sim.books()["uploads"][0]["source"] == body["fileUrl"]
        body = {"fileUrl": f"{host}/moved", "uploadPath": "images", "fileName": "x.png"}
        _, answer = await look(session, "POST", FROM_URL, json=body)
        assert answer["msg"] == "fileUrl could not be fetched: status 302"
    async with service() as (_, session):
        _, answer = await look(session, "POST", FROM_URL, json=body)
        assert answer["msg"].startswith("fileUrl could not be fetched: ClientConnector")


async def test_urls_of_other_machines_are_not_fetched() -> None:
    """A picture drawn from the URL stands for what lies elsewhere: nothing leaves the machine."""
    body = {"fileUrl": "https://example.invalid/", "uploadPath": "images"}
    async with service() as (_, session):
        links = set()
        for _ in range(2):
            _, answer = await look(session, "POST", FROM_URL, json=body)
            links.add(answer["data"]["downloadUrl"])
            _, content = await look(session, "GET", answer["data"]["downloadUrl"])
            assert Image.open(io.BytesIO(content)).size == (16, 16)
        assert len(links) == 2


@pytest.mark.parametrize(
    ("call", "body", "field"),
    [
        (STREAM, form(uploadPath=""), "uploadPath"),
        (STREAM, form(name="a/b"), "fileName"),
        (STREAM, form(color="red"), "color"),
        (STREAM, form(uploadPath="x" * 5000), "uploadPath"),
        (STREAM, form(PNG * 20), "file"),
        (STREAM, multipart(uploadPath="a"), "file"),
        (STREAM, b"raw bytes", "file"),
        (BASE64, b"[]", "body"),
        (BASE64, b'{"uploadPath":"a"}', "base64Data"),
        (BASE64, b'{"uploadPath":"a","base64Data":"%%%"}', "base64Data"),
        (BASE64, b'{"uploadPath":"a","base64Data":"data:image/png,x"}', "base64Data"),
        (BASE64, b'{"base64Data":"aGk="}', "uploadPath"),
        (BASE64, b'{"uploadPath":"a","base64Data":"aGk=","fileUrl":"x"}', "fileUrl"),
        (BASE64, b'{"uploadPath":"a","base64Data":"' + b"QUJD" * 2000 + b'"}', "file"),
        (FROM_URL, b'{"uploadPath":"a"}', "fileUrl"),
        (FROM_URL, b'{"uploadPath":"a","fileUrl":"ftp://x.org/a"}', "fileUrl"),
        (FROM_URL, b'{"fileUrl":"http://127.0.0.1/a"}', "uploadPath"),
    ],
)
async def test_bad_uploads_name_the_field(call: str, body: Any, field: str) -> None:
    """What the service would not take is code 400 with the field's name, and stores nothing."""
    async with service(upload_limit=5000) as (sim, session):
        status, answer = await look(session, "POST", call, data=body)
        assert (status, answer["success"], answer["code"]) == (200, False, 400)
        assert field in answer["msg"].replace(":", "").split()
        (entry,) = sim.books()["uploads"]
        assert (entry["code"], entry["stored"], entry["sha256"]) == (400, False, None)


@pytest.mark.parametrize(
    "body",
    [
        b"no multipart at all",
        b'--b\r\nContent-Disposition: form-data; name="uploadPath"\r\n\r\n\xff\r\n--b--\r\n',
        b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c--\r\n--b--\r\n",
    ],
)
async def test_broken_forms(body: bytes) -> None:
    """A form that cannot be read is refused like any other bad upload."""
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with service() as (_, session):
        status, answer = await look(session, "POST", STREAM, data=body, headers=headers)
        assert (status, answer["code"]) == (200, 400)


@pytest.mark.parametrize("call", UPLOADS)
async def test_uploads_need_a_key(call: str) -> None:
    """Every upload wants the account's key; without it nothing is read or stored."""
    async with service(api_key="right") as (sim, session):
        status, answer = await look(session, "POST", call, data=form())
        assert (status, answer["code"], answer["success"]) == (401, 401, False)
        headers = {"Authorization": "Bearer right"}
        status, _ = await look(session, "POST", STREAM, data=form(), headers=headers)
        assert status == 200
        assert [one["stored"] for one in sim.books()["uploads"]] == [False, True]
        assert "right" not in str(sim.books())


FAULTS: dict[str, tuple[Any, Any, bool]] = {
    "400": (200, 400, False),
    "401": (401, 401, False),
    "429": (429, 429, False),
    "455": (200, 455, False),
    "500": (200, 500, False),
    "html": (502, "html", False),
    "empty": (200, "", True),
    "truncate": (200, "cut", True),
    "drop": ("ServerDisconnectedError", None, False),
    "drop-reply": ("ServerDisconnectedError", None, True),
    "stall": ("TimeoutError", None, True),
    "slow": (200, 200, True),
    "string-code": (200, "200", True),
    "file-url": (200, 200, True),
    "both-urls": (200, 200, True),
    "no-url": (200, 200, True),
    "lost": (200, 200, True),
}


def test_every_fault_has_its_test() -> None:
    """The table leaves no fault of uploads out."""
    assert set(FAULTS) == set(KINDS["upload"])


@pytest.mark.parametrize("kind", FAULTS)
async def test_faults_of_uploads(kind: str) -> None:
    """Each fault has its own look, the books tell what was stored, and the next one goes well."""
    expected, told, stored = FAULTS[kind]
    patience: dict[str, Any] = (
        {"timeout": aiohttp.ClientTimeout(total=0.3)} if kind == "stall" else {}
    )
    async with service(f"upload.{kind}=#1") as (sim, session):
        status, body = await upload(session, **patience)
        if isinstance(body, bytes):
            body = {b"<": "html", b"{": "cut", b"": ""}[body[:1]]
        assert (status, body["code"] if isinstance(body, dict) else body) == (expected, told)
        books = sim.books()
        assert books["uploads"][0]["stored"] == stored
        assert books["faults"] == {f"upload.{kind}": 1}
        there = stored and kind != "lost"
        status, _ = await look(session, "GET", "/u/images/a/fox.png")
        assert status == (200 if there else 404)
        if kind in {"file-url", "both-urls", "no-url"}:
            links = {name for name in body["data"] if name in {"fileUrl", "downloadUrl"}}
            both = {"fileUrl", "downloadUrl"}
            assert links == {"file-url": {"fileUrl"}, "both-urls": both, "no-url": set()}[kind]
        assert (await upload(session))[0] == 200


async def test_uploads_die_after_a_day() -> None:
    """After 24 h, scaled, an upload is gone, and a task made with it fails at no cost."""
    clock = Clock()
    async with service(clock=clock) as (sim, session):
        link = await link_of(session)
        clock.now += 863
        assert (await look(session, "GET", link))[0] == 200
        assert (await flag(sim, session, link))[0] == 1
        clock.now += 1
        status, body = await look(session, "GET", link)
        assert (status, body["code"]) == (404, 404)
        failed, words = await flag(sim, session, link)
        assert failed == 3
        assert link in words
        assert sim.books()["charged_total"] == 25


async def test_what_creates_make_of_images() -> None:
    """Own links are looked at, in both fields; those of other machines are taken on trust."""
    async with service("upload.lost=#3") as (sim, session):
        picture = await link_of(session)
        for good in (
            ["https://example.invalid/a.png"],
            [picture],
            [picture, "https://example.invalid/a.png"],
            ["http://127.0.0.1:9/some/other/server.png"],
        ):
            assert (await flag(sim, session, *good))[0] == 1
        assert (await flag(sim, session, picture, f"{sim.url}/u/images/none.png"))[0] == 3
        assert (await flag(sim, session, f"{sim.url}/what.png"))[0] == 3
        wrong = {"fileUrls": None, "fileUrl": f"{sim.url}/u/none.png"}
        assert (await flag(sim, session, **wrong))[0] == 3
        _, answer = await look(session, "POST", STREAM, data=form(b"plain text", "a.png"))
        assert (await flag(sim, session, answer["data"]["downloadUrl"]))[0] == 3
        _, answer = await look(session, "POST", STREAM, data=form(PNG, "lost.png"))
        assert (await flag(sim, session, answer["data"]["downloadUrl"]))[0] == 3
        # A name that was replaced is the later file.
        await upload(session, b"no picture any more")
        assert (await flag(sim, session, picture))[0] == 3


async def test_results_can_be_images() -> None:
    """A result's own link and a fresh one serve as images while they work; videos do not."""
    clock = Clock()
    async with service(clock=clock) as (sim, session):
        await flag(sim, session, "https://example.invalid/a.png")
        (parent,) = sim.world.tasks.values()
        name = parent.files("jpeg")[0]
        own = f"{sim.url}/m/{name}"
        fresh = f"{sim.url}/f/{sim.world.fresh_token(name, clock.now)}/{name}"
        video = {"taskType": "mj_video", "motion": "low"}
        assert (await flag(sim, session, own))[0] == 1
        assert (await flag(sim, session, fresh, **video))[0] == 1
        film = list(sim.world.tasks.values())[-1]
        assert (await flag(sim, session, f"{sim.url}/m/{film.files('jpeg')[0]}"))[0] == 3
        clock.now += 864
        assert (await flag(sim, session, own))[0] == 3
        assert (await flag(sim, session, fresh))[0] == 3


async def test_uploads_outlive_a_restart(tmp_path: Path) -> None:
    """With a journal, uploads and their bytes are found again, by their old links too."""
    clock = Clock()
    journal = tmp_path / "journal.jsonl"
    async with service(journal=journal, clock=clock) as (first, session):
        link = await link_of(session)
        before = first.books()["uploads"]
    (tmp_path / "journal.jsonl.uploads" / "7.part").write_bytes(b"half")
    async with service(journal=journal, clock=clock) as (second, session):
        assert second.books()["uploads"] == before
        assert (await look(session, "GET", "/u/images/a/fox.png"))[1] == PNG
        assert link.partition("/u/")[0] != second.url
        assert (await flag(second, session, link))[0] == 1
        clock.now += 864
        assert (await flag(second, session, link))[0] == 3
    async with service(journal=journal, clock=clock):
        assert list((tmp_path / "journal.jsonl.uploads").iterdir()) == []
