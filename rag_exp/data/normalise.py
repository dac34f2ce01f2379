"""When two answers are the same, and when a text holds an answer.

:func:`normalise` is the normalisation of SQuAD's official evaluation script (Rajpurkar et al. 2016).
:func:`answer_in_text` is the token-boundary match behind "answer coverage" (``has_answer`` of Karpukhin
et al. 2020), on that normalisation, so that an exact match always implies coverage.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation, without the words a, an, the, whitespace made single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def searchable(text: str) -> str:
    """``text`` in the form that :func:`holds` looks in. Compute it once where a text is searched many times."""
    return f" {normalise(unicodedata.normalize('NFD', text))} "


def holds(searchable_text: str, answers: Iterable[str]) -> bool:
    """Whether any answer's normalised words occur in a row in a text made by :func:`searchable`.

    An answer that normalises to nothing ("the", "%") is in no text.
    """
    return any(len(form) > 2 and form in searchable_text for form in map(searchable, answers))


def answer_in_text(answers: Iterable[str], text: str) -> bool:
    """Whether ``text`` holds any of ``answers`` as whole words, after normalisation of both.

    >>> answer_in_text(["the U.S."], "made in the US."), answer_in_text(["art"], "a party")
    (True, False)
    """
    return holds(searchable(text), answers)
