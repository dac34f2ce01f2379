"""Expanding a study: grids, overrides, what is refused."""

from pathlib import Path

import pytest

from rag_exp import study as studies
from rag_exp.core.errors import ConfigError

SPEC = """
name: mine
description: two sizes, two corpora
metric: nll
base: [debug=tiny]
grids:
  - generator.size: [s0, s1]
    evaluation.corpus_size: [600, null]
  - evaluation.source: oracle
    generator.size: [s0, s1]
  - generator.size: [s0]
    evaluation.corpus_size: [null]
"""


@pytest.fixture
def user(place) -> Path:
    (place / "configs" / "study").mkdir(parents=True)
    (place / "configs" / "study" / "mine.yaml").write_text(SPEC)
    return place / "configs"


def test_the_plan_is_the_union_of_the_grids(user):
    plan = studies.expand(["study=mine"], user)
    assert [len(g.run_ids) for g in plan.grids] == [4, 2, 1]
    assert len(plan.points) == 6, "a point that two grids share is one run"
    assert plan.grids[0].overrides() == ["debug=tiny", "generator.size=s0,s1", "evaluation.corpus_size=600,null"]
    assert {p.axes.get("generator.size") for p in plan.points} == {"s0", "s1"}


def test_overrides_apply_to_every_run_or_replace_an_axis(user):
    plan = studies.expand(["study=mine", "seed=3"], user)
    assert {p.config.seed for p in plan.points} == {3}
    one = studies.expand(["study=mine", "generator.size=s0"], user)
    assert len(one.points) == 3
    seeds = studies.expand(["study=mine", "seed=0,1"], user)
    assert len(seeds.points) == 12
    other = studies.expand(["study=mine", "evaluation.corpus_size=400,800"], user)
    sizes = {p.config.evaluation.corpus_size for p in other.points if p.config.evaluation.source is None}
    assert sizes == {400, 800}


def test_all_points_are_validated_and_all_problems_said_once(user):
    with pytest.raises(ConfigError) as e:
        studies.expand(["study=mine", "generator.size=s0,s99", "retrieval.k=0"], user)
    text = str(e.value)
    assert "s99" in text
    assert text.count("retrieval.k: ") == 1


def test_an_axis_that_changes_nothing_is_refused(user):
    (user / "study" / "inert.yaml").write_text(
        "name: inert\nbase: [debug=tiny, retrieval=closed_book]\ngrids: [{index: [flat, ivf], seed: [0, 1]}]\n"
    )
    with pytest.raises(ConfigError, match=r"index: changes no run"):
        studies.expand(["study=inert"], user)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: x\ngrids: []\n", "study.grids"),
        ("grids: [{seed: [0]}]\n", "study.name"),
        ("name: x\ngrid: [{seed: [0]}]\ngrids: [{seed: [0]}]\n", "study.grid: unknown key"),
    ],
)
def test_a_malformed_study_is_refused(user, text, says):
    (user / "study" / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        studies.expand(["study=bad"], user)


def test_an_unknown_study_names_the_known(user):
    with pytest.raises(ConfigError, match=r"Did you mean 'mine'"):
        studies.expand(["study=mien"], user)


def test_status_of_what_has_not_run(user):
    plan = studies.expand(["study=mine"], user)
    assert {state for _, state, _ in studies.status(plan)} == {"missing"}
    with pytest.raises(Exception, match="Run it first"):
        studies.records_of(plan)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("law.bootsrap=3", "law.bootsrap"),
        ("study.metric=nlll", "Did you mean 'nll'"),
        ("study.foo=1", "study.foo: unknown key"),
    ],
)
def test_mistakes_in_law_and_study_are_said(user, override, says):
    with pytest.raises(ConfigError, match=says):
        studies.expand(["study=mine", override], user)


def test_a_studys_base_can_choose_its_law(user):
    text = SPEC.replace("name: mine", "name: law").replace("[debug=tiny]", "[debug=tiny, law=coverage]")
    (user / "study" / "law.yaml").write_text(text)
    plain = studies.expand(["study=mine"], user)
    assert studies.expand(["study=law"], user).law != plain.law


def test_a_study_is_fitted_as_it_was_last_run(user):
    plan = studies.expand(["study=mine", "generator.size=s0"], user)
    studies.write_plan(plan, "rag-exp run -m study=mine generator.size=s0")
    assert studies.last_overrides(["study=mine"], user) == ["study=mine", "generator.size=s0"]
    assert studies.last_overrides(["study=mine", "seed=1"], user) == ["study=mine", "seed=1"]
