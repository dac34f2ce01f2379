"""What each step builds, by the rooms below. ``steps`` says from what; here is how.

Every function takes its options and a :class:`~rag_exp.core.store.Build`, asks it for the parents it
needs, writes plain files and notes its facts in ``build.stats``. torch and faiss are imported by the
rooms when a build runs, never to name a run.
"""

from rag_exp.builders.embedding import embeddings
from rag_exp.builders.manifests import manifest, token_counts
from rag_exp.builders.parents import VectorSteps
from rag_exp.builders.reading import checkpoint, evaluation, reader_warmup
from rag_exp.builders.retrieval import (
    EXACT_K,
    encoder,
    exact,
    index,
    nearness,
    pairs,
    passages,
    paths,
    question_embeddings,
    questions,
    ranking,
    released_encoder,
    tokenizer,
    topk,
    tuning,
)
from rag_exp.builders.sharding import index_shard, quantizer

__all__ = [
    "EXACT_K",
    "VectorSteps",
    "checkpoint",
    "embeddings",
    "encoder",
    "evaluation",
    "exact",
    "index",
    "index_shard",
    "manifest",
    "nearness",
    "pairs",
    "passages",
    "paths",
    "quantizer",
    "question_embeddings",
    "questions",
    "ranking",
    "reader_warmup",
    "released_encoder",
    "token_counts",
    "tokenizer",
    "topk",
    "tuning",
]
