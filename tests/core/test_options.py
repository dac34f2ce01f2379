from typing import Annotated, Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from rag_exp.core.options import NEUTRAL, SEARCH, Options, Registry


class Inner(Options):
    rows: int = 1
    workers: Annotated[int, NEUTRAL] = 2


class Tree(Options):
    kind: Literal["tree"] = "tree"
    depth: int = 3
    probes: Annotated[int, SEARCH] = 8
    inner: Inner = Inner()
    many: tuple[int, ...] = (1, 2)


class Flat(Options):
    kind: Literal["flat"] = "flat"


def test_roles_decide_what_is_identity():
    assert Tree().identity() == {"kind": "tree", "depth": 3, "probes": 8, "inner": {"rows": 1}, "many": [1, 2]}
    assert "probes" not in Tree().identity(SEARCH)
    assert Tree(probes=9).only(SEARCH) == {"probes": 9}


def test_frozen_and_strict_about_names():
    with pytest.raises(ValidationError, match="frozen"):
        Tree().depth = 4
    with pytest.raises(ValidationError, match="Extra inputs"):
        Tree(dept=4)


def test_union_is_told_apart_by_kind():
    registry = Registry("index")
    registry.register(Tree)
    registry.register(Flat)
    adapter = TypeAdapter(registry.union())
    assert adapter.validate_python({"kind": "flat"}) == Flat()
    with pytest.raises(ValidationError, match="kind"):
        adapter.validate_python({"kind": "bush"})
