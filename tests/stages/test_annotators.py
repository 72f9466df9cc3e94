"""Who compares a round's samples where a reward model or a language model is named, on a corpus without annotators."""

import json
import math
import random
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch

from repro.__main__ import main
from repro.data import embedded
from repro.detail import Recipe
from repro.details import FEEDBACK_ROUNDS
from repro.engine import annotation, dag, pipeline
from repro.errors import UserError
from repro.models import padding, pretrained, scalar_model
from repro.stages import annotators, judge, rm
from repro.stages.comparisons import pairs_of
from repro.stages.corpus import Corpus
from repro.stages.stage import RESULT, read_journal
from repro.study import metrics
from repro.study.ablation import Ablation
from tests.endpoint import endpoint, hasten, prefer_longer, summaries
from tests.steps import run_until

TWO = Recipe().but(FEEDBACK_ROUNDS, "2")
VOCABULARY = 640  # of a policy with the embedded corpus's tokenizer, which has fewer tokens
GONE = "http://127.0.0.1:9/v1"  # where nobody listens


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    hasten(monkeypatch)


@pytest.fixture(scope="module")
def local_scale(tiny_scale, tmp_path_factory):
    """The tiny budget, on files of posts and comparisons of which nobody knows the facts."""
    folder = tmp_path_factory.mktemp("files")
    posts = embedded.make_posts(120, 5, "files")
    rows = {"posts": [{k: v for k, v in post.items() if k != "facts"} for post in posts]}
    rows["comparisons"] = embedded.make_comparisons(posts, 60, 5, "train")
    for name, values in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in values))
    files = {f"{name}_file": str(folder / f"{name}.jsonl") for name in rows}
    return replace(tiny_scale, name="tiny-local", corpus="local", **files)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    """The folder of a small reward model with random weights, of the policy's vocabulary."""
    return saved(VOCABULARY, tmp_path_factory.mktemp("reward model"))


def saved(vocabulary, folder):
    network = scalar_model.ScalarModel(
        pretrained.initialise_policy("gpt-neox:32/1/2/64", vocabulary, 256, 7).base_model, "eos"
    )
    scalar_model.head_normal(network.head, torch.Generator().manual_seed(7))
    network.head.weight.data.mul_(20)  # so that scores differ by more than what an annotator is sure of
    pretrained.save_scalar(network, folder)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache for all arms: they share what comes before the round."""
    return tmp_path_factory.mktemp("cache")


def run(scale, cache):
    return run_until("feedback", TWO, scale, cache)


def told(folders):
    """The round's metrics, each of which is defined."""
    (line,) = read_journal(folders["feedback"])
    assert all(metrics.known(name) for name in line["metrics"])
    return line["metrics"]


# ------------------------------------------------------------------------------------------------ a reward model


@pytest.fixture(scope="module")
def scored(local_scale, reward_model, cache):
    return pipeline.run(TWO, replace(local_scale, annotator=str(reward_model)), 1, cache, warn=pytest.fail)


def scorer_of(folder, corpus):
    return rm.Scorer(pretrained.load_scalar(folder).eval(), padding.unchanged, corpus.pad, 8)


def test_a_reward_model_prefers_what_it_scores_higher_the_surer_the_further(scored, reward_model):
    corpus, scorer = Corpus(scored["data"]), scorer_of(reward_model, Corpus(scored["data"]))
    for split in ("train", "validation"):
        rows = Corpus(scored["feedback"]).pairs(split)
        with torch.no_grad():
            margins = (scorer(rows, "chosen") - scorer(rows, "rejected")).tolist()
        assert margins and min(margins) > 0
        for margin, confidence in zip(margins, rows["confidence"]):
            likely = 1 / (1 + math.exp(-margin))
            assert confidence - 1 <= 9 * (2 * likely - 1) + 1e-5 and 9 * (2 * likely - 1) - 1e-5 <= confidence
    assert corpus.posts("train")["facts"][0] == ""


def test_what_is_known_of_the_embedded_corpus_alone_is_not_measured(scored, reward_model):
    measured = told(scored)
    assert "feedback/gold" not in measured and "feedback/unparsable" not in measured
    assert measured["feedback/undecided"] == 0 and math.isfinite(measured["feedback/annotator_score"])
    assert "rm/feedback_accuracy" in json.loads((scored["rm"] / RESULT).read_text())["metrics"]


