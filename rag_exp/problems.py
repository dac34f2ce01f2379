"""What is wrong with a configuration across its fields, as sentences that say where and how to mend it.

Everything here is known before anything is built; ``preflight`` holds the same checks against the exact sizes once
the data are read.
"""

from __future__ import annotations

from pathlib import Path

from rag_exp.config import RunConfig
from rag_exp.evaluation.answering import decoding_problems
from rag_exp.retrieval.hop2 import SecondHop
from rag_exp.retrieval.tuning import TUNING_SPLIT
from rag_exp.settings import Setting, known_size


def problems_of(config: RunConfig, train: Setting, asked: Setting) -> list[str]:
    """What is wrong across fields, as far as it can be known before anything is read: one sentence each."""
    found = [*config.corpus.problems(), *config.questions.problems(), *config.questions.misfits(config.corpus)]
    found += [*config.encoder.problems(), *_order_problems(config, train, asked)]
    known = known_size(config)
    found += setting_problems(config, train, train.size if train.size is not None else known, known, asked=False)
    if asked != train:
        found += setting_problems(config, asked, asked.size if asked.size is not None else known, known, asked=True)
    if (config.encoder.kind == "points") != (config.corpus.kind == "points") and asked.uses_vectors:
        found.append("encoder: points turns the numbers of corpus=points into vectors; neither goes without the other.")
    if any(s.uses_vectors and s.index.reads_vectors for s in (train, asked)):
        found += config.encoder.lacks_passages()
    if config.corpus.kind == "points" and asked.source == "index" and asked.index.needs != "vectors":
        found.append(f"index.kind: {asked.index.kind} reads words, and the points of corpus=points have none.")
    if config.encoder.precomputed and asked.uses_vectors:
        if train.hop2 is not None:
            found.append("retrieval.hop2: encoder=precomputed has no vectors for what a second hop asks; use one hop.")
        if config.retriever.train != "frozen":
            found.append(f"retriever.train: {config.retriever.train}: encoder=precomputed cannot train; use frozen.")
    if asked.source == "index" and asked.index.tuned and config.evaluation.split == TUNING_SPLIT:
        found.append(
            f"evaluation.split: {TUNING_SPLIT}: index.mode=iso_recall tunes the index on questions of that split, and "
            "those that are asked must be others; ask another split, or use index.mode=fixed."
        )
    if config.task == "retrieval":
        return list(dict.fromkeys([*found, *_search_problems(config, asked)]))
    found += config.generator.problems() if hasattr(config.generator, "problems") else []
    if not config.questions.answered:
        found.append(
            f"questions: {config.questions.kind} has no answers, so that no reader can be asked; judge the search "
            "alone (task=retrieval, or rag-exp bench)."
        )
    found += config.prompt.problems(config.generator.context_length(), config.generator.is_seq2seq())
    rows = getattr(config.generator, "vocab_size", None)
    if not config.generator.own_vocabulary and rows is not None and config.tokenizer.vocab_size > rows:
        found.append(
            f"generator.vocab_size: {rows} rows cannot hold a tokenizer of {config.tokenizer.vocab_size} pieces; "
            "set tokenizer.vocab_size, which the generator follows unless told otherwise."
        )
    if train.source == "none" and asked.source != "none":
        found.append(
            f"evaluation.source: {asked.source}: the model is trained without passages (retrieval.source=none), "
            "so it cannot be asked with them."
        )
    found += objective_problems(config, train)
    found += prior_problems(config, train)
    offered = config.questions.offers_choices()
    found += decoding_problems(config.objective, config.evaluation, config.generator.hosted, offered)
    if config.generator.hosted:
        found += hosted_problems(config)
    found += _hop_problems(config, train)
    return list(dict.fromkeys(found))


def _order_problems(config: RunConfig, train: Setting, asked: Setting) -> list[str]:
    """What keeps distractors from being ordered by vectors, where they are: one sentence each."""
    if config.corpus.distractors != "dense" or "distractor" not in (train.growth, asked.growth):
        return []
    encoder = config.distractors_encoder
    use = "use encoder@distractors_encoder=minilm, sentence_transformers or precomputed"
    if encoder is None:
        return [f"distractors_encoder: null: corpus.distractors=dense needs an encoder that comes trained; {use}."]
    if encoder.needs_tokenizer or encoder.warmup_steps > 0:
        return [
            f"distractors_encoder.kind: {encoder.kind} is trained on the corpus that it would put in order; {use}, "
            "which come trained."
        ]
    if encoder.kind == "points":
        return [f"distractors_encoder.kind: points reads the numbers of corpus=points, which has no gold; {use}."]
    return [f"distractors_{problem}" for problem in (*encoder.problems(), *encoder.lacks_passages())]


