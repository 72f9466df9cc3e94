"""One score from several: by hand, and what holds for any scores."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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


# ----------------------------------------------------------------------------- agreement


def test_agreement_by_hand():
    # Less their means 2 and 2 the members say (-1, 1) and (0, 0): variances 1/2 and 1/2.
    scores = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    assert ensemble.spread(scores).item() == pytest.approx(0.5**0.5)
    # Ranks (1, 2, 3, 4) and (1, 2.5, 2.5, 4): covariance 4.5, squares 5 and 4.5.
    scores = torch.tensor([[0.0, 1.0, 5.0, 9.0], [-3.0, 2.0, 2.0, 8.0]])
    assert ensemble.rank_correlation(scores).item() == pytest.approx(4.5 / (5 * 4.5) ** 0.5)
    # Less the means 2 and 3: (-2, 0, 2) and (-1, -1, 2).
    one, other = torch.tensor([0.0, 2.0, 4.0]), torch.tensor([2.0, 2.0, 5.0])
    assert ensemble.correlation(one, other).item() == pytest.approx(6 / (8 * 6) ** 0.5)


MEMBERS = st.integers(2, 5)
EPISODES = st.lists(st.integers(-1000, 1000).map(lambda n: n / 8), min_size=3, max_size=30, unique=True)


@given(EPISODES, MEMBERS, st.floats(-5, 5))
def test_members_that_say_the_same_but_for_their_centre_agree(score, members, shift):
    scores = torch.tensor([score] * members) + shift * torch.arange(members)[:, None]
    assert ensemble.spread(scores).item() == pytest.approx(0, abs=1e-4)
    assert ensemble.rank_correlation(torch.tensor([score] * members)).item() == pytest.approx(1)
    assert ensemble.correlation(torch.tensor(score), 3 * torch.tensor(score) - 2).item() == pytest.approx(1)


@given(EPISODES, st.integers(2, 4), st.integers(0, 99))
def test_neither_the_order_of_members_nor_that_of_episodes_matters(score, members, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.tensor(score) + torch.randn(members, len(score), generator=generator)
    mixed = scores[torch.randperm(members, generator=generator)][:, torch.randperm(len(score), generator=generator)]
    for measure in (ensemble.spread, ensemble.rank_correlation):
        assert measure(mixed).item() == pytest.approx(measure(scores).item(), abs=1e-6)
    assert -1 <= ensemble.rank_correlation(scores) <= 1
    of_order = ensemble.rank_correlation(scores.double() ** 3)  # a rank is of the order alone
    assert of_order.item() == pytest.approx(ensemble.rank_correlation(scores).item(), abs=1e-6)


def test_opposites_disagree_and_a_member_that_says_one_thing_of_all_has_no_correlation():
    scores = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    assert ensemble.rank_correlation(scores) == ensemble.correlation(*scores) == -1
    assert ensemble.correlation(scores[0], torch.ones(3)).isnan()
