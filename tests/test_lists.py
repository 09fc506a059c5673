"""Prompt lists with fields: CSV and JSONL."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.errors import InvalidRequest
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules.lists import FIELDS, Format, format_of, read_rows
from kie_mj_async.rules.prompts import Prompt

FORMATS: tuple[Format, ...] = ("text", "csv", "jsonl")


def read(data: bytes | str, form: Format, **options: Any) -> list[Prompt]:
    raw = data.encode() if isinstance(data, str) else data
    return list(read_rows(io.BytesIO(raw), f"list.{form}", form, **options))


def refused(data: bytes | str, form: Format, **options: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(data, form, **options)
    return caught.value


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.csv", "csv"),
        ("a.TSV", "csv"),
        ("dir.csv/a.jsonl", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("a.txt", "text"),
        ("csv", "text"),
        ("-", "text"),
    ],
)
def test_the_suffix_tells_the_format(name: str, form: Format) -> None:
    """CSV and JSONL by their suffix, whatever its case; everything else is lines."""
    assert format_of(name) == form


def test_lines_are_rows_without_fields() -> None:
    """A plain list reads as it always did."""
    rows = read("a fox\n# note\n\nan owl\n", "text")
    assert rows == [Prompt("a fox", "list.text", 1), Prompt("an owl", "list.text", 4)]
    assert rows[1].place == "list.text:4"


def test_a_table() -> None:
    """A column per field, typed; a blank cell or row gives nothing, a quoted cell keeps its commas."""
    rows = read(
        "prompt,speed,stylization,translate,images\r\n"
        '"a fox, ""red""",Fast,500,TRUE,a.png | https://b.example/b.png\r\n'
        "\r\n"
        ",,,,\r\n"
        " an owl , ,,no\r\n",
        "csv",
    )
    assert [(row.text, row.line, row.fields) for row in rows] == [
        (
            'a fox, "red"',
            2,
            {
                "speed": "Fast",
                "stylization": 500,
                "translate": True,
                "images": ["a.png", "https://b.example/b.png"],
            },
        ),
        ("an owl", 5, {"translate": False}),
    ]


def test_line_breaks_in_cells_keep_the_count_of_lines() -> None:
    """A row's line is the one it begins on, also after cells of many lines and blank lines."""
    rows = read('\n\nprompt\n"a fox\n\nin snow"\n"an owl\nin rain"\n\nhare\n', "csv")
    assert [(row.text, row.line) for row in rows] == [
        ("a fox\n\nin snow", 4),
        ("an owl\nin rain", 7),
        ("hare", 10),
    ]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_as_spreadsheets_save_them(mark: str, bom: bytes, end: str) -> None:
    """Commas, semicolons or tabs, with or without a byte order mark, and a nameless last column."""
    text = end.join(
        mark.join(cells) for cells in [("prompt", "ar", ""), ("a fox", "16:09:00", ""), ("owl",)]
    )
    rows = read(bom + text.encode(), "csv")
    assert [(row.text, row.fields) for row in rows] == [
        ("a fox", {"aspect_ratio": "16:9"}),
        ("owl", {}),
    ]


def test_objects() -> None:
    """One object a line with the types of JSON; null gives nothing; comments and blanks are skipped."""
    rows = read(
        b"\xef\xbb\xbf# from the web app\r\n"
        b'{"prompt": " a fox ", "version": 6.1, "hd": true, "speed": null}\r\n\r\n'
        b'  {"then": ["upscale:0,2"], "prompt": "an owl", "weirdness": 0, "version": 7}',
        "jsonl",
    )
    assert [(row.text, row.line, row.fields) for row in rows] == [
        ("a fox", 2, {"version": 6.1, "hd": True}),
        ("an owl", 4, {"then": ["upscale:0,2"], "weirdness": 0, "version": 7}),
    ]


