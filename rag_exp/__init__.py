"""The lab for scaling studies of retrieval-augmented language models.

In a notebook::

    import rag_exp
    table = rag_exp.load_study("quickstart")  # one row per run: axes, sizes, metrics
    curve = table.query("arm == 'dense' and index == 'flat' and growth == 'coverage'")
    law = rag_exp.fit_law("joint_gain", curve, y="nll", bootstrap=500)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag_exp.analysis.tables import load_study
    from rag_exp.laws import fit as fit_law

__all__ = ["fit_law", "load_study"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazily: `rag-exp --help` must not wait for pandas and scipy.
    if name == "load_study":
        from rag_exp.analysis.tables import load_study

        return load_study
    if name == "fit_law":
        from rag_exp.laws import fit

        return fit
    raise AttributeError(f"module 'rag_exp' has no attribute {name!r}")
