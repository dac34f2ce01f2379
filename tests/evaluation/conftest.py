"""A tiny corpus of towns, questions with several answers and kinds of gold, and readers from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from rag_exp.data.sources import CorpusOptions, Document, Passage, Question, QuestionOptions

TOWNS = 24


class Towns(CorpusOptions):
    kind: Literal["towns"] = "towns"

    def documents(self) -> Iterator[Document]:
        for i in range(TOWNS):
            text = f"Town {i} lies on the river R{i * 7 % TOWNS} " + "and is old " * (i % 5 * 3)
            yield Document(f"d{i}", (Passage(f"p{i}", f"Town {i}", text),))


class TownQuestions(QuestionOptions):
    kind: Literal["towns"] = "towns"

    def questions(self) -> Iterator[Question]:
        for i in range(TOWNS):
            river = f"R{i * 7 % TOWNS}"
            answers = (river, f"the river {river}", river) if i % 3 == 0 else (river,)
            gold = (f"p{i}",) if i % 6 else ()
            floor = 0.5 if i % 2 else None
            choices = (f"R{(i * 7 + 5) % TOWNS}", river, f"R{(i * 7 + 11) % TOWNS}")
            yield Question(
                f"q{i}", f"Which river is Town {i} on?", answers, gold, "dev", 1, "river", 2.0, floor, choices
            )


@pytest.fixture(scope="session")
def towns(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """``root``, ``table``, ``questions`` and ``kit(family)`` -> (reader, packer, sizes)."""
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

    def kit(family: str = "llama", context: int = 160):
        options = Ladder(size="s0", vocab_size=320, context=context, dropout=0.1, family=family)
        reader = options.create(root / "tokenizer", 0)
        packer = Packer(reader.tokenizer, PromptOptions(max_answer_tokens=12), reader.context, reader.seq2seq)
        return reader, packer, options.sizes()

    return SimpleNamespace(
        root=root,
        table=table,
        questions=QuestionTable.open(root / "questions", "dev"),
        kit=kit,
        size=TOWNS,
        rivers=tuple(f"R{i}" for i in range(TOWNS)),
    )
