"""Speed that cannot be mistaken for a busy computer: how much work a step is, against what it was when it was last stored.

More than 1.3 times the stored number is a regression. Less than 0.7 times is an improvement that has to be kept:
`python -m pytest tests/test_counted_work.py --store-counts` stores what is counted now.
"""

import json
from dataclasses import asdict

import pytest
import torch
from accelerate import Accelerator
from torch.nn.functional import logsigmoid

from benchmarks.load import Shape, setting_of, update
from repro.models import modes, pretrained
from repro.models.scalar_model import ScalarModel
from repro.stages import optimise, rm, sft
from tests import tiny
from tests.counting import counted, flops_of
from tests.paths import TESTS

STORED = TESTS / "counted_work.json"
STORE = "python -m pytest tests/test_counted_work.py --store-counts"
MOST, LEAST = 1.3, 0.7
SHAPE = Shape("gpt-neox:32/3/2/64", tiny.VOCABULARY, 24, 8)
ROWS, PAD = 8, tiny.VOCABULARY


def ppo_update():
    """Rollout, targets and four epochs, every response at full length."""
    setting = setting_of(SHAPE, ROWS)
    return lambda: update(setting, SHAPE, ROWS, torch.Generator().manual_seed(0), epochs=4)


def network():
    return modes.set_dropout(pretrained.initialise_policy(SHAPE.network, SHAPE.vocabulary, 64, seed=0), 0.0)


def step(trained, loss):
    """An optimizer step of that loss."""
    optimizer, accelerator = optimise.adamw([trained], 1e-3, tiny.pick("rm")), Accelerator(cpu=True)
    return lambda: optimise.step(accelerator, optimizer, [loss()])


def reward_model_step():
    """Comparisons of two responses to one query."""
    query, first, second = (
        torch.randint(2, PAD, (ROWS, size)) for size in (SHAPE.query, SHAPE.response, SHAPE.response)
    )
    count = torch.full((ROWS,), SHAPE.response)
    chosen, rejected = (rm.Texts(torch.cat([query, response], 1), count) for response in (first, second))
    judge = modes.set_dropout(ScalarModel(network().base_model), 0.0)
    return step(judge, lambda: -logsigmoid(rm.margins(judge, chosen, rejected, PAD)).mean())


def sft_step():
    policy, ids = network(), torch.randint(2, PAD, (ROWS, SHAPE.query + SHAPE.response))
    every = torch.ones_like(ids, dtype=torch.bool)
    return step(policy, lambda: sft.token_loss(policy, ids, every, PAD) / ids.numel())


WORK = {"ppo_update": ppo_update, "reward_model_step": reward_model_step, "sft_step": sft_step}


@pytest.fixture(scope="module")
def found(request):
    """Counts of each after a first time, in which optimizers make their moments; stored where it is asked for."""
    counts = {}
    for name, made in WORK.items():
        work = made()
        work()
        counts[name] = asdict(counted(work))
    if request.config.getoption("--store-counts"):
        STORED.write_text(json.dumps(counts, indent=1) + "\n")
    return counts


@pytest.mark.parametrize("name", WORK)
@pytest.mark.parametrize("what", ["flops", "operators"])
def test_a_step_is_as_much_work_as_it_was(name, what, found):
    stored, now = json.loads(STORED.read_text())[name][what], found[name][what]
    assert now <= MOST * stored, (
        f"{name} takes {now / stored:.2f} times the {what} that it took: {stored} then, {now} now"
    )
    assert now >= LEAST * stored, (
        f"{name} takes {now / stored:.2f} times the {what} that it took, {stored} then and {now} now; keep it: {STORE}"
    )


def test_what_is_stored_is_of_every_step():
    assert json.loads(STORED.read_text()).keys() == WORK.keys()


def test_fused_attention_is_counted_as_its_products_are():
    query, key = (torch.randn(2, 3, length, 4, requires_grad=True) for length in (5, 7))
    product = 2 * 2 * 3 * 5 * 7 * 4
    assert flops_of(lambda: torch.nn.functional.scaled_dot_product_attention(query, key, key)) == 2 * product
    learnt = flops_of(lambda: torch.nn.functional.scaled_dot_product_attention(query, key, key).sum().backward())
    assert learnt == 6 * product
