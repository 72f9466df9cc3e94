"""TRPO's step on tiny networks: against the Fisher matrix written out, within its radius or not taken, however it is split."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from repro.models import modes, pretrained
from repro.models.weights import EarlierWeights
from repro.ops.trust_region import conjugate_gradient
from repro.stages import optimise, ppo, ppo_batches, ppo_step, ppo_trust_region
from repro.stages.ppo_setup import AdaptiveState
from repro.types import Targets
from tests.tiny import NO_TEXTS, PAD, VOCABULARY, episodes, models, pick, setting, with_garbage

PRICES = AdaptiveState(0.05)
TEMPERATURE = 0.7
DRAWABLE = torch.arange(VOCABULARY) != PAD
RADIUS, DAMPING = 0.01, 0.1


def narrow():
    """Networks whose policy has so few weights that its Fisher matrix fits, and a rollout of theirs."""
    policy = pretrained.initialise_policy("gpt-neox:8/1/1/16", VOCABULARY, 64, seed=3)
    with torch.no_grad():
        policy.get_output_embeddings().weight.mul_(10)
    networks = replace(models(), policy=policy)
    return networks, episodes(networks, rows=3, tokens=3)


def trained(network):
    return [weight for weight in network.parameters() if weight.requires_grad]


def flat(network):
    return torch.cat([weight.detach().flatten() for weight in network.parameters()])


def distributions(network, r):
    """Of every token that counts what it was drawn from, one episode at a time."""
    for query, response, last in zip(r.query, r.response, r.last_token):
        query = query[query != PAD]
        logits = network(torch.cat([query, response[:last]])[None]).logits[0, len(query) - 1 :]
        yield from (logits[:, DRAWABLE] / TEMPERATURE).log_softmax(-1)


def fisher_matrix(policy, r):
    """The mean over tokens of sum_v p_v grad log p_v grad log p_v^T, in float64."""
    policy = copy.deepcopy(policy).double()
    weights, matrix = trained(policy), 0
    tokens = list(distributions(policy, r))
    for logprob in tokens:
        slopes = [torch.autograd.grad(each, weights, retain_graph=True) for each in logprob]
        jacobian = torch.stack([torch.cat([slope.flatten() for slope in row]) for row in slopes])
        matrix = matrix + jacobian.T @ (logprob.detach().exp()[:, None] * jacobian) / len(tokens)
    return matrix


def random_vector(size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


# ----------------------------------------------------------------------------- the natural gradient


def test_the_product_is_that_of_the_fisher_matrix():
    networks, r = narrow()
    matrix, weights = fisher_matrix(networks.policy, r), trained(networks.policy)
    vector = random_vector(len(matrix))
    product = ppo_trust_region.fisher_vector_product(setting(networks, pick()), r, weights, vector)
    expected = matrix @ vector.double()
    assert expected.norm() > 0.1
    torch.testing.assert_close(product.double(), expected, atol=1e-5, rtol=1e-3)
    assert all(weight.grad is None for weight in weights)


def test_its_direction_is_the_damped_inverse_of_that_matrix_times_the_gradient():
    networks, r = narrow()
    matrix, weights = fisher_matrix(networks.policy, r), trained(networks.policy)
    run, gradient = setting(networks, pick()), random_vector(len(matrix))

    def product(vector):
        return ppo_trust_region.fisher_vector_product(run, r, weights, vector)

    exact = torch.linalg.solve(matrix + DAMPING * torch.eye(len(matrix)).double(), gradient.double())
    solved = conjugate_gradient(product, gradient, DAMPING, 200)
    torch.testing.assert_close(solved.double(), exact, atol=1e-3, rtol=1e-3)
    # The ten iterations of a study are as far from it as they are in float64.
    early = conjugate_gradient(product, gradient, DAMPING, 10).double()
    in_float64 = conjugate_gradient(lambda each: matrix @ each, gradient.double(), DAMPING, 10)
    torch.testing.assert_close(early, in_float64, atol=1e-3, rtol=1e-3)
    assert (exact / exact.norm() - gradient / gradient.norm()).norm() > 0.01, "a gradient is not its natural one"


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_the_product_does_not_depend_on_the_split_or_on_garbage(micro_batch):
    networks = models()
    r, weights = episodes(networks), trained(networks.policy)
    vector = random_vector(sum(weight.numel() for weight in weights))
    whole = ppo_trust_region.fisher_vector_product(setting(networks, pick()), r, weights, vector)
    split = ppo_trust_region.fisher_vector_product(
        setting(networks, pick(), micro_batch=micro_batch), with_garbage(r), weights, vector
    )
    torch.testing.assert_close(split, whole, atol=1e-4 * whole.abs().max().item(), rtol=1e-4)


# ----------------------------------------------------------------------------- a step


def step(micro_batch=8, first_on_batch=True, advantage=None, **choices):
    """One step with AdamW for the critic: its metrics, the networks after it, those before it, and the rollout."""
    networks, choices = models(), {"constrained_step": "trpo"} | choices
    before = copy.deepcopy(networks)
    r = episodes(networks)
    target, _ = ppo.targets(r, 0.05, micro_batch, pick(**choices))
    target = target if advantage is None else replace(target, advantage=torch.full_like(r.logprob, advantage))
    arm = pick(**choices)
    optimizer = optimise.adamw([networks.policy, networks.critic], 1e-3, arm)
    run = setting(networks, arm, optimizer, micro_batch)
    measured = ppo.ppo_step(run, r, target, NO_TEXTS, PRICES, first_on_batch)
    return measured, networks, before, r, target


def kl_of_step(before, after, r):
    """Mean KL(old, new), token by token."""
    with torch.no_grad():
        pairs = zip(distributions(before, r), distributions(after, r), strict=True)
        return torch.stack([kl_divergence(Categorical(logits=p), Categorical(logits=q)) for p, q in pairs]).mean()


def surrogate(before, after, r, target):
    """Mean ratio times advantage, token by token."""
    mean = []
    with torch.no_grad():
        old, new = (iter(list(distributions(network, r))) for network in (before, after))
        index = DRAWABLE.long().cumsum(0) - 1
        for row in range(len(r)):
            for column in range(int(r.last_token[row]) + 1):
                token = index[r.response[row, column]]
                mean.append((next(new)[token] - next(old)[token]).exp() * target.advantage[row, column])
    return torch.stack(mean).mean()


def test_a_step_reaches_the_radius_without_leaving_it_and_raises_the_surrogate():
    measured, after, before, r, target = step()
    kl = kl_of_step(before.policy, after.policy, r)
    assert 0.3 * RADIUS < kl <= RADIUS * (1 + 1e-4)
    assert surrogate(before.policy, after.policy, r, target) > surrogate(before.policy, before.policy, r, target) + 0.01
    assert measured["policy/ratio_error"] < 1e-5, "metrics are of before the step"


@pytest.mark.parametrize(
    "choices", [{"ratio_level": "response_mean"}, {"kl_placement": "in_loss_k2"}, {"ptx_mix": "1"}]
)
def test_beside_another_choice_a_step_stays_within_the_radius_too(choices):
    _, after, before, r, _ = step(**choices)
    assert 0 < kl_of_step(before.policy, after.policy, r) <= RADIUS * (1 + 1e-4)


def test_the_learning_rate_is_the_critics_alone():
    _, after, before, _, _ = step()
    moved = (flat(after.critic) - flat(before.critic)).abs()
    assert 0 < moved.max() <= 1.1e-3
    assert (flat(after.policy) - flat(before.policy)).abs().max() > 1.1e-3


def test_the_critics_step_is_the_one_it_takes_beside_a_clipped_policy():
    _, after, _, _, _ = step()
    _, clipped, _, _, _ = step(constrained_step="clip")
    torch.testing.assert_close(flat(after.critic), flat(clipped.critic), atol=0, rtol=0)


def test_on_a_later_pass_the_policy_stays_and_the_critic_learns():
    _, after, before, _, _ = step(first_on_batch=False)
    assert torch.equal(flat(after.policy), flat(before.policy))
    assert not torch.equal(flat(after.critic), flat(before.critic))


def test_without_anything_to_gain_the_policy_stays_as_it_is():
    _, after, before, _, _ = step(advantage=0.0)
    assert torch.equal(flat(after.policy), flat(before.policy))


def test_a_step_that_the_line_search_refuses_is_not_taken(monkeypatch):
    monkeypatch.setattr(ppo_trust_region, "mean_kl", lambda *_: RADIUS * 1.01)
    _, after, before, _, _ = step()
    assert torch.equal(flat(after.policy), flat(before.policy))
    assert not torch.equal(flat(after.critic), flat(before.critic))


def test_with_dropout_no_step_stays_within_the_radius():
    """Why the two clash: a policy has a KL to itself where each pass drops other units."""
    networks, arm = models(), pick(constrained_step="trpo")
    before, r = flat(networks.policy), episodes(networks)
    target, _ = ppo.targets(r, 0.05, 8, arm)
    run = setting(networks, arm, optimise.adamw([networks.policy, networks.critic], 1e-3, arm))
    torch.manual_seed(0)
    with modes.dropout_within(networks.trained, 0.1):
        ppo.ppo_step(run, r, target, NO_TEXTS, PRICES)
    assert torch.equal(flat(networks.policy), before)


def test_a_loss_that_is_no_number_moves_neither_network():
    measured, after, before, _, _ = step(advantage=math.nan)
    assert math.isnan(measured["loss/total"])
    for name in ("policy", "critic"):
        assert torch.equal(flat(getattr(after, name)), flat(getattr(before, name)))


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_the_micro_batch_does_not_change_the_step(micro_batch):
    (whole, expected, *_), (split, found, *_) = step(), step(micro_batch)
    assert split == pytest.approx(whole, rel=1e-4, abs=1e-6)
    # Ten iterations in float32 make a hundredth of a rounding of the products.
    moved = (flat(expected.policy) - flat(models().policy)).norm()
    assert (flat(found.policy) - flat(expected.policy)).norm() < 5e-2 * moved


def test_there_is_nothing_to_clip():
    # A token that is twice as likely as it was, at advantage 3: PPO's clip stops at 1.2, and TRPO's objective does not.
    networks = models()
    r = episodes(networks)
    target = Targets(torch.full_like(r.logprob, 3.0), torch.zeros_like(r.value), torch.zeros_like(r.value))
    weights = ppo_batches.loss_weights(r, 8, pick())
    for label, ratio in (("clip", 1.2), ("trpo", 2.0)):
        arm, nothing = pick(constrained_step=label), torch.zeros_like(r.logprob)
        forward = r.logprob + math.log(2), nothing, r.value
        _, terms = ppo_step.ppo_loss(*forward, r, target, weights, AdaptiveState(0.0), arm)
        assert terms["loss/policy"].item() == pytest.approx(-3 * ratio, rel=1e-5)


# ----------------------------------------------------------------------------- weights as they were


def test_a_network_is_read_with_its_earlier_weights_and_goes_on_with_those_it_has():
    network = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(network.weight)
    old = EarlierWeights(lambda x: network(x), [network.weight])
    old.move(torch.tensor([1.0, 2.0]))
    inputs, place = torch.tensor([[1.0, 1.0]]), network.weight.data_ptr()
    assert (old(x=inputs).item(), network(inputs).item()) == (2.0, 5.0)
    assert network.weight.data_ptr() == place
    old.move(torch.zeros(2))
    assert network(inputs).item() == 2.0
