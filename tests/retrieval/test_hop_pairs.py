from __future__ import annotations

from rag_exp.retrieval.hop2 import SecondHop
from rag_exp.retrieval.hop_pairs import hop_pairs


def test_every_hop_is_asked_for_its_own_passage(toy):
    made = hop_pairs(
        ["one hop", "none", "two hops", "split"],
        [[3], [], [5, 9], [1, 2, 7, 8, 4]],
        [[0], [], [0, 1], [0, 0, 1, 1, 2]],
        toy,
        SecondHop(query="{question}|{text}"),
    )
    assert made.queries == ["one hop", "none", "two hops", "split", f"two hops|{toy.pairs[5][1]}",
                            f"split|{toy.pairs[1][1]}"]  # fmt: skip
    assert made.gold == [[3], [], [5], [1, 2], [9], [7, 8]]
    assert made.asked == [0, 1, 2, 3, 2, 3]


def test_no_question_has_two_hops(toy):
    assert hop_pairs(["a"], [[1]], [[0]], toy, SecondHop()).queries == ["a"]
