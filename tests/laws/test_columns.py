import numpy as np
import pandas as pd
import pytest

from rag_exp.core.errors import LawError
from rag_exp.laws import best, compare, fit
from rag_exp.laws.columns import under_axes

N, D = np.repeat(np.geomspace(1e6, 1e9, 5), 5), np.tile(np.geomspace(1e8, 1e10, 5), 5)
LOSS = 1.7 + 400 * N**-0.34 + 400 * D**-0.28
AXES = {"N": N, "D": D, "loss": LOSS}
OWN = {"params": N, "tokens": D, "final": LOSS, "run": np.arange(25)}
NAMES = {"N": "params", "D": "tokens"}


@pytest.mark.parametrize("data", [OWN, pd.DataFrame(OWN)], ids=["mapping", "frame"])
def test_own_names_give_the_fit_of_the_axes(data):
    assert fit("chinchilla", data, y="final", columns=NAMES).params == fit("chinchilla", AXES).params
    assert compare("chinchilla", data, y="final", columns=NAMES).equals(compare("chinchilla", AXES))
    law = best(["chinchilla", "chinchilla_tied"], data, y="final", columns=NAMES)
    assert law.params == best(["chinchilla", "chinchilla_tied"], AXES).params


def test_a_column_named_wins_over_one_of_the_axis_s_own_name():
    law = fit("chinchilla", {**OWN, "N": N[::-1]}, y="final", columns=NAMES)
    assert law.rows["axes"]["N"] == N.tolist()


def test_what_is_said_of_a_column_is_said_of_its_axis_and_nothing_else_is():
    silent = fit("chinchilla", OWN, y="final", columns=NAMES)
    assert silent.definitions == {"N": "column params, not said", "D": "column tokens, not said"}
    frame = pd.DataFrame(OWN).assign(tokens_definition="all tokens")
    frame.attrs["definitions"] = {"params": "all parameters", "gone": "nothing"}
    assert fit("chinchilla", frame, y="final", columns=NAMES).definitions == {"N": "all parameters", "D": "all tokens"}
    assert under_axes(frame, None) is frame


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"n": "params"}, r"columns: 'n' is no axis\. Axes: N, D"),
        ({"loss": "final"}, "y= names the column that is fitted"),
        ({"N": "parms", "D": "tokens"}, r"columns\['N'\]: the data have no column 'parms'\. Did you mean 'params'"),
        ({"N": "params"}, r"needs the column 'D'.*Where it has another name, say so: columns=\{'D': \.\.\.\}"),
    ],
)
def test_columns_that_mean_nothing_are_refused(columns, message):
    with pytest.raises(LawError, match=message):
        fit("chinchilla", OWN, y="final", columns=columns)


def test_records_are_no_table():
    records = pd.DataFrame(AXES).to_dict("records")
    for call in (fit, compare, best):
        with pytest.raises(LawError, match=r"not a list \(of records: pandas.DataFrame"):
            call("chinchilla", records)
