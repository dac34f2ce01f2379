"""Which of the tokens that an endpoint echoes are the answer's.

The text that is sent is prompt + answer (+ end token), and the endpoint tokenizes it as a whole. The prompt's length
in characters says where the answer begins, and the tokens' text offsets which token that is. Servers differ: some
count offsets wrongly behind a character that is split over tokens, some list the token they generated beside the
echoed ones without counting it. So an alignment is believed only where its tokens spell the answer; where those at
the offsets do not, or there are no offsets, the answer is sought by its spelling from the end of the text.

A token that begins in the prompt and ends in the answer belongs to the answer, whole: its probability is that of the
prompt's last letters and the answer's first together. The record counts such readings. Templates that end in a
space do not cause them, since that space is sent with the answer (see :mod:`rag_exp.models.prompt`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Text of a token that does not spell what it stands for: part of a character, or a byte.
_UNSPELT = re.compile("\ufffd|^bytes:|<0x[0-9A-Fa-f]{2}>")
_SPACES = re.compile("[\\s\u2581\u0120\u010a]")  # as text has them, and as vocabularies write them


@dataclass(frozen=True)
class Echo:
    """What was echoed.

    Attributes:
        tokens: text of each token.
        logp: log-probability of each; None for the first, which has nothing before it.
        offsets: where each begins in the text, in characters; None where the endpoint does not say.
        generated: how many of the last tokens were generated, by the endpoint's count.
    """

    tokens: Sequence[str]
    logp: Sequence[float | None]
    offsets: Sequence[int] | None
    generated: int = 0


@dataclass(frozen=True)
class Aligned:
    """The answer's tokens.

    Attributes:
        tokens, logp: text and log-probability of each, without the end token.
        end_logp: log-probability of the end token; None where it was not asked for.
        merged: whether the first token begins in the prompt.
    """

    tokens: list[str]
    logp: list[float]
    end_logp: float | None
    merged: bool


def align(echo: Echo, prompt: str, answer: str, end: str = "") -> Aligned:
    """The answer's tokens among those of prompt + answer + end.

    Args:
        end: text of the end token; "" where it is not asked for.

    Raises:
        ValueError: the tokens do not spell the answer, the end is not one token, or a token has no log-probability.
    """
    no_end = False
    for stop in _stops(echo, len(prompt + answer + end)):
        last = stop - 1 if end else stop
        if end and (stop == 0 or echo.tokens[last] not in (end, "")):  # "": the endpoint hides special tokens
            no_end = True
            continue
        found = _by_offsets(echo, last, len(prompt), answer) or _by_spelling(echo.tokens[:last], answer)
        if found is None:
            continue
        first, merged = found
        logp = [float(x) for x in echo.logp[first:stop] if x is not None]
        if len(logp) < stop - first:
            raise ValueError(f"it gives no log-probability for a token of the answer {answer!r}")
        return Aligned(list(echo.tokens[first:last]), logp[: last - first], logp[-1] if end else None, merged)
    if no_end:
        raise ValueError(f"{end!r} is not one token of the model's vocabulary")
    raise ValueError(f"no tokens at the end of what it echoes spell the answer {answer!r}")


def _stops(echo: Echo, length: int) -> Iterator[int]:
    """How many tokens are echoed, the generated ones left out: by the endpoint's count, then by the offsets."""
    total = len(echo.tokens)
    yield max(0, total - echo.generated)
    if echo.offsets is not None:
        yield sum(offset < length for offset in echo.offsets)
    yield total


def _by_offsets(echo: Echo, last: int, boundary: int, answer: str) -> tuple[int, bool] | None:
    """The answer's first token, and whether it begins in the prompt; None where that does not spell the answer."""
    if echo.offsets is None or last == 0:
        return None
    first = next((i for i in range(last) if echo.offsets[i] >= boundary), last)
    merged = first == last or (echo.offsets[first] > boundary and first > 0)
    first -= merged
    tokens = echo.tokens[first:last]
    return (first, merged) if (_ends_with(tokens, answer) if merged else _spells(tokens, answer)) else None


def _by_spelling(tokens: Sequence[str], answer: str) -> tuple[int, bool] | None:
    """As :func:`_by_offsets`, from the tokens' texts alone."""
    least = max(0, len(tokens) - 4 * len(answer) - 1)  # a character is at most four tokens
    places = range(len(tokens) - 1, least - 1, -1)
    for first in places:
        if "".join(tokens[first:]) == answer:
            return first, False
    for first in places:
        if _spells(tokens[first:], answer):
            # What stands before may be the first bytes of the answer's first character.
            while first > least and _UNSPELT.search(tokens[first - 1]) and _spells(tokens[first - 1 :], answer):
                first -= 1
            # Spaces count for nothing above: one that has a token of its own, and begins the answer, belongs to it.
            lead = answer[: len(answer) - len(answer.lstrip())]
            if lead and first > least and tokens[first - 1] == lead and not tokens[first].startswith(lead):
                first -= 1
            return first, False
    return next(((first, True) for first in places if _ends_with(tokens[first:], answer)), None)


def _spells(tokens: Sequence[str], answer: str) -> bool:
    """Whether the tokens spell the answer, spaces aside; unspelt ones stand for what fits."""
    return bool(tokens) and re.fullmatch(_pattern(tokens), _SPACES.sub("", answer), re.DOTALL) is not None


def _ends_with(tokens: Sequence[str], answer: str) -> bool:
    """Whether the tokens end with the answer, which begins inside the first."""
    head = _SPACES.sub("", tokens[0])
    rest, wanted = _pattern(tokens[1:]), _SPACES.sub("", answer)
    return any(re.fullmatch(re.escape(head[i:]) + rest, wanted, re.DOTALL) for i in range(len(head)))


def _pattern(tokens: Sequence[str]) -> str:
    """A regular expression of the tokens' letters, spaces aside."""
    return "".join(map(_token_pattern, tokens))


def _token_pattern(token: str) -> str:
    if token.startswith("bytes:"):
        return ".{0,2}"
    return ".?".join(re.escape(_SPACES.sub("", part)) for part in _UNSPELT.split(token))
