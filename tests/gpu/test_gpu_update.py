"""Sampling and whole updates of PPO on the device: the CPU's, to rounding; the same tokens from the same numbers."""

from dataclasses import replace

import pytest
import torch

from repro.models import generate, logprobs
from repro.ops import text
from tests import tiny
from tests.gpu import on_device
from tests.gpu.on_device import CPU

pytestmark = pytest.mark.gpu
MIXED = pytest.mark.parametrize("mixed", ["no", "bf16"])
# |ratio - 1| of the first pass, and nats a token from the reference policy, which has the same weights: both are 0 but for
# what sampling over a cache and one pass over the text round differently.
NEAR = {"no": 1e-5, "bf16": 0.05}


@MIXED
@pytest.mark.parametrize("sampler", ["eager", "static"])
def test_the_first_pass_has_ratio_one_and_no_kl_to_the_reference(device, mixed, sampler):
    s = on_device.setting(device, mixed, sampler)
    done = on_device.update(s, epochs=1)
    assert done.metrics[1]["policy/ratio_error"] < NEAR[mixed]
    assert done.metrics[1]["policy/sampler_gap"] < NEAR[mixed]
    mask = done.rollout.token_mask
    assert done.rollout.kl[mask].abs().mean() < NEAR[mixed]
    assert abs(done.metrics[0]["objective/kl"]) < on_device.TOKENS * NEAR[mixed]


@MIXED
def test_the_frozen_copy_says_what_the_policy_says_to_the_last_bit(device, mixed):
    s = on_device.setting(device, mixed)
    inputs = (*(each.to(device) for each in on_device.texts()), tiny.PAD, tiny.EOS, 0.7)
    with torch.no_grad():
        assert torch.equal(
            *(logprobs.response_logprobs(each, *inputs) for each in (s.networks.policy, s.networks.reference))
        )


@pytest.mark.parametrize("after_end", [text.ignore_eos, text.stop_at_eos])
def test_the_fixed_cache_draws_what_the_growing_one_draws(device, after_end):
    """64 rows of 16 tokens; float32, so that no draw hangs on rounding."""
    s, query, uniform = on_device.setting(device), tiny.queries(64).to(device), tiny.uniform(64, 16).to(device)
    how = replace(s.sampling, after_eos=after_end)
    (one, said), (other, again) = (
        generate.sample(s.networks.policy, query, uniform, replace(how, sampler=sampler), tiny.EOS, tiny.PAD)
        for sampler in (generate.eager, generate.static)
    )
    assert torch.equal(one, other)
    torch.testing.assert_close(again, said, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sampler", [generate.eager, generate.static])
def test_numbers_that_lie_on_the_cpu_draw_the_same(device, sampler):
    """As those do that draw the reference policy's episodes for the record."""
    s, query, uniform = on_device.setting(device), tiny.queries(4).to(device), tiny.uniform(4, 6)
    how = replace(s.sampling, sampler=sampler)
    drawn = [
        generate.sample(s.networks.reference, query, u, how, tiny.EOS, tiny.PAD)[0]
        for u in (uniform, uniform.to(device))
    ]
    assert torch.equal(*drawn)


def test_on_cuda_a_decoding_step_is_a_graph_that_is_captured_once_a_batch(cuda, monkeypatch):
    captured, graph = [], torch.cuda.CUDAGraph
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: captured.append(graph()) or captured[-1])
    on_device.roll_out(on_device.setting(cuda))
    assert len(captured) == on_device.ROWS // 4  # rollout batches


@MIXED
def test_what_is_sampled_after_an_update_is_sampled_from_the_new_weights(device, mixed):
    """A cast or a graph that outlived the batch would sample from the old ones, and the first ratio would show it."""
    s = on_device.setting(device, mixed, rate=0.02)
    before = on_device.update(s)
    after = on_device.update(s, seed=1, epochs=1)
    assert before.metrics[-1]["policy/ratio_error"] > 3 * NEAR[mixed]  # the update moved the policy
    assert after.metrics[1]["policy/ratio_error"] < NEAR[mixed]


def test_an_update_is_that_of_the_cpu(device):
    """Tokens are the same; metrics to 1e-3 of their size; weights to a fiftieth of the way that Adam may move them."""
    start = on_device.weights(on_device.setting(CPU))
    expected, got = (on_device.update(on_device.setting(each)) for each in (CPU, device))
    for name in ("response", "last_token", "last_counted", "has_eos"):
        assert torch.equal(getattr(got.rollout, name), getattr(expected.rollout, name)), name
    for name in ("logprob", "ref_logprob", "value", "score"):
        torch.testing.assert_close(getattr(got.rollout, name), getattr(expected.rollout, name), atol=1e-4, rtol=0)
    for one, other in zip(expected.metrics, got.metrics):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-4)
    moved = on_device.furthest(start, expected.weights)
    assert moved > on_device.RATE and on_device.furthest(expected.weights, got.weights) < 0.02 * 4 * on_device.RATE


def test_an_update_in_bfloat16_moves_the_weights_as_far_and_stays_finite(device):
    start = on_device.weights(on_device.setting(CPU))
    full, mixed = (on_device.update(on_device.setting(*how)) for how in ((CPU,), (device, "bf16")))
    assert all(value == value for step in mixed.metrics for value in step.values())
    way, other = (torch.cat([(e.weights[name] - start[name]).flatten() for name in start]) for e in (full, mixed))
    assert other.norm() == pytest.approx(way.norm().item(), rel=0.3)
    assert torch.cosine_similarity(way, other, dim=0) > 0.6  # Adam makes much of small gradients, and they are rounded
