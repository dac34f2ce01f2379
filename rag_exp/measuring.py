"""What a run measured: sizes, FLOPs, bytes, seconds and metrics, from what its steps noted."""

from __future__ import annotations

from typing import Any

from rag_exp.config import RunConfig
from rag_exp.core.store import Step, Store
from rag_exp.retrieval.tuning import Tuning
from rag_exp.steps import TRAINED, RunSteps

LEARNED_TEMPERATURE = "the temperature was learned; exact search knows the whole corpus at retriever.temperature alone"
GONE = "no longer in the store"
UNKNOWN_SIZE = "the size of the generator, which is hosted elsewhere, is not known here"
UNREAD = "task=retrieval: nothing reads"

SEARCHED: dict[str, str] = {
    "index_recall@1": "share of questions whose first passage is that of exact search",
    "index_recall@k": "share of exact search's k passages that the index finds",
    "prior_kl": "KL(q || p) in nats: q the prior over what the index found, p that over the whole corpus",
    "prior_mass_missed": "prior mass on exact search's k passages that the index missed",
    "distances_per_query": "stored vectors compared with a query",
    "rescored_per_query": "candidates whose exact inner product was computed after the search",
    "queries_per_second": "questions searched a second, in batches",
    "latency_p50_ms": "median wall time of one query alone, milliseconds",
    "latency_p95_ms": "its 95th percentile",
    "search_threads": "threads that the search had",
    "index_bytes_per_passage": "size of the index over its passages",
}

BESIDE: dict[str, str] = {
    "hop2_recall@j": "as index_recall@k, of all that the second hop asked after a passage of the first",
    "prior_temperature": "what scores were divided by before the prior's softmax: as learned, where it was",
    "null_score": "the null document's score, on the scale of the others: as learned, where it was",
}


def arm(steps: RunSteps) -> str:
    """What the reader is given: ``closed_book``, ``oracle``, ``random``, ``run``, ``bm25``, ``hybrid`` or ``dense``."""
    asked = steps.asked
    if asked.source == "none":
        return "closed_book"
    if asked.source in ("oracle", "random", "run"):
        return asked.source
    return asked.index.kind if asked.index.kind in ("bm25", "hybrid") else "dense"


def left_out(steps: RunSteps, store: Store) -> list[str]:
    """What was not read as the recipe has it: a reader of the record should know."""
    found = []
    for role in ("reader_warmup", "checkpoint"):
        made = store.info(steps.roles[role]) if role in steps.roles else None
        if made is not None and made.stats["left_out"]:
            found.append(f"{role}: {made.stats['left_out']} questions were left out, having no passage to read")
    for role in ("train_tuning", "tuning"):
        made = store.info(steps.roles[role]) if role in steps.roles else None
        if made is not None and not made.stats["reached"]:
            found.append(f"{role}: {Tuning.of(made.stats).shortfall()}")
    asked = store.info(steps.roles["evaluation"]) if "evaluation" in steps.roles else None
    if asked is not None and asked.stats["closed_book"] and steps.asked.source != "none":
        found.append(f"evaluation: {asked.stats['closed_book']} questions had no passage and were asked closed book")
    return found + ([f"evaluation: {note}" for note in asked.stats["notes"]] if asked is not None else [])


# What a run whose search alone is judged has in the place of an evaluation's facts.
_NO_READER: dict[str, Any] = {"flops": None, "parameters": {}, "non_embedding": None}


def keys(steps: RunSteps) -> dict[str, str]:
    return {role: step.key for role, step in steps.roles.items()}


