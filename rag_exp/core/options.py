"""Typed options: what a config group may hold, declared beside the component that reads it.

A component declares a frozen :class:`Options` subclass with a literal ``kind`` and registers it in its
group's :class:`Registry`. ``rag_exp.config`` composes the registries into the run's configuration.

A field's *role* says which artifacts its value can change:

* no mark -- it changes what the component builds (an index's ``nlist``);
* ``SEARCH`` -- it changes only what is asked of the built thing (``nprobe``, ``k``): part of the
  top-k's key, not of the index's;
* ``NEUTRAL`` -- it changes no result (workers, progress, evaluation batch size): part of no key.

Example::

    @INDEXES.register
    class IVF(Options):
        kind: Literal["ivf"] = "ivf"
        nlist: int = 100
        nprobe: Annotated[int, SEARCH] = 8
"""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import BaseModel, ConfigDict, Field

SEARCH = "rag_exp:search"
NEUTRAL = "rag_exp:neutral"


class Options(BaseModel):
    """Base of all options: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())

    def identity(self, *leave_out: str) -> dict[str, Any]:
        """The fields that identify what is built: all but ``NEUTRAL`` ones and those marked with ``leave_out``."""
        hidden = {NEUTRAL, *leave_out}
        found: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            if hidden.intersection(m for m in field.metadata if isinstance(m, str)):
                continue
            value = getattr(self, name)
            found[name] = value.identity(*leave_out) if isinstance(value, Options) else _plain(value)
        return found

    def only(self, role: str) -> dict[str, Any]:
        """The fields marked with ``role`` alone."""
        return {
            name: _plain(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if role in [m for m in field.metadata if isinstance(m, str)]
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Options):
        return value.identity()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return value


class Registry:
    """The kinds of one config group, by name: ``INDEXES = Registry("index")``."""

    def __init__(self, group: str):
        self.group = group
        self.kinds: dict[str, type[Options]] = {}

    def register(self, cls: type[Options]) -> type[Options]:
        """Class decorator. ``cls`` must have a literal ``kind`` with a default that no other kind uses."""
        kind = cls.model_fields["kind"].default
        assert kind not in self.kinds, f"{self.group}: kind {kind!r} is taken"
        self.kinds[kind] = cls
        return cls

    def union(self) -> Any:
        """The pydantic type of this group: any registered kind, told apart by ``kind``."""
        classes = tuple(self.kinds.values())
        if len(classes) == 1:
            return classes[0]
        return Annotated[Union[classes], Field(discriminator="kind")]  # noqa: UP007 - built from a tuple
