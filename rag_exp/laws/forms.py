"""The functional forms that a law may have.

Every form is ``floor + sum of sign * coefficient * product of factors``, where a factor is a power of an
axis, ``x^(±exponent)``, or its natural logarithm, ``ln x``. Coefficients and exponents are positive; the
sign and the direction are the form's. The engine derives values, gradients and Hessians from the terms,
so that a new form is its class below and nothing else::

    @register
    class MyForm(Form):
        name = "mine"
        terms = (falling("A", "N", "alpha"), rising("B", "K", "beta"))

Axes carry the names of the run record: N generator parameters, D training tokens, M passages indexed,
K passages read. Parameters carry the papers' names (E, A, alpha, B, beta).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from rag_exp.core.errors import LawError, did_you_mean

AXES = {
    "N": "generator parameters, embeddings left out",
    "D": "tokens the generator processed in training, passages and repeats included",
    "M": "passages in the index",
    "K": "passages read per question",
}
"""Definitions of the axes, copied into every fit card."""

EXPONENT_BOUNDS = (0.01, 5.0)
"""Below 0.01 a power cannot be told from a logarithm over a few decades; above 5 it is a step."""

OWN_AXIS = "x"


@dataclass(frozen=True)
class Factor:
    """``variable ** (direction * exponent)``; where ``exponent`` is None, ``ln(variable)``."""

    variable: str
    exponent: str | None
    direction: int = 1


@dataclass(frozen=True)
class Term:
    """``sign * coefficient * product of factors``, with coefficient >= 0."""

    coefficient: str
    sign: int
    factors: tuple[Factor, ...]


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


class Form:
    """One functional form. A form in one axis is made for an axis: ``Saturating("M")``.

    Attributes:
        name: how configurations and cards call it.
        summary: what it says, in words.
        floor: the constant's name, or None for a form without one.
        terms: its terms; the axis of a form in one axis is written ``x``.
        default_axis: the axis that a form in one axis has unless told otherwise.
        bounds: of exponents, where they differ from ``EXPONENT_BOUNDS``.
        cautions: what a reader of the fitted law must know.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    floor: ClassVar[str | None] = "E"
    terms: tuple[Term, ...] = ()
    default_axis: ClassVar[str] = "N"
    bounds: ClassVar[dict[str, tuple[float, float]]] = {}
    cautions: ClassVar[tuple[str, ...]] = ()

    def __init__(self, axis: str | None = None):
        self.single = any(f.variable == OWN_AXIS for t in type(self).terms for f in t.factors)
        if axis is not None and not self.single:
            raise LawError(
                f"Form {self.name!r} has its own axes ({', '.join(self.variables)}); write it without ({axis})."
            )
        if self.single:
            self.axis = axis or self.default_axis
            self.terms = tuple(
                Term(t.coefficient, t.sign, tuple(Factor(self.axis, f.exponent, f.direction) for f in t.factors))
                for t in type(self).terms
            )

    @property
    def label(self) -> str:
        """The name that :func:`form_by_name` reads back, with the axis where the form has one axis."""
        return f"{self.name}({self.axis})" if self.single else self.name

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(f.variable for t in self.terms for f in t.factors))

    @property
    def coefficients(self) -> tuple[str, ...]:
        return tuple(t.coefficient for t in self.terms)

    @property
    def exponents(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(f.exponent for t in self.terms for f in t.factors if f.exponent is not None))

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names in the order of every parameter vector: floor, coefficients, exponents."""
        return ((self.floor,) if self.floor else ()) + self.coefficients + self.exponents

    def bound(self, parameter: str) -> tuple[float, float]:
        """Lower and upper bound of a parameter."""
        if parameter in self.exponents:
            return self.bounds.get(parameter, EXPONENT_BOUNDS)
        return (0.0, float("inf"))

    @property
    def equation(self) -> str:
        """``E + A N^-alpha + B M^-beta``."""
        text = self.floor or ""
        for t in self.terms:
            factors = " ".join(
                f"ln {f.variable}"
                if f.exponent is None
                else f"{f.variable}^{'-' if f.direction < 0 else ''}{f.exponent}"
                for f in t.factors
            )
            sign = "-" if t.sign < 0 else "+"
            text += f" {sign} {t.coefficient} {factors}" if text or t.sign < 0 else f"{t.coefficient} {factors}"
        return text.strip()

    def __repr__(self) -> str:
        return f"<form {self.label}: {self.equation}>"


FORMS: dict[str, type[Form]] = {}


def register(cls: type[Form]) -> type[Form]:
    """Class decorator: ``cls`` can be asked for by its name from then on."""
    assert cls.name not in FORMS, f"form {cls.name!r} is taken"
    FORMS[cls.name] = cls
    return cls


def form_by_name(form: str | Form) -> Form:
    """The form called ``"joint"``, ``"saturating"`` (its default axis) or ``"saturating(M)"``.

    Raises:
        LawError: no such form, or an axis given to a form that has its own.
    """
    if isinstance(form, Form):
        return form
    match = re.fullmatch(r"\s*(\w+)\s*(?:\(\s*(\w+)\s*\))?\s*", form)
    name = match[1] if match else form
    if match is None or name not in FORMS:
        raise LawError(f"No form is called {form!r}.{did_you_mean(name, FORMS)} Forms: {', '.join(sorted(FORMS))}.")
    return FORMS[name](match[2])


@register
class Power(Form):
    """A x^-alpha: a straight line on log-log axes (Hestness et al. 2017)."""

    name = "power"
    summary = "a power law that falls towards zero"
    floor = None
    terms = (falling("A", OWN_AXIS, "alpha"),)


@register
class Saturating(Form):
    """E + A x^-alpha: a power law above a floor (Henighan et al. 2020, eq. 1.1)."""

    name = "saturating"
    summary = "a power law that falls towards a floor"
    terms = (falling("A", OWN_AXIS, "alpha"),)


@register
class Gain(Form):
    """E - G x^gamma: a loss that falls by a power of the axis.

    With one gold passage per question, a corpus prefix of M passages holds each gold passage with
    probability M / M_max, so that the mean loss falls linearly: gamma = 1.
    """

    name = "gain"
    summary = "a loss that falls by a growing power"
    default_axis = "M"
    terms = (gain("G", OWN_AXIS, "gamma"),)
    cautions = ("it falls without end, so that it cannot hold far beyond the data",)


@register
class LogGain(Form):
    """E - G ln x: the same fall for every tenfold (MassiveDS, Shao et al. 2024, over their range)."""

    name = "log_gain"
    summary = "a loss that falls by the same amount for every tenfold"
    default_axis = "M"
    terms = (log_gain("G", OWN_AXIS),)
    cautions = ("it falls without end, so that it cannot hold far beyond the data",)


@register
class Rising(Form):
    """E + B x^beta, beta > 0: a loss that rises along the axis (distractor growth)."""

    name = "rising"
    summary = "a loss that rises by a power"
    default_axis = "M"
    terms = (rising("B", OWN_AXIS, "beta"),)


@register
class Chinchilla(Form):
    """E + A N^-alpha + B D^-beta (Hoffmann et al. 2022, eq. 2)."""

    name = "chinchilla"
    summary = "a floor, what too few parameters cost and what too few tokens cost"
    terms = (falling("A", "N", "alpha"), falling("B", "D", "beta"))


@register
class Joint(Form):
    """E + A N^-alpha + B M^-beta: parameters and corpus size both help, each with an end."""

    name = "joint"
    summary = "a floor, what too few parameters cost and what too small a corpus costs"
    terms = (falling("A", "N", "alpha"), falling("B", "M", "beta"))


@register
class JointGain(Form):
    """E + A N^-alpha - G M^gamma: coverage growth; a larger corpus answers more questions."""

    name = "joint_gain"
    summary = "what too few parameters cost, less what the corpus brings by a growing power"
    terms = (falling("A", "N", "alpha"), gain("G", "M", "gamma"))
    cautions = ("its corpus term falls without end, so that it cannot hold far beyond the data",)


@register
class JointLogGain(Form):
    """E + A N^-alpha - G ln M: coverage growth with the same fall for every tenfold of the corpus."""

    name = "joint_log_gain"
    summary = "what too few parameters cost, less the same amount for every tenfold of the corpus"
    terms = (falling("A", "N", "alpha"), log_gain("G", "M"))
    cautions = ("its corpus term falls without end, so that it cannot hold far beyond the data",)


@register
class JointCoverage(Form):
    """E + A N^-alpha - G M^gamma + B M^gamma N^-alpha: coverage growth, answered better by a larger reader.

    With c = (M/M*)^gamma the share of questions whose passage the corpus holds, loss is
    (1 - c)(E0 + A0 N^-alpha) without the passage and c (E1 + A1 N^-alpha) with it: hence E = E0, A = A0,
    G = (E0 - E1) / M*^gamma and B = (A1 - A0) / M*^gamma. What a larger corpus is worth depends on the reader.
    """

    name = "joint_coverage"
    summary = "one loss with the passage in the corpus and one without, both falling with parameters"
    terms = (
        falling("A", "N", "alpha"),
        gain("G", "M", "gamma"),
        Term("B", 1, (Factor("M", "gamma", 1), Factor("N", "alpha", -1))),
    )
    cautions = ("its corpus term falls without end, so that it cannot hold far beyond the data",)


@register
class JointRising(Form):
    """E + A N^-alpha + B M^beta: distractor growth; a larger corpus only hides the gold passage."""

    name = "joint_rising"
    summary = "a floor, what too few parameters cost and what distractors in the corpus cost"
    terms = (falling("A", "N", "alpha"), rising("B", "M", "beta"))
