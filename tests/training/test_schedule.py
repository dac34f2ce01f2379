"""The learning rate by step, and which parameters decay."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rag_exp.training.options import OptimOptions
from rag_exp.training.schedule import build_optimizer, lr_at


def test_cosine_by_hand():
    options = OptimOptions(rise=0.2, min_lr_fraction=0.1, schedule="cosine")
    rates = [lr_at(step, 11, options, 1.0) for step in range(11)]
    # ceil(.2 * 11) = 3 rising steps, then from 1 at step 3 to .1 at step 10, half way at 6.5
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[10] == pytest.approx(0.1)
    assert (rates[6] + rates[7]) / 2 == pytest.approx(0.55)


def test_linear_and_constant_by_hand():
    linear = OptimOptions(rise=0, min_lr_fraction=0.0, schedule="linear")
    assert [lr_at(step, 5, linear, 2.0) for step in range(5)] == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0])
    constant = OptimOptions(rise=0.5, schedule="constant")
    assert [lr_at(step, 4, constant, 3.0) for step in range(4)] == pytest.approx([1.0, 2.0, 3.0, 3.0])


@given(
    steps=st.integers(1, 300),
    rise=st.floats(0, 0.99),
    least=st.floats(0, 1),
    schedule=st.sampled_from(["cosine", "linear", "constant"]),
)
def test_rises_to_the_peak_once_and_never_leaves_its_bounds(steps, rise, least, schedule):
    options = OptimOptions(rise=rise, min_lr_fraction=least, schedule=schedule)
    rates = [lr_at(step, steps, options, 1.0) for step in range(steps)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(1.0)
    assert all(0 <= r <= 1 + 1e-12 for r in rates)
    assert all(a <= b + 1e-12 for a, b in pairwise(rates[: top + 1]))
    assert all(a + 1e-12 >= b for a, b in pairwise(rates[top:]))


def test_vectors_do_not_decay_and_frozen_parameters_do_not_train():
    layer = torch.nn.Linear(3, 2)
    frozen = torch.nn.Parameter(torch.ones(2, 2), requires_grad=False)
    optimizer = build_optimizer([*layer.parameters(), frozen], OptimOptions(weight_decay=0.5), 1e-2)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decay == {id(layer.weight): 0.5, id(layer.bias): 0.0}
