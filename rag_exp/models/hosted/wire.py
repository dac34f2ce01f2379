"""The wire format: requests and replies of OpenAI-compatible endpoints, as plain JSON values.

Three ways lead to the log-probabilities of a given text, all through ``/completions``:

* ``echo`` with ``logprobs``: the reply repeats the prompt, token by token, with text offsets (OpenAI's legacy
  endpoint, vLLM, llama-cpp-python);
* ``prompt_logprobs``, an extension of vLLM: one entry a prompt token, without offsets;
* none. A server may ignore what it does not know and answer as if nothing were wrong, so what counts is the reply.

One token is generated with them, since some servers read ``max_tokens: 0`` as no limit.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from rag_exp.models.hosted.alignment import Echo

Way = Literal["echo", "prompt_logprobs"]
Json = dict[str, Any]

COMPLETIONS, CHAT = "/completions", "/chat/completions"


class WireError(Exception):
    """A reply that is not what the format says, or not what was asked for; the message says what is wrong with it.

    Args:
        field: the option of the generator that it is about, where that is known.
    """

    def __init__(self, message: str, field: str | None = None):
        super().__init__(message)
        self.field = field


def scoring(model: str, text: str, way: Way) -> Json:
    """A request for the log-probability of each token of ``text``."""
    body = {"model": model, "prompt": text, "max_tokens": 1, "temperature": 0.0}
    return body | ({"echo": True, "logprobs": 1} if way == "echo" else {"prompt_logprobs": 0})


def writing(model: str, prompt: str, max_tokens: int, stop: list[str], logprobs: bool) -> Json:
    """A request for the most likely continuation of ``prompt``."""
    body = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0.0}
    return body | ({"stop": stop} if stop else {}) | ({"logprobs": 1} if logprobs else {})


def chatting(model: str, prompt: str, max_tokens: int, stop: list[str]) -> Json:
    """As :func:`writing` for a chat endpoint: the prompt is what the user says."""
    messages = [{"role": "user", "content": prompt}]
    body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0.0}
    return body | ({"stop": stop} if stop else {})


def echoed(reply: Json, way: Way) -> Echo | None:
    """The echoed tokens of a reply to :func:`scoring`; None where it holds none.

    Raises:
        WireError: it holds something else than the format says.
    """
    choice = _choice(reply)
    found = choice.get("logprobs") if way == "echo" else choice.get("prompt_logprobs")
    if not found:
        return None
    if way == "prompt_logprobs":
        return _prompt_logprobs(found)
    try:
        tokens, logp, offsets = found["tokens"], found["token_logprobs"], found.get("text_offset")
    except (KeyError, TypeError, AttributeError) as e:
        raise WireError(f"its log-probabilities have no list of tokens and of values ({e!r})") from e
    if not tokens or logp is None:
        return None
    if len(tokens) != len(logp) or (offsets is not None and len(offsets) != len(tokens)):
        raise WireError(f"it lists {len(tokens)} tokens and {len(logp)} log-probabilities")
    if logp[0] is not None and len(tokens) <= 1:
        return None  # only what was generated: the server does not echo
    return Echo(tokens, [_number(x) for x in logp], offsets, usage(reply).get("completion_tokens", 0))


def _prompt_logprobs(entries: Any) -> Echo:
    tokens: list[str] = []
    logp: list[float | None] = []
    for entry in entries:
        if entry is None:  # the first token
            tokens.append("")
            logp.append(None)
            continue
        if not isinstance(entry, dict) or len(entry) != 1:
            raise WireError("an entry of its prompt_logprobs is not of one token")
        ((only),) = entry.values()
        tokens.append(str(only.get("decoded_token") or ""))
        logp.append(_number(only.get("logprob")))
    return Echo(tokens, logp, None)


def written(reply: Json) -> tuple[str, float | None, bool]:
    """The text of a reply to :func:`writing` or :func:`chatting`, its log-probability, and whether it came to an end.

    The log-probability is the sum over the tokens that the reply lists; None where it lists none.

    Raises:
        WireError: there is no text in it.
    """
    choice = _choice(reply)
    text = choice["message"].get("content") if isinstance(choice.get("message"), dict) else choice.get("text")
    if text is None:
        text = ""
    if not isinstance(text, str):
        raise WireError("its choice holds no text")
    listed = (choice.get("logprobs") or {}).get("token_logprobs")
    logp = [_number(x) for x in listed] if listed else []
    known = [x for x in logp if x is not None]
    whole = bool(logp) and len(known) == len(logp)
    return text, sum(known) if whole else None, choice.get("finish_reason") != "length"


def usage(reply: Json) -> dict[str, int]:
    """Tokens of prompt and completion by the endpoint's count; empty where it does not say."""
    found = reply.get("usage")
    names = ("prompt_tokens", "completion_tokens")
    return {n: int(found[n]) for n in names if found.get(n) is not None} if isinstance(found, dict) else {}


def complaint(reply: Any) -> str:
    """What an error reply says, in one line of at most 300 characters."""
    for name in ("error", "detail", "message"):
        if isinstance(reply, dict) and reply.get(name):
            return complaint(reply[name])
    return " ".join(str(reply).split())[:300]


def _choice(reply: Json) -> Json:
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise WireError(f"it holds no choices: {complaint(reply)}")
    return choices[0]


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value > 1e-3:
        raise WireError(f"{value!r} is no log-probability")
    return float(value)
