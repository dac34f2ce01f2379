from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_exp.core.errors import LawError
from rag_exp.laws import (
    Answers,
    Costs,
    FactorisedFit,
    fit,
    fit_factorised,
    frontier,
    leave_index_out,
    leave_largest_out,
)

TOTAL = 50_000
N_OF, M_OF, K_OF = np.geomspace(1e5, 1e7, 5), np.array([1e3, 3e3, 1e4, 3e4, 5e4]), np.array([1.0, 2.0, 4.0, 8.0])
# Recall of each index type at the first place and among the K best, along the corpora.
RECALL = {
    "flat": (np.ones(5), np.ones(5)),
    "ivf": (1 - 0.004 * M_OF**0.3, 1 - 0.01 * M_OF**0.3),
    "hnsw": (1 - 0.001 * M_OF**0.35, 1 - 0.002 * M_OF**0.35),
}
LAMBDA = 0.8


def chain(N, M, K, first, at_k):
    """The equations of the law, written out by hand: every logged metric of a run."""
    covered = (M / TOTAL) ** 0.9
    rank = 1 - 0.004 * M**0.3 * K**-0.6
    w = 0.9
    P = covered * rank * (1 - LAMBDA * (1 - w * first - (1 - w) * at_k))
    with_gold, without = 3 + 160 * N**-0.3 + 0.05 * K**0.7, 14 + 90 * N**-0.25 + 0.02 * K**0.9
    return {
        "gold_in_corpus": covered,
        "gold_found": P,
        "nll_gold_found": with_gold,
        "nll_gold_missed": without,
        "nll": P * with_gold + (1 - P) * without,
        "gold_recall@1": w * P,
        "gold_recall@k": P,
        "index_recall@1": first,
        "index_recall@k": at_k,
    }


def study(kinds=("flat", "ivf", "hnsw"), Ks=K_OF):
    rows = []
    for kind in kinds:
        for N in N_OF if kind == "flat" else N_OF[2:3]:
            for m, M in enumerate(M_OF):
                for K in Ks:
                    first, at_k = RECALL[kind][0][m], RECALL[kind][1][m]
                    own = {"N": N, "M": M, "K": K, "questions": 1000.0, "index": kind, "growth": "coverage"}
                    rows.append(own | chain(N, M, K, first, at_k))
    return {k: np.array([r[k] for r in rows]) for k in rows[0]}


@pytest.fixture(scope="module")
def exact():
    return fit_factorised(study(), bootstrap=60)


def test_every_factor_is_recovered_from_exact_data(exact):
    c, r = exact.coverage["coverage"].law, exact.rank.law
    assert c.form.label == "gain(M)"
    assert c.params["gamma"] == pytest.approx(0.9, rel=1e-5)
    assert c.params["G"] == pytest.approx(TOTAL**-0.9, rel=1e-4)
    assert r.form.label == "crowded"
    assert [r.params[p] for p in ("B", "rho", "kappa")] == pytest.approx([0.004, 0.3, 0.6], rel=1e-5)
    assert exact.index.constant == pytest.approx(LAMBDA, rel=1e-9)
    assert exact.found.law.params == pytest.approx({"E": 3, "A": 160, "alpha": 0.3, "B": 0.05, "beta": 0.7}, rel=1e-3)
    assert exact.missed.law.params["alpha"] == pytest.approx(0.25, rel=1e-3)


def test_the_chain_predicts_where_no_run_was(exact):
    truth = chain(3e6, 2e4, 3.0, 1.0, 1.0)
    point = {"N": [3e6], "M": [2e4], "K": [3.0]}
    parts = exact.parts(point)
    assert parts["c"][0, 0] == pytest.approx(truth["gold_in_corpus"], rel=1e-4)
    assert parts["P"][0, 0] == pytest.approx(truth["gold_found"], rel=1e-4)
    assert exact.predict(point)[0] == pytest.approx(truth["nll"], rel=1e-4)


