import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from rag_exp.core.errors import StoreError
from rag_exp.core.store import RECORD, Step, Store


def step(name="a", parents=None, build=None, **fields):
    def write(b):
        b.stats["built"] = True
        (b.folder / "out.txt").write_text(
            name + "".join(sorted((b.parent(p).path / "out.txt").read_text() for p in b.step.parents))
        )

    return Step(name, 1, fields, parents or {}, build or write)


def test_key_is_merkle():
    a = step("a", x=1)
    assert a.key == step("a", x=1).key
    assert a.key != step("a", x=2).key
    assert step("b", {"p": a}).key != step("b", {"p": step("a", x=2)}).key
    assert step("b", {"p": a}).key != step("b", {"q": a}).key
    assert Step("a", 2, {"x": 1}, {}, a.build).key != a.key


def test_builds_once_and_only_what_is_asked_for(tmp_path):
    built = []

    def build(b):
        built.append(b.step.kind)
        (b.folder / "f").write_text("x")

    base = Step("base", 1, {}, {}, build)
    lazy = Step("lazy", 1, {}, {"base": base}, build)
    store = Store(tmp_path)
    first = store.ensure(lazy)
    assert built == ["lazy"], "a parent that the build does not ask for is not built"
    assert Store(tmp_path).ensure(lazy).path == first.path
    assert built == ["lazy"]


def test_parents_are_built_on_demand_and_stats_kept(tmp_path):
    a = step("a")
    b = step("b", {"a": a})
    found = Store(tmp_path).ensure(b)
    assert (found.path / "out.txt").read_text() == "ba"
    assert Store(tmp_path).ensure(b).stats == {"built": True}
    assert Store(tmp_path).info(a).bytes == 1
    record = json.loads((found.path / RECORD).read_text())
    assert record["parents"] == {"a": a.key}


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "record"])
def test_damage_is_found_said_and_rebuilt(tmp_path, damage):
    a = step("a")
    path = Store(tmp_path).ensure(a).path
    file = path / "out.txt"
    stamp = file.stat()
    if damage == "truncate":
        file.write_text("")
    elif damage == "flip":
        file.write_bytes(bytes([file.read_bytes()[0] ^ 1]))
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # a flipped bit changes no time stamp
    elif damage == "delete":
        file.unlink()
    else:
        (path / RECORD).write_text('{"kind": ')
    said = []
    store = Store(tmp_path, report=said.append)
    assert (store.ensure(a).path / "out.txt").read_text() == "a"
    assert ["damaged" in line for line in said] == [True, False], "said once"
    assert "built" in said[1]


def test_failed_build_leaves_nothing_and_keeps_partial(tmp_path):
    def build(b):
        (b.partial / "progress").write_text("half")
        (b.folder / "f").write_text("half")
        raise ValueError("no")

    bad = step("bad", build=build)
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="no"):
        store.ensure(bad)
    assert not store.has(bad)
    assert not any((tmp_path / "tmp").iterdir())
    assert [f.read_text() for f in (tmp_path / "partial").rglob("progress")] == ["half"]


def test_partial_is_gone_after_success(tmp_path):
    def build(b):
        (b.partial / "progress").write_text("half")
        (b.folder / "f").write_text("x")

    Store(tmp_path).ensure(step("a", build=build))
    assert not any((tmp_path / "partial").iterdir())


def test_full_disk_is_said(tmp_path):
    def build(b):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match=r"full.*rag-exp store gc"):
        Store(tmp_path).ensure(step("a", build=build))


KILLED = """
    import sys, time
    from pathlib import Path
    from rag_exp.core.store import Step, Store
    def build(b):
        (b.folder / "out.txt").write_text("half")
        print("building", flush=True)
        time.sleep(60)
    Store(Path(sys.argv[1])).ensure(Step("a", 1, {}, {}, build))
"""


def test_killed_build_is_never_believed(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"building\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    store = Store(tmp_path)
    assert not store.has(step("a"))
    assert (store.ensure(step("a")).path / "out.txt").read_text() == "a"


def _slow(root, log):
    def build(b):
        with open(log, "a") as f:
            f.write("built\n")
        time.sleep(0.5)
        (b.folder / "f").write_text("x")

    Store(root).ensure(Step("slow", 1, {}, {}, build))


def test_two_processes_build_once(tmp_path):
    spawn = multiprocessing.get_context("fork")
    workers = [spawn.Process(target=_slow, args=(tmp_path / "store", tmp_path / "log")) for _ in range(3)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert [w.exitcode for w in workers] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


def test_delete_refuses_what_is_not_its_own(tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(StoreError, match="not in the store"):
        Store(tmp_path / "store").delete(tmp_path / "other")


def test_derived_steps_are_noted(tmp_path):
    shard = step("shard", i=0)

    def build(b):
        (b.folder / "f").write_text(b.ensure(shard).path.name)

    store = Store(tmp_path)
    store.ensure(step("index", build=build))
    (record,) = [r for r in store.entries() if r["kind"] == "index"]
    assert record["used"] == {shard.key: "shard"}


def test_open_deletes_nothing(tmp_path):
    """It holds no lock: between its look and a deletion another process may have built the artifact again."""
    a = step("a")
    path = Store(tmp_path).ensure(a).path
    (path / "out.txt").write_text("damaged")
    store = Store(tmp_path)
    assert store.open(a) is None
    assert (path / "out.txt").read_text() == "damaged"
    assert store.events == []


def test_damage_that_another_process_mended_is_not_said(tmp_path, monkeypatch):
    a = step("a")
    good = Store(tmp_path).ensure(a).path / "out.txt"
    good.write_text("b")
    store = Store(tmp_path)
    look = store.open

    def look_and_be_overtaken(step):
        found = look(step)
        good.write_text("a")
        return found

    monkeypatch.setattr(store, "open", look_and_be_overtaken)
    assert store.ensure(a).path == good.parent
    assert store.events == []
