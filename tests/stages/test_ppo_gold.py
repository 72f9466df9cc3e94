"""What PPO logs of an ensemble of reward models: how far its members agree, with each other and with the gold score."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from repro.detail import Recipe
from repro.details import REWARD_ENSEMBLE
from repro.engine import pipeline
from repro.models import scoring
from repro.models.ensemble import RewardEnsemble
from repro.ops import ensemble
from repro.reports.figures import ensemble as figure
from repro.reports.pages import page
from repro.reports.reading.studies import read_study
from repro.reports.statistics.findings import analyse
from repro.stages import ppo_gold, stage
from repro.study import metrics
from repro.study.ablation import Ablation
from tests.recorded import publish
from tests.tiny import made_up_rollout, queries, scalar

ALL = {*figure.PANELS, *(f"objective/members_gold_correlation_{number}" for number in (1, 2, 3))}


def test_the_scores_of_members_are_those_that_are_combined_and_one_model_has_none():
    members, ids = [scalar(0), scalar(1)], queries(4)
    for network in members:
        torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(3))
    length = torch.full((4,), 2)
    together, each = scoring.score_with_members(RewardEnsemble(members, ensemble.lowest), ids, length, pad=0)
    assert each.shape == (4, 2) and torch.equal(together, each.amin(1))
    assert torch.equal(each[:, 1], scoring.score(members[1], ids, length, pad=0))
    alone, none = scoring.score_with_members(members[0], ids, length, pad=0)
    assert torch.equal(alone, each[:, 0]) and none.shape == (4, 0)


def test_two_members_and_gold_by_hand():
    scores, gold = torch.tensor([[0.0, 2.0, 4.0], [2.0, 2.0, 5.0]]), torch.tensor([1.0, 2.0, 3.0])
    found = ppo_gold.member_metrics(scores, ensemble.mean, gold)
    # Less their means (-2, 0, 2) and (-1, -1, 2): variances 1/2, 1/2 and 0. Their mean less its own: (-1.5, -0.5, 2).
    assert found == pytest.approx(
        {
            "objective/members_spread": (1 / 3) ** 0.5,
            "objective/members_rank_correlation": 0.75**0.5,
            "objective/members_gold_correlation_1": 1.0,
            "objective/members_gold_correlation_2": 0.75**0.5,
            "objective/members_gold_correlation": (1 + 0.75**0.5) / 2,
            "objective/members_combined_gold_correlation": 3.5 / (2 * 6.5) ** 0.5,
        }
    )


def test_where_no_gold_score_is_known_members_are_compared_with_each_other_and_undefined_numbers_are_left_out():
    assert ppo_gold.member_metrics(torch.ones(2, 3), ensemble.mean) == {"objective/members_spread": 0.0}


def test_one_reward_model_has_the_gold_score_alone(monkeypatch):
    table = pd.DataFrame({"gold": [1.0, 2.0]})
    monkeypatch.setattr(ppo_gold.evaluate, "rollout_gold_grades", lambda *_: table)
    one = replace(made_up_rollout([1, 1], [True, True]), member_scores=torch.zeros(2, 0))
    assert ppo_gold.gold_metrics(SimpleNamespace(corpus=None), None, one) == {"objective/gold": 1.5}


def test_a_study_has_them_in_the_journal_of_ensembles_alone_and_on_its_page(
    tiny_scale, tiny_run, own_store, unrendered, tmp_path
):
    cache = shutil.copytree(tiny_run["data"].parent, tmp_path / "cache")
    arms = {label: Recipe().but(REWARD_ENSEMBLE, label) for label in ("one", "mean_of_3")}
    folders = {arm: pipeline.run(recipe, tiny_scale, 1, cache, warn=pytest.fail) for arm, recipe in arms.items()}
    lines = {arm: stage.read_journal(found["ppo"]) for arm, found in folders.items()}
    logged = {arm: set().union(*(line["metrics"] for line in each)) for arm, each in lines.items()}
    assert logged["mean_of_3"] - logged["one"] == ALL and all(map(metrics.known, ALL))
    for line in lines["mean_of_3"]:
        found = line["metrics"]
        assert found["objective/members_spread"] > 0
        assert all(-1 <= found[name] <= 1 for name in ALL - {"objective/members_spread"})
    publish(Ablation(REWARD_ENSEMBLE, "", arms, (1,), tiny_scale, "test/win_rate", True, 0.05), cache)
    study = read_study("reward_ensemble", "tiny", own_store.tracking_uri)
    html = page.build(study, tmp_path / "page").read_text()
    assert 'id="fig-members"' in html and (tmp_path / "page" / "figures" / "members.svg").is_file()
    data = pd.read_csv(tmp_path / "page" / "figures" / "members.csv")
    assert set(data["metric"]) == set(figure.PANELS) and set(data["arm"]) == {"mean_of_3"}
    assert "of a member alone" in figure.takeaway(figure.member_data(study, analyse(study)), study)