def measured(config: RunConfig, steps: RunSteps, store: Store) -> dict[str, Any]:
    """Sizes, parameters, FLOPs, bytes, seconds and metrics, from what each step noted when it was built.

    A step whose artifact is no longer in the store (a finished run never needs its parents) leaves nulls.
    """
    made = {role: a for role, step in steps.roles.items() if (a := store.info(step)) is not None}
    stats = {role: a.stats for role, a in made.items()}
    gone = sorted(set(steps.roles) - set(made))
    reads = "evaluation" in steps.roles
    evaluation = stats["evaluation"] if reads else {**_NO_READER, **stats["ranking"]}
    index, topk = stats.get("index", {}), stats.get("topk", {})
    nulls = dict(evaluation["nulls"])
    metrics: dict[str, float | None] = dict(evaluation["metrics"])
    searches = "index" in steps.roles

    def total(key: str, *roles: str) -> float | None:
        """The sum of ``key`` over those of ``roles`` that the run has; None where one of them is gone, or unknown."""
        of_run = [r for r in roles if r in steps.roles]
        values = [stats[r][key] for r in of_run if r not in gone]
        return None if any(r in gone for r in of_run) or None in values else sum(values)

    def known(name: str, value: Any, reason: str) -> Any:
        """``value``, its absence explained."""
        if value is None:
            nulls[name] = f"{GONE}: {', '.join(gone)}" if gone else reason
        return value

    def sized(name: str, value: Any) -> Any:
        """``value``, which only a generator of unknown size lacks, or a run without one."""
        if value is None:
            nulls[name] = UNKNOWN_SIZE if reads else UNREAD
        return value

    unsearched = f"arm {arm(steps)} searches no index"
    warmup = stats["encoder"]["flops"] if "encoder" in stats else None if "encoder" in steps.roles else {}
    flops: dict[str, float | None] = {
        "reader_warmup": known("flops.reader_warmup", total("flops", "reader_warmup"), ""),
        "marginal": known("flops.marginal", total("flops", "checkpoint"), UNKNOWN_SIZE),
        "retriever_warmup": known("flops.retriever_warmup", None if warmup is None else sum(warmup.values()), ""),
        # BM25 embeds nothing, which is no cost and no gap.
        "embedding": known(
            "flops.embedding",
            index.get("embedding_flops", 0.0) if index else None,
            index.get("build_flops_reason") or unsearched,
        ),
        "index_build": known(
            "flops.index_build", index.get("build_flops"), index.get("build_flops_reason") or unsearched
        ),
        "search": known(
            "flops.search",
            _search_flops(topk, stats.get("paths") if searches else None),
            _uncounted(topk) if searches else unsearched,
        ),
        "reading": sized("flops.reading", evaluation["flops"]),
    }
    stages = [flops[name] for name in ("reader_warmup", "marginal", "retriever_warmup")]
    training = None if None in stages else sum(s for s in stages if s is not None)
    flops["training"] = known("flops.training", training, UNKNOWN_SIZE)
    _add_search(metrics, nulls, topk, index, unsearched if not searches else f"{GONE}: {', '.join(gone)}")
    one_hop = "there is no second hop" if steps.asked.hop2 is None else None
    _add_second_hop(metrics, nulls, topk, stats.get("paths"), one_hop if searches else unsearched)
    # What is fixed was not always noted, and is known.
    prior = evaluation.get("prior") or {"temperature": config.retriever.temperature, "null_score": None}
    _add_prior(metrics, nulls, prior if steps.asked.scored else None, unsearched)
    if searches and config.retriever.learn_temperature:  # these were measured at another
        metrics |= dict.fromkeys(("prior_kl", "prior_mass_missed"))
        nulls |= dict.fromkeys(("prior_kl", "prior_mass_missed"), LEARNED_TEMPERATURE)
    parameters = dict(evaluation["parameters"])
    if index.get("parameters"):
        parameters["encoder"] = index["parameters"]
    trained = reads and steps.train.source != "none" and config.training.steps > 0
    train_side = stats.get("train_topk", stats.get("checkpoint", {}))
    untrained = "no passages were retrieved in training"
    sizes: dict[str, int | None] = {
        "N": sized("N", evaluation["non_embedding"]),
        "N_total": sized("N_total", sum(parameters.get("generator", {}).values()) or None),
        "retriever_parameters": known(
            "retriever_parameters", None if searches and not index else sum(parameters.get("encoder", {}).values()), ""
        ),
        "D": known("D", total("tokens", "reader_warmup", "checkpoint"), ""),
        "D_target": known("D_target", total("target_tokens", "reader_warmup", "checkpoint"), ""),
        "M": known("M", evaluation["M"], "a closed-book run reads no corpus"),
        "M_train": known("M_train", train_side.get("M") if trained else None, untrained),
        "K": steps.asked.k,
        "J": known("J", steps.asked.hop2.j if steps.asked.hop2 and searches else None, "there is no second hop"),
        "paths": known("paths", steps.asked.prompts if steps.asked.hop2 else None, "no paths are read"),
        "K_train": known("K_train", steps.train.k if trained else None, untrained),
        "questions": evaluation["questions"],
    }
    corpora = _corpora(steps, store, nulls)
    search = _asked_how(steps, stats) if searches else {}
    if "tuning" in stats:
        metrics["tuning_recall@k"] = stats["tuning"]["recall"]
    parts = ("embeddings", "index_shards")
    pieces = {f"{part}/{i}": shard for part in parts for i, shard in enumerate(index.get(part, []))}
    if "quantizer" in index:  # what the index's shards were filled from
        pieces["quantizer"] = index["quantizer"]
    # A stage that was killed and resumed knows its whole time; the artifact's is that of the last process.
    seconds: dict[str, float | None] = {
        role: a.stats["seconds"] if role in TRAINED else a.seconds for role, a in made.items()
    }
    for role, a in made.items():
        if "build_seconds_reason" in a.stats:  # opened, not built
            seconds[role], nulls[f"seconds.{role}"] = None, a.stats["build_seconds_reason"]
    return {
        "artifacts": {**keys(steps), **{role: piece["key"] for role, piece in pieces.items()}},
        "sizes": sizes,
        "corpora": corpora,
        "parameters": parameters,
        "flops": flops,
        "bytes": {**{role: a.bytes for role, a in made.items()}, **{r: p["bytes"] for r, p in pieces.items()}},
        "seconds": {**seconds, **{role: piece["seconds"] for role, piece in pieces.items()}},
        "search": search,
        "metrics": metrics,
        "nulls": nulls,
    }


