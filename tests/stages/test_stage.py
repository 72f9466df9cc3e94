"""Keys, artefacts and what a stage may read: promises 1, 3 and 7 of the design."""

import json
import os
import shutil
import signal
from dataclasses import fields, replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from repro.detail import Detail, Pick, Recipe, Variant
from repro.details import DETAILS, GAMMA, PAD_TOKEN, REWARD_NORMALISATION, WHITEN_ADV
from repro.engine import artefacts, pipeline
from repro.engine.artefacts import run_or_reuse
from repro.models import ranks, starts
from repro.stages import sft, stage
from repro.stages.checkpoint import FORMAT, complete_checkpoints
from repro.stages.stage import Budget, Stage, StageContext
from repro.study.scale import PATHS, SCALES, Scale

FORK = get_context("fork")
BASE = SCALES["smoke"]


@pytest.fixture(autouse=True)
def fresh_digests():
    """Digests of files are remembered for the length of a process; a test that edits files must forget them."""
    artefacts.tree_digest.cache_clear()
    yield
    artefacts.tree_digest.cache_clear()


@pytest.fixture
def scale(tmp_path):
    """A scale whose paths exist."""
    (tmp_path / "tokenizer.json").write_text("tokens")
    (tmp_path / "posts.jsonl").write_text("posts")
    (tmp_path / "pairs.jsonl").write_text("pairs")
    return replace(
        BASE,
        tokenizer=tmp_path / "tokenizer.json",
        posts_file=tmp_path / "posts.jsonl",
        comparisons_file=tmp_path / "pairs.jsonl",
        model="gpt-neox:32/2/2/64",
    )


# ----------------------------------------------------------------------------- keys


@pytest.mark.parametrize("detail", [d for d in DETAILS.values() if d.stages == ("ppo",)], ids=lambda d: d.name)
def test_arms_that_differ_in_a_detail_of_ppo_share_all_that_comes_before_it(detail, scale):
    reference = pipeline.keys(Recipe(), scale, 1)
    for label in detail.variants.keys() - {detail.reference}:
        arm = pipeline.keys(Recipe().but(detail, label), scale, 1)
        assert {name for name in arm if arm[name] != reference[name]} == {"ppo", "evaluate"}


@pytest.mark.parametrize(
    ("detail", "label", "remade"),
    [
        (REWARD_NORMALISATION, "none", {"rm", "baseline", "ppo", "evaluate"}),
        (PAD_TOKEN, "eos", set(pipeline.BY_NAME) - {"feedback"}),
    ],
)
def test_a_change_upstream_remakes_all_that_rests_on_it(detail, label, remade, scale):
    reference, arm = pipeline.keys(Recipe(), scale, 1), pipeline.keys(Recipe().but(detail, label), scale, 1)
    assert {name for name in arm if arm[name] != reference[name]} == remade


def test_another_seed_shares_what_has_no_seed(scale):
    one, two = (pipeline.keys(Recipe(), scale, seed) for seed in (1, 2))
    assert {name for name in one if one[name] == two[name]} == {"data", "base"}


def test_a_new_detail_whose_reference_is_todays_behaviour_leaves_every_key_valid(scale, monkeypatch):
    arm = Recipe().but(WHITEN_ADV, "off")
    before = pipeline.keys(arm, scale, 1)
    new = Detail(
        name="new",
        stages=("data", "sft", "rm", "ppo", "evaluate"),
        paper="",
        question="",
        reference="as_is",
        variants={"as_is": Variant(0, "as it is"), "otherwise": Variant(1, "otherwise")},
        hypothesis="",
        expected={},
    )
    monkeypatch.setitem(DETAILS, new.name, new)
    assert pipeline.keys(arm, scale, 1) == before
    changed = pipeline.keys(arm.but(new, "otherwise"), scale, 1)
    assert {name for name in changed if changed[name] == before[name]} == set()