@pytest.mark.parametrize(
    ("column", "field", "value"),
    [
        ("aspectRatio", "aspect_ratio", "1:1"),
        ("--aspect-ratio", "aspect_ratio", "1:1"),
        ("Aspect Ratio", "aspect_ratio", "1:1"),
        ("ar", "aspect_ratio", "1:1"),
        ("--model", "version", "7"),
        ("v", "version", "7"),
        ("stylize", "stylization", 5),
        ("--s", "stylization", 5),
        ("weird", "weirdness", 5),
        ("chaos", "variety", 5),
        ("--c", "variety", 5),
        ("ow", "omni_weight", 5),
        ("videoBatchSize", "batch_size", 2),
        ("fileUrl", "image", "https://a.example/a.png"),
        ("fileUrls", "images", ["https://a.example/a.png"]),
        ("enableTranslation", "translate", True),
        ("waterMark", "watermark", "me"),
        ("callBackUrl", "callback_url", "https://a.example"),
        ("taskType", "task_type", "mj_video"),
    ],
)
def test_columns_go_by_all_their_names(column: str, field: str, value: Any) -> None:
    """Our names, the API's, and those of flags and options name the same fields."""
    cell = "|".join(value) if isinstance(value, list) else str(value)
    (row,) = read(f"prompt,{column}\na fox,{cell}", "csv")
    assert (row.fields, row.columns) == ({field: value}, {field: column})
    (row,) = read(json.dumps({"PROMPT": "a fox", column: value}), "jsonl")
    assert (row.fields, row.columns) == ({field: value}, {field: column})


