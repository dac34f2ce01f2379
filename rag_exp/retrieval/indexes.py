"""Every kind of index there is. A new one is added by naming its module here."""

from __future__ import annotations

from rag_exp.retrieval.flat import Flat
from rag_exp.retrieval.hnsw import HNSW
from rag_exp.retrieval.index import INDEXES, BuiltIndex, IndexOptions
from rag_exp.retrieval.ivf import IVF
from rag_exp.retrieval.lexical import BM25

__all__ = ["BM25", "HNSW", "INDEXES", "IVF", "BuiltIndex", "Flat", "IndexOptions"]
