"""Faulty files of posts and comparisons, read as a study reads them."""

import pyarrow as pa
import pytest
from pyarrow import parquet

from repro.__main__ import main
from repro.data import local
from repro.errors import UserError
from tests.bad_input import rows
from tests.bad_input.case import FOLDER, check_sentence, fill, tree

READERS = {"posts.jsonl": local.read_posts, "pairs.jsonl": local.read_distinct_comparisons}
TABLES = [
    *(("posts.jsonl", *case) for case in (*rows.ANY, *rows.POSTS)),
    *(("pairs.jsonl", *case) for case in rows.COMPARISONS),
]
FEW = 1_000  # posts, of which each split gets some


def check_refusal(read, path, says, place):
    with pytest.raises(UserError) as refusal:
        read(path)
    check_sentence(f"error: {refusal.value}\n", says, place)


@pytest.mark.parametrize(("name", "content", "says"), TABLES, ids=range(len(TABLES)))
def test_a_faulty_file_is_refused_by_its_line(name, content, says, place):
    fill(place, {name: content})
    check_refusal(READERS[name], place / name, says, place)


PARQUETS = [
    ([rows.POST | {"title": b"\xff"}], "row 1: field 'title' is of type bytes; it must be text"),
    ([rows.POST | {"title": None}], "row 1: field 'title' is null; it must be text"),
    ([rows.POST | {"title": 3}], "row 1: field 'title' is a whole number"),
    ([rows.POST | {"title": ["t"]}], "row 1: field 'title' is a list"),
    ([rows.POST | {"title": {"a": 1}}], "row 1: field 'title' is an object"),
    ([rows.POST | {"title": pa.scalar(0, pa.timestamp("s")).as_py()}], "row 1: field 'title' is of type datetime"),
    ([{"id": "p1"}], "row 1: field 'subreddit' is missing"),
    ([{"other": 1}], "field 'id' is missing|the file has no rows"),
    ([rows.POST, rows.POST], "row 2: the id 'p1' is in .*row 1 too"),
    ([rows.POST | {"post": rows.LONG}], "row 1: field 'post' has 100,001 characters"),
]


@pytest.mark.parametrize(("table", "says"), PARQUETS)
def test_a_faulty_parquet_is_refused_by_its_row(table, says, place):
    parquet.write_table(pa.Table.from_pylist(table), place / "posts.parquet")
    check_refusal(local.read_posts, place / "posts.parquet", f"posts.parquet.*{says}", place)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 100, b"\x00" * 100, b"{}\n", rows.lines(rows.POST)])
def test_what_is_no_parquet_is_refused(content, place):
    fill(place, {"posts.parquet": content})
    check_refusal(local.read_posts, place / "posts.parquet", "posts.parquet: cannot be read", place)


FOLDERS = [
    ({}, "no .*in this folder; one file of rows at least is needed"),
    ({"README.md": "x"}, "no .*in this folder"),
    ({"rows.csv": "id\n1\n"}, "no .*in this folder"),
    ({"sub/rows.jsonl": b"{}"}, "no .*in this folder"),
    ({"rows.jsonl": FOLDER}, r"rows.jsonl: cannot be read \(Is a directory\)"),
    ({"rows.parquet": FOLDER}, "rows.parquet: cannot be read"),
    ({"a.jsonl": rows.lines(rows.POST), "b.jsonl": ""}, "b.jsonl: the file is empty"),
    (
        {"a.jsonl": rows.lines(rows.POST), "b.jsonl": rows.lines(rows.POST)},
        "b.jsonl, line 1: the id 'p1' is in .*a.jsonl, line 1 too; give each once",
    ),
]


@pytest.mark.parametrize(("files", "says"), FOLDERS, ids=range(len(FOLDERS)))
def test_a_folder_without_rows_or_with_faulty_ones_is_refused(files, says, place):
    fill(place, {"data": FOLDER} | {f"data/{name}": content for name, content in files.items()})
    check_refusal(local.read_posts, place / "data", says, place)


SPLITS = [
    ({"rows.jsonl": rows.lines(rows.POST)}, "rows.jsonl: its name does not say which split it holds"),
    ({"train.jsonl": rows.lines(rows.POST)}, "none fell in validation and test"),
    ({"train.jsonl": rows.lines(rows.POST, rows.POST)}, "line 2: the id 'p1' is in .*line 1 too"),
]


@pytest.mark.parametrize(("files", "says"), SPLITS, ids=range(len(SPLITS)))
def test_posts_in_splits_of_their_own_are_refused_alike(files, says, place):
    fill(place, {f"data/{name}": content for name, content in files.items()})
    check_refusal(local.read_split_posts, place / "data", says, place)


# ------------------------------------------------------------------------------------------------ through a study


def many(**changes):
    """Posts, so many that each split has some, the tenth with these fields instead."""
    posts = [rows.POST | {"id": f"p{number}"} for number in range(FEW)]
    posts[9] |= changes
    return rows.lines(*posts)


PAIRS = rows.lines(*(rows.COMPARISON | {"batch": f"b{n}", "info": rows.INFO | {"id": f"p{n}"}} for n in range(FEW)))
STUDIES = [
    (many(title=None), PAIRS, "posts.jsonl, line 10: field 'title' is null; it must be text"),
    (many(id="p3"), PAIRS, "posts.jsonl, line 10: the id 'p3' is in posts.jsonl, line 4 too"),
    (many(title="\udcff"), PAIRS, "posts.jsonl, line 10: field 'title' has half a surrogate pair"),
    (many()[:-5], PAIRS, "posts.jsonl, line 1000: not JSON"),
    (many().replace(b"\n", b"\r\n\x00", 1), PAIRS, "posts.jsonl, line 2: not JSON .it is binary"),
    (rows.lines(rows.POST), PAIRS, "of 1 posts, none fell in"),
    (
        many(),
        PAIRS + PAIRS[: PAIRS.index(b"\n") + 1],
        "pairs.jsonl, line 1001: the comparison is in pairs.jsonl, line 1",
    ),
    (many(), b"{}\n", "pairs.jsonl, line 1: field 'info' is missing"),
    (many(), b"", "pairs.jsonl: the file is empty"),
    (FOLDER, PAIRS, "posts.jsonl: no .*in this folder"),
    (many(), FOLDER, "pairs.jsonl: no .*in this folder"),
]


@pytest.mark.parametrize(("posts", "pairs", "says"), STUDIES, ids=range(len(STUDIES)))
def test_a_study_on_faulty_files_ends_before_anything_is_made(posts, pairs, says, place, tokenizer_file, capsys):
    fill(place, {"posts.jsonl": posts, "pairs.jsonl": pairs})
    before = tree(place)
    words = [f"tokenizer={tokenizer_file}", "posts_file=posts.jsonl", "comparisons_file=pairs.jsonl"]
    assert main(["run", "whiten_adv", "--scale", "local", "--set", *words]) == 2
    check_sentence(capsys.readouterr().err, says, place)
    assert tree(place) == before
