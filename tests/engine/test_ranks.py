"""Several processes on one CPU do what one does, and a stage that was ended and started again what one that was not does."""

import json
import shutil
from itertools import chain

import pytest
import torch
from safetensors.torch import load_file

from repro.engine import pipeline
from repro.models import ranks
from repro.stages.corpus import Corpus
from tests import on_ranks
from tests.ports import free_port

# Nothing divides by two, or by the micro-batch; each step is kept, so that saving is tried too.
SMALL = dict(
    posts=48,
    validation_posts=7,
    test_posts=9,
    comparisons=40,
    validation_comparisons=11,
    normalisation_posts=21,
    sft_batch=15,
    rm_batch=9,
    episodes=45,
    ppo_batch=15,
    micro_batch=4,
    rollout_batch=5,
    evaluate_every=1,
    checkpoint_every=2,
)
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
SHARING = {"ddp": {}, "fsdp": FSDP}
# Minibatches that ranks share unevenly, texts beside the episodes, an average of the weights, and one of every kind of loss.
AWKWARD = {"minibatches": "4", "ptx_mix": "1", "value_clip": "off", "loss_aggregation": "sequence_mean"}


def run(cache, stages, processes=1, sharing="ddp", choices={}, code=0, scale={}, end_at=None, how=None):
    """The stages' keys, once that many processes have ended with this exit code (-9 where they were killed)."""
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    places = [world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} | SHARING[sharing] for rank in range(processes)]
    errors = [cache / f"errors-{rank}" for rank in range(processes)]
    started = [
        on_ranks.begin(cache, stages, choices, SMALL | scale, place if processes > 1 else {}, said, end_at, how)
        for place, said in zip(places, errors)
    ]
    for process in started:
        process.join(timeout=400)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    assert codes == [code] * processes, errors[0].read_text()[-3000:]
    return on_ranks.keys_with(stages, *on_ranks.recipe_and_scale(choices, SMALL | scale))


def numbers(folder):
    """Metrics of the end and of the journal, without the time."""
    journal = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []
    lines = [json.loads(line) for line in journal]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    return [json.loads((folder / "result.json").read_text())["metrics"], *(line["metrics"] for line in lines)]


def losses(folder, name):
    """A stage's training loss, step by step."""
    return [line[f"{name}/loss"] for line in numbers(folder)[1:] if f"{name}/loss" in line]


