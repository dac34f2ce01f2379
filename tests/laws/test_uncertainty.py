import time

import numpy as np
import pytest

from rag_exp.core.errors import LawError
from rag_exp.laws import fit, question_bootstrap
from rag_exp.laws.forms import form_by_name
from rag_exp.laws.rows import read_rows
from rag_exp.laws.uncertainty import resampled_weights

N, M = np.repeat(np.geomspace(2e5, 4e6, 4), 5), np.tile(np.geomspace(1000, 32_380, 5), 4)
TRUE = 2 + 150 * N**-0.35 + 20 * M**-0.3


def data(sigma=0.01, seed=0):
    return {"N": N, "M": M, "loss": TRUE * np.exp(np.random.default_rng(seed).normal(0, sigma, 20))}


def test_a_question_is_drawn_for_all_runs_together():
    rng = np.random.default_rng(0)
    hard = rng.exponential(5, 400)
    runs = {"small": hard + 1.0, "large": hard, "half": hard * 0.5}
    draws = question_bootstrap(runs, 300, seed=1)
    assert draws.shape == (300, 3)
    np.testing.assert_allclose(draws[:, 0] - draws[:, 1], 1.0)  # what is common to the runs stays common
    np.testing.assert_allclose(draws[:, 2], 0.5 * draws[:, 1])
    assert draws[:, 1].mean() == pytest.approx(hard.mean(), abs=4 * hard.std() / np.sqrt(400 * 300))
    assert draws[:, 1].std() == pytest.approx(hard.std() / 20, rel=0.15)
    np.testing.assert_array_equal(draws, question_bootstrap(runs, 300, seed=1))
    assert not np.array_equal(draws, question_bootstrap(runs, 300, seed=2))


def test_runs_that_answer_different_questions_are_refused():
    with pytest.raises(LawError, match="same questions: b has losses of shape"):
        question_bootstrap({"a": [1.0, 2.0], "b": [1.0]}, 10)
    with pytest.raises(LawError, match="Run a: 1 of its losses are not finite"):
        question_bootstrap({"a": [1.0, float("nan")]}, 10)
    with pytest.raises(LawError, match="needs runs and draws"):
        question_bootstrap({}, 10)


def test_question_replicates_widen_the_floor_and_not_the_exponents():
    """Questions are common to all runs: they move the loss's level far more than its shape."""
    rng = np.random.default_rng(0)
    hard = rng.exponential(1.0, 500)
    runs = {str(i): TRUE[i] * hard / hard.mean() for i in range(20)}
    replicates = question_bootstrap(runs, 200, seed=0)
    law = fit("joint", {"N": N, "M": M, "loss": TRUE}, replicates=replicates, loss="ls_log")
    assert law.resampling["kind"] == "given"
    assert law.resampling["draws"] == 200
    spread = law.draws_Rp.std(0) / np.array(list(law.params.values()))
    assert spread[0] == pytest.approx(hard.std() / hard.mean() / np.sqrt(500), rel=0.2)
    assert spread[3:].max() < 1e-6


def test_wild_noise_can_be_added_to_given_replicates():
    table = data(0.01)
    replicates = np.tile(table["loss"], (200, 1))
    still = fit("joint", table, replicates=replicates, loss="ls_log")
    assert np.ptp(still.draws_Rp[:, 3]) < 1e-6
    shaken = fit("joint", table, replicates=replicates, bootstrap_kind="wild", loss="ls_log")
    assert shaken.resampling["kind"] == "given and wild"
    low, high = shaken.intervals["alpha"]
    assert 0.05 < high - low < 0.5


def test_five_hundred_replicates_of_a_joint_law_take_seconds_and_meet_their_gradient():
    start = time.process_time()
    law = fit("joint", data(0.01), bootstrap=500, bootstrap_kind="wild", delta=0.02)
    assert time.process_time() - start < 5
    assert len(law.draws) == 500
    assert list(law.draws.columns) == ["E", "A", "B", "alpha", "beta"]
    assert law.resampling["worst_gradient"] < 1e-6
    low, high = law.intervals["alpha"]
    assert low < law.params["alpha"] < high


def test_each_replicate_is_the_fit_of_its_own_data():
    table = data(0.02)
    rng = np.random.default_rng(5)
    replicates = table["loss"] * np.exp(rng.normal(0, 0.02, (60, 20)))
    law = fit("joint", table, replicates=replicates, loss="ls_log")
    for r in (0, 13, 59):
        alone = fit("joint", {**table, "loss": replicates[r]}, loss="ls_log")
        np.testing.assert_allclose(law.draws_Rp[r], list(alone.params.values()), rtol=1e-4)


