"""A generator that runs elsewhere, behind an OpenAI-compatible endpoint.

    options     what can be chosen, and whether the endpoint answers
    pieces      a vocabulary that keeps text as it is, so that prompts are packed as for any reader
    generator   scores and writes answers, row by row of a packed batch
    wire        what is asked and what is answered, as JSON
    alignment   which of the echoed tokens are the answer's
    replies     what was answered, kept on disk: a repeated question costs no request
    endpoint    HTTP: timeouts, retries, the key
    pace        requests and tokens per minute

What such a generator can say depends on the server. With log-probabilities of a given continuation an answer is
scored; with text only it is written, and its nats are null. Few servers tell the probability of the end token: where
it cannot be had, ``nll`` (which holds it) is null and ``nll_without_end`` has the value.
"""

from rag_exp.models.hosted.options import Hosted

__all__ = ["Hosted"]
