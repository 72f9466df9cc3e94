"""What the networks say on the device is what they say on the CPU in float32, to rounding."""

import pytest
import torch

from repro.models import critics, logprobs, modes, padding, scoring, wrapping
from repro.ops import preference
from repro.stages import optimise, rm
from tests import tiny
from tests.gpu import on_device
from tests.gpu.on_device import CPU

pytestmark = pytest.mark.gpu
# By precision: nats of a log-probability whose logits spread over tens, and units of a value or score of about 1.
# float32 adds up in another order; bfloat16 has 8 bits, and what is compared with is float32.
LOGPROB, SCALAR = {"no": 1e-4, "bf16": 0.15}, {"no": 1e-4, "bf16": 0.05}
MIXED = pytest.mark.parametrize("mixed", ["no", "bf16"])


@torch.no_grad()
def said(device, mixed, positions=logprobs.LOGITS_AT_ONCE):
    """-> log-probabilities [B, R], values [B, R], scores [B], on the CPU."""
    chief, (query, response) = on_device.accelerator(device, mixed), on_device.texts()
    policy, critic = (wrapping.place_on_device(modes.freeze(each), chief) for each in (tiny.policy(0), tiny.scalar(1)))
    query, response = query.to(device), response.to(device)
    inputs = (query, response, tiny.PAD, tiny.EOS, 0.7)
    (logprob,) = logprobs.response_measures(policy, *inputs, positions=positions)
    value = critics.response_values(critic, query, response, tiny.PAD)
    length = padding.count_tokens(response, tiny.PAD)
    score = scoring.score(critic, torch.cat([query, response], 1), length, tiny.PAD)
    assert {each.device.type for each in (logprob, value, score)} == {device.type}
    assert {each.dtype for each in (logprob, value, score)} == {torch.float32}
    return logprob.cpu(), value.cpu(), score.cpu()


@MIXED
@pytest.mark.parametrize("positions", [logprobs.LOGITS_AT_ONCE, 16], ids=["at once", "in parts"])
def test_logprobs_values_and_scores_are_those_of_the_cpu_in_float32(device, mixed, positions):
    expected, got = said(CPU, "no"), said(device, mixed, positions)
    for name, one, other, apart in zip(("logprob", "value", "score"), expected, got, (LOGPROB, SCALAR, SCALAR)):
        torch.testing.assert_close(other, one, atol=apart[mixed], rtol=0, msg=lambda told, name=name: f"{name}: {told}")
    assert expected[0].std() > 3 * LOGPROB[mixed]  # a difference could be seen


def compared(device, mixed="no"):
    """-> the loss of a step of reward modelling, how many comparisons came out right, and gradients by name."""
    chief, network = on_device.accelerator(device, mixed), tiny.scalar(1)
    network, _ = wrapping.prepare_for_training(chief, network, optimise.adamw([network], 1e-3, tiny.pick("rm")))
    query, response = on_device.texts()
    length = padding.count_tokens(response, tiny.PAD)
    chosen, rejected = (rm.Texts(torch.cat([query, response.roll(n, 0)], 1), length.roll(n)) for n in (0, 1))
    share = preference.shares(torch.arange(len(query)) // 2)
    trained = rm.RewardModelTraining(network, chosen, rejected, share, preference.bradley_terry, tiny.PAD)
    right, total = [], 0.0
    for loss in rm.losses(chief, trained, torch.arange(len(query)), 4, right):
        chief.backward(loss)
        total += loss.item()
    gradients = {name: weight.grad.float().cpu() for name, weight in network.named_parameters()}
    return total, torch.stack(right).sum().item(), gradients


def test_the_pairwise_loss_and_its_gradients_are_those_of_the_cpu(device):
    expected, got = compared(CPU), compared(device)
    assert got[0] == pytest.approx(expected[0], abs=1e-5) and got[1] == expected[1]
    largest = max(each.abs().max().item() for each in expected[2].values())
    assert on_device.furthest(expected[2], got[2]) < 1e-4 * largest


def test_the_pairwise_gradients_in_bfloat16_point_where_those_of_the_cpu_in_float32_do(device):
    found = (compared(*how)[2] for how in ((CPU,), (device, "bf16")))
    expected, got = (torch.cat([each.flatten() for each in gradients.values()]) for gradients in found)
    assert torch.cosine_similarity(expected, got, dim=0) > 0.98
