"""What indexes cost, drawn."""

import math

import pandas as pd

from rag_exp.analysis.costs import build_seconds, shapes
from rag_exp.analysis.theme import KINDS


def test_an_index_in_shards_took_what_its_parts_and_its_quantizer_took():
    rows = pd.DataFrame(
        {
            "seconds.index": [5.0, 0.5, None],
            "seconds.index_shards/0": [None, 1.0, None],
            "seconds.index_shards/1": [None, 2.0, None],
            "seconds.quantizer": [None, 10.0, None],
            "seconds.topk": [9.0, 9.0, 9.0],
        }
    )
    whole, cut, unknown = build_seconds(rows)
    assert (whole, cut) == (5.0, 13.5)
    assert math.isnan(unknown)
    assert build_seconds(rows[["seconds.topk"]]).isna().all()


def test_no_two_of_fourteen_index_types_look_alike():
    colors = [KINDS[i % len(KINDS)] for i in range(14)]
    looks = list(zip(colors, shapes(colors), strict=True))
    assert len(set(looks)) == 14
    assert all(shape == "circle" for _, shape in looks[: len(KINDS)])
