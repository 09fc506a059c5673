"""Every parser against whatever may come in: a value or the documented error, in bounded time."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from kie_mj_async.archive.inflate import Inflate
from kie_mj_async.errors import (
    ConfigError,
    InvalidRequest,
    KieError,
    LedgerError,
    WebhookError,
)
from kie_mj_async.ledger import rows
from kie_mj_async.requests import REQUEST_TYPES, request_from_dict
from kie_mj_async.rules import (
    callbacks,
    flags,
    lists,
    networks,
    objects,
    permutations,
    prompts,
    transfer,
    uploads,
    wire,
)
from kie_mj_async.rules import media as pictures
from kie_mj_async.rules.durations import Durations
from kie_mj_async.rules.making import Wishes, as_requests
from kie_mj_async.rules.prompts import Prompt
from kie_mj_async.simulator import Faults, ranges
from kie_mj_async.steps import Step

NOW = datetime(2026, 3, 1, tzinfo=UTC)
QUICK, LONG = 40, 250
LONGEST = 2.0
"""Seconds that no single input may take, on a busy machine."""

Parse = Callable[[Any], object]


def woven(*words: str) -> SearchStrategy[str]:
    """Texts of a language's own words, with anything between them."""
    return st.lists(st.sampled_from(words) | st.text(max_size=6), max_size=24).map("".join)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
NAMES = st.sampled_from(
    [
        "code",
        "msg",
        "data",
        "taskId",
        "task_id",
        "successFlag",
        "resultInfoJson",
        "resultUrls",
        "resultUrl",
        "createTime",
        "completeTime",
        "paramJson",
        "errorCode",
        "errorMessage",
        "downloadUrl",
        "fileUrl",
        "type",
        "prompt",
        "image",
        "images",
        "task_id",
        "index",
        "then",
        "version",
        "speed",
        "aspect_ratio",
        "stylization",
        "seconds",
        "classes",
    ]
)
KNOWN = st.sampled_from(
    [
        "200",
        200,
        "https://files.test/a.png",
        "http://[::1",
        "{}",
        "[" * 2000,
        '{"resultUrls":[1]}',
        "0001-01-01",
        "9999-12-31T23:59:59-23:59",
        1e308,
        -1,
        10**30,
        "\ud800",
        *REQUEST_TYPES,
    ]
)
JSONS = st.recursive(
    LEAVES | KNOWN,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=12,
)


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def deep(before: str = "", after: str = "") -> SearchStrategy[bytes]:
    """JSON that nests about as deep as Python lets it, or far deeper."""
    depths = st.integers(300, 1100) | st.just(200_000)
    return st.tuples(depths, st.sampled_from(["[]", "{}"])).map(
        lambda drawn: (
            before
            + (drawn[1][0] if drawn[1] == "[]" else '{"a":') * drawn[0]
            + ("" if drawn[1] == "[]" else "1")
            + drawn[1][1] * drawn[0]
            + after
        ).encode()
    )


BODIES = (
    st.binary(max_size=80)
    | JSONS.map(encoded)
    | st.fixed_dictionaries({"code": st.just(200) | JSONS, "data": JSONS}).map(encoded)
    | deep()
    | deep('{"code":200,"data":{"successFlag":1,"taskId":', "}}")
    | deep('{"code":', "}")
    | st.just(b'{"code":200,"data":' + b"9" * 5000 + b"}")
)
REPLIES = st.builds(wire.Reply, st.sampled_from([200, 204, 301, 404, 422, 429, 500]), BODIES)
PROMPTS = woven(
    " --ar ",
    "16:9",
    " --v ",
    "7",
    " --niji 6",
    " \u2014fast",
    " \u2014ar",
    '"',
    "\u201c",
    "{",
    "}",
    ",",
    "\\",
    " --no ",
    "--",
    " --s ",
    "99999999999",
    "\ud800",
    "\0",
    "\u2028",
    " ",
    "a fox",
)
LINES = st.lists(
    st.binary(max_size=30)
    | PROMPTS.map(lambda text: text.encode(errors="surrogatepass"))
    | st.dictionaries(NAMES, JSONS, max_size=4).map(encoded)
    | deep('{"prompt":', "}")
    | st.sampled_from(
        [b"prompt,ar,v\n", b"\xef\xbb\xbfprompt;then\n", b'"', b"\r", b'a,"b"c\n', b"#"]
    ),
    max_size=5,
)
DATES = woven(
    "Mon, ",
    "01 ",
    "Jan ",
    "2024 ",
    "10:00:00",
    " GMT",
    "-9999",
    "+99999999999",
    "(",
    ")",
    ":",
    "99",
    "Mon, 01 Jan 2024 10:00:00 GMT",
    "Fri, 31 Dec 9999 23:59:59 -2359",
    "1e999",
    "nan",
    "-5",
)
RANGES = woven("bytes", " ", "=", "0", "-", "5", "/", "*", "10", "9" * 5000, "\u0663", ",")
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "ETag",
            "Last-Modified",
            "Date",
            "Content-Range",
            "Content-Length",
            "Content-Encoding",
            "Accept-Ranges",
            callbacks.TIMESTAMP,
            callbacks.SIGNATURE,
            callbacks.SIGNATURE.lower(),
        ]
    ),
    DATES | RANGES | woven('"', "W/", "gzip", "none", "1772323200", "\ud800"),
)
HAVE = transfer.Checkpoint("https://f.test/a", transfer.Validator('"a"'), 10, 5, "0" * 64)
HEADS = st.tuples(
    st.sampled_from(
        [
            b"",
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"RIFF\xff\xff\xff\xffWEBP",
            b"GIF89a",
            b"II*\0",
            b"\0\0\0\x18ftypqt  ",
            b"\0\0\0\0ftypisom",
            b"\x1a\x45\xdf\xa3",
            b"%PDF-",
            b"<svg",
        ]
    ),
    st.lists(
        st.binary(max_size=40)
        | st.sampled_from(
            [
                b"\xff\xc0\0\0",
                b"\xff\xff\xff",
                b"VP8 ",
                b"VP8L",
                b"VP8X",
                b"\0\0\0\0moov",
                b"tkhd",
                b"\0\0\0\1mdat",
                b"\xff" * 16,
                bytes(70),
            ]
        ),
        max_size=6,
    ).map(b"".join),
).map(b"".join)