def test_equal_scores_are_no_preference(local_scale, scored, reward_model):
    corpus = Corpus(scored["data"])
    posts = corpus.posts("train").select(range(4))
    one, other = (torch.full((4, 6), token) for token in (5, 6))
    other[0] = one[0]  # nothing to compare
    pairs = pairs_of(corpus, posts, one, other)
    flat = pretrained.load_scalar(reward_model).eval()
    flat.head.weight.data.zero_()
    flat.requires_grad_(False)
    annotate = annotators.RewardModelAnnotator(rm.Scorer(flat, padding.unchanged, corpus.pad, 8), VOCABULARY)
    opinions = annotate(pairs, random.Random(1))
    assert {each.choice for each in opinions.each} == {None} and annotators.ordered(pairs, opinions.each) == []
    assert opinions.measured["feedback/undecided"] == [1.0] * 3


def test_a_token_that_only_the_policy_has_is_not_read(scored, tmp_path):
    corpus = Corpus(scored["data"])
    size = len(corpus.tokenizer)
    scorer = scorer_of(saved(size, tmp_path / "smaller"), corpus)
    posts, beyond = corpus.posts("train").select(range(2)), VOCABULARY - 1
    one, other = torch.tensor([[5, 6, 7]] * 2), torch.tensor([[5, beyond, 7], [beyond] * 3])
    read = [pairs_of(corpus, posts, one, each) for each in (other, torch.tensor([[5, 7, corpus.eos]] * 2))]
    annotate = annotators.RewardModelAnnotator(scorer, size)
    with torch.no_grad():
        found, without = (annotate(each, random.Random(1)).measured["feedback/annotator_score"] for each in read)
    assert all(map(math.isfinite, found)) and found[:2] == without[:2] and found[2] != found[0]


def test_on_the_embedded_corpus_a_named_annotator_takes_the_place_of_its_own(tiny_scale, tiny_run, reward_model):
    named = replace(tiny_scale, annotator=str(reward_model))
    folders = run(named, tiny_run["data"].parent)
    assert folders["ppo_round_1"] == tiny_run["ppo"], "what comes before the round is shared"
    assert {"feedback/gold", "feedback/annotator_score"} <= told(folders).keys()
    assert folders["feedback"].name != pipeline.keys(TWO, tiny_scale, 1)["feedback"]