def test_the_order_of_choices_does_not_enter_a_key(scale):
    one, two = Recipe().but(WHITEN_ADV, "off").but(GAMMA, "0.99"), Recipe().but(GAMMA, "0.99").but(WHITEN_ADV, "off")
    assert pipeline.keys(one, scale, 1) == pipeline.keys(two, scale, 1)


def changed(scale, field, tmp_path):
    """The scale with another value in one field."""
    value = getattr(scale, field)
    if field in PATHS:
        other = tmp_path / "other" / Path(value).name
        other.parent.mkdir()
        other.write_text("something else")
        return replace(scale, **{field: other})
    text = {"corpus": "local", "model": "gpt-neox:32/2/2/32", "frozen_weights": "bfloat16", "sampler": "static"}
    text |= dict.fromkeys(starts.STARTS, "released") | {"annotator": "judge:oracle"}
    return replace(scale, **{field: text[field] if isinstance(value, str) else value + 1})


@pytest.mark.parametrize(
    ("each", "field"),
    [(each, field) for each in pipeline.STAGES for field in each.fields],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_key_changes_with_every_field_that_the_stage_may_read(each, field, scale, tmp_path):
    upstream = dict.fromkeys(each.upstream, "key")
    keys = [artefacts.key(each, Recipe(), budget, 1, upstream) for budget in (scale, changed(scale, field, tmp_path))]
    assert keys[0] != keys[1]


@pytest.mark.parametrize("each", pipeline.STAGES, ids=lambda each: each.name)
def test_a_key_says_in_which_precision_this_device_computes(each, scale, monkeypatch):
    def key(precision):
        return artefacts.key(
            each, Recipe(), replace(scale, precision=precision), 1, dict.fromkeys(each.upstream, "key")
        )

    here = key("auto")
    assert here == key("float32")  # a CPU computes in float32 whatever the scale likes
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert (key("auto") != here) == (each.name not in ("data", "base"))
    assert key("float32") == here


@pytest.mark.parametrize("each", pipeline.STAGES, ids=lambda each: each.name)
def test_a_key_changes_with_the_version_and_with_every_key_upstream(each, scale):
    upstream = dict.fromkeys(each.upstream, "key")
    keys = [
        artefacts.key(each, Recipe(), scale, 1, upstream),
        artefacts.key(replace(each, version=each.version + 1), Recipe(), scale, 1, upstream),
    ]
    keys += [artefacts.key(each, Recipe(), scale, 1, upstream | {name: "other"}) for name in each.upstream]
    assert len(set(keys)) == len(keys)


def test_no_key_depends_on_what_no_stage_may_read(scale):
    known = {field for each in pipeline.STAGES for field in each.fields} | {"precision"}
    free = {field.name for field in fields(Scale)} - known
    assert free == {"name", "threads", "seeds", "kl_cap", "judge_prices", *stage.UNKEYED}
    other = dict(name="mine", threads=2, seeds=(5,), kl_cap=1.0, recompute="layers", processes=2, sharding="fsdp")
    other |= dict(checkpoint_every=3, keep_every=2, judge_url="http://h/v1", judge_key_env="KEY", judge_prices="1,2")
    assert other.keys() == free
    assert pipeline.keys(Recipe(), replace(scale, **other), 1) == pipeline.keys(Recipe(), scale, 1)


def test_fields_that_came_later_leave_keys_of_before_as_they_were(scale):
    # The key that was made before there was any of them.
    each = replace(sft.STAGE, version=1, fields=("posts", "sft_batch", "sft_learning_rate", "micro_batch"))
    later = replace(each, fields=(*each.fields, *artefacts.LATER))
    upstream = dict.fromkeys(each.upstream, "key")
    assert artefacts.key(later, Recipe(), scale, 1, upstream) == artefacts.key(each, Recipe(), scale, 1, upstream)


def test_what_says_how_a_stage_is_run_may_be_read_by_all_of_them():
    assert Budget(BASE, ()).checkpoint_every == BASE.checkpoint_every


@pytest.mark.parametrize("field", PATHS)
def test_the_key_of_a_file_follows_what_is_in_it_and_not_where_it_lies(field, scale, tmp_path):
    before = pipeline.keys(Recipe(), scale, 1)
    elsewhere = tmp_path / "elsewhere" / "renamed.json"
    elsewhere.parent.mkdir()
    shutil.copy(getattr(scale, field), elsewhere)
    assert pipeline.keys(Recipe(), replace(scale, **{field: elsewhere}), 1) == before
    artefacts.tree_digest.cache_clear()
    elsewhere.write_text("edited")
    assert pipeline.keys(Recipe(), replace(scale, **{field: elsewhere}), 1)["data"] != before["data"]


@pytest.mark.parametrize("name", ["base", "./base", "deeper/base"])
def test_the_key_of_a_model_follows_its_weights_however_its_folder_is_named(name, scale, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path(name)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("weights")
    before = pipeline.keys(Recipe(), replace(scale, model=name), 1)
    artefacts.tree_digest.cache_clear()
    (folder / "model.safetensors").write_text("other weights")
    assert pipeline.keys(Recipe(), replace(scale, model=name), 1)["base"] != before["base"]


# ----------------------------------------------------------------------------- what a stage may read


def test_a_detail_that_is_not_declared_for_the_stage_is_refused():
    with pytest.raises(LookupError, match="stage 'sft' reads 'whiten_adv'.*key omits it"):
        Pick(Recipe(), "sft")(WHITEN_ADV)


def test_a_pick_hands_out_the_arms_variant_and_records_what_was_read():
    pick = Pick(Recipe().but(GAMMA, "0.99"), "ppo")
    assert pick(GAMMA) == 0.99
    assert pick(WHITEN_ADV) is WHITEN_ADV.variants[WHITEN_ADV.reference].value
    assert pick.read == {"gamma", "whiten_adv"}


def test_a_field_of_the_budget_that_is_not_declared_is_refused():
    budget = Budget(BASE, ("posts",))
    assert budget.posts == BASE.posts
    with pytest.raises(LookupError, match="Scale.episodes, which its key omits"):
        _ = budget.episodes


# ----------------------------------------------------------------------------- run or reuse


def write_two_files(work: StageContext):
    (work.out / "first").write_text("one")
    (work.out / "deep").mkdir()
    (work.out / "deep" / "second").write_text("two")


def toy(run=write_two_files):
    return Stage("toy", version=1, fields=("posts",), upstream=(), seeded=True, run=run)


def fetch(cache, run=write_two_files, warn=pytest.fail):
    return run_or_reuse(toy(run), Recipe(), BASE, 1, {"toy": "toy-key"}, cache, warn)


def never(work):
    pytest.fail("the artefact was there already")


def test_an_artefact_is_made_once_and_says_what_it_is(tmp_path):
    made = fetch(tmp_path)
    assert fetch(tmp_path, run=never) == made
    done = json.loads((made / "done.json").read_text())
    assert done["key"] == "toy-key"
    assert set(done["files"]) == {"first", "deep/second"}


def goes_on_from_a_full_disk(work):
    """An attempt before this one had no room for the list of files, and what it wrote of it is still there."""
    write_two_files(work)
    (work.out / "done.json.tmp").write_text("")


def test_half_a_list_of_files_is_no_file_of_the_artefact(tmp_path):
    made = fetch(tmp_path, run=goes_on_from_a_full_disk)
    assert set(json.loads((made / "done.json").read_text())["files"]) == {"first", "deep/second"}
    assert artefacts.cached(made) and fetch(tmp_path, run=never) == made


def fails_midway(work):
    (work.out / "first").write_text("one")
    raise RuntimeError("midway")


def is_killed_midway(work):
    (work.out / "first").write_text("one")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_stage_that_raises_leaves_no_artefact_and_is_run_again(tmp_path):
    with pytest.raises(RuntimeError, match="midway"):
        fetch(tmp_path, run=fails_midway)
    assert not (tmp_path / "toy-key").exists()
    assert (fetch(tmp_path) / "deep" / "second").read_text() == "two"


def test_a_stage_that_is_killed_leaves_no_artefact_and_is_run_again(tmp_path):
    process = FORK.Process(target=fetch, args=(tmp_path, is_killed_midway))
    process.start()
    process.join(timeout=30)
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "toy-key.partial" / "first").exists(), "it was killed midway"
    assert not (tmp_path / "toy-key").exists()
    assert (fetch(tmp_path) / "deep" / "second").read_text() == "two"
    assert not (tmp_path / "toy-key.partial").exists()


def kept(cache, done):
    """A stage that was ended in its middle: its journal, and a checkpoint whose last file says `done`."""
    checkpoint = cache / "toy-key.partial" / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "done.json").write_text(done)
    (checkpoint.parents[1] / "metrics.jsonl").write_text('{"step": 1}\n{"step"')
    return checkpoint


