"""A generated closed world: a corpus of any size, one- and two-hop questions, and their exact entropies.

``options`` declares the corpus and question kinds; ``schema`` says what exists, ``names``, ``statements``
and ``question_texts`` how it reads, ``world`` how it is drawn, ``asking`` what is asked, ``entropies``
what can be known.
"""

from rag_exp.data.closed_world.options import ClosedWorldCorpus, ClosedWorldQuestions, WorldOptions

__all__ = ["ClosedWorldCorpus", "ClosedWorldQuestions", "WorldOptions"]
