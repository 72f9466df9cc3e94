"""Names in the MLflow store: the tags, files and columns that tracking writes and the reports read, each spelled once.

Stores of earlier versions hold the same names, so a value here never changes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

# Tags of a study's experiment, and of each of its runs.
DETAIL, SCALE = "detail", "scale"

# Tags of the runs: one arm and seed each.
ARM, SEED, REFERENCE = "arm", "seed", "reference"
RECIPE = "recipe"  # JSON: detail -> label, of the choices that are not the paper's
DOES = "does"  # what the arm's variant does, in words; runs of earlier versions have none
RECORD = "record"  # digest that identifies the run: the same in every store that holds it
REQUESTED = (
    "asked"  # when a study last asked for the run [ns]: of two with one arm and seed, a report uses the later one
)
OUTCOME, COMPLETE, ERROR = "outcome", "complete", "error"
STAGE_SECONDS = "stage_seconds"  # JSON: stage -> seconds
COMMIT, LOCK, MACHINE, VERSIONS, SOURCES, COMMAND = "commit", "lock", "machine", "versions", "sources", "command"
# JSON: stage -> what of its code had changed since it was made, where a run used it all the same.
OUTDATED = "outdated"
PROVENANCE = (RECIPE, STAGE_SECONDS, COMMIT, MACHINE, VERSIONS, COMMAND, RECORD, LOCK, SOURCES, OUTDATED)
JUDGEMENT_DIGEST = "judgement"  # digest of the file JUDGEMENT

# How a run ends.
FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"
OUTCOMES = (FINISHED, DIVERGED, FAILED)

# The plan: tags that each run has before it starts.
QUESTION, HYPOTHESIS, EXPECTED, PAPER, PRIMARY = "question", "hypothesis", "moves", "paper", "primary"
HIGHER_IS_BETTER, SMALLEST_EFFECT, LOOKS = "higher_is_better", "smallest_effect", "looks"
JUDGE, KL_CAP = "judge", "kl_cap"
PLAN = (QUESTION, HYPOTHESIS, EXPECTED, PAPER, PRIMARY, HIGHER_IS_BETTER, SMALLEST_EFFECT, LOOKS, JUDGE, KL_CAP)
# The primary metrics that a ceiling is one of: those by which the gold score decides.
CEILING_METRICS = ("test/sampled_win_rate", "test/win_rate", "test/sampled_gold", "test/gold")
GOLD_SCORE, REWARD_MODEL = "gold score", "reward model"  # values of JUDGE: what decides a win

# Tags of a study's parent run.
ROLE, STUDY = "role", "study"
REPORTED = "reported"  # when its report was stored [ns]
VERDICT = "verdict"  # all arms' in words; of one arm its word, in the tag `verdict_tag(arm)`
# A ceiling's runs have this role and arm, and reports take them for no arm: the study's reference, with this choice more.
CEILING, CEILING_DETAIL, CEILING_LABEL = "ceiling", "reward_source", "gold"
# The detail whose arms differ only in random numbers.
CONTROL_DETAIL = "draws"
STUDY_TAGS = (DETAIL, SCALE, QUESTION, HYPOTHESIS, PAPER, PRIMARY, HIGHER_IS_BETTER)

# Artifact files of a run; the artifact folder beside a sqlite store.
SAMPLES, EPISODES, DATA_CHECKS, JUDGEMENT = "samples.json", "episodes.json", "data.json", "judge.json"
CONFIG = "config.json"  # the run's study: every choice of every arm, every field of its Scale
CHANGES = "changes.patch"  # how the working tree differed from its commit
ARTIFACTS = "mlartifacts"
SAMPLE_COLUMNS = {"post_id", "query", "reference", "summary", "score", "length", "ended"}  # in files of every version
DATA_CHECK_PARTS = {"corpus", "posts", "pairs", "shared"}

# The stages of a run, in order; the key of each is in the tag `stage_tag(name)`.
STAGES = ("data", "base", "sft", "rm", "baseline", "ppo", "feedback", "evaluate")
STAGE = "stage."


# Which attempt at a stage the run's points are of, in the tag `attempt_tag(name)`: set before the first of them.
ATTEMPT = "attempt."


def stage_tag(name: str) -> str:
    """The tag that holds a stage's key."""
    return f"{STAGE}{name}"


def verdict_tag(arm: str) -> str:
    """The tag of the parent run that holds the word of an arm's verdict."""
    return f"{VERDICT}.{arm}"


def attempt_tag(name: str) -> str:
    """The tag that says which attempt at a stage the run's points are of."""
    return f"{ATTEMPT}{name}"


def last_attempt(points: Sequence[tuple[int, int]]) -> list[int]:
    """Places of a metric's points (step, time [ms]) that count, in the order of their steps.

    A store of an earlier version also has the points of an attempt at the stage that was killed. Then some step has two, and
    in the order of their times the last attempt begins where the steps last go back; of one step the later point counts.
    """
    order = sorted(range(len(points)), key=lambda place: (points[place][1], points[place][0]))
    if len({step for step, _ in points}) < len(points):
        back = [at for at, (one, other) in enumerate(pairwise(order), 1) if points[other][0] < points[one][0]]
        order = order[back[-1] :] if back else order
    return [place for _, place in sorted({points[place][0]: place for place in order}.items())]


def study_name(detail: str, scale: str) -> str:
    """The name of a study's experiment."""
    return f"{detail}-{scale}"


def requested(tags: Mapping[str, str]) -> int:
    """When a study last asked for the run [ns]; 0 for a run of a version that did not record it."""
    return int(tags.get(REQUESTED, 0))


def flag(value: bool) -> str:
    """A boolean as the value of a tag."""
    return str(value).lower()


def is_set(tags: Mapping[str, str], name: str) -> bool:
    """Whether the boolean tag of that name is true."""
    return tags.get(name) == flag(True)


# How those parts of the plan that are not text are written and read.


@dataclass(frozen=True)
class Plan:
    """What a study declares before its runs."""

    question: str
    hypothesis: str
    expected: Mapping[str, Any]  # metric -> "up", "down" or "same", or metric -> arm -> one of these
    paper: str
    primary: str
    higher_is_better: bool
    smallest_effect: float
    looks: Sequence[int]  # numbers of seeds at which a sequential study is tested
    judge: str
    kl_cap: float  # nats

    def tags(self) -> dict[str, str]:
        """The plan as tags; a study with a fixed number of seeds has no tag for looks."""
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
    """`Plan.expected`, read from the tags."""
    return json.loads(tags[EXPECTED])


def smallest_effect(tags: Mapping[str, str]) -> float:
    """`Plan.smallest_effect`, read from the tags."""
    return float(tags[SMALLEST_EFFECT])


def looks(tags: Mapping[str, str]) -> tuple[int, ...]:
    """`Plan.looks`, read from the tags."""
    return tuple(map(int, tags[LOOKS].split()))


@dataclass(frozen=True)
class Judgement:
    """A language model's judgement of one run's summaries; the fields are those of its file, in order."""

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


# The fields that the page of a judgement needs.
JUDGEMENT_PARTS = {each.name for each in fields(Judgement)} - {"question", "first_answer", "unanswered"}
