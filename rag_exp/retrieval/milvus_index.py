"""Passages in Milvus (https://milvus.io, extra ``milvus``): embedded, or on a cluster that many share.

``engine=lite`` is Milvus Lite, whose files are the artifact's: a search works on a copy of them, since it opens them
for writing. ``engine=cluster`` puts passages into a collection of a server; the artifact holds that collection's name.
Where the server is and who may ask it stand in two environment variables, of which the options, and so the records,
hold nothing but the names.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import uuid
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from rag_exp.core.atomic import write_json
from rag_exp.core.errors import DataError
from rag_exp.core.options import NEUTRAL, SEARCH
from rag_exp.core.scratch import ScratchFolder
from rag_exp.retrieval.dials import dial_range
from rag_exp.retrieval.exact import as_vectors, rechunk
from rag_exp.retrieval.index import INDEXES, BuiltIndex, VectorIndexOptions, check_width
from rag_exp.retrieval.ivf import MIN_POINTS_PER_LIST, auto_nlist
from rag_exp.retrieval.milvus_collections import PREFIX, Server
from rag_exp.retrieval.results import NOTHING, SearchResult

if TYPE_CHECKING:
    import numpy as np

_ROWS = 4_096  # vectors sent at once
_PLACES = 1 << 20  # places of results asked for at once
MOST_K = 16_384  # results a query: Milvus's limit
_DATABASE = "milvus.db"
_PACKAGES = {"lite": ("pymilvus", "milvus_lite"), "cluster": ("pymilvus",)}


@INDEXES.register
class Milvus(VectorIndexOptions):
    """An index of Milvus over full or 8-bit vectors, by inner product."""

    seeded: ClassVar[bool] = False
    kind: Literal["milvus"] = "milvus"
    type: Literal["FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW"] = Field("HNSW", description="Milvus's name of the index")
    nlist: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="lists of an IVF; auto: as of index=ivf"
    )
    m: int = Field(16, ge=2, le=2048, description="links of a node of an HNSW")
    ef_construction: int = Field(100, ge=4, description="candidates kept while a node of an HNSW is linked in")
    nprobe: Annotated[int, SEARCH] = Field(8, ge=1, description="lists of an IVF that a query looks into")
    ef_search: Annotated[int, SEARCH] = Field(64, ge=1, description="candidates kept in an HNSW; at least k are")
    engine: Literal["lite", "cluster"] = Field(
        "lite", description="lite: Milvus Lite in this process; cluster: the server that uri_variable names"
    )
    uri_variable: Annotated[str, NEUTRAL] = Field(
        "MILVUS_URI", description="name of the environment variable that holds a cluster's address"
    )
    token_variable: Annotated[str, NEUTRAL] = Field(
        "MILVUS_TOKEN",
        description="name of the one that holds its token (user:password or a key), where it wants one",
    )

    def problems(self, size: int) -> list[str]:
        found = []
        missing = [p.replace("_", "-") for p in _PACKAGES[self.engine] if find_spec(p) is None]
        if missing:
            found.append(f"index.kind: milvus needs {' and '.join(missing)}: pip install 'rag-exp[milvus]'.")
        if self.engine == "cluster" and not os.environ.get(self.uri_variable):
            found.append(
                f"index.uri_variable: the environment variable {self.uri_variable} is not set; it holds the address of "
                "the Milvus server (http://HOST:19530). For an embedded one use index.engine=lite."
            )
        nlist = self._nlist(size)
        if self.type.startswith("IVF") and nlist * MIN_POINTS_PER_LIST > max(size, MIN_POINTS_PER_LIST):
            found.append(
                f"index.nlist: {nlist} lists need {nlist * MIN_POINTS_PER_LIST} passages, the corpus has {size}; use "
                f"index.nlist=auto ({auto_nlist(size)})."
            )
        return found

    def derived(self, size: int) -> dict[str, Any]:
        return {"nlist": self._nlist(size)} if self.type.startswith("IVF") else {}

    @property
    def dial(self) -> str | None:
        return {"FLAT": None, "HNSW": "ef_search"}.get(self.type, "nprobe")

    def dial_values(self, size: int, k: int) -> range:
        if self.dial == "nprobe":
            return dial_range("nprobe", size, k, self._nlist(size))
        return dial_range("efSearch", size, k)

    def create(self, content: Sequence[np.ndarray], seed: int) -> MilvusIndex:
        size, dims = sum(len(b) for b in content), content[0].shape[1] if content else 0
        facts: dict[str, Any] = {
            "passages": size,
            "dims": dims,
            "type": self.type,
            "engine": self.engine,
            "collection": f"{PREFIX}{uuid.uuid4().hex}",
            "bytes": 0,
            "build_flops": None,
            "build_flops_reason": "milvus does not count what building costs",
            "reproducible": self.type == "FLAT" or (self.engine == "lite" and self.type != "HNSW"),
        }
        if not size:
            return MilvusIndex(None, facts, self, None)
        home = _Embedded() if self.engine == "lite" else None
        client = self._client(home)
        try:
            self._fill(client, facts["collection"], content)
            client = self._indexed(client, facts["collection"], home)
        except BaseException:
            if home is None:  # nothing would know of it
                with suppress(Exception):  # what it failed of is told, not that it cannot be dropped either
                    client.drop_collection(facts["collection"])
            raise
        if home is None:
            facts |= {"bytes": None, "bytes_reason": "a server does not tell what it stores for a collection"}
            facts["server"] = list(self._server)  # where it is looked for when the artifact goes
        else:
            facts["bytes"] = sum(f.stat().st_size for f in home.database.rglob("*") if f.is_file())
        return MilvusIndex(client, facts, self, home)

    def _fill(self, client: Any, collection: str, content: Sequence[np.ndarray]) -> None:
        size, dims, row = sum(len(b) for b in content), content[0].shape[1], 0
        with _said():
            _make_collection(client, collection, dims, self._index(client, size))
            for block in rechunk(content, _ROWS):
                rows = [{"id": row + i, "vector": vector} for i, vector in enumerate(block)]
                client.insert(collection, rows)
                row += len(block)
            client.flush(collection)

    def load(self, folder: Path) -> MilvusIndex:
        try:
            facts = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            if not facts["passages"]:
                return MilvusIndex(None, facts, self, None)
            home = None
            if facts["engine"] == "lite":
                home = _Embedded()
                shutil.copytree(folder / _DATABASE, home.database)
        except (OSError, ValueError, KeyError) as e:
            raise DataError(f"{folder}: no readable index there ({e}).") from e
        client = self._client(home)
        with _said():
            if not client.has_collection(facts["collection"]):
                raise DataError(f"{folder}: its collection {facts['collection']} is not in Milvus any more.")
            client.load_collection(facts["collection"])
            held = int(client.get_collection_stats(facts["collection"])["row_count"])
        if held != facts["passages"]:
            raise DataError(f"{folder}: {held} passages of {facts['passages']} are in its collection.")
        return MilvusIndex(client, facts, self, home)

    def _client(self, home: _Embedded | None) -> Any:
        """A connection to the database of ``home``, or to the cluster."""
        # The embedded server tells on the terminal of calls that it does not know; the client then does without.
        logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
        if home is None:
            return self._server.connect()
        from pymilvus import MilvusClient

        return MilvusClient(str(home.database))

    @property
    def _server(self) -> Server:
        return Server(self.uri_variable, self.token_variable)

    def _indexed(self, client: Any, collection: str, home: _Embedded | None) -> Any:
        """A client by which the collection is searched through its index, which is built in the background.

        What is not indexed yet is compared with every query, so that a search meanwhile would find too much.
        """
        if home is not None:  # Lite builds what is missing when it opens a collection, and waits for it
            client.close()
            home.stop()
            client = self._client(home)
        with _said():
            client.load_collection(collection)
            while client.describe_index(collection, "vector").get("pending_index_rows", 0):
                time.sleep(0.5)
        return client

    def _index(self, client: Any, size: int) -> Any:
        """Milvus's description of the index."""
        building = {
            "FLAT": {},
            "HNSW": {"M": self.m, "efConstruction": self.ef_construction},
        }.get(self.type, {"nlist": self._nlist(size)})
        if self.engine == "lite":
            building = {"params": building}  # Lite 3.2 reads them from there alone; pymilvus 3 sends them side by side
        index = client.prepare_index_params()
        index.add_index("vector", index_type=self.type, metric_type="IP", params=building)
        return index

    def _nlist(self, size: int) -> int:
        return auto_nlist(size) if self.nlist == "auto" else self.nlist


