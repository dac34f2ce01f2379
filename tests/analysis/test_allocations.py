import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from rag_exp.analysis.allocations import frontier_options, frontier_study, saved_figures, saved_frontier
from rag_exp.analysis.frontier_words import frontier_section
from rag_exp.analysis.page import Page
from rag_exp.analysis.study_fits import StudyFits
from rag_exp.core.errors import ConfigError, DataError
from rag_exp.core.record import read_record

QUICKSTART = Path(__file__).parents[2] / "results" / "quickstart"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root") / "studies" / "quickstart"
    shutil.copytree(QUICKSTART / "records", folder / "records")
    shutil.copy(QUICKSTART / "plan.json", folder)
    law = {
        "bootstrap": 50,
        "over_N": ["power(N)"],
        "over_M": ["gain(M)"],
        "joint": ["joint_coverage"],
        "factorised": True,
    }
    plan = SimpleNamespace(folder=folder, root=folder.parents[1], name="quickstart", metric="nll", law=law, forms={})
    return plan, [read_record(f) for f in (folder / "records").glob("*.json")]


def test_what_a_budget_buys_by_the_joint_law(study):
    plan, runs = study
    lines = list(
        frontier_study(plan, runs, frontier_options(["surface=joint", "budgets=1e14,1e15", "costs.queries=1e6"]))
    )
    assert lines[0].startswith("loss_in_N_and_M__index=flat__growth=coverage: E + A N^-alpha")
    assert "each of 1,000,000 questions 384 M of search" in lines[1]
    assert lines[1].endswith("; D is 5,330,608; K is 4")
    assert lines[2] == "M is at most 32,380: the corpus has no more passages (caps.M=NUMBER for another)"
    assert "all the M there is; an extrapolation, 0.47 decades above the data on N" in lines[4]
    assert any("ten times the M is worth" in line for line in lines)
    table = pd.read_csv(plan.folder / "frontier" / "allocation.csv")
    assert table["M"].tolist() == pytest.approx([32_380, 32_380])
    assert table["capped"].tolist() == ["M", "M"]
    assert table["beyond.N"].tolist() == pytest.approx([0, 0.47], abs=0.01)
    spent = table[[c for c in table if c.startswith("flops.")]].sum(axis=1)
    assert spent.tolist() == pytest.approx([1e14, 1e15])
    contours = pd.read_csv(plan.folder / "frontier" / "contours.csv")
    assert {"loss", "M", "N", "N_low", "N_high", "beyond"} == set(contours.columns)
    fits = StudyFits.load(plan.folder)
    page = Page("study")
    frontier_section(page, saved_frontier(plan.folder, fits))
    text = page.html("")
    assert "What a budget buys" in text
    assert ">1e14<" in text
    assert "reading 9" in text
    assert "all the M there is; an extrapolation, 0.47 decades above the data on N" in text
    drawn = {"frontier_loss", "frontier_allocation", "frontier_shares", "frontier_plane"}
    assert {f.name for f in saved_figures(saved_frontier(plan.folder, fits), fits)} == drawn
    assert {f.stem for f in (plan.folder / "frontier").glob("*.pdf")} == drawn
    assert saved_frontier(plan.folder, replace(fits, basis="of other runs")) is None


def test_the_factorised_law_is_followed_where_it_was_fitted(study):
    plan, runs = study
    asked = [
        "budgets=1e14",
        "queries=1e6",
        "given.index=ivf",
        "caps.M=2e4",
        "costs.embed=1e5",
        "reach=0.5",
    ]
    lines = list(frontier_study(plan, runs, frontier_options(asked)))
    assert lines[0].startswith("factorised: P u1")
    assert "corpus 6.41e+05 M" in lines[1]  # 1e5 of embedding, the rest of clustering
    assert "questions 4.02e+04 M^0.21 of search" in lines[1]  # 384 for each of the passages compared
    assert "training (7.7" in lines[1]
    assert lines[2].startswith(
        "S, the passages that ivf compares, is 105 M^0.21, within a factor of 1.4 of 5 ivf searches"
    )
    assert "all the M there is" in lines[3]
    assert "M 20k" in lines[3]
    assert "S, the passages that ivf compares" in (plan.folder / "frontier" / "frontier.html").read_text()


def test_what_is_wrong_is_said():
    with pytest.raises(ConfigError, match=r"costs\.embd: unknown constant\. Did you mean 'embed'"):
        frontier_options(["costs.embd=1"])
    with pytest.raises(ConfigError, match=r"queries: .*given: 'many'"):
        frontier_options(["queries=many"])


def test_without_a_law_there_is_no_frontier(study):
    plan, runs = study
    none = SimpleNamespace(**{**vars(plan), "law": {**plan.law, "factorised": False, "arm": "bm25"}})
    with pytest.raises(DataError, match="no setting carries a law in N and M, or in N and D; no factorised law"):
        list(frontier_study(none, runs, frontier_options([])))
