"""Ten forms on public data sets: in sample and on the lowest 80% of compute, never worse than 25 random starts."""

import numpy as np
import pytest

from rag_exp.laws import fit

FORMS = {
    "power N only +E": ("saturating(N)", {}),
    "C only +E": ("saturating(C)", {}),
    "multiplicative+E": ("multiplicative", {}),
    "kaplan (no E)": ("kaplan_no_floor", {}),
    "kaplan+E": ("kaplan", {}),
    "chinchilla": ("chinchilla", {}),
    "chinchilla tied": ("chinchilla_tied", {}),
    "chinchilla E=0": ("chinchilla", {"E": 0.0}),
    "skaling": ("skaling", {}),
    "chinchilla+cross": ("chinchilla_cross", {}),
}
GADRE = ("c4_original", "rpj", "rw_original")
MARIN = tuple(f"marin_202603__{d}__llama_2" for d in ("nemotron", "dclm", "comma"))
ISOFLOPS = ("llama_3__exp_loss", "llama_3__raw_loss", *MARIN)
SETS = ("epoch240", *(f"gadre_{d}" for d in GADRE), "misfitting", *ISOFLOPS, "porian_rw_tuned")


def rows_of(scaling, chinchilla, name):
    if name == "epoch240":
        return chinchilla
    if name.startswith("gadre_"):
        t = scaling("gadre-overtraining/testbed104.csv")
        t = t[t["train_dataset"] == name.removeprefix("gadre_")]
        return {"N": t["N"], "D": t["D"], "C": t["flops_6ND"], "loss": t["loss_c4_val"]}
    if name == "misfitting":
        t = scaling("misfitting/scaling_results_last_ckpt_only.csv")
        return {"N": t["N"], "D": t["D"], "C": t["C"], "loss": t["loss"]}
    if name == "porian_rw_tuned":
        t = scaling("porian-discrepancies/isoflop_points.csv")
        t = t[(t["dataset"] == "rw") & (t["hparams"] == "tuned") & (t["param_count"] == "standard")]
        return {"N": t["N"], "D": t["D"], "C": t["flops"], "loss": t["loss"]}
    t = scaling("open-athena-isoflops/isoflops.csv")
    t = t[(t["experiment"] == name) & ~t["outlier"]]
    return {"N": t["params"], "D": t["tokens"], "C": t["budget"], "loss": t["loss"]}


@pytest.mark.parametrize("name", SETS)
def test_never_worse(scaling, chinchilla, name):
    table = scaling("form-benchmark/forms_in_sample_and_heldout.csv")
    table = table[table["data"] == name].set_index("form")
    data = {k: np.asarray(v, dtype=float) for k, v in rows_of(scaling, chinchilla, name).items()}
    assert set(table["n"]) == {len(data["loss"])}
    compute = 6 * data["N"] * data["D"] if name in ISOFLOPS else data["C"]
    low = {k: v[compute <= np.quantile(compute, 0.8)] for k, v in data.items()}
    for label, (form, fixed) in FORMS.items():
        for rows, column in ((data, "rmse_in"), (low, "rmse_train80")):
            law = fit(form, rows, loss="ls_log", fixed=fixed)
            rmse = np.sqrt(2 * law.objective / len(rows["loss"]))
            assert rmse <= table.loc[label, column] * (1 + 1e-4), (label, column)
