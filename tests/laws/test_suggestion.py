import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_exp.core.errors import LawError
from rag_exp.laws import Offer, largest_affordable
from rag_exp.laws.suggestion import new_levels


def plain(*costs):
    return [Offer(size=c, own=c) for c in costs]


def test_the_largest_that_is_affordable_again_and_again():
    offers = plain(50, 40, 30, 20, 10, 1)
    assert largest_affordable(offers, 100, parts=3) == [(2, 30), (3, 20), (4, 10), (5, 1)]
    assert largest_affordable(offers, 100) == [(0, 50), (1, 40), (4, 10)]
    assert largest_affordable(offers, 100, parts=2) == [(0, 50), (1, 40), (4, 10)]
    assert largest_affordable(plain(60), 100, parts=2) == []


def test_what_is_too_small_to_tell_anything_is_left():
    assert largest_affordable(plain(50, 0.9), 100, parts=2) == [(0, 50)]
    assert largest_affordable(plain(50, 0.9), 100, parts=2, least=0.0) == [(0, 50), (1, 0.9)]


def test_a_training_is_paid_once():
    offers = [Offer(33, 1, {"a": 30, "index": 2}), Offer(32, 1, {"a": 30}), Offer(31, 5, {"b": 26})]
    assert largest_affordable(offers, 100, parts=3) == [(0, 33), (1, 1), (2, 31)]


def test_what_a_law_lacks_is_bought_first():
    offers = [Offer(50, 50), Offer(2, 2, turn=0), Offer(30, 30, turn=1), Offer(0.5, 0.5, turn=0), Offer(40, 40, turn=1)]
    assert largest_affordable(offers, 100) == [(1, 2), (3, 0.5), (4, 40), (2, 30)]
    assert largest_affordable(offers, 45) == [(1, 2), (3, 0.5), (4, 40)]


def test_levels_go_on_as_they_are_spaced_up_to_what_there_is():
    assert new_levels([1000, 2000, 4000], most=30000) == [8000, 16000, 30000]
    assert new_levels([1000, 2000, 4000], most=17000) == [8000, 17000]  # 16,000 is next to all there is
    assert new_levels([1000, 2000, 4000], most=5000) == []
    assert new_levels([1000, 2000, 4000], most=4000) == []
    assert new_levels([4, 8]) == [16, 32, 64]  # without an end: a decade
    assert new_levels([3]) == [9, 30]


def test_levels_that_are_lacking_fill_wide_gaps_and_then_go_on_below():
    assert new_levels([10000], lacking=2, most=10000) == [3162, 1000]
    assert new_levels([100, 1000], lacking=1, most=1000) == [316]
    assert new_levels([36, 1200], lacking=2, most=1200) == [208, 87]
    assert new_levels([500, 1000], lacking=2, most=1000) == [250, 125]
    assert new_levels([4], lacking=2, most=13.5, least=1) == [14, 1]
    assert new_levels([2, 1], lacking=1, most=2) == []  # nothing lies below one


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=6), st.integers(1, 10**7), st.integers(0, 2))
def test_new_levels_are_new_and_within_what_there_is(levels, most, lacking):
    most = max(most, *levels)
    found = new_levels(levels, lacking, most=most)
    assert not set(found) & set(levels)
    assert len(found) == len(set(found))
    assert all(1 <= v <= most for v in found)


@given(st.lists(st.floats(1e-3, 1e3), max_size=20), st.floats(1e-2, 1e4), st.integers(1, 6))
def test_never_more_than_the_budget_nor_a_run_above_its_part(costs, budget, parts):
    taken = largest_affordable(plain(*costs), budget, parts)
    prices = np.array([price for _, price in taken])
    assert prices.sum() <= budget * (1 + 1e-9)
    assert (prices <= budget / parts * (1 + 1e-9)).all()
    assert prices.tolist() == sorted(prices, reverse=True)


def test_a_budget_is_positive():
    with pytest.raises(LawError, match="positive FLOPs"):
        largest_affordable([], 0.0)
