"""Posts, comparisons and tokenizers from local files or the hub: reading, validating, and splitting without leakage.

Rows are JSON lines or parquet. A faulty row is a UserError that names the file and the line or row. Nothing but blank lines
is repaired or skipped, since a row that silently went missing would be a different experiment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from repro.data.tldr import is_article
from repro.errors import UserError, cut, quoted, reason
from repro.models import folders, hub, pretrained, strict_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

POST_FIELDS = ("id", "subreddit", "title", "post", "summary")
COMPARISON_FIELDS = ("info", "summaries", "choice", "worker", "batch", "split", "extra")
# First word of the name of a file or folder -> the split of its posts.
SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "test": "test"}
KNOWN_EOS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")
PAD = "[PAD]"
LONGEST_LINE = 1_000_000  # bytes: a hundred times the longest comparison of the paper that is at hand
LONGEST_TEXT = 100_000  # characters; a post on Reddit has 40,000 at most
MOST_CONFIDENT = 100  # labellers say 1 to 9
TYPE_NAMES = {
    str: "text",
    dict: "an object",
    list: "a list",
    int: "a whole number",
    float: "a fraction",
    bool: "true or false",
    type(None): "null",
}


def read_posts(source: str | Path) -> list[dict]:
    """Posts with `id, subreddit, title, post, summary` from a file or folder; UserError for a faulty one."""
    return _distinct(_posts(files(hub.resolve(source, "data"))))


def read_split_posts(source: str | Path) -> dict[str, list[dict]]:
    """As `read_posts`, by split, which is in the file's name: `train.jsonl`, `data/train-00000-of-00001.parquet`."""
    root = hub.resolve(source, "data")
    splits: dict[str, list[dict]] = {"train": [], "validation": [], "test": []}
    for file in files(root):
        splits[_split_in_name(file, root)] += _distinct(_posts([file]))
    return _require_rows(splits, ("train", "validation", "test"), "posts")


def read_comparisons(source: str | Path) -> list[dict]:
    """Comparisons in OpenAI's schema from a file, or from a folder in order of file names; UserError for a faulty one."""
    return [row for _, row in _comparisons(files(hub.resolve(source, "data")))]


def read_distinct_comparisons(source: str | Path) -> list[dict]:
    """As `read_comparisons`; UserError also where a comparison is there twice, with all that its row says of it.

    The paper's data is read without this check: a labeller may have judged a pair twice, and the paper trains on all rows.
    """
    found = _comparisons(files(hub.resolve(source, "data")))
    return _distinct((json.dumps(row, sort_keys=True), where, row) for where, row in found)


def _posts(paths: Sequence[Path]) -> Iterator[tuple[str, str, dict]]:
    """(id, location, post) of each row."""
    for file in paths:
        for where, row in rows(file, POST_FIELDS):
            post = _check_post(row, where)
            yield post["id"], where, post


def _comparisons(paths: Sequence[Path]) -> Iterator[tuple[str, dict]]:
    """(location, comparison) of each row."""
    return ((where, _check_comparison(row, where)) for file in paths for where, row in rows(file, COMPARISON_FIELDS))


