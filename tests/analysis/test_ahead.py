import numpy as np
import pytest

from rag_exp.analysis.ahead import ahead, ahead_sentences
from rag_exp.laws import fit

N, M = np.repeat(np.geomspace(2e5, 4e6, 4), 5), np.tile(np.geomspace(1000, 32_000, 5), 4)
LOSS = (14 + 150 * N**-0.35 - 3e-4 * M) * np.exp(np.random.default_rng(0).normal(0, 0.005, 20))
DATA = {"N": N, "M": M, "loss": LOSS}


@pytest.fixture(scope="module")
def law():
    options = {"bootstrap": 60, "bootstrap_kind": "wild", "delta": 0.02}
    law = fit("joint_gain", DATA, **options)
    law.alternatives = [fit("joint_log_gain", DATA, **options)]
    return law


def test_each_axis_tenfold_and_all_together(law):
    found = ahead(law)
    at = [(a.at["N"], a.at["M"]) for a in found]
    assert at == [pytest.approx(p) for p in ((4e7, 32_000), (4e6, 320_000), (4e7, 320_000))]
    assert [a.distance for a in found] == [
        {"N": pytest.approx(1)},
        {"M": pytest.approx(1)},
        {"N": pytest.approx(1), "M": pytest.approx(1)},
    ]
    both = found[2]
    assert both.value == pytest.approx(law.predict({"N": 4e7, "M": 320_000})[0])
    other = law.alternatives[0].predict({"N": 4e7, "M": 320_000})[0]
    assert (both.forms_low, both.forms_high) == pytest.approx(sorted((both.value, other)))
    assert both.low < both.forms_low < both.forms_high < both.high


def test_sentences_state_distance_interval_and_forms(law):
    first, second, third = ahead_sentences(law, "nll")
    assert first.startswith("At 40M parameters and 32k passages (1 decade beyond the largest N): ")
    assert "nats per answer [" in first
    assert "; 2 acceptable forms say " in first
    assert "1 decade beyond the largest N and 1 decade beyond the largest M" in third
    # Linear in M, the law has fallen through zero ten times further on: 14 - 3e-4 * 320,000 = -82.
    assert second.endswith("the law falls below zero, which no loss can: its form does not hold so far out.")
    assert "nats" not in second


def test_without_replicates_there_is_no_interval_and_the_forms_still_stand():
    plain = fit("joint_gain", DATA, delta=0.02)
    assert all(a.low is None and a.forms_low == a.forms_high == a.value for a in ahead(plain))
    text = next(ahead_sentences(plain, "nll"))
    assert "[" not in text
    assert "acceptable" not in text
