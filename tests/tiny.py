"""Networks, rollouts and picks small enough to build in every test."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import torch
from accelerate import Accelerator

from repro.detail import Pick, Recipe
from repro.details import find
from repro.models import modes, pretrained, scalar_model
from repro.stages import ppo, ppo_setup
from repro.types import Rollout

SHAPE = "gpt-neox:32/2/2/64"
VOCABULARY, EOS, PAD = 64, 1, 63
CORPUS = SimpleNamespace(eos=EOS, pad=PAD)
NO_OPTIMIZER = torch.optim.SGD([torch.zeros(1)])  # a rollout takes no step
NO_TEXTS = torch.empty(0, 4, dtype=torch.long)  # what an optimizer step is handed where nothing is mixed in


def policy(seed=0, end_logit=0.0):
    """A random policy that never draws padding, and whose logit of the end of text is `end_logit` above the others'."""
    network = pretrained.initialise_policy(SHAPE, VOCABULARY, 64, seed)
    with torch.no_grad():
        # A constant direction of the last hidden state serves as the bias that GPT-NeoX's output layer does not have.
        network.gpt_neox.final_layer_norm.weight[0], network.gpt_neox.final_layer_norm.bias[0] = 0.0, 1.0
        output = network.get_output_embeddings().weight.mul_(10)
        output[:, 0] = 0.0
        output[EOS, 0], output[PAD, 0] = end_logit, -1e4
    return modes.set_dropout(network, 0.0)


def scalar(seed=0, reward_token="eos"):
    """A random reward model or critic with a bias and a gain."""
    network = scalar_model.ScalarModel(
        pretrained.initialise_policy(SHAPE, VOCABULARY, 64, seed).base_model, reward_token
    )
    scalar_model.head_normal(network.head, torch.Generator().manual_seed(seed))
    network.bias.fill_(0.3)
    network.gain.fill_(1.5)
    return modes.set_dropout(network, 0.0)


def queries(rows, width=6, seed=0):
    """[rows, width] left-padded, of different lengths, the first without padding."""
    ids = torch.randint(2, PAD, (rows, width), generator=torch.Generator().manual_seed(seed))
    start = torch.arange(rows) % (width - 1)
    return ids.masked_fill(torch.arange(width)[None, :] < start[:, None], PAD)


def uniform(rows, tokens, seed=0):
    return torch.rand(rows, tokens, generator=torch.Generator().manual_seed(seed))


def pick(stage="ppo", **choices):
    """The pick of an arm, by names: `pick(whiten_adv="off")`."""
    recipe = Recipe()
    for name, label in choices.items():
        recipe = recipe.but(find(name), label)
    return Pick(recipe, stage)


def models(end_logit=2.0):
    """Policy and reference with the same weights, a critic, and a reward model of its own."""
    return ppo_setup.Networks(
        policy=policy(0, end_logit),
        critic=scalar(1),
        reference=modes.freeze(policy(0, end_logit)),
        reward_model=modes.freeze(scalar(2)),
    )


def setting(networks, arm, optimizer=NO_OPTIMIZER, micro_batch=8, rollout_batch=4):
    """What those models' rollouts and updates share, for an arm's pick."""
    return ppo_setup.Run(
        networks, optimizer, CORPUS, arm, Accelerator(), ppo_setup.sampling(arm), micro_batch, rollout_batch
    )


def episodes(networks, rows=8, tokens=5, **choices):
    """A rollout of those models by an arm, with responses of several lengths."""
    return ppo.roll_out(setting(networks, pick(**choices)), queries(rows), uniform(rows, tokens))


def made_up_rollout(last_token, has_eos, tokens=5, seed=0):
    """A rollout of random numbers; garbage is nowhere."""
    rows, generator = len(last_token), torch.Generator().manual_seed(seed)
    logprob, shift, value = (torch.randn(rows, tokens, generator=generator) for _ in range(3))
    return Rollout(
        query=torch.zeros(rows, 2, dtype=torch.long),
        response=torch.full((rows, tokens), 5),
        logprob=logprob - 2,
        sampler_logprob=logprob - 2,
        ref_logprob=logprob - 2 + 0.3 * shift,
        kl=-0.3 * shift,
        value=value,
        score=torch.randn(rows, generator=generator),
        last_token=torch.tensor(last_token),
        last_counted=torch.tensor(last_token),
        has_eos=torch.tensor(has_eos),
        member_scores=torch.randn(rows, 2, generator=generator),
        support=torch.empty(rows, tokens, 0, dtype=torch.uint8),
    )


def with_garbage(rollout, garbage=float("nan")):
    """The rollout with `garbage` in every place that its masks call masked."""

    def spoil(values, mask):
        return torch.where(mask, values, torch.full_like(values, garbage))

    return replace(
        rollout,
        logprob=spoil(rollout.logprob, rollout.token_mask),
        sampler_logprob=spoil(rollout.sampler_logprob, rollout.token_mask),
        value=spoil(rollout.value, rollout.value_mask),
        ref_logprob=spoil(rollout.ref_logprob, rollout.token_mask),
        kl=spoil(rollout.kl, rollout.token_mask),
    )


class Ranks:
    """Runs a function on shards at once, a thread each; `reduce` sums over them as a collective would."""

    def __init__(self, count):
        self.barrier, self.parts = threading.Barrier(count, timeout=20), {}

    def reduce(self, value):
        self.parts[threading.get_ident()] = value
        self.barrier.wait()
        total = torch.stack(list(self.parts.values())).sum(0)
        self.barrier.wait()
        return total

    def run(self, function, shards):
        with ThreadPoolExecutor(len(shards)) as pool:
            return list(pool.map(lambda shard: function(*shard, self.reduce), shards))
