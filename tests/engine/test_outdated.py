"""Old numbers are never passed off as new code's: fingerprints, what is said of cached artefacts, and FRESH=1."""

import json
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from repro.api.terminal import tell_of_outdated_code
from repro.detail import Recipe
from repro.details import ADAM_EPSILON, DETAILS, GAE_LAMBDA, WHITEN_ADV
from repro.engine import artefacts, fingerprint, pipeline
from repro.engine.dag import dag_of, set_aside
from repro.engine.outdated import UNRECORDED
from repro.stages.checkpoint import FORMAT
from repro.study.scale import SCALES
from tests.recorded import publish, recorded

PPO, RM, DATA = pipeline.BY_NAME["ppo"], pipeline.BY_NAME["rm"], pipeline.BY_NAME["data"]


# ------------------------------------------------------------------------------------------------ the fingerprint


def clear_caches():
    """A process reads each file once, as it imports it once; these tests edit files."""
    for each in (fingerprint._closure, fingerprint._tree, fingerprint._imports, fingerprint._digest):
        each.cache_clear()


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A copy of the package's source, which the fingerprints are taken of."""
    copy = shutil.copytree(fingerprint.ROOT, tmp_path / "repro", ignore=shutil.ignore_patterns("embedded_assets"))
    monkeypatch.setattr(fingerprint, "ROOT", copy)
    clear_caches()
    yield copy
    clear_caches()


def edit(file, old, new):
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    clear_caches()


def test_a_fingerprint_names_the_stage_what_it_imports_and_the_variants_that_it_may_read():
    found = fingerprint.code_of(PPO, Recipe())
    assert {
        "repro/stages/ppo.py",
        "repro/ops/advantage.py",
        "repro/models/generate.py",
        "whiten_adv=shift_and_scale",
    } <= set(found)
    assert not [
        name for name in found if name.startswith(("repro/cli", "repro/tracking", "repro/study", "repro/details"))
    ]
    assert "repro/ops/advantage.py" not in fingerprint.code_of(RM, Recipe()), "no reward model has advantages"


def test_the_code_of_a_variant_counts_where_the_variant_is_chosen(source):
    before = [fingerprint.code_of(PPO, recipe) for recipe in (Recipe(), Recipe().but(WHITEN_ADV, "off"))]
    assert fingerprint.changed(*before) == ["whiten_adv=off", "whiten_adv=shift_and_scale"]


def test_changed_code_is_named_and_comments_and_docstrings_are_no_code(source):
    before, of_rm = fingerprint.code_of(PPO, Recipe()), fingerprint.code_of(RM, Recipe())
    file = source / "ops" / "advantage.py"
    file.write_text(f"# A comment.\n\n\n{file.read_text()}".replace('"""', '"""Again: ', 1))
    clear_caches()
    assert fingerprint.code_of(PPO, Recipe()) == before
    file.write_text(file.read_text() + "\nMORE = 1\n")
    clear_caches()
    assert fingerprint.changed(before, fingerprint.code_of(PPO, Recipe())) == ["repro/ops/advantage.py"]
    assert fingerprint.code_of(RM, Recipe()) == of_rm


def test_a_new_import_belongs_to_the_fingerprint(source):
    (source / "ops" / "new.py").write_text("ONE = 1\n")
    file = source / "ops" / "advantage.py"
    before = fingerprint.code_of(PPO, Recipe())
    file.write_text(file.read_text() + "\nfrom repro.ops import new\n")
    clear_caches()
    assert fingerprint.changed(before, fingerprint.code_of(PPO, Recipe())) == [
        "repro/ops/advantage.py",
        "repro/ops/new.py",
    ]


# ------------------------------------------------------------------------------------------------ variants in keys


def key_of(detail, label):
    return pipeline.keys(Recipe().but(detail, label), SCALES["smoke"], 1)["ppo"]


def with_value(monkeypatch, detail, label, value):
    """The detail, declared with another value of a variant."""
    changed = dict(detail.variants) | {label: detail.variants[label]._replace(value=value)}
    monkeypatch.setitem(DETAILS, detail.name, replace(detail, variants=changed))


