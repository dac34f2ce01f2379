"""Suggestions for the quickstart's study, as its committed records left it."""

import shlex
from pathlib import Path

import pytest

from rag_exp.analysis.tables import load_study
from rag_exp.core.errors import ConfigError
from rag_exp.core.record import read_record, write_record
from rag_exp.run import RunFolder
from rag_exp.study import expand, records_of, write_plan
from rag_exp.suggest import suggest_options, suggest_runs

QUICKSTART = Path(__file__).parents[1] / "results" / "quickstart"
LAW = ["law.bootstrap=60", "law.over_N=[power]", "law.over_M=[gain]", "law.joint=[joint_coverage]"]
CORPORA = "evaluation.corpus_size=null,5700,1000"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The study with its first grid's runs finished, under the run ids that they have today."""
    root = tmp_path_factory.mktemp("root")
    plan = expand(["study=quickstart", f"paths.root={root}", CORPORA, *LAW])
    known = {tuple(sorted(r["point"].items())): r["run_id"] for r in load_study(QUICKSTART).attrs["plan"]["runs"]}
    for p in plan.points:
        if set(p.axes) != {"evaluation.corpus_size", "generator.size"}:
            continue
        record = read_record(QUICKSTART / "records" / f"{known[tuple(sorted(p.axes.items()))]}.json")
        keys = {role: step.key for role, step in p.steps.roles.items()}
        folder = RunFolder(plan.root, p.run_id)
        folder.path.mkdir(parents=True)
        write_record(record.model_copy(update={"run_id": p.run_id, "artifacts": keys}), folder.record)
    write_plan(plan, "")
    return plan, records_of(plan)


def runs_of(lines):
    return [line.strip() for line in lines if line.strip().startswith("rag-exp run")]


def test_the_largest_that_the_budget_pays_for(study):
    lines = list(suggest_runs(*study, suggest_options(["budget=6e13", "parts=2"]), None))
    assert "runs within 6e+13 FLOPs, none above 3e+13, the largest first:" in lines[0]
    runs = runs_of(lines)
    # One training, and its answers over every corpus in one sweep.
    assert runs[0].startswith("rag-exp run -m")
    assert runs[0].endswith("evaluation.corpus_size=null,5700,1000 generator.size=s3")
    assert runs[1].endswith("evaluation.corpus_size=null,5700,1000 generator.size=s2 seed=1")
    assert "N 584,576, M 32,380, K 4: " in lines[2]
    assert "the law expects nll 9." in lines[2]
    assert "0.42 decades beyond the data on N" in lines[2]
    prices = [float(line.split(" K 4: ")[1].split(" FLOPs")[0]) for line in lines if " K 4: " in line]
    assert prices[1] < prices[0] / 20
    assert max(prices) <= 3e13
    assert sum(prices) <= 6e13
    there = {p.run_id for p in study[0].points if RunFolder(study[0].root, p.run_id).record.is_file()}
    pasted = [expand(shlex.split(run)[3:]) for run in runs[:2]]
    assert all(len(p.points) == 3 and not there & {x.run_id for x in p.points} for p in pasted)


def test_a_budget_too_small_for_any_training_still_has_no_suggestion(study):
    lines = list(suggest_runs(*study, suggest_options(["budget=1e9"]), None))
    assert lines[0].startswith("nothing: the cheapest run costs ")


def test_bad_options_are_named():
    with pytest.raises(ConfigError, match=r"budget: Field required. Write budget=FLOPs"):
        suggest_options([])
    with pytest.raises(ConfigError, match=r"parts: .*greater than or equal to 1"):
        suggest_options(["budget=1e9", "parts=0"])
