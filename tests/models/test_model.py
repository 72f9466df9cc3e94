"""Policies and scalar models: padding is invisible, sampling is what it says, and nothing is lost on disk."""

import json
import math

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from repro.errors import UserError
from repro.models import (
    batching,
    critics,
    forward_pass,
    generate,
    logprobs,
    mixed_precision,
    modes,
    padding,
    pooling,
    position_ids,
    pretrained,
    scalar_model,
    scoring,
)
from repro.models.scalar_model import ScalarModel
from repro.ops import text
from repro.ops.places import at
from tests.tiny import EOS, PAD, SHAPE, VOCABULARY, policy, queries, scalar, uniform

TEMPERATURE = 0.7
HOW = generate.Sampling(TEMPERATURE, logprob_temperature=TEMPERATURE)
GOING_ON = generate.Sampling(TEMPERATURE, logprob_temperature=TEMPERATURE, after_eos=text.ignore_eos)
ALMOST_ONE = 1 - 2**-24  # the largest float32 below 1, which torch.rand can return
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def sample(network, query, numbers, how=HOW, pad=PAD):
    return generate.sample(network, query, numbers, how, EOS, pad)


@pytest.fixture(scope="module")
def lively():
    """A policy that ends about a third of its responses within a few tokens."""
    return policy(end_logit=1.5)


@pytest.fixture(scope="module")
def responses(lively):
    return sample(lively, queries(8), uniform(8, 6))


# ----------------------------------------------------------------------------- padding


@pytest.fixture(params=[1, 5])
def more_padding(request):
    """Adds columns of padding on the left."""
    return lambda ids: torch.nn.functional.pad(ids, (request.param, 0), value=PAD)


def test_padding_on_the_left_changes_no_logprob(lively, responses, more_padding):
    query, (response, _) = queries(8), responses
    plain, padded = (
        logprobs.response_logprobs(lively, q, response, PAD, EOS, TEMPERATURE) for q in (query, more_padding(query))
    )
    mask = response != PAD
    torch.testing.assert_close(padded[mask], plain[mask], **CLOSE)


def test_padding_on_the_left_changes_no_value(responses, more_padding):
    critic, query, (response, _) = scalar(), queries(8), responses
    plain, padded = (critics.response_values(critic, q, response, PAD) for q in (query, more_padding(query)))
    mask = response != PAD
    torch.testing.assert_close(padded[mask], plain[mask], **CLOSE)


@pytest.mark.parametrize("reading", ["eos", "mean_over_response"])
def test_padding_on_either_side_changes_no_score(responses, more_padding, reading):
    reward_model, text_ids = scalar(reward_token=reading), torch.cat([queries(8), responses[0]], 1)
    count = padding.count_tokens(responses[0], PAD)
    plain = scoring.score(reward_model, text_ids, count, PAD)
    right = torch.nn.functional.pad(text_ids, (0, 3), value=PAD)
    torch.testing.assert_close(scoring.score(reward_model, more_padding(right), count, PAD), plain, **CLOSE)
    alone = [scoring.score(reward_model, row[row != PAD][None], n[None], PAD)[0] for row, n in zip(text_ids, count)]
    torch.testing.assert_close(torch.stack(alone), plain, **CLOSE)
    for pack in (padding.pad_left, padding.pad_right):
        torch.testing.assert_close(scoring.score(reward_model, pack(right, PAD), count, PAD), plain, **CLOSE)


def test_padding_on_the_left_changes_no_sample(lively, responses, more_padding):
    tokens, logprob = sample(lively, more_padding(queries(8)), uniform(8, 6))
    assert torch.equal(tokens, responses[0])
    torch.testing.assert_close(logprob, responses[1], **CLOSE)


def test_trimming_takes_what_is_padding_in_every_row_and_no_more():
    ids = torch.tensor([[PAD, PAD, 3, 4], [PAD, 5, PAD, 6]])
    assert padding.trim_left(ids, PAD).tolist() == [[PAD, 3, 4], [5, PAD, 6]]
    assert padding.trim_right(ids.flip(1), PAD).tolist() == [[4, 3, PAD], [6, PAD, 5]]
    assert padding.trim_right(torch.full((2, 4), PAD), PAD).tolist() == [[PAD], [PAD]]


