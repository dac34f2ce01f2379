import numpy as np
import pytest

from rag_exp.core.errors import LawError
from rag_exp.laws import LawFit, fit
from rag_exp.laws.coverage import residual_noise, simulated
from rag_exp.laws.fitting import prepare

N, M = np.repeat(np.geomspace(2e5, 4e6, 6), 5), np.tile(np.geomspace(1000, 32_000, 5), 6)
TRUE = 2 + 150 * N**-0.35 + 20 * M**-0.3
SIZE = np.repeat(np.arange(6), 5)


def data(row=0.01, cluster=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return {"N": N, "M": M, "loss": TRUE * np.exp(rng.normal(0, row, 30) + rng.normal(0, cluster, 6)[SIZE])}


def test_a_fit_says_on_request_how_often_its_intervals_hold_the_truth():
    law = fit("joint", data(), bootstrap=80, bootstrap_kind="wild", loss="ls_log", level=0.9, coverage=60)
    found = law.coverage
    assert (found["studies"], found["draws"], found["level"]) == (60, 80, 0.9)
    assert list(found["shares"]) == ["E", "A", "B", "alpha", "beta"]
    # Of 60 trials of 90%, fewer than 45 succeed in 0.02% of cases.
    assert all(45 / 60 <= share <= 1 for share in found["shares"].values()), found
    assert found["error"] == pytest.approx(np.sqrt(0.9 * 0.1 / 60))
    assert found["noise"]["row"] == pytest.approx(0.01, rel=0.3)
    assert LawFit.from_json(law.to_json()).coverage == found
    assert fit("joint", data(), bootstrap=80, bootstrap_kind="wild", loss="ls_log").coverage == {}


def test_what_is_fixed_has_no_coverage():
    law = fit("joint", data(), bootstrap=60, bootstrap_kind="case", loss="ls_log", coverage=5, fixed={"E": 2.0})
    assert list(law.coverage["shares"]) == ["A", "B", "alpha", "beta"]


def test_the_noise_of_clusters_is_told_from_that_of_rows():
    found = []
    for s in range(30):
        problem = prepare(
            "joint", data(0.005, 0.02, s), cluster=SIZE.tolist(), loss="ls_log", fixed={"alpha": 0.35, "beta": 0.3}
        )
        found.append(residual_noise(problem, problem.optimum()[0].theta_Rp[0]))
    cluster, row = np.sqrt(np.square(found).mean(0))
    assert row == pytest.approx(0.005, rel=0.35)
    assert 0.01 < cluster < 0.025  # the coefficient in N takes a part of what six sizes have in common


def test_simulated_studies_have_the_noise_that_was_asked_for():
    problem = prepare("joint", data(), cluster=SIZE.tolist(), loss="ls_log")
    theta = problem.optimum()[0].theta_Rp[0]
    y = simulated(problem, theta, (0.02, 0.005), 4000, 0)
    error = np.log(y / problem.design.values(theta[None]))
    assert error.std() == pytest.approx(np.hypot(0.02, 0.005), rel=0.03)
    groups = error.reshape(4000, 6, 5)
    assert (groups - groups.mean(2, keepdims=True)).std(ddof=0) == pytest.approx(0.005 * np.sqrt(4 / 5), rel=0.03)


def test_coverage_needs_replicates_that_can_be_made_anew():
    with pytest.raises(LawError, match="give bootstrap=200"):
        fit("joint", data(), coverage=10)
    with pytest.raises(LawError, match="cannot use replicates that were given"):
        fit("joint", data(), coverage=10, bootstrap=50, replicates=np.tile(data()["loss"], (50, 1)))
