"""Downloads the sources of a scale from the hub and records their commits, also for machines that cannot reach the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from repro.data import local, tldr
from repro.errors import UserError, reason
from repro.models import hub, starts, strict_json
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
class HubSource:
    """A source on the hub that a field of Scale names, for one seed or for all of them ("")."""

    field: str
    source: str
    what: str
    seed: str = ""


@dataclass(frozen=True)
class Content:
    """The content of a source: its commit, file -> bytes, and the bytes that are not downloaded yet."""

    commit: str
    files: dict[str, int]
    missing: int

    @property
    def size(self) -> int:
        return sum(self.files.values())


@dataclass(frozen=True)
class Agreement:
    """In how many of a file's first rows our column equals the authors'; `first` is the id of the first row that differs."""

    file: str
    column: str
    rows: int
    same: int
    first: str


def needs(scale: Scale, released: Iterable[str] = ()) -> list[HubSource]:
    """The scale's sources on the hub, once each, and the authors' checkpoints of the stages `released` ("sft", "rm", "ppo")."""
    found = [HubSource(field, getattr(scale, field), what) for field, what in KINDS.items()]
    for field, stage in starts.CHECKPOINTS.items():
        wanted = stage in released and field in starts.STARTS
        start = getattr(scale, field) or ("released" if wanted else "")
        each = {starts.start_source(start, scale.model, seed, stage): str(seed) for seed in scale.seeds}
        found += [HubSource(field, source, "model", seed if len(each) > 1 else "") for source, seed in each.items()]
    return [need for need in dict.fromkeys(found) if hub.is_reference(need.source)]


def survey(need: HubSource) -> Content:
    """The content of a source, from the local cache if complete, else from the hub; UserError if that cannot be reached."""
    reference = hub.parse(need.source)
    if hub.is_local(need.source, need.what):
        return _content_here(need)
    found = hub.plan_download(reference, need.what)
    sizes = {each.filename: each.file_size or 0 for each in found}
    return Content(found[0].commit_hash, sizes, sum(sizes[each.filename] for each in found if each.will_download))


def download(need: HubSource) -> Content:
    """Download the missing files of a source; returns its content."""
    hub.resolve(need.source, need.what)
    return _content_here(need)


def _content_here(need: HubSource) -> Content:
    reference = hub.parse(need.source)
    folder = hub.cached_folder(reference, need.what)
    names = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    files = hub.needed(names, need.what, reference.part)
    return Content(folder.name, {name: (folder / name).stat().st_size for name in files}, 0)


def record(folder: Path, downloaded: dict[HubSource, Content]) -> Path:
    """Add the downloaded sources to the manifest in the folder; returns its path."""
    path = folder / MANIFEST
    known = _recorded(path)
    for need, content in downloaded.items():
        before = known.get(need.source, {"fields": [], "files": {}})
        known[need.source] = {
            "fields": sorted({*before["fields"], need.field}),
            "commit": content.commit,
            "files": before["files"] | content.files,
        }
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    return path


def _recorded(path: Path) -> dict[str, dict]:
    """What a manifest holds so far; UserError where it is damaged, since what was downloaded would be forgotten."""
    if not path.exists():
        return {}
    try:
        known = strict_json.parse(path.read_bytes())
        if all(isinstance(each["fields"], list) and isinstance(each["files"], dict) for each in known.values()):
            return known
        problem = "another program wrote it"
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        problem = reason(error)
    raise UserError(f"{path}: no manifest of sources ({problem}); move it away, and fetch again")


def commits(scale: Scale) -> dict[str, str]:
    """Source -> commit, for the sources of a scale on the hub that are completely downloaded."""
    return {need.source: _content_here(need).commit for need in needs(scale) if hub.is_local(need.source, need.what)}


def copy(downloaded: dict[HubSource, Content], to: Path) -> dict[str, str]:
    """Copy plain files below `to`, for a machine without the library's cache; returns field of Scale -> its path."""
    paths = {}
    for need, content in downloaded.items():
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


def size(downloaded: dict[HubSource, Content]) -> int:
    """Bytes of all files, each counted once."""
    files = {(need.source, name): number for need, each in downloaded.items() for name, number in each.files.items()}
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
    """Compare our tokenisation with the authors', on the first rows of each of their files, column by column."""
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
    """Encode comparisons; a file holds those of posts or of articles, not both."""
    articles = bool(rows) and tldr.is_article(rows[0]["info"])
    return tldr.encode_pairs(rows, tokenizer, tldr.CNNDM_LENGTHS if articles else tldr.TLDR_LENGTHS)


def _compared(file: str, theirs: Sequence[dict], columns: Sequence[str], ours: Dataset) -> Iterator[Agreement]:
    for column in columns:
        pairs = zip(ours["id"][:], ours[column][:], (row[column] for row in theirs), strict=True)
        other = [identity for identity, own, their in pairs if own != their]
        yield Agreement(file, column, len(theirs), len(theirs) - len(other), next(iter(other), ""))


def fetch_all(wanted: Sequence[HubSource], tell: Callable[[HubSource], None]) -> dict[HubSource, Content]:
    """Download every source; `tell` is called after each."""
    downloaded = {}
    for need in wanted:
        downloaded[need] = download(need)
        tell(need)
    return downloaded
