"""Results of a search as files."""

import json

import numpy as np
import pytest

from rag_exp.core.errors import DataError
from rag_exp.retrieval.results import SearchResult
from rag_exp.retrieval.run_files import read_run, result_of_run, write_run


class Passages:
    """Passage ``p3`` is row 3; ``whole`` was split into rows 7 and 8."""

    def rows_of(self, ids):
        known = {f"p{row}": [row] for row in range(7)} | {"whole": [7, 8]}
        return [known.get(i, []) for i in ids]

    def ids(self, rows):
        return [f"p{row}" for row in rows]


def write(folder, text, name="run.trec"):
    (folder / name).write_text(text)
    return [str(folder / name)]


def test_a_trec_run_and_json_lines_say_the_same(tmp_path):
    trec = write(tmp_path, "q1 Q0 p2 1 3.5 tag\nq1 Q0 p0 2 1 tag\n\nq2 Q0 p1 1 -1e-3 tag\n")
    lines = [
        {"id": "q1", "passages": [{"id": "p2", "score": 3.5}, {"id": "p0", "score": 1}]},
        {"id": "q2", "passages": [{"id": "p1", "score": -1e-3}]},
    ]
    jsonl = write(tmp_path, "\n".join(map(json.dumps, lines)), "run.jsonl")
    assert read_run(trec) == read_run(jsonl) == {"q1": {"p2": 3.5, "p0": 1.0}, "q2": {"p1": -1e-3}}


def test_the_best_k_within_the_corpus_size_in_the_order_of_the_questions():
    run = {"a": {"p1": 1.0, "p5": 9.0, "p3": 2.0}, "b": {"whole": 4.0, "p2": 4.0}}
    found = result_of_run(run, ["b", "a"], Passages(), size=8, k=2)
    assert found.ids_QK.tolist() == [[2, 7], [5, 3]]  # ties by row; row 8 lies beyond the corpus
    short = result_of_run(run, ["a"], Passages(), size=2, k=2)
    assert short.ids_QK.tolist()[0][0] == 1
    assert short.mask_QK.tolist() == [[True, False]]


def test_what_is_written_is_read_again(tmp_path):
    rng = np.random.default_rng(0)
    ids = np.stack([rng.choice(7, 4, replace=False) for _ in range(5)])
    found = SearchResult.of(ids, rng.standard_normal(ids.shape).astype(np.float32), 4)
    questions = [f"q{i}" for i in range(5)]
    write_run(found, questions, Passages(), tmp_path / "out.trec")
    again = result_of_run(read_run([str(tmp_path / "out.trec")]), questions, Passages(), 7, 4)
    assert np.array_equal(again.ids_QK, found.ids_QK)
    assert np.array_equal(again.scores_QK, found.scores_QK)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 p1 1 high tag", "line 1: neither"),
        ("q Q0 p1 1 2 tag\nq p1 2", "line 2: neither"),
        ("q Q0 p1 1 2 tag\nq Q0 p1 2 1 tag", "line 2: passage 'p1' comes twice"),
        ("q Q0 p1 1 nan tag", "line 1: the score of passage 'p1' is not finite"),
        ('{"id": 1}', "line 1: neither"),
    ],
)
def test_a_broken_line_is_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_run(write(tmp_path, text))


def test_a_run_of_other_questions_or_passages_is_refused(tmp_path):
    with pytest.raises(DataError, match="1 of 2 questions are not in the run, first 'b'"):
        result_of_run({"a": {"p1": 1.0}}, ["a", "b"], Passages(), 9, 1)
    with pytest.raises(DataError, match="not in the corpus, first 'x'"):
        result_of_run({"a": {"x": 1.0}}, ["a"], Passages(), 9, 1)
    with pytest.raises(DataError, match="white space"):
        write_run(SearchResult.of([[1]], [[1.0]], 1), ["a b"], Passages(), tmp_path / "out")