@pytest.mark.parametrize("reading", pooling.POOLINGS)
@pytest.mark.parametrize("pack", [padding.unchanged, padding.pad_left, padding.pad_right])
def test_scores_do_not_depend_on_the_batch_they_are_computed_in(responses, reading, pack):
    # Alone, most rows would lose columns that are padding in them and not in others.
    ids = torch.nn.functional.pad(torch.cat([queries(8), responses[0]], 1), (0, 4), value=PAD)
    reward_model, count = scalar(reward_token=reading), padding.count_tokens(responses[0], PAD)
    one, three, eight = (scoring.score_rows(reward_model, pack(ids, PAD), count, PAD, size) for size in (1, 3, 8))
    torch.testing.assert_close(one, eight, **CLOSE)
    torch.testing.assert_close(three, eight, **CLOSE)


# ----------------------------------------------------------------------------- where the reward is read


def test_repacking_moves_padding_and_keeps_the_order_of_tokens():
    ids = torch.tensor([[PAD, 3, 4, PAD], [5, 6, PAD, PAD], [7, 8, 9, 2], [PAD] * 4])
    assert padding.pad_left(ids, PAD).tolist() == [[PAD, PAD, 3, 4], [PAD, PAD, 5, 6], [7, 8, 9, 2], [PAD] * 4]
    assert padding.pad_right(ids, PAD).tolist() == [[3, 4, PAD, PAD], [5, 6, PAD, PAD], [7, 8, 9, 2], [PAD] * 4]
    assert torch.equal(padding.unchanged(ids, PAD), ids)


def test_each_pooling_takes_the_outputs_that_it_names():
    output = torch.tensor([[1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0]])
    is_token = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    count = torch.tensor([1, 3, 0])
    pooled = {
        name: how.pool(at(output, how.places(is_token)), is_token, count).tolist()
        for name, how in pooling.POOLINGS.items()
    }
    assert pooled == {
        "eos": [4, 8, 2],
        "last_position": [8, 8, 8],
        "mean_over_response": [4, pytest.approx(14 / 3), 0],
    }


def test_what_stands_outside_a_response_changes_no_mean_not_even_nan():
    output = torch.tensor([[torch.nan, 2.0, 4.0, torch.nan]], requires_grad=True)
    mean = pooling.mean_over_response(output, torch.tensor([[True, True, True, False]]), torch.tensor([2]))
    assert mean.tolist() == [3]
    mean.sum().backward()
    assert output.grad.tolist() == [[0, 0.5, 0.5, 0]]


def test_readings_agree_where_the_response_is_its_end_and_fills_the_row():
    ids = torch.tensor([[5, 6, 7, EOS], [PAD, PAD, 9, EOS]])
    scores = [scoring.score(scalar(reward_token=name), ids, torch.tensor([1, 1]), PAD) for name in pooling.POOLINGS]
    for one in scores[1:]:
        torch.testing.assert_close(one, scores[0], **CLOSE)


def test_tokens_are_counted_where_they_are_not_padding():
    assert padding.count_tokens(torch.tensor([[5, EOS, PAD], [5, 6, 7], [PAD, PAD, PAD]]), PAD).tolist() == [2, 3, 0]
    # Padding that is the end of text hides it: the mask of the forward pass does too.
    assert padding.count_tokens(torch.tensor([[5, EOS, EOS]]), EOS).tolist() == [1]


# ----------------------------------------------------------------------------- sampling


def sample_to_the_end(network, query, numbers):
    """The paper's way, without a cache: always all tokens, the end of text like any other, and then truncated."""
    ids = query
    for t in range(numbers.shape[1]):
        logits = network(**forward_pass.model_inputs(ids, PAD)).logits[:, -1] / TEMPERATURE
        cumulative = logits.softmax(-1).cumsum(-1)
        ids = torch.cat([ids, (cumulative <= numbers[:, [t]] * cumulative[:, -1:]).sum(1, keepdim=True)], 1)
    return text.truncate_after_eos(ids[:, query.shape[1] :], EOS, PAD)


