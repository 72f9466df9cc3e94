"""How long a stage is said to take: what its like took before, else arithmetic that grows with the budget."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from repro.detail import Recipe
from repro.engine import cost, devices, flops, footprint, pipeline, stage_flops
from repro.engine.flops import Network, network_of
from repro.engine.job import Job
from repro.engine.stage_flops import trains
from repro.models import logprobs, modes, pretrained, scalar_model, starts
from repro.ops import vocabulary
from repro.stages import evaluate, inference, optimise, ppo, ppo_setup, ppo_trust_region, rm, sft, stage
from repro.study.scale import SCALES
from tests import tiny
from tests.live import Live

SMOKE = SCALES["smoke"]


def finished(cache, name, seconds, scale=SMOKE.name):
    folder = cache / name
    folder.mkdir()
    (folder / stage.DONE).write_text(json.dumps({"scale": scale, "seconds": seconds}))


def job(name, scale=SMOKE):
    return Job(key=name, stage=name, arm="reference", recipe=Recipe(), scale=scale, seed=1, keys={})


def test_the_past_is_a_median_for_each_stage_and_scale(tmp_path):
    for number, seconds in enumerate([10.0, 12.0, 500.0]):
        finished(tmp_path, f"ppo-{number}", seconds)
    finished(tmp_path, "ppo-3", 90.0, scale="mini")
    finished(tmp_path, "sft-4", 3.0)
    assert cost.history(tmp_path) == {("ppo", "smoke"): 12, ("ppo", "mini"): 90, ("sft", "smoke"): 3}


def test_what_is_corrupt_or_unfinished_is_no_past(tmp_path):
    finished(tmp_path, "ppo-1", 10.0)
    finished(tmp_path, "ppo-2", 10.0)
    (tmp_path / "ppo-1" / stage.DONE).write_text("{")
    (tmp_path / "ppo-2" / stage.DONE).unlink()
    assert cost.history(tmp_path) == {}


def test_the_past_is_believed_and_only_the_rest_is_worked_out(tmp_path):
    finished(tmp_path, "ppo-1", 10.0)
    assert cost.seconds([job("ppo"), job("ppo")], tmp_path) == 20
    assert cost.seconds([job("ppo"), job("sft")], tmp_path) == 10 + cost.estimate("sft", SMOKE)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("data", "posts"),
        ("data", "comparisons"),
        ("sft", "posts"),
        ("rm", "comparisons"),
        ("baseline", "test_posts"),
        ("ppo", "episodes"),
        ("ppo", "response_tokens"),
        ("evaluate", "test_posts"),
    ],
)
def test_a_larger_budget_takes_longer(name, field):
    larger = replace(SMOKE, **{field: 10 * getattr(SMOKE, field)})
    assert cost.estimate(name, larger) > cost.estimate(name, SMOKE)


@pytest.mark.parametrize("name", ["sft", "rm", "baseline", "ppo", "evaluate"])
def test_a_larger_model_takes_longer(name):
    small, large = (replace(SMOKE, model=shape) for shape in ("gpt-neox:64/2/2/128", "gpt-neox:128/4/2/512"))
    assert cost.estimate(name, large) > cost.estimate(name, small)


@pytest.mark.parametrize(
    "scale", [scale for scale in SCALES.values() if scale.corpus == "embedded"], ids=lambda s: s.name
)
def test_every_stage_has_an_estimate_of_sane_size(scale):
    assert all(1 < cost.estimate(name, scale) < 3600 for name in pipeline.BY_NAME)


# ---------------------------------------------------------------------------------------------- on GPUs

TINY = Network(hidden=32, layers=2, intermediate=64, vocabulary=tiny.VOCABULARY)
QUERY, RESPONSE, ROWS = 24, 8, 4
GPU = replace(SMOKE, model="gpt-neox:1024/24/16/4096", query_tokens=512, response_tokens=53, query_pair_tokens=638)
PPO_STAGES = ("sft", "rm", "baseline", "ppo", "evaluate")


def counted(work):
    """Operations of matrix multiplications in `work`, attention's too, which its fused kernels hide on a CPU."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        made = work()
    return counter.get_total_flops(), made


