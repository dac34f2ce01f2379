"""How far a law's parameters are to be trusted: across the losses that they may be fitted with, and on its design."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag_exp.laws.card import LawFit


def loss_sentence(law: LawFit) -> str | None:
    """``Across four losses of the residuals alpha goes from 0.21 to 0.25.``; None where that was not computed."""
    from rag_exp.laws.sensitivity import moves

    if not law.across_losses:
        return None
    failed = "".join(f" ({name} could not be fitted)" for name, f in law.across_losses.items() if f["reason"])
    spans = [f"{s} goes from {low:.3g} to {high:.3g}" for s, (low, high) in moves(law.across_losses).items()]
    fitted = sum(f["reason"] is None for f in law.across_losses.values())
    if not spans:
        return f"What another loss of the residuals would make of its exponents is not known{failed}."
    return f"Across {fitted} losses of the residuals {', '.join(spans)}{failed}."


def coverage_sentence(law: LawFit) -> str | None:
    """``Of 200 simulated studies on this design the 95% intervals held alpha in 93%, ...``; None where not asked."""
    c = law.coverage
    if not c:
        return None
    shares = ", ".join(f"{p} in {share:.0%}" for p, share in c["shares"].items())
    return (
        f"On {c['studies']} simulated studies of this design the {c['level']:.0%} intervals held {shares} "
        f"(give or take {c['error']:.1%})."
    )
