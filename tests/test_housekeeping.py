"""What `store gc` may delete, and what it must not."""

from __future__ import annotations

import numpy as np
import pytest
from filelock import FileLock

from rag_exp.core.errors import DataError, StoreError
from rag_exp.core.record import RunRecord, write_record
from rag_exp.core.store import Step, Store
from rag_exp.housekeeping import collect_garbage, list_store
from rag_exp.retrieval.indexes import Milvus
from rag_exp.retrieval.milvus_collections import Server


def build(b):
    for parent in b.step.parents:
        b.parent(parent)
    (b.folder / "f").write_text("x")


PASSAGES = Step("passages", 1, {}, {}, build)
CHECKPOINT = Step("checkpoint", 1, {}, {"passages": PASSAGES}, build)
LOOSE = Step("passages", 1, {"of": "no record"}, {}, build)
UNFINISHED = Step("checkpoint", 1, {"seed": 1}, {"passages": PASSAGES}, build)


@pytest.fixture
def root(tmp_path):
    """A root with a run that stands on CHECKPOINT and PASSAGES, a failed one that left UNFINISHED, and LOOSE."""
    root = tmp_path / "outputs"
    store = Store(root / "store")
    store.ensure(CHECKPOINT)
    store.ensure(LOOSE)
    for run_id, status, step in (("a", "finished", CHECKPOINT), ("b", "failed", UNFINISHED)):
        artifacts = {"checkpoint": step.key, "passages": PASSAGES.key}
        record = RunRecord(
            run_id=run_id, status=status, arm="dense", seed=0, config={}, artifacts=artifacts, created=""
        )
        write_record(record, root / "runs" / run_id / "record.json")
    return root


def leave(root, place, name):
    folder = root / "store" / place / name
    folder.mkdir(parents=True)
    (folder / "half").write_text("x")
    return folder


def gc(root, **more):
    return collect_garbage(root, root / "store", **more)


def test_only_what_no_record_needs_goes(root):
    store = Store(root / "store")
    assert "would delete 1 of 3" in gc(root, dry=True)
    assert store.has(LOOSE)
    assert "deleted 1 of 3" in gc(root)
    assert [store.has(s) for s in (PASSAGES, CHECKPOINT, LOOSE)] == [True, True, False]


def test_progress_stays_unless_forced_and_where_a_record_names_it_always(root):
    named = leave(root, "partial", f"checkpoint-{UNFINISHED.key}")
    other = leave(root, "partial", "checkpoint-0123")
    assert "the progress of 2 unfinished builds" in gc(root)
    assert named.exists()
    assert other.exists()
    gc(root, force=True, dry=True)
    assert other.exists()
    assert "the progress of 1 unfinished builds" in gc(root, force=True)
    assert named.exists()
    assert not other.exists()


def test_half_written_builds_go_but_not_a_live_one(root):
    live, dead = leave(root, "tmp", "index-live"), leave(root, "tmp", "index-dead")
    with FileLock(root / "store" / "locks" / "index-live.lock"):
        assert "1 leftovers" in gc(root)
    assert live.exists()
    assert not dead.exists()


def test_kind_holds_for_leftovers(root):
    index, passages = leave(root, "tmp", "index-0"), leave(root, "tmp", "passages-0")
    gc(root, kind="passages")
    assert index.exists()
    assert not passages.exists()


