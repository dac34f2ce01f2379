"""What a form is, and the registry of all of them.

Every form is ``floor + sum of terms`` (see :mod:`rag_exp.laws.terms`). Coefficients and exponents are positive;
the sign and the direction are the form's. The engine derives values, gradients and Hessians from the terms,
so that a new form is its class and nothing else::

    @register
    class MyForm(Form):
        name = "mine"
        terms = (falling("A", "N", "alpha"), rising("B", "K", "beta"))

Axes carry the names of the run record: N generator parameters, D training tokens, M passages indexed,
K passages read. Parameters carry the papers' names (E, A, alpha, B, beta).
"""

from __future__ import annotations

from typing import ClassVar

from rag_exp.core.errors import LawError
from rag_exp.laws.curves import OWN_AXIS
from rag_exp.laws.terms import Term

AXES = {
    "N": "generator parameters, embeddings left out",
    "D": "tokens the generator processed in training, passages and repeats included",
    "M": "passages in the index",
    "K": "passages read per question",
    "P": "share of questions with a gold passage among those read",
    "S": "passages that a search compares with a question",
    "C": "training compute in FLOP",
    "L": "loss in nats",
    "U": "training tokens that are not repeats",
    "U_N": "parameters that would be optimal for the unique tokens alone",
}
"""Definitions of the axes, copied into every fit card."""

EXPONENT_BOUNDS = (0.01, 5.0)
"""Below 0.01 a power cannot be told from a logarithm over a few decades; above 5 it is a step."""


class Form:
    """One functional form. A form in one axis is made for an axis: ``Saturating("M")``.

    Attributes:
        name: how configurations and cards call it.
        summary: what it says, in words.
        floor: the constant's name, or None for a form without one.
        terms: its terms; the axis of a form in one axis is written ``x``.
        default_axis: the axis that a form in one axis has unless told otherwise.
        bounds: of exponents, where they differ from ``EXPONENT_BOUNDS``.
        score: whether it may be a law of a score (an accuracy or an error rate) and not of a loss.
        cautions: what a reader of the fitted law must know.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    floor: ClassVar[str | None] = "E"
    terms: tuple[Term, ...] = ()
    default_axis: ClassVar[str] = "N"
    bounds: ClassVar[dict[str, tuple[float, float]]] = {}
    score: ClassVar[bool] = False
    cautions: ClassVar[tuple[str, ...]] = ()

    def __init__(self, axis: str | None = None):
        self.single = any(OWN_AXIS in t.variables for t in type(self).terms)
        if axis is not None and not self.single:
            raise LawError(
                f"Form {self.name!r} has its own axes ({', '.join(self.variables)}); write it without ({axis})."
            )
        if self.single:
            self.axis = axis or self.default_axis
            self.terms = tuple(t.on(self.axis) for t in type(self).terms)

    @property
    def label(self) -> str:
        """The name that :func:`form_by_name` reads back, with the axis where the form has one axis."""
        return f"{self.name}({self.axis})" if self.single else self.name

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(v for t in self.terms for v in t.variables))

    @property
    def coefficients(self) -> tuple[str, ...]:
        return tuple(t.coefficient for t in self.terms)

    @property
    def exponents(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(e for t in self.terms for e in t.exponents))

    @property
    def scales(self) -> tuple[str, ...]:
        """Positive parameters in an axis's units, or ratios of terms."""
        return tuple(dict.fromkeys(s for t in self.terms for s in t.scales))

    @property
    def shapes(self) -> tuple[str, ...]:
        """All parameters in which the form is not linear."""
        return (*self.exponents, *self.scales)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names in the order of every parameter vector: floor, coefficients, exponents, scales."""
        return ((self.floor,) if self.floor else ()) + self.coefficients + self.shapes

    def bound(self, parameter: str) -> tuple[float, float]:
        """Lower and upper bound of a parameter; a scale's are found from the data."""
        if parameter in self.exponents:
            return self.bounds.get(parameter, EXPONENT_BOUNDS)
        return (0.0, float("inf"))

    @property
    def equation(self) -> str:
        """``E + A N^-alpha + B M^-beta``."""
        text = self.floor or ""
        for t in self.terms:
            text += f" {'-' if t.sign < 0 else '+'} {t}" if text or t.sign < 0 else str(t)
        return text.strip()

    def __repr__(self) -> str:
        return f"<form {self.label}: {self.equation}>"


FORMS: dict[str, type[Form]] = {}


def register(cls: type[Form]) -> type[Form]:
    """Class decorator: ``cls`` can be asked for by its name from then on."""
    assert cls.name not in FORMS, f"form {cls.name!r} is taken"
    FORMS[cls.name] = cls
    return cls
