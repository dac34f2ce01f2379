import numpy as np
import pytest

from rag_exp.core.errors import LawError
from rag_exp.laws import compare, fit
from rag_exp.laws.holdout import axis_of, folds, for_axes, nearest_error

COLUMNS = {"N": [1, 1, 2, 2, 4, 4], "D": [10, 30, 10, 30, 10, 90], "loss": [6, 5, 5, 4, 4, 3]}


def test_the_largest_of_an_axis_of_parameters_or_of_compute():
    assert [m.tolist() for m in folds("largest_N", COLUMNS, "loss")] == [[False] * 4 + [True] * 2]
    np.testing.assert_array_equal(folds("largest_params", COLUMNS, "loss"), folds("largest_N", COLUMNS, "loss"))
    assert [m.tolist() for m in folds("largest_compute", COLUMNS, "loss")] == [[False] * 5 + [True]]


def test_each_level_in_turn_in_order():
    masks = folds("leave_one_level_out_D", COLUMNS, "loss")
    held = [np.array(COLUMNS["D"])[m].tolist() for m in masks]
    assert held == [[10, 10, 10], [30, 30], [90]]


def test_a_row_without_the_axis_is_in_no_fold():
    assert np.sum(folds("leave_one_level_out_N", {"N": [1, None, 2], "loss": [3, 2, 1]}, "loss"), 0).tolist() == [
        1,
        0,
        1,
    ]
    columns = {**COLUMNS, "D": [10, 30, None, 30, 10, None]}  # of the compute that is known the largest is row 3's
    assert [m.tolist() for m in folds("largest_compute", columns, "loss")] == [[False] * 3 + [True] + [False] * 2]


@pytest.mark.parametrize(
    ("name", "suggested"),
    [("random", "Known: largest_N"), ("leave_one_level_out", "leave_one_level_out_N"), ("largest_loss", "largest_D")],
)
def test_what_is_no_holdout_is_refused_with_those_that_are(name, suggested):
    with pytest.raises(LawError, match=suggested):
        folds(name, COLUMNS, "loss")


def test_compute_needs_parameters_and_tokens():
    with pytest.raises(LawError, match="not known here"):
        folds("largest_compute", {"N": [1, 2], "loss": [2, 1]}, "loss")


def test_the_axis_of_a_holdout():
    names = ("largest_M", "largest_params", "largest_compute", "leave_one_level_out_U_N")
    assert [axis_of(n) for n in names] == ["M", "N", None, "U_N"]


def test_a_law_goes_by_the_holdouts_of_its_own_axes_else_by_its_largest_levels():
    asked = ("leave_one_level_out_N", "largest_compute")
    assert for_axes(asked, ("N", "M")) == list(asked) == for_axes(asked, ("N",))
    assert for_axes(asked, ("M",)) == ["largest_M"]
    assert for_axes((), ("N", "D", "M")) == ["largest_N", "largest_D", "largest_M"]
    assert for_axes(("largest_params", "largest_M"), ("N",)) == ["largest_params"]


def test_errors_of_all_levels_are_those_of_fits_without_each():
    N, M = np.repeat(np.geomspace(2e5, 4e6, 5), 6), np.tile(np.geomspace(500, 32_000, 6), 5)
    noise = np.exp(np.random.default_rng(2).normal(0, 0.01, 30))
    loss = (2 + 150 * N**-0.35 + 20 * M**-0.3) * noise
    data = {"N": N, "M": M, "loss": loss}
    row = compare(["joint"], data, "leave_one_level_out_N", loss="ls_log").iloc[0]
    errors = []
    for level in np.unique(N):
        out = level == N
        law = fit("joint", {k: v[~out] for k, v in data.items()}, loss="ls_log")
        errors.append(np.log(law.predict({"N": N[out], "M": M[out]}) / loss[out]))
    assert row["leave_one_level_out_N.rows"] == 30
    assert row["leave_one_level_out_N.rmse"] == pytest.approx(np.sqrt(np.square(errors).mean()), rel=1e-9)
    assert row["heldout"] == row["leave_one_level_out_N.rmse"]


def test_the_nearest_level_repeats_over_all_folds():
    columns = {"N": [1, 10, 100], "loss": [4.0, 2.0, 1.0]}
    masks = folds("leave_one_level_out_N", columns, "loss")
    # 1 repeats 10 (a factor 2), 10 repeats the first of its equally near neighbours, 100 repeats 10.
    expected = np.sqrt(np.mean(np.log([2 / 4, 4 / 2, 2 / 1]) ** 2))
    assert nearest_error(columns, masks, "loss", ["N"], "leave_one_level_out_N") == pytest.approx(expected)


@pytest.mark.filterwarnings("error")
def test_rows_that_have_no_logarithm_are_near_nothing():
    columns = {"N": [-1, 1, 10, 100, None], "loss": [4.0, 0.0, 2.0, 1.0, 1.0]}
    masks = folds("largest_N", columns, "loss")
    assert nearest_error(columns, masks, "loss", ["N"], "largest_N") == pytest.approx(np.log(2))
