"""The forms that a law may have."""

from __future__ import annotations

import re
from typing import ClassVar

from rag_exp.core.errors import LawError, did_you_mean
from rag_exp.laws.curves import (
    OWN_AXIS,
    Break,
    Exponential,
    Hill,
    KaplanSum,
    Logistic,
    LogOnePlus,
    PowerOfSum,
    Repeated,
    Stretched,
)
from rag_exp.laws.form import AXES, EXPONENT_BOUNDS, FORMS, Form, register
from rag_exp.laws.terms import Factor, Term, falling, gain, log_gain, rising

__all__ = ["AXES", "EXPONENT_BOUNDS", "FORMS", "Factor", "Form", "Term", "form_by_name", "register"]


UNBOUNDED = "it falls without end, so that it cannot hold far beyond the data"
CORPUS_UNBOUNDED = "its corpus term falls without end, so that it cannot hold far beyond the data"


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
    cautions = (UNBOUNDED,)


@register
class LogGain(Form):
    """E - G ln x: the same fall for every tenfold (MassiveDS, Shao et al. 2024, over their range)."""

    name = "log_gain"
    summary = "a loss that falls by the same amount for every tenfold"
    default_axis = "M"
    terms = (log_gain("G", OWN_AXIS),)
    cautions = (UNBOUNDED,)


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
    cautions = (CORPUS_UNBOUNDED,)


@register
class JointLogGain(Form):
    """E + A N^-alpha - G ln M: coverage growth with the same fall for every tenfold of the corpus."""

    name = "joint_log_gain"
    summary = "what too few parameters cost, less the same amount for every tenfold of the corpus"
    terms = (falling("A", "N", "alpha"), log_gain("G", "M"))
    cautions = (CORPUS_UNBOUNDED,)


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
    cautions = (CORPUS_UNBOUNDED,)


@register
class JointRising(Form):
    """E + A N^-alpha + B M^beta: distractor growth; a larger corpus only hides the gold passage."""

    name = "joint_rising"
    summary = "a floor, what too few parameters cost and what distractors in the corpus cost"
    terms = (falling("A", "N", "alpha"), rising("B", "M", "beta"))


@register
class LogLinear(Form):
    """E + G ln x: a score that rises, or a loss that worsens, by the same amount for every tenfold."""

    name = "log_linear"
    summary = "the same rise for every tenfold"
    terms = (Term("G", 1, (Factor(OWN_AXIS, None),)),)
    score = True
    cautions = ("it rises without end, so that it cannot hold far beyond the data",)


@register
class Broken(Form):
    """E + A x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1): a power law with one smooth break (Caballero et al. 2023, eq. 1)."""

    name = "broken_power"
    summary = "a power law that steepens at a break, towards a floor"
    terms = (Term("A", 1, curve=Break()),)
    bounds: ClassVar = {"c0": (1e-4, 5.0), "c1": (0.01, 20.0), "f1": (0.003, 3.0)}


@register
class ChinchillaTied(Form):
    """E + A N^-alpha + B D^-alpha: one exponent for both (Muennighoff et al. 2023, section 6)."""

    name = "chinchilla_tied"
    summary = "Chinchilla's law with one exponent for parameters and tokens"
    terms = (falling("A", "N", "alpha"), falling("B", "D", "alpha"))


@register
class ChinchillaCross(Form):
    """E + A N^-alpha + B D^-beta + G N^-gamma D^-delta: Chinchilla's law with a term in both.

    Of gamma and delta one may be negative: what a model too large for its tokens costs, or too small for them.
    """

    name = "chinchilla_cross"
    summary = "Chinchilla's law and what too few of both cost together"
    terms = (
        falling("A", "N", "alpha"),
        falling("B", "D", "beta"),
        Term("G", 1, (Factor("N", "gamma", -1), Factor("D", "delta", -1))),
    )
    bounds: ClassVar = {"gamma": (-1.0, 5.0), "delta": (-1.0, 5.0)}


@register
class Multiplicative(Form):
    """E + A N^-alpha D^-beta."""

    name = "multiplicative"
    summary = "a floor, and a power of parameters times a power of tokens"
    terms = (Term("A", 1, (Factor("N", "alpha", -1), Factor("D", "beta", -1))),)
    bounds: ClassVar = {"alpha": (0.0, 5.0), "beta": (0.0, 5.0)}


@register
class OverTraining(Form):
    """E + (a m^eta + b m^-eta) C^-eta with C = 6 N D and m^2 = D / N (Gadre et al. 2024, eq. 4).

    In parameters and tokens: C / m^2 = 6 N^2 and C m^2 = 6 D^2, each to the power -eta / 2. Their code takes the
    constant out of the first term, which is what a means here: E + a N^-eta + b (sqrt(6) D)^-eta.
    """

    name = "over_training"
    summary = "a floor and two terms of one exponent, so that over-training shifts the law and keeps its slope"
    terms = (falling("a", "N", "eta"), Term("b", 1, curve=Stretched("D", "eta", 6**0.5)))


@register
class Kaplan(Form):
    """E + ((Nc/N)^(alpha_N/alpha_D) + Dc/D)^alpha_D (Kaplan et al. 2020, eq. 1.5, and a floor)."""

    name = "kaplan"
    summary = "Kaplan's law in parameters and tokens, above a floor"
    terms = (Term("Nc", 1, curve=KaplanSum()),)


@register
class KaplanWithoutFloor(Form):
    """((Nc/N)^(alpha_N/alpha_D) + Dc/D)^alpha_D (Kaplan et al. 2020, eq. 1.5)."""

    name = "kaplan_no_floor"
    summary = "Kaplan's law in parameters and tokens, which falls to zero"
    floor = None
    terms = (Term("Nc", 1, curve=KaplanSum()),)


