"""``best``: one law out of several forms, with all that one fit alone cannot say about itself.

A single form's intervals hold the noise of the rows. Beyond the data the choice of the form is worth more than that
noise, and how residuals are weighed moves exponents too; both stand on the law that is chosen here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rag_exp.laws.card import LawFit
from rag_exp.laws.choice import ACCEPTABLE, acceptable, compare, fixed_in
from rag_exp.laws.fitting import fit
from rag_exp.laws.forms import Form, form_by_name
from rag_exp.laws.sensitivity import across_losses

if TYPE_CHECKING:
    import pandas as pd

OF_BOTH = ("y", "loss", "delta", "fixed", "weights", "cluster", "missing", "columns")
"""Arguments of ``fit`` that decide what ``compare`` sees."""


def best(
    forms: str | Form | Iterable[str | Form] | pd.DataFrame,
    data: Any,
    holdout: str | Sequence[str] | None = None,
    *,
    factor: float = ACCEPTABLE,
    coverage: int = 0,
    **options: Any,
) -> LawFit:
    """The law that errs least on rows it was not shown, fitted to all rows::

        law = best(["chinchilla", "kaplan", "skaling"], runs, bootstrap=500)
        law.form, law.alternatives, law.across_losses
        law.predict({"N": [1e10], "D": [1e12]}, interval=0.95)  # spans the forms that are as acceptable

    Args:
        forms: names or forms, or a table of :func:`rag_exp.laws.compare`, whose hold-outs then decide.
        data: a DataFrame or a mapping of arrays, as for :func:`rag_exp.laws.fit`.
        holdout: what is held out to choose (see :func:`rag_exp.laws.compare`).
        factor: forms whose held-out error is within this factor of the smallest are acceptable too.
        coverage: how many studies to simulate on this design, to see how often the chosen law's intervals hold the
            truth.
        options: what :func:`rag_exp.laws.fit` takes besides; ``fixed`` holds a parameter in every form that has it.

    Returns:
        the chosen form's fit; ``alternatives`` holds those of the other acceptable forms, which its intervals of
        predictions span, and ``across_losses`` its exponents under each of the four losses.

    Raises:
        LawError: no form can be fitted, or what ``compare`` and ``fit`` refuse.
    """
    import pandas as pd

    if isinstance(forms, pd.DataFrame):
        table = forms
    else:
        table = compare(forms, data, holdout, **{k: options[k] for k in OF_BOTH if k in options})

    def law_of(name: str, **more: Any) -> LawFit:
        form = form_by_name(name)
        return fit(form, data, **{**options, "fixed": fixed_in(form, options.get("fixed")), **more})

    return chosen_law(table, law_of, factor, coverage)


def chosen_law(
    table: pd.DataFrame, law_of: Callable[..., LawFit], factor: float = ACCEPTABLE, coverage: int = 0
) -> LawFit:
    """:func:`best` for a comparison that was made and fits that are made elsewhere.

    Args:
        law_of: fits a form by its name; takes ``coverage``.

    Raises:
        LawError: no form could be fitted.
    """
    chosen, *others = acceptable(table, factor)
    law = law_of(chosen, coverage=coverage)
    law.alternatives = [law_of(form) for form in others]
    law.across_losses = across_losses(law)
    return law
