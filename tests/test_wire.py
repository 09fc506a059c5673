"""The wire: requests to JSON, and every known shape of an answer to a value or an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async import errors
from kie_mj_async.errors import InvalidRequest, KieError, MalformedReply
from kie_mj_async.jobs import trouble_of
from kie_mj_async.requests import ExistingTask, ImageToImage, ImageToVideo, Request, TextToImage
from kie_mj_async.rules import wire
from kie_mj_async.rules.wire import Record, Reply, Status

ID = "9f47c52047dda21bb3df0488736cce57"
IMAGE = "https://cdn.example/fox.png"
URLS = tuple(f"https://tempfile.example/m/{ID}_0_{n}.jpeg" for n in range(4))
CREATED = datetime(2025, 10, 15, 19, 41, 58, tzinfo=UTC)
COMPLETED = datetime(2025, 10, 15, 19, 45, 32, tzinfo=UTC)
NOW = datetime(2026, 11, 1, tzinfo=UTC)


def reply(body: object, status: int = 200, retry_after: float | None = None) -> Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, raw, retry_after)


def ok(data: object) -> Reply:
    return reply({"code": 200, "msg": "success", "data": data})


# --- Requests -----------------------------------------------------------------------------------

COMMON: dict[str, Any] = {
    "version": "Niji6",
    "speed": "Relax",
    "aspect_ratio": "16:9",
    "stylization": 0,
    "weirdness": 3000,
    "variety": 5,
    "watermark": "mine",
    "translate": False,
    "callback_url": "https://hook.example/x",
}
COMMON_SENT: dict[str, Any] = {
    "version": "niji6",
    "speed": "relaxed",
    "aspectRatio": "16:9",
    "stylization": 0,
    "weirdness": 3000,
    "variety": 5,
    "waterMark": "mine",
    "enableTranslation": False,
    "callBackUrl": "https://hook.example/x",
}


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (TextToImage("a fox"), {"taskType": "mj_txt2img", "prompt": "a fox"}),
        (
            TextToImage("a fox", **COMMON),
            {"taskType": "mj_txt2img", "prompt": "a fox", **COMMON_SENT},
        ),
        (
            ImageToImage("a fox", image=IMAGE),
            {"taskType": "mj_img2img", "prompt": "a fox", "fileUrls": [IMAGE]},
        ),
        (
            ImageToImage("a fox", image=IMAGE, **COMMON),
            {"taskType": "mj_img2img", "prompt": "a fox", "fileUrls": [IMAGE], **COMMON_SENT},
        ),
        (
            ImageToVideo("a fox", image=IMAGE),
            {
                "taskType": "mj_video",
                "prompt": "a fox",
                "fileUrls": [IMAGE],
                "motion": "high",
                "videoBatchSize": 1,
            },
        ),
        (
            ImageToVideo("a fox", image=IMAGE, motion="Low", batch_size=4, version=7),
            {
                "taskType": "mj_video",
                "prompt": "a fox",
                "fileUrls": [IMAGE],
                "motion": "low",
                "videoBatchSize": 4,
                "version": "7",
            },
        ),
    ],
)
def test_a_create_says_exactly_what_was_asked(request_: Request, body: dict[str, Any]) -> None:
    """The body holds the official names and spellings of the given fields, and nothing else."""
    assert wire.create_body(request_) == body


def test_flags_in_a_prompt_pass_through() -> None:
    """Midjourney's flags inside a prompt are the service's to read."""
    prompt = "a fox --sref https://a.example/b.png --sw 60 --seed 1 --v 7 --ar 3:4"
    assert wire.create_body(TextToImage(prompt)) == {"taskType": "mj_txt2img", "prompt": prompt}


# --- Envelopes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [200, "200", " 200 ", 200.0])
def test_success_is_code_200_in_any_form(code: object) -> None:
    """The code may come as a number or as a numeric string."""
    assert wire.read_data(reply({"code": code, "data": {"a": 1}})) == {"a": 1}


def test_the_code_counts_before_the_status() -> None:
    """The envelope's code is looked at first, the HTTP status only where there is none."""
    assert wire.read_data(reply({"code": 200, "data": 5}, status=500)) == 5
    with pytest.raises(errors.AuthenticationError):
        wire.read_data(reply({"code": 401, "msg": "no"}, status=200))
    with pytest.raises(errors.InsufficientCredits):
        wire.read_data(reply({"code": 402, "msg": "no"}, status=429))


