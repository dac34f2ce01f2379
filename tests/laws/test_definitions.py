import numpy as np
import pandas as pd
import pytest

from rag_exp.core.errors import LawError
from rag_exp.laws import LawFit, compare, fit
from rag_exp.laws.definitions import definitions_of

BARE, WHOLE = "generator parameters, embeddings left out", "all parameters"
N = np.geomspace(1e5, 1e8, 8)
DATA = {"N": N, "loss": 2 + 150 * N**-0.35}


def test_rows_that_count_parameters_differently_are_refused_by_row():
    said = [BARE] * 6 + [WHOLE] * 2
    with pytest.raises(LawError, match=r"mean the same by N: 'gen.*' in rows 0, .*'all parameters' in rows 6, 7"):
        fit("saturating", {**DATA, "N_definition": said})
    with pytest.raises(LawError, match="do not mean the same by N"):
        compare(["saturating"], {**DATA, "N_definition": said}, "largest_N")


def test_rows_that_say_nothing_do_not_go_with_rows_that_do():
    table = pd.concat([pd.DataFrame({**DATA, "N_definition": BARE}), pd.DataFrame(DATA)], ignore_index=True)
    with pytest.raises(LawError, match=r"'not said' in rows 8, 9, 10, 11, 12, \.\.\."):
        fit("saturating", table)


def test_a_row_left_out_is_not_asked():
    data = {"N": N, "loss": [*DATA["loss"][:7], None], "N_definition": [BARE] * 7 + [WHOLE]}
    assert fit("saturating", data, missing="leave_out").definitions["N"] == BARE


def test_definitions_travel_to_the_card_and_to_predictions():
    table = pd.DataFrame(DATA)
    table.attrs["definitions"] = {"N": WHOLE}
    law = LawFit.from_json(fit("saturating", table).to_json())
    assert law.definitions["N"] == WHOLE
    assert law.predict({"N": [1e9], "N_definition": [WHOLE]}) == law.predict({"N": [1e9]})
    with pytest.raises(LawError, match=r"A prediction of sat.*: N is 'gen.*' here, but 'all parameters' in the law"):
        law.predict({"N": [1e9], "N_definition": [BARE]})


def test_data_that_say_nothing_mean_what_records_do():
    from rag_exp.analysis.tables import N_MEANS
    from rag_exp.laws.forms import AXES

    assert fit("saturating", DATA).definitions["N"] == AXES["N"] == N_MEANS
    assert definitions_of(DATA, ["N"]) == {}
