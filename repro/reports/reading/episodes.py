"""Reads the recorded episodes of a run token by token, and finds a run by id or by name."""

import json
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches

from mlflow.entities import Run

from repro import record
from repro.errors import UserError
from repro.reports.reading.artifacts import artifact
from repro.reports.reading.store import age, open_store, runs_of
from repro.reports.reading.study import Study

NEAREST = 6  # runs that an error names


@dataclass(frozen=True)
class Trace:
    """The episodes of a run that PPO recorded token by token."""

    run_id: str
    name: str
    detail: str
    arm: str
    eos: str  # text of the token that ends a response
    against: str  # label of the reference policy of the KL, which wrote the other response
    episodes: list[dict]  # by number; with post_id, query, reference, and the responses of both policies


def read_run(words: str, uri: str) -> Run:
    """The run with an id, its beginning, or a name `detail/arm/seed` or `detail-scale/arm/seed`.

    Of several with the same name, the newest. UserError names similar ones where there is none, or more than one.
    """
    client = open_store(uri)
    studies = {each.experiment_id: each for each in client.search_experiments()}
    head = words.partition("/")[0]
    chosen = [number for number, each in studies.items() if head in (each.name, each.tags.get(record.DETAIL))]
    recorded = sorted(runs_of(client, chosen or list(studies)), key=age)
    full = {f"{studies[run.info.experiment_id].name}/{_place(run)}": run for run in recorded}
    short = {f"{studies[run.info.experiment_id].tags.get(record.DETAIL)}/{_place(run)}": run for run in recorded}
    if words in full or words in short:
        return (short | full)[words]
    found = [run for run in recorded if run.info.run_id.startswith(words)]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(run.info.run_id for run in found[-NEAREST:])
        raise UserError(
            f"{len(found)} runs begin with {words!r}; write more characters of one; the newest are: {several}"
        )
    near = get_close_matches(words, full, n=NEAREST, cutoff=0)
    raise UserError(f"there is no run {words!r}; recorded are, nearest first: {', '.join(near) or 'none'}")


def read_trace(words: str, uri: str) -> Trace:
    """The episodes of a run; the UserError for a run without any names runs of its study that have some."""
    run = read_run(words, uri)
    try:
        return _trace(uri, run)
    except UserError as error:
        others = ", ".join(_with_episodes(uri, run)) or "none"
        raise UserError(f"{error}; runs of its study with episodes: {others}") from None


def read_traces(study: Study) -> dict[tuple[str, int], Trace]:
    """(arm, seed) -> its run's episodes, of the runs that have any that can be read."""
    client, found = open_store(study.uri), {}
    for row in study.runs.itertuples():
        with suppress(UserError):
            found[row.arm, row.seed] = _trace(study.uri, client.get_run(row.run_id))
    return found


def _trace(uri: str, run: Run) -> Trace:
    """A run's episodes; UserError where it has none, or none that can be read."""
    path, tags = artifact(uri, run, record.EPISODES), run.data.tags
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        episodes = sorted(content["episodes"], key=lambda each: each["episode"])
        readable = all("post_id" in each and "tokens" in each["policy"] for each in episodes)
    except (ValueError, KeyError, TypeError):
        readable = False
    if not readable or not episodes:
        raise UserError(f"{record.EPISODES} of run {run.info.run_name} holds no episodes that can be read")
    return Trace(
        run_id=run.info.run_id,
        name=run.info.run_name,
        detail=tags.get(record.DETAIL, ""),
        arm=tags[record.ARM],
        eos=content.get("eos", ""),
        against=run.data.params.get("reference_policy", "sft"),
        episodes=episodes,
    )


def _with_episodes(uri: str, run: Run) -> list[str]:
    """`detail-scale/arm/seed` of the runs in the same study whose episodes can be read, the newest first."""
    client = open_store(uri)
    study, found = client.get_experiment(run.info.experiment_id).name, []
    for other in sorted(runs_of(client, [run.info.experiment_id]), key=age, reverse=True):
        with suppress(UserError):
            _trace(uri, other)
            found.append(f"{study}/{_place(other)}")
    return list(dict.fromkeys(found))


def _place(run: Run) -> str:
    """Arm and seed of a run, as in its address."""
    return f"{run.data.tags[record.ARM]}/{run.data.tags[record.SEED]}"
