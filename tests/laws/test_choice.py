import os
from pathlib import Path

import numpy as np
import pytest

from rag_exp.core.errors import LawError
from rag_exp.laws import acceptable, choose, compare

JOINT = ["joint", "joint_gain", "joint_log_gain", "joint_rising"]
N, M = np.repeat(np.geomspace(2e5, 4e6, 5), 6), np.tile(np.geomspace(500, 32_000, 6), 5)
TRUE = {
    "joint": 2 + 150 * N**-0.35 + 20 * M**-0.3,
    "joint_gain": 14 + 150 * N**-0.35 - 3e-4 * M,
    "joint_log_gain": 9 + 150 * N**-0.35 - 0.5 * np.log(M),
    "joint_rising": 2 + 150 * N**-0.35 + 0.004 * M**0.6,
}


@pytest.mark.parametrize("name", JOINT)
def test_the_form_that_made_the_data_is_chosen(name):
    noise = np.exp(np.random.default_rng(1).normal(0, 0.002, 30))
    table = compare(JOINT, {"N": N, "M": M, "loss": TRUE[name] * noise}, ["largest_N", "largest_M"], delta=0.02)
    assert choose(table) == name
    assert table["form"].iloc[0] == name
    assert list(table["heldout"]) == sorted(table["heldout"])
    assert table["largest_N.rows"].tolist() == [6] * 4
    assert table["largest_M.rows"].tolist() == [5] * 4
    assert table["heldout"].iloc[0] < min(table.attrs["nearest"].values())


def test_heldout_error_is_that_of_a_fit_without_the_largest_level():
    from rag_exp.laws import fit

    loss = TRUE["joint"] * np.exp(np.random.default_rng(2).normal(0, 0.01, 30))
    table = compare(["joint"], {"N": N, "M": M, "loss": loss}, "largest_N", loss="ls_log")
    keep = N.max() > N
    law = fit("joint", {"N": N[keep], "M": M[keep], "loss": loss[keep]}, loss="ls_log")
    error = np.log(law.predict({"N": N[~keep], "M": M[~keep]}) / loss[~keep])
    assert table["largest_N.rmse"].iloc[0] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-9)
    assert table["largest_N.bias"].iloc[0] == pytest.approx(error.mean(), rel=1e-9)


def test_repeating_the_nearest_level_is_measured_beside_the_forms():
    loss = TRUE["joint"]
    table = compare(["joint"], {"N": N, "M": M, "loss": loss}, "largest_N")
    grid = loss.reshape(5, 6)
    expected = np.sqrt((np.log(grid[3] / grid[4]) ** 2).mean())
    assert table.attrs["nearest"]["largest_N"] == pytest.approx(expected, rel=1e-9)


def test_a_form_that_cannot_be_fitted_stays_in_the_table_with_its_reason():
    few = np.isin(M, np.unique(M)[:3])  # three corpus sizes: holding one out leaves two
    table = compare(["joint", "saturating(N)"], {"N": N[few], "M": M[few], "loss": TRUE["joint"][few]}, "largest_M")
    row = table[table["form"] == "joint"].iloc[0]
    assert row["heldout"] is None
    assert "at least 3 levels of M" in row["reason"]
    assert row["rmse"] is not None
    assert choose(table) == "saturating(N)"
    with pytest.raises(LawError, match="None of the forms"):
        choose(compare(["joint"], {"N": [1, 1], "M": [1, 2], "loss": [1, 2]}, "largest_M"))


def test_unknown_holdouts_are_refused():
    with pytest.raises(LawError, match="Known: largest_N, largest_M"):
        compare(["joint"], {"N": N, "M": M, "loss": TRUE["joint"]}, "random")


def test_holdouts_are_the_largest_compute_or_the_largest_of_each_axis_unless_named():
    data = {"N": N, "M": M, "loss": TRUE["joint"]}
    assert list(compare("joint", data).attrs["nearest"]) == ["largest_N", "largest_M"]
    tokens = {"N": N, "D": M * 1e3, "K": [1.0] * 30, "loss": TRUE["joint"]}
    assert list(compare("chinchilla", tokens).attrs["nearest"]) == ["largest_compute"]
    every = compare("chinchilla", tokens, "leave_one_level_out")
    assert list(every.attrs["nearest"]) == ["leave_one_level_out_N", "leave_one_level_out_D"]


def test_what_compare_takes_is_what_fit_takes():
    loss = TRUE["joint"] * np.exp(np.random.default_rng(2).normal(0, 0.01, 30))
    weights = np.where(N.min() == N, 0.5, 1.0)
    data = {"N": N, "M": M, "loss": loss, "w": weights, "run": N}
    named = compare("joint", data, weights="w", cluster="run", bootstrap=40, loss="ls_log")
    given = compare(["joint"], data, weights=weights, cluster=N.tolist(), bootstrap=40, loss="ls_log")
    assert named.equals(given)
    assert named["spread"].iloc[0] != compare("joint", data, weights="w", bootstrap=40, loss="ls_log")["spread"].iloc[0]


