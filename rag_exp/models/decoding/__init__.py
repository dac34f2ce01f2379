"""Writing and ranking answers for a whole batch of questions at once, with cached keys and values.

============== ==================================================================================================
``greedy``     the most likely token at each step, of each row or of the RAG-Token marginal
``beam``       beam search, of each row or of the RAG-Token marginal
``sequence``   answers by the RAG-Sequence marginal over what beams propose: *thorough* and *fast*
``choices``    given answers, ranked by any marginal
============== ==================================================================================================

All stand on ``prompts`` (prompts that have been read once: what comes next, and how to go on; their ``caches`` have
room), on ``next_token`` (what a vocabulary's distribution is asked for) and, where given texts are scored, on
``continuations``. Decoders take a generator, a batch and log p(z|x) of its rows, and know
nothing of objectives: a row may be a passage, a path of two passages, or the one reading of a joint prompt, and the
prior need not sum to one.

Shapes: B questions, K readings a question (passages, paths), N = B*K rows, L input tokens, T target tokens,
V vocabulary, W beams.
"""