SERVER = Server("OUR_MILVUS", "OUR_TOKEN")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A Milvus server of one process, and a client of it."""
    pytest.importorskip("milvus_lite", reason="Milvus Lite is not installed: pip install 'rag-exp[milvus]'")
    from milvus_lite.server_manager import server_manager_instance

    database = str(tmp_path / "server.db")
    monkeypatch.setenv("OUR_MILVUS", server_manager_instance.start_and_get_uri(database))
    yield SERVER.connect()
    server_manager_instance.release_server(database)


def on_a_server(root, name, parents=()):
    """An artifact of an index whose vectors are on the server; its step and its collection."""
    options = Milvus(engine="cluster", type="FLAT", uri_variable="OUR_MILVUS", token_variable="OUR_TOKEN")
    made = []

    def build(b):
        for parent in parents:
            b.parent(parent.kind)
        built = options.create([np.eye(8, dtype=np.float32)], 0)
        built.save(b.folder / "dense")  # as inside a hybrid
        made.append(built.stats()["collection"])

    step = Step("index", 1, {"name": name}, {p.kind: p for p in parents}, build)
    Store(root / "store").ensure(step)
    return step, made[0]


def stand_on(root, run_id, step):
    record = RunRecord(
        run_id=run_id, status="finished", arm="dense", seed=0, config={}, artifacts={"index": step.key}, created=""
    )
    write_record(record, root / "runs" / run_id / "record.json")


def test_collections_go_with_their_artifacts(root, server):
    (kept, needed), (gone, dropped), (lost, absent) = (on_a_server(root, name) for name in "abc")
    stand_on(root, "c", kept)
    server.drop_collection(absent)
    server.create_collection("rag_exp_of_another_store", dimension=2)
    server.create_collection("of_others", dimension=2)
    assert "would drop 2 collections from Milvus" in gc(root, dry=True)
    assert set(server.list_collections()) == {needed, dropped, "rag_exp_of_another_store", "of_others"}
    said = gc(root)
    assert "dropped 1 collections from Milvus; 1 were not there any more" in said
    assert "1 collections there belong to no artifact of this store" in said
    assert said.endswith("rag_exp_of_another_store")
    assert set(server.list_collections()) == {needed, "rag_exp_of_another_store", "of_others"}
    assert [Store(root / "store").has(s) for s in (kept, gone, lost)] == [True, False, False]
    assert "Milvus" not in gc(root)


def test_what_cannot_be_dropped_is_said_and_kept(root, server, monkeypatch):
    step, name = on_a_server(root, "a")
    monkeypatch.delenv("OUR_MILVUS")
    said = gc(root)
    assert f"collection {name} is left there with its artifact" in said
    assert "at the address that OUR_MILVUS holds" in said
    assert Store(root / "store").has(step)
    assert not Store(root / "store").has(LOOSE)
    assert f"collection {name} is left there: " in gc(root, force=True, kind="index")
    assert not Store(root / "store").has(step)
    assert server.has_collection(name)


def test_a_build_that_fails_leaves_no_collection(server):
    options = Milvus(engine="cluster", type="FLAT", uri_variable="OUR_MILVUS")
    with pytest.raises(DataError, match="NaN"):
        options.create([np.full((3, 8), np.nan, np.float32)], 0)
    assert server.list_collections() == []


def test_a_store_of_other_roots_is_refused(root, tmp_path):
    other = tmp_path / "other"
    with pytest.raises(StoreError, match=r"store is not below the root .*other"):
        collect_garbage(other, root / "store")
    assert Store(root / "store").has(CHECKPOINT)
    collect_garbage(other, root / "store", force=True)
    assert not Store(root / "store").has(CHECKPOINT)


def test_a_run_in_progress_is_waited_for(root):
    with FileLock(root / "runs" / "a" / "lock"), pytest.raises(StoreError, match="1 runs are in progress"):
        gc(root)


def test_a_damaged_record_is_listed_and_stops_gc(root):
    (root / "runs" / "a" / "record.json").write_text("{")
    listed = list_store(root, root / "store").splitlines()
    assert listed[-2].startswith("3 artifacts")
    assert "a/record.json" in listed[-1]
    assert "Delete it and issue the run again." in listed[-1]
    with pytest.raises(StoreError, match=r"a/record\.json"):
        gc(root)
    assert Store(root / "store").has(LOOSE)
    gc(root, force=True)
    assert not Store(root / "store").has(LOOSE)


def test_users_are_counted_through_parents_of_other_kinds(root):
    (root / "runs" / "b" / "record.json").unlink()
    record = RunRecord(
        run_id="a",
        status="finished",
        arm="dense",
        seed=0,
        config={},
        artifacts={"checkpoint": CHECKPOINT.key},
        created="",
    )
    write_record(record, root / "runs" / "a" / "record.json")
    (row,) = [r for r in list_store(root, root / "store", "passages").splitlines() if PASSAGES.key[:12] in r]
    assert row.split()[5] == "1"
