"""The laws of a study, kept: a fit card each, and a line of words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.analysis.ahead import ahead_sentences
from rag_exp.analysis.known_floor import floor_sentence
from rag_exp.analysis.trust import coverage_sentence, loss_sentence
from rag_exp.core.atomic import write_text
from rag_exp.core.errors import DataError, LawError

if TYPE_CHECKING:
    from rag_exp.analysis.factors import StudyFactors
    from rag_exp.laws.card import LawFit

FOLDER = "fits"
FACTORISED = "factorised"


@dataclass
class StudyFit:
    """One law of a study, or why there is none.

    Attributes:
        name: unique in the study, fit for a file's name.
        axes: ``("N",)``, ``("M",)``, ``("N", "M")``, ``("N", "D")`` or ``("N", "D", "M")``.
        where: what its rows have in common (index, growth, K, and N or M for a law in one axis).
        law: the fit; None where ``reason`` says why not.
        comparison: rows of ``rag_exp.laws.compare`` over the candidate forms.
        nearest: error of repeating the nearest kept level, per hold-out.
        run_ids: the run of every row fitted.
        floor: the law with its floor held where it is known exactly (see ``rag_exp.analysis.known_floor``), or None.
    """

    name: str
    axes: tuple[str, ...]
    where: dict[str, Any]
    law: LawFit | None
    reason: str | None = None
    comparison: list[dict[str, Any]] = field(default_factory=list)
    nearest: dict[str, float | None] = field(default_factory=dict)
    run_ids: list[str] = field(default_factory=list)
    floor: dict[str, Any] | None = None

    @property
    def title(self) -> str:
        """``Loss in N and M (flat index, coverage growth)``."""
        return f"in {' and '.join(self.axes)}" + (f", {described(self.where)}" if self.where else "")

    def to_dict(self) -> dict[str, Any]:
        plain = {k: v for k, v in self.__dict__.items() if k not in ("law", "axes")}
        return {**plain, "axes": list(self.axes), "card": self.law.to_dict() if self.law else None}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> StudyFit:
        from rag_exp.laws.card import LawFit

        rest = {k: v for k, v in value.items() if k not in ("card", "axes")}
        return cls(axes=tuple(value["axes"]), law=LawFit.from_dict(value["card"]) if value["card"] else None, **rest)


@dataclass
class StudyFits:
    """All laws of a study, of one arm and metric. ``basis`` names the rows and options that they stand on."""

    metric: str
    arm: str
    fits: list[StudyFit]
    notes: list[str]
    basis: str
    factorised: StudyFactors | None = None

    def joint(self) -> StudyFit | None:
        """The law in N and M with the most rows."""
        found = [f for f in self.fits if f.axes == ("N", "M") and f.law is not None]
        return max(found, key=lambda f: len(f.run_ids), default=None)

    def widest(self) -> StudyFit | None:
        """The law in N and as many of D and M as any has, of those the one with the most rows or the largest corpus."""
        found = [f for f in self.fits if len(f.axes) > 1 and f.law is not None]
        return max(found, key=lambda f: (len(f.axes), "M" in f.axes, len(f.run_ids), f.where.get("M", 0)), default=None)

    def law_named(self, name: str) -> Any:
        """The law of this name (``factorised``: that one); None where there is none."""
        if name == FACTORISED:
            return None if self.factorised is None else self.factorised.law
        return next((f.law for f in self.fits if f.name == name), None)

    def of(self, *axes: str, **where: Any) -> list[StudyFit]:
        """The laws in these axes whose conditions include ``where``."""
        return [
            f
            for f in self.fits
            if f.axes == axes and f.law and all(str(f.where.get(k)) == str(v) for k, v in where.items())
        ]

    def save(self, folder: Path) -> list[Path]:
        """Write one fit card per law into ``folder/fits``; cards of laws that are no more are deleted."""
        from rag_exp.laws.card import card_text

        files = []
        for f in self.fits:
            path = folder / FOLDER / f"{f.name}.json"
            write_text(path, card_text(f.to_dict()) + "\n")
            files.append(path)
        if self.factorised is not None:
            files.append(folder / FOLDER / f"{FACTORISED}.json")
            write_text(files[-1], card_text(self.factorised.to_dict()) + "\n")
        index = {
            "metric": self.metric,
            "arm": self.arm,
            "notes": self.notes,
            "basis": self.basis,
            "laws": [f.name for f in self.fits],
            "factorised": self.factorised is not None,
        }
        write_text(folder / FOLDER / "index.json", json.dumps(index, indent=2, ensure_ascii=False) + "\n")
        for stale in set((folder / FOLDER).glob("*.json")) - {*files, folder / FOLDER / "index.json"}:
            stale.unlink()
        return files

    @classmethod
    def load(cls, folder: str | Path) -> StudyFits:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: there are no fit cards, or one is damaged.
        """
        from rag_exp.analysis.factors import StudyFactors

        folder = Path(folder)
        try:
            index = json.loads((folder / FOLDER / "index.json").read_text(encoding="utf-8"))
            cards = [_card(folder, name) for name in index["laws"]]
            fits = [StudyFit.from_dict(card) for card in cards]
            factors = StudyFactors.from_dict(_card(folder, FACTORISED)) if index.get("factorised") else None
            return cls(index["metric"], index["arm"], fits, index["notes"], index["basis"], factors)
        except (OSError, ValueError, KeyError, TypeError, LawError) as e:
            raise DataError(f"{folder / FOLDER}: no readable fit cards ({e}). Fit first: rag-exp fit study=NAME") from e


def _card(folder: Path, name: str) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return card


def summary(found: StudyFit) -> str:
    """One line for the terminal: the law with its numbers, or why there is none."""
    if found.law is None:
        return f"{found.name}: no law: {found.reason}"
    law = found.law
    numbers = []
    for p, value in law.params.items():
        interval = law.intervals.get(p)
        numbers.append(f"{p} {value:.4g}" + (f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else ""))
    line = f"{found.name}: {law.form.equation}: {', '.join(numbers)}"
    chosen = next((r for r in found.comparison if r["form"] == law.form.label), None)
    if chosen and chosen["heldout"] is not None:
        line += f"; held-out error {chosen['heldout']:.2%}"
    rest = [s for s in (loss_sentence(law), coverage_sentence(law), floor_sentence(law, found.floor)) if s]
    return " ".join([f"{line}.", *rest]) if rest else line


def details(found: StudyFit, metric: str) -> list[str]:
    """Lines under the summary of a law in several axes: which forms are as acceptable, and what it says ahead."""
    law = found.law
    if law is None or len(found.axes) < 2:
        return []
    lines = [f"acceptable too: {other.form.equation}" for other in law.alternatives]
    return [f"  {line}" for line in [*lines, *ahead_sentences(law, metric)]]


def described(where: Mapping[str, Any]) -> str:
    """``flat index, coverage growth, M = 32,380``."""
    words = []
    for key, value in where.items():
        if value is None:
            continue
        if key in ("index", "growth"):
            words.append(f"{value} {key}")
        elif key in ("N", "M", "K", "M_train", "K_train"):
            words.append(f"{key.replace('_', ' in ').replace('train', 'training')} = {int(value):,}")
        else:
            words.append(f"{key.removeprefix('config.')} = {value}")
    return ", ".join(words)
