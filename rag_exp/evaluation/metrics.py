"""Every metric of an evaluation, computed from its predictions alone.

A metric that does not apply is None, with the reason beside it; it is never 0.0. Means are over
questions, each with weight one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rag_exp.data.gold import gold_recall
from rag_exp.data.normalise import normalise
from rag_exp.evaluation.predictions import column_nulls

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

METRICS: dict[str, str] = {
    "questions": "number of questions",
    "nll": "nats per answer: -log p(first listed answer), summed over its tokens, end token included",
    "nll_se": "standard error of `nll` over questions",
    "nll_per_byte": "summed nats over summed UTF-8 bytes of the answers; comparable across tokenizers",
    "nll_any": "nats per answer where any distinct answer counts: -logsumexp of their log-probabilities",
    "nll_without_end": "nats per answer as `nll`, the end token left out: all that most hosted readers can say",
    "target_tokens": "tokens per scored answer, end token included",
    "nll_unnormalized": "`nll` with the prior over the whole corpus and not over the passages read: an upper bound of "
    "the nats with all passages read, comparable across k",
    "em": "exact match of the written answer after SQuAD normalisation, maximum over answers",
    "f1": "F1 over words after SQuAD normalisation, maximum over answers",
    "fast_differs": "share of questions to which fast decoding would give another answer than thorough decoding gave",
    "choice_accuracy": "share of questions whose likeliest choice is an accepted answer, whatever the length_penalty",
    "choice_accuracy_norm": "the same of the choice with the greatest log-probability per character (the acc_norm of "
    "lm-evaluation-harness, which leaves the end token out)",
    "choice_nll": "nats per question: -log of the accepted choices' share of the probability of all choices",
    "gold_recall@1": "share of the needed gold passages (as many as hops) that the first passage gives",
    "gold_recall@k": "the same over all passages read",
    "gold_found": "share of questions with any gold passage among those read",
    "mrr": "1 / rank of the first gold passage, 0 where it is not among those read",
    "gold_in_corpus": "share of questions whose gold passages the corpus holds (as many as hops)",
    "answer_coverage": "share of questions with an answer string in a passage read",
    "prior_on_gold": "prior probability of the gold passages, over questions where one was found",
    "posterior_on_gold": "posterior probability of the gold passages given the answer, over the same questions",
    "prior_on_null": "prior probability of reading nothing, beside the passages that were found",
    "posterior_on_null": "posterior probability of that given the answer: of its needing none of them",
    "all_gold@k": "share of questions whose needed gold passages (as many as hops) are all among those read",
    "all_gold@hop1": "the same over what the first hop found",
    "path_recall@1": "share of questions whose first path holds all needed gold passages",
    "path_recall@k": "share of questions for which any path read does",
    "kept_prior": "prior mass of the paths read, of all that were found",
    "path_prior_on_gold": "prior probability of paths that hold all needed gold, over questions where one was read",
    "path_posterior_on_gold": "posterior probability of those paths given the answer, over the same questions",
    "nll_gold_found": "`nll` over questions with a gold passage among those read",
    "nll_gold_missed": "`nll` over questions with gold, none of it among those read",
    "truncated": "share of the passages read that were cut to fit the reader's context",
    "entropy": "H(answer | question) of the generating process: no closed-book model can have lower `nll`",
    "entropy_given_gold": "H(answer | question, gold passages): the floor of a reader that has the gold passages",
    "nll_over_entropy": "`nll` minus `entropy`, over questions that have one",
    "nll_over_entropy_given_gold": "`nll` minus `entropy_given_gold`, over questions that have one",
}


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if ``prediction`` equals an answer after SQuAD normalisation, else 0.0."""
    return float(any(normalise(prediction) == normalise(a) for a in answers))


def f1_score(prediction: str, answers: Sequence[str]) -> float:
    """F1 over the words of prediction and answer (as bags), maximum over answers.

    As the official script of SQuAD 2.0: where either has no words left, 1.0 if both have none, else 0.0.
    """
    return max((_f1(normalise(prediction).split(), normalise(a).split()) for a in answers), default=0.0)


def _f1(predicted: list[str], wanted: list[str]) -> float:
    if not predicted or not wanted:
        return float(predicted == wanted)
    same = sum((Counter(predicted) & Counter(wanted)).values())
    return 2 * same / (len(predicted) + len(wanted))


