"""Which runs to add within a budget, replayed on real points: ``python scripts/bench_suggest.py [FILE.csv]``.

The points of a study (by default the 240 of Hoffmann et al. 2022, Figure 4) are sold for their FLOPs. The largest by
compute are held out; of the others a random part is the pool. A study starts with a dozen cheap runs and buys more by a
rule until a share of the pool's FLOPs is spent. Chinchilla's law is then fitted to what it has and asked for what is
held out. Printed per rule and share: the error (RMSE of log losses) over that of the whole pool, the median of all
starts and in brackets its middle half; how many runs were bought; and last, per share, the part of the starts in which
the rule erred no more than the baseline.

A CSV file has columns N, D and loss (FLOPs are then 6 N D), or those of the default file.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from rag_exp.core.errors import LawError
from rag_exp.laws import LawFit, Offer, fit, largest_affordable

DATA = Path(__file__).parents[2] / "shared" / "data" / "scaling-laws" / "epoch-chinchilla" / "svg_extracted_data.csv"
SHARES = (0.01, 0.03, 0.1, 0.3)
START = 12
KEPT = 0.6  # of the points below the held-out ones, per start
BASELINE = "largest"


@dataclass
class Replay:
    """One start: the pool, what is known at first, and the law of that."""

    N: np.ndarray
    D: np.ndarray
    loss: np.ndarray
    flops: np.ndarray
    held: np.ndarray
    pool: np.ndarray
    known: list[int]
    law: LawFit
    rng: np.random.Generator

    def fit(self, rows: list[int]) -> LawFit:
        return fit_rows(self.N, self.D, self.loss, rows)

    def error(self, rows: list[int]) -> float:
        """RMSE of the log loss of the held-out points, by a law of ``rows``."""
        said = self.fit(rows).predict({"N": self.N[self.held], "D": self.D[self.held]})
        return float(np.sqrt((np.log(said / self.loss[self.held]) ** 2).mean()))

    def jacobian(self) -> np.ndarray:
        """d log loss / d log parameter of all points by the first law, with unit columns."""
        p = np.array([self.law.params[name] for name in self.law.form.parameters])
        step = 1e-5 * np.eye(len(p))
        values = np.log(
            self.law.values({"N": self.N, "D": self.D}, np.concatenate([p * np.exp(step), p * np.exp(-step)]))
        )
        J = ((values[: len(p)] - values[len(p) :]) / 2e-5).T
        return J / np.maximum(np.abs(J).max(0), 1e-300)


def fit_rows(N: np.ndarray, D: np.ndarray, loss: np.ndarray, rows: list[int]) -> LawFit:
    return fit("chinchilla", {"N": N[rows], "D": D[rows], "loss": loss[rows]}, loss="huber_log", delta=1e-3)


Rule = Callable[[Replay, float], list[int]]


def at_random(r: Replay, budget: float) -> list[int]:
    bought: list[int] = []
    while len(can := [i for i in r.pool if i not in bought and r.flops[i] <= budget - r.flops[bought].sum()]):
        bought.append(int(r.rng.choice(can)))
    return bought


def largest(parts: int) -> Rule:
    """The rule of the package: the largest that a share of the budget pays for, again and again."""

    def rule(r: Replay, budget: float) -> list[int]:
        offers = [Offer(size=c, own=c) for c in r.flops[r.pool]]
        return [int(r.pool[i]) for i, _ in largest_affordable(offers, budget, parts)]

    return rule


def within(*axes: str) -> Rule:
    """The largest among what has no value on ``axes`` beyond those that the study has already."""

    def rule(r: Replay, budget: float) -> list[int]:
        most = {axis: getattr(r, axis)[r.known].max() for axis in axes}
        pool = [i for i in r.pool if all(getattr(r, axis)[i] <= most[axis] for axis in axes)]
        return largest(1)(replace(r, pool=np.array(pool, dtype=int)), budget)

    return rule


def in_turn(r: Replay, budget: float) -> list[int]:
    """The affordable run of the most parameters, then that of the most tokens, in turn."""
    bought: list[int] = []
    while len(can := [i for i in r.pool if i not in bought and r.flops[i] <= budget - r.flops[bought].sum()]):
        axis, other = (r.N, r.D) if len(bought) % 2 == 0 else (r.D, r.N)
        bought.append(max(can, key=lambda i: (axis[i], other[i])))
    return bought


def spread(r: Replay, budget: float) -> list[int]:
    """Of those that cost at least half of the largest affordable, the one farthest from all runs at hand in (N, D)."""
    logs = np.log(np.stack([r.N, r.D], axis=1))
    bought: list[int] = []
    while len(can := [i for i in r.pool if i not in bought and r.flops[i] <= budget - r.flops[bought].sum()]):
        near = [i for i in can if r.flops[i] >= 0.5 * max(r.flops[can])]
        have = logs[[*r.known, *bought]]
        bought.append(max(near, key=lambda i: np.abs(have - logs[i]).sum(1).min()))
    return bought


def optimal(of_targets: bool, per_flop: bool) -> Rule:
    """Greedy D-optimal (the information's determinant) or V-optimal (mean variance at the held-out points)."""

    def rule(r: Replay, budget: float) -> list[int]:
        J = r.jacobian()
        information = J[r.known].T @ J[r.known] + 1e-9 * np.eye(J.shape[1])
        bought: list[int] = []
        while len(
            can := np.array([i for i in r.pool if i not in bought and r.flops[i] <= budget - r.flops[bought].sum()])
        ):
            covariance = np.linalg.inv(information)
            own = np.einsum("ip,pq,iq->i", J[can], covariance, J[can])
            gain = np.log1p(own)
            if of_targets:
                gain = ((J[r.held] @ covariance @ J[can].T) ** 2).mean(0) / (1 + own)
            best = int(can[np.argmax(gain / r.flops[can] if per_flop else gain)])
            bought.append(best)
            information = information + np.outer(J[best], J[best])
        return bought

    return rule


RULES: dict[str, Rule] = {
    "random": at_random,
    BASELINE: largest(1),
    "largest, halves": largest(2),
    "largest, thirds": largest(3),
    "largest, quarters": largest(4),
    "largest, sixths": largest(6),
    "largest, twelfths": largest(12),
    "largest, no new lengths": within("D"),
    "largest, no new sizes": within("N"),
    "most N and most D in turn": in_turn,
    "largest, spread over N and D": spread,
    "D-optimal": optimal(False, False),
    "D-optimal per FLOP": optimal(False, True),
    "V-optimal": optimal(True, False),
    "V-optimal per FLOP": optimal(True, True),
}


def points(file: Path) -> dict[str, np.ndarray]:
    """N, D, loss and FLOPs in the order of compute; of the default file without the five largest losses."""
    import pandas as pd

    table = pd.read_csv(file)
    if "Model Size" in table:
        table = table[table["loss"] < table["loss"].nlargest(5).min()]
        N, C = table["Model Size"].to_numpy(float), table["Training FLOP"].to_numpy(float)
        D = C / (6 * N)
    else:
        N, D = table["N"].to_numpy(float), table["D"].to_numpy(float)
        C = 6 * N * D
    order = np.argsort(C, kind="stable")
    loss = table["loss"].to_numpy(float)
    return {"N": N[order], "D": D[order], "loss": loss[order], "flops": C[order]}


def starts(data: dict[str, np.ndarray], held: int, count: int) -> list[Replay]:
    found = []
    below = np.arange(len(data["N"]) - held)
    for seed in range(count):
        rng = np.random.default_rng(seed)
        part = np.sort(rng.choice(below, int(KEPT * len(below)), replace=False))
        known = sorted(int(i) for i in rng.choice(part[: len(part) // 3], START, replace=False))
        pool = np.array([i for i in part if i not in known])
        law = fit_rows(data["N"], data["D"], data["loss"], known)
        found.append(
            Replay(**data, held=np.arange(len(below), len(data["N"])), pool=pool, known=known, law=law, rng=rng)
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=DATA)
    parser.add_argument("--starts", type=int, default=40)
    parser.add_argument("--held", type=float, default=0.2, help="share of the points held out, the largest by compute")
    parser.add_argument("--rules", nargs="*", choices=list(RULES), default=list(RULES), metavar="RULE")
    given = parser.parse_args()
    rules = {name: RULES[name] for name in dict.fromkeys([*given.rules, BASELINE])}
    data = points(given.file)
    held = int(given.held * len(data["N"]))
    errors: dict[tuple[str, float], list[float]] = {}
    runs: dict[tuple[str, float], list[int]] = {}
    for replay in starts(data, held, given.starts):
        whole = replay.error([*replay.known, *replay.pool])
        total = replay.flops[replay.pool].sum()
        for share in SHARES:
            for name, rule in rules.items():
                bought = rule(replay, share * total)
                assert replay.flops[bought].sum() <= share * total * (1 + 1e-9)
                try:
                    error = replay.error([*replay.known, *bought]) / whole
                except LawError:
                    error = np.inf
                errors.setdefault((name, share), []).append(error)
                runs.setdefault((name, share), []).append(len(bought))
    print(f"{len(data['N'])} points, the largest {held} held out; {given.starts} starts; error over the whole pool's")
    print(f"{'of the FLOPs:':30}" + "".join(f"{share:>26.0%}" for share in SHARES) + "   as good as the largest")
    for name in rules:
        line = f"{name:30}"
        for share in SHARES:
            low, middle, high = np.percentile(errors[name, share], [25, 50, 75])
            line += f"{middle:8.2f} [{low:.2f}, {high:.2f}] {np.mean(runs[name, share]):4.0f}x"
        wins = [np.mean(np.array(errors[name, s]) <= np.array(errors[BASELINE, s])) for s in SHARES]
        print(line + "   " + " ".join(f"{w:4.0%}" for w in wins))


if __name__ == "__main__":
    main()