CODES: list[tuple[int, type[KieError]]] = [
    (400, InvalidRequest),
    (401, errors.AuthenticationError),
    (402, errors.InsufficientCredits),
    (404, errors.NotFound),
    (422, InvalidRequest),
    (429, errors.RateLimited),
    (455, errors.Maintenance),
    (500, errors.ServerError),
    (501, errors.ServerError),
    (503, errors.ServerError),
    (505, errors.FeatureDisabled),
    (599, errors.ServerError),
    (302, errors.ApiError),
    (418, errors.ApiError),
    (600, errors.ApiError),
    (0, errors.ApiError),
    (-1, errors.ApiError),
]


@pytest.mark.parametrize(("code", "kind"), CODES)
@pytest.mark.parametrize("shape", [int, str])
def test_every_code_has_its_error(code: int, kind: type[KieError], shape: type) -> None:
    """A code means exactly its class, and the error says the code and the service's words."""
    answer = reply({"code": shape(code), "msg": "the words", "data": None}, 200, retry_after=7)
    with pytest.raises(KieError) as caught:
        wire.read_data(answer)
    error = caught.value
    assert type(error) is kind
    assert "the words" in str(error)
    assert f"code {code}" in str(error)
    assert getattr(error, "code", None) == code
    if isinstance(error, errors.ApiError):
        assert (error.status, error.retry_after) == (200, 7)


@pytest.mark.parametrize(("status", "kind"), [(s, k) for s, k in CODES if s >= 400])
@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"", b'"text"', b"{}", b"[1]"])
def test_without_an_envelope_the_status_counts(
    status: int, kind: type[KieError], body: bytes
) -> None:
    """A gateway's HTML or an empty body means its HTTP status."""
    with pytest.raises(KieError) as caught:
        wire.read_data(Reply(status, body, 3.0))
    assert type(caught.value) is kind
    assert str(status) in str(caught.value)
    if isinstance(caught.value, errors.ApiError):
        assert caught.value.retry_after == 3.0
        assert (caught.value.code, caught.value.status) == (None, status)


NO_ENVELOPE: list[tuple[int, bytes]] = [
    (200, b""),
    (200, b"<html>hello</html>"),
    (200, b'{"code": 200, "data": {"taskId": "a'),
    (200, b"[]"),
    (200, b"null"),
    (200, b'{"data": {"taskId": "abc"}}'),
    (200, b'{"code": null, "data": {"taskId": "abc"}}'),
    (200, b'{"code": "ok", "data": {"taskId": "abc"}}'),
    (200, b'{"code": true, "data": {"taskId": "abc"}}'),
    (200, b'{"code": 200.5, "data": {"taskId": "abc"}}'),
    (200, b'{"code": NaN, "data": {"taskId": "abc"}}'),
    (200, b'{"code": Infinity, "data": {"taskId": "abc"}}'),
    (200, b'{"code": "1e999", "data": {"taskId": "abc"}}'),
    (200, b"\xff\xfe\x00"),
    (302, b""),
    (204, b""),
    (200, b"[" * 100_000),
    (200, b"9" * 5000),
]


@pytest.mark.parametrize(("status", "body"), NO_ENVELOPE)
def test_no_envelope_is_malformed(status: int, body: bytes) -> None:
    """Without a readable envelope and without an error status, the answer is malformed."""
    with pytest.raises(MalformedReply) as caught:
        wire.read_data(Reply(status, body))
    assert caught.value.status == status
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (reply({"code": 200}), 200),
        (reply({"code": "429"}, 200), 429),
        (reply({"code": "x"}, 429), None),
        (reply({}, 429), None),
        (reply([], 429), None),
        (reply(b"<html>", 429), None),
    ],
)
def test_the_envelopes_code_alone(answer: Reply, code: int | None) -> None:
    """envelope_code tells the code where there is one, whatever else the answer holds."""
    assert wire.envelope_code(answer) == code