def metrics_of(table: pa.Table) -> tuple[dict[str, float | None], dict[str, str]]:
    """All of :data:`METRICS` for a predictions table.

    Returns:
        the metrics by name, and for each that is None the reason.
    """
    found = _Metrics(table)
    assert list(found.values) == list(METRICS)
    return found.values, found.nulls


class _Metrics:
    def __init__(self, table: pa.Table):
        import numpy as np

        self.values: dict[str, float | None] = {}
        self.nulls: dict[str, str] = {}
        self._column_nulls = column_nulls(table)
        nll = _floats(table, "nll")
        n = len(nll)
        empty = "no question was asked"
        self.values["questions"] = float(n)
        self._mean("nll", nll, empty, "nll")
        spread = float(np.std(nll, ddof=1) / np.sqrt(n)) if n > 1 else None
        self._put("nll_se", spread, "one question has no spread", "nll")
        size = float(_floats(table, "answer_bytes").sum())
        self._put("nll_per_byte", float(nll.sum()) / size if size else None, "the answers have no bytes", "nll")
        for name in ("nll_any", "nll_without_end", "target_tokens"):
            self._mean(name, _floats(table, name), empty, name)
        bound = "only exact scores, of passages read one by one, have a prior over the whole corpus"
        self._mean("nll_unnormalized", _floats(table, "nll_unnormalized"), bound, "nll_unnormalized")
        for name in ("em", "f1"):
            self._mean(name, _floats(table, name), "no answers were written (evaluation.decode=none)")
        pairs = zip(table["prediction"].to_pylist(), table["fast_prediction"].to_pylist(), strict=True)
        differs = np.array([np.nan if fast is None else float(written != fast) for written, fast in pairs])
        self._mean("fast_differs", differs, "only thorough decoding (evaluation.decode=thorough) knows both answers")
        self._choices(table)
        self._retrieval(table, nll)
        for name in ("entropy", "entropy_given_gold"):
            self._mean(name, _floats(table, name), f"the questions have no known {name}")
        for name in ("entropy", "entropy_given_gold"):
            over = nll - _floats(table, name)
            self._mean(f"nll_over_{name}", over, f"the questions have no known {name}", "nll")

    def _choices(self, table: pa.Table) -> None:
        import numpy as np

        names = ("choice_accuracy", "choice_accuracy_norm", "choice_nll")
        values = np.full((len(names), len(table)), np.nan)
        facts = zip(*(table[name].to_pylist() for name in ("choices", "choice_logp", "answers")), strict=True)
        for q, (choices, logp, answers) in enumerate(facts):
            if choices is not None:
                right, logp_C = np.array([choice in answers for choice in choices]), np.array(logp)
                by_character_C = logp_C / [len(choice) for choice in choices]
                values[:2, q] = right[logp_C.argmax()], right[by_character_C.argmax()]
                values[2, q] = np.logaddexp.reduce(logp_C) - np.logaddexp.reduce(logp_C[right])
        for name, of_name in zip(names, values, strict=True):
            self._mean(name, of_name, "no choices were ranked (evaluation.decode=choices ranks them)")

    def _retrieval(self, table: pa.Table, nll: np.ndarray) -> None:
        import numpy as np

        rows, gold = table["rows"].to_pylist(), table["gold"].to_pylist()
        reads = any(rows)
        has_gold = np.array([bool(g) for g in gold], dtype=bool)
        no_passages = "no passages are read"
        reason = no_passages if not reads else "the questions have no gold passages"
        counted = has_gold & reads
        facts = list(zip(rows, gold, table["gold_of"].to_pylist(), table["hops"].to_pylist(), strict=True))
        for name, depth in (("gold_recall@1", 1), ("gold_recall@k", None)):
            recall = [gold_recall(r[:depth], g, of, hops) if g else np.nan for r, g, of, hops in facts]
            self._mean(name, np.where(counted, recall, np.nan), reason)
        ranks = _floats(table, "gold_rank")
        hit = np.where(counted, ~np.isnan(ranks), np.nan)
        self._mean("gold_found", hit, reason)
        self._mean("mrr", np.where(counted, np.nan_to_num(1 / ranks, nan=0.0), np.nan), reason)
        in_corpus = _floats(table, "gold_in_corpus")
        self._mean("gold_in_corpus", in_corpus, "the questions have no gold passages, or no corpus is asked")
        self._mean("answer_coverage", _floats(table, "answer_found"), no_passages)
        missed = "no gold passage was found for any question" if reads and has_gold.any() else reason
        for name in ("prior", "posterior"):
            lists = table[name].to_pylist()
            on_gold = np.array(
                [
                    np.nan if p is None else sum(x for x, row in zip(p, r, strict=True) if row in set(g))
                    for p, r, g in zip(lists, rows, gold, strict=True)
                ],
                dtype=float,
            )
            joint = "the passages are read jointly" if reads and all(p is None for p in lists) else missed
            if table["paths"].null_count < len(table):
                joint = f"passages are read in paths: see path_{name}_on_gold"
            self._mean(f"{name}_on_gold", np.where(hit == 1, on_gold, np.nan), joint, name)
        without = "there is no null document (retriever.null_document, where an index is searched)"
        for name in ("prior", "posterior"):
            self._mean(f"{name}_on_null", _floats(table, f"null_{name}"), without, f"null_{name}")
        self._paths(table, facts, counted, reason)
        self._mean("nll_gold_found", np.where(hit == 1, nll, np.nan), missed, "nll")
        found_all = "a gold passage was found for every question" if counted.any() else reason
        self._mean("nll_gold_missed", np.where(hit == 0, nll, np.nan), found_all, "nll")
        paths = table["paths"].to_pylist()
        read = sum(len(r) if p is None else sum(map(len, p)) for p, r in zip(paths, rows, strict=True))
        cut = float(_floats(table, "truncated").sum())
        self._put("truncated", cut / read if read else None, no_passages)

    def _paths(self, table: pa.Table, facts: list[Any], counted: np.ndarray, reason: str) -> None:
        """Whether all gold is found, and whether it is on one path."""
        import numpy as np

        def whole(rows: Sequence[int], fact: Any) -> bool:
            _, gold, gold_of, hops = fact
            return gold_recall(rows, gold, gold_of, hops) == 1.0

        paths, hop1 = table["paths"].to_pylist(), table["hop1"].to_pylist()
        self._mean("all_gold@k", np.where(counted, [whole(f[0], f) for f in facts], np.nan), reason)
        if all(p is None for p in paths):
            one_hop = "there is one hop" if any(f[0] for f in facts) else "no passages are read"
            for name in METRICS:
                if name in ("all_gold@hop1", "kept_prior") or name.startswith("path_"):
                    self._put(name, None, one_hop)
            return
        on_gold = [[whole(path, f) for path in found or []] for found, f in zip(paths, facts, strict=True)]
        hit = np.where(counted, [any(on) for on in on_gold], np.nan)
        first = np.where(counted, [whole(h or [], f) for h, f in zip(hop1, facts, strict=True)], np.nan)
        self._mean("all_gold@hop1", first, reason)
        self._mean("path_recall@1", np.where(counted, [any(on[:1]) for on in on_gold], np.nan), reason)
        self._mean("path_recall@k", hit, reason)
        self._mean("kept_prior", _floats(table, "kept_prior"), reason)
        missed = "no path with all gold was read for any question" if counted.any() else reason
        for name in ("path_prior", "path_posterior"):
            mass = [float(np.dot(p or [], on)) for p, on in zip(table[name].to_pylist(), on_gold, strict=True)]
            self._mean(f"{name}_on_gold", np.where(hit == 1, mass, np.nan), missed)

    def _mean(self, name: str, values: np.ndarray, reason: str, column: str = "") -> None:
        """The mean over questions that have the value (NaN: has none); ``column`` as for :meth:`_put`."""
        import numpy as np

        there = values[~np.isnan(values)]
        self._put(name, float(there.mean()) if len(there) else None, reason, column)

    def _put(self, name: str, value: float | None, reason: str, column: str = "") -> None:
        """Note a metric. Where the reader left ``column`` null, be it for some questions only, it has no value: a mean
        over the others would be one of other questions than its neighbours'."""
        if column in self._column_nulls:
            value, reason = None, self._column_nulls[column]
        self.values[name] = value
        if value is None:
            self.nulls[name] = reason


def _floats(table: pa.Table, name: str) -> np.ndarray:
    """A column as float64, null as NaN."""
    import numpy as np

    return np.array([np.nan if v is None else v for v in table[name].to_pylist()], dtype=np.float64)
