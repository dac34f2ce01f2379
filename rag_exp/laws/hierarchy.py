"""The hierarchical bootstrap: questions, seeds and runs, each resampled where its noise lies.

* questions are drawn for all rows together: an easy set of questions lowers every run's loss;
* a run (a configuration) is part of the design, which the study chose, so that runs stay. Of a run's S seeds S - 1
  are drawn with replacement and counted S / (S - 1) times (Rao & Wu 1988): S of them would understate the variance
  by (S - 1) / S, a third with three seeds;
* a run with one seed shows its noise nowhere but in how far it is off the law: its residuals are shaken, as in the
  wild bootstrap.

Drawing runs with replacement, and seeds within each drawn run, counts the noise of seeds twice (Davison & Hinkley
1997, section 3.8) and loses levels of the axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rag_exp.core.errors import LawError
from rag_exp.core.rng import numpy_rng
from rag_exp.laws.rows import Rows

_CHUNK = 64
_SAME = 1e-6  # relative: the mean of the questions' losses is the row's


def question_means(rows: Rows, questions_QR: Any, draws: int, seed: int) -> np.ndarray:
    """Losses of every row over resampled questions: [draws, n].

    Args:
        questions_QR: per question and row of the data its loss, the same questions in the same order for all rows.

    Raises:
        LawError: another shape, a loss that is not finite, or one whose mean is not the row's loss.
    """
    nll_QR = np.asarray(questions_QR, dtype=float)
    total = len(rows) + len(rows.left_out)
    if nll_QR.ndim != 2 or nll_QR.shape[1] != total or not len(nll_QR):
        raise LawError(f"questions must have shape [questions, {total}] (rows as in the data); it is {nll_QR.shape}.")
    nll_Qn = nll_QR[:, rows.positions_n]
    mean_n = nll_Qn.mean(0)
    off = np.flatnonzero(~(np.abs(mean_n - rows.y_n) <= _SAME * np.abs(rows.y_n)))
    if len(off):
        i = off[0]
        raise LawError(
            f"Row {rows.positions_n[i]}: the mean loss of its questions is {mean_n[i]:.6g}, but its loss is "
            f"{rows.y_n[i]:.6g} ({len(off)} of {len(rows)} rows differ). Give the losses that the rows are means of."
        )
    rng = numpy_rng(seed, "laws", "questions")
    Q = len(nll_Qn)
    out = np.empty((draws, len(rows)))
    for start in range(0, draws, _CHUNK):
        stop = min(start + _CHUNK, draws)
        out[start:stop] = rng.multinomial(Q, np.full(Q, 1.0 / Q), size=stop - start) @ nll_Qn / Q
    return out


def seed_weights(rows: Rows, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often a replicate counts each row, and which rows belong to a run of one seed: [draws, n] and [n].

    Raises:
        LawError: no runs are given.
    """
    if rows.clusters_n is None:
        raise LawError("bootstrap_kind='hierarchical' needs cluster=COLUMN, the run (a configuration) of every row.")
    rng = numpy_rng(seed, "laws", "seeds")
    times_Rn = np.ones((draws, len(rows)))
    alone_n = np.ones(len(rows), dtype=bool)
    if rows.seeds_n is None:
        return times_Rn, alone_n
    for run in range(int(rows.clusters_n.max()) + 1):
        mine = np.flatnonzero(rows.clusters_n == run)
        seeds, which = np.unique(rows.seeds_n[mine], return_inverse=True)
        S = len(seeds)
        if S < 2:
            continue
        drawn = rng.multinomial(S - 1, np.full(S, 1.0 / S), size=draws) * (S / (S - 1))
        times_Rn[:, mine] = drawn[:, which]
        alone_n[mine] = False
    return times_Rn, alone_n
