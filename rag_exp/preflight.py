"""The data of every run of a study, read and checked before the first one starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rag_exp.config import RunConfig
from rag_exp.core.errors import ConfigError
from rag_exp.core.store import Store
from rag_exp.problems import setting_problems
from rag_exp.retrieval.tuning import TUNING_SPLIT
from rag_exp.run import RunFolder, say
from rag_exp.steps import TRAINED, RunSteps


def prepare(points: Sequence[tuple[RunConfig, RunSteps]]) -> None:
    """Read and check the data of every run before the first one starts.

    Builds passages and questions (malformed lines, duplicate ids and absent gold passages end here) and
    holds the exact corpus sizes against k and the index. A hosted generator is asked whether it answers.

    Raises:
        ConfigError, DataError: what is wrong, before any long work.
    """
    problems: dict[str, None] = {}
    stores: dict[Path, Store] = {}
    asked: list[Any] = []  # generators, each once
    for config, steps in points:
        if not config.paths.reuse or RunFolder(config.paths.root, steps.run_id).record.is_file():
            continue
        store = stores.setdefault(config.paths.store, Store(config.paths.store, report=say))
        for problem in _data_problems(config, steps, store):
            problems.setdefault(problem)
        if config.task == "rag" and not store.has(steps.last) and config.generator not in asked:
            asked.append(config.generator)
            problems |= dict.fromkeys(config.generator.unready())
    if problems:
        raise ConfigError(list(problems))


def _data_problems(config: RunConfig, steps: RunSteps, store: Store) -> list[str]:
    from rag_exp.data.passages import PassageTable
    from rag_exp.data.questions import QuestionTable

    found: list[str] = []
    splits: dict[str, QuestionTable] = {}
    roles = steps.roles
    for setting, role, split in (
        (steps.train, "", "train"),
        (steps.asked, "evaluation_", config.evaluation.split),
    ):
        made = store.ensure(roles.get(f"{role}passages", roles["passages"]))
        questions = store.ensure(roles.get(f"{role}questions", roles["questions"]))
        if split == "train" and not any(r in roles for r in TRAINED):
            continue
        limit = config.training.questions if split == "train" else config.evaluation.questions
        splits[split] = QuestionTable.open(questions.path, split, limit)  # an unknown split is an error that names them
        if setting.source == "none":
            continue
        table = PassageTable.open(made.path)
        size = table.prefix_size(setting.size)
        wrong = setting_problems(config, setting, size, len(table), asked=bool(role))
        index = roles.get("train_index" if split == "train" else "index")
        if not wrong and index is not None and setting.index.made_elsewhere and not store.has(index):
            setting.index.rows_in(table)  # what does not match is said before vectors are made to compare it with
        found += wrong
        golds = made.stats.get("gold_documents")
        if setting.growth == "distractor" and golds and size < int(table.doc_ends[golds - 1]):
            key = "evaluation.corpus_size" if role and config.evaluation.corpus_size is not None else "corpus.size"
            found.append(
                f"{key}: growth=distractor keeps the {int(table.doc_ends[golds - 1])} passages of the documents that "
                f"hold gold passages of split {split}; {size} cannot hold them. Raise it."
            )
        if setting.source == "index" and setting.index.tuned and not splits[split].stats["splits"].get(TUNING_SPLIT):
            where = "evaluation.index" if role and config.evaluation.index is not None else "index"
            found.append(
                f"{where}.mode: iso_recall measures recall on questions of split {TUNING_SPLIT}, and there are none; "
                f"use {where}.mode=fixed, or set questions.tuning where the questions have it (points, judged)."
            )
        if setting.source == "oracle" and not any(splits[split].gold):
            found.append(f"source=oracle: no question of split {split} names a gold passage.")
    return found + _room_problems(config, steps, store, splits)


def _room_problems(config: RunConfig, steps: RunSteps, store: Store, splits: dict[str, Any]) -> list[str]:
    """Prompts and answers that cannot fit the generator, where its vocabulary is the corpus' own."""
    if config.task == "retrieval" or config.generator.own_vocabulary:
        return []
    from rag_exp.data.tokenizer import TextTokenizer
    from rag_exp.models.packing import Packer

    tokenizer = TextTokenizer.load(store.ensure(steps.roles["tokenizer"]).path)
    packer = Packer(tokenizer, config.prompt, config.generator.context_length(), config.generator.is_seq2seq())
    found = []
    for split, questions in splits.items():
        k = steps.train.prompts if split == "train" else steps.asked.prompts
        asked, answers = packer.tokens(questions.questions, "question"), packer.tokens(questions.targets, "answer")
        found += packer.room_problems(asked, answers, config.objective.in_one_prompt(k))
    return found
