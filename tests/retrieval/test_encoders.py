from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from rag_exp.retrieval.encoders import ENCODERS, SentenceTransformers, Static, passage_text
from rag_exp.retrieval.options import RetrieverOptions, RetrieverWarmup


def test_passage_text_always_tells_title_from_text():
    assert passage_text("A title", "a\ntext") == "A title\na\ntext"
    assert passage_text("", "text\nmore") == "\ntext\nmore"
    assert passage_text("two\nlines ", "x") == "two lines\nx"


def test_kinds():
    assert set(ENCODERS.kinds) >= {"static", "sentence_transformers"}


def test_options_modules_import_nothing_heavy():
    code = (
        "import sys, rag_exp.retrieval.encoders, rag_exp.retrieval.indexes, rag_exp.retrieval.options;"
        "print([m for m in ('torch', 'faiss', 'numpy', 'transformers', 'bm25s', 'scipy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("values", [{"dims": 0}, {"max_length": 1}, {"scale": 0}, {"title_weight": -1}, {"dim": 4}])
def test_wrong_static_options_are_refused(values: dict):
    with pytest.raises(ValidationError):
        Static(**values)


def test_warmup_auto_is_the_encoders():
    static = RetrieverWarmup().resolved(Static())
    assert (static.steps, static.lr, static.pool) == (100, 3e-3, 50_000)
    other = RetrieverWarmup(lr=1e-4).resolved(SentenceTransformers(model="x/y"))
    assert (other.steps, other.lr, other.pool) == (0, 1e-4, 4_096)
    assert RetrieverWarmup(steps=7).resolved(Static()).steps == 7


def test_a_resolved_warmup_is_the_same_as_one_written_out():
    written = RetrieverWarmup(steps=100, lr=3e-3, pool=50_000)
    assert RetrieverWarmup().resolved(Static()).identity() == written.identity()


@pytest.mark.parametrize(
    "values", [{"temperature": 0}, {"train": "all"}, {"warmup": {"batch_size": 1}}, {"warmup": {"lr": "fast"}}]
)
def test_wrong_retriever_options_are_refused(values: dict):
    with pytest.raises(ValidationError):
        RetrieverOptions(**values)


def test_a_model_is_identified_by_content_not_by_its_path():
    assert (
        SentenceTransformers(model="/a/b", revision="main").identity() == SentenceTransformers(model="/c/d").identity()
    )
    assert SentenceTransformers(model="x", max_length=9).identity() != SentenceTransformers(model="x").identity()


@pytest.mark.parametrize("make", [Static, lambda **o: SentenceTransformers(model="x", **o)])
def test_storage_is_identified_only_where_it_is_not_float32(make):
    assert "storage" not in make().identity()
    assert make(storage="float16").identity() == {**make().identity(), "storage": "float16"}
    assert (make().bytes_per_number, make(storage="float16").bytes_per_number) == (4, 2)
