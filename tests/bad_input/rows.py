"""Files of posts and comparisons: (content of the file, what is said of it)."""

import gzip
import json

KINDS = {  # name for readers -> a value of it
    "null": None,
    "a whole number": 3,
    "a fraction": 1.5,
    "true or false": True,
    "a list": [],
    "an object": {},
    "text": "x",
}
HALF, LONG = "half \ud83d", "x" * 100_001
POST = {"id": "p1", "subreddit": "s", "title": "t", "post": "text", "summary": "short"}
INFO = {"id": "p1", "subreddit": "s", "title": "t", "post": "text"}
COMPARISON = {
    "info": INFO,
    "summaries": [{"text": " a", "policy": "sup4"}, {"text": " b", "policy": "ref"}],
    "choice": 1,
    "worker": "w",
    "batch": "batch3",
    "split": "train",
    "extra": {"confidence": 5},
}


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def without(row: dict, name: str) -> dict:
    return {field: value for field, value in row.items() if field != name}


def other_kinds(wanted: str) -> list[tuple[str, object]]:
    return [(kind, value) for kind, value in KINDS.items() if kind != wanted]


def wrong_kinds(change, field: str, wanted: str) -> list[tuple[bytes, str]]:
    """A field with each kind of value that it must not have; `change(value)` is the row."""
    return [
        (lines(change(value)), f"line 1: field '{field}' is {kind}; it must be {wanted}")
        for kind, value in other_kinds(wanted)
    ]


def wrong_texts(change, field: str, blank: bool) -> list[tuple[bytes, str]]:
    """A text that no tokenizer can take, one too long and, where a field has to say something, a blank one."""
    cases = [
        (lines(change(HALF)), f"line 1: field '{field}' has half a surrogate pair; it must be valid Unicode"),
        (lines(change(LONG)), f"line 1: field '{field}' has 100,001 characters; it must have at most 100,000"),
    ]
    return cases + [(lines(change(" \n")), f"line 1: field '{field}' is blank; it must say something")] * blank


# What is wrong with a file whatever its rows are about; each comes as the whole file, before any field is looked at.
ANY = [
    (b"", "the file is empty; one JSON object a line is needed"),
    (b"\n \n\r\n\t\n", "the file is empty"),
    (b"\xef\xbb\xbf", r"line 1: not JSON \(Expecting value at column 1\); each line must be one JSON object"),
    (b"null\n", "line 1: the line is null; each line must be one JSON object"),
    (b"3\n", "line 1: the line is a whole number"),
    (b"1.5\n", "line 1: the line is a fraction"),
    (b"true\n", "line 1: the line is true or false"),
    (b'"text"\n', "line 1: the line is text"),
    (b"[{}]\n", "line 1: the line is a list"),
    (b"{\n", r"line 1: not JSON \(Expecting property name enclosed in double quotes"),
    (b"{}}\n", r"line 1: not JSON \(Extra data at column 3\)"),
    (b"{'id': 1}\n", r"line 1: not JSON \(Expecting property name enclosed in double quotes at column 2\)"),
    (b'{"id": "a" "b"}\n', r"line 1: not JSON \(Expecting ',' delimiter at column 12\)"),
    (b'{"id": "a\tb"}\n', r"line 1: not JSON \(Invalid control character"),
    (b'{"id": "a\\q"}\n', r"line 1: not JSON \(Invalid \\escape"),
    (b'{"id": NaN}\n', r"line 1: not JSON \(NaN is no number of JSON\)"),
    (b'{"id": Infinity}\n', r"line 1: not JSON \(Infinity is no number of JSON\)"),
    (b'{"id": -Infinity}\n', r"line 1: not JSON \(-Infinity is no number of JSON\)"),
    (b'{"id": 1e999}\n', r"line 1: not JSON \(1e999 is no number of JSON\)"),
    (b'{"id": ' + b"9" * 5_000 + b"}\n", r"line 1: not JSON \(Exceeds the limit"),
    (b"[" * 100_000 + b"\n", r"line 1: not JSON \(it is nested too deeply\)"),
    (b'{"a":' * 100_000 + b"\n", r"line 1: not JSON \(it is nested too deeply\)"),
    (b'{"id": "\xff"}\n', r"line 1: not JSON \('utf-8' codec can't decode byte 0xff in position 8"),
    (b'{"id": "\xed\xa0\x80"}\n', r"line 1: not JSON \('utf-8' codec can't decode"),
    (b'{"id": "\x00"}\n', r"line 1: not JSON \(it is binary, or UTF-16; UTF-8 is needed\)"),
    (b"\x00" * 1_000, r"line 1: not JSON \(it is binary, or UTF-16"),
    ('{"id": "a"}\n'.encode("utf-16"), r"line 1: not JSON \(it is binary, or UTF-16"),
    ('{"id": "a"}\n'.encode("utf-16-be"), r"line 1: not JSON \(it is binary, or UTF-16"),
    ('{"id": "a"}\n'.encode("utf-32"), r"line 1: not JSON \(it is binary, or UTF-16"),
    (gzip.compress(b"{}"), r"line 1: not JSON \("),
    (b"PK\x03\x04" + b"\x00" * 40, r"line 1: not JSON \(it is binary"),
    (b"id,subreddit,title\n", r"line 1: not JSON \(Expecting value at column 1\)"),
    (b"<html></html>\n", r"line 1: not JSON \(Expecting value at column 1\)"),
    (b"\x1b[31m\n", r"line 1: not JSON \(Expecting value at column 1\)"),
    (b'{"id": "' + b"x" * 10_000_000 + b'"}\n', "line 1: the line is longer than 1,000,000 bytes"),
    (b"x" * 10_000_000, "line 1: the line is longer than 1,000,000 bytes"),
    (b"\r\n\r\n{}}\r\n", "line 3: not JSON"),
]

