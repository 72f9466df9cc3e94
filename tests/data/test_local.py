"""What is read from a person's files, what is refused and in which words, and that splits do not leak."""

import json
import re
from dataclasses import replace
from itertools import chain

import pyarrow as pa
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from repro.data.local import (
    load_tokenizer,
    read_comparisons,
    read_posts,
    read_split_posts,
    split_comparisons,
    split_posts,
)
from repro.detail import Recipe
from repro.errors import UserError
from repro.models import pretrained
from repro.models.padding import pad_with_own_token
from repro.stages import data
from repro.stages.corpus import Corpus
from repro.stages.stage import Budget, StageContext
from tests.paths import SHARED
from tests.tiny import pick

REAL = SHARED / "data"
needs_shared = pytest.mark.skipif(not REAL.exists(), reason=f"no {REAL}")
EOS = "<|endoftext|>"


def post(**fields):
    return {"id": "p1", "subreddit": "s", "title": "t", "post": "text", "summary": "short", **fields}


def comparison(**fields):
    return {
        "info": {"id": "p1", "subreddit": "s", "title": "t", "post": "text"},
        "summaries": [{"text": " a", "policy": "sup4"}, {"text": " b", "policy": "ref"}],
        "choice": 1,
        "worker": "w",
        "batch": "batch3",
        "split": "train",
        "extra": {"confidence": 5},
        **fields,
    }


def article(**fields):
    return comparison(info={"id": "a1", "article": "News."}, batch="cnndm0", **fields)


def without(row, name):
    return {key: value for key, value in row.items() if key != name}