def test_a_key_is_of_what_the_reward_model_is_and_not_of_where_it_lies(local_scale, reward_model, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in reward_model.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    here, there, judged = (
        pipeline.keys(TWO, replace(local_scale, annotator=str(each)), 1)
        for each in (reward_model, moved, "judge:oracle")
    )
    assert here == there and here["feedback"] != judged["feedback"]
    elsewhere = replace(local_scale, annotator="judge:oracle", judge_url=GONE, judge_key_env="X", judge_prices="1,2")
    assert pipeline.keys(TWO, elsewhere, 1) == judged


# ------------------------------------------------------------------------------------------------ a language model


def at(server, scale, **fields):
    return replace(
        scale, annotator="judge:oracle", judge_url=server if isinstance(server, str) else server.base_url, **fields
    )


def contradictory(number, asked):
    """Of some posts the first summary is always the better one, of some there is no answer; else the longer one."""
    first, second = summaries(asked)
    kind = len(first) + len(second)
    if kind % 5 == 0:
        return "I cannot say."
    return "Comparison: x\nPreferred: A" if kind % 5 == 1 else prefer_longer(number, asked)


def test_a_judge_is_asked_in_both_orders_and_what_it_does_not_say_is_left_out_and_counted(local_scale, cache):
    pytest.importorskip("openai")
    with endpoint(contradictory) as server:
        folders = run(at(server, local_scale), cache)
        shown = Counter(summaries(body["messages"][-1]["content"]) for body in server.asked)
        assert len(server.asked) == len({json.dumps(body) for body in server.asked})
    assert shown and all(shown[second, first] for first, second in shown)
    measured, kept = told(folders), [Corpus(folders["feedback"]).pairs(split) for split in ("train", "validation")]
    assert "feedback/gold" not in measured and "feedback/annotator_score" not in measured
    assert 0 < measured["feedback/unparsable"] <= measured["feedback/undecided"] < 1
    different = round((1 - measured["feedback/equal_pairs"]) * 10)  # six posts, and four for validation
    assert sum(map(len, kept)) == round((1 - measured["feedback/undecided"]) * different) > 0
    for rows in kept:
        assert set(rows["confidence"]) <= {-1}
        assert all(len(row["chosen"].strip()) >= len(row["rejected"].strip()) for row in rows)
    body = server.asked[0]
    assert body["model"] == "oracle" and body["max_completion_tokens"] == 512 and "temperature" not in body
    assert "TL;DR" not in body["messages"][-1]["content"].split("Summary A:")[0]


def test_a_round_that_was_ended_pays_for_no_answer_twice(local_scale, cache, tmp_path):
    pytest.importorskip("openai")
    for folder in cache.iterdir():  # what comes before the round
        if folder.is_dir() and folder.name.split("-")[0] in ("data", "base", "sft", "rm", "ppo"):
            (tmp_path / folder.name).symlink_to(folder)
    with endpoint(
        lambda number, asked: prefer_longer(number, asked) if number < 5 else (400, "out of order")
    ) as server:
        with pytest.raises(
            UserError, match="7 of 12 questions to the judge oracle have no answer; the same command asks"
        ):
            run(at(server, local_scale), tmp_path)
        paid = {json.dumps(body["messages"]) for body in server.asked[:5]}
    with endpoint(prefer_longer) as server:
        again = run(at(server, local_scale), tmp_path)
        asked = {json.dumps(body["messages"]) for body in server.asked}
        assert asked and not asked & paid
        assert run(at(server, local_scale), tmp_path) == again and len(server.asked) == len(asked)
        answers = judge.Answers(tmp_path / judge.FOLDER).known
    assert len(answers) == len(paid) + len(asked), "they are where `make judge` would find them"


def test_a_question_that_stays_without_an_answer_ends_the_stage(local_scale, cache, tmp_path):
    pytest.importorskip("openai")
    who = annotators.judge_of(at(GONE, local_scale))
    corpus = Corpus(run_until("data", TWO, local_scale, cache)["data"])
    posts = corpus.posts("train").select(range(3))
    one, other = (torch.full((3, 6), token) for token in (70, 80))
    with endpoint(lambda number, asked: prefer_longer(number, asked) if number else (400, "no")) as server:
        who = replace(who, base_url=server.base_url)
        with pytest.raises(
            UserError, match="1 of 6 questions to the judge oracle have no answer; the same command asks"
        ):
            annotators.JudgeAnnotator(who, "", tmp_path)(pairs_of(corpus, posts, one, other), random.Random(1))


# ------------------------------------------------------------------------------------------------ before it starts


def study(scale, *labels):
    arms = {label: Recipe().but(FEEDBACK_ROUNDS, label) for label in ("1", *labels)}
    return Ablation(FEEDBACK_ROUNDS, "Does it matter?", arms, (1, 2), scale, "test/win_rate", True, 0.05)


def test_the_price_is_said_of_the_rounds_that_are_left_at_their_most(local_scale, tmp_path):
    found = dag.dag_of(study(at(GONE, local_scale, judge_prices="0.15,0.6"), "2", "3"), tmp_path)
    (line,) = annotation.lines(found)
    # Two seeds: of "2" one round, of "3" the same and another.
    assert line.startswith(
        "4 rounds of feedback: oracle at 127.0.0.1:9 compares 10 pairs in each, in both orders; at most 80 "
    )
    tokens = int(re.search(r"about ([\d,]+) tokens of questions", line)[1].replace(",", ""))
    assert tokens >= 80 * (local_scale.query_tokens + 2 * local_scale.response_tokens)
    price = (tokens * 0.15 + 80 * 512 * 0.6) / 1e6
    assert f"at most {80 * 512:,} of answers; at most {price:.2f} by the prices given" in line
    (unpriced,) = annotation.lines(dag.dag_of(study(at(GONE, local_scale), "2"), tmp_path))
    assert "by the prices" not in unpriced
    assert list(annotation.lines(dag.dag_of(study(at(GONE, local_scale)), tmp_path))) == []


def test_a_plan_and_the_start_of_a_run_say_who_compares(reward_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    words = ["feedback_rounds", "--scale", "smoke", "--seeds", "1", "--arms", "2", "--set"]
    assert main(["plan", *words, f"annotator={reward_model}"]) == 0
    assert f"1 round of feedback: the reward model {reward_model} compares" in capsys.readouterr().out
    judged = ["annotator=judge:oracle", f"judge_url={GONE}", "judge_prices=1,2"]
    assert main(["plan", *words, *judged]) == 0
    assert "1 round of feedback: oracle at 127.0.0.1:9 compares 96 pairs in each" in capsys.readouterr().out
    pytest.importorskip("openai")
    assert main(["run", *words, *judged]) == 2
    shown = capsys.readouterr()
    assert "1 round of feedback: oracle at 127.0.0.1:9 compares 96 pairs in each" in shown.out
    assert (
        shown.err
        == "error: the judge oracle at 127.0.0.1:9 does not answer: Connection error.; start it, or name another\n"
    )


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (404, "oracle at .* refuses: .*no such model"),
        (401, "refuses: .*no such model.*judge_key_env"),
        (500, "does not answer"),
    ],
)
def test_a_judge_that_refuses_is_told_before_any_stage(status, says, local_scale, tmp_path):
    pytest.importorskip("openai")
    with endpoint(lambda *_: (status, "no such model")) as server, pytest.raises(UserError, match=says) as refused:
        annotation.check(dag.dag_of(study(at(server, local_scale), "2"), tmp_path))
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


