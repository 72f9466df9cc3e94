"""The interface to vLLM, with a stand-in for it: what it is told, what it gets, and what becomes of its answers."""

import copy
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from repro.errors import UserError
from repro.models import generate, logprobs, ranks, samplers
from repro.models.vllm_sampler import LOWEST_LOGIT_BIAS, Vllm
from repro.ops import text
from tests import tiny
from tests.tiny import EOS, PAD

HOW = generate.Sampling(temperature=0.7, logprob_temperature=0.7)


class Engine:
    """Draws with a network of its own, whose weights are wrong until it is given others; remembers what it was told."""

    made = []

    def __init__(self, **options):
        self.options, self.calls, self.asked = options, [], []
        self.network = tiny.policy(seed=99)
        self.inside = SimpleNamespace(load_weights=self.load)
        Engine.made.append(self)

    def load(self, weights):
        self.network.load_state_dict(dict(weights))
        return {name for name, _ in weights}

    def apply_model(self, function):
        self.calls.append("weights")
        return [function(self.inside)]

    def reset_prefix_cache(self):
        self.calls.append("forget")
        return True

    def generate(self, prompts, parameters, use_tqdm):
        self.calls.append("draw")
        self.asked = parameters
        return [self.answer(prompt["prompt_token_ids"], told) for prompt, told in zip(prompts, parameters)]

    def answer(self, prompt, told):
        drawn, measured, generator = [], [], torch.Generator().manual_seed(told.seed)
        while len(drawn) < told.max_tokens and not (drawn and drawn[-1] in told.stop_token_ids):
            with torch.no_grad():
                logits = self.network(input_ids=torch.tensor([prompt + drawn])).logits[0, -1] / told.temperature
            for token, bias in told.logit_bias.items():
                logits[token] += bias
            drawn.append(int(torch.multinomial(logits.softmax(-1), 1, generator=generator)))
            measured.append({drawn[-1]: SimpleNamespace(logprob=float(logits.log_softmax(-1)[drawn[-1]]))})
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=drawn, logprobs=measured)])


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    monkeypatch.setattr(Engine, "made", [])
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    stand_in = SimpleNamespace(LLM=Engine, SamplingParams=lambda **told: SimpleNamespace(**told))
    monkeypatch.setitem(sys.modules, "vllm", stand_in)


def drawn(policy, how, sampler, rows=8, tokens=6):
    return generate.sample(
        policy, tiny.queries(rows), tiny.uniform(rows, tokens), replace(how, sampler=sampler), EOS, PAD
    )


@pytest.mark.parametrize("after_end", [text.stop_at_eos, text.ignore_eos])
def test_its_log_probabilities_are_those_of_the_policy_on_its_tokens(after_end):
    policy, how = tiny.policy(0, end_logit=2.0), replace(HOW, after_eos=after_end)
    tokens, logprob = drawn(policy, how, samplers.sampler_named("vllm"))
    expected = logprobs.response_logprobs(policy, tiny.queries(8), tokens, PAD, EOS, 0.7)
    torch.testing.assert_close(logprob, expected, atol=1e-4, rtol=0)
    _, ended = text.last_token(tokens, EOS)
    assert ended.any() and not ended.all()
    assert (tokens == PAD).any() == (after_end is text.stop_at_eos)


def test_padding_follows_an_end_of_text_and_counts_for_nothing():
    tokens, logprob = drawn(tiny.policy(0, end_logit=1e3), HOW, Vllm())
    assert (tokens[:, 0] == EOS).all() and (tokens[:, 1:] == PAD).all() and (logprob[:, 1:] == 0).all()


def test_new_weights_arrive_before_each_draw_and_what_it_remembers_is_forgotten_after_them():
    sampler, policy = Vllm(), tiny.policy(0)
    drawn(policy, HOW, sampler)
    with torch.no_grad():
        policy.get_output_embeddings().weight.mul_(0.5)
    later, logprob = drawn(policy, HOW, sampler)
    (engine,) = Engine.made  # one for all batches
    assert engine.calls == ["weights", "forget", "draw"] * 2
    expected = logprobs.response_logprobs(policy, tiny.queries(8), later, PAD, EOS, 0.7)
    torch.testing.assert_close(logprob, expected, atol=1e-4, rtol=0)


def test_what_it_is_told():
    drawn(tiny.policy(0), HOW, Vllm())
    (engine,) = Engine.made
    assert engine.options["logprobs_mode"] == "processed_logprobs" and engine.options["load_format"] == "dummy"
    told = engine.asked[0]
    assert (told.temperature, told.top_p, told.max_tokens, told.logprobs) == (0.7, 1.0, 6, 0)
    assert told.logit_bias == {PAD: LOWEST_LOGIT_BIAS} and told.stop_token_ids == [EOS] and told.ignore_eos
    assert len({each.seed for each in engine.asked}) == 8


def test_the_same_numbers_draw_the_same_tokens_and_a_row_does_not_depend_on_its_neighbours():
    policy = tiny.policy(0)
    (first, _), (again, _) = drawn(policy, HOW, Vllm()), drawn(copy.deepcopy(policy), HOW, Vllm())
    assert torch.equal(first, again)
    alone, *_ = Vllm()(policy, tiny.queries(8)[3:5], tiny.uniform(8, 6)[3:5], HOW, EOS, PAD)
    assert torch.equal(alone, first[3:5])


def test_what_it_cannot_do_is_refused(monkeypatch):
    policy = tiny.policy(0)
    with pytest.raises(UserError, match="temperature"):
        drawn(policy, replace(HOW, logprob_temperature=1.0), Vllm())
    policy.peft_config = {}
    with pytest.raises(UserError, match="adapter"):
        drawn(policy, HOW, Vllm())
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    with pytest.raises(UserError, match="processes=1"):
        drawn(tiny.policy(0), HOW, Vllm())


def test_without_it_a_person_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="pip install"):
        drawn(tiny.policy(0), HOW, Vllm())