@pytest.fixture(scope="module")
def updated():
    """Operations of a rollout of full-length responses, and of one pass of an update over it."""
    networks = tiny.models(end_logit=-1e3)
    weights = [p for network in (networks.policy, networks.critic) for p in network.parameters()]
    setting = tiny.setting(networks, tiny.pick(), torch.optim.SGD(weights, 0.0), ROWS, ROWS)
    query = torch.randint(2, tiny.PAD, (ROWS, QUERY))
    rolled, rollout = counted(lambda: ppo.roll_out(setting, query, tiny.uniform(ROWS, RESPONSE)))
    target, _ = ppo.targets(rollout, 0.05, ROWS, setting.pick)
    learnt, _ = counted(lambda: ppo.ppo_step(setting, rollout, target, tiny.NO_TEXTS, ppo_setup.AdaptiveState(0.05)))
    return rolled, learnt


def test_a_rollout_is_as_many_operations_as_are_counted(updated):
    assert flops.total(flops.rollout(TINY, ROWS, QUERY, RESPONSE)) == pytest.approx(updated[0], rel=0.03)


@pytest.mark.parametrize("batch", [2 * ROWS, ROWS])
def test_a_rollout_of_two_responses_to_a_query_is_as_many_operations_as_are_counted(batch):
    """In one batch, and in two, in which rows stand so that a query's responses are in one of them."""
    setting = tiny.setting(tiny.models(end_logit=-1e3), tiny.pick(), rollout_batch=batch)
    setting = replace(setting, sampling=replace(setting.sampling, responses=2))
    query = torch.randint(2, tiny.PAD, (ROWS, QUERY)).repeat(2, 1)
    rolled, _ = counted(lambda: ppo.roll_out(setting, query, tiny.uniform(2 * ROWS, RESPONSE)))
    expected = flops.total(flops.rollout(TINY, 2 * ROWS, QUERY, RESPONSE, responses=2))
    assert expected == pytest.approx(rolled, rel=0.03)
    assert expected < 0.95 * flops.total(flops.rollout(TINY, 2 * ROWS, QUERY, RESPONSE))


@pytest.mark.parametrize("references", [0, 1], ids=["of the reference policy", "of another"])
def test_an_evaluation_is_as_many_operations_as_are_counted(references):
    networks, corpus = tiny.models(end_logit=-1e3), SimpleNamespace(pad=tiny.PAD, eos=tiny.EOS, decode=list)
    kl = evaluate.kl_to(networks.reference, corpus) if references else evaluate.no_kl
    draws = [inference.Draw(0.01 + seed, torch.Generator().manual_seed(seed)) for seed in range(2)]
    query = torch.randint(2, tiny.PAD, (ROWS, QUERY))
    read, _ = counted(
        lambda: evaluate.sample_summaries(
            networks.policy, kl, networks.reward_model, query, draws, corpus, RESPONSE, ROWS
        )
    )
    expected = flops.total(flops.evaluated(TINY, 2 * ROWS, QUERY, RESPONSE, responses=2, references=references))
    assert expected == pytest.approx(read, rel=0.03)


def test_an_update_is_as_many_operations_as_are_counted(updated):
    assert flops.total(flops.update(TINY, ROWS, QUERY, RESPONSE)) == pytest.approx(updated[1], rel=0.03)


def test_a_product_with_the_fisher_matrix_is_as_many_operations_as_are_counted():
    arm, networks = tiny.pick(constrained_step="trpo"), tiny.models(end_logit=-1e3)
    setting, weights = tiny.setting(networks, arm, micro_batch=ROWS), list(networks.policy.parameters())
    query = torch.randint(2, tiny.PAD, (ROWS, QUERY))
    rollout, vector = (
        ppo.roll_out(setting, query, tiny.uniform(ROWS, RESPONSE)),
        torch.randn(sum(map(torch.numel, weights))),
    )
    found, _ = counted(lambda: ppo_trust_region.fisher_vector_product(setting, rollout, weights, vector))
    assert flops.total(flops.fisher_vector_product(TINY, ROWS, QUERY, RESPONSE)) == pytest.approx(found, rel=0.03)