@pytest.mark.parametrize(
    ("data", "message", "field"),
    [
        ("prompt,s\na fox,\nan owl,many", "list.csv:3: s: 'many' is not allowed", "stylization"),
        ("prompt,s\na fox,2.5", "list.csv:2: s: '2.5' is not allowed", "stylization"),
        ("prompt,c\na," + "9" * 5000, "list.csv:2: c: '999", "variety"),
        ("prompt,hd\na fox,maybe", "list.csv:2: hd: 'maybe' is not allowed; use true or false", "hd"),
        ("prompt,asp-ratio\na,1:1", "list.csv:1: 'asp-ratio' is no field of this list", "prompt"),
        ("a red fox\nan owl", "list.csv:1: 'a red fox' is no field of this list; use", "prompt"),
        ("prompt,ar,aspect\na,1:1,", "list.csv:1: ar and aspect both give aspect_ratio", "aspect_ratio"),
        ("ar,s\n1:1,5", "list.csv:1: prompt is missing", "prompt"),
        ("ar,prompt\n1:1,", "list.csv:2: prompt: blank", "prompt"),
        ("prompt,ar\na fox, red,1:1", "list.csv:2: column 3: '1:1' stands under no name", "prompt"),
        ("prompt,\na fox,red", "list.csv:2: column 2: 'red' stands under no name", "prompt"),
        ('prompt\na\n"b\nc\n', "list.csv:3: not CSV: a double quote that opens a cell", "prompt"),
        ('prompt\n"a"b', "list.csv:2: not CSV: ',' expected", "prompt"),
        ("prompt\na\rb\n", "list.csv:2: not CSV: a carriage return", "prompt"),
        ("prompt\n" + "a" * 200_000, "list.csv:2: not CSV: field larger", "prompt"),
        (b"prompt\na\ncaf\xe9\n", "list.csv:3: not UTF-8 (byte 0xe9 at position 4)", "prompt"),
        (b"\xff\xfep\x00", "list.csv:1: not UTF-8", "prompt"),
        ("", "list.csv: no prompts in it; write a header", "prompt"),
        ("\n \n", "list.csv: no prompts in it", "prompt"),
        ("prompt,ar\n,\n", "list.csv: no prompts in it", "prompt"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table(data: str | bytes, message: str, field: str) -> None:
    """An error names the file, the line, and the column as the table calls it (law 8)."""
    error = refused(data, "csv")
    assert str(error).startswith(message)
    assert (error.field, len(str(error)) < 300) == (field, True)


@pytest.mark.parametrize(
    ("data", "message", "field"),
    [
        ('{"prompt": "a"}\n{"prompt": "a", "s": "5"}', "list.jsonl:2: s: '5' is not", "stylization"),
        ('{"prompt": "a", "s": 5.0}', "list.jsonl:1: s: 5.0 is not allowed", "stylization"),
        ('{"prompt": "a", "c": true}', "list.jsonl:1: c: True is not allowed", "variety"),
        ('{"prompt": "a", "hd": "true"}', "list.jsonl:1: hd: 'true' is not allowed; use true", "hd"),
        ('{"prompt": "a", "images": "b"}', "list.jsonl:1: images: 'b' is not allowed", "images"),
        ('{"prompt": "a", "images": [1]}', "list.jsonl:1: images: [1] is not allowed", "images"),
        ('{"prompt": "a", "ar": {"w": 1}}', "list.jsonl:1: ar: ", "aspect_ratio"),
        ('{"prompt": "a", "v": true}', "list.jsonl:1: v: True is not allowed; use a text", "version"),
        ('{"prompt": 5}', "list.jsonl:1: prompt: 5 is not allowed; use a text", "prompt"),
        ('{"prompt": null}', "list.jsonl:1: prompt: blank", "prompt"),
        ('{"prompt": " "}', "list.jsonl:1: prompt: blank", "prompt"),
        ('{"speed": "fast"}', "list.jsonl:1: prompt is missing", "prompt"),
        ('{"prompt": "a", "": 1}', "list.jsonl:1: '' is no field", "prompt"),
        ('{"prompt": "a", "motoin": "low"}', "list.jsonl:1: 'motoin' is no field", "prompt"),
        ('{"prompt": "a", "prompt": "b"}', "list.jsonl:1: prompt and prompt both give prompt", "prompt"),
        ('{"prompt": a}\r\n', "list.jsonl:1:12: not JSON: ", "prompt"),
        ("{\n", "list.jsonl:1:", "prompt"),
        ('["a"]', "list.jsonl:1: ['a'] is no object", "prompt"),
        ("[" * 100_000, "list.jsonl:1: JSON that nests too deep", "prompt"),
        ("9" * 5000, "list.jsonl:1: JSON that nests too deep, or has too long a number", "prompt"),
        (b'{"prompt": "a"}\n# caf\xe9', "list.jsonl:2: not UTF-8", "prompt"),
        ("# nothing\n", "list.jsonl: no prompts in it; write one object a line", "prompt"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_objects(data: str | bytes, message: str, field: str) -> None:
    """An error names the file, the line, and the name as the object spells it (law 8)."""
    error = refused(data, "jsonl")
    assert str(error).startswith(message)
    assert (error.field, len(str(error)) < 300) == (field, True)


def test_only_allowed_fields() -> None:
    """What a row may have is the caller's to say; the prompt always may. Slips get advice."""
    advice = str(refused("prompt,asp-ratio\na,1:1", "csv"))
    assert advice.endswith("did you mean aspect_ratio?")
    assert read("prompt,ar\na,1:1", "csv", allowed=["aspect_ratio"])[0].fields
    error = refused("prompt,motion\na,low", "csv", allowed=["aspect_ratio"])
    assert "'motion' is no field of this list; use prompt, aspect_ratio" in str(error)
    assert "prompt" not in FIELDS


def test_a_requests_error_gets_its_place() -> None:
    """What a request refuses is told with the row's place, and the column where it differs."""
    (row,) = read("prompt,ar,speed\n\na fox,1:7,warp", "csv")
    with pytest.raises(InvalidRequest) as caught:
        TextToImage("a fox", aspect_ratio=row.fields["aspect_ratio"])
    told = row.located(caught.value)
    assert str(told).startswith("list.csv:3: ar: aspect_ratio: '1:7' is not allowed; use one of")
    assert (told.field, told.value) == ("aspect_ratio", "1:7")
    with pytest.raises(InvalidRequest) as caught:
        TextToImage("a fox", speed=row.fields["speed"])
    assert str(row.located(caught.value)).startswith("list.csv:3: speed: 'warp' is not allowed")
    assert str(row.located(InvalidRequest("no"))) == "list.csv:3: no"


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_list_is_read_as_it_goes(form: Format) -> None:
    """Rows come out one by one: an endless list is not read to its end first (law 6)."""

    def endless() -> Any:
        yield b"prompt\n" if form == "csv" else b"# endless\n"
        while True:
            yield b"a fox\n" if form == "csv" else b'{"prompt": "a fox"}\n'

    rows = read_rows(endless(), "list", form)
    assert [next(rows).line for _ in range(3)] == [2, 3, 4]


TEXTS = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
    .map(str.strip)
    .filter(bool)
)
FIELDS_OF_ROWS = st.fixed_dictionaries(
    {},
    optional={
        "stylization": st.integers(0, 1000),
        "translate": st.booleans(),
        "speed": st.sampled_from(["fast", "relaxed"]),
        "aspect_ratio": st.sampled_from(["16:9", "1:1", "9:16"]),
        "watermark": TEXTS,
        "images": st.lists(TEXTS.filter(lambda one: "|" not in one), min_size=1, max_size=2),
    },
)
ROWS = st.lists(st.tuples(TEXTS, FIELDS_OF_ROWS), min_size=1, max_size=5)


@settings(deadline=None)
@given(ROWS, st.sampled_from([",", ";", "\t"]))
def test_a_table_that_was_written_reads_the_same(rows: list[Any], mark: str) -> None:
    """Any texts, with commas, quotes and line breaks in them, come back as they were."""
    columns = ["prompt", "stylization", "translate", "speed", "aspect_ratio", "watermark", "images"]
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns, delimiter=mark)
    writer.writeheader()
    for text, fields in rows:
        images = "|".join(fields.get("images", []))
        writer.writerow({"prompt": text, **fields, "images": images})
    found = read(file.getvalue(), "csv")
    assert [(row.text, row.fields) for row in found] == rows
    starts = [row.line for row in found]
    assert starts == sorted(set(starts))


@settings(deadline=None)
@given(ROWS, st.booleans())
def test_objects_that_were_written_read_the_same(rows: list[Any], plain: bool) -> None:
    """Any texts come back as they were, escaped or not."""
    lines = [json.dumps({**f, "prompt": text}, ensure_ascii=plain) for text, f in rows]
    found = read("\n".join(lines), "jsonl")
    assert [(row.text, row.fields) for row in found] == rows
    assert [row.line for row in found] == list(range(1, len(rows) + 1))


SCRAPS = st.lists(
    st.sampled_from(
        [
            *(
                b"prompt",
                b"ar",
                b",",
                b";",
                b"\t",
                b'"',
                b"\n",
                b"\r",
                b"\r\n",
                b"a",
                b" ",
                b"\xff",
            ),
            *(b"\xef\xbb\xbf", b"\x00", b"{", b"}", b":", b'"prompt"', b"[", b"1", b"null", b"#"),
        ]
    ),
    max_size=20,
).map(b"".join)


@settings(deadline=None, max_examples=300)
@given(SCRAPS | st.binary(max_size=40), st.sampled_from(FORMATS))
def test_any_bytes_give_rows_or_a_refusal(data: bytes, form: Format) -> None:
    """Whatever a file holds, it has rows with prompts, or InvalidRequest says why not."""
    rows, told = [], ""
    try:
        rows = read(data, form)
    except InvalidRequest as error:
        told = str(error)
    assert rows or told.startswith(f"list.{form}:")
    assert all(row.text.strip() and row.line >= 1 for row in rows)