def test_a_long_answer_is_quoted_in_part() -> None:
    """Messages quote an answer's beginning on one line, not megabytes of it."""
    with pytest.raises(MalformedReply) as caught:
        wire.read_data(Reply(200, b"<p>\n" * 1_000_000))
    assert "<p> <p>" in str(caught.value)
    assert len(str(caught.value)) < 250
    with pytest.raises(errors.ServerError) as other:
        wire.read_data(reply({"code": 500, "msg": "m" * 100_000}))
    assert len(str(other.value)) < 600


@pytest.mark.parametrize("message", [None, 5, ["x"], ""])
def test_a_message_that_is_none(message: object) -> None:
    """An envelope without readable words still gives its error."""
    with pytest.raises(errors.ServerError, match="no message"):
        wire.read_data(reply({"code": 500, "msg": message}))


def test_words_may_stand_under_message() -> None:
    """Some gateways write ``message`` for ``msg``."""
    with pytest.raises(errors.ServerError, match="the words"):
        wire.read_data(reply({"code": 500, "message": "the words"}))


# --- Task ids -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "task_id"),
    [
        ({"taskId": ID}, ID),
        ({"taskId": "mj_task_abc123"}, "mj_task_abc123"),
        ({"task_id": ID}, ID),
        ({"taskId": 12345}, "12345"),
        ({"taskId": f" {ID}\n"}, ID),
        ({"taskId": ID, "recordId": "z"}, ID),
    ],
)
def test_the_id_of_a_create(data: object, task_id: str) -> None:
    """Every form of an accepted create gives its id."""
    assert wire.read_task_id(ok(data)) == task_id


@pytest.mark.parametrize(
    "data",
    [
        None,
        ID,
        [],
        {},
        {"taskId": None},
        {"taskId": ""},
        {"taskId": " "},
        {"taskId": True},
        {"taskId": 1.5},
        {"taskId": {"id": ID}},
        {"taskId": "x" * 201},
        {"taskId": "half \ud800"},
    ],
)
def test_success_without_an_id(data: object) -> None:
    """Success without a usable id is malformed: there may be a paid task behind it."""
    with pytest.raises(MalformedReply, match="success without a task id"):
        wire.read_task_id(ok(data))


# --- Records ------------------------------------------------------------------------------------


def a_record(**changes: Any) -> dict[str, Any]:
    """The recorded shape (R, O), with changes."""
    return {
        "taskId": ID,
        "taskType": "mj_txt2img",
        "paramJson": json.dumps({"prompt": "a fox", "speed": "fast"}),
        "completeTime": 1760557532000,
        "resultInfoJson": {"resultUrls": [{"resultUrl": url} for url in URLS]},
        "successFlag": 1,
        "createTime": 1760557318000,
        "errorCode": None,
        "errorMessage": None,
        **changes,
    }


DONE = Record(
    task_id=ID,
    status=Status.SUCCEEDED,
    flag=1,
    urls=URLS,
    created_at=CREATED,
    completed_at=COMPLETED,
    task_type="mj_txt2img",
    params={"prompt": "a fox", "speed": "fast"},
)
FLAT = {
    "taskId": ID,
    "taskType": "mj_txt2img",
    "paramJson": {"prompt": "a fox", "speed": "fast"},
    "completeTime": "2025-10-15T19:45:32Z",
    "resultUrls": list(URLS),
    "successFlag": 1,
    "createTime": "2025-10-15T19:41:58.000Z",
}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(ok(a_record()), id="recorded"),
        pytest.param(reply(FLAT), id="the seed's flat shape"),
        pytest.param(ok(FLAT), id="flat, in an envelope"),
        pytest.param(reply({"data": FLAT}), id="data without a code"),
        pytest.param(reply({"code": "200", "data": a_record()}), id="code as text"),
        pytest.param(ok(json.dumps(a_record())), id="data as a JSON string"),
        pytest.param(
            ok(a_record(resultInfoJson=json.dumps({"resultUrls": list(URLS)}))),
            id="resultInfoJson as a JSON string",
        ),
        pytest.param(ok(a_record(resultInfoJson={"resultUrls": list(URLS)})), id="plain strings"),
        pytest.param(ok(a_record(resultInfoJson=list(URLS))), id="a bare list"),
        pytest.param(
            ok(a_record(resultInfoJson={"resultUrls": json.dumps(list(URLS))})),
            id="the list as a JSON string",
        ),
        pytest.param(
            ok(a_record(resultInfoJson=None, resultUrls=list(URLS))),
            id="links beside an empty info",
        ),
        pytest.param(ok(a_record(createTime=1760557318, completeTime="1760557532")), id="seconds"),
        pytest.param(
            ok(
                a_record(createTime="2025-10-15 19:41:58", completeTime="2025-10-16T03:45:32+08:00")
            ),
            id="ISO without a zone, and with one",
        ),
        pytest.param(ok(a_record(unheard="of")), id="with an unknown field"),
    ],
)
def test_every_shape_of_a_finished_record(answer: Reply) -> None:
    """Both documented shapes, and every mix of them, tell the same record."""
    assert wire.read_record(answer, ID) == DONE


