"""A frontier that was asked for: a law, what things cost and for which budgets. Tables, words and figures come from it,
so that a fit card and ``frontier.json`` are enough to make them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rag_exp.core.errors import LawError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from rag_exp.laws.costs import Costs
    from rag_exp.laws.surface import Surface

TIMES = (0.1, 0.3, 1.0, 3.0, 10.0)  # the cost of the largest run: the budgets where none are given


@dataclass(frozen=True)
class Frontier:
    """What is asked.

    Attributes:
        name: of the law.
        surface: the law and what it is held at.
        budgets: FLOPs in all; none: ``TIMES`` the cost of the largest run.
        caps: what there is no more of, per axis.
        reach: decades beyond the data within which an optimum is looked for.
        basis: what the law stands on, as :class:`StudyFits` names it.
    """

    name: str
    surface: Surface
    costs: Costs
    budgets: tuple[float, ...] = ()
    caps: Mapping[str, float] = field(default_factory=dict)
    reach: float = 1.0
    basis: str = ""

    @cached_property
    def table(self) -> pd.DataFrame:
        """The optimum of every budget, as from :func:`rag_exp.laws.frontier`.

        Raises:
            LawError: there are no budgets, and no runs to take them from.
        """
        if not self.budgets and not len(self.runs):
            where = ", ".join(f"{name} = {value}" for name, value in self.surface.given.items())
            raise LawError(f"No run of the fit stands at {where}, so that none tells what is dear: give budgets.")
        return self.at(self.budgets or [times * float(self.runs["budget"].max()) for times in TIMES])

    def at(self, budgets: Sequence[float] | np.ndarray) -> pd.DataFrame:
        """The optimum of these budgets."""
        from rag_exp.laws.allocation import frontier

        return frontier(self.surface, self.costs, list(budgets), reach=self.reach, caps=self.caps)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The runs that the law was fitted to: ``N``, ``D``, ``M``, ``K``, ``loss``, and ``budget``, what each would
        cost as the frontier counts."""
        import pandas as pd

        rows, costs = self.surface.rows(), self.costs
        tied = costs.tokens_per_parameter
        tokens = costs.tokens if tied is None else rows["N"] * tied
        D, M, K = (
            rows.get(axis, otherwise) for axis, otherwise in (("D", tokens), ("M", costs.passages), ("K", costs.k))
        )
        made = pd.DataFrame({"N": rows["N"], "D": D, "M": M, "K": K, "loss": rows["y"]})
        return made.assign(budget=costs.total(made["N"], made["D"], made["M"], made["K"]))

    @property
    def metric(self) -> str:
        """What the law is of."""
        law = self.surface.law
        return str(getattr(law, "metric", None) or law.definitions.get("loss", law.y))

    @property
    def equation(self) -> str:
        """The law's."""
        law = self.surface.law
        return str(getattr(law, "form", law).equation)

    def facts(self) -> dict[str, Any]:
        """What ``frontier.json`` holds."""
        return {
            "basis": self.basis,
            "law": self.name,
            "equation": self.equation,
            "metric": self.metric,
            "axes": self.surface.axes,
            "given": self.surface.given,
            "assumed": self.surface.assumed,
            "costs": self.costs.model_dump(),
            "rows": self.table.to_dict("records"),
            "caps": dict(self.caps),
            "reach": self.reach,
            "level": self.surface.level,
            "exponents": self.table.attrs["exponents"],
        }

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any], law: Any) -> Frontier:
        """What was asked, from :meth:`facts` and the law that they name."""
        from rag_exp.laws.costs import Costs
        from rag_exp.laws.surface import Surface

        surface, costs = Surface(law, facts["given"]), Costs(**facts["costs"])
        return cls(
            facts["law"],
            surface,
            costs,
            tuple(row["budget"] for row in facts["rows"]),
            facts["caps"],
            facts["reach"],
            facts["basis"],
        )
