"""Every metric on tables whose values are known by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_exp.core.errors import DataError
from rag_exp.evaluation.metrics import METRICS, exact_match, f1_score, metrics_of
from rag_exp.evaluation.predictions import COLUMNS, column_nulls, read_predictions, schema, write_predictions


# SQuAD's official script gives these values.
@pytest.mark.parametrize(
    ("prediction", "answers", "em", "f1"),
    [
        ("the Norman Conquest!", ["Norman conquest"], 1, 1.0),
        ("Denver Broncos", ["The Denver Broncos", "Carolina"], 1, 1.0),
        ("in the 10th century", ["10th and 11th centuries", "10th century"], 0, 0.8),
        ("Denver", ["Denver Broncos"], 0, 2 / 3),
        ("the the cat cat", ["cat"], 0, 2 / 3),
        ("dog", ["cat"], 0, 0.0),
        ("", ["cat"], 0, 0.0),
        ("the", ["a"], 1, 1.0),
        ("St. John's", ["St Johns"], 1, 1.0),
    ],
)
def test_em_and_f1(prediction, answers, em, f1):
    assert exact_match(prediction, answers) == em
    assert f1_score(prediction, answers) == pytest.approx(f1)


@given(st.text(max_size=20), st.lists(st.text(max_size=20), min_size=1, max_size=3))
def test_em_implies_f1(prediction, answers):
    em, f1 = exact_match(prediction, answers), f1_score(prediction, answers)
    assert 0 <= em <= f1 <= 1
    assert exact_match(answers[0], answers) == 1


OF_PATHS = [name for name in METRICS if "path" in name or name in ("all_gold@hop1", "kept_prior")]


def row(**given):
    """A one-hop question with everything known; ``given`` overrides."""
    base = {
        "id": "q", "question": "?", "template": "", "hops": 1, "answers": ["a"], "target": "a", "target_tokens": 2,
        "answer_bytes": 4, "nll": 1.0, "nll_without_end": 0.75, "nll_any": 0.5, "nll_unnormalized": 1.5,
        "prediction": "a",
        "fast_prediction": "a", "candidates": ["a", "b"], "candidate_logp": [-0.5, -2.0],
        "em": 1.0, "f1": 1.0, "rows": [5, 6],
        "scores": [2.0, 1.0], "prior": [0.75, 0.25], "posterior": [0.5, 0.5], "passage_nll": [1.0, 1.0], "truncated": 0,
        "gold": [5], "gold_of": [0], "gold_rank": 1, "gold_in_corpus": True, "gold_found": True, "answer_found": True,
        "entropy": 0.75, "entropy_given_gold": 0.25, "paths": None, "path_prior": None, "path_posterior": None,
        "path_nll": None, "kept_prior": None, "hop1": None,
        "null_prior": 0.125, "null_posterior": 0.25, "null_nll": 3.0,
        "choices": ["a", "bb"], "choice_logp": [-1.0, -3.0],
    }  # fmt: skip
    return base | given


def table_of(rows):
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=schema())


def test_a_table_by_hand():
    second = {"gold": [6], "gold_rank": 2, "nll": 3.0, "answer_bytes": 12, "em": 0.0, "f1": 0.5, "truncated": 1}
    second |= {"fast_prediction": "b", "null_prior": 0.625}
    second |= {"answers": ["bb", "ccc"], "choices": ["a", "bb", "ccc"], "choice_logp": [-1.0, -1.5, -4.0]}
    missed = {"gold": [9], "gold_rank": None, "gold_found": False, "gold_in_corpus": False, "nll": 8.0, "entropy": None}
    without = {"gold": [], "gold_of": [], "gold_rank": None, "gold_found": None, "gold_in_corpus": None, "nll": 4.0}
    rows = [row(), row(**second), row(**missed, answer_found=False, entropy_given_gold=None), row(**without)]
    metrics, nulls = metrics_of(table_of(rows))
    assert nulls == dict.fromkeys(OF_PATHS, "there is one hop")
    assert list(metrics) == list(METRICS)
    expected = {
        **dict.fromkeys(OF_PATHS),
        "all_gold@k": 2 / 3,
        "questions": 4,
        "nll": 4.0,
        "nll_se": math.sqrt(26 / 3) / 2,  # deviations -3, -1, 4, 0
        "nll_per_byte": 16 / 24,
        "nll_any": 0.5,
        "nll_without_end": 0.75,
        "target_tokens": 2.0,
        "nll_unnormalized": 1.5,
        "em": 0.75,
        "f1": 0.875,
        "fast_differs": 0.25,
        "choice_accuracy": 0.75,
        "choice_accuracy_norm": 1.0,  # -1.5 / 2 is more than -1 / 1
        "choice_nll": (3 * math.log1p(math.exp(-2)) + math.log1p(1 / (math.exp(-0.5) + math.exp(-3)))) / 4,
        "gold_recall@1": 1 / 3,
        "gold_recall@k": 2 / 3,
        "gold_found": 2 / 3,
        "mrr": (1 + 1 / 2 + 0) / 3,
        "gold_in_corpus": 2 / 3,
        "answer_coverage": 0.75,
        "prior_on_gold": (0.75 + 0.25) / 2,
        "posterior_on_gold": 0.5,
        "prior_on_null": 0.25,
        "posterior_on_null": 0.25,
        "nll_gold_found": 2.0,
        "nll_gold_missed": 8.0,
        "truncated": 1 / 8,
        "entropy": 0.75,
        "entropy_given_gold": 0.25,
        "nll_over_entropy": (0.25 + 2.25 + 3.25) / 3,
        "nll_over_entropy_given_gold": (0.75 + 2.75 + 3.75) / 3,
    }
    assert metrics == pytest.approx(expected)


def test_what_does_not_apply_is_null_with_a_reason():
    closed = {"rows": [], "scores": [], "prior": [], "posterior": [], "passage_nll": [], "gold_rank": None}
    unknown = {"gold_found": None, "gold_in_corpus": None, "answer_found": None, "entropy": None, "prediction": None}
    unknown |= {"fast_prediction": None, "nll_unnormalized": None, "null_prior": None, "null_posterior": None}
    unknown |= {"choices": None, "choice_logp": None}
    metrics, nulls = metrics_of(table_of([row(**closed, **unknown, em=None, f1=None, entropy_given_gold=None)]))
    missing = {name for name, value in metrics.items() if value is None}
    assert missing == set(nulls)
    assert missing == set(METRICS) - {"questions", "nll", "nll_per_byte", "nll_any", "nll_without_end", "target_tokens"}
    assert nulls["em"] == "no answers were written (evaluation.decode=none)"
    assert nulls["gold_recall@k"] == "no passages are read"
    assert nulls["nll_se"] == "one question has no spread"


def test_reasons_tell_missing_gold_from_missed_gold():
    no_gold = {"gold": [], "gold_of": [], "gold_rank": None, "gold_found": None, "gold_in_corpus": None}
    metrics, nulls = metrics_of(table_of([row(**no_gold), row(**no_gold)]))
    assert nulls["mrr"] == "the questions have no gold passages"
    assert metrics["answer_coverage"] == 1.0
    metrics, nulls = metrics_of(table_of([row(gold=[9], gold_rank=None, gold_found=False)] * 2))
    assert metrics["gold_found"] == 0.0  # measured, not missing
    assert metrics["nll_gold_missed"] == 1.0
    assert nulls["nll_gold_found"] == nulls["prior_on_gold"] == "no gold passage was found for any question"
    _, nulls = metrics_of(table_of([row(posterior=None, passage_nll=None)] * 2))
    assert nulls["posterior_on_gold"] == "the passages are read jointly"
    assert "prior_on_gold" not in nulls


def test_predictions_survive_the_file(tmp_path):
    rows = [row(id="q1", question="Où?"), row(id="q2", posterior=None, gold_rank=None)]
    path = write_predictions(rows, tmp_path)
    assert read_predictions(tmp_path).to_pylist() == rows
    assert read_predictions(path).column_names == list(COLUMNS)
    with pytest.raises(DataError, match="no readable predictions"):
        read_predictions(tmp_path / "nothing.parquet")


def test_what_the_reader_left_null_has_no_metric_even_where_some_questions_have_a_value(tmp_path):
    rows = [row(id="q1"), row(id="q2", nll=None, posterior=None)]
    why = {"nll": "q2 could not be scored", "posterior": "nor explained"}
    write_predictions(rows, tmp_path, why)
    table = read_predictions(tmp_path)
    assert column_nulls(table) == why
    metrics, nulls = metrics_of(table)
    of_nll = ["nll", "nll_se", "nll_per_byte", "nll_gold_found", "nll_gold_missed"]
    of_nll += ["nll_over_entropy", "nll_over_entropy_given_gold"]
    assert {name: nulls.get(name) for name in METRICS if metrics[name] is None} == {
        **dict.fromkeys(of_nll, why["nll"]),
        **dict.fromkeys(OF_PATHS, "there is one hop"),
        "posterior_on_gold": why["posterior"],
    }
    assert metrics["nll_without_end"] == 0.75
    assert column_nulls(table_of(rows)) == {}


def test_a_file_of_another_kind_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["q"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="lacks question"):
        read_predictions(tmp_path / "other.parquet")


def test_paths_by_hand():
    """Two questions: the gold is on the second path of the first, and on none of the second though all is read."""
    chain = {"hops": 2, "gold_of": [0, 1], "scores": None, "prior": None, "posterior": None, "passage_nll": None}
    one = row(**chain, gold=[5, 6], rows=[5, 7, 6], hop1=[5, 7], paths=[[5, 7], [5, 6]], kept_prior=0.9,
              path_prior=[0.5, 0.4], path_posterior=[0.2, 0.8], path_nll=[1.0, 1.0])  # fmt: skip
    two = row(**chain, gold=[1, 2], rows=[1, 3, 2], hop1=[1, 2], paths=[[1, 3], [2, 3]], kept_prior=0.7,
              path_prior=[0.4, 0.3], path_posterior=[0.5, 0.5], path_nll=[1.0, 1.0], truncated=2)  # fmt: skip
    metrics, nulls = metrics_of(table_of([one, two]))
    expected = {
        "all_gold@k": 1.0,
        "all_gold@hop1": 0.5,
        "path_recall@1": 0.0,
        "path_recall@k": 0.5,
        "kept_prior": 0.8,
        "path_prior_on_gold": 0.4,
        "path_posterior_on_gold": 0.8,
        "truncated": 0.25,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert nulls["prior_on_gold"] == "passages are read in paths: see path_prior_on_gold"
