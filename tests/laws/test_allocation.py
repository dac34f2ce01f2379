from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rag_exp.core.errors import LawError
from rag_exp.laws import Costs, Surface, fit, fit_factorised, frontier

A, ALPHA, B, BETA = 480.0, 0.35, 2080.0, 0.37
N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6)))
CHINCHILLA = 1.8 + A * N**-ALPHA + B * D**-BETA


def fitted(form, axes, loss, **options):
    return fit(form, {**axes, "loss": loss}, loss="ls_log", **options)


@pytest.fixture(scope="module")
def chinchilla():
    return fitted("chinchilla", {"N": N, "D": D}, CHINCHILLA)


@pytest.fixture(scope="module")
def noisy():
    shaken = CHINCHILLA * np.exp(np.random.default_rng(0).normal(0, 0.01, len(N)))
    return fitted("chinchilla", {"N": N, "D": D}, shaken, bootstrap=200, bootstrap_kind="wild")


def grid(**axes):
    found = np.meshgrid(*axes.values(), indexing="ij")
    return {k: g.ravel() for k, g in zip(axes, found, strict=True)}


def test_chinchillas_closed_form(chinchilla):
    budgets = np.array([1e19, 1e20, 1e21])
    table = frontier(chinchilla, Costs(), budgets)
    G = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    a = BETA / (ALPHA + BETA)
    np.testing.assert_allclose(table["N"].astype(float), G * (budgets / 6) ** a, rtol=1e-5)
    np.testing.assert_allclose(table["D"].astype(float), (budgets / 6) ** (1 - a) / G, rtol=1e-5)
    np.testing.assert_allclose(table["flops.training"].astype(float), budgets, rtol=1e-12)
    assert table.attrs["exponents"]["N"][0] == pytest.approx(a, rel=1e-6)
    assert table["N_low"].isna().all()


def test_every_replicate_has_its_own_closed_form(noisy):
    table = frontier(noisy, Costs(), [1e20, 1e21])
    d = noisy.draws
    G = (d["alpha"] * d["A"] / (d["beta"] * d["B"])) ** (1 / (d["alpha"] + d["beta"]))
    own = G * (1e20 / 6) ** (d["beta"] / (d["alpha"] + d["beta"]))
    row = table.iloc[0]
    assert (row["N_low"], row["N_high"]) == pytest.approx(
        tuple(np.percentile(own, [2.5, 97.5], method="weibull")), rel=1e-5
    )
    exponent = table.attrs["exponents"]["N"]
    assert exponent[1:] == pytest.approx(
        tuple(np.percentile(d["beta"] / (d["alpha"] + d["beta"]), [2.5, 97.5], method="weibull")), rel=1e-5
    )
    assert row["at_end"] == 0


RAG = grid(N=np.geomspace(1e7, 1e10, 4), D=np.geomspace(1e9, 1e12, 4), M=np.geomspace(1e4, 1e8, 5))


@pytest.fixture(scope="module")
def rag_power():
    loss = 4 + 400 * RAG["N"] ** -0.3 + 2000 * RAG["D"] ** -0.3 - 0.001 * RAG["M"] ** 0.2
    return fitted("rag_power", RAG, loss)


@settings(max_examples=40, deadline=None)
@given(
    st.floats(0.15, 0.6), st.floats(0.15, 0.6), st.floats(1e-2, 0.2), st.floats(0.05, 0.3),
    st.floats(2, 9), st.floats(19, 22), st.floats(0, 2),
)  # fmt: skip
def test_at_an_optimum_every_axis_is_worth_its_cost(rag_power, alpha, beta, gain, gamma, queries, budget, refreshes):
    """Karush-Kuhn-Tucker: d loss / d ln x is in one ratio to d cost / d ln x for every axis."""
    law = replace(
        rag_power,
        params={"E": 4, "A": 400, "B": 2000, "G": gain / 1e8**gamma, "alpha": alpha, "beta": beta, "gamma": gamma},
    )
    costs = Costs(embed=1e9, refreshes=refreshes, queries=10**queries, search=1e3, read=200, k=5)
    row = frontier(law, costs, [10**budget], reach=4).iloc[0]
    assume(row["reason"] is None)
    assert costs.total(row["N"], row["D"], row["M"], 5.0) == pytest.approx(10**budget, rel=1e-9)
    point = {a: float(row[a]) for a in "NDM"}
    ratios = []
    for axis in "NDM":
        up, down = ({**point, axis: point[axis] * np.exp(s)} for s in (1e-3, -1e-3))
        worth = law.predict(down)[0] - law.predict(up)[0]
        paid = costs.total(up["N"], up["D"], up["M"], 5.0) - costs.total(down["N"], down["D"], down["M"], 5.0)
        ratios.append(worth / paid)
    assert ratios == pytest.approx([ratios[0]] * 3, rel=2e-3)


