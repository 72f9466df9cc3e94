"""Two texts as one row: each of their ends sees its own text and nothing else, and scores are those of two rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.models import scoring
from repro.ops.branch import join, joinable
from tests.tiny import EOS, PAD, scalar

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
token = st.integers(2, 5)  # few of them, so that texts begin alike by chance too


@st.composite
def pairs(draw):
    """Queries, and two responses to each; a response may be empty, or how the other begins, or the same."""
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        query = draw(st.lists(token, min_size=1, max_size=4))
        one, other = (draw(st.lists(token, max_size=4)) for _ in range(2))
        other = draw(st.sampled_from([other, one, one + other, one[:1] + other]))
        rows.append((query, one, other))
    return rows


def texts(rows, more=0):
    """[B, T] right-padded texts twice, and the tokens of their responses."""
    both = [query + one for query, one, _ in rows], [query + other for query, _, other in rows]
    width = max(len(row) for side in both for row in side) + more
    ids = [torch.tensor([row + [PAD] * (width - len(row)) for row in side]) for side in both]
    return *ids, tuple(torch.tensor([len(row[side]) for row in rows]) for side in (1, 2))


@given(rows=pairs(), more=st.integers(0, 2))
def test_the_end_of_each_text_sees_that_text_in_order_and_at_its_positions(rows, more):
    first, second, endings = texts(rows, more)
    joined = join(first, second, endings, PAD)
    for row, (query, *responses) in enumerate(rows):
        for place, response in zip(joined.last[row], responses, strict=True):
            seen = joined.mask[row, 0, place]
            assert joined.ids[row, seen].tolist() == query + response
            positions = joined.positions[0, seen]
            assert positions.diff().tolist() == [1] * (len(query + response) - 1)


@given(rows=pairs())
def test_every_token_sees_what_stands_before_it_in_its_own_text(rows):
    first, second, endings = texts(rows)
    joined = join(first, second, endings, PAD)
    for row, (query, *responses) in enumerate(rows):
        for place, response in zip(joined.last[row], responses, strict=True):
            words = query + response
            for count, each in enumerate(joined.mask[row, 0, place].nonzero()[:, 0].tolist(), 1):
                assert joined.ids[row, joined.mask[row, 0, each]].tolist() == words[:count]


@given(rows=pairs())
def test_padding_sees_itself_alone_and_no_token_sees_it(rows):
    first, second, endings = texts(rows)
    joined = join(first, second, endings, PAD)
    for row, ids in enumerate(joined.ids):
        padding, mask = ids == PAD, joined.mask[row, 0]
        assert mask.diagonal().all(), "a row that sees nothing is 0/0"
        assert (mask[:, padding].sum(0) == 1).all()


@given(rows=pairs())
def test_what_is_shared_is_what_begins_alike_and_no_more_than_the_endings_leave(rows):
    first, second, endings = texts(rows)
    joined = join(first, second, endings, PAD)
    for row, (query, one, other) in enumerate(rows):
        both = joined.mask[row, 0, joined.last[row, 0]] & joined.mask[row, 0, joined.last[row, 1]]
        assert both.sum() == len(query)
        # A token of either text stands in the row once, however often texts of other rows need the columns.
        assert (joined.ids[row] != PAD).sum() == len(query) + len(one) + len(other)


def test_texts_with_nothing_in_common_share_no_column():
    first, second = torch.tensor([[5, 6, PAD]]), torch.tensor([[7, 8, 9]])
    joined = join(first, second, (torch.tensor([1]), torch.tensor([1])), PAD)
    assert joined.ids.tolist() == [[5, 6, 7, 8, 9]]
    assert joined.positions.tolist() == [[0, 1, 0, 1, 2]]
    assert joined.last.tolist() == [[1, 4]]
    assert joined.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]


def test_two_rows_worked_by_hand():
    # Queries 5 6 and 7; the second row's responses begin alike with 8, which is not shared.
    first, second = torch.tensor([[5, 6, 3, EOS], [7, 8, 9, PAD]]), torch.tensor([[5, 6, 4, PAD], [7, 8, EOS, PAD]])
    joined = join(first, second, (torch.tensor([2, 2]), torch.tensor([1, 2])), PAD)
    assert joined.ids.tolist() == [[5, 6, 3, EOS, 4, PAD], [PAD, 7, 8, 9, 8, EOS]]
    assert joined.positions.tolist() == [[0, 1, 2, 3, 2, 3]]
    assert joined.last.tolist() == [[3, 4], [3, 5]]


@pytest.mark.parametrize(
    ("ids", "joined"),
    [
        ([[5, 6, 7], [5, PAD, PAD]], True),
        ([[5, 6, 7], [PAD, 5, 6]], False),
        ([[5, PAD, 7], [5, 6, 7]], False),
        ([[PAD, PAD, PAD], [5, 6, 7]], False),
    ],
    ids=["on the right", "on the left", "within", "of nothing else"],
)
def test_texts_are_joined_where_all_padding_is_on_the_right(ids, joined):
    fine = torch.tensor([[5, 6, 7], [5, 6, PAD]])
    assert joinable(torch.tensor(ids), fine, PAD) is joinable(fine, torch.tensor(ids), PAD) is joined


def test_texts_of_different_widths_are_not_joined():
    assert not joinable(torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6]]), PAD)


# ----------------------------------------------------------------------------- scored


@pytest.fixture(scope="module")
def network():
    return scalar()


def apart(network, first, second, endings):
    """[B, 2]: each text's reward, computed in a row of its own."""
    sides = zip((first, second), endings)
    return torch.stack([scoring.score(network, ids, count, PAD) for ids, count in sides], 1)


@settings(max_examples=25)
@given(rows=pairs(), more=st.integers(0, 2))
def test_scores_are_those_of_the_texts_apart(network, rows, more):
    first, second, endings = texts(rows, more)
    with torch.no_grad():
        together, expected = (way(network, first, second, endings) for way in (scored, apart))
    torch.testing.assert_close(together, expected, **CLOSE)


def scored(network, first, second, endings):
    return scoring.score_pairs(network, first, second, endings, PAD)


SOME = [([2, 3], [4, 5], [5]), ([4], [], [3, 3, 2]), ([5, 2, 3], [2, 2], [2, 2]), ([3, 3], [4], [4, 2])]


def test_gradients_are_those_of_the_texts_apart():
    network, found = scalar(), []
    for way in (scored, apart):
        network.zero_grad()
        (
            way(network, *texts(SOME)) * torch.tensor([[1.0, -2.0], [3.0, 1.0], [0.5, -1.0], [-1.0, 2.0]])
        ).sum().backward()
        found.append({name: weight.grad.clone() for name, weight in network.named_parameters()})
    for name, expected in found[1].items():
        assert (found[0][name] - expected).abs().max() <= 1e-5 * max(1, expected.abs().max()), name


@pytest.mark.parametrize("garbage", [0, 7, EOS])
def test_what_stands_in_padding_changes_no_score(network, garbage):
    first, second, endings = texts(SOME)
    joined = join(first, second, endings, PAD)
    assert (joined.ids == PAD).any()
    ids = joined.ids.masked_fill(joined.ids == PAD, garbage)
    with torch.no_grad():
        got = network(input_ids=ids, attention_mask=joined.mask, position_ids=joined.positions, places=joined.last)
        torch.testing.assert_close(got, apart(network, first, second, endings), **CLOSE)