@pytest.mark.parametrize(
    ("flag", "status"),
    [
        (0, Status.GENERATING),
        (1, Status.SUCCEEDED),
        (2, Status.FAILED),
        (3, Status.FAILED),
        (4, Status.UNKNOWN),
        (-1, Status.UNKNOWN),
        (None, Status.UNKNOWN),
        ("done", Status.UNKNOWN),
        (True, Status.UNKNOWN),
        (1.5, Status.UNKNOWN),
        ([1], Status.UNKNOWN),
    ],
)
def test_the_flag_is_the_status(flag: object, status: Status) -> None:
    """successFlag decides; an unknown value is no verdict, and is kept for the log."""
    found = wire.read_record(ok(a_record(successFlag=flag)), ID)
    assert (found.status, found.flag) == (status, flag)
    if isinstance(flag, int) and not isinstance(flag, bool):
        assert wire.read_record(ok(a_record(successFlag=str(flag))), ID).status is status


@pytest.mark.parametrize(
    "info",
    [None, "", "{}", {}, [], {"resultUrls": []}, {"resultUrls": [{}]}, "not JSON", "{broken"],
)
def test_success_without_links_is_no_verdict(info: object) -> None:
    """A success without any link is told apart: it has been met, and is worth another look."""
    found = wire.read_record(ok(a_record(resultInfoJson=info)), ID)
    assert (found.status, found.urls) == (Status.NO_LINKS, ())


def test_only_http_links_count() -> None:
    """Among the links, what is no http(s) URL is left out."""
    junk = [None, 5, "", "file:///etc/passwd", {"resultUrl": "x"}, {"url": URLS[1]}, URLS[0]]
    found = wire.read_record(ok(a_record(resultInfoJson={"resultUrls": junk})), ID)
    assert found.urls == (URLS[0],)


def test_a_generating_record() -> None:
    """While generating there is no completion and no info, and that is no error."""
    data = a_record(successFlag=0, completeTime=None, resultInfoJson=None)
    found = wire.read_record(ok(data), ID)
    assert (found.status, found.urls, found.completed_at) == (Status.GENERATING, (), None)


@pytest.mark.parametrize(("code", "kept"), [(501, "501"), ("501", "501"), (None, None), ("", None)])
def test_a_failed_record_tells_why(code: object, kept: str | None) -> None:
    """The service's code, a number or a text, and its words are kept."""
    data = a_record(successFlag=2, errorCode=code, errorMessage="sensitive words")
    found = wire.read_record(ok(data), ID)
    assert (found.status, found.error_code, found.error_message) == (
        Status.FAILED,
        kept,
        "sensitive words",
    )


@pytest.mark.parametrize(
    "answer",
    [
        reply({"code": 422, "msg": "recordInfo is null", "data": None}),
        reply({"code": 404, "msg": "not found", "data": None}),
        reply({"code": 400, "msg": "bad id", "data": None}),
        ok(None),
        reply({"code": 200}),
    ],
)
def test_an_unknown_task(answer: Reply) -> None:
    """422, 404 and an empty success all mean that there is no such task."""
    with pytest.raises(errors.NotFound):
        wire.read_record(answer, ID)


