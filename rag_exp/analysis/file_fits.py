"""``rag-exp fit data=FILE``: laws for anybody's table (CSV, parquet, JSON lines, W&B's table of runs), with figures.

The same engine and the same choice among forms as for a study: held-out largest levels decide, never the fit itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from rag_exp.analysis.study_fits import StudyFit, StudyFits, details, summary
from rag_exp.core.errors import ConfigError, DataError, LawError, did_you_mean
from rag_exp.core.fingerprint import digest
from rag_exp.core.options import Options
from rag_exp.laws.options import Draws, LawOptions, Level, Loss

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
SEPARATORS = ",;\t"


class FileFit(Options):
    """What ``rag-exp fit data=FILE`` takes; every key is a word ``key=value`` of the command."""

    data: str = Field(description="a .csv, .tsv (either gzipped too), .parquet or .jsonl file, a row for each run")
    law: tuple[str, ...] = Field(
        (), description="candidate forms (chinchilla, kaplan, ...); none: those known for the axes that are given"
    )
    y: str = Field("loss", description="column of what is fitted, in nats")
    columns: dict[str, str] = Field({}, description="the column of each axis (N=params D=tokens); else its own name")
    units: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="what an axis is multiplied by (units.N=1e6 for millions)"
    )
    fixed: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="parameters that are known (fixed.E=1.69), held in every form that has them"
    )
    loss: Loss = Field("huber_log", description="of the residuals")
    delta: float = Field(1e-3, gt=0, description="Huber's threshold, in log units")
    weights: str | None = Field(None, description="column of the rows' weights")
    cluster: str | None = Field(None, description="column of labels: rows of one are resampled together")
    holdout: tuple[str, ...] = Field(
        (),
        description="largest_N, leave_one_level_out_N, ...; none: largest_compute, or each axis' largest",
    )
    bootstrap: Draws = Field(500, le=100_000, description="replicates behind the intervals; 0: none")
    resample: Literal["case", "cluster", "wild"] | None = Field(
        None, description="cluster where one is named (wild where there are fewer than eight), else case"
    )
    level: Level = Field(0.95, description="of the intervals")
    acceptable: float = Field(
        LawOptions().acceptable,
        ge=1,
        description="predictions span the forms within this factor of the best held-out error",
    )
    coverage: int = Field(0, ge=0, le=10_000, description="tables simulated to see how often intervals hold the truth")
    missing: Literal["error", "leave_out"] = Field("error", description="what a row with a null is")
    unconverged: Literal["error", "leave_out"] = Field(
        "error", description="replicates that do not meet their gradient"
    )
    seed: int = 0
    out: str | None = Field(None, description="folder of cards and figures; none: fits/<name of the file>")

    @classmethod
    def of_words(cls, words: Sequence[str]) -> FileFit:
        """From the command's words.

        Raises:
            ConfigError: every word that means nothing, with what was meant perhaps.
        """
        from rag_exp.laws.form import AXES

        given: dict[str, Any] = {"columns": {}, "units": {}, "fixed": {}}
        problems = []
        for word in words:
            key, equals, value = word.partition("=")
            group, _, name = key.partition(".")
            if not equals:
                problems.append(f"{word}: key=value is wanted.")
            elif key in AXES:
                given["columns"][key] = value
            elif (group == "units" and name in AXES) or (group == "fixed" and name):
                given[group][name] = value
            elif key in ("law", "holdout"):
                given[key] = tuple(v for v in value.strip("[]").split(",") if v)
            elif key in cls.model_fields and key not in given:
                given[key] = value
            else:
                plain = [f for f in cls.model_fields if f not in ("columns", "units", "fixed")]
                known = [*plain, *AXES, "units.AXIS", "fixed.PARAMETER"]
                problems.append(f"{key}: unknown key.{did_you_mean(key, known)} Known: {', '.join(known)}.")
        try:
            made = cls.model_validate(given)
        except ValidationError as e:
            problems += [
                f"{'.'.join(map(str, x['loc']))}: {x['msg'].lower()} (given: {x['input']!r})." for x in e.errors()
            ]
        if problems:
            raise ConfigError(problems)
        return made


def fit_file(options: FileFit) -> Iterator[str]:
    """Fit the file's law, write its card and its figures, and say what came out, line by line.

    Raises:
        DataError: the file cannot be read.
        ConfigError: a column is not there, or no form fits the axes.
        LawError: no form can be fitted.
    """
    from rag_exp.analysis.figures import save_figures
    from rag_exp.analysis.law_figures import figures_of_law
    from rag_exp.laws.choice import compare
    from rag_exp.laws.chosen import best
    from rag_exp.laws.uncertainty import FEW_CLUSTERS

    table = read_table(options.data)
    data, forms, axes = _mapped(table, options)
    named = ", ".join(f"{a} = {options.columns.get(a, a)}" for a in axes)
    yield f"{options.data}: {len(table)} rows; {named}; y = {options.y}"
    shared: dict[str, Any] = {"loss": options.loss, "delta": options.delta, "missing": options.missing}
    shared["fixed"] = options.fixed
    shared["weights"] = None if options.weights is None else table[options.weights].tolist()
    compared = compare(forms, data, options.holdout or None, **shared)
    for row in compared.to_dict("records"):
        error = "no held-out error" if row["heldout"] is None else f"held-out error {row['heldout']:.2%}"
        yield f"  {row['form']}: {row['equation']}: {error}{'; ' + row['reason'] if row.get('reason') else ''}"
    cluster = None if options.cluster is None else table[options.cluster].tolist()
    by_cluster = "wild" if cluster and len(set(cluster)) < FEW_CLUSTERS else "cluster"
    shared |= {
        "cluster": cluster,
        "bootstrap": options.bootstrap,
        "bootstrap_kind": options.resample or (by_cluster if cluster else "case"),
        "level": options.level,
        "seed": options.seed,
        "unconverged": options.unconverged,
    }
    law = best(compared, data, factor=options.acceptable, coverage=options.coverage, **shared)
    law.definitions["loss"] = options.y
    y = "".join(c if c.isalnum() or c in "._-" else "_" for c in options.y)  # W&B's val/loss would be a folder
    found = StudyFit(f"{y}_in_{'_and_'.join(axes)}", tuple(axes), {}, law)
    found.comparison, found.nearest = compared.to_dict("records"), compared.attrs["nearest"]
    yield summary(found)
    yield from details(found, options.y)
    yield from (f"note: {w}" for w in law.warnings)
    out = Path(options.out or Path("fits") / Path(options.data).name.split(".")[0])
    basis = digest({"options": options.identity(), "rows": law.rows})
    (card,) = StudyFits(options.y, "", [found], [], basis).save(out)
    figures = figures_of_law(found)
    save_figures(figures, out / "figures")
    yield f"fit card: {card}" + (f" (what a budget buys by it: rag-exp frontier card={card})" if "N" in axes else "")
    yield f"figures: {out / 'figures'} ({', '.join(f.name for f in figures)})"


def read_table(file: str) -> pd.DataFrame:
    """A table of runs. What separates the values of a ``.csv`` or ``.tsv`` file is read off its first line.

    Raises:
        DataError: no such file, no such format, it cannot be read, or its rows are no runs.
    """
    import pandas as pd

    path = Path(file)
    suffix = next((s for s in path.suffixes if s in FORMATS), None)
    if suffix is None:
        raise DataError(f"data: {file}: a file of {', '.join(FORMATS)} is wanted.")
    if not path.is_file():
        raise DataError(f"data: no file {file!r} (looked from {Path.cwd()}).")
    try:
        if suffix == ".parquet":
            table = pd.read_parquet(path)
        elif suffix in (".jsonl", ".ndjson"):
            table = pd.read_json(path, lines=True)
        else:
            heads = {sep: len(pd.read_csv(path, sep=sep, nrows=0).columns) for sep in SEPARATORS}
            table = pd.read_csv(path, sep=max(heads, key=lambda sep: heads[sep]))
    except (ValueError, OSError, pd.errors.ParserError) as e:
        raise DataError(f"data: {file} cannot be read: {e}.") from e
    names = {str(c) for c in table.columns}
    charted = next((n for n in sorted(names) if " - " in n and {f"{n}__MIN", f"{n}__MAX"} <= names), None)
    if charted:
        raise DataError(
            f"data: {file} is the export of a W&B chart ({charted!r} with its __MIN and __MAX): a row for each step, "
            "which says nothing of a run's size. Export the project's table of runs (its Export as CSV), which has a "
            "row for each run with its configuration and its summary."
        )
    return table


def _mapped(table: pd.DataFrame, options: FileFit) -> tuple[dict[str, Any], list[str], list[str]]:
    """The data under the axes' names, the candidate forms, and the axes they read."""
    from rag_exp.laws.definitions import SUFFIX, not_said
    from rag_exp.laws.form import AXES
    from rag_exp.laws.forms import form_by_name
    from rag_exp.laws.rows import refuse_scores

    there = [str(c) for c in table.columns]
    problems = []
    asked = {"y": options.y, "weights": options.weights, "cluster": options.cluster, **options.columns}
    for key, column in asked.items():
        if column is not None and column not in there:
            shown = ", ".join(there[:20]) + (", ..." if len(there) > 20 else "")
            problems.append(f"{key}: the file has no column {column!r}.{did_you_mean(column, there)} It has: {shown}.")
    given = {a: options.columns.get(a, a) for a in AXES if a in options.columns or a in there}
    problems += [
        f"units.{a}: no column is axis {a}; say which (such as {a}=COLUMN)." for a in options.units if a not in given
    ]
    forms = list(options.law) or _candidates(given)
    if not forms:
        problems.append(
            f"law: no forms are known for the axes {', '.join(given) or 'of this file'}. Name the axes' columns (such "
            "as N=params D=tokens) or the forms (law=chinchilla,kaplan)."
        )
    made = []
    for name in forms:
        try:
            made.append(form_by_name(name))
        except LawError as e:
            problems.append(f"law: {e}")
    axes = list(dict.fromkeys(v for form in made for v in form.variables))
    problems += [
        f"law: {', '.join(forms)} read the axis {a}; name its column ({a}=COLUMN)." for a in axes if a not in given
    ]
    if problems:
        raise ConfigError(problems)
    data: dict[str, Any] = {}
    for key, column in {**{a: given[a] for a in axes}, "loss": options.y}.items():
        try:
            data[key] = (table[column].astype(float) * options.units.get(key, 1.0)).tolist()
        except (TypeError, ValueError) as e:
            problems.append(f"{'y' if key == 'loss' else key}: column {column!r} holds what is not a number ({e}).")
        for said in (column + SUFFIX, key + SUFFIX):
            if said in there:
                data[key + SUFFIX] = table[said].tolist()
        if key != "loss" and key + SUFFIX not in data:
            of = f"{column} of {Path(options.data).name}"
            data[key + SUFFIX] = [not_said(of, options.units.get(key, 1.0))] * len(table)
    if not all(form.score for form in made):
        try:
            refuse_scores(options.y)
        except LawError as e:
            problems.append(f"y: {e}")
    if problems:
        raise ConfigError(problems)
    return data, forms, axes


def _candidates(given: Mapping[str, str]) -> list[str]:
    """The forms that are tried where none is named, by the axes at hand."""
    defaults = LawOptions()
    if {"N", "D"} <= given.keys():
        return ["chinchilla", "chinchilla_tied", "kaplan", "skaling"]
    if {"N", "M"} <= given.keys():
        return list(defaults.joint)
    one = {"N": list(defaults.over_N), "M": list(defaults.over_M), "D": ["power(D)", "saturating(D)"]}
    return next((forms for axis, forms in one.items() if axis in given), [])
