"""The laws' engine against general optimisers, side by side on one core: ``python scripts/bench_laws.py``.

240 points are drawn from Chinchilla's law (Besiroglu et al. 2024) on the compute range of Hoffmann et al. 2022, with
0.5% noise; a CSV file with columns N, D and loss may be given instead. Times are of the process (CPU) and of the clock.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from itertools import product
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.optimize import minimize

from rag_exp.laws import compare, fit

DRAWS = 4000
SAMPLE = 100  # replicates that BFGS is timed on
SHARE = 0.05  # of the 4,500 starts that L-BFGS is timed on
DELTA = 1e-3
FORMS = (
    "saturating(N)",
    "saturating(D)",
    "multiplicative",
    "chinchilla",
    "chinchilla_tied",
    "chinchilla_cross",
    "over_training",
    "kaplan",
    "kaplan_no_floor",
    "skaling",
)
HOLDOUTS = ("largest_compute", "largest_N", "largest_D")


def points() -> dict[str, np.ndarray]:
    if len(sys.argv) > 1:
        import pandas as pd

        table = pd.read_csv(sys.argv[1])
        return {k: table[k].to_numpy(dtype=float) for k in ("N", "D", "loss")}
    rng = np.random.default_rng(0)
    C = np.repeat(np.geomspace(6e18, 3e21, 12), 20)
    N = np.sqrt(C / 120) * np.tile(np.geomspace(0.2, 5, 20), 12)
    D = C / (6 * N)
    loss = 1.8172 + 482.01 * N**-0.3478 + 2085.43 * D**-0.3658
    return {"N": N, "D": D, "loss": loss * np.exp(rng.normal(0, 0.005, len(N)))}


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What the work returns, and its seconds of CPU and of the clock."""
    clock, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.process_time() - cpu, time.perf_counter() - clock


class Logs:
    """The same objective for a general optimiser: logarithms of A, B and E, log-sum-exp, analytic gradient."""

    def __init__(self, data: dict[str, np.ndarray]):
        self.n, self.d, self.y = (np.log(data[k]) for k in ("N", "D", "loss"))

    def __call__(self, v: np.ndarray, w: np.ndarray) -> tuple[float, np.ndarray]:
        a, b, e, alpha, beta = v
        parts = np.stack([a - alpha * self.n, b - beta * self.d, np.full(len(self.n), e)])
        top = parts.max(0)
        total = top + np.log(np.exp(parts - top).sum(0))
        r = total - self.y
        inside = np.minimum(np.abs(r), DELTA)
        pull = w * np.clip(r, -DELTA, DELTA)
        share = np.exp(parts - total)
        slope = [pull @ share[0], pull @ share[1], pull @ share[2], -(pull * share[0]) @ self.n]
        return float(w @ (inside * (np.abs(r) - inside / 2))), np.array([*slope, -(pull * share[1]) @ self.d])


def bootstraps(data: dict[str, np.ndarray]) -> None:
    law, cpu, clock = timed(lambda: fit("chinchilla", data, bootstrap=DRAWS))
    print(f"{DRAWS:,} certified bootstraps of five parameters on {len(data['N'])} points")
    print(f"  here: {cpu:.2f} s of CPU, {clock:.2f} s; worst gradient {law.resampling['worst_gradient']:.1e}")
    objective, rng, n = Logs(data), np.random.default_rng(0), len(data["N"])
    start = np.array([np.log(law.params[p]) for p in "ABE"] + [law.params["alpha"], law.params["beta"]])
    weights = rng.multinomial(n, np.full(n, 1 / n), size=SAMPLE).astype(float)

    def general() -> list[Any]:
        return [minimize(objective, start, args=(w,), jac=True, method="BFGS", options={"gtol": 1e-9}) for w in weights]

    found, theirs, _ = timed(general)
    mine = fit("chinchilla", data, resamples=weights)
    best = [objective(_as_logs(draw), w)[0] for draw, w in zip(mine.draws.to_dict("records"), weights, strict=True)]
    over = np.array([f.fun for f in found]) / np.array(best) - 1
    ratio = theirs / SAMPLE / (cpu / DRAWS)
    print(f"  BFGS with an analytic gradient: {theirs / SAMPLE * 1e3:.2f} ms a replicate, ours {cpu / DRAWS * 1e3:.3f}")
    print(f"  ratio {ratio:.0f}; its objectives above ours: median {np.median(over):.1e}, largest {over.max():.1e}")


def _as_logs(draw: dict[str, float]) -> np.ndarray:
    return np.array([np.log(draw[p]) for p in "ABE"] + [draw["alpha"], draw["beta"]])


def cold(data: dict[str, np.ndarray]) -> None:
    runs = [timed(lambda: fit("chinchilla", data)) for _ in range(7)]
    law, cpu = runs[0][0], float(np.median([c for _, c, _ in runs]))
    print(f"a cold global fit\n  here: {cpu * 1e3:.1f} ms of CPU (median of 7)")
    objective, ones = Logs(data), np.ones(len(data["N"]))
    grid = list(product(range(0, 26, 5), range(0, 26, 5), np.arange(-1, 1.1, 0.5), np.arange(0, 2.1, 0.5), repeat=1))
    starts = [(a, b, e, x, y) for a, b, e, x in grid for y in np.arange(0, 2.1, 0.5)]
    chosen = np.random.default_rng(0).permutation(len(starts))[: int(SHARE * len(starts))]

    def general() -> float:
        return min(minimize(objective, starts[i], args=(ones,), jac=True, method="L-BFGS-B").fun for i in chosen)

    lowest, theirs, _ = timed(general)
    whole = theirs / len(chosen) * len(starts)
    print(f"  L-BFGS from {len(starts):,} starts: {whole:.1f} s (timed on {len(chosen)}); ratio {whole / cpu:.0f}")
    print(f"  its lowest objective {lowest:.10g}, ours {law.objective:.10g}")


def many(data: dict[str, np.ndarray]) -> None:
    table, cpu, clock = timed(lambda: compare(FORMS, data, list(HOLDOUTS), bootstrap=1000))
    print(f"{len(FORMS)} forms x 1,000 bootstraps x {len(HOLDOUTS)} hold-outs: {cpu:.1f} s of CPU, {clock:.1f} s")
    print(table[["form", "heldout", "spread", "reason"]].to_string(index=False))


if __name__ == "__main__":
    rows = points()
    bootstraps(rows)
    cold(rows)
    many(rows)