def _distinct(found: Iterable[tuple[str, str, dict]]) -> list[dict]:
    """The rows of (identity, location, row); UserError, with both locations, where two have one identity."""
    first: dict[bytes, str] = {}
    kept = []
    for identity, where, row in found:
        digest = blake2b(identity.encode(), digest_size=16).digest()
        if digest in first:
            what = f"id {quoted(row['id'])}" if "id" in row else "comparison"
            raise UserError(f"{where}: the {what} is in {first[digest]} too; give each once")
        first[digest] = where
        kept.append(row)
    return kept


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a `tokenizer.json` or a model's folder; it gets a `[PAD]` if it has no padding token (N+ detail 3).

    A bare `tokenizer.json` does not name its end of text, which is then the first of `KNOWN_EOS` in its vocabulary.
    """
    path = hub.resolve(source, "tokenizer")
    tokenizer = _open_tokenizer(path)
    if tokenizer.eos_token is None:
        tokenizer.add_special_tokens({"eos_token": _find_eos(tokenizer, path)})
    if tokenizer.pad_token in (None, tokenizer.eos_token):
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def split_posts(posts: Sequence[dict], seed: int, eval_fraction: float) -> dict[str, list[dict]]:
    """`train`, `validation` and `test` by a hash of the id; each of the last two gets about `eval_fraction` of the posts."""
    splits: dict[str, list[dict]] = {"train": [], "validation": [], "test": []}
    for post in posts:
        splits[_split_of(post["id"], seed, eval_fraction)].append(post)
    return _require_rows(splits, ("train", "validation", "test"), "posts")


def split_comparisons(comparisons: Sequence[dict], seed: int, eval_fraction: float) -> dict[str, list[dict]]:
    """`train`, `validation` and `validation_cnndm`; articles are for evaluation only (N+ detail 6).

    The rows' own `split` decides if both `train` and `valid*` occur: OpenAI's validation rows have policies and batches
    that its training rows have not. Otherwise the hash of the post's id decides, as in `split_posts`, so that no post held
    out there is trained on here.
    """
    rows = [row for row in comparisons if not is_article(row["info"])]
    own_splits = {row["split"] for row in rows}
    use_own = "train" in own_splits and any(split.startswith("valid") for split in own_splits)
    splits = {"train": [], "validation": [], "validation_cnndm": [r for r in comparisons if is_article(r["info"])]}
    for row in rows:
        split = row["split"] if use_own else _split_of(row["info"]["id"], seed, eval_fraction)
        splits["train" if split == "train" else "validation"].append(row)
    return _require_rows(splits, ("train", "validation"), "comparisons of posts")


def _split_of(post_id: str, seed: int, eval_fraction: float) -> str:
    if not 0 < eval_fraction < 0.5:
        raise UserError(f"eval_fraction is {eval_fraction}; above 0 and below 0.5 would leave posts to train on")
    digest = blake2b(f"{seed}:{post_id}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    if position < eval_fraction:
        return "validation"
    return "test" if position < 2 * eval_fraction else "train"


def _require_rows(splits: dict[str, list[dict]], needed: Sequence[str], what: str) -> dict[str, list[dict]]:
    empty = [name for name in needed if not splits[name]]
    if empty:
        total = sum(len(splits[name]) for name in needed)
        raise UserError(f"of {total} {what}, none fell in {' and '.join(empty)}; more {what} would fill each split")
    return splits


def files(path: Path) -> list[Path]:
    """The file itself, or the files of rows in a folder: parquet at any depth, else JSON lines."""
    if not path.is_dir():
        return [path]
    found = sorted(path.rglob("*.parquet")) or sorted(
        file for file in path.iterdir() if file.suffix in (".json", ".jsonl") and file.name not in hub.NOT_ROWS
    )
    if not found:
        raise UserError(f"{path}: no *.json, *.jsonl or *.parquet in this folder; one file of rows at least is needed")
    return found


def _split_in_name(file: Path, root: Path) -> str:
    parts = (file.relative_to(root) if root.is_dir() else Path(file.name)).parts
    found = [SPLITS[word] for part in parts if (word := part.partition(".")[0].partition("-")[0]) in SPLITS]
    if not found:
        raise UserError(
            f"{file}: its name does not say which split it holds; one that starts with train, valid or test does"
        )
    return found[-1]


def rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict]]:
    """(location for error messages, row) of each row of a file; of parquet only these columns."""
    return _parquet_rows(path, columns) if path.suffix == ".parquet" else _json_rows(path)


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict]]:
    from pyarrow import ArrowException, parquet

    try:
        file = parquet.ParquetFile(path)
        batches = file.iter_batches(columns=[name for name in columns if name in file.schema_arrow.names])
        found = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(found, start=1):
            yield f"{path}, row {number}", row
    except (OSError, ValueError, ArrowException) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); a parquet file is needed") from error
    if not file.metadata.num_rows:
        raise UserError(f"{path}: the file has no rows; one at least is needed")


def _json_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """(location, row) of each line that is not blank; the file is read as bytes so that line numbers are exact."""
    empty = True
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(LONGEST_LINE + 1), b""), start=1):
                if line.strip():
                    empty = False
                    where = f"{path}, line {number}"
                    yield where, _parse(line, where)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); a json-lines file is needed") from error
    if empty:
        raise UserError(f"{path}: the file is empty; one JSON object a line is needed")


def _parse(line: bytes, where: str) -> dict:
    if len(line) > LONGEST_LINE:
        raise UserError(f"{where}: the line is longer than {LONGEST_LINE:,} bytes; each line must be one JSON object")
    try:
        row = strict_json.parse(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({reason(error)}); each line must be one JSON object") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: the line is {_type_name(row)}; each line must be one JSON object")
    return row


def _type_name(value: object) -> str:
    """The type of a value for readers; parquet has types that JSON has not."""
    return TYPE_NAMES.get(type(value), f"of type {type(value).__name__}")


def _check_post(row: dict, where: str) -> dict:
    for name in POST_FIELDS:
        _check_text(row, name, where)
    for name in ("id", "summary"):
        _check_not_blank(row, name, where)
    return {name: row[name] for name in POST_FIELDS}


def _check_comparison(row: dict, where: str) -> dict:
    info = _field(row, "info", dict, where)
    for name in ("id", "article") if is_article(info) else ("id", "subreddit", "title", "post"):
        _check_text(info, name, where, inside="info.")
    _check_not_blank(info, "id", where, inside="info.")
    _check_summaries(_field(row, "summaries", list, where), where)
    for name in ("split", "batch"):
        _check_text(row, name, where)
    if _field(row, "choice", int, where) not in (0, 1):
        raise UserError(
            f"{where}: field 'choice' is {cut(str(row['choice']))}; it must be 0 or 1, the better of the summaries"
        )
    _check_confidence(row, where)
    return row


def _check_summaries(summaries: list, where: str) -> None:
    if len(summaries) != 2:
        raise UserError(f"{where}: field 'summaries' has {len(summaries)} entries; it must have 2")
    for index, summary in enumerate(summaries):
        if not isinstance(summary, dict):
            raise UserError(f"{where}: field 'summaries[{index}]' is {_type_name(summary)}; it must be an object")
        for name in ("text", "policy"):
            _check_text(summary, name, where, inside=f"summaries[{index}].")


def _check_confidence(row: dict, where: str) -> None:
    """`extra` and its `confidence` may be absent or null, since not all batches asked for it."""
    if row.get("extra") is None:
        return
    extra = _field(row, "extra", dict, where)
    if extra.get("confidence") is not None and not (
        0 <= _field(extra, "confidence", int, where, inside="extra.") <= MOST_CONFIDENT
    ):
        raise UserError(
            f"{where}: field 'extra.confidence' is {cut(str(extra['confidence']))}; it must be 0 to {MOST_CONFIDENT}"
        )


def _check_text(row: dict, name: str, where: str, inside: str = "") -> None:
    text = _field(row, name, str, where, inside)
    if len(text) > LONGEST_TEXT:
        raise UserError(
            f"{where}: field '{inside}{name}' has {len(text):,} characters; it must have at most {LONGEST_TEXT:,}"
        )
    # JSON can contain half of a surrogate pair, which tokenizers reject.
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{where}: field '{inside}{name}' has half a surrogate pair; it must be valid Unicode")


def _check_not_blank(row: dict, name: str, where: str, inside: str = "") -> None:
    if not row[name].strip():
        raise UserError(f"{where}: field '{inside}{name}' is blank; it must say something")


def _field(row: dict, name: str, kind: type, where: str, inside: str = ""):
    """The field's value, of exactly this type, since in Python true is an int."""
    if name not in row:
        raise UserError(f"{where}: field '{inside}{name}' is missing; it must be {TYPE_NAMES[kind]}")
    value = row[name]
    if type(value) is not kind:
        raise UserError(f"{where}: field '{inside}{name}' is {_type_name(value)}; it must be {TYPE_NAMES[kind]}")
    return value


