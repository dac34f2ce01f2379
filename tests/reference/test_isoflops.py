"""Porian et al. 2024: what moves the exponent of the optimal size from Kaplan's to Chinchilla's."""

import pytest

from rag_exp.laws import isoflop

STEPS = {
    "Reproducing Kaplan": ("base", "long", "kaplan", "kaplan", "train"),
    "Counting last layer FLOPs": ("base", "long", "kaplan", "standard", "val"),
    "Correcting warmup": ("base", "short", "kaplan", "standard", "val"),
    "Cosine decay": ("base", "short", "chinchilla", "standard", "val"),
    "Optimizer tuning (no decay)": ("tuned", "short", "const", "standard", "val"),
}


@pytest.mark.parametrize("dataset", ["rw", "owt2"])
@pytest.mark.parametrize("step", STEPS)
def test_the_exponent_of_every_step(scaling, dataset, step):
    wanted = scaling("porian-discrepancies/expected.json")
    table = scaling("porian-discrepancies/isoflop_points.csv")
    rows = table[table["dataset"] == dataset]
    for column, value in zip(("hparams", "warmup", "decay", "param_count", "split"), STEPS[step], strict=True):
        rows = rows[rows[column] == value]
    exponent = isoflop(rows, compute="flops").attrs["exponent"]
    ours = wanted["our_deterministic_akima_then_OLS"][dataset][step]
    assert exponent == pytest.approx(ours, abs=wanted["tol_vs_ours"])
    published = wanted["published_a_bs_median_weighted"][dataset][step]
    assert exponent == pytest.approx(published, abs=wanted["tol_vs_published"])