def test_stopping_early_gives_what_truncating_would(lively, responses):
    tokens, logprob = responses
    assert torch.equal(tokens, sample_to_the_end(lively, queries(8), uniform(8, 6)))
    ended = (tokens == EOS).any(1)
    assert 0 < ended.sum() < 8, "some responses must end and some must not"
    assert (logprob[tokens == PAD] == 0).all()


def test_sampling_stops_when_every_row_has_ended():
    tokens, _ = sample(policy(end_logit=1e3), queries(3), uniform(3, 6))
    assert tokens.tolist() == [[EOS, *[PAD] * 5]] * 3


def test_a_row_is_the_same_whatever_its_batch_mates(lively, responses):
    for rows in ([0], [5, 2], [7, 6, 5, 4, 3, 2, 1, 0]):
        tokens, logprob = sample(lively, queries(8)[rows], uniform(8, 6)[rows])
        assert torch.equal(tokens, responses[0][rows])
        torch.testing.assert_close(logprob, responses[1][rows], **CLOSE)


def test_sampled_logprobs_are_the_teacher_forced_ones(lively, responses):
    tokens, logprob = responses
    forced = logprobs.response_logprobs(lively, queries(8), tokens, PAD, EOS, TEMPERATURE)
    torch.testing.assert_close(logprob[tokens != PAD], forced[tokens != PAD], **CLOSE)


def test_going_on_after_the_end_draws_the_same_tokens_up_to_it(lively, responses):
    tokens, logprob = sample(lively, queries(8), uniform(8, 6), GOING_ON)
    before_end = responses[0] != PAD
    assert torch.equal(tokens[before_end], responses[0][before_end])
    torch.testing.assert_close(logprob[before_end], responses[1][before_end], **CLOSE)
    assert torch.equal(text.truncate_after_eos(tokens, EOS, PAD), responses[0])
    assert not (tokens == PAD).any()
    forced = logprobs.response_logprobs(lively, queries(8), tokens, PAD, EOS, TEMPERATURE)
    torch.testing.assert_close(logprob, forced, **CLOSE)


def test_going_on_a_row_is_the_same_whatever_its_batch_mates_though_padding_is_the_end(lively):
    together, _ = sample(lively, queries(8), uniform(8, 6), GOING_ON, pad=EOS)
    alone = [sample(lively, queries(8)[[row]], uniform(8, 6)[[row]], GOING_ON, pad=EOS)[0] for row in range(8)]
    assert (together[:, :-1] == EOS).any()
    assert torch.equal(torch.cat(alone), together)


def test_logprobs_can_be_measured_at_another_temperature_than_is_drawn_at(lively, responses):
    tokens, logprob = sample(lively, queries(8), uniform(8, 6), generate.Sampling(TEMPERATURE, logprob_temperature=1.0))
    assert torch.equal(tokens, responses[0])
    forced = logprobs.response_logprobs(lively, queries(8), tokens, PAD, EOS, 1.0)
    torch.testing.assert_close(logprob, forced, **CLOSE)


def test_padding_of_its_own_cannot_be_drawn_and_has_no_logprob():
    logits = torch.zeros(1, 2, VOCABULARY)
    assert (logprobs.mask_pad_logit(logits, PAD, EOS) == -torch.inf).nonzero().tolist() == [[0, 0, PAD], [0, 1, PAD]]
    for pad in (EOS, VOCABULARY):
        assert logprobs.mask_pad_logit(logits, pad, EOS) is logits
    got = logprobs.token_logprobs(logprobs.mask_pad_logit(logits, PAD, EOS), torch.tensor([[5, PAD]]), PAD, EOS, 0.7)
    assert got.tolist() == [[pytest.approx(-math.log(VOCABULARY - 1), abs=1e-5), 0]]
    # Padding that is the end of text is a token like any other.
    assert logprobs.token_logprobs(logits, torch.tensor([[EOS, EOS]]), EOS, EOS, 0.7).max() < -4