def test_trpo_takes_several_times_as_long_as_the_clip_and_no_longer_to_sample():
    """Ten iterations of the conjugate gradient and the length of its step, once for each batch."""
    clip, trpo = (passes_for(constrained_step=label) for label in ("clip", "trpo"))
    assert (clip.fisher, trpo.fisher) == (0, 11)
    spent = [
        {name: flops.total(products) for name, products in each.items()}
        for each in (
            stage_flops.Stages(SMOKE, network_of(SMOKE.model), stage_flops.Lengths.most(SMOKE), passes).ppo(True)
            for passes in (clip, trpo)
        )
    ]
    assert 4 < spent[1].pop("update") / spent[0].pop("update") < 7
    assert spent[0] == spent[1]


def test_layers_that_are_computed_again_are_counted_again():
    policy, ids = tiny.policy(), torch.randint(2, tiny.PAD, (ROWS, QUERY + 1))

    def learn():
        logprobs.response_logprobs(policy, ids[:, :-1], ids[:, -1:], tiny.PAD, tiny.EOS, 1.0).sum().backward()

    plain, _ = counted(learn)
    with modes.recompute_activations([policy], "layers"):
        again, _ = counted(learn)
    recomputed = flops.total(flops.update(TINY, ROWS, QUERY, 1, again=1)) - flops.total(
        flops.update(TINY, ROWS, QUERY, 1)
    )
    assert again - plain == pytest.approx(recomputed / 2, rel=0.03)  # of one network


def test_sft_is_as_many_operations_as_are_counted():
    policy, ids = tiny.policy(), torch.randint(2, tiny.PAD, (ROWS, QUERY))
    found, _ = counted(lambda: sft.token_loss(policy, ids, torch.ones_like(ids, dtype=torch.bool), tiny.PAD).backward())
    assert flops.total(flops.sft(TINY, ROWS, QUERY)) == pytest.approx(found, rel=0.03)


def test_comparisons_are_as_many_operations_as_are_counted():
    judge, count = tiny.scalar(), torch.full((ROWS,), RESPONSE)
    query, *responses = (torch.randint(2, tiny.PAD, (ROWS, tokens)) for tokens in (QUERY, RESPONSE, RESPONSE))
    responses[1][:, 0] = (responses[0][:, 0] - 1) % tiny.PAD  # or they would share more than the query
    texts = [rm.Texts(torch.cat([query, response], 1), count) for response in responses]
    found, _ = counted(lambda: rm.margins(judge, *texts, tiny.PAD).sum().backward())
    assert flops.total(flops.comparison(TINY, ROWS, QUERY, QUERY + RESPONSE)) == pytest.approx(found, rel=0.03)
    with torch.no_grad():
        found, _ = counted(lambda: rm.margins(judge, *texts, tiny.PAD))
    assert flops.total(flops.compared(TINY, ROWS, QUERY, QUERY + RESPONSE)) == pytest.approx(found, rel=0.03)


@pytest.fixture
def large_blocks(monkeypatch):
    """Logits a block at a time as a GPU has them: of the whole vocabulary."""
    monkeypatch.setattr(vocabulary, "BLOCK", {})


