"""Curves: what bends on log-log axes (a break, a saturation, a power of a sum).

Powers and logarithms are enough for most laws. A curve states the logarithm of its factor, once, over the
functions of :mod:`rag_exp.laws.jets`, from which the engine has all derivatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from rag_exp.laws import jets

OWN_AXIS = "x"
"""The axis of a form in one axis, before it is given one."""

Logs = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """A factor with a shape of its own.

    Exponents enter as they are. Scales are positive and enter as logarithms, measured from the anchors
    ``at`` (the logs of the axes at one end of the data), so that units change nothing inside.

    Attributes:
        exponents, scales: names of its parameters.
        variables: its axes.
        covariates: those of its axes that need not vary.
        fixable: parameters that may be held at a value; None: all.
    """

    exponents: ClassVar[tuple[str, ...]] = ()
    scales: ClassVar[tuple[str, ...]] = ()
    covariates: ClassVar[tuple[str, ...]] = ()
    fixable: ClassVar[tuple[str, ...] | None] = None

    @property
    def variables(self) -> tuple[str, ...]:
        raise NotImplementedError

    def log(self, x: Logs, at: Logs, p: Mapping[str, Any]) -> Any:
        """The logarithm of the factor at ``x + at``, per axis logs ``x`` measured from ``at``: jets or arrays."""
        raise NotImplementedError

    def rebase(self, p: Mapping[str, Any], at: Logs) -> dict[str, Any]:
        """The parameters as they would be with anchors at 0 (every axis in its own units)."""
        return dict(p)

    def scale_bounds(self, name: str, x: Logs) -> tuple[float, float]:
        """Bounds of a scale's logarithm, measured from the anchors; ``x``: logs of the data's axes, so measured."""
        raise NotImplementedError

    def to_papers(self, amplitude: Any, p: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The coefficient and parameters as the paper writes them, from those with anchors at 0."""
        return amplitude, {k: np.exp(v) if k in self.scales else v for k, v in p.items()}

    def from_papers(self, coefficient: Any, p: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The other way: the amplitude's logarithm, and the parameters."""
        with np.errstate(divide="ignore"):
            return np.log(coefficient), {k: np.log(v) if k in self.scales else v for k, v in p.items()}

    def on(self, axis: str) -> Curve:
        """The same curve on ``axis`` in place of ``x``."""
        own = {f.name: axis for f in fields(self) if getattr(self, f.name) == OWN_AXIS}
        return replace(self, **own) if own else self

    def text(self, coefficient: str) -> str:
        """The term, as an equation has it."""
        raise NotImplementedError


@dataclass(frozen=True)
class PowerOfSum(Curve):
    """``(N^-a + R D^-b)^k``; inside, R is the two parts' ratio at the anchors."""

    first: str = "N"
    second: str = "D"
    exponents: ClassVar = ("a", "b", "k")
    scales: ClassVar = ("R",)

    @property
    def variables(self) -> tuple[str, ...]:
        return (self.first, self.second)

    def powers(self, p: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """a, b and k out of the parameters."""
        return p["a"], p["b"], p["k"]

    def log(self, x: Logs, at: Logs, p: Mapping[str, Any]) -> Any:
        a, b, k = self.powers(p)
        return k * jets.logaddexp(-a * x[self.first], p[self.scales[0]] - b * x[self.second])

    def rebase(self, p: Mapping[str, Any], at: Logs) -> dict[str, Any]:
        a, b, _ = self.powers(p)
        ratio = self.scales[0]
        return {**p, ratio: p[ratio] - a * at[self.first] + b * at[self.second]}

    def scale_bounds(self, name: str, x: Logs) -> tuple[float, float]:
        # Anchored, a ratio beyond e^+-12 leaves one part alone. In the axes' own units no such limit is known.
        anchored = all(abs(float(x[v].min())) < 1e-9 for v in self.variables)
        return (-12.0, 12.0) if anchored else (-150.0, 150.0)

    def text(self, coefficient: str) -> str:
        return f"{coefficient} ({self.first}^-a + R {self.second}^-b)^k"


@dataclass(frozen=True)
class KaplanSum(PowerOfSum):
    """``((Nc/N)^(alpha_N/alpha_D) + Dc/D)^alpha_D`` (Kaplan et al. 2020, eq. 1.5); its coefficient is Nc^alpha_N."""

    exponents: ClassVar = ("alpha_N", "alpha_D")
    scales: ClassVar = ("Dc",)
    fixable: ClassVar = ("alpha_N", "alpha_D")

    def powers(self, p: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        return p["alpha_N"] / p["alpha_D"], 1.0, p["alpha_D"]

    def to_papers(self, amplitude: Any, p: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        with np.errstate(divide="ignore", over="ignore"):
            log_Nc = np.log(amplitude) / p["alpha_N"]
            return np.exp(log_Nc), {**p, "Dc": np.exp(p["Dc"] + log_Nc * p["alpha_N"] / p["alpha_D"])}

    def from_papers(self, coefficient: Any, p: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        with np.errstate(divide="ignore"):
            log_Nc = np.log(coefficient)
            return log_Nc * p["alpha_N"], {**p, "Dc": np.log(p["Dc"]) - log_Nc * p["alpha_N"] / p["alpha_D"]}

    def text(self, coefficient: str) -> str:
        return f"(({coefficient}/{self.first})^(alpha_N/alpha_D) + Dc/{self.second})^alpha_D"


@dataclass(frozen=True)
class _Placed(Curve):
    """A curve on one axis with a place on it: a scale in the axis's units, looked for near the data."""

    variable: str = OWN_AXIS
    reach: ClassVar[float] = 2.3  # natural logs beyond the data

    @property
    def variables(self) -> tuple[str, ...]:
        return (self.variable,)

    def rebase(self, p: Mapping[str, Any], at: Logs) -> dict[str, Any]:
        place = self.scales[0]
        return {**p, place: p[place] + at[self.variable]}

    def scale_bounds(self, name: str, x: Logs) -> tuple[float, float]:
        logs = x[self.variable]
        return float(logs.min()) - self.reach, float(logs.max()) + self.reach


@dataclass(frozen=True)
class Break(_Placed):
    """``x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1)``: exponent c0 before d1, c0 + c1 after (Caballero et al. 2023, eq. 1)."""

    exponents: ClassVar = ("c0", "c1", "f1")
    scales: ClassVar = ("d1",)

    def log(self, x: Logs, at: Logs, p: Mapping[str, Any]) -> Any:
        past = (x[self.variable] - p["d1"]) / p["f1"]
        return -(p["c0"] * x[self.variable]) - p["c1"] * p["f1"] * jets.softplus(past)

    def text(self, coefficient: str) -> str:
        x = self.variable
        return f"{coefficient} {x}^-c0 (1 + ({x}/d1)^(1/f1))^(-c1 f1)"


@dataclass(frozen=True)
class Hill(_Placed):
    """``x^h / (x0^h + x^h)``: half at x0, all far beyond."""

    exponents: ClassVar = ("h",)
    scales: ClassVar = ("M0",)

    def log(self, x: Logs, at: Logs, p: Mapping[str, Any]) -> Any:
        return -jets.softplus(p["h"] * (p["M0"] - x[self.variable]))

    def text(self, coefficient: str) -> str:
        return f"{coefficient} {self.variable}^h/(M0^h + {self.variable}^h)"


@dataclass(frozen=True)
class LogOnePlus(_Placed):
    """``ln(1 + x/M0)``: linear up to M0 and a logarithm beyond (Singh et al. 2026, with eta = 1/M0)."""

    scales: ClassVar = ("M0",)

    def log(self, x: Logs, at: Logs, p: Mapping[str, Any]) -> Any:
        return jets.log(jets.softplus(x[self.variable] - p["M0"]))

    def text(self, coefficient: str) -> str:
        return f"{coefficient} ln(1 + {self.variable}/M0)"


@dataclass(frozen=True)
class Exponential(Curve):
    """``exp(-gamma x)``, in the axis itself and not in its logarithm."""

    variable: str = OWN_AXIS
    exponents: ClassVar = ("gamma",)

    @property
    def variables(self) -> tuple[str, ...]:
        return (self.variable,)

    def log(self, x: Logs, at: Logs, p: Mapping[str, Any]) -> Any:
        origin = np.exp(at[self.variable]) if at[self.variable] else 0.0
        return -(p["gamma"] * (np.exp(x[self.variable] + at[self.variable]) - origin))

    def text(self, coefficient: str) -> str:
        return f"{coefficient} exp(-gamma {self.variable})"


@dataclass(frozen=True)
class Logistic(_Placed):
    """``1 / (1 + exp(k (x - x0)))``, in the axis itself: 1 far below x0 and 0 far above."""

    exponents: ClassVar = ("k",)
    scales: ClassVar = ("L0",)
    reach: ClassVar = 1.0

    def log(self, x: Logs, at: Logs, p: Mapping[str, Any]) -> Any:
        return -jets.softplus(
            p["k"] * (np.exp(x[self.variable] + at[self.variable]) - jets.exp(p["L0"] + at[self.variable]))
        )

    def text(self, coefficient: str) -> str:
        return f"{coefficient}/(1 + exp(k ({self.variable} - L0)))"


@dataclass(frozen=True)
class Repeated(Curve):
    """``(u + u R (1 - exp(-r/R)))^-exponent`` with r = max(x/u - 1, 0): what x counts when only u of it is new.

    Muennighoff et al. 2023, eq. 5. Written with expm1: 1 - exp(-r/R) would be 0 for a large R.
    """

    variable: str = "D"
    unique: str = "U"
    exponent: str = "beta"
    scale: str = "R_D"

    @property
    def variables(self) -> tuple[str, ...]:
        return (self.variable, self.unique)

    @property
    def exponents(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.exponent,)

    @property
    def scales(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.scale,)

    @property
    def covariates(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.unique,)

    def log(self, x: Logs, at: Logs, p: Mapping[str, Any]) -> Any:
        ahead = x[self.variable] + at[self.variable] - x[self.unique] - at[self.unique]
        repeats = np.expm1(np.maximum(ahead, 0.0))
        worth = -jets.expm1(-repeats * jets.exp(-p[self.scale]))
        # Below one epoch what is used counts, not what there is.
        used = x[self.unique] + np.minimum(ahead, 0.0)
        return -(p[self.exponent] * (jets.log1p(jets.exp(p[self.scale]) * worth) + used))

    def scale_bounds(self, name: str, x: Logs) -> tuple[float, float]:
        return -4.6, 9.2  # 0.01 to 10,000 repetitions

    def text(self, coefficient: str) -> str:
        x, u, R = self.variable, self.unique, self.scale
        return f"{coefficient} ({u} + {u} {R} (1 - exp(-({x}/{u} - 1)/{R})))^-{self.exponent}"


@dataclass(frozen=True)
class Stretched(Curve):
    """``(unit x)^-exponent``: a falling power of an axis in other units than its own."""

    variable: str
    exponent: str
    unit: float

    @property
    def variables(self) -> tuple[str, ...]:
        return (self.variable,)

    @property
    def exponents(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.exponent,)

    def log(self, x: Logs, at: Logs, p: Mapping[str, Any]) -> Any:
        # At the anchors the factor is 1, whatever the unit.
        unit = 0.0 if at[self.variable] else float(np.log(self.unit))
        return -(p[self.exponent] * (x[self.variable] + unit))

    def text(self, coefficient: str) -> str:
        return f"{coefficient} ({self.unit:.4g} {self.variable})^-{self.exponent}"