def test_the_kl_of_two_policies_is_zero_where_they_are_one(lively, responses):
    arguments = queries(8), responses[0], PAD, EOS, TEMPERATURE
    assert logprobs.response_kl(lively, lively, *arguments).abs().max() < 1e-6
    apart, ended = logprobs.response_kl(lively, policy(seed=1), *arguments), responses[0] == PAD
    assert (apart[~ended] > 0).all() and (apart[ended] == 0).all() and ended.any()


# ----------------------------------------------------------------------------- positions


def with_learned_positions(architecture=GPT2LMHeadModel):
    """A random network to which it matters at which position a token stands."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = architecture(GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=2))
    with torch.no_grad():
        network.base_model.wpe.weight.mul_(20)
    return modes.set_dropout(network, 0.0)


def test_rotary_positions_may_count_padding_or_not(lively, responses):
    counted = position_ids.from_mask(policy(end_logit=1.5))
    ours, theirs = (
        logprobs.response_logprobs(network, queries(8), responses[0], PAD, EOS, TEMPERATURE)
        for network in (counted, position_ids.implicit(lively))
    )
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    tokens, _ = sample(counted, queries(8), uniform(8, 6))
    assert torch.equal(tokens, responses[0])


def test_learned_positions_are_right_on_the_left_only_where_padding_is_not_counted():
    counted, columns = position_ids.from_mask(with_learned_positions()), with_learned_positions()
    response = torch.randint(2, PAD, (8, 6), generator=torch.Generator().manual_seed(0))
    alone = [
        logprobs.response_logits(columns, query[query != PAD][None], words[None], PAD, EOS)
        for query, words in zip(queries(8), response)
    ]
    padded, wrong = (
        logprobs.response_logits(network, queries(8), response, PAD, EOS) for network in (counted, columns)
    )
    torch.testing.assert_close(padded, torch.cat(alone), **CLOSE)
    assert not torch.allclose(wrong[1], alone[1][0], atol=0.01)


def test_sampling_with_a_cache_counts_positions_as_one_pass_does():
    counted, query, numbers = position_ids.from_mask(with_learned_positions()), queries(8), uniform(8, 6)
    tokens, logprob = sample(counted, query, numbers)
    forced = logprobs.response_logprobs(counted, query, tokens, PAD, EOS, TEMPERATURE)
    torch.testing.assert_close(logprob, forced, **CLOSE)
    plain = with_learned_positions()
    alone = [sample(plain, row[row != PAD][None], number[None])[0] for row, number in zip(query, numbers)]
    assert torch.equal(tokens, torch.cat(alone))


def test_a_scalar_model_counts_positions_too():
    critic = ScalarModel(with_learned_positions(GPT2Model))
    query, response = queries(8), torch.full((8, 2), 5)
    alone = [critics.response_values(critic, row[row != PAD][None], response[:1], PAD) for row in query]
    padded = critics.response_values(position_ids.from_mask(critic), query, response, PAD)
    torch.testing.assert_close(padded, torch.cat(alone), **CLOSE)


# ----------------------------------------------------------------------------- some places, and two texts in a row


def test_a_scalar_model_says_at_some_places_what_it_says_there_when_asked_about_all():
    ids, where = forward_pass.model_inputs(queries(4), PAD), torch.tensor([[5, 3], [5, 4], [4, 5], [5, 5]])
    for network in (scalar(), ScalarModel(with_learned_positions(GPT2Model))):
        every = network(**ids)
        torch.testing.assert_close(network(**ids, places=where), every.gather(1, where), **CLOSE)
        torch.testing.assert_close(network(**ids, places=slice(-2, None)), every[:, -2:], **CLOSE)


def pairs():
    """Two texts of each row, padded on the right, that begin alike; and the tokens of their responses."""
    first = torch.tensor([[5, 6, 7, EOS, PAD], [9, 10, EOS, PAD, PAD], [4, 4, 4, 4, EOS]])
    second = torch.tensor([[5, 6, 8, 9, EOS], [9, 11, 12, EOS, PAD], [4, 4, EOS, PAD, PAD]])
    return first, second, (torch.tensor([2, 2, 4]), torch.tensor([3, 3, 2]))


def rows_of(network):
    """Notes how many rows the network's transformer is given, at each call."""
    seen = []
    scalar_model.trunk_of(network).register_forward_pre_hook(
        lambda trunk, args, inputs: seen.append(len(args[0] if args else inputs["input_ids"])), with_kwargs=True
    )
    return seen