POSTS = [
    *(
        (lines(without(POST, name)), f"line 1: field '{name}' is missing; it must be text")
        for name in ("id", "subreddit", "title", "post", "summary")
    ),
    *(
        case
        for name in ("id", "subreddit", "title", "post", "summary")
        for case in wrong_kinds(lambda value, name=name: POST | {name: value}, name, "text")
        + wrong_texts(lambda value, name=name: POST | {name: value}, name, blank=name in ("id", "summary"))
    ),
    (lines(POST | {"id": ""}), "line 1: field 'id' is blank"),
    (lines(POST | {"summary": ""}), "line 1: field 'summary' is blank"),
    (lines({}), "line 1: field 'id' is missing"),
    (lines(POST, POST | {"id": "p2", "title": None}), "line 2: field 'title' is null"),
    (lines(POST) + b"\n\n" + lines(POST | {"id": "p2", "title": 3}), "line 4: field 'title' is a whole number"),
    (lines(POST, POST), r"posts.jsonl, line 2: the id 'p1' is in .*posts.jsonl, line 1 too; give each once"),
    (lines(POST, POST | {"id": "p2"}, POST | {"title": "other"}), "line 3: the id 'p1' is in .*line 1 too"),
    (lines(POST) + b"\r\n" + lines(POST), "line 3: the id 'p1' is in .*line 1 too"),
    (
        lines(POST | {"id": "i" * 300}, POST | {"id": "i" * 300}),
        r"line 2: the id 'i{40}'\.\.\. is in .*line 1 too",
    ),
    (lines(POST | {"id": "\x1b[31m"}, POST | {"id": "\x1b[31m"}), r"line 2: the id '\\x1b\[31m' is in .*line 1 too"),
    (lines(COMPARISON), "line 1: field 'id' is missing; it must be text"),
]


def with_info(**fields: object) -> dict:
    return COMPARISON | {"info": INFO | fields}


def with_summary(index: int, **fields: object) -> dict:
    summaries = [dict(each) for each in COMPARISON["summaries"]]
    summaries[index] |= fields
    return COMPARISON | {"summaries": summaries}