def test_intervals_are_the_percentiles_of_the_draws_at_their_level():
    law = fit("joint", data(), bootstrap=80, bootstrap_kind="wild", loss="ls_log", level=0.8)
    for name, interval in law.intervals.items():
        assert interval == pytest.approx(np.quantile(law.draws[name], [0.1, 0.9], method="weibull"), rel=1e-8), name


def test_a_seed_gives_the_same_draws_and_another_seed_gives_others():
    a, b, c = (fit("joint", data(), bootstrap=60, seed=s, delta=0.02).draws_Rp for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_resamples_that_cannot_carry_the_law_are_drawn_again_and_counted():
    rows = read_rows(form_by_name("saturating"), {"N": [1, 2, 3, 4], "loss": [5, 4, 3, 2]}, "loss")
    weights, again = resampled_weights(rows, 300, 0, by_cluster=False)
    assert (weights.sum(1) == 4).all()
    assert ((weights > 0).sum(1) >= 3).all()
    # Without care 1 - (24 + 144) / 256 of the resamples have fewer than three distinct rows.
    assert again / (again + 300) == pytest.approx(1 - 168 / 256, abs=0.06)
    law = fit("saturating", {"N": [1e5, 1e6, 1e7, 1e8], "loss": [5, 4, 3.4, 3.1]}, bootstrap=60)
    assert law.resampling["drawn_again"] > 0


def test_absolute_residuals_are_resampled_at_corners_each_the_fit_of_its_own_rows():
    table = data(0.02)
    counts = np.random.default_rng(3).multinomial(20, np.full(20, 1 / 20), size=40).astype(float)
    law = fit("joint", table, resamples=counts, loss="lad_log")
    for r in (0, 17, 39):
        alone = fit("joint", table, weights=counts[r], loss="lad_log")
        held = dict(zip(law.form.parameters, law.draws_Rp[r], strict=True))
        value = law.values(table, law.draws_Rp[r][None])[0]
        assert (counts[r] * np.abs(np.log(value / table["loss"]))).sum() <= alone.objective * (1 + 1e-6), held


def test_a_cluster_is_drawn_whole():
    rows = read_rows(form_by_name("joint"), data(), "loss", cluster=[f"run {n:g}" for n in N])
    weights, _ = resampled_weights(rows, 50, 0, by_cluster=True)
    by_run = weights.reshape(50, 4, 5)
    assert (by_run == by_run[:, :, :1]).all()
    assert (by_run[:, :, 0].sum(1) == 4).all()


def test_clusters_that_the_replicates_pass_over_are_warned_of():
    labels = [f"run {n:g}" for n in N]
    told = {k: fit("joint", data(), cluster=labels, bootstrap=40, bootstrap_kind=k).warnings for k in ("case", "wild")}
    assert any("rows of a cluster for independent" in w for w in told["case"])
    assert not any("independent" in w for w in told["wild"])


def test_too_few_clusters_to_resample_are_refused_with_the_way_out():
    keep = N.max() > N
    table = {k: v[keep] for k, v in data().items()}
    with pytest.raises(LawError, match=r"3 clusters are too few for a bootstrap.*wild"):
        fit("joint", table, bootstrap=50, bootstrap_kind="cluster", cluster=table["N"])


def test_intervals_from_a_handful_of_runs_hold_the_truth():
    """Five runs and three parameters: as if the size of two spare residuals were known, 95% intervals hold 70%."""
    N = np.geomspace(7e3, 2e5, 5)
    loss = (9 + 550 * N**-0.56) * np.exp(np.random.default_rng(0).normal(0, 0.005, 5))
    law = fit("saturating", {"N": N, "loss": loss}, delta=0.02, bootstrap=150, bootstrap_kind="wild", coverage=100)
    # Of 100 intervals of 95% fewer than 85 hold the truth in 0.01% of cases.
    assert all(share >= 0.85 for share in law.coverage["shares"].values()), law.coverage


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """40 simulated studies of 40 runs: a 90% interval misses 4 of 40 on average."""
    N, M = np.repeat(np.geomspace(1e5, 1e7, 8), 5), np.tile(np.geomspace(500, 5e4, 5), 8)
    true = 2 + 150 * N**-0.35 + 20 * M**-0.3
    inside = {"alpha": 0, "beta": 0, "E": 0}
    for s in range(40):
        table = {"N": N, "M": M, "loss": true * np.exp(np.random.default_rng(s).normal(0, 0.01, 40))}
        law = fit("joint", table, loss="ls_log", bootstrap=120, bootstrap_kind="wild", level=0.9, seed=s)
        for name, value in (("alpha", 0.35), ("beta", 0.3), ("E", 2.0)):
            low, high = law.intervals[name]
            inside[name] += low <= value <= high
    assert all(30 <= n <= 40 for n in inside.values()), inside