def test_a_checkpoint_that_is_whole_and_of_this_version_is_gone_on_from(tmp_path):
    checkpoint = kept(tmp_path, json.dumps({"step": 1, "format": FORMAT}))
    assert complete_checkpoints(checkpoint.parent) == [checkpoint]
    assert (fetch(tmp_path) / "metrics.jsonl").read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("done", ["", '{"step": 1', '{"step": 1}', json.dumps({"step": 1, "format": FORMAT - 1})])
def test_a_checkpoint_that_is_torn_or_of_another_version_is_told_and_begun_anew(done, tmp_path):
    assert complete_checkpoints(kept(tmp_path, done).parent) == []
    told = []
    assert not (fetch(tmp_path, warn=told.append) / "metrics.jsonl").exists()
    assert [line for line in told if "starts from its beginning" in line] == told != []


def flip_a_byte(made):
    (made / "deep" / "second").write_bytes(b"twO")


def delete_a_file(made):
    (made / "first").unlink()


def truncate_the_seal(made):
    seal = made / "done.json"
    seal.write_bytes(seal.read_bytes()[:40])


def empty_the_seal(made):
    (made / "done.json").write_text("")


def forget_the_files(made):
    (made / "done.json").write_text("{}")


def remove_the_seal(made):
    (made / "done.json").unlink()


