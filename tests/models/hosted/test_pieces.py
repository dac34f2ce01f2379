"""Text survives packing to the letter."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_exp.core.errors import DataError
from rag_exp.models.hosted.pieces import Pieces
from rag_exp.models.packing import Packer
from rag_exp.models.prompt import PromptOptions


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=4), st.integers(1, 5))
def test_characters_join_to_the_text(texts, together):
    pieces = Pieces.of_characters(together)
    ids = pieces.encode(texts)
    assert pieces.decode(ids) == texts
    assert [len(row) for row in ids] == [-(-len(t) // together) for t in texts]


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=30))
def test_a_tokenizers_pieces_join_to_the_text(saved, text):
    from tokenizers import Tokenizer

    pieces = Pieces.of_tokenizer(saved / "tokenizer.json")
    (ids,) = pieces.encode([text])
    assert pieces.decode([ids]) == [text]
    if text:
        assert len(ids) == len(Tokenizer.from_file(str(saved / "tokenizer.json")).encode(text).ids)


def test_no_tokenizer_there(tmp_path: Path):
    with pytest.raises(DataError, match="no tokenizer that can be read"):
        Pieces.of_tokenizer(tmp_path)


def test_a_packed_prompt_is_the_template_and_passages_are_cut_to_the_budget():
    pieces = Pieces.of_characters(1)
    options = PromptOptions(
        template="{passages}Q: {question}\n", passage="P: {title}. {text}\n", answer_prefix="A: ", max_answer_tokens=5
    )
    packer = Packer(pieces, options, 60, False)
    passage = (packer.tokens(["T"], "title")[0], packer.tokens(["x" * 100], "text")[0])
    batch = packer.pack(packer.tokens(["why?"], "question"), [[passage]], packer.tokens(["y"], "answer"))
    (prompt,) = pieces.decode([batch.input_ids_NL[0, : batch.prompt_lengths_N[0]].tolist()])
    assert prompt.startswith("P: T. xxx")
    assert prompt.endswith("x\nQ: why?\nA:")  # the space before the answer goes with the answer
    assert len(prompt) == 60 - 5
    assert pieces.decode([batch.targets_NT[0].tolist()]) == [" y"]
    assert batch.truncated_passages == 1
