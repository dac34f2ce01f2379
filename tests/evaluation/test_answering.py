"""Which decoder an objective and evaluation.decode mean, and what stands in the predictions then."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest

from rag_exp.core.errors import ConfigError, DataError
from rag_exp.evaluation.answering import decoding_problems
from rag_exp.evaluation.evaluate import Asked, evaluate
from rag_exp.evaluation.options import EvaluationOptions
from rag_exp.evaluation.predictions import read_predictions
from rag_exp.models.objectives import Concat, RagSequence, RagToken
from rag_exp.retrieval.results import SearchResult
from rag_exp.training.options import TrainerOptions


def ask(towns, folder, kit, objective, **options):
    draw = np.random.default_rng(0)
    ids = np.stack([draw.choice(towns.size, 3, replace=False) for _ in range(towns.size)])
    topk = SearchResult.of(ids, draw.normal(size=ids.shape).astype(np.float32), 3)
    reader, packer, sizes = kit
    asked = Asked(towns.questions, towns.table, topk, towns.size)
    options = EvaluationOptions(**{"max_new_tokens": 5, "beam": 3} | options)
    folder.mkdir()
    machine = TrainerOptions(accelerator="cpu", threads=1, progress=False)
    stats = evaluate(reader, objective, packer, asked, options, sizes, folder, machine)
    return read_predictions(folder).to_pylist(), stats


def test_thorough_and_fast_differ_where_the_metric_says(towns, tmp_path):
    kit = towns.kit()
    best, stats = ask(towns, tmp_path / "a", kit, RagSequence(), decode="thorough")
    quick, cheaper = ask(towns, tmp_path / "b", kit, RagSequence(), decode="fast")
    plain, _ = ask(towns, tmp_path / "c", kit, RagSequence(), decode="none")
    assert [r["fast_prediction"] for r in best] == [r["prediction"] for r in quick]
    differs = np.mean([r["prediction"] != r["fast_prediction"] for r in best])
    assert stats["metrics"]["fast_differs"] == differs
    assert cheaper["metrics"]["fast_differs"] is None
    assert "evaluation.decode=thorough" in cheaper["nulls"]["fast_differs"]
    assert cheaper["flops"] < stats["flops"]
    assert [r["nll"] for r in best] == pytest.approx([r["nll"] for r in plain], abs=1e-5)
    for r in best:
        assert r["candidates"][0] == r["prediction"]
        assert r["candidate_logp"] == sorted(r["candidate_logp"], reverse=True)


@pytest.mark.parametrize("objective", [RagToken(), Concat()])
def test_one_beam_is_greedy(towns, tmp_path, objective):
    kit = towns.kit("t5")
    beam, _ = ask(towns, tmp_path / "a", kit, objective, decode="beam", beam=1)
    greedy, _ = ask(towns, tmp_path / "b", kit, objective)
    assert [r["prediction"] for r in beam] == [r["prediction"] for r in greedy]


def test_a_choice_has_the_objectives_own_nats(towns, tmp_path):
    """Each question's own three rivers: the accepted one's score is minus the question's nll."""
    rows, stats = ask(towns, tmp_path / "a", towns.kit(), RagToken(), decode="choices")
    for r, choices in zip(rows, towns.questions.choices, strict=True):
        assert r["choices"] == choices
        logp = dict(zip(choices, r["choice_logp"], strict=True))
        assert -logp[r["target"]] == pytest.approx(r["nll"], abs=1e-4)
        assert r["candidates"] == sorted(choices, key=logp.get, reverse=True)
        assert r["candidate_logp"] == sorted(r["choice_logp"], reverse=True)
        assert r["prediction"] == r["candidates"][0]
    metrics = stats["metrics"]
    assert metrics["em"] == metrics["choice_accuracy"] == np.mean([r["prediction"] in r["answers"] for r in rows])
    shares = [np.exp(-r["nll"]) / np.exp(r["choice_logp"]).sum() for r in rows]
    assert metrics["choice_nll"] == pytest.approx(-np.mean(np.log(shares)), abs=1e-4)


def test_a_length_penalty_ranks_choices_and_changes_no_log_probability(towns, tmp_path):
    kit, choices = towns.kit(), (*towns.rivers, "R111111")
    plain, stats = ask(towns, tmp_path / "a", kit, RagSequence(), decode="choices", choices=choices)
    divided, again = ask(towns, tmp_path / "b", kit, RagSequence(), decode="choices", choices=choices, length_penalty=9)
    for r, other in zip(plain, divided, strict=True):
        assert r["choices"] == list(choices)
        assert r["choice_logp"] == pytest.approx(other["choice_logp"], abs=1e-9)
        assert r["prediction"] != other["prediction"] == choices[-1]
    names = ("choice_accuracy", "choice_accuracy_norm", "choice_nll")
    assert [stats["metrics"][name] for name in names] == [again["metrics"][name] for name in names]
    assert again["metrics"]["em"] == 0.0


def test_choices_that_cannot_be_ranked_name_the_question(towns, tmp_path):
    with pytest.raises(DataError, match=r"22 of 24 questions have no answer among their choices, first .* \(answer 'R"):
        ask(towns, tmp_path / "a", towns.kit(), RagToken(), decode="choices", choices=("R7", "R14"))
    some = SimpleNamespace(**vars(towns))
    some.questions = copy.copy(towns.questions)
    lacking = towns.questions.ids[3]
    some.questions.choices = [c if q != 3 else [] for q, c in enumerate(towns.questions.choices)]
    with pytest.raises(DataError, match=f"1 of 24 questions have no choices to rank, first '{lacking}'"):
        ask(some, tmp_path / "b", towns.kit(), RagToken(), decode="choices")
    some.questions.choices = [[] for _ in range(towns.size)]
    with pytest.raises(ConfigError, match=r"questions\.fields\.choices=choices"):
        ask(some, tmp_path / "c", towns.kit(), RagToken(), decode="choices")
    long = (*towns.rivers, "a very long river " * 9)
    with pytest.raises(ConfigError, match=r"the longest has .* raise prompt\.max_answer_tokens"):
        ask(towns, tmp_path / "d", towns.kit(), RagToken(), decode="choices", choices=long)


def test_what_does_not_go_together_is_told():
    def problems(objective, decode, **more):
        return decoding_problems(objective, EvaluationOptions(decode=decode), **more)

    assert "use fast or thorough" in problems(RagSequence(), "beam")[0]
    assert "use beam" in problems(RagToken(), "thorough")[0]
    assert "use beam" in problems(Concat(), "fast")[0]
    assert "evaluation.choices" in problems(Concat(), "choices")[0]
    assert not problems(Concat(), "choices", offered=True)
    assert "hosted" in problems(RagToken(), "beam", hosted=True)[0]
    assert not problems(RagSequence(), "thorough") + problems(RagToken(), "beam") + problems(Concat(), "beam")
    with pytest.raises(ValueError, match="all different"):
        EvaluationOptions(choices=("yes", "yes"))


def test_the_identity_holds_what_decoding_reads():
    """Keys of runs that decode greedily or not at all are what they were before there were other ways."""
    greedy = EvaluationOptions().identity()
    assert not {"beam", "length_penalty", "choices"} & set(greedy)
    assert EvaluationOptions(beam=7, length_penalty=1.0).identity() == greedy
    assert EvaluationOptions(decode="thorough", beam=7).identity()["beam"] == 7
    assert EvaluationOptions(decode="choices", choices=("yes", "no")).identity()["choices"] == ["yes", "no"]
