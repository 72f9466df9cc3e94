"""A made-up MLflow store of many studies, of the size and shape that real ones have; for timing what reads it.

MLflow makes the database, so its schema is the library's own. The rows are then written by SQL, in bulk: logged one batch
at a time, as the tracker does, a thousand runs take a quarter of an hour.
"""

import json
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SCALE = "mini"
STARTED = 1_790_000_000_000  # ms since 1970
POSTS, EPISODES, TOKENS = 512, 18, 20  # of a run: posts sampled, episodes traced, tokens of a response
UPDATES = 32
EPISODES_PER_UPDATE = 64
STAGES = ("data", "base", "sft", "rm", "baseline", "ppo", "evaluate")
PARAMS = {f"choice_{i:02d}": "reference" for i in range(60)} | {f"scale.field_{i:02d}": str(i) for i in range(28)}
PER_UPDATE = (
    *(f"objective/{name}" for name in ("score", "gold", "kl", "rlhf_reward", "entropy", "length", "eos_rate")),
    *(f"policy/{name}" for name in ("approx_kl", "clip_fraction", "ratio", "ratio_error", "first_ratio_error")),
    *(f"value/{name}" for name in ("mean", "explained_variance", "clip_fraction")),
    *(f"loss/{name}" for name in ("policy", "value", "total")),
    *(f"eval/{name}" for name in ("win_rate", "gold", "score")),
)
COUNTERS = tuple(f"nonfinite/count_{i:02d}" for i in range(21))  # zero, as they are where all goes well
PER_STEP = {"sft/loss": 93, "rm/loss": 200, "rm/train_accuracy": 200}
OUTCOMES = ("win_rate", "gold", "score", "kl", "length", "eos_rate", "rouge_l", "covered_facts", "wrong_facts")
POLICIES = ("ppo4_t0.3", "sloppy_t1.0", "sup4_t0.7", "terse_t0.3")
FINALS = (
    *(f"{test}/{name}" for test in ("test", "sft_test") for name in OUTCOMES),
    *(f"{test}/sampled_{name}" for test in ("test", "sft_test") for name in OUTCOMES),
    *("test/reference_gold", "test/judge_agreement", "sft_test/judge_agreement"),
    *("rm/validation_accuracy", "rm/bias", "rm/gain", "rm/calibration_error", "rm/padding_difference_largest"),
    *(f"rm/calibration/{0.25 + 0.5 * i}" for i in range(11)),
    *(f"rm/accuracy/batch/batch{i}" for i in range(10, 14)),
    *(f"rm/accuracy/confidence/{i}" for i in range(1, 10)),
    *(f"rm/accuracy/policies/{a} vs {b}" for a in POLICIES for b in POLICIES),
    *(f"data/count_{i:02d}" for i in range(60)),
)


@dataclass(frozen=True)
class Row:
    """One run to be: its place in the store, and the id that MLflow will know it by."""

    experiment: int
    detail: str
    arm: str
    seed: int
    reference: bool
    run_id: str