@pytest.mark.parametrize("recompute", ["nothing", "layers"])
@pytest.mark.parametrize("rows", [4, 24])
def test_memory_is_what_live_tensors_take(rows, recompute, monkeypatch, large_blocks):
    """In float32, with the weights' share small and large; what stays is counted by hand, what comes and goes as it does."""
    network = Network(hidden=64, layers=4, intermediate=256, vocabulary=512)
    monkeypatch.setattr(footprint, "network_of", lambda _: network)
    scale = replace(
        SMOKE, query_tokens=48, query_reference_tokens=16, query_pair_tokens=16, response_tokens=16,
        micro_batch=rows, rollout_batch=rows, recompute=recompute,
    )  # fmt: skip
    policy, critic, reference, judge = (
        pretrained.initialise_policy("gpt-neox:64/4/4/256", 512, 128, seed) for seed in range(4)
    )
    critic, judge = (scalar_model.ScalarModel(each.base_model) for each in (critic, judge))
    networks = ppo_setup.Networks(policy.train(), critic.train(), modes.freeze(reference), modes.freeze(judge))
    adam = optimise.adamw([policy, critic], 1e-4, tiny.pick())
    setting = replace(tiny.setting(networks, tiny.pick(), adam, rows, rows), recompute=recompute)
    query = torch.randint(2, tiny.PAD, (rows, 48))

    def update():
        rollout = ppo.roll_out(setting, query, tiny.uniform(rows, 16))
        target, _ = ppo.targets(rollout, 0.05, rows, setting.pick)
        ppo.ppo_step(setting, rollout, target, tiny.NO_TEXTS, ppo_setup.AdaptiveState(0.05))

    update()  # moments are made in the first step
    adam.zero_grad(set_to_none=True)
    with Live() as live:
        update()
    stays = 4 * sum(p.numel() for each in (policy, critic, reference, judge) for p in each.parameters())
    stays += 2 * 4 * sum(p.numel() for each in (policy, critic) for p in each.parameters())
    assert sum(footprint.memory(scale, mixed=False).values()) == pytest.approx(stays + live.peak, rel=0.25)


def moment(trained, work, mixed):
    """Bytes at the largest moment of a backward pass of `work()`: parameters, gradients, and what comes and goes."""
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed), Live() as live:
        lost = work()
        with torch.autocast("cpu", enabled=False):
            lost.backward()
    return live.peak + 3 * 4 * sum(p.numel() for p in trained.parameters())  # weights and Adam's two moments


def only(name, scale):
    """The scale where no stage but this one trains."""
    return replace(scale, **{field: "somewhere" for field, stage_of in starts.STARTS.items() if stage_of != name})


@pytest.mark.parametrize("block", [vocabulary.LARGE_BLOCK, 2**21])
@pytest.mark.parametrize("mixed", [False, True])
def test_memory_of_sft_is_what_live_tensors_take_where_logits_are_the_most(mixed, block, monkeypatch, large_blocks):
    network = Network(hidden=32, layers=2, intermediate=64, vocabulary=16_384)
    monkeypatch.setattr(footprint, "network_of", lambda _: network)
    monkeypatch.setattr(vocabulary, "LARGE_BLOCK", block)
    policy, ids = (
        pretrained.initialise_policy("gpt-neox:32/2/2/64", 16_384, 128, seed=0).train(),
        torch.randint(2, 60, (16, 32)),
    )
    every = torch.ones_like(ids, dtype=torch.bool)
    took = moment(policy, lambda: sft.token_loss(policy, ids, every, tiny.PAD), mixed)
    scale = replace(SMOKE, micro_batch=16, query_reference_tokens=32, rollout_batch=1)
    said = footprint.memory(only("sft", scale), mixed)
    assert sum(said.values()) == pytest.approx(took, rel=0.1)


def test_memory_of_the_reward_model_is_what_live_tensors_take(monkeypatch):
    network = Network(hidden=64, layers=4, intermediate=256, vocabulary=512)
    monkeypatch.setattr(footprint, "network_of", lambda _: network)
    judge = scalar_model.ScalarModel(
        pretrained.initialise_policy("gpt-neox:64/4/4/256", 512, 128, seed=0).base_model
    ).train()
    texts = rm.Texts(torch.randint(2, tiny.PAD, (16, 64)), torch.full((16,), 8))
    took = moment(judge, lambda: rm.margins(judge, texts, texts, tiny.PAD).sum(), False)
    scale = replace(
        SMOKE, micro_batch=16, query_tokens=56, pair_response_tokens=8, query_pair_tokens=64, rollout_batch=1
    )
    said = footprint.memory(only("rm", scale), mixed=False)
    assert sum(said.values()) == pytest.approx(took, rel=0.25)


