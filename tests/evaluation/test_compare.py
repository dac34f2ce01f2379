"""Paired differences between two evaluations."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rag_exp.core.errors import DataError
from rag_exp.evaluation.compare import compare


def table(nll, ids=None, target="a", em=None, answer_bytes=None):
    n = len(nll)
    return pa.table(
        {
            "id": ids or [f"q{i}" for i in range(n)],
            "target": [target] * n,
            "nll": nll,
            "nll_without_end": nll,
            "nll_any": nll,
            "answer_bytes": answer_bytes or [2] * n,
            "em": pa.array(em or [None] * n, pa.float64()),
            "f1": pa.array([None] * n, pa.float64()),
            "gold_found": pa.array([None] * n, pa.bool_()),
            "answer_found": pa.array([True] * n, pa.bool_()),
        }
    )


def by_metric(differences):
    return {d.metric: d for d in differences}


def test_a_constant_difference_has_no_spread():
    a = np.random.default_rng(0).normal(size=50)
    found = by_metric(compare(table(a), table(a + 0.25), draws=500))
    d = found["nll"]
    assert (d.difference, d.low, d.high) == pytest.approx((0.25, 0.25, 0.25))
    assert d.p == pytest.approx(2 / 501)
    assert found["nll_per_byte"].difference == pytest.approx(0.125)
    assert found["answer_found"].difference == 0.0
    assert found["answer_found"].p == 1.0
    assert set(found) == {
        "nll",
        "nll_without_end",
        "nll_any",
        "nll_per_byte",
        "answer_found",
    }  # the others are missing in both


def test_the_interval_is_that_of_paired_differences():
    rng = np.random.default_rng(1)
    common, noise = rng.normal(size=400) * 10, rng.normal(size=400) * 0.1
    d = by_metric(compare(table(common), table(common + noise + 0.02), draws=4000))["nll"]
    se = noise.std() / 20
    assert d.high - d.low == pytest.approx(2 * 1.96 * se, rel=0.1)
    assert d.low < noise.mean() + 0.02 < d.high


def test_under_no_difference_p_is_rarely_small():
    rng = np.random.default_rng(2)
    pairs = [(table(rng.normal(size=60)), table(rng.normal(size=60))) for _ in range(120)]
    ps = [by_metric(compare(a, b, draws=300))["nll"].p for a, b in pairs]
    assert np.mean(np.array(ps) < 0.1) < 0.2
    assert 0.35 < np.mean(ps) < 0.65


def test_order_does_not_matter_and_draws_are_seeded():
    a, b = [1.0, 5.0, 2.0, 8.0], [2.0, 5.5, 1.0, 9.0]
    straight = compare(table(a), table(b), draws=200)
    shuffled = table(b[::-1], ids=["q3", "q2", "q1", "q0"])
    assert compare(table(a), shuffled, draws=200) == straight
    assert compare(table(a), table(b), draws=200, seed=1) != straight


def test_memory_is_bounded_without_changing_the_draws(monkeypatch):
    a, b = list(map(float, range(30))), [x * 1.5 for x in range(30)]
    whole = compare(table(a), table(b), draws=100)
    monkeypatch.setattr("rag_exp.evaluation.compare._CELLS", 90)
    assert compare(table(a), table(b), draws=100) == whole


def test_questions_missing_a_metric_are_left_out_in_both():
    d = by_metric(compare(table([1.0] * 3, em=[1.0, None, 0.0]), table([1.0] * 3, em=[0.0, 1.0, None]), draws=50))["em"]
    assert (d.questions, d.a, d.b) == (1, 1.0, 0.0)


def test_other_questions_cannot_be_compared():
    with pytest.raises(DataError, match="1 only in the first, 1 only in the second"):
        compare(table([1.0, 2.0]), table([1.0, 2.0], ids=["q0", "x"]))
    with pytest.raises(DataError, match="two scored answers"):
        compare(table([1.0]), table([1.0], target="b"))
    with pytest.raises(DataError, match="nothing to compare"):
        compare(table([]), table([]))
