"""Suggestions for the quickstart's study, as its committed records left it."""

import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from rag_exp.analysis.study_fits import StudyFits
from rag_exp.analysis.tables import load_study
from rag_exp.core.errors import ConfigError
from rag_exp.core.record import read_record, write_record
from rag_exp.core.store import RECORD, Store
from rag_exp.laws import LawOptions
from rag_exp.run import RunFolder
from rag_exp.study import expand, records_of, write_plan
from rag_exp.suggest import _needs, _products, suggest_options, suggest_runs

QUICKSTART = Path(__file__).parents[1] / "results" / "quickstart"
LAW = ["law.over_N=[power]", "law.over_M=[gain]", "law.joint=[joint_coverage]"]
SIZES, CORPORA = ["s1", "s0", "xs"], [None, 5700, 1000]


def finished(root, grid, *words):
    """A study with a grid of the quickstart's runs, all finished, under the run ids that they have today."""
    study = {"name": "quick", "base": ["trainer.threads=1"], "grids": [grid]}
    (root / "configs" / "study").mkdir(parents=True)
    (root / "configs" / "study" / "quick.yaml").write_text(yaml.safe_dump(study))
    plan = expand(["study=quick", f"paths.root={root}", *LAW, *words], root / "configs")
    known = {tuple(sorted(r["point"].items())): r["run_id"] for r in load_study(QUICKSTART).attrs["plan"]["runs"]}
    for p in plan.points:
        size = p.config.evaluation.corpus_size
        at = (("evaluation.corpus_size", str(size or "null")), ("generator.size", p.config.generator.size))
        record = read_record(QUICKSTART / "records" / f"{known[at]}.json")
        keys = {role: step.key for role, step in p.steps.roles.items()}
        steps = p.config.training.steps / 300
        flops = {**record.flops, "marginal": record.flops["marginal"] * steps}
        read = (flops["marginal"] + flops["reader_warmup"]) / (record.flops["marginal"] + flops["reader_warmup"])
        sizes = {**record.sizes, "K": p.steps.asked.k, "D": round(record.sizes["D"] * read)}
        folder = RunFolder(plan.root, p.run_id)
        folder.path.mkdir(parents=True)
        found = {"run_id": p.run_id, "artifacts": keys, "sizes": sizes, "flops": flops}
        write_record(record.model_copy(update=found), folder.record)
        store = Store(p.config.paths.store)
        for step in (*p.steps.roles.values(), p.steps.embeddings(0)):
            store.folder(step).mkdir(parents=True, exist_ok=True)
            (store.folder(step) / RECORD).touch()
    write_plan(plan, "")
    return plan, records_of(plan), root / "configs"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    grid = {"generator.size": ["s2", *SIZES, "xxs"], "evaluation.corpus_size": CORPORA}
    return finished(tmp_path_factory.mktemp("root"), grid, "law.bootstrap=60")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Without the whole corpus, and without replicates."""
    grid = {"generator.size": SIZES, "evaluation.corpus_size": [5700, 2400, 1000]}
    return finished(tmp_path_factory.mktemp("root"), grid, "law.bootstrap=0")


def suggested(study, *words):
    plan, records, user = study
    return list(suggest_runs(plan, records, suggest_options(words), user))


def runs_of(lines):
    return [line.strip() for line in lines if line.strip().startswith("rag-exp run")]


def pasted(run):
    """The runs of a command as it stands."""
    words = shlex.split(run)[2:]
    user = Path(words.pop(words.index("--config-dir") + 1))
    return expand([w for w in words if w not in ("-m", "--config-dir")], user).points


def prices(lines):
    return [float(line.split(": ")[1].split(" FLOPs")[0]) for line in lines if " K " in line and "N " in line]


def grids_of(lines):
    return yaml.safe_load("\n".join(line for line in lines if line.startswith("  - ")))


def test_the_largest_that_the_budget_pays_for(study):
    lines = suggested(study, "budget=6e13", "parts=2")
    assert "runs within 6e+13 FLOPs, none above 3e+13 FLOPs, the largest first:" in lines[0]
    runs = runs_of(lines)
    # One training, and its answers over every corpus in one sweep.
    assert runs[0].startswith("rag-exp run -m")
    assert runs[0].endswith("generator.size=s3 evaluation.corpus_size=null,5700,1000")
    assert runs[1].endswith("generator.size=s2 evaluation.corpus_size=null,5700,1000 seed=1")
    assert "N 584,576, D 5.33e+06, M 32,380, K 4: " in lines[2]
    assert "the law expects nll 9." in lines[2]
    assert "0.42 decades beyond the data on N" in lines[2]
    assert prices(lines)[1] < prices(lines)[0] / 20
    assert max(prices(lines)) <= 3e13
    assert sum(prices(lines)) <= 6e13
    there = {p.run_id for p in study[0].points if RunFolder(study[0].root, p.run_id).record.is_file()}
    found = pasted(runs[1])
    assert len(found) == 3
    assert not there & {p.run_id for p in found}


def test_the_corpus_goes_on_to_its_end_for_models_that_are_trained(small):
    lines = suggested(small, "budget=1e12")
    runs = runs_of(lines)
    # 1,000, 2,400, 5,700 go on to 14,700 and to all 32,380 passages; every model reads them as it is.
    assert runs[0].endswith("generator.size=s1,s0,xs evaluation.corpus_size=null,14714")
    # Reading, and for the first a search of all passages: what the records of these sizes have.
    assert prices(lines)[:6:2] == pytest.approx([7.69e10 + 0.62e10, 4.77e10, 2.50e10], rel=0.1)
    assert "0.41 decades beyond the data on M" in "".join(lines)


def test_vectors_that_are_not_there_are_paid_once_and_whole(small, tmp_path):
    plan = small[0]
    store = Store(plan.points[0].config.paths.store)
    folder, warmups = store.folder(plan.points[0].steps.embeddings(0)), store.root / "objects" / "reader_warmup"
    with_vectors = prices(suggested(small, "budget=1e12"))
    shutil.move(folder, tmp_path / "away")
    shutil.move(warmups, tmp_path / "warmups")  # of readers that are trained: nothing needs them any more
    try:
        without = prices(suggested(small, "budget=1e12"))
    finally:
        shutil.move(tmp_path / "away", folder)
        shutil.move(tmp_path / "warmups", warmups)
    paid = [b - a for a, b in zip(with_vectors, without, strict=True)]
    assert paid[0] == pytest.approx(9.33e8, abs=2e8)  # of 32,380 passages; prices are printed to three digits
    assert paid[1:] == [0.0] * len(paid[1:])


def test_the_grids_that_are_printed_hold_the_very_runs_that_are_suggested(small, tmp_path):
    lines = suggested(small, "budget=2e13")
    assert any(
        "generator.size=s2 evaluation.corpus_size=null,14714," in run for run in runs_of(lines)
    )  # new along both
    study = {"name": "grown", "base": ["trainer.threads=1"], "grids": grids_of(lines)}
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "grown.yaml").write_text(yaml.safe_dump(study))
    grown = expand(["study=grown", f"paths.root={small[0].root}"], tmp_path)
    assert {p.run_id for p in grown.points} == {p.run_id for run in runs_of(lines) for p in pasted(run)}
    assert len(grown.points) == len(prices(lines)) > 6
    assert not any("threads" in line for line in lines if line.startswith("  - "))


def test_levels_that_a_law_lacks_come_first_and_say_why(tmp_path):
    few = finished(tmp_path, {"generator.size": ["s0", "xs"]}, "law.bootstrap=0", "seed=0")
    lines = suggested(few, "budget=3e12")
    assert lines[0] == "the study has 2 levels of N (23,712, 55,536), and a law in N needs 3: new ones come first"
    assert lines[1] == "the study has 1 level of M (32,380), and a law in M needs 3: new ones come first"
    assert "what the law lacks first, then the largest" in lines[2]
    runs = runs_of(lines)
    assert "generator.size=s0,xs evaluation.corpus_size=10239,3238" in runs[0]  # of what is trained
    assert "generator.size=xxs" in runs[1]  # though another seed of s0 is larger, and within the budget
    assert "where seed=0 of the command line would take their place" in lines[-2]
    assert lines[-1].startswith("no law in N and M stands yet")


def test_passages_read_are_an_axis_where_the_law_has_it(tmp_path):
    grid, words = (
        {"generator.size": SIZES, "evaluation.corpus_size": CORPORA},
        ["law.bootstrap=0", "law.factorised=true"],
    )
    lines = suggested(finished(tmp_path, grid, *words), "budget=6e12")
    assert lines[0] == "the study has 1 level of K (4), and a law in K needs 3: new ones come first"
    assert "evaluation.k=40,13" in runs_of(lines)[0]
    assert prices(lines)[0] == pytest.approx(prices(lines)[3] * 40 / 13, rel=0.1)
    assert "expects" not in "".join(line for line in lines if "K 40" in line)


def test_a_longer_training_is_an_axis_where_the_study_has_it(tmp_path):
    grid = {"generator.size": SIZES, "evaluation.corpus_size": CORPORA, "training.steps": [300, 150]}
    lines = suggested(finished(tmp_path, grid, "law.bootstrap=0"), "budget=1.4e12", "parts=1")
    assert "2 levels of D" in lines[0]
    assert "a law in D needs 4: new ones come first" in lines[0]  # of four forms, the longest held out to choose
    run = runs_of(lines)[0]
    assert "generator.size=s1 training.steps=600" in run
    # The warm-up is there already; 600 steps take twice the operations that the record has for 300.
    at = next(i for i, line in enumerate(lines) if line.strip() == run)
    assert prices(lines[at:])[0] == pytest.approx(2 * 5.93e11 + 0.8e11, rel=0.1)


def test_where_forms_are_to_be_chosen_among_a_level_more_is_needed(study):
    plan, none = study[0], StudyFits("nll", "dense", [], [], "")
    assert _needs(plan, none, LawOptions()) == {"N": 4, "M": 4}
    assert _needs(plan, none, LawOptions(joint=("joint",))) == {"N": 3, "M": 3}


def test_products():
    points = [{"a": a, "b": b} for a, b in ("11", "12", "21", "22", "31", "43")]
    found = _products(points)
    assert sorted(i for _, at in found for i in at) == list(range(6))
    assert ({"a": ["1", "2"], "b": ["1", "2"]}, [0, 1, 2, 3]) in found
    assert len(found) == 3
    # Two products, though the first key's two values go with different points.
    points = [{"size": a, "steps": b, "corpus": "1"} for a in "sx" for b in "12"]
    found = _products([*points, {"size": "x", "steps": "3", "corpus": "2"}])
    assert [at for _, at in found] == [[0, 1, 2, 3], [4]]


def test_a_budget_too_small_for_any_training_still_has_no_suggestion(small):
    lines = suggested(small, "budget=1e9")
    assert lines[0].startswith("nothing: the cheapest run costs ")


def test_a_budget_of_time_is_at_the_pace_of_the_study(study):
    lines = suggested(study, "budget=20min")
    assert "runs within 20 min, at the pace of the study's own runs, the largest first:" in lines[0]
    # s2 took 4.1 minutes to train; s3 has 2.6 times its parameters.
    assert "generator.size=s3" in runs_of(lines)[0]
    first, second = (line.split(": ")[1].split(";")[0] for line in lines[2:4])
    minutes, unit = first.split()
    assert unit == "min"
    assert 7 < float(minutes) < 4.1 * 584_576 / 221_664 * 1.5
    assert second.endswith(" s")  # an answer more of the same model


def test_bad_options_are_named():
    assert suggest_options(["budget=1.5h"]).budget == 5400
    for words, wrong in (
        ([], "Field required"),
        (["budget=1.2.3h"], "valid number"),
        (["budget=-1"], "greater than 0"),
    ):
        with pytest.raises(ConfigError, match=rf"budget: .*{wrong}.* Write budget=FLOPs, .* or a time, say budget=2h"):
            suggest_options(words)
    with pytest.raises(ConfigError, match=r"parts: .*greater than or equal to 1"):
        suggest_options(["budget=1e9", "parts=0"])
