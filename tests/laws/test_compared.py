import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_exp.laws.compared import Compared

M = np.array([1e3, 1e4, 1e5, 1e6])


@given(st.floats(1, 100), st.floats(0, 1))
def test_a_power_is_found_and_is_never_more_than_the_corpus(coefficient, exponent):
    found = Compared.of(M, coefficient * M**exponent)
    assert (found.coefficient, found.exponent) == pytest.approx((coefficient, exponent), rel=1e-6, abs=1e-6)
    assert found.spread == pytest.approx(1)
    assert found.at(50.0) == pytest.approx(min(coefficient * 50**exponent, 50), rel=1e-5)
    assert Compared.from_dict(found.to_dict()) == found


def test_one_corpus_size_gives_a_share_and_falling_searches_a_constant():
    share = Compared.of(np.array([1e4, 1e4]), np.array([1e3, 4e3]))
    assert (share.exponent, share.coefficient, share.spread) == pytest.approx((1, 0.2, 2))
    assert share.equation == "0.2 M"
    assert Compared.of(M, 1e3 * M**-0.1).exponent == 0
    assert Compared.of(np.array([10.0, 1e3]), np.array([np.nan, 30.0])).equation == "0.03 M"


def test_searches_that_count_nothing_tell_nothing():
    assert Compared.of(M, np.full(4, np.nan)) is None
