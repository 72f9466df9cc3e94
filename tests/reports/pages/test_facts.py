"""What a page says of task, model, budget and a win: the facts that runs recorded, and none that they did not."""

from dataclasses import replace

import pandas as pd
import pytest

from repro.reports.pages import facts, page
from repro.study.config import as_config
from repro.study.scale import EMBEDDED, find

CHOSEN = {"algorithm": ("ppo",), "kl_coef": ("0.05",), "ppo_epochs": ("4",), "temperature": ("0.7",)}
SAMPLED = "test/sampled_win_rate"
SHIPPED = {"scale": {"model": "shipped:base"}}


def scaled(study, **fields):
    """The study at a scale with these fields, as a run spells them."""
    return replace(study, params=CHOSEN | {f"scale.{name}": (str(value),) for name, value in fields.items()})


def sized(study, weights):
    """The study with a base model of so many weights."""
    rows = [(arm, seed, "base/parameters", weights) for arm in study.arms for seed in study.seeds]
    return replace(study, finals=pd.concat([study.finals, pd.DataFrame(rows, columns=[*study.finals])]))


def test_the_embedded_study_is_told_in_one_sentence(study):
    mini = find("mini")
    told = scaled(sized(study, 281_984.0), corpus=mini.corpus, model="base", episodes=mini.episodes)
    assert facts.line(told, SHIPPED) == (
        "Summaries of made-up posts by a GPT-NeoX of 282,000 weights, 1,280 training episodes, 3 seeds; a summary wins where "
        "its gold score is above the reference summary's."
    )
    # A folder called base may hold any model, so that without a run's configuration its kind is not said.
    assert "by a model of 282,000 weights" in facts.line(told, {})


def test_what_the_shipped_model_is_called_is_what_it_is(tiny_study):
    assert '"gpt_neox"' in (EMBEDDED / "base" / "config.json").read_text()
    config = as_config(replace(tiny_study, scale=find("mini")))
    assert facts._named(config["scale"]["model"]) == facts.GPT_NEOX


@pytest.mark.parametrize("size", ["160m", "6.9b"])
def test_a_pythia_on_the_papers_data_is_named_and_judged_by_its_reward_model(study, size):
    scale = find(f"pythia-{size}")
    told = scaled(study, corpus=scale.corpus, model=scale.model, episodes=scale.episodes, posts_file=scale.posts_file)
    told = replace(sized(told, 6_857_302_016.0), tags=study.tags | {"judge": "reward model"})
    assert facts.line(told, {}) == (
        f"Summaries of Reddit posts (TL;DR) by EleutherAI/pythia-{size}-deduped of 6.86 billion weights, 1,000,000 training "
        "episodes, 3 seeds; a summary wins where the reward model scores it above the reference summary."
    )


def test_ones_own_text_and_model_are_named_by_their_files(study):
    told = scaled(
        sized(study, 134_515_008.0), corpus="local", model="SmolLM2-135M.gguf", posts_file="posts.jsonl", episodes=64
    )
    assert facts.line(told, {}).startswith(
        "Summaries of the posts in posts.jsonl by SmolLM2-135M.gguf of 135 million weights, 64 training episodes, 3 seeds;"
    )


def test_what_is_not_so_is_left_out(study):
    told = scaled(study, corpus="embedded", episodes=1_280)
    by_score = replace(told, tags=told.tags | {"primary": "test/sampled_gold"})
    assert "wins" not in facts.line(by_score, {}) and not facts.win(by_score)
    unknown = replace(told, tags=told.tags | {"judge": "not recorded"})
    assert "wins" not in facts.line(unknown, {})
    for name, values in (("algorithm", ("ppo", "dpo")), ("feedback_rounds", ("1", "2"))):
        other = replace(told, params=told.params | {name: values})
        assert "episodes" not in facts.line(other, {}) and "made-up posts" in facts.line(other, {})


def test_of_an_earlier_version_nothing_is_said_that_it_did_not_record(study, unrendered, tmp_path):
    bare = replace(study, params={})
    assert facts.line(bare, {}) == "" and facts.every(bare) == {}
    assert [name for name, _ in facts.rows(bare, {})] == ["scale", "a win"]
    html = page.build(bare, tmp_path).read_text()
    assert 'class="about"' not in html and "Every choice" not in html


def test_the_table_has_the_numbers_and_says_where_arms_differ(study):
    mini = find("smoke")
    told = scaled(study, corpus="embedded", episodes=mini.episodes, ppo_batch=mini.ppo_batch, ppo_learning_rate=1.5e-4)
    told = replace(told, scale="smoke", params=told.params | {"kl_coef": ("0.05", "0"), "lr_schedule": ("linear",)})
    rows = dict(facts.rows(told, {}))
    assert rows["PPO"] == (
        "128 episodes in batches of 32; epochs over a batch: 4; learning rate 0.00015, linear; KL coefficient 0.05 or 0, by "
        "arm; sampling temperature 0.7"
    )
    assert "synthetic" in rows["corpus"] and "smallest budget" in rows["scale"] and "SFT" not in rows
    changed = replace(told, scale="smoke-episodes=64")
    assert "changed that its name says" in dict(facts.rows(changed, {}))["scale"]
    assert "changed" not in rows["scale"]
    every = facts.every(told)
    assert ("ppo_batch", "32") in every["Every field of the scale"] and ("kl_coef", "0.05 or 0, by arm") in every[
        "Every choice"
    ]


@pytest.mark.parametrize(
    ("weights", "words"),
    [(281_984, "282,000"), (957_312, "957,000"), (134_515_008, "135 million"), (1_011_781_632, "1.01 billion")],
)
def test_weights_are_said_to_three_digits(weights, words):
    assert facts.rounded(weights) == words
