"""The optimal allocation of Gopher's compute by Chinchilla's data, as computed elsewhere."""

import numpy as np
import pytest

from rag_exp.laws import Costs, fit, frontier

GOPHER = 5.76e23


def test_chinchillas_allocation_and_its_exponent(chinchilla, expected):
    law = fit("chinchilla", chinchilla, bootstrap=500, level=0.8)
    table = frontier(law, Costs(), [GOPHER / 100, GOPHER], reach=2)
    wanted = expected["allocation_C6ND_at_5.76e23"]["huber_opt"]
    row = table.iloc[1]
    assert row["N"] == pytest.approx(wanted["N"], rel=1e-3)
    assert row["D"] == pytest.approx(wanted["D"], rel=1e-3)
    assert row["D"] / row["N"] == pytest.approx(wanted["D_over_N"], rel=1e-3)
    assert row["N_low"] < row["N"] < row["N_high"]
    assert row["beyond"]["N"] == pytest.approx(np.log10(wanted["N"] / chinchilla["N"].max()), abs=1e-3)
    a, low, high = table.attrs["exponents"]["N"]
    assert a == pytest.approx(law.params["beta"] / (law.params["alpha"] + law.params["beta"]), rel=1e-6)
    spread = expected["bootstrap_seed42_numpy_legacy"]["a_beta_over_sum"]["p10_p90"]
    assert (low, high) == pytest.approx(tuple(spread), abs=0.004)