def write(path, *rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tokenizer_file(path, *vocabulary):
    Tokenizer(models.WordLevel({token: index for index, token in enumerate(vocabulary)}, unk_token="?")).save(str(path))
    return path


def refused(message):
    """Expects a one-line UserError that holds the message, which is text and not a pattern."""
    return pytest.raises(UserError, match=rf"\A.*{re.escape(message)}.*\Z")


# Reading


def test_posts_are_read_in_order_past_blank_lines_and_a_byte_order_mark(tmp_path):
    first, second = post(), post(id="p2", title="caf\u00e9\u2028")
    lines = f"\ufeff{json.dumps(first)}\r\n\r\n  \n{json.dumps(second, ensure_ascii=False)}"
    (tmp_path / "posts.jsonl").write_bytes(lines.encode())
    assert read_posts(tmp_path / "posts.jsonl") == [first, second]


def test_comparisons_of_a_folder_are_read_by_file_name(tmp_path):
    for name in "hcfaegbd":
        write(tmp_path / f"{name}.jsonl", comparison(batch=name))
    write(tmp_path / "aa.json", comparison(batch="aa"), article())
    (tmp_path / "README.md").write_text("not data")
    assert [row["batch"] for row in read_comparisons(tmp_path)] == ["a", "aa", "cnndm0", *"bcdefgh"]
    assert read_comparisons(tmp_path / "b.jsonl") == [comparison(batch="b")]


@pytest.mark.parametrize("extra", [{}, {"confidence": None}, None])
def test_confidence_may_be_absent(tmp_path, extra):
    assert read_comparisons(write(tmp_path / "c.json", comparison(extra=extra)))[0]["extra"] == extra


def test_extra_and_worker_may_be_missing(tmp_path):
    row = without(without(comparison(), "extra"), "worker")
    assert read_comparisons(write(tmp_path / "c.json", row)) == [row]


def test_the_hubs_null_fields_do_not_matter(tmp_path):
    row = comparison(info={**comparison()["info"], "article": None, "site": None})
    assert read_comparisons(write(tmp_path / "c.json", row)) == [row]


@needs_shared
def test_real_files_are_read_whole():
    assert len(read_posts(REAL / "posts.jsonl")) == 3803
    assert len(read_comparisons(REAL / "comparisons")) == 1097 + 437


# What is refused

BAD_LINES = [
    (b"{'id': 1}", "not JSON (Expecting property name enclosed in double quotes at column 2); each line must be one"),
    (b'{"id": "\xff"}', "not JSON ('utf-8' codec can't decode byte 0xff in position 8: invalid start byte); each line"),
    (b"[{}]", "the line is a list; each line must be one JSON object"),
    (b"null", "the line is null; each line must be one JSON object"),
]

BAD_POSTS = [
    (without(post(), "title"), "field 'title' is missing; it must be text"),
    (post(post=None), "field 'post' is null; it must be text"),
    (post(subreddit=3), "field 'subreddit' is a whole number; it must be text"),
    (post(id=" "), "field 'id' is blank; it must say something"),
    (post(summary="\n"), "field 'summary' is blank; it must say something"),
    (post(post="half \ud83d"), "field 'post' has half a surrogate pair; it must be valid Unicode"),
]

INFO = comparison()["info"]
BAD_COMPARISONS = [
    (without(comparison(), "info"), "field 'info' is missing; it must be an object"),
    (comparison(info="p1"), "field 'info' is text; it must be an object"),
    (comparison(info=without(INFO, "post")), "field 'info.post' is missing; it must be text"),
    (comparison(info={**INFO, "id": ""}), "field 'info.id' is blank; it must say something"),
    (comparison(info={"id": "a", "article": 1.5}), "field 'info.article' is a fraction; it must be text"),
    (comparison(summaries={}), "field 'summaries' is an object; it must be a list"),
    (comparison(summaries=[{"text": " a", "policy": "p"}]), "field 'summaries' has 1 entries; it must have 2"),
    (comparison(summaries=[" a", " b"]), "field 'summaries[0]' is text; it must be an object"),
    (
        comparison(summaries=[{"text": " a", "policy": "p"}, {"text": " b"}]),
        "field 'summaries[1].policy' is missing; it must be text",
    ),
    (comparison(choice=2), "field 'choice' is 2; it must be 0 or 1, the better of the summaries"),
    (comparison(choice=-1), "field 'choice' is -1; it must be 0 or 1"),
    (comparison(choice=True), "field 'choice' is true or false; it must be a whole number"),
    (comparison(choice="0"), "field 'choice' is text; it must be a whole number"),
    (without(comparison(), "split"), "field 'split' is missing; it must be text"),
    (comparison(batch=None), "field 'batch' is null; it must be text"),
    (comparison(extra=[]), "field 'extra' is a list; it must be an object"),
    (comparison(extra={"confidence": "5"}), "field 'extra.confidence' is text; it must be a whole number"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
@pytest.mark.parametrize(("read", "row"), [(read_posts, post()), (read_comparisons, comparison())])
def test_a_line_that_is_not_an_object_is_refused(tmp_path, read, row, line, message):
    file = tmp_path / "rows.json"
    file.write_bytes(json.dumps(row).encode() + b"\n\n" + line + b"\n")
    with refused(f"{file}, line 3: {message}"):
        read(file)


@pytest.mark.parametrize(("row", "message"), BAD_POSTS)
def test_a_bad_post_is_refused(tmp_path, row, message):
    file = write(tmp_path / "posts.jsonl", post(), row)
    with refused(f"{file}, line 2: {message}"):
        read_posts(file)


@pytest.mark.parametrize(("row", "message"), BAD_COMPARISONS)
def test_a_bad_comparison_is_refused(tmp_path, row, message):
    file = write(tmp_path / "batch.json", comparison(), row)
    with refused(f"{file}, line 2: {message}"):
        read_comparisons(file)


@pytest.mark.parametrize("read", [read_posts, read_comparisons])
def test_missing_and_empty_files_are_refused(tmp_path, read):
    with refused(f"{tmp_path / 'none'}: cannot be read (No such file or directory); a json-lines file is needed"):
        read(tmp_path / "none")
    (tmp_path / "empty.json").write_text("\n \n")
    with refused(f"{tmp_path / 'empty.json'}: the file is empty; one JSON object a line is needed"):
        read(tmp_path / "empty.json")


@pytest.mark.parametrize("read", [read_posts, read_split_posts, read_comparisons])
def test_a_folder_without_rows_is_refused(tmp_path, read):
    (tmp_path / "dataset_infos.json").write_text("{}")
    with refused(f"{tmp_path}: no *.json, *.jsonl or *.parquet in this folder; one file of rows at least is needed"):
        read(tmp_path)


# Parquet, and folders as the hub has them


def write_parquet(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def test_rows_of_a_parquet_are_the_rows_of_the_json_lines(tmp_path):
    posts = [post(), post(id="p2", title="caf\u00e9\u2028")]
    assert read_posts(write_parquet(tmp_path / "posts.parquet", *posts)) == posts
    pairs = [comparison(), comparison(choice=0, extra={"confidence": None})]
    assert read_comparisons(write_parquet(tmp_path / "pairs.parquet", *pairs)) == pairs


def test_of_a_parquet_no_other_column_is_read(tmp_path):
    file = write_parquet(tmp_path / "posts.parquet", post(query_token=[1, 2]))
    assert read_posts(file) == [post()]


def test_an_article_beside_posts_has_every_field_and_nulls(tmp_path):
    empty = {"subreddit": None, "title": None, "post": None}
    mixed = [comparison(info={**INFO, "article": None}), comparison(info={"id": "a1", "article": "News.", **empty})]
    file = write_parquet(tmp_path / "pairs.parquet", *mixed, comparison(split="valid2"))
    splits = split_comparisons(read_comparisons(file), 0, 0.1)
    assert [len(splits[name]) for name in ("train", "validation", "validation_cnndm")] == [1, 1, 1]


@pytest.mark.parametrize(
    "names",
    [
        ("train.jsonl", "valid.jsonl", "test.jsonl"),
        ("data/train-00000-of-00001-ab.parquet", "data/validation-00000-of-00001.parquet", "data/test-0.parquet"),
        ("train/0000.parquet", "validation/0000.parquet", "test/0000.parquet"),
    ],
)
def test_posts_are_of_the_split_that_their_file_is_named_after(tmp_path, names):
    for place, name in enumerate(names):
        (write_parquet if name.endswith("parquet") else write)(tmp_path / name, post(id=f"p{place}"))
    splits = read_split_posts(tmp_path)
    assert {split: [row["id"] for row in rows] for split, rows in splits.items()} == {
        "train": ["p0"],
        "validation": ["p1"],
        "test": ["p2"],
    }


def test_a_file_that_names_no_split_and_a_split_without_a_file_are_refused(tmp_path):
    write(tmp_path / "train.jsonl", post())
    with refused("none fell in validation and test"):
        read_split_posts(tmp_path)
    write(tmp_path / "trained.jsonl", post())
    with refused(
        "trained.jsonl: its name does not say which split it holds; one that starts with train, valid or test"
    ):
        read_split_posts(tmp_path)


def test_what_is_wrong_in_a_parquet_is_said_by_row(tmp_path):
    file = write_parquet(tmp_path / "posts.parquet", post(), post(title=None))
    with refused(f"{file}, row 2: field 'title' is null; it must be text"):
        read_posts(file)
    with refused("posts.parquet: the file has no rows; one at least is needed"):
        parquet.write_table(pa.Table.from_pylist([post()]).slice(0, 0), file)
        read_posts(file)
    file.write_text("not a parquet")
    with refused("posts.parquet: cannot be read"):
        read_posts(file)


def test_the_papers_corpus_keeps_its_splits_and_its_articles_apart(tmp_path, tiny_scale):
    for split in ("train", "validation", "test"):
        write(tmp_path / "posts" / f"{split}.jsonl", *(post(id=f"{split}{n}", post=f"text {n}") for n in range(6)))
    valid = [comparison(split=f"valid{n % 2 + 1}", batch=f"batch{n}") for n in range(8)]
    write(
        tmp_path / "pairs" / "all.json",
        *[comparison(batch=f"batch{n}") for n in range(9)],
        *valid,
        article(split="valid2"),
    )
    given = {"posts_file": str(tmp_path / "posts"), "comparisons_file": str(tmp_path / "pairs")}
    scale = replace(tiny_scale, corpus="tldr", **given, posts=5, comparisons=9, validation_comparisons=3)
    (tmp_path / "out").mkdir()
    data.STAGE.run(StageContext("data", pick("data"), Budget(scale, data.FIELDS), "float32", 0, {}, tmp_path / "out"))
    corpus = Corpus(tmp_path / "out")
    assert corpus.posts("train")["id"][:] == [f"train{n}" for n in range(5)]
    assert corpus.posts("test")["id"][:] == [f"test{n}" for n in range(4)]  # so many are asked for
    assert corpus.pairs("train")["batch"][:] == [f"batch{n}" for n in range(9)]
    held = corpus.pairs("validation")
    assert len(held) == 3 and held["batch"][:] != ["batch0", "batch1", "batch2"]  # drawn from all, not the first
    articles = corpus.pairs("validation_cnndm")
    assert articles["id"][:] == ["a1"] and len(articles["query_token"][0]) == 1919
    data.check(Recipe(), scale)


def test_a_tokenizer_with_ids_that_the_model_lacks_is_refused_early(tmp_path, tiny_scale):
    pretrained.save_policy(pretrained.initialise_policy("gpt-neox:32/1/2/64", 64, 64, 0), tmp_path / "small")
    with refused("and the base model has 64 of them; give a model and a tokenizer that belong together"):
        data.check(Recipe(), replace(tiny_scale, model=str(tmp_path / "small")))


# Tokenizers


@pytest.mark.parametrize("eos", [EOS, "</s>"])
def test_a_bare_tokenizer_gets_its_eos_and_a_pad(tmp_path, eos):
    tokenizer = load_tokenizer(tokenizer_file(tmp_path / "tokenizer.json", "?", "a", eos))
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == (eos, 2)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("[PAD]", 3)
    assert tokenizer.encode(f"a{eos}") == [1, 2]
    assert pad_with_own_token(tokenizer) is tokenizer


def test_a_pad_in_the_vocabulary_is_used(tmp_path):
    tokenizer = load_tokenizer(tokenizer_file(tmp_path / "tokenizer.json", "?", "[PAD]", EOS))
    assert (tokenizer.pad_token_id, len(tokenizer)) == (1, 3)


def test_a_folder_keeps_the_tokens_that_it_names(tmp_path):
    file = tokenizer_file(tmp_path / "words.json", "?", "stop", "fill", EOS)
    named = PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="stop", pad_token="fill")
    named.save_pretrained(tmp_path / "folder")
    tokenizer = load_tokenizer(tmp_path / "folder")
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2)


def test_a_folder_with_nothing_but_a_tokenizer_json(tmp_path):
    tokenizer_file(tmp_path / "tokenizer.json", EOS, "?")
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 2)


@needs_shared
def test_pythias_pad_is_the_papers():
    tokenizer = load_tokenizer(REAL / "pythia_tokenizer.json")
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 50277)