@pytest.mark.parametrize(
    "data",
    [[], "x", 5, {}, {"status": 1}, a_record(taskId="other"), a_record(taskId=["other"])],
)
def test_no_record_or_anothers(data: object) -> None:
    """What is no record, or that of another task, is refused with the id that was asked for."""
    with pytest.raises(MalformedReply, match=f"^task {ID}: ") as caught:
        wire.read_record(ok(data), ID)
    assert caught.value.task_id == ID


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (
            reply({"code": 401, "msg": "You do not have access permissions"}),
            errors.AuthenticationError,
        ),
        (reply({"code": 429, "msg": "slow"}), errors.RateLimited),
        (reply({"code": 500, "msg": "down"}), errors.ServerError),
        (reply(b"<html>", 502), errors.ServerError),
        (reply(FLAT, 503), errors.ServerError),
        (reply(b""), MalformedReply),
        (reply(b"[]"), MalformedReply),
    ],
)
def test_an_answer_that_is_no_record(answer: Reply, kind: type[KieError]) -> None:
    """Errors of the service pass through as themselves, whatever was asked."""
    with pytest.raises(kind):
        wire.read_record(answer, ID)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (1760557532000, COMPLETED),
        ("1760557532000", COMPLETED),
        (1760557532, COMPLETED),
        (1760557532000.5, COMPLETED + timedelta(microseconds=500)),
        ("2025-10-15T19:45:32Z", COMPLETED),
        (" 2025-10-15T19:45:32+00:00 ", COMPLETED),
        ("2025-10-15 19:45:32", COMPLETED),
        ("2025-10-16T03:45:32.000+08:00", COMPLETED),
        (0, None),
        (-5, None),
        ("0", None),
        ("", None),
        ("yesterday", None),
        (None, None),
        (True, None),
        ([], None),
        (1e300, None),
        (10**400, None),
        ("nan", None),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59.9999999Z", None),
    ],
)
def test_times_in_every_form(value: object, moment: datetime | None) -> None:
    """Milliseconds, seconds and ISO-8601 are UTC times; junk and "never" are no times."""
    found = wire.read_record(ok(a_record(completeTime=value)), ID)
    assert found.completed_at == moment
    assert moment is None or (found.completed_at and found.completed_at.tzinfo is UTC)


def test_words_that_no_file_could_hold() -> None:
    """Half characters in the service's words are replaced, so that they can be logged and kept."""
    data = a_record(successFlag=2, errorCode="\ud800", errorMessage="half \ud800")
    found = wire.read_record(ok(data), ID)
    assert found.error_message == "half ?"
    assert (found.error_code or "").encode()
    with pytest.raises(errors.ServerError) as caught:
        wire.read_data(reply({"code": 500, "msg": "half \ud800"}))
    assert "half ?" in trouble_of(caught.value).message


def test_nesting_up_to_the_limit_of_the_parser() -> None:
    """A record whose fields are nested as deep as can be parsed gives a value or a KieError."""
    for depth in (*range(100, 1100, 20), *range(900, 1000)):
        deep = b"[" * depth + b"]" * depth
        for template in (
            b'{"successFlag":1,"taskId":%s}',
            b'{"successFlag":%s,"taskId":null}',
            b'{"successFlag":1,"resultUrls":%s}',
            b'{"successFlag":1,"paramJson":"%s"}',
        ):
            try:
                wire.read_record(Reply(200, template % deep), ID)
            except KieError:
                continue


RECORDINGS = Path(__file__).parents[2] / "shared" / "recordings"


@pytest.mark.skipif(
    not RECORDINGS.is_dir(), reason="needs ../shared/recordings, not in this checkout"
)
def test_the_recordings() -> None:
    """Every real record-info body is read whole: four links, both times, its parameters."""
    paths = sorted(RECORDINGS.glob("record-info-*.json"))
    assert paths
    for path in paths:
        body = path.read_bytes()
        raw = json.loads(body)["data"]
        found = wire.read_record(Reply(200, body), raw["taskId"])
        assert found.status is Status.SUCCEEDED
        assert len(found.urls) == 4
        assert all(raw["taskId"] in url for url in found.urls)
        assert found.created_at is not None
        assert found.completed_at is not None
        taken = (found.completed_at - found.created_at).total_seconds()
        assert taken == (raw["completeTime"] - raw["createTime"]) / 1000
        assert 50 <= taken <= 260
        assert found.task_type == raw["taskType"] == found.params["taskType"]
        assert found.params["prompt"]
        assert (found.error_code, found.error_message) == (None, None)