def weights(folder):
    return {
        (file.relative_to(folder).as_posix(), name): tensor
        for file in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of the pipeline: its cache and keys, by choices of details."""
    made = {}

    def of(choices={}):
        key = json.dumps(choices, sort_keys=True)
        if key not in made:
            cache = tmp_path_factory.mktemp("alone")
            made[key] = cache, run(cache, ["data", "base", "sft", "rm", "baseline", "ppo", "evaluate"], choices=choices)
        return made[key]

    return of


def beside(cache, keys, tmp_path, *stages):
    """A cache with some of what is in another."""
    for name in stages:
        shutil.copytree(cache / keys[name], tmp_path / keys[name])
    return tmp_path


# ----------------------------------------------------------------------------- two ranks do what one does


@pytest.mark.parametrize(
    ("sharing", "choices"),
    [
        ("fsdp", {}),
        ("ddp", AWKWARD),
        pytest.param("ddp", {}, marks=pytest.mark.nightly),
        pytest.param("fsdp", AWKWARD, marks=pytest.mark.nightly),
    ],
    ids=str,
)
def test_two_ranks_are_one_to_rounding_from_stage_to_stage(alone, tmp_path, sharing, choices):
    cache, keys = alone(choices)
    beside(cache, keys, tmp_path, "data", "base")
    # What is computed again for memory's sake is the same; keys do not know of it.
    run(tmp_path, ["sft", "rm", "baseline", "ppo", "evaluate"], 2, sharing, choices, scale={"recompute": "layers"})
    for name in ("sft", "rm", "baseline", "ppo", "evaluate"):
        one, two = cache / keys[name], tmp_path / keys[name]
        for expected, found in zip(numbers(one), numbers(two), strict=True):
            # A ratio beside its clip may fall on either side of it.
            smooth = {k: v for k, v in expected.items() if "clip_fraction" not in k and "explained" not in k}
            assert found.keys() == expected.keys()
            assert {k: found[k] for k in smooth} == pytest.approx(smooth, abs=2e-4, rel=1e-3)
        expected, found = weights(one), weights(two)
        assert found.keys() == expected.keys()
        for place, tensor in expected.items():
            torch.testing.assert_close(found[place], tensor, atol=2e-5, rtol=1e-3)
    samples = [json.loads((where / keys["evaluate"] / "samples.json").read_text()) for where in (cache, tmp_path)]
    assert [row["summary"] for row in samples[1]] == [row["summary"] for row in samples[0]]


def test_two_ranks_collect_the_feedback_that_one_does(alone, tmp_path):
    cache, keys = alone()
    one, two = tmp_path / "one", tmp_path / "two"
    for place, processes in ((one, 1), (two, 2)):
        place.mkdir()
        beside(cache, keys, place, "data", "rm", "ppo")
        key = run(place, ["feedback"], processes)["feedback"]
    expected, found = (Corpus(place / key).pairs("train") for place in (one, two))
    assert len(expected) > 0 and found[:] == expected[:]
    for expected, found in zip(numbers(one / key), numbers(two / key), strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.nightly
def test_in_bfloat16_two_ranks_that_share_weights_measure_as_finely_as_one(alone, tmp_path):
    # Rounded log-probabilities would make the first ratio wrong by a hundredth; autocast rounds what lies between. Ranks draw
    # in smaller batches, whose rounding differs, so their samples do too and only what does not hang on them is compared.
    cache, keys = alone()
    beside(cache, keys, tmp_path, "data", "base")
    rough = {"precision": "bfloat16"}
    rounded = run(tmp_path, ["sft", "rm", "baseline", "ppo"], 1, scale=rough)
    one = numbers(tmp_path / rounded["ppo"])[1]
    shutil.rmtree(tmp_path / rounded["ppo"])
    run(tmp_path, ["ppo"], 2, "fsdp", scale=rough)
    two = numbers(tmp_path / rounded["ppo"])[1]
    assert one["policy/first_ratio_error"] > 1e-6  # it was in bfloat16
    assert two["policy/first_ratio_error"] == pytest.approx(one["policy/first_ratio_error"], abs=2e-3)
    # The first batch is drawn by the SFT policy itself: its KL is rounding, of other samples by two ranks than by one.
    assert abs(one["objective/kl"]) < 0.15 and abs(two["objective/kl"]) < 0.15
    # What SFT and the reward model learn from is the same, whoever holds it; bfloat16 has eight bits.
    expected = {name: losses(tmp_path / rounded[name], name) for name in ("sft", "rm")}
    for name in expected:
        shutil.rmtree(tmp_path / rounded[name])
    run(tmp_path, ["sft", "rm"], 2, "fsdp", scale=rough)
    for name, values in expected.items():
        assert len(values) > 1 and losses(tmp_path / rounded[name], name) == pytest.approx(values, rel=0.03)


@pytest.mark.nightly
def test_dpo_on_two_ranks_is_dpo_on_one(alone, tmp_path):
    cache, keys = alone({"algorithm": "dpo"})
    beside(cache, keys, tmp_path, "data", "base", "sft", "rm")
    run(tmp_path, ["ppo"], 2, "ddp", {"algorithm": "dpo"})
    one, two = (numbers(where / keys["ppo"]) for where in (cache, tmp_path))
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, abs=1e-5, rel=1e-4)


@pytest.mark.nightly
@pytest.mark.parametrize("sharing", ["ddp", "fsdp"])
def test_expert_iteration_on_two_ranks_is_expert_iteration_on_one(alone, tmp_path, sharing):
    cache, keys = alone()
    made = {}
    for processes in (1, 2):
        place = tmp_path / str(processes)
        beside(cache, keys, place, "data", "base", "sft", "rm")
        batches = {"ppo_batch": 16, "episodes": 48}
        each = run(place, ["ppo"], processes, sharing, {"algorithm": "expert_iteration"}, scale=batches)
        made[processes] = place / each["ppo"]
    for expected, found in zip(numbers(made[1]), numbers(made[2]), strict=True):
        assert found == pytest.approx(expected, abs=2e-4, rel=1e-3)
    for place, tensor in weights(made[1]).items():
        torch.testing.assert_close(weights(made[2])[place], tensor, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("sharing", ["ddp", pytest.param("fsdp", marks=pytest.mark.nightly)])
def test_two_ranks_have_whole_groups_of_responses_and_no_critic_to_share(alone, tmp_path, sharing):
    cache, keys = alone()
    grouped = {"baseline": "leave_one_out", "responses_per_query": "2", "ratio_level": "response_mean"}
    grouped |= {"uninformative_groups": "dropped", "truncated_sampling": "top_k_10_replayed"}
    made = {}
    for processes in (1, 2):
        place = tmp_path / str(processes)
        beside(cache, keys, place, "data", "base", "sft", "rm")
        each = run(place, ["ppo"], processes, sharing, grouped, scale={"ppo_batch": 16, "episodes": 48})
        made[processes] = place / each["ppo"]
        assert not (made[processes] / "critic").exists()
    for expected, found in zip(numbers(made[1]), numbers(made[2]), strict=True):
        smooth = {k: v for k, v in expected.items() if "clip_fraction" not in k and "explained" not in k}
        assert {k: found[k] for k in smooth} == pytest.approx(smooth, abs=2e-4, rel=1e-3)
    for place, tensor in weights(made[1]).items():
        torch.testing.assert_close(weights(made[2])[place], tensor, atol=2e-4, rtol=1e-3)


def test_two_ranks_warm_one_critic_up_and_take_one_constrained_step(alone, tmp_path):
    cache, keys = alone()
    made, choices = {}, {"critic_warm_up": "8", "constrained_step": "trpo", "ptx_mix": "1"}
    for processes in (1, 2):
        place = tmp_path / str(processes)
        beside(cache, keys, place, "data", "base", "sft", "rm")
        each = run(place, ["ppo"], processes, "ddp", choices, scale={"episodes": 15})
        made[processes] = place / each["ppo"]
    (_, one), (_, two) = (numbers(folder) for folder in made.values())
    assert one["policy/ratio_error"] > 0.01, "the step was taken"
    # Ten iterations in float32 make a per cent of the rounding of a sum.
    assert two == pytest.approx(one, rel=0.05, abs=2e-3)


# ----------------------------------------------------------------------------- ended and started again


HELD = {  # every state that a checkpoint has to hold has an arm that needs it
    "kl_controller": "adaptive",
    "ptx_mix": "1",
    "weight_average": "0.992",
    "reference_policy": "moving_average",
    "dropout": "on_everywhere",
    "adam_flavour": "tensorflow",
    "staleness": "1",
    "truncated_sampling": "top_p_0.9_replayed",
    "baseline": "moving_average",
    "entropy_target": "3_nats",
}
ADAPTED = {"adapter": "lora", "entropy_bonus": "0.01"}  # saving merges an adapter, and training goes on


@pytest.mark.parametrize(
    ("how", "code", "at", "choices"),
    [
        ("SIGTERM", 75, 1, HELD),
        ("SIGKILL", -9, 3, ADAPTED),
        pytest.param("SIGKILL", -9, 3, {}, marks=pytest.mark.nightly),
        pytest.param("SIGTERM", 75, 1, {}, marks=pytest.mark.nightly),
        pytest.param("SIGKILL", -9, 3, HELD, marks=pytest.mark.nightly),
    ],
)
def test_ended_and_started_again_is_never_ended_bit_for_bit(alone, tmp_path, how, code, at, choices):
    cache, keys = alone(choices)
    beside(cache, keys, tmp_path, "data", "base", "baseline")
    for stage in ("sft", "rm", "ppo"):
        run(tmp_path, ["sft", "rm", "ppo"], choices=choices, code=code, end_at=at, how=how)
        assert len(list(tmp_path.glob(f"{keys[stage]}.partial/checkpoints/*/done.json"))) == 1
    run(tmp_path, ["sft", "rm", "ppo"], choices=choices)
    for stage in ("sft", "rm", "ppo"):
        one, two = cache / keys[stage], tmp_path / keys[stage]
        assert numbers(two) == numbers(one)
        expected, found = weights(one), weights(two)
        assert found.keys() == expected.keys() and all(torch.equal(found[each], expected[each]) for each in expected)
        assert not (two / "checkpoints").exists()
    assert (two / "episodes.json").read_bytes() == (one / "episodes.json").read_bytes()


@pytest.mark.parametrize("sharing", [pytest.param("ddp", marks=pytest.mark.nightly), "fsdp"])
def test_two_ranks_go_on_from_where_two_ranks_were_ended(alone, tmp_path, sharing):
    cache, keys = alone()
    beside(cache, keys, tmp_path, "data", "base", "sft", "rm", "baseline")
    run(tmp_path, ["ppo"], 2, sharing, code=75, end_at=1, how="SIGTERM")
    run(tmp_path, ["ppo"], 2, sharing)
    for expected, found in zip(numbers(cache / keys["ppo"]), numbers(tmp_path / keys["ppo"]), strict=True):
        assert found["objective/score" if "objective/score" in found else "ppo/updates"] == pytest.approx(
            expected["objective/score" if "objective/score" in expected else "ppo/updates"], abs=1e-4
        )
    expected, found = weights(cache / keys["ppo"]), weights(tmp_path / keys["ppo"])
    for place, tensor in expected.items():
        torch.testing.assert_close(found[place], tensor, atol=2e-5, rtol=1e-3)


# ----------------------------------------------------------------------------- where ranks are part of a key


@pytest.mark.parametrize(
    ("choices", "other"),
    [
        ({}, ""),
        ({"kl_coef": "0.1"}, ""),
        ({"whiten_scope": "each_rank"}, "ppo evaluate"),
        ({"update_dropout": "0.1"}, "ppo evaluate"),
        ({"dropout": "on_in_sft_and_rm"}, "sft rm baseline ppo evaluate"),
        ({"dropout": "on_everywhere"}, "sft rm baseline ppo evaluate"),
    ],
    ids=str,
)
def test_the_number_of_ranks_is_in_the_keys_of_what_depends_on_it(choices, other):
    one, two = (pipeline.keys(*on_ranks.recipe_and_scale(choices, {"processes": count}), 1) for count in (1, 2))
    assert {name for name in one if one[name] != two[name]} == set(other.split())


# ----------------------------------------------------------------------------- whose rows are whose


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [5, 6, 7])
def test_every_row_is_somebodys_and_all_have_as_many(monkeypatch, count, rows):
    monkeypatch.setattr(ranks, "world_size", lambda: count)
    shares, order = [], torch.randperm(rows, generator=torch.Generator().manual_seed(rows))
    for here in range(count):
        monkeypatch.setattr(ranks, "rank", lambda here=here: here)
        shares.append(ranks.shard(order))
    assert len({len(own) for own, _ in shares}) == 1
    assert sorted(chain.from_iterable(own[counts].tolist() for own, counts in shares)) == list(range(rows))
    monkeypatch.setattr(ranks, "all_gather", lambda columns: [[own.numpy()] for own, _ in shares])
    assert ranks.gather_shards([shares[0][0].numpy()], order)[0].tolist() == list(range(rows))


def test_a_minibatch_is_dealt_to_those_who_hold_its_episodes(monkeypatch):
    part = torch.tensor([4, 0, 3, 2])  # of 5 episodes on two ranks: 0, 2 and 4 on the first, 1 and 3 on the second
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    found = {}
    for here in (0, 1):
        monkeypatch.setattr(ranks, "rank", lambda here=here: here)
        own, counts = ranks.local_shard(part)
        found[here] = own.tolist(), counts.tolist()
    assert found == {0: ([2, 0, 1], [True] * 3), 1: ([1, 1, 1], [True, False, False])}