@register
class Skaling(Form):
    """E + A (N^-a + R D^-b)^k: Chinchilla's law at k = 1, Kaplan's at b = 1."""

    name = "skaling"
    summary = "a power of a sum of powers, with Chinchilla's and Kaplan's laws as special cases"
    terms = (Term("A", 1, curve=PowerOfSum()),)


@register
class DataConstrained(Form):
    """E + A N'^-alpha + B D'^-beta with repeats counted for less (Muennighoff et al. 2023, eq. 5 and 6).

    U: unique tokens, U_N: the parameters that are optimal for them (see :func:`rag_exp.laws.unique_parameters`).
    """

    name = "data_constrained"
    summary = "Chinchilla's law in tokens and parameters discounted for repetition"
    terms = (
        Term("A", 1, curve=Repeated("N", "U_N", "alpha", "R_N")),
        Term("B", 1, curve=Repeated("D", "U", "beta", "R_D")),
    )


@register
class Sigmoid(Form):
    """b + a / (1 + exp(k (L - L0))): a score from a loss (Bhagia et al. 2024, eq. 3)."""

    name = "sigmoid"
    summary = "a score that rises from one level to another as the loss falls"
    floor = "b"
    default_axis = "L"
    terms = (Term("a", 1, curve=Logistic()),)
    bounds: ClassVar = {"k": (0.05, 100.0)}
    score = True


@register
class ErrorFromLoss(Form):
    """epsilon - k exp(-gamma L): an error rate from a loss (Gadre et al. 2024, eq. 5)."""

    name = "error_from_loss"
    summary = "an error rate that rises with the loss towards chance"
    floor = "epsilon"
    default_axis = "L"
    terms = (Term("k", -1, curve=Exponential()),)
    score = True


_CHINCHILLA = (falling("A", "N", "alpha"), falling("B", "D", "beta"))


@register
class RagLog(Form):
    """E + A N^-alpha + B D^-beta - G ln(1 + M/M0) (Singh et al. 2026, with eta = 1/M0)."""

    name = "rag_log"
    summary = "Chinchilla's law less a gain by the logarithm of the corpus"
    terms = (*_CHINCHILLA, Term("G", -1, curve=LogOnePlus("M")))
    cautions = (CORPUS_UNBOUNDED,)


@register
class RagPower(Form):
    """E + A N^-alpha + B D^-beta - G M^gamma."""

    name = "rag_power"
    summary = "Chinchilla's law less a gain by a power of the corpus"
    terms = (*_CHINCHILLA, gain("G", "M", "gamma"))
    cautions = (UNBOUNDED,)


@register
class RagHill(Form):
    """E + A N^-alpha + B D^-beta - G M^h / (M0^h + M^h): a gain that has an end."""

    name = "rag_hill"
    summary = "Chinchilla's law less a gain that saturates with the corpus"
    terms = (*_CHINCHILLA, Term("G", -1, curve=Hill("M")))


@register
class RagInteraction(Form):
    """E + A N^-alpha + B D^-beta - G N^-delta ln(1 + M/M0): a gain that is smaller for larger readers."""

    name = "rag_interaction"
    summary = "Chinchilla's law less a gain by the logarithm of the corpus that fades with parameters"
    terms = (*_CHINCHILLA, Term("G", -1, (Factor("N", "delta", -1),), LogOnePlus("M")))
    cautions = (UNBOUNDED,)


@register
class JointHill(Form):
    """E + A N^-alpha - G M^h / (M0^h + M^h): coverage growth that has an end."""

    name = "joint_hill"
    summary = "what too few parameters cost, less a gain that saturates with the corpus"
    terms = (falling("A", "N", "alpha"), Term("G", -1, curve=Hill("M")))


@register
class Crowded(Form):
    """B M^rho K^-kappa: the share of gold passages that others crowd out of the K best of M."""

    name = "crowded"
    summary = "a share missed that rises with the corpus and falls with the passages read"
    floor = None
    terms = (Term("B", 1, (Factor("M", "rho", 1), Factor("K", "kappa", -1))),)
    score = True


@register
class Unsearched(Form):
    """B M^rho S^-kappa: the share of the best passages that an index misses when it compares S of M."""

    name = "unsearched"
    summary = "a share missed that rises with the corpus and falls with the passages compared"
    floor = None
    terms = (Term("B", 1, (Factor("M", "rho", 1), Factor("S", "kappa", -1))),)
    score = True


@register
class Reading(Form):
    """E + A N^-alpha + B K^beta: a reader among K passages, of which the others are in its way."""

    name = "reading"
    summary = "a floor, what too few parameters cost and what further passages in the way cost"
    terms = (falling("A", "N", "alpha"), rising("B", "K", "beta"))


@register
class Mixture(Form):
    """E + A N^-alpha - G P^gamma + B P^gamma N^-alpha: a share P of questions that are answered better.

    At gamma = 1 (hold it there) this is P (E1 + A1 N^-alpha) + (1 - P) (E + A N^-alpha) with G = E - E1 and
    B = A1 - A: what a reader of N parameters loses with and without its gold passage, from runs of different P.
    """

    name = "mixture"
    summary = "what is lost with the gold passage read and without, by the share that read it"
    terms = (
        falling("A", "N", "alpha"),
        gain("G", "P", "gamma"),
        Term("B", 1, (Factor("P", "gamma", 1), Factor("N", "alpha", -1))),
    )
