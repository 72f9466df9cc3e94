"""Win rate by length: the regression against a library's own, what cannot be said, and which runs it is said of."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from repro.reports.figures import length
from repro.reports.statistics.findings import analyse


def table(seed: int, level: float, slope: float, posts: int = 3000) -> pd.DataFrame:
    """Samples whose chance to win is expit(level + slope x log length ratio), one in ten a tie."""
    rng = np.random.default_rng(seed)
    ours, theirs = rng.integers(8, 40, posts), rng.integers(8, 40, posts)
    win = (rng.random(posts) < expit(level + slope * np.log(ours / theirs))).astype(float)
    win[::10] = 0.5
    gold = pd.Series(win).map({1.0: 3.0, 0.5: 2.0, 0.0: 1.0})
    words = [" ".join(["word"] * int(n)) for n in theirs]
    return pd.DataFrame({"length": ours, "reference_length": theirs, "win": win, "reference": words}).assign(
        post_id=[f"t3_{i}" for i in range(posts)],
        query="a post",
        summary=[" ".join(["word"] * int(n)) for n in ours],
        gold=gold,
        reference_gold=2.0,
        score=0.5,
        ended=True,
        sft_summary="word " * 10,
        sft_length=10,
        sft_gold=1.0,
        sft_score=0.1,
    )


@pytest.fixture(scope="module")
def sampled(study):
    """The made-up study with samples in which one arm is as good as the reference, but longer."""
    tables = {(arm, seed): table(seed, 0.0, 2.0) for arm in study.arms for seed in study.seeds}
    for seed in study.seeds:
        tables["off", seed] = table(seed, 1.0, 2.0)
    return replace(study, samples=tables)


def test_the_regression_maximises_the_likelihood_with_a_tie_as_half_a_win():
    told = table(1, 0.3, 1.5, 500)
    rows = pd.DataFrame({"ratio": np.log(told["length"] / 20), "win": told["win"]})

    def loss(line: np.ndarray) -> float:
        p = expit(line[0] + line[1] * rows["ratio"])
        return -(rows["win"] * np.log(p) + (1 - rows["win"]) * np.log1p(-p)).sum()

    assert length.fit(rows) == pytest.approx(minimize(loss, np.zeros(2), tol=1e-10).x, abs=1e-4)


def test_length_alone_does_not_count_as_quality():
    # Longer than the reference three times as often as shorter, and no better for it.
    rows = pd.DataFrame({"ratio": np.log(np.where(np.arange(1000) % 4, 1.5, 0.67))})
    rows["win"] = (np.random.default_rng(0).random(len(rows)) < expit(3 * rows["ratio"])).astype(float)
    assert rows["win"].mean() > 0.6
    assert length.at(length.fit(rows), 0.0) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("ratio", "win", "times"),
    [
        ([-1.0, 0.0, 1.0], [1.0, 1.0, 1.0], 10),  # all won
        ([0.5, 0.5, 0.5], [1.0, 0.0, 1.0], 10),  # one length
        ([-1.0, -0.5, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0], 10),  # length tells them apart without an exception
        ([0.4, 0.5, 0.6, 0.7], [0.0, 1.0, 0.0, 1.0], 10),  # none as short as its reference
        ([-0.4, 0.5, -0.6, 0.7], [0.0, 1.0, 1.0, 0.0], 4),  # too few
    ],
)
def test_what_cannot_be_read_off_is_not_a_number(ratio, win, times):
    assert np.isnan(length.at(length.fit(pd.DataFrame({"ratio": ratio * times, "win": win * times})), 0.0))


def test_every_run_gets_its_controlled_win_rate_and_the_arms_are_compared_on_it(sampled):
    told = length.controlled(sampled)
    rows = told.finals[told.finals["metric"] == length.CONTROLLED].set_index(["arm", "seed"])["value"]
    assert len(rows) == 9 and rows["off"].mean() == pytest.approx(0.9 * expit(1.0) + 0.05, abs=0.02)
    apart = analyse(told).intervals.query("metric == @length.CONTROLLED and arm == 'off'").iloc[0]
    assert apart["n"] == 3 and apart["mean"] == pytest.approx((rows["off"] - rows[sampled.reference]).mean())


def test_words_stand_in_for_tokens_that_were_not_recorded(sampled):
    assert length.unit_of(sampled) == "tokens"
    older = {key: rows.drop(columns=["reference_length", "sft_length"]) for key, rows in sampled.samples.items()}
    words = replace(sampled, samples=older)
    assert length.unit_of(words) == "words"
    same = [study[study["policy"] == "off"]["ratio"] for study in map(length.comparisons, (sampled, words))]
    assert same[0].tolist() == pytest.approx(same[1].tolist())


def test_the_sft_policy_is_judged_as_the_arms_are_and_drawn_once_per_seed(sampled):
    rows = length.comparisons(sampled).query("policy == @length.SFT")
    assert set(rows["win"]) == {0.0}  # its gold score is below every reference's
    bins = length.data(sampled, analyse(sampled)).query("part == 'bin' and policy == @length.SFT")
    assert bins["posts"].sum() == 3 * 3000


def test_the_line_is_the_mean_of_the_seeds_fits_where_all_of_them_have_summaries():
    wide, narrow = (pd.DataFrame({"ratio": np.linspace(*ends, 200)}) for ends in ((-1.0, 2.0), (-0.5, 1.0)))
    rng = np.random.default_rng(0)
    rows = pd.concat(
        part.assign(policy="on", seed=seed, win=(rng.random(200) < expit(seed * part["ratio"])).astype(float))
        for seed, part in ((1, wide), (3, narrow))
    )
    curves = pd.concat(length.fitted_curves(rows))
    mean = curves.groupby("ratio")["win_rate"].agg(["mean", "size"])
    assert (mean["size"] == 2).all() and len(mean) == length.GRID
    assert mean.index[[0, -1]].tolist() == pytest.approx(np.quantile(narrow["ratio"], (0.01, 0.99)))
    lines = [length.fit(own) for _, own in rows.groupby("seed")]
    assert mean["mean"].tolist() == pytest.approx(np.mean([length.at(line, mean.index) for line in lines], axis=0))


def test_seeds_that_share_no_length_have_no_line():
    short, long = (pd.DataFrame({"ratio": np.linspace(*ends, 200)}) for ends in ((-1.0, 0.1), (-0.001, 1.0)))
    win = np.arange(200) % 2
    rows = pd.concat([part.assign(policy="on", seed=seed, win=win) for seed, part in ((1, short), (2, long))])
    assert len(pd.concat(length.fitted_curves(rows))) == 2 * length.GRID
    long["ratio"] += 0.12
    long.loc[0, "ratio"] = 0.0  # one summary of all keeps the fit, and is all that lies where the other's are
    rows = pd.concat([part.assign(policy="on", seed=seed, win=win) for seed, part in ((1, short), (2, long))])
    assert pd.concat(length.fitted_curves(rows)).empty


def test_a_study_whose_samples_were_not_judged_stays_as_it_is(study):
    bare = replace(study, samples={key: rows.drop(columns="sft_gold") for key, rows in study.samples.items()})
    assert length.controlled(bare) is bare and length.data(bare, analyse(bare)).empty