def test_a_known_floor_takes_part_in_choosing():
    from rag_exp.laws import fit

    loss = TRUE["joint"] * np.exp(np.random.default_rng(2).normal(0, 0.01, 30))
    data = {"N": N, "M": M, "loss": loss}
    table = compare(["joint", "power"], data, "largest_N", fixed={"E": 2.0}, loss="ls_log").set_index("form")
    keep = N.max() > N
    law = fit("joint", {k: v[keep] for k, v in data.items()}, fixed={"E": 2.0}, loss="ls_log")
    error = np.log(law.predict({"N": N[~keep], "M": M[~keep]}) / loss[~keep])
    assert table.loc["joint", "heldout"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-9)
    assert table["parameters"].to_dict() == {"joint": 4, "power(N)": 2}
    with pytest.raises(LawError, match=r"No form has a parameter 'EE' to fix\. Did you mean 'E'"):
        compare("joint", data, fixed={"EE": 2.0})


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"y": "los"}, "y: the data have no column 'los'. Did you mean 'loss'"),
        ({}, {"weights": "w"}, "weights: the data have no column 'w'"),
        ({}, {"holdout": []}, "No hold-out is named"),
        ({"N": ["s0"] * 30}, {}, "'N' holds something that is not a number"),
        ({"M": [1.0]}, {}, "differ in length: N has 30, M has 1, loss has 30"),
        ({"N": [], "M": [], "loss": []}, {}, "no rows"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, options, message):
    with pytest.raises(LawError, match=message):
        compare("joint", {"N": N, "M": M, "loss": TRUE["joint"], **change}, **options)
    with pytest.raises(LawError, match="none of the axes N, M"):
        compare("joint", {"params": N, "loss": TRUE["joint"]})


def test_compute_holds_out_the_most_expensive_fifth():
    D = M * 1e3
    loss = 1.7 + 400 * N**-0.34 + 400 * D**-0.28
    table = compare(["chinchilla"], {"N": N, "D": D, "loss": loss}, "largest_compute")
    assert table["largest_compute.rows"].iloc[0] == 6
    assert table["largest_compute.rmse"].iloc[0] < 1e-6


def test_aicc_matches_the_published_benchmark():
    root = Path(os.environ.get("RAG_EXP_DATA", Path(__file__).parents[3] / "shared" / "data")) / "scaling-laws"
    if not root.exists():
        pytest.skip(f"{root} is absent")
    import pandas as pd

    table = pd.read_csv(root / "epoch-chinchilla" / "svg_extracted_data.csv")
    table = table[table["loss"] < table["loss"].nlargest(5).iloc[-1]]
    data = {"N": table["Model Size"], "loss": table["loss"]}
    row = compare(["saturating(N)"], data, "largest_N").iloc[0]
    known = pd.read_csv(root / "form-benchmark" / "forms_in_sample_and_heldout.csv")
    known = known[(known["data"] == "epoch240") & (known["form"] == "power N only +E")].iloc[0]
    assert row["aicc"] == pytest.approx(known["aicc"], rel=1e-6)
    assert row["rmse"] == pytest.approx(known["rmse_in"], rel=1e-4)


def test_replicates_say_how_far_the_prediction_of_held_out_rows_is_known():
    from rag_exp.laws import fit

    loss = TRUE["joint"] * np.exp(np.random.default_rng(2).normal(0, 0.01, 30))
    table = compare(["joint"], {"N": N, "M": M, "loss": loss}, "largest_N", loss="ls_log", bootstrap=60)
    keep = N.max() > N
    law = fit("joint", {"N": N[keep], "M": M[keep], "loss": loss[keep]}, loss="ls_log", bootstrap=60)
    draws = np.log(law.predict_draws({"N": N[~keep], "M": M[~keep]}))
    assert table["largest_N.spread"].iloc[0] == pytest.approx(np.sqrt(draws.var(0).mean()), rel=1e-9)
    assert table["spread"].iloc[0] == table["largest_N.spread"].iloc[0]


def test_acceptable_are_the_forms_within_a_factor_of_the_best_held_out_error():
    loss = TRUE["joint"] * np.exp(np.random.default_rng(1).normal(0, 0.002, 30))
    table = compare(JOINT, {"N": N, "M": M, "loss": loss}, ["largest_N", "largest_M"], delta=0.02)
    errors = dict(zip(table["form"], table["heldout"], strict=True))
    best = min(errors.values())
    for factor in (1.0, 2.0, 20.0, 1e9):
        found = acceptable(table, factor)
        assert found[0] == choose(table)
        assert set(found) == {f for f, e in errors.items() if e <= factor * best}
    assert acceptable(table, 1.0) == ["joint"]
    assert len(acceptable(table, 1e9)) == 4


def test_without_held_out_errors_aicc_says_which_forms_are_acceptable():
    few = np.isin(M, np.unique(M)[:3])
    loss = TRUE["joint"] * np.exp(np.random.default_rng(1).normal(0, 0.002, 30))
    table = compare(["joint", "joint_gain", "joint_rising"], {"N": N[few], "M": M[few], "loss": loss[few]}, "largest_M")
    assert all(e is None for e in table["heldout"])
    aicc = dict(zip(table["form"], table["aicc"], strict=True))
    found = acceptable(table)
    assert set(found) == {f for f, a in aicc.items() if a <= min(aicc.values()) + 2}
    assert len(found) < 3