def eager_attention():
    network = scalar()
    network.trunk.config._attn_implementation = "eager"
    return network


@pytest.mark.parametrize(
    ("make", "rows"),
    [
        (scalar, 3),
        (lambda: position_ids.from_mask(scalar()), 3),
        (eager_attention, 6),
        (lambda: scalar(reward_token="mean_over_response"), 6),
        (lambda: scalar(reward_token="last_position"), 6),
        (lambda: ScalarModel(with_learned_positions(GPT2Model)), 6),
    ],
    ids=["joined", "positions from the mask", "eager", "mean over response", "last position", "learned positions"],
)
def test_scores_of_pairs_are_those_of_each_text_in_a_row_of_its_own(make, rows):
    network, (first, second, count) = make(), pairs()
    expected = torch.stack([scoring.score(network, ids, own, PAD) for ids, own in zip((first, second), count)], 1)
    seen = rows_of(network)
    torch.testing.assert_close(scoring.score_pairs(network, first, second, count, PAD), expected, **CLOSE)
    assert seen == [rows]


def test_of_pairs_with_padding_on_the_left_or_within_each_text_keeps_its_row():
    network, (first, second, count) = scalar(), pairs()
    holes = [ids.index_fill(1, torch.tensor([1]), PAD) for ids in (first, second)]
    for one, other in ([padding.pad_left(ids, PAD) for ids in (first, second)], holes):
        expected = torch.stack([scoring.score(network, ids, own, PAD) for ids, own in zip((one, other), count)], 1)
        torch.testing.assert_close(scoring.score_pairs(network, one, other, count, PAD), expected, **CLOSE)


def shared_queries():
    """Two queries of different lengths with three responses each, of different lengths too; and one that stands alone."""
    query = torch.tensor([[5, 6, 7]] * 3 + [[PAD, 9, 10]] * 3 + [[PAD, PAD, 4]])
    response = torch.randint(2, PAD, (7, 4), generator=torch.Generator().manual_seed(0))
    length = torch.tensor([4, 2, 1, 3, 4, 2, 3])
    return query, response.masked_fill(torch.arange(4) >= length[:, None], PAD), length


@pytest.mark.parametrize(
    ("make", "rows"),
    [
        (scalar, [3, 7]),
        (lambda: position_ids.from_mask(scalar()), [3, 7]),
        (eager_attention, [3, 7]),
        (lambda: position_ids.from_mask(ScalarModel(with_learned_positions(GPT2Model))), [3, 7]),
        (lambda: scalar(reward_token="mean_over_response"), [7]),
        (lambda: scalar(reward_token="last_position"), [7]),
    ],
    ids=["plain", "positions from the mask", "eager", "learned positions", "mean over response", "last position"],
)
def test_scores_of_responses_that_share_queries_are_those_of_whole_texts(make, rows):
    network, (query, response, length) = make(), shared_queries()
    with torch.no_grad():
        expected = scoring.score(network, torch.cat([query, response], 1), length, PAD)
    assert expected.std() > 0.1
    seen = rows_of(network)
    torch.testing.assert_close(scoring.score_responses(network, query, response, PAD, shared=True), expected, **CLOSE)
    assert seen == rows
    assert torch.equal(scoring.score_responses(network, query, response, PAD), expected)


def test_of_a_response_without_a_token_the_reward_is_read_in_its_query():
    """As where padding is the end of text, and that alone was drawn."""
    network, (query, response, length) = scalar(), shared_queries()
    response[1], length[1] = PAD, 0
    expected = scoring.score(network, torch.cat([query, response], 1), length, PAD)
    torch.testing.assert_close(scoring.score_responses(network, query, response, PAD, shared=True), expected, **CLOSE)


def test_what_is_measured_of_rows_comes_in_their_order_however_many_go_together():
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    for batch in (1, 3, 7, 100):
        assert batching.map_rows(order, batch, lambda rows: 10.0 * rows).tolist() == [10.0 * row for row in range(7)]
    assert not batching.map_rows(torch.arange(2), 1, lambda rows: torch.ones(1, requires_grad=True)).requires_grad


