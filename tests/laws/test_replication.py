import numpy as np
import pytest

from rag_exp.laws import fit, replication


@pytest.fixture
def refitted(monkeypatch):
    """The losses of every replicate, as they are refitted."""
    seen = []
    honest = replication.refit

    def refit(problem, objective, basins, draws):
        seen.append(objective.y_Rn)
        return honest(problem, objective, basins, draws)

    monkeypatch.setattr(replication, "refit", refit)
    return seen


@pytest.mark.parametrize("loss", ["ls_log", "ls_raw"])
def test_each_row_is_shaken_by_its_own_residual(refitted, loss):
    """Twelve runs, every other one far off: their replicates vary as much as they are off."""
    N = np.geomspace(1e5, 1e9, 12)
    off = 0.001 * np.array([12, -1, -12, 1, 12, -1, -12, 1, 12, -1, -12, 1])
    law = fit("power", {"N": N, "loss": 20 * N**-0.1 * np.exp(off)}, loss=loss, bootstrap=300, bootstrap_kind="wild")
    (y_Rn,) = refitted
    spread = np.std(np.log(y_Rn / law.predict({"N": N})) if loss == "ls_log" else y_Rn, axis=0)
    assert np.corrcoef(spread, np.abs(law.residuals()))[0, 1] > 0.9


def test_given_losses_are_shaken_about_themselves(refitted):
    N = np.geomspace(1e5, 1e9, 12)
    loss = 20 * N**-0.1 * np.exp(np.random.default_rng(0).normal(0, 0.01, 12))
    given = np.stack([loss * 2, loss * 3]).repeat(200, axis=0)
    fit("power", {"N": N, "loss": loss}, loss="ls_log", replicates=given, bootstrap_kind="wild")
    shifts = np.log(refitted[0] / given)
    np.testing.assert_allclose(shifts[:200].mean(0), shifts[200:].mean(0), atol=0.01)
    assert np.abs(shifts.mean(0)).max() < 0.01
    assert shifts.std(0).min() > 0


def test_a_resample_that_was_given_counts_the_rows_it_names():
    """A replicate without the one wild run is the fit without it."""
    N = np.geomspace(1e5, 1e9, 9)
    loss = 20 * N**-0.1
    loss[5] *= 2
    counts = np.ones((40, 9))
    counts[1, 5] = 0
    draws = fit("power", {"N": N, "loss": loss}, loss="ls_log", resamples=counts).draws
    assert draws["alpha"][1] == pytest.approx(0.1, rel=1e-6)
    assert abs(draws["alpha"][0] - 0.1) > 1e-3
