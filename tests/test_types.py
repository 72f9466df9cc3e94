"""The index convention, on responses that end first, in the middle, last and not at all."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch

from repro.types import Rollout, Targets
from tests.tiny import made_up_rollout

ROLLOUT = made_up_rollout(last_token=[0, 2, 3, 3], has_eos=[True, True, True, False], tokens=4)


def test_the_tokens_reach_to_the_end_of_text_and_the_values_one_further():
    assert ROLLOUT.token_mask.int().tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert ROLLOUT.value_mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_the_masks_are_of_what_counts_though_that_is_more_than_the_response():
    charged = replace(ROLLOUT, last_counted=torch.tensor([3, 3, 3, 3]))
    assert charged.token_mask.all() and charged.value_mask.all()


@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([1, 2]), torch.tensor([False, True, True, False])])
def test_a_slice_takes_the_same_rows_of_every_field(rows):
    part = ROLLOUT[rows]
    assert len(part) == 2
    for field in fields(Rollout):
        assert torch.equal(getattr(part, field.name), getattr(ROLLOUT, field.name)[1:3]), field.name
    target = Targets(advantage=ROLLOUT.value, returns=-ROLLOUT.value, reward=ROLLOUT.kl)[rows]
    assert torch.equal(target.advantage, ROLLOUT.value[1:3])
    assert torch.equal(target.returns, -ROLLOUT.value[1:3])


def test_a_rollout_is_put_together_again_from_its_parts():
    whole = Rollout(*(torch.cat(columns) for columns in zip(ROLLOUT[:1], ROLLOUT[1:], strict=True)))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(whole, ROLLOUT, strict=True))


def test_a_rollout_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        ROLLOUT.score = torch.zeros(4)


def test_the_first_columns_are_those_of_every_field_that_has_one_for_each_token():
    part = ROLLOUT.first_tokens(2)
    for field in fields(Rollout):
        whole, cut = getattr(ROLLOUT, field.name), getattr(part, field.name)
        of_tokens = field.name not in ("query", "member_scores") and whole.dim() >= 2
        assert torch.equal(cut, whole[:, :2] if of_tokens else whole), field.name
    assert torch.equal(part.token_mask, ROLLOUT.token_mask[:, :2])
    assert torch.equal(part.value_mask, ROLLOUT.value_mask[:, :2])
    target = Targets(advantage=ROLLOUT.value, returns=-ROLLOUT.value, reward=ROLLOUT.kl).first_tokens(2)
    assert torch.equal(target.advantage, ROLLOUT.value[:, :2]) and torch.equal(target.reward, ROLLOUT.kl[:, :2])
