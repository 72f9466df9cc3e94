"""How weights are trained and followed: adapters, critics on the policy's trunk, averages, and TensorFlow's Adam."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from repro.models import critics, forward_pass, modes, position_ids, pretrained, weights
from repro.stages import optimise, ppo, ppo_setup
from tests.tiny import NO_TEXTS, PAD, episodes, pick, policy, queries, scalar, setting

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
INPUTS = forward_pass.model_inputs(queries(4), PAD)


def logits(network):
    with torch.no_grad():
        return network(**INPUTS).logits


def values(network):
    with torch.no_grad():
        return network(**INPUTS)


def step_with(networks, rows=4, **choices):
    """One step of PPO at a high rate on episodes of those networks; the optimizer."""
    r = episodes(networks, rows, **choices)
    arm = pick(**choices)
    target, _ = ppo.targets(r, 0.05, rows, arm)
    optimizer = optimise.adamw([networks.policy, networks.critic], 0.02, arm)
    ppo.ppo_step(setting(networks, arm, optimizer, rows), r, target, NO_TEXTS, ppo_setup.AdaptiveState(0.05))
    return optimizer


def changed(network, before):
    """Names of the weights that are no longer what they were."""
    return {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}


def snapshot(network):
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


# ----------------------------------------------------------------------------- adapters


@pytest.fixture
def adapted():
    """Policy, critic and reference of the tiny PPO with adapters."""
    networks, critic, reference = weights.lora(policy(0, 2.0), scalar(1), policy(0, 2.0), seed=3)
    return ppo_setup.Networks(networks, critic, modes.freeze(reference), modes.freeze(scalar(2)))


def test_an_adapter_changes_nothing_at_the_start(adapted):
    assert torch.equal(logits(adapted.policy), logits(policy(0, 2.0)))
    assert torch.equal(logits(adapted.reference), logits(policy(0, 2.0)))
    assert torch.equal(values(adapted.critic), values(scalar(1)))


def test_a_step_moves_the_adapters_and_the_critics_head_and_no_other_weight(adapted):
    before = snapshot(adapted.policy), snapshot(adapted.critic)
    step_with(adapted)
    moved, moved_of_critic = (changed(*pair) for pair in zip((adapted.policy, adapted.critic), before))
    assert moved == {name for name in before[0] if ".lora_" in name}
    assert moved_of_critic == {name for name in before[1] if ".lora_" in name} | {"head.weight", "head.bias"}
    assert not torch.allclose(logits(adapted.policy), logits(policy(0, 2.0)), atol=1e-3)


def test_the_adapters_are_on_every_linear_layer_and_on_nothing_else(adapted):
    linear = {name for name, module in policy().gpt_neox.named_modules() if isinstance(module, nn.Linear)}
    prefix = "base_model.model.gpt_neox."
    found = {
        name.removeprefix(prefix).split(".lora_")[0] for name, _ in adapted.policy.named_parameters() if "lora_" in name
    }
    assert found == linear
    assert {tuple(w.shape)[0] for name, w in adapted.policy.named_parameters() if "lora_A" in name} == {8}


def test_the_reference_stays_where_the_policy_started(adapted):
    for _ in range(2):
        step_with(adapted)
    assert torch.equal(logits(adapted.reference), logits(policy(0, 2.0)))
    assert not list(adapted.reference.parameters())


def test_what_is_saved_says_what_the_adapted_networks_say(adapted, tmp_path):
    for _ in range(2):
        step_with(adapted)
    said, valued = logits(adapted.policy), values(adapted.critic)
    pretrained.save_policy(adapted.policy, tmp_path / "model")
    pretrained.save_scalar(adapted.critic, tmp_path / "critic")
    torch.testing.assert_close(logits(pretrained.load_policy(tmp_path / "model")), said, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(values(pretrained.load_scalar(tmp_path / "critic")), valued, **CLOSE)


def test_a_seed_gives_the_same_adapters_and_leaves_the_global_generator_alone():
    networks = [(policy(), scalar(), policy()) for _ in range(3)]
    before = torch.random.get_rng_state()
    one, same, other = (snapshot(weights.lora(*three, seed)[0]) for three, seed in zip(networks, (1, 1, 2)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_positions_are_counted_under_an_adapter_too():
    seen = []
    networks = [position_ids.from_mask(network) for network in (policy(), scalar())]
    for network in weights.lora(*networks, policy(), seed=0)[:2]:
        rotary = next(module for name, module in network.named_modules() if name.endswith("rotary_emb"))
        rotary.register_forward_pre_hook(
            lambda module, inputs, named: seen.append(named["position_ids"]), with_kwargs=True
        )
        network(**INPUTS)
    expected = (INPUTS["attention_mask"].cumsum(1) - 1).clamp(min=0)
    assert len(seen) == 2 and all(torch.equal(positions, expected) for positions in seen)


# ----------------------------------------------------------------------------- a critic on the policy's trunk


@pytest.fixture
def shared():
    """The tiny PPO with one trunk for policy and critic."""
    one = policy(0, 2.0)
    critic = critics.on_policy_trunk(scalar(1), one)
    return ppo_setup.Networks(one, critic, modes.freeze(policy(0, 2.0)), modes.freeze(scalar(2)))


def test_a_critic_on_the_policys_trunk_has_its_weights_and_a_head_of_zeros(shared):
    assert shared.critic.trunk is shared.policy.gpt_neox
    assert (values(shared.critic) == 0).all()
    with torch.no_grad():
        shared.critic.head.weight.fill_(1.0)
        before = values(shared.critic)
        shared.policy.gpt_neox.embed_in.weight += torch.randn(
            shared.policy.gpt_neox.embed_in.weight.shape, generator=torch.Generator().manual_seed(0)
        )
    assert not torch.allclose(values(shared.critic), before)


def test_both_losses_reach_the_trunk_that_they_share(shared):
    def reached(loss):
        shared.policy.zero_grad()
        loss.backward()
        return shared.policy.gpt_neox.layers[0].attention.dense.weight.grad.clone()

    nn.init.ones_(shared.critic.head.weight)
    of_value, of_policy = (
        reached(loss) for loss in (shared.critic(**INPUTS).sum(), shared.policy(**INPUTS).logits.sum())
    )
    assert of_value.abs().sum() > 0 and of_policy.abs().sum() > 0


def test_the_optimizer_holds_each_shared_weight_once_and_moves_all_of_them(shared):
    before = snapshot(shared.policy)
    optimizer = step_with(shared)
    held = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
    assert len(held) == len(set(held)) == len(list(shared.policy.parameters())) + 2
    assert changed(shared.policy, before) == set(before)
    assert shared.critic.head.bias.abs() > 0


def test_a_critic_of_its_own_is_left_as_it_is():
    critic = scalar(1)
    assert critics.with_own_trunk(critic, policy()) is critic
    of_policy = {id(weight) for weight in policy().parameters()}
    assert not of_policy & {id(weight) for weight in critic.parameters()}


# ----------------------------------------------------------------------------- averages


def network_at(value):
    network = nn.Linear(1, 1)
    for weight in network.parameters():
        nn.init.constant_(weight, value)
    return network


def test_a_follower_goes_its_share_of_the_way():
    follower, leader = modes.freeze(network_at(1.0)), network_at(2.0)
    weights.ema_update(follower, leader, decay=0.99)
    assert follower.weight.item() == pytest.approx(1.01)
    weights.ema_update(follower, leader, decay=0.5)
    assert follower.bias.item() == pytest.approx(1.505)
    assert leader.weight.item() == 2 and not follower.weight.requires_grad
    weights.no_update(follower, leader)
    assert follower.bias.item() == pytest.approx(1.505)


def test_the_average_weighs_each_step_less_the_longer_it_is_ago():
    network = network_at(5.0)
    average, last = weights.ema_weights(network, decay=0.9), weights.LastWeights(network)
    expected = 1.0  # the weights before the first step are no part of it
    for step, value in enumerate([1.0, 2.0, 4.0]):
        expected = expected if step == 0 else 0.9 * expected + 0.1 * value
        nn.init.constant_(network.weight, value)
        for each in (average, last):
            each.update_parameters(network)
    assert expected == 0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 4
    assert average.module.weight.item() == pytest.approx(expected)
    assert last.module is network and network.weight.item() == 4


def test_what_ppo_keeps_is_the_average_over_its_optimizer_steps(run_stage, monkeypatch):
    steps, real = [], ppo.ppo_step

    def watched(run, *rest, **first):
        measured = real(run, *rest, **first)
        steps.append(run.networks.policy.gpt_neox.embed_in.weight.detach().double().clone())
        return measured

    monkeypatch.setattr(ppo, "ppo_step", watched)
    out = run_stage(ppo.STAGE, weight_average="0.992", ppo_epochs="2")
    expected = steps[0]
    for weight in steps[1:]:
        expected = 0.992 * expected + 0.008 * weight
    assert len(steps) == 6
    kept = pretrained.load_policy(out / "model").gpt_neox.embed_in.weight.double()
    torch.testing.assert_close(kept, expected, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(kept, steps[-1], atol=1e-4)


# ----------------------------------------------------------------------------- TensorFlow's Adam

GRADIENTS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-6, 1e-4, 1.0])


def after(optimizer_of, gradients=GRADIENTS):
    """Three weights that start at 1, 2 and 3, after a step along each row of the gradients."""
    weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    optimizer = optimizer_of([weight])
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


def adam(kind, epsilon, weight_decay=0.0):
    return partial(kind, lr=0.1, eps=epsilon, weight_decay=weight_decay, fused=True)


def tensorflow_1(rate, epsilon, beta_1=0.9, beta_2=0.999):
    """Kingma & Ba, section 2, with their "epsilon hat", as TensorFlow 1 documents it, in double precision."""
    weight, first, second = np.array([1.0, 2.0, 3.0]), np.zeros(3), np.zeros(3)
    for step, gradient in enumerate(GRADIENTS.double().numpy(), start=1):
        rate_now = rate * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        first = beta_1 * first + (1 - beta_1) * gradient
        second = beta_2 * second + (1 - beta_2) * gradient**2
        weight = weight - rate_now * first / (np.sqrt(second) + epsilon)
    return weight


@pytest.mark.parametrize("epsilon", [1e-5, 1e-8, 1e-3])
def test_it_steps_as_tensorflow_documents_it(epsilon):
    ours = after(adam(weights.TensorFlowAdam, epsilon))
    assert ours.tolist() == pytest.approx(tensorflow_1(0.1, epsilon), rel=1e-5)


def test_without_epsilon_it_is_pytorchs():
    ours, theirs = (after(adam(kind, 0.0, 0.01)) for kind in (weights.TensorFlowAdam, torch.optim.AdamW))
    assert torch.equal(ours, theirs)


def test_with_epsilon_its_early_steps_are_shorter():
    first = 1e-3 * GRADIENTS[:1]
    ours, theirs = (3 - after(adam(kind, 1e-3), first)[2] for kind in (weights.TensorFlowAdam, torch.optim.AdamW))
    assert 0 < abs(ours) < 0.1 * abs(theirs)


def test_a_rate_that_is_set_on_the_way_is_the_one_it_steps_at():
    def stopped(held):
        optimizer = adam(weights.TensorFlowAdam, 1e-5)(held)
        optimise.set_learning_rate(optimizer, 0.0)
        return optimizer

    assert after(stopped).tolist() == [1, 2, 3]
