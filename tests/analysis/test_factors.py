from types import SimpleNamespace

import numpy as np
import pytest

from rag_exp.analysis.conditions import conditions_of
from rag_exp.analysis.factors import StudyFactors, factor_lines, factors_section, fit_factors
from rag_exp.analysis.fits import fit_study, question_answers
from rag_exp.analysis.page import Page
from rag_exp.analysis.study_fits import StudyFits
from rag_exp.analysis.tables import finished, records_to_table
from rag_exp.laws import LawOptions

OPTIONS = LawOptions(factorised=True, bootstrap=60)


def logged(record, world):
    """The record with what its retrieval found of each question, and the nats with and without gold."""
    inside = world.rank < record.sizes["M"] / 32_380
    recall = record.metrics["index_recall@k"] or 1.0
    found = inside & (np.arange(len(inside)) % 50 >= 50 * (1 - recall))
    N = record.sizes["N"]
    nll = np.where(found, 2.2 + 160 * N**-0.25, 14.5 + 160 * N**-0.25) * world.hard / world.hard.mean()
    record.metrics |= {
        "nll": nll.mean(),
        "gold_in_corpus": inside.mean(),
        "gold_found": found.mean(),
        "gold_recall@1": 0.9 * found.mean(),
        "gold_recall@k": found.mean(),
        "index_recall@1": recall,
        "nll_gold_found": nll[found].mean(),
        "nll_gold_missed": nll[~found].mean() if not found.all() else None,
    }
    return nll, found, inside


@pytest.fixture
def study(synthetic, write_study, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    world = synthetic.World()
    sizes, corpora = ("s0", "s1", "s2", "s3"), ("1000", "2400", "5700", "13600", "null")
    runs = [synthetic.record(world, s, c) for s in sizes for c in corpora]
    runs += [synthetic.record(world, "s2", c, index="ivf") for c in corpora]
    for r in runs:
        nll, found, inside = logged(r, world)
        r.artifacts["evaluation"] = f"evaluation of {r.run_id}"
        file = tmp_path / "store" / "objects" / "evaluation" / r.artifacts["evaluation"] / "predictions.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        questions = [
            {"id": f"q{i}", "nll": nll[i], "gold_in_corpus": bool(inside[i]), "rows": [3, 7 if found[i] else 4]}
            | {"gold": [7], "gold_of": [0], "hops": 1, "paths": None, "hop1": None}
            for i in range(len(nll))
        ]
        pq.write_table(pa.Table.from_pylist(questions), file)
    folder = write_study(tmp_path / "studies" / "quickstart", runs)
    law = {"bootstrap": 60, "factorised": True, "over_N": ["power(N)"], "over_M": ["gain(M)"], "joint": ["joint_gain"]}
    plan = SimpleNamespace(folder=folder, root=tmp_path, name="quickstart", metric="nll", law=law, forms={})
    return plan, runs


def test_a_study_is_fitted_kept_and_reported(study):
    plan, runs = study
    lines = list(fit_study(plan, runs))
    assert "factorised: nll = P u1 + (1 - P) u0, P = coverage x rank x index" in lines
    assert any(line.startswith("  unseen ivf: from its measured recall it errs by") for line in lines)
    kept = StudyFits.load(plan.folder).factorised
    assert kept.law.resampling["kind"] == "given and wild"
    assert kept.law.coverage["coverage"].law.params["gamma"] == pytest.approx(1, abs=0.1)
    assert len(kept.run_ids) == len(runs)
    assert kept.held_out[0]["rmse"] < kept.held_out[0]["rmse_as_exact"]
    errors = {(r["axis"], r["levels"]): r for r in kept.largest}
    assert list(errors) == [("N", 1), ("M", 1), ("M", 2)]
    assert errors["N", 1]["rmse"] < 0.03
    two = errors["M", 2]  # a joint gain knows nothing of how often gold is read; here both grow with the corpus
    assert (two["rows"], two["form"]) == (8, "joint_gain")
    assert two["rmse_measured"] < two["rmse"] < 0.05 < two["rmse_joint"]
    said = f"it errs there by {two['rmse']:.2%}, where retrieval is measured by {two['rmse_measured']:.2%}"
    joint = f"the joint law (joint_gain) by {two['rmse_joint']:.2%}"
    assert f"  without the two largest M: {said}, {joint}" in lines
    assert any(x.startswith("  the largest levels: the factorised law errs less in 1 of 3, the joint") for x in lines)
    again = list(fit_study(plan, runs))
    assert again[-1].startswith(f"{len(StudyFits.load(plan.folder).fits)} fit cards, as they were")
    assert [x for x in again if "unseen" in x] == [x for x in lines if "unseen" in x]
    page = Page("study")
    factors_section(page, kept)
    text = page.html("")
    assert "Through what was retrieved" in text
    assert "The largest levels: the factorised law errs less in 1 of 3, the joint law in 2" in text
    assert "A tenth of the best passages lost by an index changes nll by +" in text
    plan.law = {**plan.law, "factorised": False}
    list(fit_study(plan, runs))
    assert StudyFits.load(plan.folder).factorised is None
    assert not (plan.folder / "fits" / "factorised.json").exists()


def test_answers_are_read_in_one_order(study):
    plan, runs = study
    answers = question_answers(runs, plan.root, "nll")
    assert set(answers) == {r.run_id for r in runs}
    for r in runs:
        a = answers[r.run_id]
        assert a.value.mean() == pytest.approx(r.metrics["nll"])
        assert (a.found.mean(), a.covered.mean()) == (r.metrics["gold_found"], r.metrics["gold_in_corpus"])


@pytest.mark.parametrize(
    ("rows", "paths", "hop1", "read", "began"),
    [
        ([5, 6, 7], None, None, True, None),
        ([5, 7, 8], None, None, False, None),
        ([5, 6, 7], [[5, 7], [5, 6]], [5, 8], True, True),
        ([5, 7, 6], [[5, 7], [7, 6]], [5, 7], False, True),  # each has one of them: not together
        ([8, 6], [[8, 6]], [8], False, False),
    ],
)
def test_of_several_gold_passages_all_must_be_read_together(tmp_path, rows, paths, hop1, read, began):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "store" / "objects" / "evaluation" / "e" / "predictions.parquet"
    file.parent.mkdir(parents=True)
    question = {"id": "q", "nll": 2.0, "gold_in_corpus": True, "gold": [5, 6], "gold_of": [0, 1], "hops": 2}
    pq.write_table(pa.Table.from_pylist([question | {"rows": rows, "paths": paths, "hop1": hop1}]), file)
    run = SimpleNamespace(run_id="run", artifacts={"evaluation": "e"}, config={})
    answers = question_answers([run], tmp_path, "nll")["run"]
    assert answers.found.tolist() == [read]
    assert (None if answers.began is None else answers.began.tolist()) == (None if began is None else [began])


def test_what_its_records_lack_is_the_reason(synthetic):
    world = synthetic.World()
    runs = synthetic.quickstart(world)
    rows = finished(records_to_table(runs, synthetic.plan_of(runs)), "nll")
    rows = rows[rows["arm"] == "dense"]
    found = fit_factors(rows, "nll", conditions_of(rows), OPTIONS, {})
    assert found.law is None
    assert "needs the column 'gold_found'" in found.reason
    assert list(factor_lines(found)) == [f"factorised: no law: {found.reason}"]
    assert StudyFactors.from_dict(found.to_dict()) == found


def test_a_law_that_is_not_asked_for_changes_no_identity():
    assert "factorised" not in LawOptions().identity()
    assert OPTIONS.identity()["factorised"] is True
