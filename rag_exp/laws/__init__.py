"""Laws: functional forms fitted to the records of a study, with certified optima and honest intervals.

A form is a floor plus signed terms, each a coefficient times a power (or the logarithm) of an axis::

    from rag_exp.laws import Costs, fit, frontier

    law = fit("joint", {"N": N, "M": M, "loss": loss}, bootstrap=500)
    law.params["alpha"], law.intervals["alpha"]
    law.predict({"N": [1e7], "M": [1e5]}, interval=0.95)
    frontier(law, Costs(tokens=1e9, embed=1e8, queries=1e6, read=400), budgets=[1e18, 1e19])

A study's runs log more than a loss: ``fit_factorised`` goes through coverage, rank, index recall and use.

Names load on first use, so importing this package costs nothing (numpy comes with the first fit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag_exp.laws.allocation import frontier
    from rag_exp.laws.card import LawFit, Prediction
    from rag_exp.laws.choice import acceptable, choose, compare
    from rag_exp.laws.chosen import best
    from rag_exp.laws.costs import Costs, costs_of_records
    from rag_exp.laws.derived import Derived, allocation_exponents, derive
    from rag_exp.laws.effects import contours, effect, exchange, rate
    from rag_exp.laws.factor_rows import Answers
    from rag_exp.laws.factoring import fit_factorised
    from rag_exp.laws.factorised import FactorisedFit
    from rag_exp.laws.factors_held_out import leave_index_out, leave_largest_out
    from rag_exp.laws.fitting import fit
    from rag_exp.laws.forms import FORMS, Form, form_by_name
    from rag_exp.laws.isoflops import isoflop
    from rag_exp.laws.likelihood import profile
    from rag_exp.laws.options import LAWS, LawOptions
    from rag_exp.laws.sensitivity import across_losses
    from rag_exp.laws.simulation import simulate
    from rag_exp.laws.suggestion import Offer, largest_affordable
    from rag_exp.laws.surface import Surface
    from rag_exp.laws.uncertainty import question_bootstrap
    from rag_exp.laws.unique import unique_parameters

_HOME = {
    "Derived": "derived",
    "FORMS": "forms",
    "LAWS": "options",
    "Answers": "factor_rows",
    "Costs": "costs",
    "FactorisedFit": "factorised",
    "Form": "forms",
    "LawFit": "card",
    "LawOptions": "options",
    "Offer": "suggestion",
    "Prediction": "card",
    "Surface": "surface",
    "acceptable": "choice",
    "across_losses": "sensitivity",
    "allocation_exponents": "derived",
    "best": "chosen",
    "choose": "choice",
    "compare": "choice",
    "contours": "effects",
    "costs_of_records": "costs",
    "effect": "effects",
    "exchange": "effects",
    "derive": "derived",
    "fit": "fitting",
    "fit_factorised": "factoring",
    "form_by_name": "forms",
    "frontier": "allocation",
    "isoflop": "isoflops",
    "largest_affordable": "suggestion",
    "leave_index_out": "factors_held_out",
    "leave_largest_out": "factors_held_out",
    "profile": "likelihood",
    "question_bootstrap": "uncertainty",
    "rate": "effects",
    "simulate": "simulation",
    "unique_parameters": "unique",
}

__all__ = [
    "FORMS",
    "LAWS",
    "Answers",
    "Costs",
    "Derived",
    "FactorisedFit",
    "Form",
    "LawFit",
    "LawOptions",
    "Offer",
    "Prediction",
    "Surface",
    "acceptable",
    "across_losses",
    "allocation_exponents",
    "best",
    "choose",
    "compare",
    "contours",
    "costs_of_records",
    "derive",
    "effect",
    "exchange",
    "fit",
    "fit_factorised",
    "form_by_name",
    "frontier",
    "isoflop",
    "largest_affordable",
    "leave_index_out",
    "leave_largest_out",
    "profile",
    "question_bootstrap",
    "rate",
    "simulate",
    "unique_parameters",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
