"""Policies and scalar models: padding is invisible, sampling is what it says, and nothing is lost on disk."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare
from tiny import EOS, PAD, SHAPE, VOCABULARY, policy, queries, scalar, uniform

from repro import model
from repro.errors import UserError
from repro.ops import text

TEMPERATURE = 0.7
ALMOST_ONE = 1 - 2**-24  # the largest float32 below 1, which torch.rand can return
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def sample(network, query, numbers):
    with torch.no_grad():
        return model.sample(network, query, numbers, TEMPERATURE, EOS, PAD)


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
        model.response_logprobs(lively, q, response, PAD, EOS, TEMPERATURE) for q in (query, more_padding(query))
    )
    mask = response != PAD
    torch.testing.assert_close(padded[mask], plain[mask], **CLOSE)


def test_padding_on_the_left_changes_no_value(responses, more_padding):
    critic, query, (response, _) = scalar(), queries(8), responses
    plain, padded = (model.response_values(critic, q, response, PAD) for q in (query, more_padding(query)))
    mask = response != PAD
    torch.testing.assert_close(padded[mask], plain[mask], **CLOSE)


def test_padding_on_either_side_changes_no_score(responses, more_padding):
    reward_model, text_ids = scalar(), torch.cat([queries(8), responses[0]], 1)
    plain = model.score_at_last(reward_model, text_ids, PAD)
    right = torch.nn.functional.pad(text_ids, (0, 3), value=PAD)
    torch.testing.assert_close(model.score_at_last(reward_model, more_padding(right), PAD), plain, **CLOSE)
    alone = torch.stack([model.score_at_last(reward_model, row[row != PAD][None], PAD)[0] for row in text_ids])
    torch.testing.assert_close(alone, plain, **CLOSE)


def test_padding_on_the_left_changes_no_sample(lively, responses, more_padding):
    tokens, logprob = sample(lively, more_padding(queries(8)), uniform(8, 6))
    assert torch.equal(tokens, responses[0])
    torch.testing.assert_close(logprob, responses[1], **CLOSE)


def test_trimming_takes_what_is_padding_in_every_row_and_no_more():
    ids = torch.tensor([[PAD, PAD, 3, 4], [PAD, 5, PAD, 6]])
    assert model.trim_left(ids, PAD).tolist() == [[PAD, 3, 4], [5, PAD, 6]]
    assert model.trim_right(ids.flip(1), PAD).tolist() == [[4, 3, PAD], [6, PAD, 5]]
    assert model.trim_right(torch.full((2, 4), PAD), PAD).tolist() == [[PAD], [PAD]]


def test_scores_do_not_depend_on_the_batch_they_are_computed_in(responses):
    reward_model, ids = scalar(), torch.nn.functional.pad(torch.cat([queries(8), responses[0]], 1), (0, 4), value=PAD)
    torch.testing.assert_close(
        model.score_rows(reward_model, ids, PAD, 3), model.score_rows(reward_model, ids, PAD, 8), **CLOSE
    )


# ----------------------------------------------------------------------------- sampling


def sample_to_the_end(network, query, numbers):
    """The paper's way, without a cache: always all tokens, the end of text like any other, and then truncated."""
    ids = query
    for t in range(numbers.shape[1]):
        logits = network(**model.attend(ids, PAD)).logits[:, -1] / TEMPERATURE
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
    forced = model.response_logprobs(lively, queries(8), tokens, PAD, EOS, TEMPERATURE)
    torch.testing.assert_close(logprob[tokens != PAD], forced[tokens != PAD], **CLOSE)


def test_a_drawn_padding_token_is_no_hole_in_the_response():
    # The vocabulary has a place for it, so a policy may draw it; a mask made from ids hides it from the update alone.
    eager = policy()
    with torch.no_grad():
        eager.get_output_embeddings().weight[PAD, 0] = 5.0
    tokens, logprob = sample(eager, queries(16), uniform(16, 6))
    forced = model.response_logprobs(eager, queries(16), tokens, PAD, EOS, TEMPERATURE)
    mask = torch.arange(6)[None, :] <= text.last_token(tokens, EOS)[0][:, None]
    torch.testing.assert_close(logprob[mask], forced[mask], **CLOSE)


def test_draws_are_as_frequent_as_their_probability():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    numbers = uniform(5000, 1, seed=3).squeeze(1)
    counts = model._draw(logits.expand(5000, 5), numbers).bincount(minlength=5)
    assert chisquare(counts, 5000 * logits.double().softmax(0)).pvalue > 0.01