def _open_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    openers = dict(zip(folders.TOKENIZERS, (_open_fast, _open_any, _open_any, _open_any, _open_gguf), strict=True))
    files = [path] if os.path.isfile(path) else [found for name in openers for found in sorted(path.glob(name))]
    file = files[0] if files else path / "tokenizer.json" if os.path.isdir(path) else path
    if not os.path.isfile(file):
        raise UserError(f"{file}: no such file; a tokenizer.json or the folder that holds one is needed")
    try:
        tokenizer = openers.get("*.gguf" if file.suffix == ".gguf" else file.name, _open_fast)(path)
        tokenizer("a text\nof two lines")  # some that can be read have no token for what they do not know
    except UserError:
        raise
    except Exception as error:  # the tokenizers library raises no narrower class
        raise UserError(f"{file}: not a tokenizer ({reason(error)}); a file saved by `tokenizers` is needed") from error
    return tokenizer


def _open_fast(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that a tokenizer.json describes; a model's own class might build another from the vocabulary."""
    from transformers import PreTrainedTokenizerFast

    if path.is_dir():
        return PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
    return PreTrainedTokenizerFast(tokenizer_file=str(path))


def _open_any(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that `transformers` reads from a folder in another format."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"{type(tokenizer).__name__} is none of the `tokenizers` library")
    return tokenizer


def _open_gguf(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that `transformers` builds from the vocabulary of a GGUF file, or of a folder with one."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(**pretrained.source_kwargs(path, "tokenizer.json"))


def _find_eos(tokenizer: PreTrainedTokenizerFast, path: Path) -> str:
    vocabulary = tokenizer.get_vocab()
    for token in KNOWN_EOS:
        if token in vocabulary:
            return token
    raise UserError(
        f"{path}: the tokenizer has no end-of-text token; one of {', '.join(KNOWN_EOS)} in its vocabulary, "
        "or `eos_token` in tokenizer_config.json, is needed"
    )