def test_a_tokenizer_without_eos_is_refused(tmp_path):
    with refused(f"{tmp_path / 't.json'}: the tokenizer has no end-of-text token; one of {EOS}, </s>"):
        load_tokenizer(tokenizer_file(tmp_path / "t.json", "?", "a"))


def test_a_missing_tokenizer_is_refused(tmp_path):
    expected = f"{tmp_path / 'tokenizer.json'}: no such file; a tokenizer.json or the folder that holds one is needed"
    with refused(expected):
        load_tokenizer(tmp_path / "tokenizer.json")
    with refused(expected):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("text", ["not json", "{}"])
def test_what_is_not_a_tokenizer_is_refused(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        with refused(f"{tmp_path / 'tokenizer.json'}: not a tokenizer ("):
            load_tokenizer(path)


def test_a_pad_that_is_the_end_of_text_is_refused(tmp_path):
    file = tokenizer_file(tmp_path / "tokenizer.json", "?", EOS)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token=EOS, pad_token=EOS)
    with refused(f"the tokenizer pads with its end of text '{EOS}', and this recipe needs two tokens"):
        pad_with_own_token(tokenizer)


# Splits

POSTS = [post(id=f"p{index}") for index in range(2000)]


def ids(rows):
    return [row["id"] for row in rows]


