"""Samplers: whatever the cache and its shapes, the same numbers draw the same tokens with the same log-probabilities."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.utils import import_utils

from repro.errors import UserError
from repro.models import batching, forward_pass, generate, position_ids, prefill, samplers
from repro.models.wrapping import Learner, Learners
from repro.ops import text
from repro.ops.places import EVERY
from tests import tiny
from tests.counting import flops_of
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


# ----------------------------------------------------------------------------- several responses to a query

SAMPLERS = pytest.mark.parametrize("sampler", [generate.eager, generate.static])
GROUPED = replace(GOING_ON, responses=4)


class Rows(Counted):
    """A policy that counts the rows of its forward passes."""

    def forward(self, **inputs):
        self.widths.append(len(inputs["input_ids"]))
        return self.network(**inputs)


def grouped(queries=4, responses=4, tokens=6):
    """Queries with padding of several widths, each several times over as PPO has them, and numbers of each row's own."""
    return tiny.queries(queries).repeat(responses, 1), tiny.uniform(queries * responses, tokens)


def drawn_by(network, how, query, uniform):
    return generate.sample(network, query, uniform, how, EOS, PAD)


@SAMPLERS
@pytest.mark.parametrize("end_logit", [-1e3, 2.0])
@pytest.mark.parametrize("after_eos", [text.ignore_eos, text.stop_at_eos])
@pytest.mark.parametrize("placed", [position_ids.implicit, position_ids.from_mask])
def test_rows_that_share_a_pass_over_their_query_draw_what_they_draw_alone(sampler, end_logit, after_eos, placed):
    how, inputs = replace(GROUPED, sampler=sampler, after_eos=after_eos), grouped()
    network = placed(tiny.policy(0, end_logit))
    (tokens, logprob), (alone, logprob_alone) = (
        drawn_by(network, each, *inputs) for each in (how, replace(how, responses=1))
    )
    assert torch.equal(tokens, alone)
    torch.testing.assert_close(logprob, logprob_alone, atol=1e-5, rtol=0)
    assert len({tuple(row) for row in tokens[::4].tolist()}) > 1 or end_logit > 0  # the rows of a query differ


@SAMPLERS
def test_a_query_is_run_once_and_each_of_its_responses_token_by_token(sampler):
    counted = Rows(tiny.policy(0, -1e3))
    drawn_by(counted, replace(GROUPED, sampler=sampler), *grouped(queries=4, responses=4, tokens=5))
    assert counted.widths == [4, 16, 16, 16, 16]


@SAMPLERS
def test_where_each_query_has_one_response_rows_are_run_as_they_are_equal_ones_too(sampler, monkeypatch):
    monkeypatch.setattr(prefill, "distinct", None)
    counted = Rows(tiny.policy(0, -1e3))
    drawn_by(counted, replace(GOING_ON, sampler=sampler), *grouped(tokens=3))
    assert counted.widths == [16, 16, 16]


def test_queries_that_are_all_different_are_not_copied():
    query = tiny.queries(4)
    run, row = prefill.distinct(query)
    assert run is query and row == EVERY


@SAMPLERS
def test_a_group_that_a_batch_cuts_is_shared_as_far_as_it_is_there(sampler):
    """Rows 0 to 2 and 3 to 6 of groups of four: one query stands in both batches, in each with another padding beside it."""
    query, uniform = (part.view(4, -1, part.shape[1]).transpose(0, 1).flatten(0, 1) for part in grouped())
    how, counted = replace(GROUPED, sampler=sampler), Rows(tiny.policy(0, -1e3))
    parts = [drawn_by(counted, how, query[rows], uniform[rows]) for rows in (slice(0, 3), slice(3, 7), slice(7, 16))]
    assert counted.widths[::6] == [1, 2, 3]
    whole, logprob = drawn_by(tiny.policy(0, -1e3), replace(how, responses=1), query, uniform)
    assert torch.equal(torch.cat([tokens for tokens, _ in parts]), whole)
    torch.testing.assert_close(torch.cat([each for _, each in parts]), logprob, atol=1e-5, rtol=0)


def test_the_pass_over_the_queries_is_a_quarter_of_the_work_for_groups_of_four():
    network, (query, _) = tiny.policy(0), grouped()

    def work(responses):
        cache = generate_cache(network, query)
        return flops_of(lambda: prefill.next_logits(network, query, cache, PAD, shared=responses > 1))

    with torch.no_grad():
        assert work(4) * 4 == work(1) > 0


def generate_cache(network, query):
    from repro.models.kv_cache import growing_cache

    return growing_cache(network.config, query.shape[1] + 6)


def test_a_cache_that_holds_more_than_keys_and_values_of_each_row_is_left_as_it_is():
    from transformers import DynamicCache

    network, (query, _) = tiny.policy(0), grouped()
    with torch.no_grad():
        logits, _ = prefill.next_logits(network, query, DynamicCache(), PAD)
        inputs = forward_pass.model_inputs(query, PAD)
        expected = network(**inputs, logits_to_keep=1).logits
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize(("rows", "responses", "batch"), [(12, 4, 5), (12, 3, 4), (8, 8, 3)])
def test_groups_are_brought_together_where_they_would_be_in_different_batches(rows, responses, batch):
    order, back = batching.groups_together(rows, responses, batch)
    asked = torch.arange(rows // responses).repeat(responses)
    assert asked[order].tolist() == asked.sort().values.tolist()
    assert torch.arange(rows)[order][back].tolist() == list(range(rows))


@pytest.mark.parametrize(("rows", "responses", "batch"), [(12, 1, 5), (12, 4, 12), (5, 1, 8)])
def test_rows_stay_where_there_is_one_response_or_one_batch(rows, responses, batch):
    assert batching.groups_together(rows, responses, batch) == (EVERY, EVERY)