@pytest.mark.parametrize(
    ("name", "field", "most"),
    [
        ("sft", "sft_from", {"query_reference_tokens": 50_000}),
        ("rm", "rm_from", {"pair_response_tokens": 25_000, "query_pair_tokens": 50_000}),
        ("ppo", "policy_from", {}),
    ],
)
def test_a_stage_that_takes_its_weights_from_elsewhere_is_not_charged_for_training(name, field, most):
    taken = replace(GPU, checkpoint_every=10, **{field: "somewhere"})
    assert not trains(name, taken)
    assert [each for each in PPO_STAGES if not trains(each, taken)] == [name]
    for how in (cost.estimate, lambda *of: cost.gpu_seconds(*of, devices.ASSUMED)):
        assert how(name, taken) < how(name, replace(taken, **{field: ""}))
    largest = replace(GPU, **most)
    of_training = footprint.memory(largest)
    assert footprint.memory(only(name, largest)) == of_training, "no other stage takes as much"
    assert sum(footprint.memory(replace(largest, **{field: "somewhere"})).values()) < sum(of_training.values())


def test_a_policy_from_elsewhere_is_stored_alone_and_a_reward_model_from_elsewhere_is_still_measured():
    taken = replace(GPU, checkpoint_every=10, policy_from="somewhere", rm_from="somewhere")
    assert footprint.disk("ppo", taken) == footprint.disk("sft", taken) and footprint.checkpoint(taken) == 0
    assert cost.gpu_seconds("rm", replace(taken, validation_comparisons=10**6), devices.ASSUMED) > 100 > cost.OVERHEAD
    assert cost.gpu_seconds("ppo", taken, devices.ASSUMED) == cost.OVERHEAD


def test_host_memory_is_three_networks_of_every_rank(tmp_path):
    n = network_of(GPU.model)
    assert footprint.host(replace(GPU, processes=8)) == 8 * 4 * (2 * n.policy + n.scalar)
    assert footprint.host(replace(GPU, policy_from="somewhere")) == 4 * n.policy
    assert "GB on the node while networks load" in " ".join(
        cost.requirements([job("ppo", GPU)], GPU, tmp_path, workers=1)
    )


def test_weights_that_are_shared_take_less_on_each_device():
    whole = footprint.memory(GPU)["weights, gradients, moments"]
    shared = footprint.memory(replace(GPU, sharding="fsdp", processes=4))["weights, gradients, moments"]
    assert shared == whole / 4
    assert shared < footprint.memory(replace(GPU, sharding="zero2", processes=4))["weights, gradients, moments"] < whole
    assert footprint.memory(replace(GPU, processes=4))["weights, gradients, moments"] == whole  # DDP shares none


@pytest.mark.parametrize(
    ("field", "smaller", "larger"),
    [("micro_batch", 4, 64), ("rollout_batch", 64, 4096), ("frozen_weights", "bfloat16", "float32")],
)
def test_memory_grows_with(field, smaller, larger):
    few, many = (sum(footprint.memory(replace(GPU, **{field: value})).values()) for value in (smaller, larger))
    assert few < many


@pytest.mark.parametrize("name", PPO_STAGES)
def test_more_gpus_take_less_time_and_slower_ones_more(name):
    alone, eight = (cost.gpu_seconds(name, replace(GPU, processes=n), devices.ASSUMED) for n in (1, 8))
    assert 1 < alone / eight <= 8
    a100 = next(each for each in devices.DEVICES if each.name == "A100")
    assert cost.gpu_seconds(name, GPU, a100) > alone


