"""Which decoder an objective and evaluation.decode mean, and what stands in the predictions then."""

from __future__ import annotations

import numpy as np
import pytest

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
    """Of two rivers, one of them the answer; its score is minus the question's nll."""
    rivers = ("R7", "R14")
    rows, stats = ask(towns, tmp_path / "a", towns.kit(), RagToken(), decode="choices", choices=rivers)
    asked = [r for r in rows if r["target"] in rivers]
    assert len(asked) == 2
    for r in asked:
        assert -r["candidate_logp"][r["candidates"].index(r["target"])] == pytest.approx(r["nll"], abs=1e-4)
    assert {r["prediction"] for r in rows} <= set(rivers)
    assert stats["metrics"]["em"] == np.mean([r["em"] for r in rows])


def test_what_does_not_go_together_is_told():
    def problems(objective, decode, **more):
        return decoding_problems(objective, EvaluationOptions(decode=decode), **more)

    assert "use fast or thorough" in problems(RagSequence(), "beam")[0]
    assert "use beam" in problems(RagToken(), "thorough")[0]
    assert "use beam" in problems(Concat(), "fast")[0]
    assert "evaluation.choices" in problems(Concat(), "choices")[0]
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
