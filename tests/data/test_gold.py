import pytest

from rag_exp.data.gold import gold_recall


@pytest.mark.parametrize(
    ("rows", "gold", "gold_of", "hops", "recall"),
    [
        ([4, 2], [2], [0], 1, 1.0),
        ([4, 2], [3], [0], 1, 0.0),
        ([4, 2], [2, 9], [0, 1], 1, 1.0),  # either answers a one-hop question
        ([4, 2], [2, 9], [0, 1], 2, 0.5),  # two hops need both
        ([4, 2, 3], [2, 3, 9], [0, 0, 1], 2, 0.5),  # two parts of one passage are one
        ([9, 2], [2, 9], [0, 1], 3, 1.0),  # no more can be needed than there are
    ],
)
def test_gold_recall(rows, gold, gold_of, hops, recall):
    assert gold_recall(rows, gold, gold_of, hops) == recall
