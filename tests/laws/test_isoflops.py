import numpy as np
import pytest

from rag_exp.core.errors import LawError
from rag_exp.laws import isoflop


def curves(exponent=0.5, sizes=9, shift=0.0):
    C = np.repeat(np.geomspace(1e18, 1e21, 5), sizes)
    best = 2e-1 * C**exponent
    N = best * np.exp(np.tile(np.linspace(-1.5, 1.5, sizes), 5) + shift)
    return {"C": C, "N": N, "loss": 2 + 1e3 * C**-0.15 * np.exp(0.1 * np.log(N / best) ** 2)}


def test_the_optimal_size_grows_with_the_exponent_that_made_it():
    table = isoflop(curves(0.5))
    assert table.attrs["exponent"] == pytest.approx(0.5, abs=1e-3)
    np.testing.assert_allclose(table["N"].astype(float), 0.2 * table["C"] ** 0.5, rtol=0.02)


def test_a_least_loss_at_the_end_of_the_sizes_is_no_optimum():
    data = curves()
    edge = (data["C"] == data["C"].max()) & (data["N"] < 0.2 * data["C"] ** 0.5 * 0.9)
    keep = (data["C"] < data["C"].max()) | edge
    table = isoflop({k: v[keep] for k, v in data.items()})
    assert table["N"].iloc[-1] is None
    assert "end of the sizes" in table["reason"].iloc[-1]
    with pytest.raises(LawError, match="0 of 5 budgets"):
        isoflop(curves(shift=4.0))
    with pytest.raises(LawError, match="positive"):
        isoflop({"C": [1.0], "N": [0.0], "loss": [1.0]})
