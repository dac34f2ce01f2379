"""What a floor that is known, and not fitted, makes of a law's exponents.

The generated world's entropies are exact: no reader loses less than ``entropy_given_gold`` with the gold passages
before it, none less than ``entropy`` without any. Where all rows read what the one or the other is about, a law that
falls towards a floor has that value as its floor, and the other parameters no longer trade against it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rag_exp.core.errors import LawError

if TYPE_CHECKING:
    import pandas as pd

    from rag_exp.laws.card import LawFit

ALL_FOUND = 0.9995
"""Gold recall from which on every question is counted as read with its gold passage."""
_SAME = 1e-9


def known_floor(rows: pd.DataFrame, metric: str) -> tuple[str, float] | None:
    """The metric that bounds all rows from below, and its value; None where there is none that all rows share.

    Only ``nll`` has one: it is what the entropies are of.
    """
    if metric != "nll":
        return None
    if set(rows["arm"]) == {"closed_book"}:
        name = "entropy"
    elif "gold_recall@k" in rows and (rows["gold_recall@k"] >= ALL_FOUND).all():
        name = "entropy_given_gold"
    else:
        return None
    if name not in rows or rows[name].isna().any():
        return None
    low, high = float(rows[name].min()), float(rows[name].max())
    return (name, low) if high - low <= _SAME * max(high, 1.0) else None


def with_floor(law: LawFit, name: str, value: float, refit: Callable[[dict[str, float]], LawFit]) -> dict[str, Any]:
    """The law with its floor held at ``value``, beside the law as fitted: what the study's card keeps.

    Returns:
        ``name``, ``value``, and ``params`` and ``intervals`` with the floor held, or None for both and a ``reason``.
    """
    found: dict[str, Any] = {"name": name, "value": value, "params": None, "intervals": None, "reason": None}
    falls = all(t.sign > 0 and t.curve is None and all(f.direction < 0 for f in t.factors) for t in law.form.terms)
    if law.form.floor is None or not falls:
        found["reason"] = f"{law.form.equation} does not fall towards a floor"
    elif min(law.rows["y"]) <= value:
        found["reason"] = f"a run lies at {min(law.rows['y']):.4g}, not above it"
    else:
        try:
            held = refit({law.form.floor: value})
        except LawError as e:
            found["reason"] = str(e)
        else:
            found["params"] = held.params
            found["intervals"] = {k: None if v is None else list(v) for k, v in held.intervals.items()}
    return found


def floor_sentence(law: LawFit, floor: dict[str, Any] | None) -> str | None:
    """``With the floor known (entropy_given_gold, 1.23) alpha is 0.35 [0.33, 0.37] in place of 0.4 [0.3, 0.6]: ...``"""
    if floor is None:
        return None
    known = f"the floor known ({floor['name']}, {floor['value']:.4g} nats)"
    if floor["params"] is None:
        return f"Nothing follows from {known}: {floor['reason']}."
    parts = []
    for name in law.form.exponents:
        wide, narrow = law.intervals.get(name), floor["intervals"].get(name)
        text = f"{name} is {_with(floor['params'][name], narrow)} in place of {_with(law.params[name], wide)}"
        if wide and narrow and narrow[1] > narrow[0]:
            ratio = (wide[1] - wide[0]) / (narrow[1] - narrow[0])
            text += f", {ratio:.2g} times narrower" if ratio > 1 else f", {1 / ratio:.2g} times wider"
        parts.append(text)
    own = str(law.form.floor)
    fitted = f"fitted, the floor is {_with(law.params[own], law.intervals.get(own))}"
    return f"With {known} {' and '.join(parts)}; {fitted}."


def _with(value: float, interval: Any) -> str:
    return f"{value:.3g}" + (f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else "")
