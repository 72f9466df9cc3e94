"""The steps from text to tokens, on strings and lists counted by hand."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.ops import prompt

VERSIONS = [[1, 2, 3, 4], [1, 2, 3], [1, 2]]


def test_the_two_ends_of_a_prompt_differ_in_one_space():
    assert prompt.end_with_colon("a") == "a\n\nTL;DR:"
    assert prompt.end_with_space("a") == "a\n\nTL;DR: "


@pytest.mark.parametrize(("limit", "kept"), [(4, [1, 2, 3, 4]), (3, [1, 2, 3]), (2, [1, 2])])
def test_the_first_version_that_fits_is_taken(limit, kept):
    assert prompt.first_that_fits([1, 2, 3, 4, 5], limit, iter(VERSIONS)) == [kept]


@given(st.integers(1, 12), st.integers(1, 12))
def test_where_versions_lose_one_token_each_the_one_that_fits_is_as_long_as_the_first_tokens(length, limit):
    whole = list(range(length))
    (fitting,) = prompt.first_that_fits(whole, limit, (whole[: length - cut] for cut in range(length)))
    assert [fitting] == prompt.first_tokens(whole, limit, iter(()))


def test_no_version_is_made_that_is_not_needed():
    versions = iter(VERSIONS)
    prompt.first_that_fits([1, 2, 3, 4, 5], 3, versions)
    assert list(versions) == [[1, 2]]


def test_where_no_version_fits_it_is_said():
    with pytest.raises(LookupError, match="no version has 1 tokens or fewer"):
        prompt.first_that_fits([1, 2, 3, 4, 5], 1, iter(VERSIONS))


def test_a_hard_cut_and_leaving_out_ask_for_no_version():
    versions = iter(VERSIONS)
    assert prompt.first_tokens([1, 2, 3, 4, 5], 3, versions) == [[1, 2, 3]]
    assert prompt.left_out([1, 2, 3, 4, 5], 3, versions) == []
    assert list(versions) == VERSIONS


def test_a_completion_loses_the_space_before_its_first_word_and_no_other():
    assert prompt.start_as_given(" my boss ") == " my boss "
    assert prompt.start_without_space(" my boss ") == "my boss "


def test_an_open_end_is_no_end_of_text():
    assert prompt.end_with_eos("boss.", "<e>") == "boss.<e>"
    assert prompt.end_open("boss.", "<e>") == "boss."


@pytest.mark.parametrize(("limit", "row"), [(2, [7, 8, 9, 1, 2]), (3, [7, 8, 9, 1, 2, 3]), (4, [7, 8, 9, 1, 2, 3, 4])])
def test_a_row_loses_from_its_end_what_its_summary_has_over_the_limit(limit, row):
    assert prompt.summary_up_to([7, 8, 9, 1, 2, 3, 4], [1, 2, 3, 4], limit) == row


@pytest.mark.parametrize("limit", [4, 5, 100])
def test_a_limit_that_no_summary_reaches_is_none(limit):
    row, summary = [7, 8, 9, 1, 2, 3, 4], [1, 2, 3, 4]
    assert prompt.summary_up_to(row, summary, limit) == prompt.as_long_as_the_row(row, summary, limit) == row


@given(st.lists(st.integers(), max_size=5), st.lists(st.integers(), max_size=5), st.integers(0, 8))
def test_a_summary_over_its_limit_keeps_as_many_tokens_as_that_allows(query, summary, limit):
    cut = prompt.summary_up_to(query + summary, summary, limit)
    assert cut == query + summary[:limit]


def test_kept_apart_is_as_it_was():
    assert prompt.keep_apart([1, 2, 3], [4, 5], seed=0) == ([1, 2, 3], [4, 5])


def test_mixing_keeps_every_comparison_and_both_sizes():
    train, validation = prompt.mix(range(200), range(200, 300), seed=3)
    assert (len(train), len(validation)) == (200, 100)
    assert Counter(train + validation) == Counter(range(300))
    # Of 100 drawn from 300, 33 are expected of the old validation; six standard deviations are 23.
    assert 10 < sum(row >= 200 for row in validation) < 56


def test_mixing_follows_its_seed():
    assert prompt.mix(range(50), range(50, 60), 1) == prompt.mix(range(50), range(50, 60), 1)
    assert prompt.mix(range(50), range(50, 60), 1) != prompt.mix(range(50), range(50, 60), 2)
