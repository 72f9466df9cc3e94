"""Final policies in MLflow's model registry: what is registered, under which names, and once, however often it is asked for."""

import shutil

import mlflow
import mlflow.transformers
import pytest
import torch

from repro import details
from repro.__main__ import main
from repro.api import execution, studies
from repro.api.results import read_results
from repro.models import pretrained
from repro.tracking import registry
from tests.recorded import publish, runs

MODELS = {"whiten_adv-tiny-off": ["1"], "whiten_adv-tiny-shift_and_scale": ["1"]}


@pytest.fixture
def store(own_store, tiny_study, tiny_cache):
    publish(tiny_study, tiny_cache)
    return own_store


def versions(store):
    """Name -> its versions in the registry."""
    names = [each.name for each in store.search_registered_models()]
    return {name: store.search_model_versions(f"name = '{name}'") for name in names}


def test_each_arm_is_a_model_and_each_seed_a_version_with_its_run_its_tags_and_an_alias(store):
    told = read_results("whiten_adv", "tiny").register()
    assert told.seeds == MODELS and told.without == []
    assert str(told) == "registered: whiten_adv-tiny-off (seed 1), whiten_adv-tiny-shift_and_scale (seed 1)"
    found, recorded = versions(store), runs(store)
    assert found.keys() == MODELS.keys()
    for arm, verdict in (("off", "undecided"), ("shift_and_scale", "reference")):
        (version,) = found[f"whiten_adv-tiny-{arm}"]
        of_arm = {"detail": "whiten_adv", "scale": "tiny", "arm": arm, "verdict": verdict}
        assert version.tags == of_arm | {"seed": "1", "outcome": "finished"}
        assert version.run_id == recorded[arm].info.run_id and version.status == "READY"
        policy = store.get_run(version.run_id).outputs.model_outputs[0].model_id
        assert version.source == f"models:/{policy}"
        assert version.name in store.get_logged_model(policy).tags["mlflow.modelVersions"], "its own page links to it"
        model = store.get_registered_model(version.name)
        assert model.tags == of_arm and {name: int(number) for name, number in model.aliases.items()} == {"seed-1": 1}
        assert f"`whiten_adv = {arm}`" in model.description


def test_done_again_it_adds_nothing_and_a_new_verdict_is_told(store, tmp_path):
    for words in ({"off": "undecided"}, {"off": "undecided"}, {"off": "better"}):
        registry.register_policies("whiten_adv", "tiny", words, tmp_path)
        assert {name: len(found) for name, found in versions(store).items()} == dict.fromkeys(MODELS, 1)
    (version,) = versions(store)["whiten_adv-tiny-off"]
    assert version.tags["verdict"] == store.get_registered_model(version.name).tags["verdict"] == "better"


def test_what_was_interrupted_is_completed(store, tmp_path, monkeypatch):
    """Killed wherever between two writes, the next one ends with what an undisturbed one leaves."""
    writes = ["set_model_version_tag", "set_registered_model_tag", "set_registered_model_alias", "create_model_version"]
    for write in writes:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(mlflow.MlflowClient, write, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            registry.register_policies("whiten_adv", "tiny", {"off": write}, tmp_path)
    assert registry.register_policies("whiten_adv", "tiny", {"off": "better"}, tmp_path).seeds == MODELS
    for (version,) in versions(store).values():
        assert len(version.tags) == 6 and list(store.get_registered_model(version.name).aliases) == ["seed-1"]


def test_mlflow_loads_it_by_its_alias(store, tiny_study, tiny_cache, tmp_path):
    registry.register_policies("whiten_adv", "tiny", {}, tmp_path)
    mlflow.set_tracking_uri(store.tracking_uri)
    loaded = mlflow.transformers.load_model("models:/whiten_adv-tiny-off@seed-1", return_type="components")["model"]
    key = runs(store)["off"].data.tags["stage.ppo"]
    own = pretrained.load_policy(tiny_cache / key / "model")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(own.parameters(), loaded.parameters(), strict=True))


def test_a_run_without_a_policy_in_the_store_is_told(store, tmp_path, monkeypatch):
    get = store.get_run
    bare = runs(store)["off"].info.run_id

    def without(_, run):
        found = get(run)
        if run == bare:
            found.outputs.model_outputs.clear()
        return found

    monkeypatch.setattr(mlflow.MlflowClient, "get_run", without)
    told = registry.register_policies("whiten_adv", "tiny", {}, tmp_path)
    assert told.seeds.keys() == {"whiten_adv-tiny-shift_and_scale"} and told.without == ["off seed 1"]
    assert str(told).endswith("; off seed 1: no policy in the store, it was too large or could not be packed")


def test_a_copy_in_another_store_is_not_said_to_be_registered_there(store, empty_store, tmp_path, monkeypatch):
    registry.register_policies("whiten_adv", "tiny", {}, tmp_path)
    shutil.copy(empty_store, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert main(["import", str(tmp_path / "mlflow.db")]) == 0
    other = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/other.db")
    for run in runs(other).values():
        (output,) = other.get_run(run.info.run_id).outputs.model_outputs
        assert "mlflow.modelVersions" not in other.get_logged_model(output.model_id).tags
    assert registry.register_policies("whiten_adv", "tiny", {}, tmp_path).seeds == MODELS


def test_a_name_has_nothing_that_mlflow_refuses():
    name = registry.model_name("whiten_adv", "local-model=gpt-neox:64/2/2/256", "0.5")
    assert name == "whiten_adv-local-model=gpt-neox_64_2_2_256-0.5"


def test_a_study_that_was_run_before_is_registered_when_it_is_asked_for(
    store, tiny_study, tiny_cache, monkeypatch, undrawn, capsys
):
    """By the command line and from Python, both on artefacts that are all cached."""
    monkeypatch.setenv("REPRO_CACHE", str(tiny_cache))
    monkeypatch.setattr("repro.study.ablation.load", lambda *_, **__: tiny_study)
    assert main(["run", "whiten_adv"]) == 0 and versions(store) == {}
    assert main(["run", "whiten_adv", "--register"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("registered: whiten_adv-tiny-off (seed 1), ")
    monkeypatch.setattr(studies, "_study", lambda *_: tiny_study)
    monkeypatch.setattr(execution, "check_data", lambda *_: None)
    studies.run_study(details.WHITEN_ADV, register=True, progress=False)
    assert {name: len(found) for name, found in versions(store).items()} == dict.fromkeys(MODELS, 1)
