"""One score from several: by hand, and what holds for any scores."""

import pytest
import torch

from repro.ops import ensemble

SCORES = torch.tensor([[1.0, 0.0, -2.0], [3.0, 0.0, 4.0], [2.0, 0.0, 1.0]])  # [members, episodes]


def test_by_hand():
    assert ensemble.mean(SCORES).tolist() == [2.0, 0.0, 1.0]
    assert ensemble.lowest(SCORES).tolist() == [1.0, 0.0, -2.0]
    # Variances 2/3, 0 and (9 + 9 + 0) / 3 = 6.
    assert ensemble.mean_minus_variance(SCORES, 0.5).tolist() == pytest.approx([2 - 1 / 3, 0.0, 1 - 3.0])


@pytest.mark.parametrize("combine", [ensemble.mean, ensemble.lowest, ensemble.mean_minus_variance])
def test_members_that_agree_are_believed_and_their_order_does_not_matter(combine):
    score = torch.randn(5)
    torch.testing.assert_close(combine(score.expand(3, 5)), score)
    torch.testing.assert_close(combine(SCORES[[2, 0, 1]]), combine(SCORES))
    torch.testing.assert_close(combine(SCORES + 7), combine(SCORES) + 7)


def test_of_those_that_disagree_neither_doubt_nor_the_lowest_is_above_the_mean():
    scores = torch.randn(4, 50)
    assert (ensemble.lowest(scores) < ensemble.mean(scores)).all()
    assert (ensemble.mean_minus_variance(scores) < ensemble.mean(scores)).all()
    torch.testing.assert_close(ensemble.mean_minus_variance(scores, 0.0), ensemble.mean(scores))
