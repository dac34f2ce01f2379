"""``rag-exp show``: a run, or one question of it, in the terminal; and how a run is found by its name."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rag_exp.core.errors import DataError, did_you_mean
from rag_exp.core.record import RunRecord, read_record

if TYPE_CHECKING:
    from rag_exp.data.passages import PassageTable

TEXT_WIDTH = 100


def root_folder(given: str | None) -> Path:
    """Where runs/ and store/ are: as given, else ``RAG_EXP_ROOT``, else ./outputs."""
    return Path(given or os.environ.get("RAG_EXP_ROOT", "outputs"))


def find_run(root: Path, name: str) -> RunRecord:
    """The record of the run whose id begins with ``name``.

    Raises:
        DataError: none or several begin so.
    """
    found = sorted(f for f in (root / "runs").glob("*/record.json") if f.parent.name.startswith(name))
    if len(found) == 1:
        return read_record(found[0])
    if found:
        raise DataError(f"{name}: {len(found)} runs begin so: {', '.join(f.parent.name[:12] for f in found[:5])}.")
    known = [f.parent.name[:12] for f in (root / "runs").glob("*/record.json")]
    hint = did_you_mean(name[:12], known) or (f" There are {len(known)}." if known else "")
    raise DataError(f"{name}: no run under {root / 'runs'} begins so.{hint} Elsewhere? Give --root DIR.")


def artifact_folder(root: Path, record: RunRecord, role: str) -> Path:
    """The folder of one of the run's artifacts.

    Raises:
        DataError: the run has no such artifact, or it is no longer in the store.
    """
    if role not in record.artifacts:
        raise DataError(f"run {record.run_id[:12]} ({record.arm}, {record.status}) has no {role}.")
    kind = role.removeprefix("train_").removeprefix("evaluation_")
    name = Path(kind) / record.artifacts[role]
    own = root / "runs" / record.run_id / "store"  # of a run with paths.reuse=false
    for store in (root / "store", Path(record.config["paths"]["store"]), own):
        if (store / "objects" / name / "artifact.json").is_file():
            return store / "objects" / name
    raise DataError(f"run {record.run_id[:12]}: its {role} is no longer in the store. Run it again to rebuild it.")


def show_run(root: Path, name: str) -> str:
    """A run in one screen: sizes, metrics, costs, notes."""
    return "\n".join(_run(find_run(root, name)))


def _run(record: RunRecord) -> Iterator[str]:
    yield f"run {record.run_id}  {record.arm}, {record.status}, seed {record.seed}, {record.created}"
    if record.command:
        yield f"command  {record.command}"
    yield f"commit   {record.commit or 'unknown (not run from a checkout)'}"
    if record.error:
        yield "error"
        yield textwrap.indent(record.error.rstrip(), "  ")
    for title, values in (("sizes", record.sizes), ("metrics", record.metrics), ("FLOPs", record.flops)):
        if not values:
            continue
        yield title
        for key, value in values.items():
            reason = record.nulls.get(key) or record.nulls.get(f"flops.{key}", "")
            yield f"  {key:28} {_number(value)}{'  ' + reason if value is None else ''}"
    for name, corpus in record.corpora.items():
        yield f"corpus {name}  " + ", ".join(f"{k} {'-' if v is None else v}" for k, v in corpus.items())
    if record.seconds:
        yield "seconds  " + ", ".join(f"{k} {'-' if v is None else f'{v:.1f}'}" for k, v in record.seconds.items())
    yield from (f"note     {note}" for note in record.notes)


def show_question(root: Path, name: str, question: str) -> str:
    """One question of a run: passages (or paths of them) with score, prior, posterior and nats, and the answer.

    Where nothing reads (task=retrieval) it is the passages that were found, and which of them are gold.

    Raises:
        DataError: no such run or question, or its artifacts are gone.
    """
    record = find_run(root, name)
    from rag_exp.data.passages import PassageTable
    from rag_exp.evaluation.predictions import read_predictions
    from rag_exp.evaluation.ranking import read_rankings

    judged = "ranking" in record.artifacts
    if judged:
        table = read_rankings(artifact_folder(root, record, "ranking"))
    else:
        table = read_predictions(artifact_folder(root, record, "evaluation") / "predictions.parquet")
    ids = table.column("id").to_pylist()
    if question not in ids:
        raise DataError(
            f"run {record.run_id[:12]} has no question {question!r}.{did_you_mean(question, ids)} First: {ids[0]}."
        )
    row = {column: table.column(column)[ids.index(question)].as_py() for column in table.column_names}
    role = "evaluation_passages" if "evaluation_passages" in record.artifacts else "passages"
    passages = PassageTable.open(artifact_folder(root, record, role)) if row["rows"] or row["gold"] else None
    lines = _ranked(row, passages) if judged else _read(record, row, passages)
    return "\n".join([f"run {record.run_id[:12]} ({record.arm})  question {question}", *lines])


def _ranked(row: dict, passages: PassageTable | None) -> Iterator[str]:
    """A question whose search alone was judged: the passages that were found, best first, and the gold ones missed."""
    yield f"question   {row['question']}"
    if row["answers"]:
        found = "in a passage found" if row["answer_found"] else "in no passage found"
        yield f"answers    {' | '.join(row['answers'])}  ({found})"
    if row["gold"]:
        held = "holds" if row["gold_in_corpus"] else "does not hold"
        yield f"gold       {', '.join(map(str, row['gold']))}  (the corpus searched {held} what is needed)"
    else:
        yield "gold       unknown"
    if passages is None:
        yield "found      nothing"
        return
    gold = dict(zip(row["gold"], row["gold_of"], strict=True))
    yield f"{'':4}{'row':>8} {'score':>9}"
    texts = passages.texts(row["rows"])
    for rank, (passage, score, text) in enumerate(zip(row["rows"], row["scores"], texts, strict=True), start=1):
        mark = f"  gold, grade {_number(row['grades'][gold[passage]])}" if passage in gold else ""
        yield f"{rank:>3} {passage:>8} {_number(score):>9}{mark}"
        yield _text(*text)
    yield from _missed(row, passages, "found")


def _missed(row: dict, passages: PassageTable, how: str) -> Iterator[str]:
    """The gold passages that are not among those of the question, which were found or read."""
    missed = [g for g in row["gold"] if g not in set(row["rows"])]
    if missed:
        yield f"gold passages that were not {how}"
        for passage, text in zip(missed, passages.texts(missed), strict=True):
            yield f"    {passage:>8}"
            yield _text(*text)


def _read(record: RunRecord, row: dict, passages: PassageTable | None) -> Iterator[str]:
    yield f"question   {row['question']}"
    yield f"answers    {' | '.join(row['answers'])}"
    yield f"predicted  {row['prediction']!r}  EM {_number(row['em'])}  F1 {_number(row['f1'])}"
    tokens = "" if row["target_tokens"] is None else f" over {row['target_tokens']} tokens"
    yield f"nll        {_nats(row['nll'])}{tokens}; without the end token {_nats(row['nll_without_end'])}"
    if row["nll"] is None:
        yield f"           {record.nulls.get('nll', 'unknown')}"
    if passages is None:
        return
    if row["paths"]:
        yield from _paths(row, passages)
    elif row["rows"]:
        yield from _passages(row, passages)
    yield from _missed(row, passages, "read")


def _passages(row: dict, passages: PassageTable) -> Iterator[str]:
    """The passages that were read one by one or together, best first."""
    yield f"{'':4}{'row':>8} {'score':>9} {'prior':>8} {'posterior':>9} {'nats':>8}"
    found, gold = row["rows"], set(row["gold"])
    columns = [row[c] or [None] * len(found) for c in ("scores", "prior", "posterior", "passage_nll")]
    for rank, (passage, text, *numbers) in enumerate(zip(found, passages.texts(found), *columns, strict=True), start=1):
        score, prior, posterior, nats = (_number(n) for n in numbers)
        mark = "  gold" if passage in gold else ""
        yield f"{rank:>3} {passage:>8} {score:>9} {prior:>8} {posterior:>9} {nats:>8}{mark}"
        yield _text(*text)
    if row["null_prior"] is not None:
        prior, posterior, nats = (_number(row[c]) for c in ("null_prior", "null_posterior", "null_nll"))
        yield f"{'':3} {'none':>8} {'':>9} {prior:>8} {posterior:>9} {nats:>8}  the question alone"


def _paths(row: dict, passages: PassageTable) -> Iterator[str]:
    """The paths that were read, best prior first, then each of their passages once."""
    gold = set(row["gold"])
    yield f"paths of the largest prior; they hold {_number(row['kept_prior'])} of that of all that were found"
    yield f"{'':4}{'row':>8}    {'row':>8} {'prior':>8} {'posterior':>9} {'nats':>8}"
    columns = [row[c] or [None] * len(row["paths"]) for c in ("path_prior", "path_posterior", "path_nll")]
    for rank, (path, *numbers) in enumerate(zip(row["paths"], *columns, strict=True), start=1):
        prior, posterior, nats = (_number(n) for n in numbers)
        steps = " -> ".join(f"{passage:>8}" for passage in path)
        marks = " -> ".join("gold" if passage in gold else "other" for passage in path)
        yield f"{rank:>3} {steps} {prior:>8} {posterior:>9} {nats:>8}  {marks if gold else ''}".rstrip()
    yield "their passages"
    for passage, text in zip(row["rows"], passages.texts(row["rows"]), strict=True):
        yield f"    {passage:>8}{'  gold' if passage in gold else ''}"
        yield _text(*text)


def _text(title: str, text: str) -> str:
    return textwrap.indent(textwrap.fill(f"{title}: {text}", TEXT_WIDTH), " " * 13)


def export_run(root: Path, name: str, file: Path) -> str:
    """Write the top-k of a run as a TREC run file; what was written, in words.

    Raises:
        DataError: no such run, it searched nothing, or its artifacts are gone.
    """
    record = find_run(root, name)
    from rag_exp.data.passages import PassageTable
    from rag_exp.data.questions import QuestionTable
    from rag_exp.retrieval.results import SearchResult
    from rag_exp.retrieval.run_files import write_run

    found = SearchResult.load(artifact_folder(root, record, "topk"))
    before = "evaluation_" if "evaluation_passages" in record.artifacts else ""
    passages = PassageTable.open(artifact_folder(root, record, f"{before}passages"))
    asked = record.config["evaluation"]
    questions = QuestionTable.open(
        artifact_folder(root, record, f"{before}questions"), asked["split"], asked["questions"]
    )
    write_run(found, questions.ids, passages, file, tag=record.run_id[:12])
    return f"{file}: {len(questions)} questions, at most {found.k} passages each"


def _nats(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f} nats"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}" if abs(value) < 1e12 else f"{value:.3g}"
    return f"{value:.4g}"