@pytest.mark.parametrize(
    ("params", "task_type", "found"),
    [
        ({"prompt": "a fox", "version": "7", "extra": 1}, "mj_img2img", []),
        ({"prompt": "a fox", "version": "7"}, None, []),
        ({"prompt": "an owl", "version": "7"}, "mj_img2img", ["prompt is 'an owl', not 'a fox'"]),
        ({"prompt": "a fox"}, "mj_img2img", ["version is None, not '7'"]),
        (
            {"prompt": "a fox", "version": "7"},
            "mj_txt2img",
            ["taskType is mj_txt2img, not mj_img2img"],
        ),
    ],
)
@pytest.mark.parametrize("form", [{"fileUrl": IMAGE}, {"fileUrls": [IMAGE]}])
def test_how_a_record_differs_from_a_request(
    form: dict[str, Any], params: dict[str, Any], task_type: str | None, found: list[str]
) -> None:
    """A record is compared in what the request says; the callback is nobody's business."""
    wish = ImageToImage("a fox", image=IMAGE, version="7", callback_url="https://hook.example/x")
    record = Record(ID, Status.GENERATING, task_type=task_type, params={**form, **params})
    assert wire.differences(wish, record) == found


# --- Balance and links --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "left"), [(100, 100), (99.5, 99.5), ("12.25", 12.25), (0, 0), (-3, -3)]
)
def test_the_balance(data: object, left: float) -> None:
    """The credits left are a number, also when it comes as a text."""
    assert wire.read_credits(ok(data)) == left


@pytest.mark.parametrize("data", [None, "", "many", True, {}, [5], "nan", "inf"])
def test_no_balance(data: object) -> None:
    """What is no number is no balance."""
    with pytest.raises(MalformedReply, match="balance"):
        wire.read_credits(ok(data))


def test_a_fresh_link() -> None:
    """A minted link is a text with a URL."""
    assert wire.read_download_url(ok(URLS[0])) == URLS[0]


@pytest.mark.parametrize("data", [None, "", "soon", {"url": URLS[0]}, "javascript:alert(1)"])
def test_no_link(data: object) -> None:
    """What is no URL is no link."""
    with pytest.raises(MalformedReply, match="not a link"):
        wire.read_download_url(ok(data))


def test_a_foreign_link_is_refused() -> None:
    """422 for a link that the service does not know is InvalidRequest."""
    with pytest.raises(InvalidRequest, match="foreign") as caught:
        wire.read_download_url(reply({"code": 422, "msg": "foreign URL"}))
    assert caught.value.code == 422


# --- Expiry and Retry-After ---------------------------------------------------------------------


def test_expiry() -> None:
    """14 days after completion, else after creation, else from now."""
    days = timedelta(days=14)
    assert wire.expiry(CREATED, COMPLETED, NOW) == COMPLETED + days
    assert wire.expiry(CREATED, None, NOW) == CREATED + days
    assert wire.expiry(None, None, NOW) == NOW + days
    last = datetime.max.replace(tzinfo=UTC)
    assert wire.expiry(None, last, NOW) == last


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("5", 5),
        (" 2.5 ", 2.5),
        ("0", 0),
        ("-5", 0),
        ("99999999", 3600),
        ("Sun, 01 Nov 2026 00:00:30 GMT", 30),
        ("Sun, 01 Nov 2026 01:00:30 +0100", 30),
        ("Sun, 01 Nov 2015 00:00:00 GMT", 0),
        ("Sun, 01 Nov 2099 00:00:00 GMT", 3600),
        ("Sun, 01 Nov 2026 00:00:30 -0000", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    """A number of seconds or an HTTP date, never negative and never more than an hour."""
    assert wire.retry_after_seconds(header, NOW) == seconds


@settings(deadline=None)
@given(st.text())
def test_any_retry_after_is_seconds_or_nothing(header: str) -> None:
    """Whatever the header holds, it is a bounded wait or none."""
    found = wire.retry_after_seconds(header, datetime.now(timezone(timedelta(hours=3))))
    assert found is None or 0 <= found <= 3600


# --- Anything at all ----------------------------------------------------------------------------

READERS: dict[str, Callable[[Reply], object]] = {
    "read_data": wire.read_data,
    "read_task_id": wire.read_task_id,
    "read_record": lambda answer: wire.read_record(answer, ID),
    "read_credits": wire.read_credits,
    "read_download_url": wire.read_download_url,
    "envelope_code": wire.envelope_code,
}
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**400, -0.0, "1e400", "{", '{"resultUrls": 5}', "[[]]", "\ud800", URLS[0]])
)
JUNK = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["taskId", "successFlag", "resultUrls", "resultUrl", "data"]), inner
        )
    ),
    max_leaves=6,
)


