"""What a scale needs of the hub, brought here at once, with a record of what it was: for machines that cannot reach it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from repro.data import local, tldr
from repro.models import hub
from repro.study.scale import Scale

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

MANIFEST = "sources.json"
KINDS = {"model": "model", "tokenizer": "tokenizer", "posts_file": "data", "comparisons_file": "data"}
# The paper's data as its authors tokenised it: the original columns, and what they made of them.
TOKENISED_POSTS = "hub:datasets/vwxyzjn/summarize_from_feedback_tldr_3_filtered_oai_preprocessing_1706381144@main"
TOKENISED_PAIRS = "hub:datasets/vwxyzjn/summarize_from_feedback_oai_preprocessing_1706381144@main"
POST_COLUMNS = ("query", "query_token", "reference_response_token", "query_reference_response_token")
PAIR_COLUMNS = ("query", "query_token", "chosen_token", "rejected_token", "query_chosen_token", "query_rejected_token")


@dataclass(frozen=True)
class Need:
    """A source that a field of Scale names for the stages of a seed, or of every seed ("")."""

    field: str
    source: str
    what: str
    seed: str = ""


@dataclass(frozen=True)
class Content:
    """What a source has at the moment: its commit, its files with their bytes, and how many of these are not here yet."""

    commit: str
    files: dict[str, int]
    missing: int

    @property
    def size(self) -> int:
        return sum(self.files.values())


@dataclass(frozen=True)
class Agreement:
    """Of a file's first rows, in how many a column of ours is the authors'; `first` is the id of a row where it is not."""

    file: str
    column: str
    rows: int
    same: int
    first: str


def needs(scale: Scale, released: Iterable[str] = ()) -> list[Need]:
    """What of the hub the scale names, once each; and the authors' checkpoints of those stages ("sft", "rm", "ppo")."""
    found = [Need(field, getattr(scale, field), what) for field, what in KINDS.items()]
    for field, stage in hub.STARTS.items():
        start = getattr(scale, field) or ("released" if stage in released else "")
        each = {hub.start_source(start, scale.model, seed, stage): str(seed) for seed in scale.seeds}
        found += [Need(field, source, "model", seed if len(each) > 1 else "") for source, seed in each.items()]
    return [need for need in dict.fromkeys(found) if hub.is_reference(need.source)]


def survey(need: Need) -> Content:
    """What the source has, from here where it is complete, else from the hub; UserError where that cannot be asked."""
    reference = hub.parse(need.source)
    if hub.is_local(need.source, need.what):
        return _content_here(need)
    found = hub.plan_download(reference, need.what)
    sizes = {each.filename: each.file_size or 0 for each in found}
    return Content(found[0].commit_hash, sizes, sum(sizes[each.filename] for each in found if each.will_download))


def bring(need: Need) -> Content:
    """Downloads what is missing of the source; what is here then."""
    hub.resolve(need.source, need.what)
    return _content_here(need)


def _content_here(need: Need) -> Content:
    reference = hub.parse(need.source)
    folder = hub.cached_folder(reference, need.what)
    names = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    files = hub.needed(names, need.what, reference.part)
    return Content(folder.name, {name: (folder / name).stat().st_size for name in files}, 0)


def record(folder: Path, brought: dict[Need, Content]) -> Path:
    """The manifest in the folder, with what was brought added to what it says already."""
    path = folder / MANIFEST
    known = json.loads(path.read_text()) if path.exists() else {}
    for need, content in brought.items():
        before = known.get(need.source, {"fields": [], "files": {}})
        known[need.source] = {
            "fields": sorted({*before["fields"], need.field}),
            "commit": content.commit,
            "files": before["files"] | content.files,
        }
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    return path


def commits(scale: Scale) -> dict[str, str]:
    """Source -> the commit of what is here, of all that the scale names of the hub and that is complete."""
    return {need.source: _content_here(need).commit for need in needs(scale) if hub.is_local(need.source, need.what)}


def copy(brought: dict[Need, Content], to: Path) -> dict[str, str]:
    """Plain files below `to`, for a machine without the library's cache; field of Scale -> the path that it is set to."""
    paths = {}
    for need, content in brought.items():
        reference, cached = hub.parse(need.source), hub.cached_folder(hub.parse(need.source), need.what)
        place = to / (f"{reference.repo}/{need.seed}" if need.seed else f"{reference.repo}@{content.commit[:12]}")
        for name, size in content.files.items():
            target = place / name
            if not target.is_file() or target.stat().st_size != size:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(cached / name, target)
        where = place.with_name("{seed}") if need.seed else place
        paths[need.field] = str(where / reference.part if reference.part else where)
    return paths


def size(brought: dict[Need, Content]) -> int:
    """Bytes of all files, each counted once."""
    files = {(need.source, name): number for need, each in brought.items() for name, number in each.files.items()}
    return sum(files.values())


def home() -> Path:
    """The folder that holds the library's cache, and the manifest."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME)


def counts(scale: Scale) -> dict[str, int]:
    """Rows of each split of the paper's data, read and checked as the data stage does."""
    posts = local.read_split_posts(scale.posts_file)
    pairs = local.split_comparisons(local.read_comparisons(scale.comparisons_file), scale.corpus_seed, 0.1)
    return {
        f"{kind} {split}": len(rows)
        for kind, splits in (("posts", posts), ("comparisons", pairs))
        for split, rows in splits.items()
    }


def agreements(scale: Scale, number: int) -> Iterator[Agreement]:
    """How far our tokenisation is the authors', over the first rows of each file of theirs, column by column."""
    tokenizer = local.load_tokenizer(scale.tokenizer)
    for source, fields, columns, encode in (
        (TOKENISED_POSTS, local.POST_FIELDS, POST_COLUMNS, _encoded_posts),
        (TOKENISED_PAIRS, local.COMPARISON_FIELDS, PAIR_COLUMNS, _encoded_pairs),
    ):
        for file in local.files(hub.resolve(source, "data")):
            theirs = [row for _, row in islice(local.rows(file, (*fields, *columns)), number)]
            yield from _compared(file.name, theirs, columns, encode(theirs, tokenizer))


def _encoded_posts(rows: Sequence[dict], tokenizer: PreTrainedTokenizerFast) -> Dataset:
    return tldr.encode_posts(rows, tokenizer, tldr.TLDR_LENGTHS)


def _encoded_pairs(rows: Sequence[dict], tokenizer: PreTrainedTokenizerFast) -> Dataset:
    """Files hold comparisons of posts, or of articles, and not of both."""
    articles = bool(rows) and tldr.is_article(rows[0]["info"])
    return tldr.encode_pairs(rows, tokenizer, tldr.CNNDM_LENGTHS if articles else tldr.TLDR_LENGTHS)


def _compared(file: str, theirs: Sequence[dict], columns: Sequence[str], ours: Dataset) -> Iterator[Agreement]:
    for column in columns:
        pairs = zip(ours["id"][:], ours[column][:], (row[column] for row in theirs), strict=True)
        other = [identity for identity, mine, their in pairs if mine != their]
        yield Agreement(file, column, len(theirs), len(theirs) - len(other), next(iter(other), ""))


def all_of(wanted: Sequence[Need], tell: Callable[[Need], None]) -> dict[Need, Content]:
    """Every source brought here; `tell` is called after each."""
    brought = {}
    for need in wanted:
        brought[need] = bring(need)
        tell(need)
    return brought