def _search_problems(config: RunConfig, asked: Setting) -> list[str]:
    """Why a search alone cannot be measured: one sentence each."""
    found = []
    if asked.source not in ("index", "run"):
        where = "evaluation.source" if config.evaluation.source is not None else "retrieval.source"
        found.append(f"{where}: {asked.source}: task=retrieval measures a search; use source=index or run.")
    if asked.hop2 is not None:
        found.append("retrieval.hop2: task=retrieval measures one search a question; use retrieval=index.")
    if config.retriever.train != "frozen":
        found.append(
            f"retriever.train: {config.retriever.train}: task=retrieval has no reader that teaches; use frozen."
        )
    return found


def objective_problems(config: RunConfig, train: Setting) -> list[str]:
    """What of objective, retriever and source does not go together: one sentence each."""
    found = []
    objective, trains, named = config.objective, config.retriever.train, f"objective={config.objective.kind}"
    if objective.reading == "none" and train.source != "none":
        found.append(f"retrieval.source: {train.source}: {named} reads no passages; use retrieval=closed_book.")
    if objective.needs_encoder and not config.generator.is_seq2seq():
        found.append(
            f"generator: {config.generator.kind}: {named} needs a decoder that attends to encoded passages; use "
            "generator=t5, generator=bart or a pretrained sequence-to-sequence model."
        )
    untaught = trains == "frozen" and not (config.retriever.learns_prior and train.scored)
    if config.training.steps > 0 and train.source != "none" and untaught and objective.evidence != "none":
        if objective.trains_reader:
            mend = "use retriever.train=query or both, or an objective of the reader alone, such as rag_sequence"
        else:
            mend = "nor does the reader: use training.steps=0 to ask it as it is, or retriever.train=query"
        found.append(f"retriever.train: frozen: {named} teaches a retriever, and none trains; {mend}.")
    if config.training.steps > 0 and train.source == "none" and not objective.trains_reader:
        found.append(f"training.steps: without passages {named} has nothing to train; use training.steps=0.")
    if trains != "frozen":
        where = f"retriever.train: {trains}"
        if train.source == "index" and train.index.needs != "vectors":
            why = "has no encoder to train" if train.index.needs == "texts" else "ranks by what no gradient reaches"
            found.append(f"{where}: index={train.index.kind} {why}; use retriever.train=frozen.")
        if train.source == "index" and train.index.tuned and config.training.steps > 0:
            found.append(
                f"{where}: index.mode=iso_recall cannot be held while the encoder that asks learns; train with "
                f"index.mode=fixed and tune what is asked (index@evaluation.index={train.index.kind} "
                "evaluation.index.mode=iso_recall)."
            )
        if objective.together and objective.evidence == "none":
            found.append(
                f"{where}: objective={objective.kind} reads all passages together and has no prior, so the retriever "
                "would get no gradient; use retriever.train=frozen, or an objective that teaches it (emdr2, pdist, "
                "adist)."
            )
        if train.source in ("oracle", "random", "run"):
            found.append(f"{where}: retrieval.source={train.source} does not retrieve; use retriever.train=frozen.")
    return found


def prior_problems(config: RunConfig, train: Setting) -> list[str]:
    """What does not go with a null document or a learned temperature: one sentence each.

    A closed-book arm of an objective that reads passages has no prior, so that it does not matter what it would be.
    """
    found = []
    objective, retriever = config.objective, config.retriever
    named, untrained = f"objective={objective.kind}", config.training.steps == 0
    unscored = train.source != "none" and not train.scored
    if retriever.null_document != "none":
        where, off = f"retriever.null_document: {retriever.null_document}", "use retriever.null_document=none"
        if objective.reading != "each" or objective.hops == 2:
            found.append(
                f"{where}: {named} has no sum over single passages of which it could be one; {off}, or rag_sequence, "
                "rag_token, ensemble, or emdr2 or pdist with objective.reader=each."
            )
        if unscored:
            found.append(f"{where}: retrieval.source={train.source} has no scores to weigh it against; {off}.")
        if retriever.null_document == "fixed" and retriever.null_score == "auto" and train.source != "none":
            found.append(
                "retriever.null_score: auto: with retriever.null_document=fixed there is nothing to find it by; give a "
                "number on the scale of the index's scores (rag-exp show RUN --question ID shows some)."
            )
        if retriever.null_document == "learned" and untrained and train.source != "none":
            found.append(f"{where}: training.steps=0 trains nothing; use retriever.null_document=fixed.")
    if retriever.learn_temperature and train.source != "none":
        where, off = "retriever.learn_temperature: true", "use retriever.learn_temperature=false"
        if objective.together and objective.evidence == "none":
            found.append(f"{where}: {named} reads all passages together and has no prior; {off}.")
        if objective.hops == 2 and retriever.train == "frozen":
            found.append(
                f"{where}: with retriever.train=frozen the paths of {named} are chosen once, at a fixed temperature; "
                f"{off}, or retriever.train=query or both."
            )
        if unscored:
            found.append(f"{where}: retrieval.source={train.source} has no scores; {off}.")
        if untrained:
            found.append(f"{where}: training.steps=0 trains nothing; {off}.")
    return found