ARTICLE = COMPARISON | {"info": {"id": "a1", "article": "News."}}
COMPARISONS = [
    *(
        (lines(without(COMPARISON, name)), f"line 1: field '{name}' is missing; it must be {kind}")
        for name, kind in (
            ("info", "an object"),
            ("summaries", "a list"),
            ("split", "text"),
            ("batch", "text"),
            ("choice", "a whole number"),
        )
    ),
    *(
        (lines(COMPARISON | {"info": without(INFO, name)}), f"line 1: field 'info.{name}' is missing; it must be text")
        for name in INFO
    ),
    *(
        case
        for name, kind in (
            ("info", "an object"),
            ("summaries", "a list"),
            ("split", "text"),
            ("batch", "text"),
            ("choice", "a whole number"),
        )
        for case in wrong_kinds(lambda value, name=name: COMPARISON | {name: value}, name, kind)
    ),
    *(
        case
        for name in INFO
        for case in wrong_kinds(lambda value, name=name: with_info(**{name: value}), f"info.{name}", "text")
        + wrong_texts(lambda value, name=name: with_info(**{name: value}), f"info.{name}", blank=name == "id")
    ),
    *(
        case
        for name in ("text", "policy")
        for index in (0, 1)
        for case in wrong_kinds(
            lambda value, name=name, index=index: with_summary(index, **{name: value}),
            rf"summaries\[{index}\].{name}",
            "text",
        )
    ),
    (lines(with_summary(0, text=HALF)), r"field 'summaries\[0\].text' has half a surrogate pair"),
    (lines(with_summary(1, text=LONG)), r"field 'summaries\[1\].text' has 100,001 characters"),
    (lines(COMPARISON | {"batch": HALF}), "field 'batch' has half a surrogate pair"),
    (lines(COMPARISON | {"split": HALF}), "field 'split' has half a surrogate pair"),
    *(
        (lines(COMPARISON | {"summaries": found}), f"field 'summaries' has {len(found)} entries; it must have 2")
        for found in ([], COMPARISON["summaries"][:1], COMPARISON["summaries"] * 2)
    ),
    *(
        (lines(COMPARISON | {"summaries": [value, value]}), rf"field 'summaries\[0\]' is {kind}; it must be an object")
        for kind, value in other_kinds("an object")
    ),
    (lines(with_summary(0) | {"summaries": [{"text": " a"}, {}]}), r"field 'summaries\[0\].policy' is missing"),
    (lines(COMPARISON | {"choice": 2}), "field 'choice' is 2; it must be 0 or 1, the better of the summaries"),
    (lines(COMPARISON | {"choice": -1}), "field 'choice' is -1; it must be 0 or 1"),
    (lines(COMPARISON | {"choice": int("9" * 4_000)}), r"field 'choice' is 9{40}\.\.\.; it must be 0 or 1"),
    *(
        (lines(COMPARISON | {"extra": value}), f"field 'extra' is {kind}; it must be an object")
        for kind, value in other_kinds("an object")
        if value is not None
    ),
    *(
        (
            lines(COMPARISON | {"extra": {"confidence": value}}),
            f"field 'extra.confidence' is {kind}; it must be a whole",
        )
        for kind, value in other_kinds("a whole number")
        if value is not None
    ),
    (lines(COMPARISON | {"extra": {"confidence": -1}}), "field 'extra.confidence' is -1; it must be 0 to 100"),
    (lines(COMPARISON | {"extra": {"confidence": 10**12}}), "field 'extra.confidence' is 1000000000000; it must be 0"),
    *wrong_kinds(lambda value: COMPARISON | {"info": {"id": "a1", "article": value}}, "info.article", "text")[1:],
    (lines(COMPARISON | {"info": {"article": "News."}}), "field 'info.id' is missing; it must be text"),
    (lines(ARTICLE | {"info": {"id": "a1", "article": HALF}}), "field 'info.article' has half a surrogate pair"),
    (lines(COMPARISON, COMPARISON), "line 2: the comparison is in .*line 1 too; give each once"),
    (lines(COMPARISON, ARTICLE, COMPARISON), "line 3: the comparison is in .*line 1 too"),
    (lines(COMPARISON, dict(reversed(COMPARISON.items()))), "line 2: the comparison is in .*line 1 too"),
    (lines(POST), "line 1: field 'info' is missing; it must be an object"),
]
