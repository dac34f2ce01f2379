"""The ground floor: errors, options, fingerprints, the artifact store, run records, seed streams.

Nothing here imports torch, faiss, pandas or Hydra, and nothing here imports another room of rag_exp.
"""
