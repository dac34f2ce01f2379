"""A tiny corpus of towns with questions, a vocabulary, and a reader small enough to train in a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from rag_exp.data.sources import CorpusOptions, Document, Passage, Question, QuestionOptions

TOWNS = 40


class Towns(CorpusOptions):
    kind: Literal["towns"] = "towns"

    def documents(self) -> Iterator[Document]:
        for i in range(TOWNS):
            text = f"Town {i} lies on the river R{i * 7 % TOWNS} " + "and is old " * (i % 5)
            yield Document(f"d{i}", (Passage(f"p{i}", f"Town {i}", text),))


class TownQuestions(QuestionOptions):
    kind: Literal["towns"] = "towns"

    def questions(self) -> Iterator[Question]:
        for i in range(TOWNS):
            gold = (f"p{i}",) if i % 10 else ()  # four questions name no gold passage
            yield Question(f"q{i}", f"Which river is Town {i} on?", (f"R{i * 7 % TOWNS}",), gold)


@pytest.fixture(scope="session")
def towns(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """``root``, ``table``, ``questions``, ``options`` (with dropout), ``reader()`` (a new one), ``packer``."""
    from rag_exp.data.passages import PassageTable, Whole, write_passages
    from rag_exp.data.questions import QuestionTable, write_questions
    from rag_exp.data.tokenizer import train_bpe
    from rag_exp.models.ladder import Ladder
    from rag_exp.models.packing import Packer
    from rag_exp.models.prompt import PromptOptions

    root: Path = tmp_path_factory.mktemp("towns")
    for name in ("passages", "questions", "tokenizer"):
        (root / name).mkdir()
    write_passages(Towns(), Whole(), root / "passages")
    table = PassageTable.open(root / "passages")
    write_questions(TownQuestions(), table, root / "questions")
    train_bpe([f"{title} {text}" for title, text in table.texts(range(TOWNS))], 320, root / "tokenizer")
    options = Ladder(size="s0", vocab_size=320, context=96, dropout=0.1)

    def reader(seed: int = 0):
        return options.create(root / "tokenizer", seed)

    first = reader()
    packer = Packer(first.tokenizer, PromptOptions(max_answer_tokens=12), first.context, first.seq2seq)
    return SimpleNamespace(
        root=root,
        table=table,
        questions=QuestionTable.open(root / "questions", "train"),
        options=options,
        reader=reader,
        packer=packer,
    )