@pytest.mark.parametrize("number", [0.0, 1e-8, 0.5, ALMOST_ONE])
@pytest.mark.parametrize("possible", [[0], [3], [6], [2, 4], [0, 6]])
def test_a_token_of_probability_zero_is_never_drawn(number, possible):
    logits = torch.full((1, 7), -torch.inf)
    logits[0, possible] = torch.linspace(0, 1, len(possible))
    assert model._draw(logits, torch.tensor([number])).item() in possible


def test_the_extreme_numbers_draw_the_first_and_the_last_token():
    logits = torch.zeros(2, 1000)
    assert model._draw(logits, torch.tensor([0.0, ALMOST_ONE])).tolist() == [0, 999]


# ----------------------------------------------------------------------------- dropout


def two_passes(network):
    ids = model.attend(queries(4), PAD)
    return [network(**ids) for _ in range(2)]


@pytest.mark.parametrize("make", [lambda: policy(), lambda: scalar()], ids=["policy", "scalar"])
def test_two_passes_in_training_mode_agree_unless_dropout_is_on(make):
    network = make().train()
    first, second = (getattr(out, "logits", out) for out in two_passes(network))
    assert torch.equal(first, second)
    first, second = (getattr(out, "logits", out) for out in two_passes(model.set_dropout(network, 0.1)))
    assert not torch.allclose(first, second)


def test_a_frozen_network_has_no_dropout_and_no_gradient():
    network = model.frozen(model.set_dropout(policy(), 0.5))
    first, second = (out.logits for out in two_passes(network))
    assert torch.equal(first, second)
    assert not first.requires_grad


# ----------------------------------------------------------------------------- heads, saving, loading


def test_the_head_is_initialised_as_the_paper_has_it():
    head = torch.nn.Linear(4095, 1)
    model.head_normal(head, torch.Generator().manual_seed(0))
    # Standard deviation 1 / sqrt(4096) = 1/64; of 4095 draws it is known to about 1 part in 90.
    assert head.weight.std().item() == pytest.approx(1 / 64, rel=0.05)
    assert head.bias.item() == 0


def test_the_normalisation_is_taken_off_the_output():
    reward_model = scalar()
    ids = model.attend(queries(4), PAD)
    normalised = reward_model(**ids)
    raw = normalised * reward_model.gain + reward_model.bias
    reward_model.bias.fill_(0.0)
    reward_model.gain.fill_(1.0)
    torch.testing.assert_close(reward_model(**ids), raw, **CLOSE)


def test_a_scalar_model_comes_back_from_disk_with_its_normalisation(tmp_path):
    reward_model = scalar()
    model.save_scalar(reward_model, tmp_path)
    ids = model.attend(queries(4), PAD)
    assert torch.equal(model.load_scalar(tmp_path)(**ids), reward_model(**ids))


@pytest.mark.parametrize("missing", ["head.bias", "bias", "gain"])
def test_a_scalar_model_without_all_of_its_parts_is_refused(tmp_path, missing):
    model.save_scalar(scalar(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: value for name, value in weights.items() if name != missing}, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match=missing):
        model.load_scalar(tmp_path)


def test_a_policy_comes_back_from_disk_bit_for_bit(tmp_path):
    saved = policy()
    model.save_policy(saved, tmp_path)
    loaded = model.load_policy(tmp_path).state_dict()
    assert loaded.keys() == saved.state_dict().keys()
    assert all(torch.equal(weights, loaded[name]) for name, weights in saved.state_dict().items())


def test_a_critic_starts_as_what_its_variant_says(tmp_path):
    model.save_scalar(scalar(3), tmp_path / "rm")
    model.save_policy(policy(4), tmp_path / "sft")
    folders, ids = (tmp_path / "rm", tmp_path / "sft", torch.Generator().manual_seed(0)), model.attend(queries(4), PAD)
    assert torch.equal(model.critic_from_reward_model(*folders)(**ids), model.load_scalar(tmp_path / "rm")(**ids))
    assert (model.critic_with_zero_head(*folders)(**ids) == 0).all()
    fresh = model.critic_with_random_head(*folders)
    assert torch.equal(fresh.trunk.embed_in.weight, policy(4).gpt_neox.embed_in.weight)
    assert (fresh.bias, fresh.gain) == (0, 1)


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    one, same, other = (
        model.initialise(SHAPE, VOCABULARY, 32, seed).get_output_embeddings().weight for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("shape", ["gpt-neox:32/2/2", "gpt-neox:32/2/3/64", "gpt2", "gpt-neox:a/2/2/64"])
def test_a_shape_that_is_none_is_refused_with_an_example(shape):
    with pytest.raises(UserError, match="gpt-neox:HIDDEN/LAYERS/HEADS/INTERMEDIATE"):
        model.initialise(shape, VOCABULARY, 32, 0)
