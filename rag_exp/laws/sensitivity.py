"""How much a law's exponents depend on the loss of the residuals that it was fitted with."""

from __future__ import annotations

from typing import Any

from rag_exp.core.errors import LawError
from rag_exp.laws.card import LawFit


def across_losses(law: LawFit) -> dict[str, dict[str, Any]]:
    """The same form on the same rows under every loss: what no resampling of the rows shows.

    Huber's threshold is the law's own where it has one, else 1e-3.

    Returns:
        loss to ``shapes`` (exponents and scales that are not fixed) and ``floor``, or to both as None and a ``reason``.
    """
    from rag_exp.laws.fitting import LOSSES, fit

    data = {**law.rows["axes"], law.y: law.rows["y"]}
    options = {"y": law.y, "delta": law.delta or 1e-3, "fixed": law.fixed, "weights": law.rows["weights"]}
    found: dict[str, dict[str, Any]] = {}
    for loss in LOSSES:
        try:
            params = law.params if loss == law.loss else fit(law.form, data, loss=loss, **options).params  # type: ignore[arg-type]
        except LawError as e:
            found[loss] = {"shapes": None, "floor": None, "reason": str(e)}
            continue
        shapes = {s: params[s] for s in law.form.shapes if s not in law.fixed}
        found[loss] = {"shapes": shapes, "floor": params.get(str(law.form.floor)), "reason": None}
    return found


def moves(found: dict[str, dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Per shape the least and the largest value over the losses; empty where fewer than two could be fitted."""
    known = [f["shapes"] for f in found.values() if f["shapes"] is not None]
    if len(known) < 2:
        return {}
    return {s: (min(k[s] for k in known), max(k[s] for k in known)) for s in known[0]}
