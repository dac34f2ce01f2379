"""Every kind of index there is. A new one is added by naming its module here."""

from __future__ import annotations

from rag_exp.retrieval.annoy_index import Annoy
from rag_exp.retrieval.factory import IVFPQ, OPQ, PQ, SQ, Factory, FastScan, RaBitQ
from rag_exp.retrieval.flat import Flat
from rag_exp.retrieval.hnsw import HNSW
from rag_exp.retrieval.hybrid import Hybrid
from rag_exp.retrieval.index import INDEXES, BuiltIndex, IndexOptions
from rag_exp.retrieval.index_file import File
from rag_exp.retrieval.ivf import IVF
from rag_exp.retrieval.lexical import BM25
from rag_exp.retrieval.milvus_index import Milvus

__all__ = [
    "BM25", "HNSW", "INDEXES", "IVF", "IVFPQ", "OPQ", "PQ", "SQ",
    "Annoy", "BuiltIndex", "Factory", "FastScan", "File", "Flat", "Hybrid", "IndexOptions", "Milvus", "RaBitQ",
]  # fmt: skip
