"""From a question to passages: encoders, embeddings, exact and approximate indexes, BM25, and retrievers that train.

Import the module that holds what is needed; this file imports nothing, so that options stay cheap to load.
"""