def _check_all(answer: Reply) -> None:
    for read in READERS.values():
        try:
            found = read(answer)
        except KieError as error:
            str(error).encode()  # it can be logged and kept
            repr(error)
        else:
            if isinstance(found, Record):
                assert (found.status is Status.SUCCEEDED) <= bool(found.urls)
                for moment in (found.created_at, found.completed_at):
                    assert moment is None or datetime.fromtimestamp(moment.timestamp(), UTC)


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(100, 599))
def test_any_bytes_give_a_value_or_an_error_of_ours(body: bytes, status: int) -> None:
    """No body, whatever its bytes, raises anything but a KieError."""
    _check_all(Reply(status, body))


@settings(deadline=None)
@given(JUNK, st.sampled_from([200, 204, 302, 400, 404, 422, 429, 500, 502]))
def test_any_json_gives_a_value_or_an_error_of_ours(body: object, status: int) -> None:
    """No JSON, whatever its shape, raises anything but a KieError."""
    _check_all(reply(body, status))
    _check_all(ok(body))
    _check_all(reply({"code": body, "msg": body, "data": {"taskId": body}}, status))


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(st.sampled_from(sorted({*a_record(), "resultUrls"})), JUNK, max_size=4),
    st.booleans(),
)
def test_a_record_with_junk_in_it(changes: dict[str, Any], envelope: bool) -> None:
    """Junk in any field of a real record gives a record or a KieError, and harms no other field."""
    data = a_record(**changes)
    _check_all(ok(data) if envelope else reply(data))
    if "taskId" not in changes:
        found = wire.read_record(ok(data), ID)
        for name, field in {"createTime": "created_at", "completeTime": "completed_at"}.items():
            if name not in changes:
                assert getattr(found, field) == getattr(DONE, field)
        if not {"resultInfoJson", "resultUrls", "successFlag"} & changes.keys():
            assert (found.status, found.urls) == (Status.SUCCEEDED, URLS)
        if "paramJson" not in changes:
            assert found.params == DONE.params


def test_a_task_is_described_by_its_record() -> None:
    """A record tells a task's prompt and parameters by our names, without what was not asked for."""
    params = {
        "taskType": "mj_txt2img", "prompt": "a fox", "aspectRatio": "1:1", "speed": "fast",
        "motion": "high", "videoBatchSize": 1, "waterMark": "", "callBackUrl": "https://me.test/x",
        "version": None, "fileUrls": ["https://x.test/a.png", {"odd": 1}], "ow": 500,
        "deep": {"not": "kept"}, "huge": 1e999, "half": "\ud800",
    }  # fmt: skip
    record = Record(ID, Status.SUCCEEDED, task_type="mj_txt2img", params=params)
    told = wire.described(ExistingTask(ID), record)
    assert (told.task_id, told.prompt) == (ID, "a fox")
    assert told.params() == {
        "type": "TextToImage", "aspect_ratio": "1:1", "speed": "fast",
        "fileUrls": ["https://x.test/a.png"], "ow": 500, "half": "?",
    }  # fmt: skip
    json.dumps(told.to_dict()).encode()


def test_a_video_is_described_with_its_motion() -> None:
    """What only videos have is told of videos; an unknown type keeps the service's name."""
    params = {"prompt": 7, "motion": "low", "videoBatchSize": 2}
    record = Record(ID, Status.SUCCEEDED, task_type="mj_video_new", params=params)
    told = wire.described(ExistingTask(ID, prompt="known before"), record)
    assert told.prompt == "known before"
    assert told.params() == {"type": "mj_video_new", "motion": "low", "batch_size": 2}
    bare = wire.described(ExistingTask(ID), Record(ID, Status.SUCCEEDED))
    assert bare.params() == {"type": "unknown"}
