import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_exp.laws import jets
from rag_exp.laws.jets import Jet

EXPRESSIONS = {
    "product and quotient": lambda a, b: a * b / (2.0 + a) - b,
    "exponential": lambda a, b: jets.exp(a * b) + jets.expm1(-a),
    "logarithm": lambda a, b: jets.log(2.0 + a * a) * jets.log1p(b * b),
    "softplus": lambda a, b: b * jets.softplus(a / b) + jets.logaddexp(a, 3.0 * b),
    "reversed": lambda a, b: 1.0 - a + 2.0 / (1.5 + b) - 0.5 * a,
}


@pytest.mark.parametrize("name", EXPRESSIONS)
@settings(max_examples=25, deadline=None)
@given(a=st.floats(-1, 1), b=st.floats(0.2, 2))
def test_derivatives_match_finite_differences(name, a, b):
    def value(x):
        return EXPRESSIONS[name](x[0], x[1])

    found = EXPRESSIONS[name](Jet.of("a", np.array(a)), Jet.of("b", np.array(b)))
    at, h = np.array([a, b]), 1e-4
    assert found.value == pytest.approx(value(at), rel=1e-12, abs=1e-12)
    step = h * np.eye(2)
    for i, p in enumerate("ab"):
        slope = (value(at + step[i]) - value(at - step[i])) / (2 * h)
        assert found.first[p] == pytest.approx(slope, rel=1e-4, abs=1e-5)
        for j, q in enumerate("ab"):
            ahead, behind = value(at + step[i] + step[j]), value(at - step[i] - step[j])
            cross = (ahead - value(at + step[i] - step[j]) - value(at - step[i] + step[j]) + behind) / (4 * h * h)
            bend = found.second.get((min(p, q), max(p, q)), 0.0)
            assert bend == pytest.approx(cross, rel=1e-3, abs=1e-4)
