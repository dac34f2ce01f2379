"""The result of a fit, which is also the fit card: all that figures and words need, in one JSON text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rag_exp.core.errors import LawError, did_you_mean
from rag_exp.laws.columns import names_of, numbers
from rag_exp.laws.definitions import check_same
from rag_exp.laws.evaluation import evaluate_logs
from rag_exp.laws.form import AXES, Form
from rag_exp.laws.forms import form_by_name
from rag_exp.laws.intervals import check_level, percentiles

if TYPE_CHECKING:
    import pandas as pd

CARD_SCHEMA = 1
_NUMBERS = re.compile(r"\[\s*((?:[-+.\deE]+,\s*)*[-+.\deE]+)\s*\]")
CARD_DRAWS = 1000


def card_text(value: dict[str, Any]) -> str:
    """JSON for people: indented, but with a list of numbers on one line."""
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    return _NUMBERS.sub(lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]", text)


def thinned(draws: np.ndarray | None) -> np.ndarray | None:
    """At most ``CARD_DRAWS`` draws, evenly spaced: equal numbers of draws stay paired."""
    if draws is None or len(draws) <= CARD_DRAWS:
        return draws
    return draws[np.linspace(0, len(draws) - 1, CARD_DRAWS).round().astype(int)]


def _plain_covariance(draws_Rp: np.ndarray) -> list[list[float | None]]:
    """None where draws are too large to be squared."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.atleast_2d(np.cov(np.ascontiguousarray(draws_Rp), rowvar=False))
    return [[float(v) if np.isfinite(v) else None for v in row] for row in found]


class Prediction(NamedTuple):
    """Predicted losses with a pointwise interval of the curve (not of a new run, which adds its own noise).

    Attributes:
        low_n, high_n: the interval; it spans the intervals of all acceptable forms (``LawFit.alternatives``).
        beyond_n: decades outside the data's range, on the axis that is farthest out (:meth:`LawFit.distance` has all).
        forms_low_n, forms_high_n: the least and the largest value that an acceptable form predicts.
    """

    value_n: np.ndarray
    low_n: np.ndarray
    high_n: np.ndarray
    beyond_n: np.ndarray
    forms_low_n: np.ndarray
    forms_high_n: np.ndarray