def test_a_graph_draws_faster_than_python_and_ranks_that_share_weights_slower():
    kinds = [replace(GPU, rollout_batch=8), replace(GPU, rollout_batch=8, sampler="static")]
    kinds.append(replace(kinds[1], model="gpt-neox:4096/32/32/16384"))
    kinds.append(replace(kinds[2], sharding="fsdp", processes=8))
    eager, static, large, shared = (cost.decode_seconds(scale, devices.ASSUMED) for scale in kinds)
    assert static < eager and large < shared


def test_an_arm_that_learns_twice_as_often_from_a_batch_takes_longer():
    once, twice = (cost.passes_of(tiny.pick(ppo_epochs=label).recipe) for label in ("1", "4"))
    assert (once.ppo, twice.ppo) == (1, 4)
    many = replace(GPU, episodes=1_000_000, sampler="static")
    assert (
        cost.gpu_seconds("ppo", many, devices.ASSUMED, once) < cost.gpu_seconds("ppo", many, devices.ASSUMED, twice) / 2
    )


def test_an_arm_without_a_critic_takes_less_time_and_no_less_than_half():
    with_critic, without = (cost.passes_of(tiny.pick(baseline=label).recipe) for label in ("critic", "leave_one_out"))
    assert (with_critic.critics, without.critics) == (1, 0)
    many = replace(GPU, episodes=1_000_000, sampler="static")
    seconds = [cost.gpu_seconds("ppo", many, devices.ASSUMED, passes) for passes in (without, with_critic)]
    assert seconds[1] / 2 < seconds[0] < 0.8 * seconds[1]


def test_a_greedy_response_to_every_query_takes_a_second_rollout():
    once, twice = (cost.passes_of(tiny.pick(baseline=label).recipe) for label in ("batch_mean", "greedy_response"))
    assert (once.rollouts, twice.rollouts) == (1, 2)
    many = replace(GPU, episodes=1_000_000, sampler="static")
    seconds = [cost.gpu_seconds("ppo", many, devices.ASSUMED, passes) for passes in (once, twice)]
    assert seconds[0] < seconds[1] < 2 * seconds[0]


def test_responses_that_share_a_query_take_less_time_by_its_pass_alone():
    alone, four = (passes_for(responses_per_query=label) for label in ("1", "4"))
    parts = [
        stage_flops.Stages(SMOKE, network_of(SMOKE.model), stage_flops.Lengths.most(SMOKE), each).ppo(True)
        for each in (alone, four)
    ]
    spent = [{name: flops.total(products) for name, products in each.items()} for each in parts]
    assert 0.7 < spent[1].pop("roll out") / spent[0].pop("roll out") < 1
    assert spent[0] == spent[1]


@pytest.mark.parametrize(
    ("choices", "responses"),
    [({}, 1), ({"baseline": "leave_one_out"}, 4), ({"algorithm": "expert_iteration"}, 4)],
)
def test_a_forecast_knows_how_many_responses_a_query_has(choices, responses):
    assert passes_for(**choices).responses == responses


def passes_for(**choices):
    return cost.passes_of(tiny.pick(**choices).recipe)


def test_keeping_the_sft_policy_takes_no_time_for_ppo():
    kept = cost.passes_of(tiny.pick(algorithm="sft").recipe)
    assert cost.gpu_seconds("ppo", GPU, devices.ASSUMED, kept) == cost.OVERHEAD
    assert cost.estimate("ppo", GPU, passes=kept) == cost.OVERHEAD


@pytest.mark.parametrize("algorithm", ["rejection_sampling", "expert_iteration"])
def test_learning_from_a_quarter_of_the_episodes_takes_a_quarter_of_the_updates_of_an_arm_without_a_critic(algorithm):
    favourites, all_of_them = (
        cost.passes_of(tiny.pick(**arm).recipe) for arm in ({"algorithm": algorithm}, {"baseline": "leave_one_out"})
    )
    assert (favourites.ppo, favourites.critics) == (1, 0)
    some, all_parts = (
        stage_flops.Stages(GPU, flops.network_of(GPU.model), stage_flops.Lengths.most(GPU), passes).ppo(training=True)
        for passes in (favourites, all_of_them)
    )
    assert flops.total(all_parts.pop("update")) == pytest.approx(4 * flops.total(some.pop("update")))
    assert some == all_parts