@pytest.mark.parametrize(
    "damage", [flip_a_byte, delete_a_file, truncate_the_seal, empty_the_seal, forget_the_files, remove_the_seal]
)
def test_a_damaged_artefact_is_made_again_with_a_warning(tmp_path, damage):
    damage(fetch(tmp_path))
    warnings = []
    made = fetch(tmp_path, warn=warnings.append)
    assert len(warnings) == 1 and "toy-key is corrupt" in warnings[0]
    assert ((made / "first").read_text(), (made / "deep" / "second").read_text()) == ("one", "two")
    assert fetch(tmp_path, run=never) == made


def test_two_processes_at_once_make_an_artefact_once(tmp_path):
    barrier, cache, log = FORK.Barrier(2), tmp_path / "cache", tmp_path / "log"

    def slow(work):
        with log.open("a") as lines:
            lines.write("made\n")
        enough.wait(0.3)
        write_two_files(work)

    def at_once():
        barrier.wait()
        fetch(cache, run=slow)

    enough = FORK.Event()
    processes = [FORK.Process(target=at_once) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert log.read_text() == "made\n"


# ----------------------------------------------------------------------------- work


@pytest.fixture
def work(tmp_path):
    return StageContext("toy", Pick(Recipe(), "ppo"), Budget(BASE, ()), "float32", 1, {}, tmp_path)


def test_a_number_that_is_not_finite_is_counted_instead_of_logged(work, tmp_path):
    work.log(1, {"good": 1.0, "bad": float("nan")})
    work.log(2, {"good": 2.0, "bad": float("inf")})
    lines = stage.read_journal(tmp_path)
    assert [line["metrics"] for line in lines] == [
        {"good": 1.0, "nonfinite/bad": 1.0},
        {"good": 2.0, "nonfinite/bad": 2.0},
    ]
    work.finish({"good": 1.0, "bad": float("nan")}, outcome="diverged")
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "outcome": "diverged",
        "metrics": {"good": 1.0, "nonfinite/bad": 1.0},
    }