@dataclass(repr=False)
class LawFit:
    """A fitted law. Printed, it shows its parameters with their intervals and its warnings.

    Attributes:
        form: what was fitted.
        params: the papers' names to values; a term is sign * coefficient * axis^(+-exponent).
        objective: the minimum reached, a sum over rows.
        intervals: per parameter (low, high) at ``level``; None where nothing was resampled, or where
            ``unidentified`` names the parameter.
        draws_Rp: parameters of every replicate (thinned on a card read back); None without replicates.
        certificate: ``gradient`` (a cosine, 0 at a minimum) and the ``goal`` it met, ``starts``, ``agreeing`` starts,
            ``basins``, ``runner_up_gap`` (relative objective of the next basin), ``eigenvalue_ratio`` and
            ``flat_direction`` of the Hessian, and what the replicates did.
        warnings: what a reader must know.
        rows: axes and losses used (``axes``, ``y``, ``weights``, ``positions``, and where they were given a number per
            cluster and seed: ``clusters``, ``seeds``) and ``left_out`` with reasons.
        unidentified: parameters that the data say nothing about.
        coverage: how often intervals like these held the truth on simulated studies of this design (see
            :mod:`rag_exp.laws.coverage`); empty where that was not asked.
        across_losses: what the shapes are under each loss (see :func:`rag_exp.laws.across_losses`); empty where that
            was not asked.
        alternatives: fits of other forms to the same rows that hold-outs do not tell from this one (see
            :func:`rag_exp.laws.acceptable`). Intervals of predictions span theirs.
    """

    form: Form
    y: str
    loss: str
    delta: float | None
    params: dict[str, float]
    objective: float
    fixed: dict[str, float]
    level: float
    intervals: dict[str, tuple[float, float] | None]
    draws_Rp: np.ndarray | None
    certificate: dict[str, Any]
    rows: dict[str, Any]
    resampling: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    unidentified: list[str] = field(default_factory=list)
    definitions: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    coverage: dict[str, Any] = field(default_factory=dict)
    across_losses: dict[str, dict[str, Any]] = field(default_factory=dict)
    alternatives: list[LawFit] = field(default_factory=list)

    def __repr__(self) -> str:
        from rag_exp.laws.sensitivity import moves

        moved = moves(self.across_losses)
        lines = [f"{self.y} = {self.form.equation}   ({self.form.label}, {self.loss}, {len(self.rows['y'])} rows)"]
        for name, value in self.params.items():
            interval = self.intervals.get(name)
            more = "fixed" if name in self.fixed else "not identified" if name in self.unidentified else ""
            if interval:
                more = f"{self.level:.0%} [{interval[0]:.4g}, {interval[1]:.4g}]"
            if name in moved:
                more += "   across losses {:.4g} to {:.4g}".format(*moved[name])
            lines.append(f"  {name:8} {value:<10.4g} {more}".rstrip())
        lines += [f"  acceptable too: {other.form.equation}" for other in self.alternatives]
        return "\n".join([*lines, *(f"  note: {w}" for w in self.warnings)])

    @property
    def draws(self) -> pd.DataFrame:
        """One row per replicate, one column per parameter.

        Raises:
            LawError: nothing was resampled.
        """
        import pandas as pd

        return pd.DataFrame(self._draws(), columns=list(self.form.parameters))

    @property
    def covariance(self) -> pd.DataFrame:
        """Covariance of the parameters over the replicates; fixed ones vary in nothing.

        Raises:
            LawError: nothing was resampled.
        """
        return self.draws.cov()

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Smallest and largest value of every axis among the rows used."""
        return {axis: (float(min(v)), float(max(v))) for axis, v in self.rows["axes"].items()}

    def predict(self, data: Any, interval: float | None = None) -> np.ndarray | Prediction:
        """Losses that the law says at ``data``.

        Args:
            data: a DataFrame or mapping with the form's axes; numbers and arrays are broadcast together.
            interval: level of a pointwise interval over the replicates (0.95, say), or None for values alone.

        Returns:
            values [n] (:meth:`beyond` says how far from the data), or a :class:`Prediction`, whose interval spans
            those of all acceptable forms: away from the data the choice of the form is worth more than the noise.

        Raises:
            LawError: an axis is absent or not positive, ``interval`` is no level, or one is asked for and there are no
                replicates.
        """
        value = self.values(data, np.array([[self.params[p] for p in self.form.parameters]]))[0]
        if interval is None:
            return value
        check_level(interval, "interval")
        self._draws()  # without replicates of its own a law has no interval
        low, middle, high = np.stack([law._band(data, interval) for law in (self, *self.alternatives)], axis=1)
        return Prediction(value, low.min(0), high.max(0), self.beyond(data), middle.min(0), middle.max(0))

    def _band(self, data: Any, level: float) -> np.ndarray:
        """Lower end, value and upper end by this form alone, all the value without replicates: [3, n]."""
        value = self.predict(data)
        if self.draws_Rp is None:
            return np.stack([value] * 3)  # type: ignore[list-item]
        low, high = percentiles(self.predict_draws(data), level)
        return np.stack([low, value, high])  # type: ignore[list-item]

    def predict_draws(self, data: Any) -> np.ndarray:
        """Predictions of every replicate at ``data``: [R, n]."""
        return self.values(data, self._draws())

    def beyond(self, data: Any) -> np.ndarray:
        """Decades that each point lies outside the data's range, on the axis where that is most; 0 within: [n]."""
        return np.max([np.abs(d) for d in self.distance(data).values()], axis=0)

    def distance(self, data: Any) -> dict[str, np.ndarray]:
        """Decades from the data per axis: positive beyond its largest value, negative below its smallest, 0 between.

        Returns:
            axis to [n].
        """
        out = {}
        for axis, log_n in self._logs(data).items():
            low, high = (math.log(v) for v in self.ranges[axis])
            out[axis] = np.round((np.maximum(log_n - high, 0.0) + np.minimum(log_n - low, 0.0)) / math.log(10), 12)
        return out

    def residuals(self) -> np.ndarray:
        """log(prediction / loss) of the rows used (prediction - loss for ``ls_raw``): [n]."""
        value, y = self.predict(self.rows["axes"]), np.asarray(self.rows["y"])
        assert isinstance(value, np.ndarray)
        return value - y if self.loss == "ls_raw" else np.log(value / y)

    def to_dict(self) -> dict[str, Any]:
        """The fit card as plain values (see :meth:`to_json`)."""
        from rag_exp.laws.derived import allocation_exponents, derive

        draws = thinned(self.draws_Rp)
        exponents = allocation_exponents(self.form)
        return {
            "schema": CARD_SCHEMA,
            "form": self.form.label,
            "equation": self.form.equation,
            "y": self.y,
            "loss": self.loss,
            "delta": self.delta,
            "params": self.params,
            "intervals": {k: None if v is None else list(v) for k, v in self.intervals.items()},
            "level": self.level,
            "fixed": self.fixed,
            "objective": self.objective,
            "certificate": self.certificate,
            "warnings": self.warnings,
            "unidentified": self.unidentified,
            "definitions": self.definitions or {v: AXES.get(v, v) for v in self.form.variables},
            "ranges": {k: list(v) for k, v in self.ranges.items()},
            "resampling": self.resampling,
            "versions": self.versions,
            "coverage": self.coverage,
            "across_losses": self.across_losses,
            "rows": self.rows,
            "covariance": None if self.draws_Rp is None else _plain_covariance(self.draws_Rp),
            "allocation": derive(self, exponents).to_dict() if exponents else None,
            "draws": None if draws is None else {p: draws[:, i].tolist() for i, p in enumerate(self.form.parameters)},
            "alternatives": [law.to_dict() for law in self.alternatives],
        }

    def to_json(self) -> str:
        """The fit card: form, loss, definitions, rows used and left out, seeds, versions, intervals and draws.

        At most 1,000 draws are kept, evenly thinned; the intervals and the covariance (in the order of the
        parameters) on the card are those of all draws. ``allocation`` holds the exponents of the optimal N and D
        where the form has them.
        """
        return card_text(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> LawFit:
        """Read a fit card.

        Raises:
            LawError: the text is not a fit card of this schema.
        """
        try:
            card = json.loads(text)
        except ValueError as e:
            raise LawError(f"Not a fit card: {e}.") from e
        return cls.from_dict(card)

    @classmethod
    def from_dict(cls, card: Mapping[str, Any]) -> LawFit:
        """Read :meth:`to_dict`'s values back.

        Raises:
            LawError: they are not those of a fit card of this schema.
        """
        schema = card.get("schema") if isinstance(card, Mapping) else None
        if schema != CARD_SCHEMA:
            raise LawError(f"Not a fit card of schema {CARD_SCHEMA}: its schema is {schema!r}.")
        try:
            return cls._of_card(card)
        except KeyError as e:
            raise LawError(f"Not a whole fit card: it has no {e}.") from e

    @classmethod
    def _of_card(cls, card: Mapping[str, Any]) -> LawFit:
        form = form_by_name(card["form"])
        draws = card["draws"]
        return cls(
            form=form,
            y=card["y"],
            loss=card["loss"],
            delta=card["delta"],
            params=dict(card["params"]),
            objective=card["objective"],
            fixed=dict(card["fixed"]),
            level=card["level"],
            intervals={k: None if v is None else (v[0], v[1]) for k, v in card["intervals"].items()},
            draws_Rp=None if draws is None else np.array([draws[p] for p in form.parameters]).T,
            certificate=dict(card["certificate"]),
            rows=dict(card["rows"]),
            resampling=dict(card["resampling"]),
            warnings=list(card["warnings"]),
            unidentified=list(card["unidentified"]),
            definitions=dict(card["definitions"]),
            versions=dict(card["versions"]),
            coverage=dict(card.get("coverage", {})),
            across_losses=dict(card.get("across_losses", {})),
            alternatives=[cls.from_dict(c) for c in card.get("alternatives", [])],
        )

    def _draws(self) -> np.ndarray:
        if self.draws_Rp is None:
            raise LawError("An interval needs replicates; this fit has none. Fit with bootstrap=500.")
        return self.draws_Rp

    def _logs(self, data: Any) -> dict[str, np.ndarray]:
        check_same(self.definitions, data, self.form.variables, f"A prediction of {self.form.label}")
        names = names_of(data)
        found = {}
        for axis in self.form.variables:
            if axis not in names:
                raise LawError(f"A prediction of {self.form.label} needs {axis!r}.{did_you_mean(axis, names)}")
            found[axis] = numbers(np.atleast_1d(data[axis]), axis)
            if not (found[axis] > 0).all():
                raise LawError(f"A prediction of {self.form.label} needs positive values of {axis}.")
        shape = np.broadcast_shapes(*(v.shape for v in found.values()))
        return {axis: np.log(np.broadcast_to(v, shape)) for axis, v in found.items()}

    def values(self, data: Any, params_Rp: np.ndarray) -> np.ndarray:
        """What the form says at ``data`` with other parameters (in the form's order): [R, n]."""
        return evaluate_logs(self.form, self._logs(data), params_Rp)
