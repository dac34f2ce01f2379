"""The frontier's figures, and a frontier by a card alone."""

import json

import numpy as np
import pandas as pd
import pytest

from rag_exp import cli
from rag_exp.analysis.allocations import frontier_card, frontier_options, read_card
from rag_exp.analysis.frontier import Frontier
from rag_exp.analysis.frontier_figures import figures_of_frontier
from rag_exp.analysis.frontier_words import cost_line
from rag_exp.core.errors import ConfigError, DataError, LawError
from rag_exp.laws import Costs, Surface, fit

E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28  # Hoffmann et al. 2022, equation 10
N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e8, 1e10, 5), np.geomspace(2e9, 2e11, 5)))


@pytest.fixture(scope="module")
def chinchilla():
    loss = E + A * N**-ALPHA + B * D**-BETA
    return fit("chinchilla", {"N": N, "D": D, "loss": loss}, loss="ls_log", bootstrap=50, bootstrap_kind="wild")


@pytest.fixture
def card(place, chinchilla):
    (place / "chinchilla.json").write_text(chinchilla.to_json())
    return place


def layers(figure):
    """Every layer's rows, in the order of drawing; panels one after the other."""
    spec = figure.spec
    parts = [layer for panel in spec.get("concat", [spec]) for layer in panel.get("layer", [panel])]
    return [spec["datasets"][part["data"]["name"]] for part in parts]


def test_chinchillas_exponents_from_its_card_alone(card, capsys):
    assert cli.main(["frontier", "card=chinchilla.json", "budgets=1e20,1e21,1e22"]) == 0
    said = capsys.readouterr().out
    assert "costs in FLOPs: training 6 N D\n" in said
    folder = card / "frontier" / "chinchilla"
    facts = json.loads((folder / "frontier.json").read_text())
    a = BETA / (ALPHA + BETA)
    assert facts["exponents"]["N"][0] == pytest.approx(a, abs=1e-4)
    assert facts["exponents"]["D"][0] == pytest.approx(1 - a, abs=1e-4)
    assert a == pytest.approx(0.46, abs=0.01)  # table 2, approach 3
    assert {f.name for f in folder.glob("*.png")} == {
        "frontier_loss.png",
        "frontier_allocation.png",
        "frontier_plane_tokens.png",
    }
    assert "The path of the optima" in (folder / "frontier.html").read_text()


def test_figures_need_the_card_and_the_facts_and_nothing_else(chinchilla):
    asked = Frontier("chinchilla", Surface(chinchilla), Costs(), (1e20, 1e21))
    again = Frontier.of_facts(json.loads(json.dumps(asked.facts())), type(chinchilla).from_json(chinchilla.to_json()))
    for one, other in zip(figures_of_frontier(asked), figures_of_frontier(again), strict=True):
        assert one.caption == other.caption
        for rows, same in zip(layers(one), layers(other), strict=True):
            for row, alike in zip(rows, same, strict=True):
                assert row == {k: v if isinstance(v, str) else pytest.approx(v) for k, v in alike.items()}


def test_runs_stand_at_their_cost_and_none_lies_below_a_perfect_law(chinchilla):
    asked = Frontier("chinchilla", Surface(chinchilla), Costs(queries=1e6, read=400, k=2), (1e21,))
    runs = asked.runs
    assert runs["budget"].tolist() == pytest.approx((6 * N * D + 1e6 * 400 * N * 2).tolist())
    best = asked.at(runs["budget"])
    known = best["reason"].isna().to_numpy()
    assert known.sum() > 10
    order = np.argsort(runs["budget"].to_numpy(), kind="stable")
    assert (runs["loss"].to_numpy()[order][known] >= best["loss"][known].astype(float) - 1e-9).all()


def test_a_line_of_equal_loss_passes_through_its_optimum_and_above_its_budget_elsewhere(chinchilla):
    asked = Frontier("chinchilla", Surface(chinchilla), Costs(), (1e20, 1e21))
    plane = next(f for f in figures_of_frontier(asked) if f.name == "frontier_plane_tokens")
    lines = next(rows for rows in layers(plane) if "level" in rows[0])
    for row in asked.table.to_dict("records"):
        own = [r for r in lines if r["loss"] == pytest.approx(row["loss"], rel=1e-12)]
        spent = np.array([6 * r["N"] * r["D"] for r in own])
        assert (spent >= row["budget"] * (1 - 1e-6)).all()
        near = own[int(spent.argmin())]
        assert near["N"] == pytest.approx(row["N"], rel=0.1)
        assert spent.min() == pytest.approx(row["budget"], rel=1e-3)