def test_more_queries_buy_smaller_models(chinchilla):
    sizes = [frontier(chinchilla, Costs(queries=q, read=500), [1e20]).iloc[0]["N"] for q in (0, 1e8, 1e9, 1e10)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2 * sizes[-1]


def test_tokens_tied_to_parameters_and_fixed_tokens():
    law = fitted("joint", RAG, 2 + A * RAG["N"] ** -ALPHA + 20 * RAG["M"] ** -0.3)
    tied = Costs(tokens_per_parameter=20, embed=1e11, queries=1e6, read=100)
    row = frontier(law, tied, [1e20]).iloc[0]
    assert row["D"] == pytest.approx(20 * row["N"])
    assert tied.total(row["N"], row["D"], row["M"], 1.0) == pytest.approx(1e20, rel=1e-9)
    row = frontier(law, Costs(tokens=1e10, embed=1e11), [1e20]).iloc[0]
    assert row["D"] == 1e10
    with pytest.raises(LawError, match=r"no D.*costs\.tokens"):
        frontier(law, Costs(), [1e20])


def test_tokens_tied_to_parameters_are_tied_in_a_law_of_tokens_too(chinchilla):
    tied = Costs(tokens_per_parameter=20, queries=1e6, read=1000)
    row = frontier(chinchilla, tied, [1e20]).iloc[0]
    assert row["D"] == pytest.approx(20 * row["N"])
    assert tied.total(row["N"], row["D"], 0.0, 1.0) == pytest.approx(1e20, rel=1e-9)
    assert row["loss"] == pytest.approx(1.8 + A * row["N"] ** -ALPHA + B * row["D"] ** -BETA, rel=1e-6)
    # Training that is given ten times the tokens that the law would give it ends where D ends, and says so.
    assert "N should be more than" in frontier(chinchilla, Costs(tokens_per_parameter=1e4), [1e24])["reason"][0]


def brute(law, costs, budget, **axes):
    """The least loss over a plain lattice of all axes but N, which takes what is left."""
    at = grid(**axes)
    free = {"D": costs.tokens or 0.0, "M": costs.passages, "K": costs.k} | at
    size = costs.affordable(budget, free["D"], free["M"], free["K"])
    ok = (size >= law.ranges["N"][0] / 10) & (size <= law.ranges["N"][1] * 10)
    return law.predict({"N": size[ok], **{a: v[ok] for a, v in at.items() if a in law.form.variables}}).min()


MADE_UP = {
    "joint_coverage": {"E": 14.0, "A": 60.0, "alpha": 0.25, "G": 1.2e-4, "gamma": 0.55, "B": 1e-3},
    "joint_hill": {"E": 4.0, "A": 400.0, "alpha": 0.3, "G": 0.2, "h": 5.0, "M0": 8e4},  # either end of M is good
    "rag_interaction": {
        "E": 4.0, "A": 400.0, "alpha": 0.3, "B": 2000.0, "beta": 0.3, "G": 8.0, "delta": 0.2, "M0": 1e6,
    },
}  # fmt: skip


@pytest.mark.parametrize("budget", [1e19, 1e21])
def test_no_lattice_finds_less(chinchilla, budget):
    costs = Costs(train_token=1e8, fixed=1e17, queries=1e7, read=400, read_passage=1e9, k=4)
    row = frontier(chinchilla, costs, [budget]).iloc[0]
    best = brute(chinchilla, costs, budget, D=np.geomspace(1e8, 1e13, 200_001))
    assert best * (1 - 1e-9) < row["loss"] <= best * (1 + 1e-12)


@pytest.mark.parametrize("form", list(MADE_UP))
def test_no_lattice_finds_less_where_a_corpus_has_its_price(form):
    loss = 4 + 400 * RAG["N"] ** -0.3 + 2000 * RAG["D"] ** -0.3 - 0.001 * RAG["M"] ** 0.2
    law = replace(fitted(form, RAG, loss), params=MADE_UP[form])
    costs = Costs(tokens=1e10, embed=1e11, refreshes=3, build=1e10, queries=1e7, search=1e3, read=400, k=5)
    tokens = {"D": np.geomspace(1e8, 1e13, 801)} if "D" in law.form.variables else {}
    sizes = np.geomspace(1e3, 1e9, 1601 if tokens else 400_001)
    for budget in (1e19 if tokens else 1e18, 1e20):
        row = frontier(law, costs, [budget]).iloc[0]
        assert row["reason"] is None
        best = brute(law, costs, budget, M=sizes, **tokens)
        assert best * (1 - 1e-4) < row["loss"] <= best * (1 + 1e-9)
        assert sum(row[f"flops.{k}"] for k in ("training", "corpus", "search", "reading")) == pytest.approx(budget)


def test_bands_span_the_forms_that_hold_as_well(noisy):
    loss = np.asarray(noisy.rows["y"])
    tied = fitted("chinchilla_tied", {"N": N, "D": D}, loss, bootstrap=200, bootstrap_kind="wild")
    alone, apart = (frontier(law, Costs(), [1e20]).iloc[0] for law in (noisy, tied))
    both = frontier(replace(noisy, alternatives=[tied]), Costs(), [1e20]).iloc[0]
    for name in ("N", "D", "loss"):
        assert both[name] == alone[name]
        assert both[f"{name}_low"] == min(alone[f"{name}_low"], apart[f"{name}_low"])
        assert both[f"{name}_high"] == max(alone[f"{name}_high"], apart[f"{name}_high"])
    assert both["N_high"] / both["N_low"] > alone["N_high"] / alone["N_low"]


def test_an_optimum_far_from_the_data_is_refused_and_one_near_them_says_how_far(chinchilla):
    table = frontier(chinchilla, Costs(), [1e13, 1e19, 3e23, 1e27])
    assert "less" in table["reason"][0] or "does not pay" in table["reason"][0]
    assert table["reason"][1] is None
    assert table["beyond"][1] == {}
    assert table["reason"][2] is None
    assert table["beyond"][2]["N"] == pytest.approx(np.log10(table["N"][2] / 1e10))
    assert "by the law N should be more than 1e+11, 1 decade beyond the data" in table["reason"][3]
    assert table["N"][3] is None
    with pytest.raises(LawError, match="positive FLOPs"):
        frontier(chinchilla, Costs(), [0.0])


def test_a_corpus_that_only_hides_the_gold_is_wanted_small():
    law = fitted("joint_rising", RAG, 2 + A * RAG["N"] ** -ALPHA + 0.01 * RAG["M"] ** 0.2)
    row = frontier(law, Costs(tokens=1e10), [1e19]).iloc[0]
    assert row["reason"].startswith("by the law M should be less than 1e+03")


def test_a_corpus_that_has_no_more_passages_is_a_cap_and_no_refusal():
    law = fitted("joint", RAG, 2 + A * RAG["N"] ** -ALPHA + 20 * RAG["M"] ** -0.3)
    costs = Costs(tokens=1e10, embed=1e7)
    free = frontier(law, costs, [1e19, 1e20])
    assert "M should be more" in free["reason"][0]
    capped = frontier(law, costs, [1e19, 1e20], caps={"M": 2e7})
    assert capped["reason"].tolist() == [None, None]
    assert capped["M"].tolist() == pytest.approx([2e7, 2e7], rel=1e-6)
    assert capped["capped"].tolist() == [["M"], ["M"]]
    assert costs.total(capped["N"][1], 1e10, 2e7, 1) == pytest.approx(1e20, rel=1e-6)
    # Where the corpus ends it no longer grows: its exponent is that of the budgets before.
    dear, budgets = Costs(tokens=1e10, embed=1e11), [3e17, 1e18, 1e20, 3e20]
    table = frontier(law, dear, budgets, caps={"M": 2e7})
    assert table["capped"].tolist() == [[], [], ["M"], ["M"]]
    before = frontier(law, dear, budgets[:2]).attrs["exponents"]["M"][0]
    assert table.attrs["exponents"]["M"][0] == pytest.approx(before, rel=1e-5)
    with pytest.raises(LawError, match="cap on X"):
        frontier(law, costs, [1e19], caps={"X": 1})
    with pytest.raises(LawError, match="M is capped at 10, below"):
        frontier(law, costs, [1e19], caps={"M": 10})


def test_a_law_below_zero_has_no_optimum():
    law = fitted("joint_gain", RAG, 6 + A * RAG["N"] ** -ALPHA - 0.001 * RAG["M"] ** 0.45)
    row = frontier(law, Costs(tokens=1e10), [1e19], reach=2).iloc[0]
    assert "below zero" in row["reason"]
    assert row["loss"] is None


def factorised():
    rows = grid(N=np.geomspace(1e5, 1e7, 5), M=np.geomspace(1e3, 5e4, 5), K=np.array([1.0, 2, 4, 8]))
    c, r = (rows["M"] / 5e4) ** 0.9, 1 - 0.01 * rows["M"] ** 0.3 * rows["K"] ** -0.6
    found, missed = 3 + 160 * rows["N"] ** -0.3 + 0.05 * rows["K"] ** 0.7, 14 + 90 * rows["N"] ** -0.25
    P = c * r
    ones = np.ones(len(P))
    return rows | {
        "questions": 1000 * ones, "nll": P * found + (1 - P) * missed, "gold_in_corpus": c, "gold_found": P,
        "nll_gold_found": found, "nll_gold_missed": missed, "index_recall@k": ones, "gold_recall@k": P,
    }  # fmt: skip


def test_a_factorised_law_chooses_how_many_passages_to_read():
    law = fit_factorised(factorised(), bootstrap=50)
    costs = Costs(tokens=1e8, embed=1e6, queries=1e5, search=200, read=100)
    row = frontier(Surface(law, {"growth": "any"}), costs, [3e15]).iloc[0]
    assert row["reason"] is None
    k = row["K"]
    assert 1 < k < 16
    assert float(k).is_integer()
    best = np.inf
    for K in range(1, 20):  # a plain search over the same
        M = np.geomspace(100, 5e5, 4001)
        size = costs.affordable(3e15, 1e8, M, float(K))
        ok = size > 1e4
        loss = law.predict({"N": size[ok], "M": M[ok], "K": np.full(ok.sum(), float(K))})
        best = min(best, loss.min())
    assert best * (1 - 1e-4) < row["loss"] <= best * (1 + 1e-9)
    assert row["loss_low"] <= row["loss"] <= row["loss_high"]


def test_an_axis_that_is_held_is_paid_for_at_what_it_is(rag_power):
    costs = Costs(embed=1e10, queries=1e6, read=200, k=5)
    row = frontier(Surface(rag_power, {"M": 3e6}), costs, [1e20]).iloc[0]
    assert (row["M"], row["flops.corpus"]) == (3e6, 3e16)
    row = frontier(Surface(rag_power, {"D": 1e10}), costs.model_copy(update={"tokens_per_parameter": 20}), [1e19]).iloc[
        0
    ]
    assert row["D"] == 1e10
    assert costs.total(row["N"], 1e10, row["M"], 5.0) == pytest.approx(1e19)
    # An axis that had one level in the data is held there without saying so.
    rows = factorised()
    four = {name: column[rows["K"] == 4] for name, column in rows.items()}
    surface = Surface(fit_factorised(four), {"growth": "any"})
    assert surface.axes == ("N", "M")
    row = frontier(surface, Costs(tokens=1e8, queries=1e5, read=100), [3e15]).iloc[0]
    assert row["flops.reading"] == pytest.approx(1e5 * 100 * row["N"] * 4)


def test_fewer_passages_than_are_looked_at_are_an_end_and_a_single_one_is_none():
    for fewest, reason in ((1.0, None), (20.0, "by the law K should be less than 2, 1 decade beyond the data")):
        axes = grid(N=np.geomspace(1e7, 1e10, 5), K=fewest * np.array([1.0, 2, 4, 8]))
        law = fitted("reading", axes, 2 + A * axes["N"] ** -ALPHA + 0.05 * axes["K"] ** 0.5)
        row = frontier(law, Costs(tokens=1e10, queries=1e6, read=200), [1e19]).iloc[0]
        assert row["reason"] == reason
        assert row["K"] == (None if reason else 1.0)


def test_a_law_without_parameters_has_no_frontier():
    law = fitted("saturating(M)", {"M": np.geomspace(1e3, 1e6, 6)}, 2 + 5 * np.geomspace(1e3, 1e6, 6) ** -0.3)
    with pytest.raises(LawError, match="over N and any of D, M and K; this law has M"):
        frontier(law, Costs(tokens=1e9), [1e18])
    with pytest.raises(LawError, match="no 'growht'"):
        Surface(law, {"growht": "coverage"})