def hosted_problems(config: RunConfig) -> list[str]:
    """What a generator that runs elsewhere cannot do: one sentence each."""
    found = []
    training, generator = config.training, config.generator
    if training.warmup.steps > 0:
        found.append(
            f"training.warmup.steps: {training.warmup.steps}: generator=hosted does not train; use "
            "training.warmup.steps=0 (experiment=hosted does)."
        )
    untaught = config.retriever.train == "frozen" and not config.retriever.learns_prior
    if training.steps > 0 and (config.objective.trains_reader or untaught):
        found.append(
            f"training.steps: {training.steps}: generator=hosted does not train; use training.steps=0, or let it teach "
            "a retriever (objective=ensemble with retriever=query or both) or the prior (with "
            "retriever.learn_temperature=true or retriever.null_document=learned)."
        )
    elif training.steps > 0 and not (generator.scores() and generator.logprobs != "auto"):
        found.append(
            "generator.logprobs: a hosted generator teaches by its log-probabilities; say how the endpoint gives them "
            "(generator.logprobs=echo or prompt_logprobs, with generator.protocol=completions)."
        )
    decode = config.evaluation.decode
    if decode in ("thorough", "choices") and not (generator.scores() and generator.logprobs != "auto"):
        found.append(
            f"evaluation.decode: {decode}: answers are ranked by their log-probabilities; say how the endpoint gives "
            "them (generator.logprobs=echo or prompt_logprobs, with generator.protocol=completions)."
        )
    if decode == "thorough" and generator.end_token is None:
        found.append(
            "generator.end_token: null: thorough decoding weighs whole answers, of different lengths, and needs the "
            "probability of their ends; name the text of the end token."
        )
    if not generator.scores() and decode == "none":
        found.append(
            "evaluation.decode: none: this endpoint is asked for no log-probabilities, so that nothing would be "
            "measured; write answers (evaluation.decode=greedy)."
        )
    return found


def _hop_problems(config: RunConfig, train: Setting) -> list[str]:
    """Whether objective and retrieval have the same number of hops."""
    hop2, e = config.retrieval.hop2, config.evaluation
    found = [
        f"evaluation.{name}: there is no second hop to ask with; use retrieval=two_hop."
        for name, value in (("j", e.j), ("paths", e.paths))
        if value is not None and hop2 is None
    ]
    if train.source == "none":
        return found
    if hop2 is not None and config.objective.hops == 1:
        found.append(
            f"objective: {config.objective.kind} reads single passages, and retrieval.hop2 finds paths of two; "
            "use objective=chain, or retrieval=index."
        )
    if hop2 is None and config.objective.hops == 2:
        found.append(
            f"objective: {config.objective.kind} reads paths of two passages, and retrieval has one hop; "
            "use retrieval=two_hop."
        )
    return found


def setting_problems(
    config: RunConfig, setting: Setting, size: int | None, whole: int | None, asked: bool
) -> list[str]:
    """What is wrong with a setting over a corpus of ``size`` passages (None: not known yet).

    Args:
        whole: passages of the whole corpus; None: not known yet.
        asked: whether it is the evaluation setting, whose keys are then named.
    """
    found: list[str] = []
    if setting.source in ("none", "oracle"):
        return found
    if size == 0:
        return ["corpus: it is empty; there is nothing to retrieve from. Look into its files."]
    if setting.hop2 is not None and setting.source == "index" and setting.index.needs == "both":
        found.append(f"index.kind: {setting.index.kind} has no second hop; use one of vectors or bm25.")
    if setting.source == "run":
        if not config.retrieval.runs:
            found.append(
                "retrieval.runs: source=run reads files of results; name them, such as retrieval.runs=[run.trec]."
            )
        found += [
            f"retrieval.runs: no file {f!r} (looked from {Path.cwd()})."
            for f in config.retrieval.runs
            if not Path(f).is_file()
        ]
        if setting.hop2 is not None:
            found.append("retrieval.hop2: a run file holds one search a question; use one hop, or source=index.")
    if setting.hop2 is not None:
        found += _path_problems(config, setting, setting.hop2, size, asked)
    k_key = "evaluation.k" if asked and config.evaluation.k is not None else "retrieval.k"
    size_key = "evaluation.corpus_size" if asked and config.evaluation.corpus_size is not None else "corpus.size"
    if setting.k < 1:
        found.append(f"{k_key}: {setting.k} passages cannot be read from source {setting.source}; give at least 1.")
    if size is not None and setting.k > size:
        found.append(
            f"{k_key}: {setting.k} passages cannot be read from a corpus of {size}; lower it or raise {size_key}."
        )
    prefix = "evaluation." if asked and config.evaluation.index is not None else ""
    indexed = whole if setting.selected else size
    if setting.source == "index" and indexed is not None:
        found += [prefix + problem for problem in setting.index.problems(indexed)]
    if setting.uses_vectors and not setting.index.any_width and not config.encoder.problems():
        found += [prefix + problem for problem in setting.index.misfits(config.encoder.known_dims())]
    if setting.source == "index" and setting.index.made_elsewhere:
        found += _elsewhere_problems(config, setting, prefix, size_key)
    if setting.source == "index" and setting.index.needs == "vectors" and setting.index.built == "once":
        found += [f"{prefix}index.built: once: {problem}" for problem in _selection_problems(config, setting)]
    if setting.source == "index" and (setting.shards > 1 or config.retrieval.on_ray):
        found += _shard_problems(config, setting, indexed)
    return found