def test_an_index_enters_through_its_measured_recall_or_its_own_law(exact):
    M = 2e4
    first, at_k = 1 - 0.004 * M**0.3, 1 - 0.01 * M**0.3
    truth = chain(3e6, M, 4.0, first, at_k)["nll"]
    point = {"N": [3e6], "M": [M], "K": [4.0]}
    measured = {**point, "index_recall@1": [first], "index_recall@k": [at_k]}
    assert exact.predict(measured)[0] == pytest.approx(truth, rel=1e-4)
    assert exact.predict({**point, "index": ["ivf"]})[0] == pytest.approx(truth, rel=1e-4)
    assert exact.predict({**point, "index": ["flat"]})[0] == exact.predict(point)[0] < truth
    with pytest.raises(LawError, match=r"No run has index 'pq'.*index_recall@k"):
        exact.predict({**point, "index": ["pq"]})


def test_what_an_index_compares_is_as_its_runs_had_it_unless_given():
    runs = study(("flat", "ivf"))
    ivf = runs["index"] == "ivf"
    mean = 40 * runs["M"] ** 0.4
    S = np.where(ivf, mean * np.array([{1: 0.5, 2: 1, 4: 1, 8: 2}[k] for k in runs["K"]]), runs["M"])
    missed = np.where(ivf, 0.05 * runs["M"] ** 0.5 * S**-0.6, 0.0)
    runs |= chain(runs["N"], runs["M"], runs["K"], 1 - missed, 1 - missed) | {"distances_per_query": S}
    law = fit_factorised(runs)
    law = FactorisedFit.from_json(law.to_json())
    assert law.recall["ivf"].law.form.label == "unsearched"
    point = {"N": [3e6], "M": [2e4], "K": [4.0], "index": ["ivf"]}
    own, told, more = (law.predict({**point, **S})[0] for S in ({}, {"S": [40 * 2e4**0.4]}, {"S": [2e4]}))
    assert own == pytest.approx(told, rel=1e-6)
    assert more < told
    assert law.assumed({"index": "ivf"}) == [
        "S, the passages that ivf compares, is 40 M^0.40, within a factor of 2 of 20 ivf searches over 1,000 to 50,000 "
        "passages"
    ]
    assert law.assumed({"index": "ivf", "S": 10}) == law.assumed({"index": "flat"}) == law.assumed({}) == []


def test_measured_coverage_and_recall_take_the_place_of_laws(exact):
    truth = chain(3e6, 2e4, 4.0, 1.0, 1.0)
    known = {"N": [3e6], "K": [4.0]}
    assert exact.predict({**known, "gold_found": [truth["gold_found"]]})[0] == pytest.approx(truth["nll"], rel=1e-4)
    half = exact.parts({**known, "M": [2e4], "gold_in_corpus": [0.5]})
    assert half["c"][0, 0] == 0.5
    with pytest.raises(LawError, match="needs M"):
        exact.predict(known)
    with pytest.raises(LawError, match=r"gold_found is a share, from 0 to 1; it is 1\.5"):
        exact.predict({"N": [1e6], "gold_found": [1.5]})
    with pytest.raises(LawError, match="'N' holds something that is not a number"):
        exact.predict({"N": "large", "gold_found": [0.5]})
    with pytest.raises(LawError, match="missing"):
        exact.predict({**known, "gold_found": [np.nan]})


def test_a_type_that_was_held_out_is_predicted_better_than_a_dummy_can():
    rows = {r["index"]: r for r in leave_index_out(study())}
    assert set(rows) == {"ivf", "hnsw"}
    for row in rows.values():
        assert row["rmse"] < 1e-4 < 0.002 < row["rmse_as_exact"]
        assert row["rmse_measured"] < 1e-4


def test_the_largest_level_is_predicted_from_the_rest():
    for axis in "NMK":
        assert leave_largest_out(study(), axis)["rmse"] < 1e-3
    with pytest.raises(LawError, match="no column 'X'"):
        leave_largest_out(study(), "X")


