"""Records over the wire, in every shape; and that nothing that comes raises a foreign error."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async import errors
from kie_mj_async.errors import KieError, MalformedReply
from kie_mj_async.jobs import trouble_of
from kie_mj_async.rules import wire
from kie_mj_async.rules.wire import Record, Reply, Status

ID = "9f47c52047dda21bb3df0488736cce57"
URLS = tuple(f"https://tempfile.example/m/{ID}_0_{n}.jpeg" for n in range(4))
CREATED = datetime(2025, 10, 15, 19, 41, 58, tzinfo=UTC)
COMPLETED = datetime(2025, 10, 15, 19, 45, 32, tzinfo=UTC)


def reply(body: object, status: int = 200, retry_after: float | None = None) -> Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, raw, retry_after)


def ok(data: object) -> Reply:
    return reply({"code": 200, "msg": "success", "data": data})


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