def test_the_longest_rows_come_first_and_equals_in_their_order():
    ids = torch.tensor([[PAD, 5, 6], [PAD, PAD, 7], [4, 5, 6], [PAD, 8, 9]])
    assert batching.longest_first(ids, PAD).tolist() == [2, 0, 3, 1]


# ----------------------------------------------------------------------------- log-probabilities of tokens


def with_a_bias():
    network = policy()
    network.lm_head.bias = torch.nn.Parameter(torch.linspace(-3, 3, VOCABULARY))
    return network


def capped():
    network = policy()
    network.config.final_logit_softcapping = 5.0  # the network itself does not read it: here it is a name that is known
    return network


@pytest.mark.parametrize("make", [policy, with_a_bias, capped, with_learned_positions], ids=lambda make: make.__name__)
@pytest.mark.parametrize("never", [logprobs.NO_TOKEN, 7, PAD])
def test_logprobs_of_tokens_are_those_of_all_logits_at_once(make, never):
    network, ids = make(), queries(8)
    tokens = torch.randint(8, PAD, (8, 4), generator=torch.Generator().manual_seed(1))
    tokens[0, 1] = VOCABULARY + 5  # padding may have a number that the output layer has no place for
    logits = network(**forward_pass.model_inputs(ids, PAD)).logits[:, -4:] / 0.7
    if never != logprobs.NO_TOKEN:
        logits[..., never] = -torch.inf
    expected = logits.log_softmax(-1).gather(-1, tokens.clamp(max=VOCABULARY - 1)[..., None])[..., 0]
    inside = tokens.clamp(max=VOCABULARY - 1) != never
    weights = list(network.parameters())
    got = logprobs.selected_logprobs(network, ids, tokens, PAD, 0.7, never)
    torch.testing.assert_close(got[inside], expected[inside], **CLOSE)
    towards = torch.linspace(-1, 1, int(inside.sum()))
    ours, theirs = (torch.autograd.grad((x[inside] * towards).sum(), weights) for x in (got, expected))
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).abs().max() <= 1e-5 * max(1, other.abs().max())


@pytest.mark.parametrize("tokens", [4, 1])
@pytest.mark.parametrize("pad", [PAD, EOS], ids=["padding of its own", "padding is the end"])
@pytest.mark.parametrize(
    "make",
    [
        policy,
        with_a_bias,
        lambda: position_ids.from_mask(policy()),
        lambda: position_ids.from_mask(with_learned_positions()),
    ],
    ids=["plain", "with a bias", "positions from the mask", "learned positions"],
)
def test_logprobs_after_queries_that_rows_share_are_those_of_one_pass_over_each_text(make, pad, tokens):
    network, (query, response, _) = make(), shared_queries()
    query, response = (ids.masked_fill(ids == PAD, pad)[:, :tokens] for ids in (query, response))
    with torch.no_grad():
        expected = logprobs.response_logprobs(network, query, response, pad, EOS, TEMPERATURE)
    seen = rows_of(network)
    ours = logprobs.logprobs_after_queries(network, query, response, pad, EOS, TEMPERATURE)
    torch.testing.assert_close(ours, expected, **CLOSE)
    assert not ours.requires_grad and seen == [query.unique(dim=0).shape[0], 7][:tokens]


# ----------------------------------------------------------------------------- precision


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_float32_and_bfloat16_are_what_they_say_whatever_the_scale_says(precision):
    assert mixed_precision.float32(precision) == "no"
    assert mixed_precision.bfloat16(precision) == "bf16"


@pytest.mark.parametrize(
    ("precision", "likes_bfloat16", "mixed"),
    [("auto", True, "bf16"), ("auto", False, "no"), ("float32", True, "no"), ("float32", False, "no")],
)
def test_the_scale_says_bfloat16_where_the_device_likes_it(monkeypatch, precision, likes_bfloat16, mixed):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: likes_bfloat16)
    assert mixed_precision.by_scale(precision) == mixed