ADAPTIVE = DETAILS["policy_objective"].variants["adaptive_kl_penalty"].value
CHANGED = [
    (GAE_LAMBDA, "0.9", 0.8),
    (
        DETAILS["policy_objective"],
        "adaptive_kl_penalty",
        replace(ADAPTIVE, adapt=partial(ADAPTIVE.adapt.func, target=0.5)),
    ),
    (DETAILS["dropout"], "on_everywhere", {"sft": 0.2}),
]


@pytest.mark.parametrize("detail, label, value", CHANGED, ids=[detail.name for detail, _, _ in CHANGED])
def test_another_constant_of_a_variant_is_another_key(detail, label, value, monkeypatch):
    before = key_of(detail, label)
    with_value(monkeypatch, detail, label, value)
    assert key_of(detail, label) != before


def test_a_label_that_says_its_constant_and_a_function_add_nothing_to_a_key(monkeypatch):
    assert fingerprint.pinned("0.9", 0.9) and fingerprint.pinned("1", 1.0) and fingerprint.pinned("1e-8", 1e-8)
    assert fingerprint.pinned("last_position", "last_position") and fingerprint.pinned("off", len)
    assert not fingerprint.pinned("0.9", 0.8) and not fingerprint.pinned("off", 0.0)
    assert not fingerprint.pinned("1", (1.0, 1.0))
    before = key_of(WHITEN_ADV, "off")
    with_value(monkeypatch, WHITEN_ADV, "off", lambda advantage, mask, *_: advantage)
    assert key_of(WHITEN_ADV, "off") == before, "a function that is tidied must not throw a cache away"


def test_the_references_of_details_are_no_part_of_a_key(monkeypatch):
    before = pipeline.keys(Recipe(), SCALES["smoke"], 1)
    with_value(monkeypatch, ADAM_EPSILON, ADAM_EPSILON.reference, 1.0)
    assert pipeline.keys(Recipe(), SCALES["smoke"], 1) == before, "else each new detail would cost every artefact"


# ------------------------------------------------------------------------------------------------ a study's artefacts


@pytest.fixture
def study(tiny_study):
    return tiny_study


@pytest.fixture
def store(own_store):
    return own_store


@pytest.fixture
def place(tiny_cache, tmp_path):
    """The tiny study's cache, to be spoiled."""
    return shutil.copytree(tiny_cache, tmp_path / "cache")


def rewrite(place, stage, arm_keys, **parts):
    """Change what an artefact says that it was made with."""
    file = place / arm_keys[stage] / "done.json"
    done = json.loads(file.read_text())
    for name, change in parts.items():
        done[name] = change(done[name])
    file.write_text(json.dumps(done))


def keys_of(study, arm):
    return pipeline.keys(study.arms[arm], study.scale, study.seeds[0])


def named(dag, keys):
    return {dag.jobs[key].stage for key in keys}


def test_artefacts_of_this_code_are_current(study, tiny_cache):
    dag = dag_of(study, tiny_cache)
    assert dag.over and not dag.outdated


def test_of_code_that_has_changed_all_that_rests_on_it_is_outdated_and_used_all_the_same(study, place, capsys):
    keys = keys_of(study, "off")
    rewrite(place, "ppo", keys, code=lambda code: code | {"repro/ops/loss.py": "00000000"})
    dag = dag_of(study, place)
    assert dag.outdated == {keys["ppo"]: ("repro/ops/loss.py",), keys["evaluate"]: ("its ppo",)}
    assert dag.over, "the key decides"
    tell_of_outdated_code(dag)
    told = capsys.readouterr().err
    assert told.startswith(
        "warning: 2 cached stages (ppo, evaluate) are used as they were made, by code that has changed since"
    )
    assert "(repro/ops/loss.py, its ppo); to make them again: --fresh (FRESH=1)" in told and told.count("\n") == 1


def test_where_only_an_input_was_made_anew_that_is_what_is_said(study, place, capsys):
    rewrite(place, "ppo", keys_of(study, "off"), inputs=lambda inputs: inputs | {"rm": "00000000"})
    dag = dag_of(study, place)
    assert dag.outdated[keys_of(study, "off")["ppo"]] == ("its rm",)
    tell_of_outdated_code(dag)
    assert "by code that has changed since (its rm, its ppo); to make them again" in capsys.readouterr().err