def test_best_of_several_samples_takes_as_many_answers_more_that_share_a_pass_over_the_post():
    one, four = (cost.passes_of(tiny.pick("evaluate", selection=label).recipe) for label in ("one_sample", "best_of_4"))
    assert cost.gpu_seconds("baseline", GPU, devices.ASSUMED, four) == cost.gpu_seconds(
        "baseline", GPU, devices.ASSUMED
    )
    of_one, of_four = (cost.gpu_seconds("evaluate", GPU, devices.ASSUMED, each) - cost.OVERHEAD for each in (one, four))
    assert 1.7 < of_four / of_one < 2.2  # five sets of answers where there were two


def test_batches_before_the_first_update_cost_as_much_as_others():
    plain, warmed = (cost.passes_of(tiny.pick(critic_warm_up=label).recipe) for label in ("none", "8"))
    assert (plain.warm_up, warmed.warm_up) == (0, 8)
    few, more = (replace(GPU, ppo_batch=512, episodes=512 * updates, evaluate_every=10_000) for updates in (8, 16))
    of_few, of_more = (
        cost.gpu_seconds("ppo", *each) for each in ((few, devices.ASSUMED, warmed), (more, devices.ASSUMED, plain))
    )
    assert of_few == pytest.approx(of_more, rel=0.02)
    assert of_few > 1.5 * cost.gpu_seconds("ppo", few, devices.ASSUMED, plain)


def test_a_pythia_is_known_by_name_before_it_is_here(monkeypatch, tmp_path):
    monkeypatch.setattr(flops.hub, "is_local", lambda *_: False)
    known = network_of.__wrapped__("hub:EleutherAI/pythia-1b-deduped@main")
    assert (known.hidden, known.layers) == (2048, 16)
    assert known.policy == pytest.approx(1_011_781_632, rel=1e-4)  # as its card says
    assert not network_of.__wrapped__("hub:somebody/something@main").body > 0  # nobody knows


def test_the_bound_of_the_paper_scale_is_met_at_the_assumed_share_of_the_peak():
    """Pythia-1b, 512 + 53 tokens, 4 epochs: 26 TFLOP an episode, 15 episodes a second on an H100 at 40 %."""
    network = network_of("gpt-neox:2048/16/8/8192")
    products = flops.rollout(network, 1, 512, 53) + flops.repeated(flops.update(network, 1, 512, 53), 4)
    assert 24e12 < flops.total(products) < 29e12
    assert 14 < devices.ASSUMED.flops * devices.PEAK_SHARE / flops.total(products) < 16


def test_the_plan_of_a_gpu_scale_says_what_it_needs_and_what_it_assumes(tmp_path):
    lines = " ".join(cost.requirements([job("sft", GPU), job("ppo", GPU)], GPU, tmp_path, workers=1))
    assert "1x H100 80GB (none here)" in lines or devices.at_hand().present
    assert "40% of its peak" in lines and "GPU-hours in all" in lines and "GB of artefacts" in lines
    assert "does not fit" not in lines
    lines = " ".join(cost.requirements([job("ppo", GPU)], replace(GPU, micro_batch=512), tmp_path, workers=1))
    assert "does not fit" in lines


def test_small_scales_are_not_for_gpus():
    assert not any(cost.for_gpu(SCALES[name]) for name in ("smoke", "mini", "local")) and cost.for_gpu(GPU)


def test_a_reward_model_that_compares_reads_every_sample_and_a_judge_costs_no_operation(tiny_scale):
    def operations(annotator):
        scale = replace(tiny_scale, annotator=annotator)
        parts = stage_flops.Stages(scale, network_of(scale.model), stage_flops.Lengths.most(scale)).of("feedback")
        return sum(map(flops.total, parts.values()))

    own, judged, scored = (operations(each) for each in ("", "judge:oracle", "somewhere"))
    assert own == judged < scored
