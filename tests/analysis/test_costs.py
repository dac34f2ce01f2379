"""What indexes cost, drawn."""

from rag_exp.analysis.costs import shapes
from rag_exp.analysis.theme import KINDS


def test_no_two_of_fourteen_index_types_look_alike():
    colors = [KINDS[i % len(KINDS)] for i in range(14)]
    looks = list(zip(colors, shapes(colors), strict=True))
    assert len(set(looks)) == 14
    assert all(shape == "circle" for _, shape in looks[: len(KINDS)])
