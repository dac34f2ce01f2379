from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rag_exp.analysis.curves import Curve, curves_chart, overlapping
from rag_exp.laws import fit

N = np.geomspace(1e5, 1e7, 6)


def curves(spread):
    """Three curves a nat apart, whose bands reach so many nats to either side."""
    made = []
    for i, floor in enumerate((2.0, 3.0, 4.0)):
        law = fit("saturating(N)", {"N": N, "loss": floor + 100 * N**-0.5}, loss="ls_log")
        draws = np.tile([law.params[p] for p in law.form.parameters], (101, 1))
        draws[:, law.form.parameters.index("E")] += np.linspace(-spread, spread, 101)
        points = pd.DataFrame({"x": N, "y": floor + 100 * N**-0.5})
        made.append(Curve(f"c{i}", f"#00000{i}", points, replace(law, draws_Rp=draws)))
    return made


@pytest.mark.parametrize(("spread", "hidden"), [(0.2, False), (0.9, False), (1.5, True)])
def test_bands_overlap_where_the_next_curve_lies_in_them(spread, hidden):
    assert overlapping(curves(spread), "N") is hidden


def test_bands_that_overlap_have_a_panel_each_and_none_in_the_common_chart():
    spec = curves_chart(curves(1.5), "N", "nll").to_dict()
    together, apart = spec["vconcat"]
    assert "area" not in {layer["mark"]["type"] for layer in together["layer"]}
    assert [panel["title"]["text"] for panel in apart["concat"]] == ["c0", "c1", "c2"]
    for panel in apart["concat"]:
        (band,) = (layer for layer in panel["layer"] if layer["mark"]["type"] == "area")
        assert {row["curve"] for row in spec["datasets"][band["data"]["name"]]} == {panel["title"]["text"]}
        others = spec["datasets"][panel["layer"][0]["data"]["name"]]
        assert {row["of"] for row in others} == {"c0", "c1", "c2"} - {panel["title"]["text"]}


def test_bands_apart_stay_in_the_common_chart():
    spec = curves_chart(curves(0.2), "N", "nll").to_dict()
    assert "area" in {layer["mark"]["type"] for layer in spec["layer"]}


def test_curves_without_replicates_do_not_overlap():
    assert not overlapping([replace(c, law=replace(c.law, draws_Rp=None)) for c in curves(1.5)], "N")
    assert not overlapping(curves(1.5)[:1], "N")