def lines(folder):
    return [(line["step"], line["metrics"]) for line in stage.read_journal(folder)]


def test_a_long_stage_logs_means_and_leaves_no_step_out(work, tmp_path):
    for step in range(1, 1001):
        work.log_mean(step, {"value": float(step)}, 1000)
    work.log_mean(1001, {"value": 7.0}, 1000)
    assert len(lines(tmp_path)) == stage.CURVE_POINTS == 200
    assert lines(tmp_path)[:2] == [(5, {"value": 3.0}), (10, {"value": 8.0})]
    work.finish({})
    assert lines(tmp_path)[-1] == (1001, {"value": 7.0})


def test_a_short_stage_logs_every_step_and_a_number_that_is_not_finite_at_once(work, tmp_path):
    work.log_mean(1, {"value": 1.0}, 3)
    assert lines(tmp_path) == [(1, {"value": 1.0})]
    work.log_mean(2, {"value": float("nan")}, 10_000)
    assert lines(tmp_path)[-1] == (2, {"nonfinite/value": 1.0})


def test_a_journal_whose_last_line_is_being_written_is_read_without_it(work, tmp_path):
    work.log(1, {"good": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as journal:
        journal.write('{"step": 2, "metr')
    assert [line["step"] for line in stage.read_journal(tmp_path)] == [1]
    assert stage.read_journal(tmp_path / "nowhere") == []


def test_seeds_differ_by_purpose_stage_and_seed_and_are_shared_by_arms(work):
    other_arm = replace(work, pick=Pick(Recipe().but(GAMMA, "0.99"), "ppo"))
    assert other_arm.seed_of("shuffle") == work.seed_of("shuffle")
    assert (
        len(
            {
                work.seed_of("shuffle"),
                work.seed_of("sampling"),
                replace(work, seed=2).seed_of("shuffle"),
                replace(work, stage="sft").seed_of("shuffle"),
            }
        )
        == 4
    )
    assert torch.equal(
        torch.rand(3, generator=work.generator("shuffle")), torch.rand(3, generator=work.generator("shuffle"))
    )


def test_ranks_lose_different_units_to_dropout_and_the_first_those_of_a_rank_alone(work, monkeypatch):
    def mask(rank):
        monkeypatch.setattr(ranks, "rank", lambda: rank)
        work.seed_dropout()
        return torch.nn.functional.dropout(torch.ones(200), 0.1)

    with torch.random.fork_rng():
        assert not torch.equal(mask(0), mask(1)) and torch.equal(mask(1), mask(1))
        first = mask(0)
        torch.manual_seed(work.seed_of("dropout"))
        assert torch.equal(first, torch.nn.functional.dropout(torch.ones(200), 0.1))


# ----------------------------------------------------------------------------- the whole pipeline


def test_the_same_seed_gives_the_same_bits(tiny_scale, tiny_run, tmp_path):
    again = pipeline.run(Recipe(), tiny_scale, 1, tmp_path, warn=pytest.fail)
    for name, folder in tiny_run.items():
        weights = sorted(folder.rglob("*.safetensors"))
        for file in weights:
            twin = load_file(again[name] / file.relative_to(folder))
            assert all(torch.equal(tensor, twin[key]) for key, tensor in load_file(file).items()), file
        assert weights or name in ("data", "baseline", "evaluate")
        assert (folder / "result.json").read_text() == (again[name] / "result.json").read_text()
        assert [(line["step"], line["metrics"]) for line in stage.read_journal(folder)] == [
            (line["step"], line["metrics"]) for line in stage.read_journal(again[name])
        ]
    assert (tiny_run["evaluate"] / "samples.json").read_text() == (again["evaluate"] / "samples.json").read_text()


def test_a_second_run_makes_nothing(tiny_scale, tiny_run, monkeypatch):
    monkeypatch.setattr(pipeline, "STAGES", tuple(replace(each, run=never) for each in pipeline.STAGES))
    assert pipeline.run(Recipe(), tiny_scale, 1, tiny_run["ppo"].parent, warn=pytest.fail) == tiny_run
