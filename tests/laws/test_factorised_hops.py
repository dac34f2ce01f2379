"""The factorised law of questions that need two gold passages, found by two searches."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_exp.core.errors import LawError
from rag_exp.laws import Answers, FactorisedFit, fit_factorised, leave_index_out, leave_largest_out

TOTAL, LAMBDA = 50_000, 0.7
N_OF, M_OF, K_OF = np.geomspace(1e5, 1e7, 5), np.array([3e3, 1e4, 2e4, 3e4, 5e4]), np.array([1.0, 2.0, 4.0, 8.0])


def with_gold(N):
    return 1 + 160 * N**-0.3


def without(N):
    return 14 + 90 * N**-0.3


def chain(N, M, K, first, at_k, again):
    """The equations of the law, written out by hand: every logged metric of a run that searches twice."""
    covered = (M / TOTAL) ** 1.8
    began = covered * (1 - 0.004 * M**0.3 * K**-0.6)
    w = 0.45
    kept = 1 - LAMBDA * (1 - (w * first + (1 - w) * at_k) * again)
    both = began * (1 - 0.01 * M**0.25 * K**-0.2) * kept
    anything = both + 0.3 * (1 - both)
    # A part of the gold is worth nothing; those who read a part happen to be asked harder questions.
    part, nothing = without(N) + 1.0, without(N)
    rest = (anything - both) * part + (1 - anything) * nothing
    return {
        "gold_in_corpus": covered,
        "gold_found@hop1": began,
        "path_recall@k": both,
        "all_gold@k": both * 1.0001,
        "gold_found": anything,
        "nll": both * with_gold(N) + rest,
        "nll_gold_found": (both * with_gold(N) + (anything - both) * part) / anything,
        "nll_gold_missed": nothing,
        "nll_all_gold": with_gold(N),
        "nll_not_all_gold": rest / (1 - both),
        "gold_recall@1": w * both,
        "gold_recall@k": both,
        "index_recall@1": first,
        "index_recall@k": at_k,
        "hop2_recall@j": again,
    }


def study():
    rows = []
    for kind, slope in (("flat", 0.0), ("ivf", 0.005), ("hnsw", 0.002)):
        for N in N_OF if kind == "flat" else N_OF[2:3]:
            for M in M_OF:
                for K in K_OF:
                    lost = slope * M**0.3
                    own = {"N": N, "M": M, "K": K, "questions": 1000.0, "index": kind, "growth": "coverage"}
                    rows.append(own | chain(N, M, K, 1 - lost / 2, 1 - lost, 1 - 0.8 * lost))
    return {k: np.array([r[k] for r in rows]) for k in rows[0]}


@pytest.fixture(scope="module")
def exact():
    return fit_factorised(study(), bootstrap=40)


def test_both_hops_are_recovered_from_exact_data(exact):
    first, second = exact.rank.law, exact.second.law
    assert exact.coverage["coverage"].law.params["gamma"] == pytest.approx(1.8, rel=1e-5)
    assert [first.params[p] for p in ("B", "rho", "kappa")] == pytest.approx([0.004, 0.3, 0.6], rel=1e-5)
    assert [second.params[p] for p in ("B", "rho", "kappa")] == pytest.approx([0.01, 0.25, 0.2], rel=1e-5)
    assert exact.index.constant == pytest.approx(LAMBDA, rel=1e-9)
    assert exact.found.law.params["alpha"] == pytest.approx(0.3, rel=1e-3)
    assert list(exact.factors)[1:4] == ["rank", "rank of the second hop", "index"]


def test_the_chain_predicts_where_no_run_was(exact):
    truth = chain(3e6, 1.5e4, 3.0, 0.97, 0.95, 0.94)
    point = {"N": [3e6], "M": [1.5e4], "K": [3.0]}
    searched = {k: [truth[k]] for k in ("index_recall@1", "index_recall@k", "hop2_recall@j")}
    parts = exact.parts({**point, **searched})
    assert parts["P"][0, 0] == pytest.approx(truth["path_recall@k"], rel=1e-4)
    assert exact.predict({**point, **searched})[0] == pytest.approx(truth["nll"], rel=0.01)
    with pytest.raises(LawError, match=r"searched twice: give hop2_recall@j"):
        exact.predict({**point, "index_recall@k": [0.9]})


def test_what_reads_all_of_the_gold_counts_and_not_what_reads_any(exact):
    data = study()
    np.testing.assert_allclose(exact.parts(data)["P"][0], data["path_recall@k"])
    np.testing.assert_allclose(exact.predict(data), data["nll"], rtol=0.01)
    alone = {"N": [1e6, 1e6], "K": [4.0, 4.0], "path_recall@k": [None, 0.2], "all_gold@k": [0.3, 0.4]}
    assert exact.parts(alone)["P"].tolist() == [[0.3, 0.2]]


def test_held_out_indexes_and_sizes():
    for row in leave_index_out(study()):
        assert row["rmse"] < 0.01 < row["rmse_as_exact"]
    assert leave_largest_out(study(), "N")["rmse"] < 0.01


def test_cases_that_were_not_logged_are_told_apart_by_N_and_P():
    logged = {k: v for k, v in study().items() if k not in ("nll_all_gold", "nll_not_all_gold")}
    flat = {k: v[logged["index"] == "flat"] for k, v in logged.items()}
    law = fit_factorised(flat)
    assert any("told apart by how nll goes with P and N" in w for w in law.warnings)
    asked = {"N": N_OF, "path_recall@k": np.full(5, 1.0)}
    np.testing.assert_allclose(law.predict(asked), with_gold(N_OF), rtol=0.02)
    np.testing.assert_allclose(law.predict(flat), flat["nll"], rtol=0.01)


def test_data_that_do_not_say_how_often_all_is_read_are_refused():
    without_them = {k: v for k, v in study().items() if "all_gold" not in k and k != "path_recall@k"}
    with pytest.raises(LawError, match=r"several passages each.*Give all_gold@k, or path_recall@k"):
        fit_factorised(without_them)


def test_a_card_gives_back_both_hops(exact):
    back = FactorisedFit.from_json(exact.to_json())
    at = {"N": [1e6, 4e6], "M": [5e3, 1e5], "K": [2.0, 16.0], "index": ["ivf", "flat"]}
    np.testing.assert_array_equal(back.predict(at), exact.predict(at))
    np.testing.assert_allclose(back.predict_draws(at), exact.predict_draws(at), rtol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 40), st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_the_identity_is_exact_question_by_question(questions):
    value, found, began = (np.array(column) for column in zip(*questions, strict=True))
    found = found & began
    cases = Answers(value, found, np.ones(len(found), bool), began).cases()
    P = found.mean()
    parts = [share * cases[k] for k, share in (("nll_all_gold", P), ("nll_not_all_gold", 1 - P)) if share]
    assert sum(parts) == pytest.approx(value.mean(), rel=1e-12)
    assert (cases["nll_all_gold"] is None, cases["nll_not_all_gold"] is None) == (P == 0, P == 1)
    assert cases["gold_found@hop1"] == began.mean()


def test_noise_of_the_questions_reaches_both_hops():
    """Answers drawn question by question: the truth lies within the interval, and each hop's rank is resampled."""
    rng = np.random.default_rng(1)
    data = study()
    keep = (data["index"] == "flat") & (data["K"] == 4)
    data = {k: v[keep] for k, v in data.items()}
    luck, hard = rng.uniform(size=600), rng.gamma(4, 0.25, 600)
    answers = {}
    for i in range(len(data["N"])):
        covered, began, both = (luck < data[k][i] for k in ("gold_in_corpus", "gold_found@hop1", "path_recall@k"))
        nll = np.where(both, with_gold(data["N"][i]), without(data["N"][i])) * hard * np.exp(rng.normal(0, 0.005))
        answers[i] = Answers(nll, both, covered, began)
        data["gold_in_corpus"][i], data["path_recall@k"][i], data["nll"][i] = covered.mean(), both.mean(), nll.mean()
        for name, value in answers[i].cases().items():
            data[name][i] = np.nan if value is None else value
    law = fit_factorised(data, bootstrap=200, answers=answers)
    said = law.predict({"N": [3e6], "M": [1.5e4], "K": [4.0]}, interval=0.99)
    truth = chain(3e6, 1.5e4, 4.0, 1.0, 1.0, 1.0)["path_recall@k"]
    assert said.low_n[0] < truth * with_gold(3e6) + (1 - truth) * without(3e6) < said.high_n[0]
    for factor in (law.rank, law.second):
        spread = factor.values({"M": np.array([1.5e4]), "K": np.array([4.0])}, draws=True)
        assert spread.std() > 0


def test_on_a_studys_records_larger_corpora_are_predicted_through_both_hops():
    """Records alone, whose nats are not told apart by all of the gold; the chain's path is what is read."""
    from rag_exp.analysis.tables import load_study

    table = load_study(Path(__file__).parents[2] / "results" / "two_hop_sizes")
    assert (table["gold_found"] > table["path_recall@k"] + 0.05).sum() > 10  # any gold is no measure of all
    one = leave_largest_out(table, "M", 1, joint=("joint_gain", "joint_coverage"), delta=0.02)
    two = leave_largest_out(table, "M", 2, joint=("joint_gain", "joint_coverage"), delta=0.02)
    assert (one["rows"], two["rows"]) == (4, 8)
    for row in (one, two):
        assert row["rmse"] < 0.045 < 0.06 < row["rmse_joint"]
        assert row["rmse_measured"] < 0.02
    law = fit_factorised(table)
    assert 1.8 < law.coverage["coverage"].law.params["gamma"] < 2.5  # both of two passages
    assert law.coverage["distractor"].constant == 0.0
    assert 0.1 < law.index.constant < 0.35