def test_splits_partition_the_posts_in_order():
    splits = split_posts(POSTS, seed=1, eval_fraction=0.1)
    assert sorted(chain.from_iterable(map(ids, splits.values()))) == sorted(ids(POSTS))
    for rows in splits.values():
        assert ids(rows) == sorted(ids(rows), key=lambda name: int(name[1:]))
    assert 160 < len(splits["validation"]) < 240
    assert 160 < len(splits["test"]) < 240


def test_a_post_stays_in_its_split_whatever_else_is_there():
    some = split_posts(POSTS[::-2], seed=1, eval_fraction=0.1)
    every = split_posts(POSTS, seed=1, eval_fraction=0.1)
    for name, rows in some.items():
        assert set(ids(rows)) <= set(ids(every[name]))


def test_the_same_id_twice_is_in_one_split():
    splits = split_posts(POSTS + [post(id=row["id"], title="again") for row in POSTS], seed=1, eval_fraction=0.1)
    train, validation, test = (set(ids(rows)) for rows in splits.values())
    assert len(train) + len(validation) + len(test) == len(POSTS)


def test_another_seed_is_another_split():
    assert ids(split_posts(POSTS, 1, 0.1)["test"]) != ids(split_posts(POSTS, 2, 0.1)["test"])


def test_comparisons_are_split_by_the_files_own_field():
    rows = [comparison(split=split) for split in ("train", "valid1", "valid2", "train")]
    splits = split_comparisons(rows, seed=1, eval_fraction=0.1)
    assert [row["split"] for row in splits["train"]] == ["train", "train"]
    assert [row["split"] for row in splits["validation"]] == ["valid1", "valid2"]


