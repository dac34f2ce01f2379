"""What a form is made of: terms, and in them powers, logarithms and curves of the axes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rag_exp.laws.curves import OWN_AXIS, Curve


@dataclass(frozen=True)
class Factor:
    """``variable ** (direction * exponent)``; where ``exponent`` is None, ``ln(variable)``."""

    variable: str
    exponent: str | None
    direction: int = 1

    def __str__(self) -> str:
        if self.exponent is None:
            return f"ln {self.variable}"
        return f"{self.variable}^{'-' if self.direction < 0 else ''}{self.exponent}"


@dataclass(frozen=True)
class Term:
    """``sign * coefficient * product of factors * curve``, with coefficient >= 0."""

    coefficient: str
    sign: int
    factors: tuple[Factor, ...] = ()
    curve: Curve | None = None

    @property
    def variables(self) -> tuple[str, ...]:
        found = [f.variable for f in self.factors] + list(self.curve.variables if self.curve else ())
        return tuple(dict.fromkeys(found))

    @property
    def exponents(self) -> tuple[str, ...]:
        own = [f.exponent for f in self.factors if f.exponent is not None]
        return tuple(dict.fromkeys([*own, *(self.curve.exponents if self.curve else ())]))

    @property
    def scales(self) -> tuple[str, ...]:
        return self.curve.scales if self.curve else ()

    @property
    def shapes(self) -> tuple[str, ...]:
        """The parameters that shape it, beside its coefficient."""
        return (*self.exponents, *self.scales)

    def on(self, axis: str) -> Term:
        """The same term on ``axis`` in place of ``x``."""
        factors = tuple(replace(f, variable=axis) if f.variable == OWN_AXIS else f for f in self.factors)
        return replace(self, factors=factors, curve=self.curve.on(axis) if self.curve else None)

    def __str__(self) -> str:
        head = self.curve.text(self.coefficient) if self.curve else self.coefficient
        return " ".join([head, *map(str, self.factors)])


def falling(coefficient: str, variable: str, exponent: str) -> Term:
    """``+ coefficient * variable^-exponent``: what is still lost, less with every step along the axis."""
    return Term(coefficient, 1, (Factor(variable, exponent, -1),))


def rising(coefficient: str, variable: str, exponent: str) -> Term:
    """``+ coefficient * variable^exponent``: a loss that grows along the axis (distractors)."""
    return Term(coefficient, 1, (Factor(variable, exponent, 1),))


def gain(coefficient: str, variable: str, exponent: str) -> Term:
    """``- coefficient * variable^exponent``: a gain that grows along the axis (coverage); linear at exponent 1."""
    return Term(coefficient, -1, (Factor(variable, exponent, 1),))


def log_gain(coefficient: str, variable: str) -> Term:
    """``- coefficient * ln(variable)``: the limit of :func:`gain` as its exponent goes to 0."""
    return Term(coefficient, -1, (Factor(variable, None),))