# ----------------------------------------------------------------------------- draws


def test_a_drawn_padding_token_is_no_hole_in_the_response():
    # The vocabulary has a place for it, so a policy may draw it; a mask made from ids hides it from the update alone.
    eager = policy()
    with torch.no_grad():
        eager.get_output_embeddings().weight[PAD, 0] = 5.0
    tokens, logprob = sample(eager, queries(16), uniform(16, 6))
    forced = logprobs.response_logprobs(eager, queries(16), tokens, PAD, EOS, TEMPERATURE)
    mask = torch.arange(6)[None, :] <= text.last_token(tokens, EOS)[0][:, None]
    torch.testing.assert_close(logprob[mask], forced[mask], **CLOSE)


def test_draws_are_as_frequent_as_their_probability():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    numbers = uniform(5000, 1, seed=3).squeeze(1)
    counts = generate.draw(logits.expand(5000, 5), numbers).bincount(minlength=5)
    assert chisquare(counts, 5000 * logits.double().softmax(0)).pvalue > 0.01


@pytest.mark.parametrize("number", [0.0, 1e-8, 0.5, ALMOST_ONE])
@pytest.mark.parametrize("possible", [[0], [3], [6], [2, 4], [0, 6]])
def test_a_token_of_probability_zero_is_never_drawn(number, possible):
    logits = torch.full((1, 7), -torch.inf)
    logits[0, possible] = torch.linspace(0, 1, len(possible))
    assert generate.draw(logits, torch.tensor([number])).item() in possible


def test_the_extreme_numbers_draw_the_first_and_the_last_token():
    logits = torch.zeros(2, 1000)
    assert generate.draw(logits, torch.tensor([0.0, ALMOST_ONE])).tolist() == [0, 999]


# ----------------------------------------------------------------------------- dropout


def two_passes(network):
    ids = forward_pass.model_inputs(queries(4), PAD)
    return [network(**ids) for _ in range(2)]


@pytest.mark.parametrize("make", [lambda: policy(), lambda: scalar()], ids=["policy", "scalar"])
def test_two_passes_in_training_mode_agree_unless_dropout_is_on(make):
    network = make().train()
    first, second = (getattr(out, "logits", out) for out in two_passes(network))
    assert torch.equal(first, second)
    first, second = (getattr(out, "logits", out) for out in two_passes(modes.set_dropout(network, 0.1)))
    assert not torch.allclose(first, second)


def test_a_frozen_network_has_no_dropout_and_no_gradient():
    network = modes.freeze(modes.set_dropout(policy(), 0.5))
    first, second = (out.logits for out in two_passes(network))
    assert torch.equal(first, second)
    assert not first.requires_grad


# ----------------------------------------------------------------------------- heads, saving, loading


def test_the_head_is_initialised_as_the_paper_has_it():
    head = torch.nn.Linear(4095, 1)
    scalar_model.head_normal(head, torch.Generator().manual_seed(0))
    # Standard deviation 1 / sqrt(4096) = 1/64; of 4095 draws it is known to about 1 part in 90.
    assert head.weight.std().item() == pytest.approx(1 / 64, rel=0.05)
    assert head.bias.item() == 0


def test_the_normalisation_is_taken_off_the_output():
    reward_model = scalar()
    ids = forward_pass.model_inputs(queries(4), PAD)
    normalised = reward_model(**ids)
    raw = normalised * reward_model.gain + reward_model.bias
    reward_model.bias.fill_(0.0)
    reward_model.gain.fill_(1.0)
    torch.testing.assert_close(reward_model(**ids), raw, **CLOSE)


@pytest.mark.parametrize("reading", pooling.POOLINGS)
def test_a_scalar_model_comes_back_from_disk_with_its_normalisation_and_reading(tmp_path, reading):
    reward_model, count = scalar(reward_token=reading), torch.full((4,), 2)
    pretrained.save_scalar(reward_model, tmp_path)
    loaded = pretrained.load_scalar(tmp_path)
    assert torch.equal(
        loaded(**forward_pass.model_inputs(queries(4), PAD)), reward_model(**forward_pass.model_inputs(queries(4), PAD))
    )
    assert torch.equal(
        scoring.score(loaded, queries(4), count, PAD), scoring.score(reward_model, queries(4), count, PAD)
    )