def _corpora(steps: RunSteps, store: Store, nulls: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The manifests of the corpora that passages were read from; what is not known is explained in ``nulls``."""
    found: dict[str, dict[str, Any]] = {}
    if "asked" not in steps.manifests:
        nulls["corpora.asked"] = "a closed-book run reads no corpus"
    for name, step in steps.manifests.items():
        made = store.info(step)
        if made is None:
            nulls[f"corpora.{name}"] = f"{GONE}: the passages"
            continue
        found[name] = {key: made.stats[key] for key in ("documents", "passages", "words", "tokens", "digest")}
        found[name]["order"] = _order(step.parents["passages"])
        if found[name]["tokens"] is None:
            nulls[f"corpora.{name}.tokens"] = "no vocabulary trained on the corpus is part of this run"
    return found


def _order(passages: Step) -> str:
    """Which documents come first in a corpus, in words."""
    corpus, gold = passages.fields["corpus"], passages.fields.get("gold")
    by_hash = f"hash order, seed {corpus['order_seed']}"
    if gold is None:
        return by_hash
    near, splits = "", " and ".join(gold["splits"])
    if "nearness" in passages.parents:
        step = passages.parents["nearness"]
        near = f", those near its questions by {step.fields['encoder']['kind']} ({step.name})"
    elif "nearness" in passages.fields:
        near = ", those near its questions by bm25"
    return f"gold of split {splits}{near}, {by_hash}"


def _asked_how(steps: RunSteps, stats: dict[str, Any]) -> dict[str, Any]:
    """The search parameters of the index as they were used, and how a tuned one came about."""
    found = steps.asked.index.searched_by()
    if steps.asked.selected:
        found["built"] = "once"
    if steps.asked.index.made_elsewhere:
        found["type"] = stats.get("index", {}).get("type")  # as the file told
    if "tuning" in stats:
        tuned = stats["tuning"]
        found |= {tuned["dial"]: tuned["value"]}
        found |= {f"tuning_{name}": tuned[name] for name in ("target", "recall", "reached", "questions")}
    return found


def _uncounted(topk: dict[str, Any]) -> str:
    """Why the operations of a search are not known."""
    if topk.get("compares_codes"):
        return "this index compares codes by tables or bits, which are no inner products"
    return "this index does not count its comparisons"


def _search_flops(topk: dict[str, Any], paths: dict[str, Any] | None) -> float | None:
    """Operations of all comparisons; a second hop's with the encoding of its queries. None where an index is silent
    or compares codes."""
    found = 0.0
    for hop in (topk, *([paths] if paths is not None else [])):
        if hop.get("compares_codes") or not (hop.get("distances") and hop.get("dims")):
            return None
        found += 2.0 * hop["distances"] * hop["dims"] + hop.get("encode_flops", 0)
    return found


def _add_search(
    metrics: dict[str, float | None],
    nulls: dict[str, str],
    topk: dict[str, Any],
    index: dict[str, Any],
    unindexed: str,
) -> None:
    """Add what is known of the search (what exact search would have found, speed, size), or why it is not.

    Args:
        unindexed: the reason where there is no ``index``.
    """
    recall, latency = topk.get("recall") or {}, topk.get("latency_ms") or {}
    uncompared = topk.get("recall_reason", "unknown")
    counted = "this index does not count its comparisons"
    distances = topk["distances"] / topk["queries"] if topk.get("distances") and topk.get("queries") else None
    rescored = topk.get("rescored", 0) / topk["queries"] if topk.get("queries") else None
    found = {
        "index_recall@1": (recall.get("1"), uncompared),
        "index_recall@k": (recall.get(str(topk.get("k"))), uncompared),
        "prior_kl": (topk.get("prior_kl"), uncompared),
        "prior_mass_missed": (topk.get("prior_mass_missed"), uncompared),
        "distances_per_query": (distances, counted),
        "rescored_per_query": (rescored, "no questions were searched"),
        "queries_per_second": (topk.get("queries_per_second"), "no questions were searched"),
        "latency_p50_ms": (latency.get("p50"), "no questions were searched"),
        "latency_p95_ms": (latency.get("p95"), "no questions were searched"),
        "search_threads": (topk.get("threads"), "unknown"),
        "index_bytes_per_passage": (
            index["bytes"] / index["M"] if index.get("bytes") and index.get("M") else None,
            "unknown for this index",
        ),
    }
    assert list(found) == list(SEARCHED)
    for name, (value, reason) in found.items():
        metrics[name] = value
        if value is None:
            nulls[name] = reason if index else unindexed


def _add_second_hop(
    metrics: dict[str, float | None],
    nulls: dict[str, str],
    topk: dict[str, Any],
    paths: dict[str, Any] | None,
    unasked: str | None,
) -> None:
    """Add the second hop's recall against exact search, over all that was asked after a passage of the first.

    Args:
        paths: what the step noted; None where it is no longer in the store.
        unasked: why there is no such search; None where there is one.
    """
    recall = None if unasked is not None or paths is None else paths["recall"]
    metrics["hop2_recall@j"] = recall
    if recall is None:
        uncompared = topk.get("recall_reason", "the first hop found nothing to ask after")
        nulls["hop2_recall@j"] = unasked or (f"{GONE}: paths" if paths is None else uncompared)


def _add_prior(
    metrics: dict[str, float | None],
    nulls: dict[str, str],
    prior: dict[str, float | None] | None,
    unscored: str,
) -> None:
    """Add the numbers of the prior that was asked with.

    Args:
        prior: its numbers; None where passages have no scores, which is ``unscored``.
    """
    for name, number in (("prior_temperature", "temperature"), ("null_score", "null_score")):
        metrics[name] = None if prior is None else prior[number]
        if metrics[name] is None:
            nulls[name] = unscored if prior is None else "there is no null document (retriever.null_document)"