def test_a_key_that_is_missing_and_a_package_that_is_not_there_are_told(local_scale, tmp_path, monkeypatch):
    named = dag.dag_of(study(at(GONE, local_scale, judge_key_env="NO_SUCH_KEY"), "2"), tmp_path)
    with pytest.raises(UserError, match="the environment has no NO_SUCH_KEY; .*judge_key_env"):
        annotation.check(named)
    with pytest.raises(UserError, match="the environment has no OPENAI_API_KEY"):
        annotation.check(dag.dag_of(study(at("", local_scale), "2"), tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(UserError, match=r"package openai; install it: pip install -e '.\[judge\]'"):
        annotation.check(dag.dag_of(study(at(GONE, local_scale), "2"), tmp_path))


def test_a_judge_answers_one_short_question_before_and_it_is_not_asked_where_no_round_is_left(local_scale, tmp_path):
    pytest.importorskip("openai")
    with endpoint(prefer_longer) as server:
        annotation.check(dag.dag_of(study(at(server, local_scale), "2"), tmp_path))
        assert len(server.asked) == 1
        annotation.check(dag.dag_of(study(at(server, local_scale)), tmp_path))
        annotation.check_arm(Recipe(), at(server, local_scale), 1, tmp_path)
        assert len(server.asked) == 1
        annotation.check_arm(TWO, at(server, local_scale), 1, tmp_path)
        assert len(server.asked) == 2


def test_a_reward_model_of_another_tokenizer_and_a_policy_are_refused_before_any_stage(local_scale, tmp_path, cache):
    small = saved(8, tmp_path / "small")
    with pytest.raises(UserError, match="highest id is .* and the annotator has 8 of them"):
        annotation.check(dag.dag_of(study(replace(local_scale, annotator=str(small)), "2"), tmp_path))
    policy = tmp_path / "policy"
    pretrained.save_policy(pretrained.initialise_policy("gpt-neox:32/1/2/64", 64, 64, 1), policy)
    with pytest.raises(UserError, match="reward_token is 'missing'"):
        annotation.check(dag.dag_of(study(replace(local_scale, annotator=str(policy)), "2"), tmp_path))
    with pytest.raises(UserError, match="no-4.*is no folder"):
        missing = replace(local_scale, annotator=str(tmp_path / "no-{seed}"))
        annotation.check_arm(TWO, missing, 4, tmp_path)
