"""Options of ``rag-exp fit``: which forms are tried on a study, with what loss, and how intervals are made."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from rag_exp.core.errors import LawError, did_you_mean
from rag_exp.core.options import Options, Registry

LAWS = Registry("law")

HOLDOUTS = (
    *(f"largest_{axis}" for axis in ("N", "M", "D", "params", "compute")),
    *(f"leave_one_level_out_{axis}" for axis in ("N", "M", "D")),
)
TRAINED = ("chinchilla", "rag_power", "rag_log", "rag_interaction")

Loss = Literal["huber_log", "lad_log", "ls_log", "ls_raw"]
MIN_DRAWS = 40
"""Beyond the ends of a 95% interval lies one of 40 replicates on either side."""


def draws_within(level: float) -> int:
    """The least R of which (1 - level) / 2 is 1 / (R + 1): of fewer the outermost are an interval at a lower level."""
    return math.ceil(2 / (1 - level) - 1 - 1e-6)  # 1 - level is not exact


def enough_draws(draws: int, level: float = 0.95) -> int:
    """``draws``, where an interval at ``level`` can be made of so many.

    Raises:
        ValueError: neither 0 nor enough, which is ``MIN_DRAWS`` at least.
    """
    least = max(MIN_DRAWS, draws_within(level))
    if draws and draws < least:
        of = "an interval" if least == MIN_DRAWS else f"an interval at level {level:g}"
        say = " (500, say)" * (least < 500)
        raise ValueError(f"{of} needs at least {least:,} replicates{say}, or 0 for none; not {draws}")
    return draws


def _reached(level: float, info: ValidationInfo) -> float:
    """``level``, where the options' ``bootstrap``, which stands before it, makes enough replicates."""
    enough_draws(info.data.get("bootstrap", 0), level)
    return level


Draws = Annotated[int, AfterValidator(enough_draws)]
Level = Annotated[float, Field(gt=0.5, lt=1), AfterValidator(_reached)]


@LAWS.register
class LawOptions(Options):
    """Candidate forms per axis; among those of one list the error on the held-out largest level decides."""

    kind: Literal["forms"] = "forms"
    metric: str | None = Field(None, description="what is fitted, in nats; null: the study's primary metric")
    arm: str = Field("dense", description="the arm whose runs are fitted")
    over_N: tuple[str, ...] = Field(("power(N)", "saturating(N)"), description="candidates in the parameters alone")
    over_M: tuple[str, ...] = Field(
        ("saturating(M)", "gain(M)", "log_gain(M)", "rising(M)"), description="candidates in the corpus size alone"
    )
    joint: tuple[str, ...] = Field(
        ("joint", "joint_gain", "joint_log_gain", "joint_coverage", "joint_rising"), description="candidates in both"
    )
    trained: tuple[str, ...] = Field(
        TRAINED,
        description="candidates in N and D, and in N, D and M, where a study varies the length of training; those of "
        "the axes that vary are tried",
    )
    factorised: bool = Field(
        False, description="whether the law through coverage, rank, index recall and use is fitted too"
    )
    loss: Loss = Field("huber_log", description="of the residuals (see rag_exp.laws.fit)")
    delta: float = Field(
        0.02, gt=0, description="Huber's threshold, in log units: residuals beyond it count as outliers"
    )
    bootstrap: Draws = Field(500, le=100_000, description="replicates behind every interval; 0: no intervals")
    resample: Literal["auto", "questions", "case", "cluster", "wild", "hierarchical"] = Field(
        "auto",
        description="what a replicate resamples; auto: questions and the runs' residuals where the answers' losses are "
        "at hand, else the runs' residuals (clustered by checkpoint); hierarchical: questions, and seeds within runs",
    )
    acceptable: float = Field(
        2.0,
        ge=1,
        description="forms whose held-out error is within this factor of the best are acceptable too: intervals of "
        "predictions span them (see rag_exp.laws.choice); 1: the chosen form alone",
    )
    holdout: tuple[str, ...] = Field(
        (),
        description="what forms are not shown and then judged by: largest_N (or M, D), largest_compute (a fifth of the "
        "runs, by N x D), leave_one_level_out_N (or M, D; every level in turn), or several; a law goes by those of its "
        "own axes, and by its axes' largest levels where none is",
    )
    level: Level = Field(0.95, description="of the intervals")
    coverage: int = Field(
        0,
        ge=0,
        le=10_000,
        description="studies simulated on the same design, to see how often intervals hold the truth",
    )
    unconverged: Literal["error", "leave_out"] = Field(
        "error",
        description="replicates that do not meet their gradient: no intervals, or intervals without those (counted)",
    )
    seed: int = 0

    def identity(self, *leave_out: str) -> dict[str, Any]:
        """The identity, without a law, hold-outs and candidates that are not asked for."""
        found = super().identity(*leave_out)
        if self.trained == TRAINED:
            del found["trained"]
        if not self.factorised:
            del found["factorised"]
        if not self.holdout:
            del found["holdout"]
        return found

    @model_validator(mode="after")
    def _coverage_has_replicates(self) -> LawOptions:
        if self.coverage and (not self.bootstrap or self.resample == "questions"):
            raise ValueError(
                "law.coverage simulates the noise of runs, so it needs law.bootstrap and another law.resample than "
                "questions"
            )
        return self

    @field_validator("holdout", mode="before")
    @classmethod
    def _one_is_a_list_too(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else () if value is None else value

    @field_validator("holdout")
    @classmethod
    def _of_a_study(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in HOLDOUTS:
                hint = did_you_mean(name, HOLDOUTS)
                raise ValueError(f"no hold-out {name!r} of a study's laws.{hint} Known: {', '.join(HOLDOUTS)}")
        if len(set(names)) < len(names):
            raise ValueError(f"a hold-out is named twice: {', '.join(names)}")
        return names

    @field_validator("over_N", "over_M", "joint", "trained")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from rag_exp.laws.forms import form_by_name  # brings numpy

        for name in names:
            try:
                form_by_name(name)
            except LawError as e:
                raise ValueError(str(e)) from e
        return names