def _elsewhere_problems(config: RunConfig, setting: Setting, prefix: str, size_key: str) -> list[str]:
    """Why an index that was made elsewhere cannot be searched in a setting."""
    index, found = setting.index, []
    if setting.size is not None and not setting.selected:
        found.append(
            f"{size_key}: {setting.size}: index={index.kind} holds a whole corpus, and is not built anew over a "
            f"smaller one; hold searches to the first passages ({prefix}index.built=once), or leave {size_key} null."
        )
    if config.retriever.train != "frozen":
        found.append(
            f"retriever.train: {config.retriever.train}: index={index.kind} is searched as it is; use "
            "retriever.train=frozen."
        )
    return found


def _selection_problems(config: RunConfig, setting: Setting) -> list[str]:
    """Why a smaller corpus cannot be searched by selection in an index over the whole one."""
    index = setting.index
    if not index.selects:
        mend = "search the whole corpus" if index.made_elsewhere else "use each_size, or index=ivf, hnsw, ivfpq or sq"
        return [f"index={index.named} takes no selection of passages; {mend}."]
    found = []
    if config.retriever.train != "frozen":
        found.append(f"retriever.train={config.retriever.train} builds its index as it learns; use each_size.")
    return found


def _shard_problems(config: RunConfig, setting: Setting, size: int | None) -> list[str]:
    """What keeps a setting's index from being cut into shards."""
    on_ray = config.retrieval.on_ray
    named = "retrieval.backend: ray" if on_ray else f"retrieval.shards: {setting.shards}"
    whole = "retrieval.backend=local and retrieval.shards=1"
    if setting.index.needs != "vectors":
        return [f"{named}: index={setting.index.kind} weighs words by the whole corpus; use {whole}."]
    if setting.index.made_elsewhere:
        return [f"{named}: index={setting.index.kind} was made whole, and is not cut; use {whole}."]
    found = on_ray.problems() if on_ray else []
    if on_ray and config.trainer.embedders not in ("auto", 1):
        found.append(
            f"trainer.embedders: {config.trainer.embedders}: with retrieval.backend=ray the tasks of the cluster "
            "embed, each in one process; use auto."
        )
    if config.retriever.train != "frozen":
        found.append(
            f"{named}: a retriever that trains searches in its own process; use {whole}, or retriever.train=frozen."
        )
    if size is not None and setting.shards > 1 and not setting.index.splits_exactly:
        least = size // setting.shards  # every shard learns for itself
        found += [f"{named}: of a shard of {least} passages, {p}" for p in setting.index.problems(least)]
    return found


def _path_problems(config: RunConfig, setting: Setting, hop2: SecondHop, size: int | None, asked: bool) -> list[str]:
    """What is wrong with a second hop over ``size`` passages."""
    found = []
    e = config.evaluation
    j_key = "evaluation.j" if asked and e.j is not None else "retrieval.hop2.j"
    paths_key = "evaluation.paths" if asked and e.paths is not None else "retrieval.hop2.paths"
    if setting.source == "random":
        if size is not None and 2 * hop2.paths > size:
            found.append(f"{paths_key}: {hop2.paths} random pairs cannot be drawn from {size} passages; lower it.")
        return found
    if hop2.paths > setting.k * hop2.j:
        found.append(
            f"{paths_key}: {hop2.paths} paths cannot be read of {setting.k} x {hop2.j} that are found (k x j); lower "
            f"it, or raise k or {j_key}."
        )
    if size is not None and hop2.j >= size:
        found.append(
            f"{j_key}: {hop2.j} other passages cannot follow a passage in a corpus of {size}; lower it or raise the "
            "corpus size."
        )
    return found
