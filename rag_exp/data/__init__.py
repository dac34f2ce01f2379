"""Corpora, passages and questions: where they come from, and the two artifacts the rest of the lab reads.

``sources`` says what a corpus and a question source are; ``factbook``, ``closed_world``, ``jsonl``, ``squad`` and
``hub`` are the kinds; ``passages`` and ``questions`` write and open the artifacts. To import a kind is to register
it: ``rag_exp.config`` imports them all.
"""
