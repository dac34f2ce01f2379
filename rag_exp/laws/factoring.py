"""``fit_factorised``: every factor of :mod:`rag_exp.laws.factorised` on its own logged metric, resampled together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rag_exp.core.rng import numpy_rng
from rag_exp.laws.compared import Compared
from rag_exp.laws.factor import Candidate, Factor, fit_factor
from rag_exp.laws.factor_rows import SPLIT, Answers, FactorRows, resampled
from rag_exp.laws.factorised import FactorisedFit
from rag_exp.laws.intervals import check_draws, check_level

COVERAGE = (Candidate("gain(M)", {"E": 1.0}), Candidate("power(M)"), Candidate("saturating(M)"))
RANK = (Candidate("crowded"), Candidate("rising(M)", {"E": 0.0}), Candidate("power(K)"))
RECALL = (Candidate("unsearched"), Candidate("rising(M)", {"E": 0.0}), Candidate("power(S)"))
SCORES = ("em", "f1")
NEVER = 1e-12  # P where no question has its gold passage: a power law needs more than 0
USE = (Candidate("reading"), Candidate("saturating(N)"), Candidate("power(N)"))


def fit_factorised(
    data: Any,
    *,
    metric: str = "nll",
    loss: str = "huber_log",
    delta: float = 0.02,
    level: float = 0.95,
    bootstrap: int = 0,
    seed: int = 0,
    cluster: Sequence[Any] | None = None,
    answers: Mapping[int, Answers] | None = None,
) -> FactorisedFit:
    """Fit the factorised law (its equations are in :mod:`rag_exp.laws.factorised`).

    A replicate resamples the questions, the same for all runs and all factors, and shakes what each factor's law
    leaves unexplained (a wild bootstrap, by cluster). Without ``answers`` the questions' noise is drawn, common to all
    runs: binomial for shares, and by ``nll_se`` for nats, where the runs have it.

    Args:
        data: a DataFrame or mapping, one row per run, with ``metric`` and the columns ``NEEDED``,
            ``SPLIT`` and ``RECALLS`` of
            :mod:`rag_exp.laws.factor_rows`; ``growth`` and ``index`` where there are several;
            ``distances_per_query`` where it was counted, and ``nll_se``; for questions of several gold passages
            ``all_gold@k`` or ``path_recall@k``, and ``CASES`` where they are known.
        metric: ``nll``, whose two cases are logged, or another mean over questions. Its cases are then told apart by a
            law in N and P; of a score (em, f1) the errors are fitted.
        loss: of the nats' residuals; those of shares are squared and weighted by the questions that they are of.
        bootstrap: how many replicates.
        cluster: a label per row (its checkpoint), whose rows are shaken together.
        answers: per row of ``data``, by position, its answers.

    Raises:
        LawError: a column is absent, no row can be used, or the questions need several passages each and nothing says
            how often all are read.
    """
    check_level(level)
    check_draws(bootstrap, level=level)
    runs = FactorRows.read(data, metric, cluster)
    again = resampled(runs, bootstrap, seed, answers)
    options = {"loss": loss, "delta": delta, "level": level, "seed": seed}

    def factor(metric: str, name: str, candidates: tuple[Candidate, ...], at: np.ndarray, w: np.ndarray) -> Factor:
        score = name not in SPLIT
        axes = {a: runs[a][at] for a in (("M", "K", "S") if score else ("N", "K"))}
        replicates = again[name][:, at] if again else None
        clusters = None if score or runs.clusters is None else [runs.clusters[i] for i in at]
        return fit_factor(
            metric, candidates, axes, runs[name][at], w[at], replicates, score=score, options=options, clusters=clusters
        )

    Q, P, covered = runs["questions"], runs["P"], runs["gold_in_corpus"]
    coverage = {
        growth: factor(
            "share not covered", "uncovered", COVERAGE, runs.distinct("M", "uncovered", where=runs.growth == growth), Q
        )
        for growth in dict.fromkeys(runs.growth.tolist())
    }
    searched = runs.distinct("M", "K", "outranked", "incomplete", "uncovered", where=runs.exact & (covered > 0))
    second = None
    if runs.hops_apart:
        began = runs["gold_found@hop1"]
        second = factor("share not completed", "incomplete", RANK, searched[began[searched] > 0], Q * began)
    recall = {
        kind: factor(
            "share of neighbours missed",
            "neighbours_missed",
            RECALL,
            runs.distinct("M", "K", "S", "neighbours_missed", where=(runs.index == kind) & runs.compared),
            Q,
        )
        for kind in dict.fromkeys(runs.index[~runs.exact].tolist())
    }
    searches = {kind: runs.distinct("M", "K", "S", where=runs.index == kind) for kind in recall}
    compared = {kind: Compared.of(runs["M"][at], runs["S"][at]) for kind, at in searches.items()}
    if metric == "nll" and runs.told_apart:
        with_gold = factor("nats with gold", "nll_gold_found", USE, np.flatnonzero(P > 0), Q * P)
        without = factor("nats without gold", "nll_gold_missed", USE, np.flatnonzero(P < 1), Q * (1 - P))
    else:
        with_gold, without = _cases(runs, metric, again, options)
    found = FactorisedFit(
        coverage=coverage,
        rank=factor("share outranked", "outranked", RANK, searched, Q * covered),
        index=_index_factor(runs, again, seed),
        recall=recall,
        compared={kind: c for kind, c in compared.items() if c is not None},
        found=with_gold,
        missed=without,
        level=level,
        ranges={a: (float(runs[a].min()), float(runs[a].max())) for a in ("N", "M", "K")},
        rows={
            "positions": runs.positions.tolist(),
            "left_out": runs.left_out,
            "axes": {a: runs[a].tolist() for a in ("N", "M", "K")},
            "y": runs["y"].tolist(),
            "growth": runs.growth.tolist(),
            "index": runs.index.tolist(),
            "exact": sorted(set(runs.index[runs.exact].tolist())),
            "first_share": runs.first_share,
            "searched_twice": bool((~np.isnan(runs["hop2_recall@j"])).any()),
        },
        resampling={
            "kind": None if not bootstrap else "given and wild" if answers else "binomial and wild",
            "draws": bootstrap,
            "seed": seed if bootstrap else None,
        },
        metric=metric,
        second=second,
    )
    found.warnings = list(dict.fromkeys(w for f in found.factors.values() for w in f.warnings))
    return found


def _cases(
    runs: FactorRows, metric: str, again: dict[str, np.ndarray] | None, options: dict[str, Any]
) -> tuple[Factor, Factor]:
    """A metric with gold and without, as the two ends of one law in N and P."""
    flipped = metric in SCORES
    at = np.flatnonzero(runs["P"] > 0)

    def errors(values: np.ndarray) -> np.ndarray:
        return 1 - values if flipped else values

    one = fit_factor(
        metric,
        (Candidate("mixture", {"gamma": 1.0}),),
        {"N": runs["N"][at], "P": runs["P"][at]},
        errors(runs["y"][at]),
        runs["questions"][at],
        errors(again["y"][:, at]) if again else None,
        score=flipped,
        options=options,
        clusters=None if runs.clusters is None else [runs.clusters[i] for i in at],
    )
    if metric == "nll":
        one.warnings.append(
            "the nats with all gold read and without are known of some runs alone, and were told apart by how nll goes "
            "with P and N (see rag_exp.laws.Answers.cases)"
        )
    ends = ((f"{metric} with gold", 1.0), (f"{metric} without gold", NEVER))
    with_gold, without = (replace(one, metric=name, held={"P": P}, flipped=flipped) for name, P in ends)
    return with_gold, without


def _index_factor(runs: FactorRows, again: dict[str, np.ndarray] | None, seed: int) -> Factor:
    """lambda of 1 - i = lambda (1 - s), by least squares through the origin; 1 where no two runs tell it."""
    metric = "share of gold lost per share of neighbours lost"
    pairs = [(i, j) for i, j in runs.partners() if runs["neighbours_missed"][i] > 0]
    if not pairs:
        inexact = bool((~runs.exact).any())
        warning = f"{metric}: taken to be 1, since no inexact search has an exact one beside it"
        return Factor(metric, constant=1.0, warnings=[warning] * inexact)
    of, by = (np.array(side) for side in zip(*pairs, strict=True))
    x, w = runs["neighbours_missed"][of], (runs["questions"] * runs["P"])[by]

    def slope(found_Rn: np.ndarray, shaken: np.ndarray | float = 0.0) -> np.ndarray:
        lost = 1 - found_Rn[:, of] / np.where(found_Rn[:, by] > 0, found_Rn[:, by], 1) + shaken
        return np.maximum((w * x * lost).sum(1) / (w * x * x).sum(), 0.0)

    value = float(slope(runs["P"][None])[0])
    if again is None:
        return Factor(metric, constant=value)
    lost = 1 - runs["P"][of] / runs["P"][by]
    signs = numpy_rng(seed, "laws", "index factor").choice([-1.0, 1.0], size=(len(again["P"]), len(of)))
    return Factor(metric, constant=value, draws_R=slope(again["P"], signs * (lost - value * x)))
