"""What bad input gets: a sentence that says what is wrong, and a page of what is there."""

import json
import math
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.store.db.utils import InitialBase, _get_alembic_config
from sqlalchemy import create_engine

from repro import record
from repro.errors import UserError
from repro.reports.pages import atlas, index, page, paper
from repro.reports.reading import artifacts, studies
from repro.reports.reading.episodes import read_traces
from repro.reports.reading.study import Study
from repro.tracking.store import find_study
from tests.bad_input.case import WIDEST
from tests.reports.made_up import ARMS, Fake, experiment, log, log_light

OLD_SCHEMA = "acf3f17fdcc7"  # of MLflow 2.x; newer ones have four times as many tables


def place_of(study: Study, arm: str, seed: int) -> Path:
    """The folder of a made-up run's artifacts."""
    run_id = study.runs.set_index(["arm", "seed"]).loc[(arm, seed), "run_id"]
    return artifacts.artifact(study.uri, MlflowClient(study.uri).get_run(run_id), record.SAMPLES).parent


def tables(file: Path) -> set[str]:
    with sqlite3.connect(file) as store:
        return {name for (name,) in store.execute("select name from sqlite_master where type = 'table'")}


@pytest.fixture(scope="module")
def spare(tmp_path_factory) -> str:
    """A store of this module's own, since what is put into it is broken."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('spare') / 'mlflow.db'}"
    MlflowClient(uri).search_experiments()
    return uri


def untold(uri: str, run_id: str, *names: str) -> None:
    """Takes tags off a run, as if an older version of the project had written it."""
    for name in names:
        MlflowClient(uri).delete_tag(run_id, name)


def light(uri: str, name: str, runs: dict[tuple[str, int], dict[str, float]], **tags: str) -> list[str]:
    """A study of runs that have these final values and nothing else; their ids."""
    place, (detail, scale) = experiment(uri, name), name.rsplit("-", 1)
    told = {"detail": detail, "scale": scale} | tags
    return [
        log_light(uri, place, Fake(arm, seed, tags=told | {"reference": str(arm == "ref").lower()}), values)
        for (arm, seed), values in runs.items()
    ]


# The store


def test_an_empty_store_says_that_it_holds_nothing(spare, tmp_path):
    with pytest.raises(UserError, match="no recorded study whiten_adv-mini; known: none"):
        studies.read_study("whiten_adv", "mini", spare)
    with pytest.raises(UserError, match="no recorded study at scale mini; known: none"):
        atlas.build("mini", (), spare, tmp_path)
    assert "The store holds no study yet" in index.build(tmp_path, spare, ()).read_text()
    assert "no run at a scale that the paper has" in paper.build(spare, tmp_path / "paper").read_text()


def test_of_many_studies_the_nearest_are_named_and_where_all_are(own_store):
    for number in range(60):
        name, scale = f"detail_{number}", f"mini-posts={number}"
        own_store.create_experiment(f"{name}-{scale}", tags={record.DETAIL: name, record.SCALE: scale})
    near = r"'detail_7-mini-posts=7'\? known: (\S+, ){2}\S+ and 57 more; make ui shows all$"
    for read in (studies.read_study, find_study):
        with pytest.raises(UserError, match=rf"no recorded study detail7-mini; did you mean {near}") as told:
            read("detail7", "mini", *[own_store.tracking_uri] * (read is studies.read_study))
        assert len(str(told.value)) < WIDEST
    with pytest.raises(UserError, match="no recorded study at scale mini; .* and 57 more; make ui shows all"):
        studies.read_outlines("mini", own_store.tracking_uri)


def test_a_study_of_another_scale_is_told_with_what_to_type(own_store):
    for scale in ("smoke", "mini-posts=9"):
        own_store.create_experiment(f"gamma-{scale}", tags={record.DETAIL: "gamma", record.SCALE: scale})
    said = r"gamma-mini; gamma is recorded at scale mini-posts=9, smoke: add --scale smoke \(with make: SCALE=smoke\)$"
    for read in (studies.read_study, find_study):
        with pytest.raises(UserError, match=said):
            read("gamma", "mini", *[own_store.tracking_uri] * (read is studies.read_study))


def test_what_is_no_store_is_named_and_left_as_it_is(tmp_path):
    text, empty, other = tmp_path / "notes.txt", tmp_path / "empty.db", tmp_path / "other.db"
    text.write_text("this is a diary, and no database\n" * 100)
    empty.touch()
    with sqlite3.connect(other) as store:
        store.execute("create table diary (day text)")
    for file, message in (
        (text, "notes.txt cannot be read as an MLflow store"),
        (empty, "no tables"),
        (other, "no tab"),
    ):
        before = file.read_bytes()
        with pytest.raises(UserError, match=message):
            studies.read_store(f"sqlite:///{file}")
        assert file.read_bytes() == before


def test_a_store_of_an_older_mlflow_is_not_upgraded_behind_ones_back(tmp_path):
    from alembic import command

    file = tmp_path / "mlflow.db"
    engine = create_engine(f"sqlite:///{file}")
    InitialBase.metadata.create_all(engine)
    with engine.begin() as connection:
        config = _get_alembic_config(f"sqlite:///{file}")
        config.attributes["connection"] = connection
        command.upgrade(config, OLD_SCHEMA)
    engine.dispose()
    before = tables(file)
    with pytest.raises(UserError, match=rf"schema {OLD_SCHEMA}.*mlflow db upgrade sqlite:///.*mlflow\.db"):
        studies.read_study("whiten_adv", "mini", f"sqlite:///{file}")
    assert tables(file) == before


# The study


def test_a_deleted_study_says_how_to_get_it_back(spare):
    place = experiment(spare, "buried-mini")
    MlflowClient(spare).delete_experiment(place)
    with pytest.raises(
        UserError, match=f"buried-mini is deleted; restore it with: mlflow experiments restore --experiment-id {place}"
    ):
        studies.read_study("buried", "mini", spare)


def test_of_two_experiments_of_one_study_the_named_one_is_read_and_the_other_is_named(spare, tmp_path):
    light(spare, "twice-double", {("ref", 1): {"test/win_rate": 0.5}, ("off", 1): {"test/win_rate": 0.7}})
    client = MlflowClient(spare)
    twin = client.create_experiment("twice (copy)", tags={"detail": "twice", "scale": "double"})
    log_light(spare, twin, Fake("ref", 1, tags={"detail": "twice", "reference": "true"}), {"test/win_rate": 0.1})
    study = studies.read_study("twice", "double", spare)
    assert study.finals.query("arm == 'ref'")["value"].tolist() == [0.5]
    assert "the experiment twice (copy)" in study.troubles[0]
    html = atlas.build("double", (), spare, tmp_path / "atlas").read_text()
    assert "the experiment twice (copy) has the tags of twice-double too" in html
    assert "twice (copy)" in index.build(tmp_path, spare, ()).read_text()


def test_a_renamed_experiment_is_still_its_study(spare):
    light(spare, "moved-mini", {("ref", 1): {"test/win_rate": 0.5}})
    client = MlflowClient(spare)
    client.rename_experiment(client.get_experiment_by_name("moved-mini").experiment_id, "my favourite")
    assert studies.read_outline("moved", "mini", spare).arms == ("ref",)


def test_runs_of_another_budget_under_the_same_name_are_named(spare, tmp_path):
    runs = light(
        spare, "mixed-budget", {(arm, seed): {"test/win_rate": 0.5} for arm in ("ref", "off") for seed in (1, 2)}
    )
    for run_id, episodes in zip(runs, (768, 768, 768, 4096)):
        arm = MlflowClient(spare).get_run(run_id).data.tags["arm"]
        # Which seeds a scale would take by itself is no budget.
        params = {"scale.episodes": str(episodes), "scale.seeds": run_id, "mixed": arm, "seed": run_id}
        MlflowClient(spare).log_batch(run_id, params=[Param(name, value) for name, value in params.items()])
    (sentence,) = studies.read_outline("mixed", "budget", spare).troubles
    assert sentence.endswith("alone: scale.episodes is 768 in 3 of them and 4096 in 1 of them")
    assert sentence in index.build(tmp_path, spare, ()).read_text()
    assert sentence in atlas.build("budget", (), spare, tmp_path / "atlas").read_text()


def test_a_study_of_an_older_version_is_read_as_far_as_it_goes(spare, tmp_path):
    runs = light(spare, "aged-old", {(a, s): {"test/win_rate": s / 10} for a in ("ref", "off") for s in (1, 2)})
    for run_id in runs:
        untold(spare, run_id, "judge", "smallest_effect", "question", "hypothesis", "moves", "paper", "stage_seconds")
    study = studies.read_study("aged", "old", spare)
    assert study.tags["judge"] == "not recorded" and math.isnan(study.smallest_effect) and study.expected == {}
    assert study.amended == ()
    built = page.build(study, tmp_path / "page")
    record = json.loads((built.parent / "verdict.json").read_text())
    assert record["smallest_effect"] is None and record["arms"]["off"]["n"] == 2
    told = json.loads((atlas.build("old", (), spare, tmp_path / "atlas").parent / "atlas.json").read_text())
    assert told["effects"][0]["smallest_effect"] is None
    assert "not recorded" in index.build(tmp_path, spare, ()).read_text()


def test_an_older_run_beside_newer_ones_does_not_amend_the_plan(spare):
    old, *_ = light(spare, "partly-mini", {("ref", s): {"test/win_rate": 0.5} for s in (1, 2)})
    untold(spare, old, "judge", "smallest_effect")
    study = studies.read_outline("partly", "mini", spare)
    assert study.tags["judge"] == "gold score" and study.smallest_effect == 0.02 and study.amended == ()


@pytest.mark.parametrize("missing", ["primary", "higher_is_better"])
def test_a_study_that_does_not_say_what_it_compares_is_left_out(spare, tmp_path, missing):
    scale = missing.replace("_", "")
    (run_id,) = light(spare, f"mute-{scale}", {("ref", 1): {"test/win_rate": 0.5}})
    light(spare, f"loud-{scale}", {("ref", 1): {"test/win_rate": 0.5}})
    untold(spare, run_id, missing)
    with pytest.raises(UserError, match=f"no run of the study mute-{scale} has the tag {missing}"):
        studies.read_study("mute", scale, spare)
    html = atlas.build(scale, (), spare, tmp_path).read_text()
    assert f"has the tag {missing}" in html and "1 detail" in html


@pytest.mark.parametrize("tag", [{"moves": "up"}, {"moves": "[1]"}, {"smallest_effect": "small"}])
def test_a_tag_that_was_edited_into_nonsense_is_named(spare, tag):
    (name, value), *_ = tag.items()
    study = f"edited-{name.replace('_', '')}{len(value)}"
    light(spare, study, {("ref", 1): {"test/win_rate": 0.5}}, **tag)
    with pytest.raises(UserError, match=f"moves of the study {study} cannot be read"):
        studies.read_outline(*study.split("-"), spare)


# The runs


def test_a_run_killed_midway_is_listed_and_the_others_are_compared(spare, tmp_path):
    runs = light(spare, "cut-short", {(a, s): {"test/win_rate": s / 10} for a in ("ref", "off") for s in (1, 2, 3)})
    client = MlflowClient(spare)
    client.delete_tag(runs[-1], "outcome")
    client.update_run(runs[-1], status="RUNNING")
    study = studies.read_study("cut", "short", spare)
    assert study.runs.set_index(["arm", "seed"]).loc[("off", 3), "outcome"] == "running"
    assert "running" in page.build(study, tmp_path / "page").read_text()
    told = json.loads((atlas.build("short", (), spare, tmp_path / "atlas").parent / "atlas.json").read_text())
    assert told["outcomes"] == {"finished": 5, "running": 1}
    html = index.build(tmp_path, spare, ()).read_text()
    assert "1 of 6 runs not finished" in html and "1 run lost" not in html


def test_values_that_are_no_numbers_decide_nothing(spare, tmp_path):
    values = {
        ("ref", 1): 0.5,
        ("ref", 2): 0.6,
        ("off", 1): math.nan,
        ("off", 2): math.inf,
        ("odd", 1): 0.7,
        ("odd", 2): 0.8,
    }
    light(spare, "nan-values", {place: {"test/win_rate": value} for place, value in values.items()})
    study = studies.read_study("nan", "values", spare)
    record = json.loads((page.build(study, tmp_path / "page").parent / "verdict.json").read_text())
    told = {"n": 0, "mean_difference": None, "ci95": [None, None], "verdict": "undecided"}
    assert told.items() <= record["arms"]["off"].items()
    assert record["arms"]["odd"]["n"] == 2
    atlas.build("values", (), spare, tmp_path / "atlas")
    assert "no paired seed" in index.build(tmp_path, spare, ()).read_text()


def test_arms_without_a_common_seed_are_undecided(spare, tmp_path):
    runs = {("ref", 1): 0.5, ("ref", 2): 0.6, ("off", 3): 0.9, ("off", 4): 0.8}
    light(spare, "apart-mini", {place: {"test/win_rate": value} for place, value in runs.items()})
    study = studies.read_study("apart", "mini", spare)
    assert study.seeds == (1, 2, 3, 4)
    record = json.loads((page.build(study, tmp_path).parent / "verdict.json").read_text())
    assert (record["arms"]["off"]["n"], record["arms"]["off"]["verdict"]) == (0, "undecided")


def test_a_study_with_the_reference_alone_has_a_page(spare, tmp_path):
    light(spare, "alone-mini", {("ref", 1): {"test/win_rate": 0.5}})
    built = page.build(studies.read_study("alone", "mini", spare), tmp_path)
    assert "nothing to compare yet" in built.read_text()


def test_strange_names_of_metrics_and_arms_are_text(spare, tmp_path):
    odd = {
        "a b/c: d": 1.0,
        "test/ü_ñ": 2.0,
        "objective-": 3.0,
        "rm/calibration/high": 4.0,
        "test/win rate: strict": 0.5,
    }
    places = {(arm, seed): odd | {"test/more": seed} for arm in ("ref", "<script>") for seed in (1, 2)}
    light(spare, "strange-names", places, primary="test/win rate: strict")
    html = page.build(studies.read_study("strange", "names", spare), tmp_path / "page").read_text()
    assert "&lt;script&gt;" in html and "test/ü_ñ" in html
    built = atlas.build("names", (), spare, tmp_path / "atlas")
    assert {file.name for file in (built.parent / "figures").glob("forest*.csv")} == {"forest_test_win_rate_strict.csv"}
    assert "&lt;script&gt;" in built.read_text()


def test_a_run_without_a_number_for_a_seed_is_none_of_the_study(spare):
    first, _ = light(spare, "named-seeds", {("ref", seed): {"test/win_rate": 0.5} for seed in (1, 2)})
    MlflowClient(spare).set_tag(first, "seed", "lucky")
    assert studies.read_outline("named", "seeds", spare).seeds == (2,)


# The artifacts


@pytest.fixture(scope="module")
def sampled(tmp_path_factory) -> Study:
    """A study of three runs with samples."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('sampled') / 'mlflow.db'}"
    place = experiment(uri, "whiten_adv-mini")
    for arm, seed in ((ARMS[0], 1), ("off", 1), ("off", 2)):
        log(uri, place, Fake(arm, seed, steps=3), start=seed)
    return studies.read_study("whiten_adv", "mini", uri)


