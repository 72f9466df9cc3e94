"""Reading a study out of the store."""

import math

import pytest
from mlflow import MlflowClient

from repro.errors import UserError
from repro.reports.reading.studies import read_study
from tests.reports.made_up import ARMS, Fake, experiment, log


def test_arms_start_with_the_reference_and_seeds_are_numbers(study):
    assert study.arms[0] == ARMS[0] and set(study.arms) == set(ARMS)
    assert study.seeds == (1, 2, 3)
    assert (study.primary, study.higher_is_better, study.smallest_effect) == ("test/win_rate", True, 0.02)
    assert study.expected["objective/kl"] == "up"


def test_the_newest_run_of_an_arm_and_seed_wins(study):
    values = study.finals.query("arm == 'off' and seed == 1 and metric == 'test/win_rate'")["value"]
    assert values.tolist() == [0.74]
    assert len(study.runs) == 9


def test_curves_and_finals_are_tidy_and_apart(study):
    assert list(study.curves.columns) == ["detail", "arm", "seed", "step", "metric", "value"]
    assert len(study.curves.query("arm == 'off' and seed == 2 and metric == 'objective/kl'")) == 12
    assert not set(study.curves["metric"]) & set(study.finals["metric"])


def test_samples_of_every_run_are_the_same_posts(study):
    assert set(study.samples) == {(arm, seed) for arm in ARMS for seed in (1, 2, 3)}
    assert {tuple(frame["post_id"]) for frame in study.samples.values()} == {tuple(f"t3_{i}" for i in range(6))}


def test_a_step_logged_twice_keeps_its_latest_value_and_infinities_are_missing(store):
    client, study = MlflowClient(store), experiment(store, "relogged-mini")
    run = log(store, study, Fake(ARMS[0], 1, curves=False, finals=False), start=1_000)
    for timestamp, value in ((10, 1.0), (20, 2.0)):
        client.log_metric(run, "objective/kl", value, timestamp, step=64)
    client.log_metric(run, "test/gold", math.inf)
    found = read_study("relogged", "mini", store)
    assert found.curves["value"].tolist() == [2.0]
    assert found.finals["value"].isna().tolist() == [True]


def test_of_a_stage_that_was_made_twice_the_last_attempt_is_read(store):
    """As an earlier version left it: the attempt that was killed had come further than the one that ended."""
    client, study = MlflowClient(store), experiment(store, "twice-mini")
    run = log(store, study, Fake(ARMS[0], 1, curves=False, finals=False), start=1_000)
    lost = [("objective/kl", step, 1.0, 100 + step) for step in range(8)] + [("eval/gold", 0, 1.0, 100)]
    last = [("objective/kl", step, 2.0, 200 + step) for step in range(5)] + [
        ("eval/gold", step, 2.0, 200) for step in (0, 4)
    ]
    once = [("loss/value", step, 3.0, 300 - step) for step in range(3)]  # a clock that went back loses nothing
    for name, step, value, timestamp in lost + last + once:
        client.log_metric(run, name, value, timestamp, step)
    found = read_study("twice", "mini", store).curves
    read = [tuple(row) for row in found[["metric", "step", "value"]].itertuples(index=False)]
    assert sorted(read) == sorted((name, step, value) for name, step, value, _ in last + once)


def test_a_deleted_run_does_not_count(store):
    client, study = MlflowClient(store), experiment(store, "deleted-mini")
    log(store, study, Fake(ARMS[0], 1, curves=False, finals=False), start=1_000)
    client.delete_run(log(store, study, Fake("off", 1, curves=False, finals=False), start=2_000))
    assert read_study("deleted", "mini", store).arms == (ARMS[0],)


def test_a_plan_that_changed_between_runs_is_named(store):
    study = experiment(store, "amended-mini")
    for seed, text in enumerate(("up it goes", "down it goes")):
        log(store, study, Fake(ARMS[0], seed, curves=False, finals=False, tags={"hypothesis": text}), start=seed + 1)
    found = read_study("amended", "mini", store)
    assert found.amended == ("hypothesis",) and found.tags["hypothesis"] == "down it goes"


def test_an_unknown_study_names_those_that_exist(store):
    with pytest.raises(
        UserError, match="no recorded study whiten_adv-huge; whiten_adv is recorded at scale mini: add --scale mini"
    ):
        read_study("whiten_adv", "huge", store)


@pytest.mark.parametrize(
    ("name", "run", "message"),
    [
        ("unfinished", Fake(ARMS[0], 1, outcome="failed", curves=False, finals=False), "no finished run"),
        ("headless", Fake("off", 1, curves=False, finals=False), "reference arm"),
    ],
)
def test_a_study_that_cannot_be_compared_says_why(store, name, run, message):
    log(store, experiment(store, f"{name}-mini"), run, start=1_000)
    with pytest.raises(UserError, match=message):
        read_study(name, "mini", store)


def test_an_absent_store_is_not_created(tmp_path):
    with pytest.raises(UserError, match="no MLflow store"):
        read_study("whiten_adv", "mini", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert not list(tmp_path.iterdir())