@pytest.mark.parametrize("split", ["train", "valid2"])
def test_comparisons_of_one_kind_are_split_as_the_posts_are(split):
    rows = [comparison(info={**INFO, "id": row["id"]}, split=split) for row in POSTS for _ in range(2)]
    splits = split_comparisons(rows, seed=1, eval_fraction=0.1)
    train, validation = ([row["info"]["id"] for row in splits[name]] for name in ("train", "validation"))
    posts = split_posts(POSTS, seed=1, eval_fraction=0.1)
    assert set(train) == set(ids(posts["train"]))
    assert set(validation) == set(ids(posts["validation"]) + ids(posts["test"]))
    assert len(train) + len(validation) == len(rows)


def test_articles_are_never_trained_on_and_do_not_decide_how_posts_are_split():
    rows = [comparison(info={**INFO, "id": row["id"]}, split="train") for row in POSTS]
    splits = split_comparisons([article(split="valid2"), *rows, article(split="train")], seed=1, eval_fraction=0.1)
    assert [row["split"] for row in splits["validation_cnndm"]] == ["valid2", "train"]
    assert len(splits["validation"]) > 100
    assert all("article" not in row["info"] for row in splits["train"] + splits["validation"])


@pytest.mark.parametrize("fraction", [0, 0.5, -0.1, float("nan")])
def test_a_fraction_that_leaves_nothing_is_refused(fraction):
    with refused(f"eval_fraction is {fraction}; above 0 and below 0.5 would leave posts to train on"):
        split_posts(POSTS, seed=1, eval_fraction=fraction)


def test_a_split_left_empty_is_refused():
    with refused("of 1 posts, none fell in validation and test; more posts would fill each split"):
        split_posts([post(id="p0")], seed=1, eval_fraction=0.001)
    with refused("of 0 comparisons of posts, none fell in train and validation; more comparisons of posts would"):
        split_comparisons([article()], seed=1, eval_fraction=0.1)
