"""The numbers of the paper's own code, on inputs made up to be awkward: no end of text, first, last, two of them."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from repro.ops import masked, text
from repro.ops.reward import k1, kl_penalised_reward, score_after_eos
from repro.stages import ppo, ppo_batches, ppo_setup, ppo_step
from repro.types import Rollout, Targets
from tests.paths import TESTS
from tests.tiny import pick

# What the paper's code (github.com/vwxyzjn/summarize_from_feedback_details, commit ee77a9a) computes on made-up rollouts.
CASES = json.loads((TESTS / "golden_ppo.json").read_text())
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@dataclass
class Case:
    """One rollout of the file, as this project's records and picks."""

    setup: dict
    given: dict[str, Tensor]
    expected: dict[str, Tensor]

    @property
    def pick(self):
        """Each setting as the variant that stands for it; a setting without one fails here."""
        whiten = {True: "scale_only", False: "off"}[self.setup["whiten_rewards"]]
        unfinished = {-1.0: "replace_with_minus_one", None: "keep"}[self.setup["missing_eos_score"]]
        return pick(
            value_clip=f"{self.setup['value_clip_range']:g}",
            value_coef=f"{self.setup['value_coef']:g}",
            gamma=f"{self.setup['gamma']:g}",
            gae_lambda=f"{self.setup['gae_lambda']:g}",
            whiten_reward=whiten,
            clip_range=f"{self.setup['clip_range']:g}",
            no_eos_score=unfinished,
        )

    @property
    def rollout(self):
        sampled = self.given["sampled_response"]
        last, has_eos = text.last_token(sampled, self.setup["eos_token_id"])
        return Rollout(
            query=sampled,
            response=sampled,
            logprob=self.given["logprob"],
            sampler_logprob=self.given["logprob"],
            ref_logprob=self.given["ref_logprob"],
            kl=k1(self.given["logprob"], self.given["ref_logprob"]),
            value=self.given["value"],
            score=self.given["reward_model_score"],
            last_token=last,
            last_counted=last,
            has_eos=has_eos,
            member_scores=torch.zeros(len(last), 0),
            support=torch.empty(*sampled.shape, 0, dtype=torch.uint8),
        )

    def targets(self):
        return ppo.targets(self.rollout, self.setup["kl_coef"], len(self.rollout), self.pick)

    def loss(self):
        target, _ = self.targets()
        weights = ppo_batches.loss_weights(self.rollout, len(self.rollout), self.pick)
        return ppo_step.ppo_loss(
            self.given["new_logprob"],
            torch.zeros_like(self.given["new_logprob"]),
            self.given["new_value"],
            self.rollout,
            target,
            weights,
            ppo_setup.AdaptiveState(self.setup["kl_coef"]),
            self.pick,
        )


@pytest.fixture(params=CASES["ppo"], ids=lambda case: f"seed {case['setup']['seed']}")
def case(request):
    tensors = {
        part: {name: torch.tensor(value) for name, value in request.param[part].items()}
        for part in ("given", "expected")
    }
    return Case(request.param["setup"], **tensors)


def agree(got, expected, mask):
    torch.testing.assert_close(got[mask], expected[mask], **TOLERANCE)


def test_where_the_responses_end(case):
    r = case.rollout
    truncated = text.truncate_after_eos(r.response, case.setup["eos_token_id"], case.setup["pad_token_id"])
    assert torch.equal(truncated, case.expected["truncated_response"])
    assert torch.equal(r.last_token, case.expected["last_token_index"])
    assert torch.equal(r.has_eos, case.expected["has_eos"])
    assert torch.equal(r.token_mask, case.expected["token_mask"])
    assert torch.equal(r.value_mask, case.expected["value_mask"])


def test_what_the_episodes_are_paid(case):
    r, kl = case.rollout, k1(case.given["logprob"], case.given["ref_logprob"])
    agree(kl, case.expected["kl"], r.token_mask)
    reward = kl_penalised_reward(
        score_after_eos(case.expected["score"], r.last_token, kl.shape), case.setup["kl_coef"] * kl, r.token_mask
    )
    if case.setup["whiten_rewards"]:
        reward = masked.scale(reward, r.value_mask)
    agree(reward, case.expected["reward"], r.value_mask)


def test_returns_and_advantages(case):
    target, measured = case.targets()
    agree(target.returns, case.expected["returns"], case.rollout.value_mask)
    agree(target.advantage, case.expected["advantage"], case.rollout.token_mask)
    assert measured["objective/score"] == pytest.approx(case.expected["score"].mean().item(), abs=1e-5)


def test_losses_and_clip_fractions(case):
    total, terms = case.loss()
    names = {
        "loss/policy": "policy_loss",
        "loss/value": "value_loss",
        "policy/clip_fraction": "policy_clip_fraction",
        "value/clip_fraction": "value_clip_fraction",
    }
    for ours, theirs in names.items():
        torch.testing.assert_close(terms[ours], case.expected[theirs], **TOLERANCE)
    torch.testing.assert_close(total, case.expected["total_loss"], **TOLERANCE)


def test_an_error_of_one_position_would_show(case):
    r = case.rollout
    later = (r.last_token + 1).clamp(max=r.response.shape[1] - 1)
    target, _ = ppo.targets(replace(r, last_token=later, last_counted=later), case.setup["kl_coef"], len(r), case.pick)
    assert isinstance(target, Targets)
    assert not torch.allclose(target.returns[r.value_mask], case.expected["returns"][r.value_mask], **TOLERANCE)


@pytest.mark.parametrize("case", CASES["whiten"])
def test_whitening(case):
    values, mask = torch.tensor(case["values"]), torch.tensor(case["mask"])
    mean, variance = masked.moments(values, mask)
    assert mean.item() == pytest.approx(case["mean"], abs=1e-5)
    assert variance.item() == pytest.approx(case["variance_biased"], abs=1e-5)
    agree(masked.whiten(values, mask), torch.tensor(case["shifted"]), mask)
    agree(masked.scale(values, mask), torch.tensor(case["not_shifted"]), mask)
