"""Posts, comparisons and tokenizers from a person's own files, checked as they are read, and split without leakage.

What is wrong with an input is a UserError that names the file and the line. Nothing is repaired or skipped but blank
lines: a row that silently went missing would be a different experiment.
"""

import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from repro.data.tldr import is_article
from repro.errors import UserError

POST_FIELDS = ("id", "subreddit", "title", "post", "summary")
KNOWN_EOS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")
PAD = "[PAD]"
NAMES = {
    str: "text",
    dict: "an object",
    list: "a list",
    int: "a whole number",
    float: "a fraction",
    bool: "true or false",
    type(None): "null",
}


def read_posts(path: str | Path) -> list[dict]:
    """Posts of a json-lines file with `id, subreddit, title, post, summary`; UserError where a line is not one."""
    return [_check_post(row, where) for where, row in _rows(Path(path))]


def read_comparisons(path: str | Path) -> list[dict]:
    """Comparisons in OpenAI's own json-lines, of one file or of all `*.json` and `*.jsonl` of a folder, by name."""
    return [_check_comparison(row, where) for file in _files(Path(path)) for where, row in _rows(file)]


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a `tokenizer.json` or of a folder with one, given a `[PAD]` where it has no pad (N+ detail 3).

    A bare `tokenizer.json` does not say which token ends a text: the first of `KNOWN_EOS` that it has is taken.
    """
    path = Path(path)
    tokenizer = _open_tokenizer(path)
    if tokenizer.eos_token is None:
        tokenizer.add_special_tokens({"eos_token": _find_eos(tokenizer, path)})
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def split_posts(posts: Sequence[dict], seed: int, eval_fraction: float) -> dict[str, list[dict]]:
    """`train`, `validation` and `test` by a hash of the id; the last two get `eval_fraction` of the posts each."""
    splits = {"train": [], "validation": [], "test": []}
    for post in posts:
        splits[_split_of(post["id"], seed, eval_fraction)].append(post)
    return _require_rows(splits, ("train", "validation", "test"), "posts")


def split_comparisons(comparisons: Sequence[dict], seed: int, eval_fraction: float) -> dict[str, list[dict]]:
    """`train`, `validation` and `validation_cnndm`; articles are only for evaluation (N+ detail 6).

    The file's own `split` decides where it has both `train` and `valid*`: OpenAI's validation holds policies and
    batches that its training does not. Otherwise the id does, and agrees with `split_posts`: of posts held out there,
    none is trained on here.
    """
    rows = [row for row in comparisons if not is_article(row["info"])]
    kinds = {row["split"] for row in rows}
    own = "train" in kinds and any(kind.startswith("valid") for kind in kinds)
    splits = {"train": [], "validation": [], "validation_cnndm": [r for r in comparisons if is_article(r["info"])]}
    for row in rows:
        kind = row["split"] if own else _split_of(row["info"]["id"], seed, eval_fraction)
        splits["train" if kind == "train" else "validation"].append(row)
    return _require_rows(splits, ("train", "validation"), "comparisons of posts")


def _split_of(identity: str, seed: int, eval_fraction: float) -> str:
    if not 0 < eval_fraction < 0.5:
        raise UserError(f"eval_fraction is {eval_fraction}; above 0 and below 0.5 would leave posts to train on")
    digest = blake2b(f"{seed}:{identity}".encode(), digest_size=8).digest()
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


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in (".json", ".jsonl"))
    if not files:
        raise UserError(f"{path}: no *.json or *.jsonl in this folder; one json-lines file at least is needed")
    return files


def _rows(path: Path) -> Iterator[tuple[str, dict]]:
    """Each line that is not blank, as where it stands and its object; bytes are read so that line numbers are exact."""
    empty = True
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    empty = False
                    where = f"{path}, line {number}"
                    yield where, _parse(line, where)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); a json-lines file is needed") from error
    if empty:
        raise UserError(f"{path}: the file is empty; one JSON object a line is needed")


def _parse(line: bytes, where: str) -> dict:
    try:
        row = json.loads(line)
    except ValueError as error:
        # The error's own text calls every line "line 1".
        problem = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        raise UserError(f"{where}: not JSON ({problem}); each line must be one JSON object") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: the line is {NAMES[type(row)]}; each line must be one JSON object")
    return row


def _check_post(row: dict, where: str) -> dict:
    for name in POST_FIELDS:
        _check_text(row, name, where)
    for name in ("id", "summary"):
        _check_not_blank(row, name, where)
    return row


def _check_comparison(row: dict, where: str) -> dict:
    info = _field(row, "info", dict, where)
    for name in ("id", "article") if is_article(info) else ("id", "subreddit", "title", "post"):
        _check_text(info, name, where, inside="info.")
    _check_not_blank(info, "id", where, inside="info.")
    _check_summaries(_field(row, "summaries", list, where), where)
    for name in ("split", "batch"):
        _check_text(row, name, where)
    if _field(row, "choice", int, where) not in (0, 1):
        raise UserError(f"{where}: field 'choice' is {row['choice']}; it must be 0 or 1, the better of the summaries")
    _check_confidence(row, where)
    return row


def _check_summaries(summaries: list, where: str) -> None:
    if len(summaries) != 2:
        raise UserError(f"{where}: field 'summaries' has {len(summaries)} entries; it must have 2")
    for index, summary in enumerate(summaries):
        if not isinstance(summary, dict):
            raise UserError(f"{where}: field 'summaries[{index}]' is {NAMES[type(summary)]}; it must be an object")
        for name in ("text", "policy"):
            _check_text(summary, name, where, inside=f"summaries[{index}].")


def _check_confidence(row: dict, where: str) -> None:
    """`extra` and its `confidence` may be absent or null: not every batch asked for it."""
    if row.get("extra") is None:
        return
    extra = _field(row, "extra", dict, where)
    if extra.get("confidence") is not None:
        _field(extra, "confidence", int, where, inside="extra.")


def _check_text(row: dict, name: str, where: str, inside: str = "") -> None:
    text = _field(row, name, str, where, inside)
    # JSON can spell half of a surrogate pair, which no tokenizer takes.
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{where}: field '{inside}{name}' has half a surrogate pair; it must be valid Unicode")


def _check_not_blank(row: dict, name: str, where: str, inside: str = "") -> None:
    if not row[name].strip():
        raise UserError(f"{where}: field '{inside}{name}' is blank; it must say something")


def _field(row: dict, name: str, kind: type, where: str, inside: str = ""):
    """The field's value; exactly of its type, since Python takes true for a 1."""
    if name not in row:
        raise UserError(f"{where}: field '{inside}{name}' is missing; it must be {NAMES[kind]}")
    value = row[name]
    if type(value) is not kind:
        raise UserError(f"{where}: field '{inside}{name}' is {NAMES[type(value)]}; it must be {NAMES[kind]}")
    return value


def _open_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no such file; a tokenizer.json or the folder that holds one is needed")
    try:
        if path.is_dir():
            return PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
        return PreTrainedTokenizerFast(tokenizer_file=str(file))
    except Exception as error:  # the tokenizers library raises nothing narrower
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file}: not a tokenizer ({problem}); a file saved by `tokenizers` is needed") from error


def _find_eos(tokenizer: PreTrainedTokenizerFast, path: Path) -> str:
    vocabulary = tokenizer.get_vocab()
    for token in KNOWN_EOS:
        if token in vocabulary:
            return token
    raise UserError(
        f"{path}: the tokenizer has no end-of-text token; one of {', '.join(KNOWN_EOS)} in its vocabulary, "
        "or `eos_token` in tokenizer_config.json, is needed"
    )
