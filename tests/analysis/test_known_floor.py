import numpy as np
import pandas as pd
import pytest

from rag_exp.analysis.known_floor import floor_sentence, known_floor, with_floor
from rag_exp.analysis.study_fits import StudyFits, summary
from rag_exp.analysis.study_fitting import fit_table
from rag_exp.analysis.tables import records_to_table
from rag_exp.laws import LawOptions, fit

FLOOR = 1.25


def rows(**columns):
    table = {"arm": ["oracle"] * 3, "gold_recall@k": [1.0] * 3, "entropy": [4.0] * 3, "entropy_given_gold": [FLOOR] * 3}
    return pd.DataFrame({**table, **columns})


def test_which_entropy_bounds_which_rows():
    assert known_floor(rows(), "nll") == ("entropy_given_gold", FLOOR)
    assert known_floor(rows(arm=["closed_book"] * 3), "nll") == ("entropy", 4.0)
    assert known_floor(rows(**{"gold_recall@k": [1.0, 1.0, 0.9]}), "nll") is None
    assert known_floor(rows(entropy_given_gold=[FLOOR, FLOOR, 1.3]), "nll") is None
    assert known_floor(rows(entropy_given_gold=[FLOOR, None, FLOOR]), "nll") is None
    assert known_floor(rows(), "nll_any") is None
    assert known_floor(rows().drop(columns="entropy_given_gold"), "nll") is None


def law_of(form, y, **options):
    N = np.geomspace(1e5, 1e7, len(y))
    return fit(form, {"N": N, "loss": y}, bootstrap=60, bootstrap_kind="wild", loss="ls_log", **options)


def test_what_has_no_floor_or_lies_below_it_says_so():
    N = np.geomspace(1e5, 1e7, 8)
    power, saturating = law_of("power", 50 * N**-0.2), law_of("saturating", FLOOR + 50 * N**-0.2)
    never = pytest.fail
    assert "does not fall towards a floor" in with_floor(power, "entropy", FLOOR, never)["reason"]
    found = with_floor(saturating, "entropy", 4.0, never)
    assert found["params"] is None
    assert "not above it" in floor_sentence(saturating, found)
    assert floor_sentence(power, None) is None


def test_a_study_of_the_generated_world_shows_how_much_its_entropy_narrows_the_exponent(synthetic, tmp_path):
    """Oracle runs of 6 sizes, 1% noise, over a floor that is known exactly."""
    world, rng, runs = synthetic.World(), np.random.default_rng(0), []
    for i, n in enumerate(np.geomspace(1e5, 1e7, 6).round()):
        r = synthetic.record(world, "s2", "null", arm="oracle")
        nll = (FLOOR + 200 * n**-0.35) * np.exp(rng.normal(0, 0.01))
        metrics = {**r.metrics, "nll": float(nll), "entropy": 4.0, "entropy_given_gold": FLOOR}
        runs.append(r.model_copy(update={"run_id": f"run{i}", "sizes": {**r.sizes, "N": int(n)}, "metrics": metrics}))
    options = LawOptions(arm="oracle", bootstrap=200, over_N=("saturating(N)",), loss="ls_log")
    fits = fit_table(records_to_table(runs, synthetic.plan_of(runs)), options)
    found = fits.of("N")[0]
    width = {k: np.ptp(v["alpha"]) for k, v in (("free", found.law.intervals), ("held", found.floor["intervals"]))}
    assert width["held"] < 0.5 * width["free"]
    assert found.floor["params"]["E"] == FLOOR
    low, high = found.floor["intervals"]["alpha"]
    assert low < 0.35 < high
    text = summary(found)
    assert "With the floor known (entropy_given_gold, 1.25 nats) alpha is 0.3" in text
    assert "times narrower; fitted, the floor is" in text
    fits.save(tmp_path)
    assert StudyFits.load(tmp_path).of("N")[0].floor == found.floor
