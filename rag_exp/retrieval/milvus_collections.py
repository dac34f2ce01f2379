"""Collections that artifacts have on a Milvus server, and dropping them with those.

An embedded database (Milvus Lite) lies in its artifact's folder and goes with it.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rag_exp.core.errors import DataError

PREFIX = "rag_exp_"  # that all collections' names begin with
PATIENCE = 30.0  # seconds until a server that does not answer is given up


class Server(NamedTuple):
    """The names of the environment variables that hold a server's address and, where it wants one, a token."""

    uri_variable: str = "MILVUS_URI"
    token_variable: str = "MILVUS_TOKEN"

    def connect(self) -> Any:
        """A client of the server.

        Raises:
            DataError: there is no address, nobody there, or this process is not let in.
        """
        from pymilvus import MilvusClient, MilvusException

        try:
            uri, token = os.environ[self.uri_variable], os.environ.get(self.token_variable, "")
            return MilvusClient(uri, token=token, timeout=PATIENCE)
        except (MilvusException, KeyError, ValueError, OSError) as e:
            # Its own words may hold the address, and that a password.
            raise DataError(
                f"index.uri_variable: no Milvus lets this process in at the address that {self.uri_variable} holds "
                f"({type(e).__name__}); is it up, and is {self.token_variable} right?"
            ) from None


class Collection(NamedTuple):
    """A collection on a server."""

    name: str
    server: Server


@dataclass
class Dropping:
    """What came of dropping collections.

    Attributes:
        dropped: that are gone now.
        absent: that were not on their server.
        stuck: that could not be dropped, and why.
        strangers: others of this program that were seen there; whose they are is not known.
    """

    dropped: list[Collection] = field(default_factory=list)
    absent: list[Collection] = field(default_factory=list)
    stuck: dict[Collection, str] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)


def collections_of(artifact: Path) -> list[Collection]:
    """The collections that the index in an artifact's folder has on a server: none, or one (inside a hybrid, too)."""
    found = []
    for file in artifact.rglob("index.json"):
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
            if facts.get("engine") == "cluster" and facts["passages"]:
                found.append(Collection(facts["collection"], Server(*facts.get("server", ()))))
        except (OSError, ValueError, KeyError):
            continue  # damaged: what it had is not known
    return found


def drop(collections: Iterable[Collection], kept: Iterable[Collection]) -> Dropping:
    """Drop ``collections`` from their servers. Nothing is raised where that cannot be done: it is said.

    Args:
        kept: collections that are needed, and so are no strangers.
    """
    known, by_server, found = {c.name for c in kept}, defaultdict(list), Dropping()
    for collection in collections:
        by_server[collection.server].append(collection)
    for server, owned in by_server.items():
        try:
            client = server.connect()
            there = set(client.list_collections())
        except Exception as e:  # whatever a client that is missing, or a server, may raise
            why = str(e) if isinstance(e, DataError) else f"{type(e).__name__} while connecting"
            found.stuck |= dict.fromkeys(owned, why)
            continue
        for collection in owned:
            if collection.name not in there:
                found.absent.append(collection)
                continue
            try:
                client.drop_collection(collection.name)
                found.dropped.append(collection)
            except Exception as e:
                found.stuck[collection] = f"{type(e).__name__} while dropping it"
        mine = known | {collection.name for collection in owned}
        found.strangers += sorted(name for name in there if name.startswith(PREFIX) and name not in mine)
    return found
