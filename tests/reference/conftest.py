"""Published scaling-law data and the values a fitter must reproduce; absent, these tests are skipped."""

import json
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "scaling-laws"


@pytest.fixture(scope="session")
def scaling():
    """``scaling("gadre-overtraining/testbed104.csv")``: a table, or what an expected.json holds."""
    if not FOLDER.is_dir():
        pytest.skip(f"the reference data are not at {FOLDER}")

    def read(name):
        if name.endswith(".json"):
            return json.loads((FOLDER / name).read_text())
        import pandas as pd

        return pd.read_csv(FOLDER / name)

    return read


@pytest.fixture(scope="session")
def hoffmann(scaling):
    """The 245 points of Hoffmann et al. 2022, Figure 4, as Besiroglu et al. 2024 digitised them."""
    table = scaling("epoch-chinchilla/svg_extracted_data.csv")
    N, C = table["Model Size"].to_numpy(), table["Training FLOP"].to_numpy()
    return {"N": N, "D": C / (6 * N), "loss": table["loss"].to_numpy(), "C": C}


@pytest.fixture(scope="session")
def chinchilla(hoffmann):
    """Without the five largest losses."""
    keep = hoffmann["loss"] < np.sort(hoffmann["loss"])[-5]
    return {k: v[keep] for k, v in hoffmann.items()}


@pytest.fixture(scope="session")
def expected(scaling):
    return scaling("epoch-chinchilla/expected.json")
