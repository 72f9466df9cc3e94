"""The annotators of a study's rounds of feedback: shown with their price before it starts, and checked to be available."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from repro.data import local
from repro.detail import Recipe
from repro.details.feedback import FEWER
from repro.engine import artefacts, pipeline
from repro.engine.dag import Dag
from repro.models import folders, starts
from repro.stages import annotators, feedback
from repro.stages.data import require_vocabulary
from repro.study import annotator
from repro.study.scale import Scale


def lines(dag: Dag) -> Iterator[str]:
    """Lines on who compares in the remaining rounds, and what that costs at most; UserError for a malformed address."""
    for scale, seeds in _rounds(dag).items():
        count, named = len(seeds), scale.annotator
        rounds = f"{count} round{'s' * (count > 1)} of feedback"
        if annotator.is_judge(named):
            yield _bill(scale, count, rounds)
        elif named:
            yield f"{rounds}: the reward model {named} compares what the policies sample; the higher score is preferred"


def check(dag: Dag) -> None:
    """UserError where a remaining round has no annotator; a judge is asked one short question, which costs money."""
    for scale, seeds in _rounds(dag).items():
        _check(scale, seeds, dag.cache)


def check_arm(recipe: Recipe, scale: Scale, seed: int, cache: Path) -> None:
    """As `check`, of one arm and seed."""
    found = pipeline.keys(recipe, scale, seed)
    rounds = [found[step.name] for step in pipeline.steps(recipe) if step.stage is feedback.STAGE]
    if not all(artefacts.cached(cache / key) for key in rounds):
        _check(scale, [seed], cache)


def _rounds(dag: Dag) -> dict[Scale, list[int]]:
    """Scale -> the seed of each round of feedback that is left."""
    found: dict[Scale, list[int]] = {}
    for key, job in dag.jobs.items():
        if key not in dag.done and job.stage == feedback.STAGE.name:
            found.setdefault(job.scale, []).append(job.seed)
    return found


def _bill(scale: Scale, count: int, rounds: str) -> str:
    from repro.stages import judge

    who = annotators.judge_of(scale)
    pairs = scale.comparisons // FEWER + scale.validation_posts
    cost = judge.bound(who, 2 * count * pairs, scale.query_tokens, scale.response_tokens)
    words = cost.words(*annotator.prices(scale.judge_prices))
    return (
        f"{rounds}: {who.name} at {who.host} compares {pairs} pairs in each, in both orders; at most {words}; "
        "what it has answered before is not asked again, and its time is in no estimate"
    )


def _check(scale: Scale, seeds: Iterable[int], cache: Path) -> None:
    if annotator.is_judge(scale.annotator):
        from repro.stages import judge

        who, api_key = annotators.judge_of(scale), annotators.key_of(scale)
        judge.require_answer(who, api_key, judge.Answers(cache / judge.FOLDER))
    elif scale.annotator:
        for seed in dict.fromkeys(seeds):
            _check_reward_model(scale, seed)


def _check_reward_model(scale: Scale, seed: int) -> None:
    """UserError where a seed's annotator is missing, is no reward model, or has another tokenizer; no weights are read."""
    name = f"the annotator of seed {seed}"
    folder = starts.start_of(scale.annotator, scale.model, seed, "rm", name)
    folders.check_network(name, folder)
    require_vocabulary(local.load_tokenizer(scale.tokenizer), starts.reward_model_vocabulary(folder), "the annotator")
