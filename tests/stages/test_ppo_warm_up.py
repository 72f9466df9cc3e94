"""The critic's updates before PPO: they move the critic alone, towards Monte Carlo returns, and change no draw of PPO."""

import json
from types import SimpleNamespace

import pytest
import torch

from repro.stages import checkpoint, ppo
from repro.stages.stage import read_journal


@pytest.fixture
def watched(run_stage, monkeypatch):
    """Runs an arm of the tiny PPO: what each optimizer step was handed, and both networks after it; and the folder."""
    seen, real = [], ppo.ppo_step

    def watch(run, r, target, texts, prices, first_on_batch=True):
        measured = real(run, r, target, texts, prices, first_on_batch)
        after = [flat(network) for network in (run.networks.policy, run.networks.critic)]
        seen.append(SimpleNamespace(r=r, target=target, texts=texts, after=after, measured=measured))
        return measured

    def run(**choices):
        seen.clear()
        folder = run_stage(ppo.STAGE, ppo_epochs="1", **choices)
        return list(seen), folder

    monkeypatch.setattr(ppo, "ppo_step", watch)
    return run


def flat(network):
    return torch.cat([weight.detach().flatten() for weight in network.parameters()])


def test_eight_updates_come_first_and_only_the_critic_learns_in_them(watched, tiny_scale):
    updates = tiny_scale.episodes // tiny_scale.ppo_batch
    plain, _ = watched()
    warmed, folder = watched(critic_warm_up="8", ptx_mix="1")
    assert (len(plain), len(warmed)) == (updates, 8 + updates)
    policies, values = zip(*(step.after for step in warmed))
    assert all(torch.equal(policy, policies[0]) for policy in policies[:8])
    assert all(not torch.equal(one, other) for one, other in zip(values[:8], values[1:9]))
    assert not torch.equal(policies[8], policies[7])
    assert [len(step.texts) for step in warmed] == [0] * 8 + [tiny_scale.ppo_batch] * updates
    assert len(read_journal(folder)) == updates
    assert json.loads((folder / "result.json").read_text())["metrics"]["ppo/updates"] == updates


@pytest.mark.parametrize("choices", [{}, {"dropout": "on_everywhere"}], ids=str)
def test_ppo_draws_what_it_draws_without_them(watched, choices):
    plain, _ = watched(**choices)
    warmed, _ = watched(critic_warm_up="8", **choices)
    # Until the first step of the policy the two are the same but for the critic.
    for name in ("query", "response", "logprob", "score"):
        assert torch.equal(getattr(warmed[8].r, name), getattr(plain[0].r, name))
    assert not torch.equal(warmed[8].r.value, plain[0].r.value)
    assert not torch.equal(warmed[0].r.query, plain[0].r.query), "the warm-up's posts are drawn on their own"


def test_the_critic_learns_the_sum_of_what_was_paid_and_gets_nearer_to_it(watched):
    warmed, _ = watched(critic_warm_up="32", gae_lambda="0.9")
    first = warmed[0]
    paid = first.target.reward.flip(1).cumsum(1).flip(1)
    mask = first.r.value_mask
    torch.testing.assert_close(first.target.returns[mask], paid[mask])
    errors = [step.measured["loss/value"] for step in warmed[:32]]
    assert sum(errors[-4:]) < sum(errors[:4])


def test_trpo_moves_no_policy_before_its_first_batch(watched):
    warmed, _ = watched(critic_warm_up="8", constrained_step="trpo")
    assert all(torch.equal(step.after[0], warmed[0].after[0]) for step in warmed[:8])
    assert not torch.equal(warmed[-1].after[0], warmed[0].after[0])


def test_a_stage_that_goes_on_from_a_checkpoint_has_no_second_warm_up(watched, monkeypatch):
    real = checkpoint.Checkpoints.__init__

    def later(self, *arguments, **stateful):
        real(self, *arguments, **stateful)
        self.step = 1

    monkeypatch.setattr(checkpoint.Checkpoints, "__init__", later)
    warmed, _ = watched(critic_warm_up="8")
    plain, _ = watched()
    assert len(warmed) == len(plain)
