"""Readers and what is made of their scores: generators, prompts, marginals, objectives and decoding."""
