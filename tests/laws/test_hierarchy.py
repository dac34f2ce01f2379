import numpy as np
import pytest

from rag_exp.core.errors import LawError
from rag_exp.laws import fit
from rag_exp.laws.forms import form_by_name
from rag_exp.laws.hierarchy import question_means, seed_weights
from rag_exp.laws.rows import read_rows

SIZES, CORPORA, SEEDS, Q = np.geomspace(2e5, 4e6, 5), np.geomspace(1000, 32_000, 4), 3, 120
RUN = np.repeat(np.arange(5), 4 * SEEDS)
SEED = np.tile(np.repeat(np.arange(SEEDS), 4), 5)
N, M = SIZES[RUN], np.tile(CORPORA, 5 * SEEDS)
TRUE = 2 + 150 * N**-0.35 + 20 * M**-0.3


def study(seed=0, between_seeds=0.01, runs=0.0):
    """Losses of every question, [Q, rows], and their means: seeds differ by 1%, questions by much more."""
    rng = np.random.default_rng(seed)
    shift = rng.normal(0, between_seeds, (5, SEEDS))[RUN, SEED] + rng.normal(0, runs, 5)[RUN]
    hard = rng.gamma(4, 0.25, Q)
    nll = np.outer(hard / hard.mean(), TRUE * np.exp(shift))
    return nll, {"N": N, "M": M, "run": RUN, "seed": SEED, "loss": nll.mean(0)}


def rows_of(data, **labels):
    return read_rows(form_by_name("joint"), data, "loss", **labels)


def test_questions_are_drawn_for_all_rows_together():
    nll, data = study()
    draws = question_means(rows_of(data), nll, 200, 0)
    np.testing.assert_allclose(draws / draws[:, :1], data["loss"] / data["loss"][0] * np.ones((200, 1)))
    assert (draws[:, 0] / data["loss"][0]).std() == pytest.approx(
        nll[:, 0].std() / nll[:, 0].mean() / np.sqrt(Q), rel=0.15
    )


def test_a_seed_of_a_run_is_counted_whole_and_every_run_stays():
    times, alone = seed_weights(rows_of(study()[1], cluster="run", seeds="seed"), 500, 0)
    assert not alone.any()
    by = times.reshape(500, 5, SEEDS, 4)
    assert (by == by[..., :1]).all()
    np.testing.assert_allclose(by[..., 0].sum(2), SEEDS)  # two draws of three seeds, 3/2 each
    assert set(np.unique(times)) == {0.0, 1.5, 3.0}


def test_the_variance_of_a_mean_over_seeds_is_that_of_the_seeds():
    """Rao-Wu: over three seeds a mean varies by s^2 / 3, not by the plain bootstrap's 2/3 of it."""
    values = np.array([1.0, 2.0, 4.0])
    data = {"N": np.repeat([1.0, 2.0, 3.0], 3), "M": np.repeat([1.0, 2.0, 3.0], 3), "loss": np.ones(9)}
    rows = rows_of(data, cluster=np.repeat([0, 1, 2], 3).tolist(), seeds=np.tile([0, 1, 2], 3).tolist())
    times, _ = seed_weights(rows, 20_000, 0)
    assert (times[:, :3] @ values / 3).var() == pytest.approx(values.var(ddof=1) / 3, rel=0.03)


def test_runs_of_one_seed_are_shaken_by_their_residuals():
    _, data = study()
    keep = (SEED == 0) | (RUN < 3)
    some = {k: v[keep] for k, v in data.items()}
    times, alone = seed_weights(rows_of(some, cluster="run", seeds="seed"), 50, 0)
    np.testing.assert_array_equal(alone, RUN[keep] >= 3)
    assert (times[:, alone] == 1).all()
    law = fit("joint", some, bootstrap=60, bootstrap_kind="hierarchical", cluster="run", seeds="seed", loss="ls_log")
    assert law.resampling["levels"] == {
        "questions": None,
        "rows with other seeds": 36,
        "rows shaken by their residuals": 8,
    }


def test_each_level_adds_its_noise():
    nll, data = study(between_seeds=0.003)
    options = {"bootstrap": 200, "bootstrap_kind": "hierarchical", "cluster": "run", "loss": "ls_log"}
    seeds = fit("joint", data, seeds="seed", **options)
    both = fit("joint", data, seeds="seed", questions=nll, **options)
    # Questions are common: they move the level (the floor and the coefficients), hardly the exponents.
    level = {k: law.predict({"N": 1e6, "M": 1e4}, interval=0.9) for k, law in (("seeds", seeds), ("both", both))}
    width = {k: p.high_n[0] - p.low_n[0] for k, p in level.items()}
    assert width["both"] > 5 * width["seeds"]
    sd = {k: law.draws["alpha"].std() for k, law in (("seeds", seeds), ("both", both))}
    assert sd["both"] == pytest.approx(sd["seeds"], rel=0.2)
    assert both.resampling["kind"] == "hierarchical"
    assert both.resampling["levels"]["questions"] == Q


def test_intervals_hold_the_truth_as_often_as_they_say_or_more():
    """90% intervals on 40 studies of five sizes and three seeds: at least 30 hits, the 0.1% point of the binomial."""
    hits = dict.fromkeys(("alpha", "beta", "E"), 0)
    for s in range(40):
        _, data = study(seed=s)
        law = fit(
            "joint",
            data,
            bootstrap=100,
            bootstrap_kind="hierarchical",
            cluster="run",
            seeds="seed",
            loss="ls_log",
            level=0.9,
            seed=s,
        )
        for name, value in (("alpha", 0.35), ("beta", 0.3), ("E", 2.0)):
            low, high = law.intervals[name]
            hits[name] += low <= value <= high
    assert all(h >= 30 for h in hits.values()), hits


def test_what_does_not_fit_together_is_refused():
    nll, data = study()
    options = {"bootstrap": 50, "bootstrap_kind": "hierarchical"}
    with pytest.raises(LawError, match="needs cluster=COLUMN, the run"):
        fit("joint", data, **options)
    with pytest.raises(LawError, match=r"questions must have shape \[questions, 60\]"):
        fit("joint", data, cluster="run", questions=nll[:, :5], **options)
    with pytest.raises(LawError, match="Row 0: the mean loss of its questions"):
        fit("joint", data, cluster="run", questions=nll * 2, **options)
    with pytest.raises(LawError, match="59 seed labels for 60 rows"):
        fit("joint", data, cluster="run", seeds=SEED[:-1], **options)
    with pytest.raises(LawError, match="belong to bootstrap_kind='hierarchical'"):
        fit("joint", data, seeds="seed", bootstrap=50)


def test_replicates_are_reproducible():
    nll, data = study()
    options = {"bootstrap": 60, "bootstrap_kind": "hierarchical", "cluster": "run", "seeds": "seed", "questions": nll}
    a, b, c = (fit("joint", data, seed=s, delta=0.02, **options).draws_Rp for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