def test_a_joint_law_is_judged_on_the_same_runs():
    """Its form is chosen and fitted along the curve of exact search at one K, without what is held out."""
    data = study(Ks=K_OF[2:])  # two K alike: the first is the curve
    row = leave_largest_out(data, "M", 2, joint=("joint_gain", "joint"))
    curve = {k: data[k][(data["index"] == "flat") & (data["K"] == 4)] for k in ("N", "M", "nll")}
    held = curve["M"] >= M_OF[-2]
    assert (row["levels"], row["rows"]) == (2, held.sum())
    law = fit(row["form"], {k: v[~held] for k, v in curve.items()}, y="nll")
    said = law.predict({k: curve[k][held] for k in "NM"})
    assert row["rmse_joint"] == pytest.approx(np.sqrt((np.log(said / curve["nll"][held]) ** 2).mean()), rel=1e-6)
    assert row["rmse_measured"] < 0.01 < row["rmse_joint"]
    few = {k: v[np.isin(data["M"], M_OF[:3])] for k, v in data.items()}
    short = leave_largest_out(few, "M", joint=("joint_gain",))
    assert short["rmse"] is short["rmse_joint"] is None
    assert "no law of share not covered" in short["reason"]
    assert short["rmse_measured"] < 0.01  # needs no law of coverage
    assert short["reason_joint"]


def test_noise_of_the_questions_reaches_the_prediction_and_the_truth_is_inside():
    rng = np.random.default_rng(0)
    data = study(("flat",), Ks=K_OF[2:3])
    questions = 400
    uniform, hard = rng.uniform(size=questions), rng.gamma(4, 0.25, questions)
    answers = {}
    for i in range(len(data["N"])):
        covered = uniform < data["gold_in_corpus"][i]
        found = uniform < data["gold_found"][i]
        nll = np.where(found, data["nll_gold_found"][i], data["nll_gold_missed"][i]) * hard
        nll = nll * np.exp(rng.normal(0, 0.005))
        answers[i] = Answers(nll, found, covered)
        data["gold_in_corpus"][i], data["gold_found"][i], data["nll"][i] = covered.mean(), found.mean(), nll.mean()
        data["nll_gold_found"][i], data["nll_gold_missed"][i] = nll[found].mean(), nll[~found].mean()
    law = fit_factorised(data, bootstrap=200, answers=answers)
    assert law.resampling["kind"] == "given and wild"
    said = law.predict({"N": [3e6], "M": [2e4], "K": [4.0]}, interval=0.99)
    assert said.low_n[0] < chain(3e6, 2e4, 4.0, 1.0, 1.0)["nll"] < said.high_n[0]
    assert said.high_n[0] - said.low_n[0] > 0.3  # 400 questions do not tell more
    point = {"N": [3e6], "M": [2e4], "K": [4.0]}
    narrow = law.predict(point, interval=0.95)
    alone = fit_factorised(data, bootstrap=200).predict(point, interval=0.95)
    assert alone.high_n[0] - alone.low_n[0] < narrow.high_n[0] - narrow.low_n[0]
    # The standard error of a run makes up for most of what the answers would tell.
    data["nll_se"] = np.array([a.value.std() / questions**0.5 for a in answers.values()])
    made_up = fit_factorised(data, bootstrap=200).predict(point, interval=0.95)
    assert made_up.high_n[0] - made_up.low_n[0] > 1.3 * (alone.high_n[0] - alone.low_n[0])


def test_a_card_gives_back_the_law(exact):
    back = FactorisedFit.from_json(exact.to_json())
    at = {"N": [1e6, 4e6], "M": [5e3, 1e5], "K": [2.0, 16.0], "index": ["ivf", "flat"]}
    np.testing.assert_array_equal(back.predict(at), exact.predict(at))
    np.testing.assert_allclose(back.predict_draws(at), exact.predict_draws(at), rtol=1e-9)
    assert back.predict(at, interval=0.9).beyond_n.tolist() == pytest.approx([0, np.log10(2)])
    with pytest.raises(LawError, match="Not a card"):
        FactorisedFit.from_json("{}")


@settings(max_examples=30, deadline=None)
@given(st.floats(1e3, 1e9), st.floats(1, 1e9), st.floats(0.5, 100), st.floats(0, 1))
def test_a_prediction_lies_between_its_two_cases(exact, N, M, K, recall):
    parts = exact.parts({"N": [N], "M": [M], "K": [K], "index_recall@k": [recall]})
    assert 0 <= parts["P"][0, 0] <= 1
    said = exact.predict({"N": [N], "M": [M], "K": [K], "index_recall@k": [recall]})[0]
    ends = sorted([parts["with gold"][0, 0], parts["without gold"][0, 0]])
    assert ends[0] * (1 - 1e-12) <= said <= ends[1] * (1 + 1e-12)