def test_an_artefact_without_a_record_of_its_code_is_said_to_be_of_an_earlier_version(study, place, capsys):
    keys = keys_of(study, "off")
    file = place / keys["rm"] / "done.json"
    done = json.loads(file.read_text())
    file.write_text(
        json.dumps({name: value for name, value in done.items() if name not in ("code", "inputs", "edition")})
    )
    dag = dag_of(study, place)
    assert dag.outdated[keys["rm"]] == (UNRECORDED,) and named(dag, dag.outdated) == {
        "rm",
        "baseline",
        "ppo",
        "evaluate",
    }
    tell_of_outdated_code(dag)
    assert "by an earlier version, which did not record its code" in capsys.readouterr().err


def test_fresh_makes_them_again_and_the_study_has_new_runs_of_them(study, place, store, capsys):
    keys = keys_of(study, "off")
    publish(study, place)
    rewrite(place, "evaluate", keys, code=lambda code: {"repro/ops/loss.py": "00000000"})
    dag = dag_of(study, place, fresh=True)
    assert named(dag, dag.jobs.keys() - dag.done) == {"evaluate"}
    tell_of_outdated_code(dag)
    assert "1 cached stage (evaluate) is made again" in capsys.readouterr().err
    set_aside(dag)
    assert not (place / keys["evaluate"]).exists(), "its place is free"
    assert dag_of(study, place).done == dag.done, "an interrupted study makes it again without being told"
    job = dag.jobs[keys["evaluate"]]
    artefacts.run_or_reuse(pipeline.BY_NAME["evaluate"], job.recipe, job.scale, job.seed, job.keys, place, pytest.fail)
    assert artefacts.edition(place / job.key) == 1 and not list(place.glob("*.earlier"))
    after = dag_of(study, place, fresh=True)
    assert after.over and not after.outdated
    publish(study, place)
    publish(study, place)
    runs, _ = recorded(store)
    assert sorted(run.data.tags["arm"] for run in runs) == ["off", "off", "shift_and_scale"], "one more, once"
    newest = max(runs, key=lambda run: int(run.data.tags["asked"]))
    assert newest.data.tags["arm"] == "off" and newest.data.tags["outdated"] == "{}"


def test_a_run_says_which_of_its_stages_were_of_earlier_code(study, place, store):
    rewrite(place, "ppo", keys_of(study, "off"), code=lambda code: code | {"repro/ops/loss.py": "00000000"})
    publish(study, place)
    said = {run.data.tags["arm"]: json.loads(run.data.tags["outdated"]) for run in recorded(store)[0]}
    assert said == {"shift_and_scale": {}, "off": {"ppo": ["repro/ops/loss.py"], "evaluate": ["its ppo"]}}


def test_a_stage_that_goes_on_from_a_checkpoint_is_of_the_code_that_it_began_with(tmp_path):
    toy = replace(DATA, name="toy", fields=(), upstream=(), run=lambda context: None)
    began = tmp_path / "toy-key.partial" / "checkpoints"
    began.mkdir(parents=True)
    (began / "code.json").write_text('{"repro/ops/loss.py": "00000000"}')
    checkpoint = began / "step-00000001"
    checkpoint.mkdir()
    (checkpoint / "done.json").write_text(json.dumps({"step": 1, "format": FORMAT}))
    made = artefacts.run_or_reuse(toy, Recipe(), SCALES["smoke"], 1, {"toy": "toy-key"}, tmp_path, pytest.fail)
    assert json.loads((made / "done.json").read_text())["code"] == {"repro/ops/loss.py": "00000000"}


def test_two_processes_that_set_an_artefact_aside_are_no_error(tmp_path):
    (tmp_path / "rm-1").mkdir()
    dag = SimpleNamespace(outdated={"rm-1": ("x",)}, done=set(), cache=tmp_path)
    set_aside(dag)
    set_aside(dag)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["rm-1.earlier"]