def each(values: Iterable[object]) -> int:
    """Read to the end."""
    return sum(1 for _ in values)


def checkpoint(text: str) -> None:
    found = transfer.Checkpoint.from_json(text)
    assert found is None or transfer.Checkpoint.from_json(found.to_json()) == found


def made(text: str) -> None:
    each(as_requests(Prompt(text, "list.txt", 1), Wishes(prefix="x", suffix="y --v 7", cap=50)))


def unpacked(data: bytes) -> None:
    assert all(len(piece) <= 1 << 20 for piece in Inflate().feed(data))


def step(text: str) -> None:
    found = Step.parse(text)
    assert Step.parse(str(found)) == found


def request(data: dict[str, Any]) -> None:
    found = request_from_dict(data)
    assert request_from_dict(json.loads(json.dumps(found.to_dict()))) == found


def private(host: str) -> None:
    assert isinstance(networks.is_private_host(host), bool)


def head(content: bytes) -> None:
    pictures.inspect(content, content[-64:], len(content))
    uploads.picture(content, content[-64:], len(content))


def row_of(drawn: dict[str, Any]) -> Any:
    base: dict[str, Any] = dict.fromkeys(
        [
            "key",
            "state",
            "seq",
            "task_id",
            "attempts",
            "price",
            "credits",
            "submitted_at",
            "created_at",
            "completed_at",
            "expires_at",
            "trouble",
        ]
    )
    request = '{"type":"TextToImage","prompt":"a fox"}'
    return {**base, "state": "planned", "request": request, "urls": "[]", "files": "[]", **drawn}


ROWS = st.dictionaries(
    st.sampled_from(
        ["state", "request", "urls", "files", "trouble", "created_at", "expires_at", "task_id"]
    ),
    LEAVES | JSONS.map(json.dumps) | BODIES.map(lambda body: body.decode(errors="replace")),
    max_size=3,
).map(row_of)