def test_a_budget_far_from_all_runs_is_drawn_and_one_without_an_optimum_is_not(chinchilla):
    surface = Surface(chinchilla)
    one = figures_of_frontier(Frontier("chinchilla", surface, Costs(), (2e22,), caps={"D": 1e15}, reach=0.5))
    assert any(row["budget"] == 2e22 for rows in layers(one[0]) for row in rows)
    assert figures_of_frontier(Frontier("chinchilla", surface, Costs(), (1e10,))) == []


def test_the_line_is_dashed_where_it_leaves_the_data(chinchilla):
    asked = Frontier("chinchilla", Surface(chinchilla), Costs(), (1e21, 1e23))
    loss, *_ = figures_of_frontier(asked)
    marks = [(p["mark"], loss.spec["datasets"][p["data"]["name"]]) for p in loss.spec["layer"]]
    lines = [(m["strokeDash"] != [1, 0], rows) for m, rows in marks if m["type"] == "line"]
    assert {dashed for dashed, _ in lines} == {True, False}
    assert not any(row["far"] for dashed, rows in lines if not dashed for row in rows)
    assert loss.caption.endswith("Dashed: beyond the data.")


def test_what_a_law_of_retrieval_needs_is_asked_for(place):
    n, m = (g.ravel() for g in np.meshgrid(10.0 ** np.arange(5, 9), 10.0 ** np.arange(3, 7), indexing="ij"))
    law = fit("joint", {"N": n, "M": m, "loss": 2 + 90 * n**-0.3 + 9 * m**-0.2}, loss="ls_log")
    (place / "joint.json").write_text(law.to_json())
    options = frontier_options(["card=joint.json"])
    with pytest.raises(
        ConfigError, match=r"(?s)costs\.embed: .*a passage costs nothing.*costs\.tokens: the law has no D"
    ):
        list(frontier_card(options))
    words = ["card=joint.json", "costs.embed=1e10", "costs.tokens=1e9", "budgets=1e16", "out=here"]
    lines = list(frontier_card(frontier_options(words)))
    assert lines[2].startswith("budget 1e16: N ")
    assert (place / "here" / "contours.csv").is_file()


def test_an_axis_that_is_held_is_paid_for_and_said_at_its_value(card):
    words = ["card=chinchilla.json", "given.D=2e9", "budgets=1e18,1e18,1e19", "out=held"]
    lines = list(frontier_card(frontier_options(words)))
    assert lines[1] == "costs in FLOPs: training 6 N D; D is 2,000,000,000"
    table = pd.read_csv(card / "held" / "allocation.csv")
    assert table["N"].tolist() == pytest.approx([1e18 / 6 / 2e9, 1e19 / 6 / 2e9])
    with pytest.raises(LawError, match=r"No run of the fit stands at D = 3000000000\.0"):
        list(frontier_card(frontier_options(["card=chinchilla.json", "given.D=3e9", "out=held"])))
    with pytest.raises(LawError, match="D is given as 'many'; it is a number"):
        list(frontier_card(frontier_options(["card=chinchilla.json", "given.D=many"])))


def test_costs_that_are_nothing_are_not_said(chinchilla):
    surface = Surface(chinchilla)
    assert cost_line(Costs(queries=9), surface).startswith("costs in FLOPs: training 6 N D; ")
    assert cost_line(Costs(), surface) == "costs in FLOPs: training 6 N D"
    said = cost_line(Costs(embed=10, queries=3, search=2, read=5, k=4), surface)
    assert said == (
        "costs in FLOPs: training 6 N D, corpus 10 M, and for each of 3 questions 2 M of search and 5 N K of reading; "
        "K is 4"
    )


def test_what_is_no_card_is_said(card):
    with pytest.raises(DataError, match=r"none\.json cannot be read: No such file"):
        read_card(card / "none.json")
    (card / "other.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match=r"other\.json is no fit card"):
        read_card(card / "other.json")
    (card / "why.json").write_text(json.dumps({"name": "x", "law": None, "reason": "two levels of M", "card": None}))
    with pytest.raises(DataError, match="holds no law: two levels of M"):
        read_card(card / "why.json")
    with pytest.raises(ConfigError, match="out: a study's frontier"):
        frontier_options(["out=x"])
    assert cli.main(["frontier", "card=chinchilla.json", "study=quickstart"]) == 2