class MilvusIndex(BuiltIndex):
    """A collection of Milvus. Which of several tied passages at rank k is found is its choice.

    Args:
        client: connected; None where there are no passages.
        facts: what :meth:`stats` returns.
        options: how it is searched.
        home: of an embedded database; it ends with the index.
    """

    settles_ties = False

    def __init__(self, client: Any, facts: dict[str, Any], options: Milvus, home: _Embedded | None):
        self._client, self._facts, self._home = client, facts, home
        self.size, self.dims = facts["passages"], facts["dims"]
        self.exact_scores = facts["type"] != "IVF_SQ8"
        self._nprobe, self._ef, self._dial = options.nprobe, options.ef_search, options.dial

    def search(self, queries: np.ndarray, k: int) -> SearchResult:
        import numpy as np

        queries = as_vectors(queries, what="query")
        if self._client is None or not len(queries):
            return SearchResult.empty(len(queries), k)
        check_width(queries, self.dims)
        wide = min(k, self.size)
        if wide > MOST_K:
            raise DataError(f"Milvus gives at most {MOST_K} passages a query, {wide} were asked for.")
        ids, scores = np.full((len(queries), wide), NOTHING), np.zeros((len(queries), wide), np.float32)
        step = max(1, min(_ROWS, _PLACES // wide))
        for start in range(0, len(queries), step):
            with _said():
                found = self._client.search(
                    self._facts["collection"],
                    list(queries[start : start + step]),
                    limit=wide,
                    output_fields=["id"],
                    search_params={"params": {"nprobe": self._nprobe, "ef": max(self._ef, wide)}},
                )
            for q, hits in enumerate(found, start):
                ids[q, : len(hits)] = [hit["id"] for hit in hits]
                scores[q, : len(hits)] = [hit["distance"] for hit in hits]
        return SearchResult.of(ids, scores, k)

    def turn(self, value: int) -> None:
        if self._dial == "nprobe":
            self._nprobe = value
        else:
            self._ef = value

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "index.json", self._facts)
        if self._home is not None:
            shutil.copytree(self._home.database, folder / _DATABASE, dirs_exist_ok=True)

    def stats(self) -> dict[str, Any]:
        return dict(self._facts)


class _Embedded:
    """A folder with the database of a Milvus Lite. The server over it and the folder end with this object."""

    def __init__(self) -> None:
        self._folder = ScratchFolder("milvus")
        self.database = Path(self._folder.name) / _DATABASE
        weakref.finalize(self, _stop_server, str(self.database))

    def stop(self) -> None:
        """End the server; the files stay."""
        _stop_server(str(self.database))


def _stop_server(database: str) -> None:
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_server(database)


def _make_collection(client: Any, name: str, dims: int, index: Any) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dims)
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")


@contextmanager
def _said() -> Iterator[None]:
    """Milvus's refusals as ours."""
    from pymilvus import MilvusException

    try:
        yield
    except MilvusException as e:
        raise DataError(f"Milvus refuses: {e.message} (code {e.code}).") from e