PARSERS: dict[str, tuple[Parse, SearchStrategy[Any], tuple[type[Exception], ...]]] = {
    "wire data": (wire.read_data, REPLIES, (KieError,)),
    "wire task id": (wire.read_task_id, REPLIES, (KieError,)),
    "wire record": (lambda it: wire.read_record(it, "t"), REPLIES, (KieError,)),
    "wire credits": (wire.read_credits, REPLIES, (KieError,)),
    "wire link": (wire.read_download_url, REPLIES, (KieError,)),
    "wire upload": (uploads.read_upload, REPLIES, (KieError,)),
    "upload's end": (lambda it: uploads.judge(it, "a.png"), REPLIES, ()),
    "envelope code": (wire.envelope_code, REPLIES, ()),
    "retry-after": (lambda it: wire.retry_after_seconds(it, NOW), DATES, ()),
    "callback": (callbacks.parse, BODIES, (WebhookError,)),
    "signed callback": (
        lambda it: callbacks.verify(it[0], it[1], "key", 1772323200.0),
        st.tuples(BODIES, HEADERS),
        (WebhookError,),
    ),
    "callback's token": (callbacks.tokens_of, woven("?", "&", "kmj=", "a" * 32, "#"), ()),
    "flags": (flags.split_flags, PROMPTS, (InvalidRequest,)),
    "flags apart": (lambda it: "".join(flags.parts(it)), PROMPTS, ()),
    "braces": (lambda it: each(permutations.expand(it, 50)), PROMPTS, (InvalidRequest,)),
    "prompt": (made, PROMPTS, (InvalidRequest,)),
    "lines": (lambda it: each(prompts.parse_lines(it, "x")), LINES, (InvalidRequest,)),
    "task ids": (lambda it: each(prompts.parse_task_ids(it, "x")), LINES, (InvalidRequest,)),
    "csv": (lambda it: each(lists.csv_rows(it, "x")), LINES, (InvalidRequest,)),
    "jsonl": (lambda it: each(lists.jsonl_rows(it, "x")), LINES, (InvalidRequest,)),
    "step": (
        step,
        woven("upscale", "video-hd", ":", "0", ",", " ", "9" * 5000, "\n"),
        (InvalidRequest,),
    ),
    "request": (request, st.dictionaries(NAMES, JSONS, max_size=5), (InvalidRequest,)),
    "ledger row": (rows.job_from_row, ROWS, (LedgerError,)),
    "content range": (transfer.content_range, RANGES | woven("bytes 0-4/5"), ()),
    "transfer's answer": (
        lambda it: (
            transfer.judge(206, it, HAVE),
            transfer.Source.of("https://f.test/a", it),
            transfer.total_of(it),
        ),
        HEADERS,
        (),
    ),
    "checkpoint": (
        checkpoint,
        JSONS.map(json.dumps) | BODIES.map(lambda it: it.decode(errors="replace")),
        (),
    ),
    "picture": (head, HEADS, ()),
    "packed": (
        unpacked,
        st.binary(max_size=60).map(lambda it: zlib.compress(it)[: len(it)]),
        (zlib.error,),
    ),
    "host": (
        private,
        woven("127", ".", "0x", "::", "%", "localhost", "[", "ffff:", "1" * 5000),
        (),
    ),
    "address": (networks.is_private, woven("127", ".", "::", "%eth0", "ffff", "/8"), (ValueError,)),
    "store": (
        objects.parse,
        woven("s3", "://", "az", "@", ":", "/", "?", "a", "..", "\0"),
        (ConfigError,),
    ),
    "store's trouble": (
        lambda it: objects.explain("X", it),
        st.text() | woven("<Code>", "status: ", "404"),
        (),
    ),
    "kept image": (uploads.name_of, woven("input:", "a" * 64, ".png", "/", ".."), ()),
    "faults": (
        Faults.parse,
        woven("create.", "500", "=", "#", "3", "+", "5%", ",", "nan", "9" * 5000),
        (ValueError,),
    ),
    "asked range": (
        lambda it: ranges.part(it, None, "e", "m", 10),
        RANGES.map("bytes=".__add__),
        (ranges.Unsatisfiable,),
    ),
    "durations": (lambda it: Durations.from_dict(it).kinds(), JSONS, ()),
}


def hammered(name: str, examples: int) -> None:
    parse, inputs, allowed = PARSERS[name]

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def one(value: Any) -> None:
        began = time.thread_time()
        try:
            parse(value)
        except allowed as error:
            words = str(error)
            words.encode()
        assert time.thread_time() - began < LONGEST

    one()


@pytest.mark.parametrize("name", PARSERS)
def test_whatever_comes_in_is_read_or_refused(name: str) -> None:
    """A parser gives a value or raises its documented error, soon, whose words can be written."""
    hammered(name, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.usefixtures("untraced")
def test_whatever_comes_in_is_read_or_refused_at_length(name: str) -> None:
    """The same, for long."""
    hammered(name, LONG)


@pytest.mark.parametrize("kind", ["[", '{"a":'])
def test_json_of_any_depth_is_read_or_refused(kind: str) -> None:
    """Also where it is just not too deep to be read, and too deep to be shown in a message."""
    for depth in range(900, 1000):
        nest = kind * depth + ("]" * depth if kind == "[" else "1" + "}" * depth)
        for line in (nest, f'{{"prompt":{nest}}}', f'{{"prompt":"a","version":{nest}}}'):
            with pytest.raises(InvalidRequest):
                each(lists.jsonl_rows([line.encode()], "x"))
        with pytest.raises(LedgerError):
            rows.job_from_row(row_of({"trouble": nest}))
        with pytest.raises(LedgerError):
            rows.job_from_row(row_of({"request": nest}))
