"""The steps of one arm and seed, and their cache keys.

Most arms have one step of each kind, data -> base -> sft -> rm -> ppo -> evaluate. An arm with rounds of feedback has reward
models and policies of earlier rounds before its last ones, and one with an ensemble has several reward models.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repro import details as d
from repro.detail import PIPELINE, Pick, Recipe
from repro.details import check_corpus
from repro.engine import artefacts
from repro.stages import base, data, evaluate, feedback, ppo, rm, sft
from repro.stages.stage import Stage
from repro.study.scale import Scale

STAGES: tuple[Stage, ...] = (
    data.STAGE,
    base.STAGE,
    sft.STAGE,
    rm.STAGE,
    evaluate.BASELINE,
    ppo.STAGE,
    feedback.STAGE,
    evaluate.STAGE,
)
BY_NAME = {stage.name: stage for stage in STAGES}
LAST = 1_000  # round of feedback: more than an arm has
MEMBER_SEEDS = 1_000_000  # between the seeds of an ensemble's reward models; more than a study has


@dataclass(frozen=True)
class Step:
    """A stage in an arm's pipeline. The last step of a kind has the stage's name: its numbers are the run's."""

    stage: Stage
    name: str
    sources: Mapping[str, str] = field(default_factory=dict)  # input of the stage -> the step that it comes from
    member: int = 1  # of an ensemble, whose reward models differ in their random numbers
    round: int = LAST

    def __post_init__(self) -> None:
        known = {*self.stage.upstream, *self.stage.optional}
        assert self.sources.keys() <= known, f"{self.stage.name} reads {known}, and not all of {set(self.sources)}"

    @property
    def order(self) -> tuple[int, int]:
        """Steps of less order start first where several can."""
        return self.round, STAGES.index(self.stage)

    def inputs(self, keys: Mapping[str, str]) -> dict[str, str]:
        """Of an arm's keys by step, those of the artefacts that the stage reads, by its own names for them."""
        sources = {name: name for name in self.stage.upstream} | dict(self.sources)
        return {name: keys[step] for name, step in sources.items()}


def steps(recipe: Recipe) -> tuple[Step, ...]:
    """An arm's steps, each after those that it reads."""
    *rounds, ppo_step = _rounds(Pick(recipe, PIPELINE))
    first = [Step(each, each.name, round=0) for each in (data.STAGE, base.STAGE, sft.STAGE)]
    baseline, evaluation = (Step(each, each.name) for each in (evaluate.BASELINE, evaluate.STAGE))
    return (*first, *rounds, baseline, ppo_step, evaluation)


def _rounds(pick: Pick) -> Iterator[Step]:
    """Reward model and PPO; in each further round after comparisons of what the policy of the round before writes."""
    rounds = pick(d.FEEDBACK_ROUNDS)
    last = rounds.number

    def name(stage: Stage, number: int) -> str:
        return stage.name if number == last else f"{stage.name}_round_{number}"

    for number in range(1, last + 1):
        order = LAST if number == last else number
        for_rm, for_ppo = {}, {"rm": name(rm.STAGE, number)}
        if number > 1:
            policy = name(ppo.STAGE, number - 1)
            read = {"rm": name(rm.STAGE, number - 1), "ppo": policy if rounds.compared == "last" else "sft"}
            read |= {"earlier": name(feedback.STAGE, number - 1)} if number > 2 else {}
            yield Step(feedback.STAGE, name(feedback.STAGE, number), read, round=number - 1)
            for_rm = {"feedback": name(feedback.STAGE, number)}
            for_ppo |= {"start": policy} if rounds.start == "last" else {}
        yield Step(rm.STAGE, name(rm.STAGE, number), for_rm, round=order)
        for member in range(2, pick(d.REWARD_ENSEMBLE).size + 1) if number == last else ():
            yield Step(rm.STAGE, f"rm_{member}", for_rm, member)
            for_ppo[f"rm_{member}"] = f"rm_{member}"
        yield Step(ppo.STAGE, name(ppo.STAGE, number), for_ppo, round=order)


def all_steps(recipe: Recipe, scale: Scale, seed: int) -> Iterator[tuple[Step, dict[str, str]]]:
    """Each step with what it reads and its own key, by the stage's names."""
    found: dict[str, str] = {}
    for each in steps(recipe):
        inputs = each.inputs(found)
        key = artefacts.key(each.stage, recipe, scale, seed_of(seed, each.member), inputs)
        found[each.name] = key
        yield each, inputs | {each.stage.name: key}


def seed_of(seed: int, member: int) -> int:
    """The seed of an ensemble's member; of the first, the arm's."""
    return seed + MEMBER_SEEDS * (member - 1)


def keys(recipe: Recipe, scale: Scale, seed: int) -> dict[str, str]:
    """The key of every step of an arm and seed by name, in order: equal keys are shared between arms."""
    return {each.name: keys[each.stage.name] for each, keys in all_steps(recipe, scale, seed)}


def run(recipe: Recipe, scale: Scale, seed: int, cache: Path, warn: Callable[[str], None] = print) -> dict[str, Path]:
    """Run or reuse every step; returns name -> folder. UserError for an arm that the corpus does not support."""
    check_corpus(recipe, scale.corpus, scale.annotator)
    return {
        each.name: artefacts.run_or_reuse(each.stage, recipe, scale, seed_of(seed, each.member), keys, cache, warn)
        for each, keys in all_steps(recipe, scale, seed)
    }
