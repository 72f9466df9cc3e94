"""Samplers: whatever the cache and its shapes, the same numbers draw the same tokens with the same log-probabilities."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.utils import import_utils

from repro.errors import UserError
from repro.models import generate, position_ids, samplers
from repro.models.wrapping import Learner, Learners
from repro.ops import text
from tests import tiny
from tests.tiny import EOS, PAD

HOW = generate.Sampling(temperature=0.7, logprob_temperature=0.7, sampler=generate.static)
GOING_ON = replace(HOW, after_eos=text.ignore_eos)


class Counted(nn.Module):
    """A policy that counts its forward passes and the widths of their masks."""

    def __init__(self, network):
        super().__init__()
        self.network, self.config, self.widths = network, network.config, []

    def forward(self, **inputs):
        self.widths.append(inputs["attention_mask"].shape[1])
        return self.network(**inputs)


def both(network, how, rows=8, tokens=6, pad=PAD):
    query, uniform = tiny.queries(rows), tiny.uniform(rows, tokens)
    eager = generate.sample(network, query, uniform, replace(how, sampler=generate.eager), EOS, pad)
    return eager, generate.sample(network, query, uniform, how, EOS, pad)


@pytest.mark.parametrize(
    "how",
    [HOW, GOING_ON, replace(HOW, logprob_temperature=1.0), replace(HOW, truncate=partial(text.top_p, mass=0.5))],
    ids=["stop", "go_on", "measured_at_1", "top_p"],
)
@pytest.mark.parametrize("end_logit", [-1e3, 2.0, 1e3])
@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_a_fixed_cache_draws_the_same_tokens_with_the_same_logprobs(how, end_logit, tokens):
    (tokens_e, logprob_e), (tokens_s, logprob_s) = both(tiny.policy(0, end_logit), how, tokens=tokens)
    assert torch.equal(tokens_e, tokens_s)
    torch.testing.assert_close(logprob_s, logprob_e, atol=1e-5, rtol=0)


def test_of_one_token_that_may_be_drawn_each_response_is_the_likeliest_and_its_logprob_is_over_all_tokens():
    network, how = tiny.policy(0), replace(GOING_ON, truncate=partial(text.top_k, count=1))
    (drawn, logprob), _ = both(network, how)
    (again, _), _ = both(network, replace(how, temperature=1e-4))
    assert torch.equal(drawn, again)
    assert (logprob < 0).all()


def test_positions_counted_from_the_mask_are_the_same_over_a_fixed_cache():
    (tokens_e, logprob_e), (tokens_s, logprob_s) = both(position_ids.from_mask(tiny.policy(0)), GOING_ON)
    assert torch.equal(tokens_e, tokens_s)
    torch.testing.assert_close(logprob_s, logprob_e, atol=1e-5, rtol=0)


def test_under_bfloat16_keys_and_values_are_kept_in_it_and_nothing_else_changes():
    network = tiny.policy(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (tokens_e, logprob_e), (tokens_s, logprob_s) = both(network, GOING_ON)
        decoder = generate._Decoder(network, tiny.queries(2), tiny.uniform(2, 3), GOING_ON, EOS, PAD)
        with torch.no_grad():
            decoder.prefill()
    assert {layer.keys.dtype for layer in decoder.cache.layers} == {torch.bfloat16}
    same = tokens_e == tokens_s
    assert same.float().mean() > 0.9  # attention adds up in another order, and bfloat16 has 8 bits
    torch.testing.assert_close(logprob_s[same], logprob_e[same], atol=0.1, rtol=0)


def test_every_decoding_step_has_one_shape():
    counted = Counted(tiny.policy(0, -1e3))
    generate.sample(counted, tiny.queries(4), tiny.uniform(4, 5), HOW, EOS, PAD)
    width = tiny.queries(4).shape[1]
    assert counted.widths == [width, *[-(-(width + 5) // generate.MASK_ALIGNMENT) * generate.MASK_ALIGNMENT] * 4]


@pytest.mark.parametrize("sampler", [generate.eager, generate.static])
def test_nothing_is_computed_once_every_row_has_ended(sampler):
    counted = Counted(tiny.policy(0, 1e3))
    generate.sample(counted, tiny.queries(4), tiny.uniform(4, 5), replace(HOW, sampler=sampler), EOS, PAD)
    assert len(counted.widths) == 1


@pytest.mark.parametrize("name", ["eager", "static"])
def test_a_scale_names_its_sampler(name):
    assert samplers.sampler_named(name) is getattr(generate, name)


def test_a_model_with_windows_is_refused_by_the_fixed_cache():
    network = tiny.policy(0)
    network.config.sliding_window = 4
    with pytest.raises(UserError, match="sampler=eager"):
        generate.sample(network, tiny.queries(2), tiny.uniform(2, 3), HOW, EOS, PAD)


def test_ranks_that_hold_all_weights_sample_without_waiting_for_each_other():
    learners = Learners(policy=tiny.policy(0))
    together = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(together)
    together.module = learners
    assert generate.unwrap_ddp(Learner(together, "policy")).wrapped is learners
    plain = Learner(learners, "policy")
    assert generate.unwrap_ddp(plain) is plain and generate.unwrap_ddp(plain.network) is plain.network


class NoQuestions(TorchDispatchMode):
    """Refuses what a graph cannot be captured of: numbers that Python asks a tensor for, or makes one of."""

    ASKING = {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        assert function.overloadpacket not in self.ASKING, f"{function} waits for the GPU"
        assert function.overloadpacket is not torch.ops.aten.lift_fresh or made.dim() == 0, "sent from Python's memory"
        return made


@pytest.mark.parametrize("how", [HOW, GOING_ON], ids=["stop", "go_on"])
@pytest.mark.parametrize("placed", [position_ids.implicit, position_ids.from_mask])
def test_a_decoding_step_asks_nothing_of_the_gpu_and_moves_no_buffer(how, placed, monkeypatch):
    """What a CUDA graph replays: where the libraries take it for one that is captured, as they would."""
    monkeypatch.setattr(import_utils, "is_cuda_stream_capturing", lambda: True)
    decoder = generate._Decoder(placed(tiny.policy(0)), tiny.queries(4), tiny.uniform(4, 5), how, EOS, PAD)
    with torch.no_grad():
        decoder.prefill()
        decoder.decode_step()
        fixed = [*(each for each in vars(decoder).values() if isinstance(each, torch.Tensor))]
        fixed += [
            kept for layer in decoder.cache.layers for kept in (layer.keys, layer.values, layer.cumulative_length)
        ]
        before = [each.data_ptr() for each in fixed]
        with NoQuestions():
            decoder.decode_step()
    now = [*(each for each in vars(decoder).values() if isinstance(each, torch.Tensor))]
    now += [kept for layer in decoder.cache.layers for kept in (layer.keys, layer.values, layer.cumulative_length)]
    assert [each.data_ptr() for each in now] == before
    expected, _ = both(decoder.policy, how, rows=4, tokens=5)
    assert torch.equal(decoder.tokens[:, :3], expected[0][:, :3])
