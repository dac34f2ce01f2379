"""What a corpus is said to be, of every size, from tokens that are counted once."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_exp.builders import manifests
from rag_exp.config import compose
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.store import Store
from rag_exp.data.passages import PassageTable
from rag_exp.data.tokenizer import TextTokenizer
from rag_exp.steps import plan_run


def test_tokens_are_counted_once_for_all_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(manifests, "SHARD_ROWS", 500)
    store, read = Store(tmp_path), []
    encode = TextTokenizer.encode
    monkeypatch.setattr(TextTokenizer, "encode", lambda self, texts: (read.extend(texts), encode(self, texts))[1])
    for size in (600, 1_100, None):
        steps = plan_run(compose(["debug=tiny", f"corpus.size={size or 'null'}"]).run, ContentDigests())
        found = store.ensure(steps.manifests["asked"]).stats
        table = PassageTable.open(store.ensure(steps.roles["passages"]).path)
        vocabulary = TextTokenizer.load(store.ensure(steps.roles["tokenizer"]).path)
        pairs = table.texts(range(table.prefix_size(size)))
        assert found["passages"] == len(pairs)
        assert found["tokens"] == sum(map(len, encode(vocabulary, [f"{title}\n{text}" for title, text in pairs])))
    assert len(read) == len(table) > 1_000
    assert len(list((tmp_path / "objects" / "token_counts").iterdir())) == 3


def test_without_a_vocabulary_there_are_no_tokens(tmp_path: Path):
    steps = plan_run(compose(["debug=tiny", "task=retrieval", "index=bm25"]).run, ContentDigests())
    found = Store(tmp_path).ensure(steps.manifests["asked"]).stats
    assert (found["passages"], found["tokens"]) == (1_200, None)
