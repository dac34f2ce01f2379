import numpy as np
import pytest

from rag_exp.laws import acceptable, across_losses, best, compare, fit

FORMS = ["joint", "joint_gain", "power(N)", "joint_rising"]
N, M = np.repeat(np.geomspace(2e5, 4e6, 5), 6), np.tile(np.geomspace(500, 32_000, 6), 5)
LOSS = (2 + 150 * N**-0.35 + 20 * M**-0.3) * np.exp(np.random.default_rng(1).normal(0, 0.002, 30))
DATA = {"N": N, "M": M, "loss": LOSS}
HOW = {"loss": "ls_log", "bootstrap": 60, "bootstrap_kind": "wild"}


@pytest.mark.parametrize("factor", [1.0, 1e9])
def test_it_is_the_chosen_form_with_the_acceptable_ones_and_the_four_losses(factor):
    law = best(FORMS, DATA, factor=factor, **HOW)
    table = compare(FORMS, DATA, loss="ls_log")
    assert [law.form.label, *(other.form.label for other in law.alternatives)] == acceptable(table, factor)
    alone = fit(law.form, DATA, **HOW)
    assert law.params == alone.params
    assert law.intervals == alone.intervals
    assert law.across_losses == across_losses(alone)
    assert best(table, DATA, factor=factor, **HOW).to_json() == law.to_json()


def test_beyond_the_data_its_intervals_span_the_forms():
    law, far = best(FORMS, DATA, factor=1e9, **HOW), {"N": [1e9], "M": [1e6]}
    single = [fit(form, DATA, **HOW).predict(far, 0.9) for form in FORMS]
    assert law.predict(far, 0.9).low_n == min(p.low_n for p in single)
    assert law.predict(far, 0.9).high_n == max(p.high_n for p in single)


def test_a_parameter_is_held_in_the_forms_that_have_it_and_coverage_is_of_the_chosen_one():
    law = best(FORMS, DATA, factor=1e9, fixed={"E": 2.0}, coverage=10, **HOW)
    assert law.fixed == {"E": 2.0}
    assert {other.form.label: other.fixed for other in law.alternatives}["power(N)"] == {}
    assert law.coverage
    assert not any(other.coverage for other in law.alternatives)