@pytest.fixture
def torn(sampled) -> Iterator[Study]:
    """That study, whose files a test may break: they are mended after it."""
    folders = [place_of(sampled, arm, seed) for arm, seed in sampled.samples]
    whole = [(folder / record.SAMPLES).read_text() for folder in folders]
    yield sampled
    for folder, text in zip(folders, whole, strict=True):
        (folder / record.SAMPLES).write_text(text)
        (folder / record.EPISODES).unlink(missing_ok=True)


def test_missing_and_damaged_samples_are_named_and_the_others_are_shown(torn, undrawn, tmp_path):
    whole = (place_of(torn, "off", 1) / record.SAMPLES).read_text()
    (place_of(torn, "off", 1) / record.SAMPLES).write_text(whole[: len(whole) // 2])
    (place_of(torn, "off", 2) / record.SAMPLES).unlink()
    study = studies.read_study("whiten_adv", "mini", torn.uri)
    assert set(study.samples) == {(ARMS[0], 1)}
    damaged, missing = study.troubles
    assert damaged.startswith("samples.json of off seed 1 is damaged") and "missing for off seed 2:" in missing
    html = page.build(study, tmp_path / "page").read_text()
    assert "neighbor burned car" in html and "missing for off seed 2:" in html


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"columns": ["post_id"], "data": [["t3_1"]]}', "nonsense", "7"])
def test_a_file_of_samples_that_holds_none_is_damaged(torn, content):
    (place_of(torn, "off", 1) / record.SAMPLES).write_text(content)
    study = studies.read_study("whiten_adv", "mini", torn.uri)
    assert ("off", 1) not in study.samples and len(study.samples) == 2
    assert [sentence.startswith("samples.json of off seed 1 is damaged") for sentence in study.troubles] == [True]


@pytest.mark.parametrize("content", ["", "[]", '{"episodes": [{"episode": 1}]}', '{"episodes": 3}', "nonsense"])
def test_traces_that_cannot_be_read_are_left_out(torn, undrawn, tmp_path, content):
    (place_of(torn, "off", 1) / record.EPISODES).write_text(content)
    assert read_traces(torn) == {}
    assert page.build(torn, tmp_path / "page").is_file()


def test_a_store_that_was_copied_without_its_files_still_has_a_page(torn, unrendered, tmp_path):
    bare = replace(torn, samples={}, curves=torn.curves.head(0))
    assert page.build(bare, tmp_path / "page").is_file()