@pytest.mark.parametrize("said", [{}, {"reward_token": "somewhere"}])
def test_a_scalar_model_that_does_not_say_how_it_is_read_is_refused(tmp_path, said):
    pretrained.save_scalar(scalar(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["reward_token"]
    (tmp_path / "config.json").write_text(json.dumps(config | said))
    with pytest.raises(UserError, match="must be one of eos, last_position, mean_over_response"):
        pretrained.load_scalar(tmp_path)


@pytest.mark.parametrize("missing", ["head.bias", "bias", "gain"])
def test_a_scalar_model_without_all_of_its_parts_is_refused(tmp_path, missing):
    pretrained.save_scalar(scalar(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: value for name, value in weights.items() if name != missing}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f"missing: {missing}"):
        pretrained.load_scalar(tmp_path)


def test_a_policy_comes_back_from_disk_bit_for_bit(tmp_path):
    saved = policy()
    pretrained.save_policy(saved, tmp_path)
    loaded = pretrained.load_policy(tmp_path).state_dict()
    assert loaded.keys() == saved.state_dict().keys()
    assert all(torch.equal(weights, loaded[name]) for name, weights in saved.state_dict().items())


def test_a_critic_starts_as_what_its_variant_says(tmp_path):
    pretrained.save_scalar(scalar(3), tmp_path / "rm")
    pretrained.save_policy(policy(4), tmp_path / "sft")
    folders, ids = (
        (tmp_path / "rm", tmp_path / "sft", torch.Generator().manual_seed(0)),
        forward_pass.model_inputs(queries(4), PAD),
    )
    assert torch.equal(critics.from_reward_model(*folders)(**ids), pretrained.load_scalar(tmp_path / "rm")(**ids))
    assert (critics.with_zero_head(*folders)(**ids) == 0).all()
    silent = critics.from_reward_model_with_zero_head(*folders)
    assert (silent(**ids) == 0).all() and (silent.bias, silent.gain) == (0, 1)
    assert torch.equal(silent.trunk.embed_in.weight, pretrained.load_scalar(tmp_path / "rm").trunk.embed_in.weight)
    fresh = critics.with_random_head(*folders)
    assert torch.equal(fresh.trunk.embed_in.weight, policy(4).gpt_neox.embed_in.weight)
    assert (fresh.bias, fresh.gain) == (0, 1)


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    one, same, other = (
        pretrained.initialise_policy(SHAPE, VOCABULARY, 32, seed).get_output_embeddings().weight for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("shape", ["gpt-neox:32/2/2", "gpt-neox:32/2/3/64", "gpt2", "gpt-neox:a/2/2/64"])
def test_a_shape_that_is_none_is_refused_with_an_example(shape):
    with pytest.raises(UserError, match="gpt-neox:HIDDEN/LAYERS/HEADS/INTERMEDIATE"):
        pretrained.initialise_policy(shape, VOCABULARY, 32, 0)


def test_a_sampler_with_rounded_weights_leaves_the_policys_as_they_were():
    network, accelerator = policy(0), Accelerator(cpu=True)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    with mixed_precision.sample_with_int8_weights(accelerator, network):
        inside = {name: weight.clone() for name, weight in network.state_dict().items()}
    matrices = [name for name, weight in network.named_parameters() if weight.dim() == 2]
    for name, weight in before.items():
        step = weight.abs().amax(-1, keepdim=True) / 127
        assert ((inside[name] - weight).abs() <= step / 2 + 1e-7).all()
        assert torch.equal(inside[name], weight) != (name in matrices), name
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())


def test_a_row_rounded_to_eight_bits_has_at_most_255_values_and_keeps_its_extremes_and_its_zeros():
    weight = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    weight[0] = 0.0
    rounded = mixed_precision.rounded_to_int8(weight)
    assert all(len(row.unique()) <= 255 for row in rounded)
    assert rounded[0].abs().sum() == 0
    torch.testing.assert_close(rounded.abs().amax(1), weight.abs().amax(1))
