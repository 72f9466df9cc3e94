"""What the store holds, by name: the tags, files and columns that tracking writes and the reports read, each spelled once.

Stores of earlier versions hold the same words, so a value here never changes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

# Tags of a study's experiment, and of each of its runs.
DETAIL, SCALE = "detail", "scale"

# Tags of the runs: one arm and seed each.
ARM, SEED, REFERENCE = "arm", "seed", "reference"
RECIPE = "recipe"  # JSON: detail -> label, of the choices that are not the paper's
RECORD = "record"  # the same for the same run in any store
ASKED = "asked"  # when the run was last asked for [ns]: of two with one arm and seed, a report takes the later one
OUTCOME, COMPLETE, ERROR = "outcome", "complete", "error"
STAGE_SECONDS = "stage_seconds"  # JSON: stage -> seconds
COMMIT, LOCK, MACHINE, VERSIONS, SOURCES, COMMAND = "commit", "lock", "machine", "versions", "sources", "command"
PROVENANCE = (RECIPE, STAGE_SECONDS, COMMIT, MACHINE, VERSIONS, COMMAND, RECORD, LOCK, SOURCES)
JUDGED = "judgement"  # digest of what a judge said of the run

# How a run ends.
FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"
ENDED = (FINISHED, DIVERGED, FAILED)  # after which nothing more comes of it

# The plan, in tags of each run that were written before it.
QUESTION, HYPOTHESIS, EXPECTED, PAPER, PRIMARY = "question", "hypothesis", "moves", "paper", "primary"
HIGHER_IS_BETTER, SMALLEST_EFFECT, LOOKS = "higher_is_better", "smallest_effect", "looks"
JUDGE, KL_CAP = "judge", "kl_cap"
PLAN = (QUESTION, HYPOTHESIS, EXPECTED, PAPER, PRIMARY, HIGHER_IS_BETTER, SMALLEST_EFFECT, LOOKS, JUDGE, KL_CAP)
GOLD_SCORE, REWARD_MODEL = "gold score", "reward model"  # who decides a win

# Tags of the run that a study's runs hang under, and what it says of the study.
ROLE, STUDY = "role", "study"
REPORTED = "reported"  # when its report was kept [ns]
HEADING = (DETAIL, SCALE, QUESTION, HYPOTHESIS, PAPER, PRIMARY, HIGHER_IS_BETTER)

# Files of a run, and the folder of all files beside a store that is a file.
SAMPLES, EPISODES, DATA_CHECKS, JUDGEMENT = "samples.json", "episodes.json", "data.json", "judge.json"
ARTIFACTS = "mlartifacts"
SAMPLED = {"post_id", "query", "reference", "summary", "score", "length", "ended"}  # columns that all versions wrote
CHECKED = {"corpus", "posts", "pairs", "shared"}  # parts of the checks of the data

# The stages of a run, in order; each has a tag that holds its key.
STAGES = ("data", "base", "sft", "rm", "baseline", "ppo", "evaluate")
STAGE = "stage."


def stage_tag(name: str) -> str:
    """The tag that holds a stage's key."""
    return f"{STAGE}{name}"


def study_name(detail: str, scale: str) -> str:
    """The name of a study's experiment."""
    return f"{detail}-{scale}"


def asked(tags: Mapping[str, str]) -> int:
    """When a run was last asked for [ns]; 0 where an earlier version did not write it down."""
    return int(tags.get(ASKED, 0))


def flag(value: bool) -> str:
    """Whether something is so, as a tag says it."""
    return str(value).lower()


def is_set(tags: Mapping[str, str], name: str) -> bool:
    """Whether a run says that something is so."""
    return tags.get(name) == flag(True)


# How the parts of the plan that are no text are written and read.


@dataclass(frozen=True)
class Plan:
    """What a study declares before its runs."""

    question: str
    hypothesis: str
    expected: Mapping[str, Any]  # metric -> up, down or same, or these by arm
    paper: str
    primary: str
    higher_is_better: bool
    smallest_effect: float
    looks: Sequence[int]  # numbers of seeds at which it is judged while it grows
    judge: str
    kl_cap: float  # nats

    def tags(self) -> dict[str, str]:
        """As each run says it; a study that does not grow says nothing of looks."""
        return {
            QUESTION: self.question,
            HYPOTHESIS: self.hypothesis,
            EXPECTED: json.dumps(dict(self.expected)),
            PAPER: self.paper,
            PRIMARY: self.primary,
            HIGHER_IS_BETTER: flag(self.higher_is_better),
            SMALLEST_EFFECT: str(self.smallest_effect),
            **({LOOKS: " ".join(map(str, self.looks))} if self.looks else {}),
            JUDGE: self.judge,
            KL_CAP: str(self.kl_cap),
        }


def expected(tags: Mapping[str, str]) -> dict[str, Any]:
    """`Plan.expected` as it was written."""
    return json.loads(tags[EXPECTED])


def smallest_effect(tags: Mapping[str, str]) -> float:
    """`Plan.smallest_effect` as it was written."""
    return float(tags[SMALLEST_EFFECT])


def looks(tags: Mapping[str, str]) -> tuple[int, ...]:
    """`Plan.looks` as they were written."""
    return tuple(map(int, tags[LOOKS].split()))


@dataclass(frozen=True)
class Judgement:
    """What a language model said of one run's summaries, in the order in which its file says it."""

    model: str
    answered_by: list[str]
    hosts: list[str]
    sampling: dict[str, float]
    prompt: int
    question: str
    first_answer: str
    last_answer: str
    unanswered: int
    metrics: dict[str, float]
    verdicts: list[dict[str, Any]]


# What a page of a judgement needs of it.
JUDGEMENT_PARTS = {each.name for each in fields(Judgement)} - {"question", "first_answer", "unanswered"}