def make(folder: Path, studies: Mapping[str, Sequence[str]], runs: int) -> str:
    """Writes a store of `runs` runs over these studies (detail -> arms, the reference first) and gives its address.

    Seeds are handed out in turn until there are enough runs. The first study alone has samples and traces, as files.
    """
    from mlflow import MlflowClient

    uri, generator = f"sqlite:///{folder / 'mlflow.db'}", np.random.default_rng(0)
    client = MlflowClient(uri)
    experiments = {
        detail: int(
            client.create_experiment(
                f"{detail}-{SCALE}",
                artifact_location=(folder / "mlartifacts").as_uri(),
                tags={"detail": detail, "scale": SCALE},
            )
        )
        for detail in studies
    }
    places = [(detail, arm) for detail, arms in studies.items() for arm in arms]
    rows = [
        Row(experiments[detail], detail, arm, 1 + i // len(places), arm == studies[detail][0], uuid.UUID(int=i).hex)
        for i, (detail, arm) in ((i, places[i % len(places)]) for i in range(runs))
    ]
    with closing(sqlite3.connect(folder / "mlflow.db")) as store, store:
        _write_runs(store, rows, folder)
        _write_metrics(store, rows, generator)
    for row in rows:
        if row.detail == next(iter(studies)):
            _write_artifacts(folder / "mlartifacts" / row.run_id / "artifacts", row)
    return uri


def _write_runs(store: sqlite3.Connection, rows: Sequence[Row], folder: Path) -> None:
    """The runs with their tags and parameters."""
    store.executemany(
        "insert into runs (run_uuid, name, source_type, status, start_time, end_time, lifecycle_stage, artifact_uri,"
        " experiment_id, user_id) values (?, ?, 'UNKNOWN', 'FINISHED', ?, ?, 'active', ?, ?, 'unknown')",
        [
            (
                row.run_id,
                f"{row.arm}-seed{row.seed}",
                STARTED + 1_000 * i,
                STARTED + 1_000 * i + 200_000,
                (folder / "mlartifacts" / row.run_id / "artifacts").as_uri(),
                row.experiment,
            )
            for i, row in enumerate(rows)
        ],
    )
    for table, of in (("tags", _tags), ("params", lambda _: PARAMS)):
        store.executemany(
            f"insert into {table} (key, value, run_uuid) values (?, ?, ?)",
            ((key, value, row.run_id) for row in rows for key, value in of(row).items()),
        )


def _tags(row: Row) -> dict[str, str]:
    """What the tracker writes on a run."""
    keys = {stage: f"{stage}-{row.seed}" for stage in STAGES[:5]}
    keys |= {stage: f"{stage}-{row.seed}" + ("" if row.reference else row.run_id) for stage in STAGES[5:]}
    return {f"stage.{stage}": key for stage, key in keys.items()} | {
        "mlflow.runName": f"{row.arm}-seed{row.seed}",
        "detail": row.detail,
        "arm": row.arm,
        "reference": str(row.reference).lower(),
        "seed": str(row.seed),
        "scale": SCALE,
        "question": f"Does it matter how {row.detail} is chosen?",
        "hypothesis": "What the other choice takes away was not needed: nothing moves but the distance it goes.",
        "moves": json.dumps({"objective/kl": "up", "test/win_rate": "down", "test/kl": "up"}),
        "paper": "made up",
        "primary": "test/win_rate",
        "higher_is_better": "true",
        "smallest_effect": "0.05",
        "judge": "gold score",
        "kl_cap": "50.0",
        "outcome": "finished",
        "complete": "true",
        "recipe": json.dumps({} if row.reference else {row.detail: row.arm}),
        "stage_seconds": json.dumps({"data": 22.0, "sft": 42.0, "rm": 240.0, "ppo": 111.0, "evaluate": 5.7}),
        "commit": "0123456789ab",
        "lock": "0123456789abcdef",
        "machine": "made up",
        "versions": json.dumps({"mlflow": "3"}),
        "command": "python -m repro atlas",
        "record": row.run_id,
    }


def _write_metrics(store: sqlite3.Connection, rows: Sequence[Row], generator: np.random.Generator) -> None:
    """Curves as scaled copies of one, which the database makes itself, and final values of every run's own."""
    lengths = dict.fromkeys((*PER_UPDATE, *COUNTERS), UPDATES) | PER_STEP
    store.execute("pragma cache_size = -400000")  # KiB: the index on all columns is written in no order
    store.execute("create temporary table curve (key text, value real, timestamp integer, step integer)")
    store.executemany(
        "insert into curve values (?, ?, ?, ?)",
        [
            (name, value * (name not in COUNTERS), STARTED + i, EPISODES_PER_UPDATE * (i + 1))
            for name, length in lengths.items()
            for i, value in enumerate(1 + np.sin(np.arange(length) / 9) / 9 + generator.normal(0, 0.05, length))
        ],
    )
    last = "insert into latest_metrics (key, value, timestamp, step, is_nan, run_uuid)"
    every = "insert into metrics (key, value, timestamp, step, is_nan, run_uuid)"
    for row, factor in zip(rows, generator.normal(1, 0.1, len(rows)), strict=True):
        store.execute(f"{every} select key, value * ?, timestamp, step, 0, ? from curve", (factor, row.run_id))
        ends = "select key, value * ?, timestamp, max(step), 0, ? from curve group by key"
        store.execute(f"{last} {ends}", (factor, row.run_id))
    values = _finals(rows, generator)
    for table in (last, every):
        store.executemany(
            f"{table} values (?, ?, ?, 0, 0, ?)",
            (
                (name, float(value), STARTED, row.run_id)
                for row, own in zip(rows, values)
                for name, value in zip(FINALS, own)
            ),
        )


def _finals(rows: Sequence[Row], generator: np.random.Generator) -> np.ndarray:
    """[runs, finals]: what a seed's runs share, what an arm adds to it, and each run's own luck."""
    seeds, arms = ({place: i for i, place in enumerate(dict.fromkeys(found))} for found in _places(rows))
    shared = generator.normal(0.6, 0.03, (len(seeds), len(FINALS)))
    added = generator.normal(0, 0.06, (len(arms), len(FINALS))) * generator.random((len(arms), 1))
    found = np.stack([shared[seeds[row.seed]] + added[arms[row.detail, row.arm]] * (not row.reference) for row in rows])
    own = generator.normal(0, 0.02, found.shape) * ~np.array([[row.reference] for row in rows])
    return found + own


def _places(rows: Sequence[Row]) -> tuple[list[int], list[tuple[str, str]]]:
    """The seed of every run, and its detail and arm."""
    return [row.seed for row in rows], [(row.detail, row.arm) for row in rows]


def _write_artifacts(folder: Path, row: Row) -> None:
    """The samples of a run and its token-by-token traces."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng([row.seed, len(row.arm)])
    post = " ".join(["my neighbour burned my car and will not pay for it ."] * 3)
    table = {
        "post_id": [f"t3_{i}" for i in range(POSTS)],
        "query": [f"SUBREDDIT: r/legal\n\nTITLE: car {i}\n\nPOST: {post}\n\nTL;DR:" for i in range(POSTS)],
        "reference": ["neighbour burned car , wants it paid ."] * POSTS,
        "sft_summary": ["someone burned it ."] * POSTS,
        "summary": [f"my neighbour burned my car , {row.arm} {i} ." for i in range(POSTS)],
        "ended": [True] * POSTS,
        "sft_ended": [True] * POSTS,
        "win": generator.choice([0.0, 0.5, 1.0], POSTS).tolist(),
        "sft_win": generator.choice([0.0, 0.5, 1.0], POSTS).tolist(),
        "length": generator.integers(5, TOKENS, POSTS).tolist(),
        "sft_length": generator.integers(5, TOKENS, POSTS).tolist(),
        "reference_length": generator.integers(5, TOKENS, POSTS).tolist(),
    }
    measured = (
        "score",
        "kl",
        "gold",
        "rouge_l",
        "reference_gold",
        "reference_score",
        "sft_score",
        "sft_gold",
        "sft_kl",
    )
    table |= {name: generator.normal(1, 1, POSTS).tolist() for name in measured}
    rows = [list(values) for values in zip(*table.values(), strict=True)]
    (folder / "samples.json").write_text(json.dumps({"columns": list(table), "data": rows}))
    episodes = [_episode(episode, generator) for episode in range(EPISODES)]
    (folder / "episodes.json").write_text(json.dumps({"eos": "<|endoftext|>", "episodes": episodes}))


def _episode(place: int, generator: np.random.Generator) -> dict:
    """One traced episode: what was asked, and what the policy and the SFT policy wrote, with a number per token."""
    update = (0, UPDATES // 2, UPDATES - 1)[place % 3]
    pieces = ["Ġword"] * (TOKENS - 1) + ["<|endoftext|>"]
    said = {"text": "word " * (TOKENS - 1), "ended": True, "score": 1.2, "kl": 3.4, "tokens": pieces}
    told = ("logprob", "ref_logprob", "updated_logprob", "value", "reward", "advantage", "returns", "score_so_far")
    ours = {name: generator.normal(0, 1, TOKENS).tolist() for name in told}
    theirs = {name: generator.normal(0, 1, TOKENS).tolist() for name in ("logprob", "policy_logprob", "score_so_far")}
    return {
        "episode": update * EPISODES_PER_UPDATE + place,
        "update": update,
        "updates": UPDATES,
        "post_id": f"t3_{place}",
        "query": "SUBREDDIT: r/legal\n\nTITLE: car\n\nPOST: it was burned .\n\nTL;DR:",
        "reference": "neighbour burned car .",
        "policy": said | {"gold": 3.1} | ours,
        "sft": said | theirs,
    }
