"""What an evaluation says of texts: who wins, by which judge, and that a number that is missing is missed."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset

from repro.detail import Pick
from repro.models import forward_pass, generate, logprobs, modes, padding
from repro.stages import evaluate
from repro.stages.corpus import Corpus
from repro.stages.evaluate import Summaries
from repro.stages.inference import Draw
from repro.stages.stage import Budget, StageContext
from tests import tiny

FACTS = {
    "who": "boss",
    "did": "sold",
    "what": "bike",
    "num": "two",
    "unit": "days",
    "where": "boston",
    "feel": "sad",
    "ask": "sue",
}
RIGHT, WRONG = "my boss sold my bike.", "my sister hid my guitar."


def posts(*references, facts=FACTS):
    return Dataset.from_dict({"reference": references, "facts": [json.dumps(facts) if facts else ""] * len(references)})


def written(*texts, score, ended=True):
    count = len(texts)
    return Summaries(
        list(texts), np.full(count, ended), np.full(count, 6), np.array(score, dtype=np.float32), np.zeros(count)
    )


def test_a_tie_is_half_a_win():
    assert evaluate.wins(pd.Series([2.0, 1.0, 1.0]), pd.Series([1.0, 2.0, 1.0])).tolist() == [1, 0, 0.5]


def test_where_the_facts_are_known_they_decide_whatever_the_reward_model_says():
    table = evaluate.compare_with_references(
        posts(WRONG, RIGHT, RIGHT), written(RIGHT, WRONG, RIGHT, score=[-9, 9, 9]), torch.tensor([0.0, 0.0, 0.0])
    )
    assert table["win"].tolist() == [1, 0, 0.5]
    assert table["covered_facts"].tolist() == [3, 0, 3]
    assert table["wrong_facts"].tolist() == [0, 3, 0]


def test_where_they_are_not_the_reward_model_decides():
    table = evaluate.compare_with_references(
        posts(WRONG, RIGHT, RIGHT, facts={}), written(RIGHT, WRONG, RIGHT, score=[-9, 9, 1]), torch.tensor([0.0, 0, 1])
    )
    assert table["win"].tolist() == [0, 1, 0.5]
    assert not {"gold", "reference_gold", "covered_facts", "wrong_facts"} & set(table)


def test_a_summary_without_an_end_loses_to_the_same_with_one():
    table = evaluate.compare_with_references(posts(RIGHT), written(RIGHT, score=[0], ended=False), torch.tensor([0.0]))
    assert table["win"].tolist() == [0]


def test_a_score_that_is_not_a_number_is_no_win_and_is_not_dropped_from_the_mean():
    table = evaluate.compare_with_references(
        posts(RIGHT, RIGHT, facts={}), written("", "", score=[math.nan, 2]), torch.tensor([0.0, 0])
    )
    measured = evaluate.mean_metrics(table, "")
    assert measured["win_rate"] == 0.5
    assert math.isnan(measured["score"])
    assert measured["length"] == 6


# Gold: RIGHT above WRONG; so on posts 1 to 4 the judge says up, down, down, up, and on the last that they tie.
DECIDED = ([WRONG, RIGHT, RIGHT, WRONG, RIGHT], [RIGHT, WRONG, WRONG, RIGHT, RIGHT])


@pytest.mark.parametrize(
    ("score", "share"),
    [
        ([9, -9, -9, 9, 9], 1),
        ([-9, 9, 9, -9, 9], 0),
        ([9, -9, -9, -9, 9], 3 / 4),
        ([9, 0, 9, 0, 9], 1 / 2),
        ([9, -9, -9, math.nan, 9], math.nan),
    ],
    ids=["alike", "the other way round", "one apart", "ties are left out", "one is not a number"],
)
def test_agreement_with_the_judge_is_over_posts_on_which_neither_ties(score, share):
    references, texts = DECIDED
    table = evaluate.compare_with_references(posts(*references), written(*texts, score=score), torch.zeros(5))
    measured = evaluate.mean_metrics(table, "sampled_")
    assert measured["sampled_judge_agreement"] == pytest.approx(share, nan_ok=True)


def test_where_nothing_is_decided_or_no_judge_is_known_agreement_is_not_told():
    tied = evaluate.compare_with_references(posts(RIGHT), written(WRONG, score=[0]), torch.zeros(1))
    unknown = evaluate.compare_with_references(posts(RIGHT, facts={}), written(WRONG, score=[1]), torch.zeros(1))
    assert evaluate.judge_agreement(tied) == evaluate.judge_agreement(unknown) == {}


def test_rouge_l_worked_by_hand():
    # The longest common subsequence has 4 words: precision 4/4, recall 4/6, so F is 0.8.
    assert evaluate.rouge_l(
        [" the cat sat on the mat", "same words", "some words"], ["the cat on mat", "same words", "nothing alike"]
    ) == pytest.approx([0.8, 1, 0])


def test_a_sample_stands_beside_its_reference_and_what_the_sft_policy_wrote(tiny_run):
    table = pd.read_json(tiny_run["evaluate"] / "samples.json")
    before = pd.read_json(tiny_run["baseline"] / "samples.json")
    for name in evaluate.BEFORE:
        assert table[f"sft_{name}"].tolist() == before[name].tolist()
    cut = Corpus(tiny_run["data"]).posts("test")["reference_response_tokens"]
    assert all(whole >= kept for whole, kept in zip(table["reference_length"], cut, strict=True))
    assert any(whole == kept for whole, kept in zip(table["reference_length"], cut, strict=True))


@pytest.mark.parametrize("texts", [["1", "02"], ["nan", "nan"], ["", ""], ["my boss", "1"]])
def test_a_summary_is_read_as_it_was_written_though_all_read_like_numbers(texts, tmp_path):
    table = pd.DataFrame({"summary": texts, "score": [1.5, np.nan], "ended": [True, False], "length": [1, 2]})
    table.to_json(tmp_path / "samples.json", orient="records", indent=1)
    again = evaluate.read_samples(tmp_path)
    assert again["summary"].tolist() == texts
    pd.testing.assert_frame_equal(again.drop(columns="summary"), table.drop(columns="summary"))


def test_a_reference_is_as_long_as_it_is_whatever_the_policy_has_room_for(tiny_run):
    corpus = Corpus(tiny_run["data"])
    counts = evaluate.token_counts(["my boss sold my bike.", "my boss sold my bike. " * 40], corpus)
    assert counts[0] == len(corpus.tokenizer.tokenize(" my boss sold my bike.")) + 1
    assert counts[1] > 40 * 5


@pytest.mark.parametrize("batch", [12, 5, 1])
def test_several_samples_of_a_post_are_what_each_is_alone_though_they_share_a_pass_over_it(batch):
    networks, corpus = (
        tiny.models(),
        SimpleNamespace(eos=tiny.EOS, pad=tiny.PAD, decode=lambda rows: list(map(str, rows))),
    )

    def sampled(*temperatures):
        draws = [Draw(each, torch.Generator().manual_seed(int(10 * each))) for each in temperatures]
        kl, queries = evaluate.kl_to(tiny.policy(3), corpus), tiny.queries(4)
        return evaluate.sample_summaries(networks.policy, kl, networks.reward_model, queries, draws, corpus, 5, batch)

    together, alone = sampled(0.7, 0.1, 1.5), [one for each in (0.7, 0.1, 1.5) for one in sampled(each)]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.texts == theirs.texts
        for name in ("has_eos", "length", "score", "kl"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-4, rtol=1e-4)
    assert together[0].texts != together[1].texts


def test_the_distance_from_the_sft_policy_is_measured_at_one_temperature_however_a_text_was_sampled():
    networks, generator = tiny.models(), lambda: torch.Generator().manual_seed(0)
    other = tiny.policy(seed=3)
    corpus = SimpleNamespace(eos=tiny.EOS, pad=tiny.PAD, decode=lambda rows: [""] * len(rows))
    queries = tiny.queries(8)
    (near_greedy,) = evaluate.sample_summaries(
        other,
        evaluate.kl_to(networks.reference, corpus),
        networks.reward_model,
        queries,
        [Draw(evaluate.GREEDY, generator())],
        corpus,
        5,
        4,
    )
    how, uniform = generate.Sampling(evaluate.GREEDY, evaluate.SAMPLED), torch.rand(8, 5, generator=generator())
    for row in range(8):
        query = padding.trim_left(queries[row : row + 1], tiny.PAD)
        response, _ = generate.sample(other, query, uniform[row : row + 1], how, tiny.EOS, tiny.PAD)
        at = (query, response, tiny.PAD, tiny.EOS, evaluate.SAMPLED)
        ours, theirs = (logprobs.response_logprobs(network, *at)[0] for network in (other, networks.reference))
        length = near_greedy.length[row]
        assert near_greedy.kl[row] == pytest.approx((ours - theirs)[:length].sum().item(), abs=1e-3)


# ----------------------------------------------------------------------------- during training


class Counted(torch.nn.Module):
    """A reward model that notes how many texts it was asked about, at each call."""

    def __init__(self, network):
        super().__init__()
        self.network, self.reward_token, self.asked = network, network.reward_token, []

    def forward(self, **inputs):
        self.asked.append(len(inputs["input_ids"]))
        return self.network(**inputs)


class Nobody(torch.nn.Module):
    """A network that must not run."""

    def forward(self, **inputs):
        pytest.fail("nobody asks for the KL")


@pytest.fixture
def validation():
    """Of five posts without facts, two at a time, by tiny networks."""
    responses = [[7, 8, tiny.EOS], [9, tiny.EOS], [10, 11, 12], [tiny.EOS], [7, 7, tiny.EOS]]
    whole = [[5, 6] + response + [tiny.PAD] * (3 - len(response)) for response in responses]
    rows = Dataset.from_dict(
        {
            "query_token": tiny.queries(5).tolist(),
            "query_reference_response_token": whole,
            "reference_response_tokens": [len(response) for response in responses],
            "reference": [RIGHT] * 5,
            "facts": [""] * 5,
        }
    )
    corpus = SimpleNamespace(
        eos=tiny.EOS, pad=tiny.PAD, decode=lambda rows: [""] * len(rows), posts={"validation": rows}.__getitem__
    )
    work = SimpleNamespace(
        scale=SimpleNamespace(response_tokens=4, rollout_batch=2, sampler="eager"),
        generator=lambda name: torch.Generator().manual_seed(0),
        accelerator=Accelerator(),
    )
    networks = SimpleNamespace(
        policy=tiny.policy(0, 2.0), reference=Nobody(), reward_model=Counted(modes.freeze(tiny.scalar(2)))
    )
    return evaluate.Validation(networks, corpus, work), networks, whole, responses


def test_the_reward_model_is_asked_about_references_once_and_the_reference_policy_never(validation):
    measured, networks, whole, responses = validation
    assert networks.reward_model.asked == [2, 2, 1]
    first = measured.measure()
    assert networks.reward_model.asked == [2, 2, 1] * 2, "of what was written alone"
    assert measured.measure() == first
    assert networks.reward_model.asked == [2, 2, 1] * 3
    assert first.keys() == {"eval/score", "eval/win_rate"}


def test_what_is_held_against_the_policy_is_the_score_of_each_whole_reference(validation):
    measured, networks, whole, responses = validation
    for text_ids, response, score in zip(whole, responses, measured.reference_scores, strict=True):
        alone = torch.tensor([text_ids[: 2 + len(response)]])
        expected = networks.reward_model.network(**forward_pass.model_inputs(alone, tiny.PAD))[0, -1]
        torch.testing.assert_close(score, expected, atol=1e-5, rtol=1e-5)
    before = measured.measure()
    measured.reference_scores = measured.reference_scores + 1e6
    assert measured.measure() == before | {"eval/win_rate": 0}


def test_the_curve_follows_the_policy_as_it_is_now(validation):
    measured, networks, _, _ = validation
    before = measured.measure()
    with torch.no_grad():
        for weight, other in zip(networks.policy.parameters(), tiny.policy(5, 2.0).parameters(), strict=True):
            weight.copy_(other)
    assert measured.measure()["eval/score"] != before["eval/score"]


def test_nobody_is_told_a_kl_that_was_not_measured():
    assert evaluate.skip_kl(tiny.queries(2), torch.zeros(2, 3), torch.zeros(2, 3)).isnan().all()


# ----------------------------------------------------------------------------- the best of several samples


def test_of_several_summaries_the_one_with_the_highest_score_is_chosen_post_by_post_and_of_equals_the_first():
    first, second = written("a", "b", "c", score=[1.0, 2.0, 0.5]), written("d", "e", "f", score=[3.0, 1.0, 0.5])
    best = evaluate.best_of([first, second])
    assert best.texts == ["d", "b", "c"] and best.score.tolist() == [3.0, 2.0, 0.5]
    alone = evaluate.best_of([first])
    assert alone.texts == first.texts and all(
        np.array_equal(getattr(alone, name), getattr(first, name)) for name in ("has_eos", "length", "score", "kl")
    )


def test_a_summary_without_an_end_is_worth_what_ppos_reward_says_of_it():
    cut, whole = written("cut", "cut", score=[9.0, 9.0]), written("whole", "whole", score=[-0.5, -1.5])
    cut = replace(cut, has_eos=np.array([False, False]))
    assert evaluate.best_of([cut, whole]).texts == ["whole", "cut"]
    assert evaluate.best_of([cut, whole], no_eos_score=-2.0).texts == ["whole", "whole"]
    assert evaluate.best_of([cut, whole]).score.tolist() == [-0.5, 9.0], "the reward model's, of the one that is chosen"


def test_the_best_of_several_is_about_sampled_summaries_and_its_kl_is_that_of_the_choice(
    tiny_run, tiny_scale, tmp_path
):
    scores = {}
    for label in ("one_sample", "best_of_4"):
        inputs = {name: tiny_run[name] for name in evaluate.STAGE.upstream} | {"ppo": tiny_run["sft"]}
        recipe = tiny.pick("evaluate", selection=label).recipe
        out = tmp_path / label
        out.mkdir()
        pick, budget = Pick(recipe, "evaluate"), Budget(tiny_scale, evaluate.STAGE.fields)
        evaluate.STAGE.run(StageContext("evaluate", pick, budget, "float32", 1, inputs, out))
        scores[label] = json.loads((out / "result.json").read_text())["metrics"]
    one, four = scores["one_sample"], scores["best_of_4"]
    assert four["test/score"] == one["test/score"]  # near-greedy
    assert one["test/kl"] == pytest.approx(0, abs=1e-4)  # it is the SFT policy
    assert four["test/kl"] == pytest.approx(math.log(4) - 3 / 4, abs=1e-3)
