"""Every kind of generator there is. A new one is added by naming its module here."""

from __future__ import annotations

from rag_exp.models.generator import GENERATORS, GeneratorOptions
from rag_exp.models.hosted import Hosted
from rag_exp.models.ladder import Ladder
from rag_exp.models.pretrained import Pretrained

__all__ = ["GENERATORS", "GeneratorOptions", "Hosted", "Ladder", "Pretrained"]