def test_what_was_not_varied_is_asked_for():
    law = fit_factorised(study(("flat",), Ks=K_OF[2:3]))
    with pytest.raises(LawError, match=r"All runs read K = 4 .*gold_found"):
        law.predict({"N": [1e6], "M": [1e4], "K": [8.0]})
    assert np.isfinite(law.predict({"N": [1e6], "K": [8.0], "gold_found": [0.4]})).all()
    few = {k: v[np.isin(study()["M"], M_OF[:2])] for k, v in study().items()}
    with pytest.raises(LawError, match=r"no law of share not covered.*Give its measured values"):
        fit_factorised(few).predict({"N": [1e6], "M": [1e4], "K": [8.0]})


def test_rows_that_cannot_be_used_are_named():
    data = study()
    with pytest.raises(LawError, match="'gold_found'"):
        fit_factorised({k: v for k, v in data.items() if k != "gold_found"})
    broken = {k: v.copy() for k, v in data.items()}
    broken["nll"][3] *= 1.01
    broken["gold_found"][5] = np.nan
    law = fit_factorised(broken)
    assert [(r["row"], r["reason"][:12]) for r in law.rows["left_out"]] == [(3, "its nats are"), (5, "gold_found i")]
    several = {**data, "gold_in_corpus": data["gold_in_corpus"] * 0.5}
    with pytest.raises(LawError, match="several passages each"):
        fit_factorised(several)


QUICKSTART = Path(__file__).parents[2] / "results" / "quickstart"


def test_on_the_quickstarts_records_an_unseen_index_is_predicted_from_its_recall():
    from rag_exp.analysis.tables import load_study

    table = load_study(QUICKSTART)
    rows = table[table["arm"] == "dense"]
    law = fit_factorised(rows, bootstrap=100, cluster=rows["artifacts.checkpoint"].tolist())
    assert set(law.coverage) == {"coverage", "distractor"}
    assert law.coverage["distractor"].constant == 0.0
    assert not law.rows["left_out"]
    error = np.log(law.predict(rows) / rows["nll"].to_numpy(dtype=float))
    assert np.sqrt((error**2).mean()) < 0.015
    ivf = next(r for r in leave_index_out(rows) if r["index"] == "ivf")
    assert ivf["rmse"] < 0.75 * ivf["rmse_as_exact"]
    assert ivf["rmse_measured"] < ivf["rmse_as_exact"]
    # A law in N and M has no place for the index at all, and errs as much as taking it for exact search.
    flat = rows[(rows["index"] == "flat") & (rows["growth"] == "coverage")]
    other = fit("joint_coverage", flat, y="nll", loss="huber_log", delta=0.02)
    asked = rows[rows["index"] == "ivf"]
    dummy = np.log(other.predict(asked) / asked["nll"].to_numpy(dtype=float))
    assert ivf["rmse"] < np.sqrt((dummy**2).mean())


def test_an_accuracy_goes_through_the_same_chain():
    data = study(("flat", "ivf"))
    P, N = data["gold_found"], data["N"]
    data["em"] = P * (0.9 - 8 * N**-0.35) + (1 - P) * (0.1 - 0.5 * N**-0.35)
    law = fit_factorised({k: v for k, v in data.items() if "nll" not in k}, metric="em", bootstrap=50)
    np.testing.assert_allclose(law.predict(data), data["em"], atol=1e-6)
    parts = law.parts({"N": [3e6], "gold_found": [0.5]})
    assert parts["with gold"][0, 0] == pytest.approx(0.9 - 8 * 3e6**-0.35, rel=1e-5)
    assert parts["without gold"][0, 0] == pytest.approx(0.1 - 0.5 * 3e6**-0.35, rel=1e-5)
    back = FactorisedFit.from_json(law.to_json())
    np.testing.assert_allclose(back.predict_draws(data), law.predict_draws(data), rtol=1e-9)
    held = leave_index_out(data, metric="em")[0]  # lambda is taken to be 1, for want of another index
    assert held["rmse"] < 0.5 * held["rmse_as_exact"]
    with pytest.raises(LawError, match="this law is of em, which is better larger"):
        frontier(law, Costs(tokens=1e8), [1e15])
