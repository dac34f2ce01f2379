import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_exp.core.errors import LawError
from rag_exp.laws import Offer, largest_affordable


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
