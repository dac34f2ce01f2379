"""Vectors that are written block by block."""

import numpy as np
import pytest

from rag_exp.core.errors import DataError
from rag_exp.retrieval import vector_file
from rag_exp.retrieval.vector_file import VECTORS, GrowingVectors, write_vectors

BLOCKS = [np.arange(12, dtype=np.float32).reshape(4, 3) + 100 * i for i in range(3)]


@pytest.fixture(autouse=True)
def marked_at_once(monkeypatch):
    monkeypatch.setattr(vector_file, "MARK_EVERY", 0.0)


def begun(folder, blocks, storage="float32"):
    """What a process leaves that dies after ``blocks``: it wrote a part of the next, too."""
    out = GrowingVectors(folder, (12, 3), storage, 50)
    for block in blocks:
        out.add(block, 7)
    out._out.write(b"a part of the next")
    out._out.close()


@pytest.mark.parametrize("storage", ["float32", "float16"])
@pytest.mark.parametrize("whole", [0, 1, 2, 3])
def test_it_goes_on_where_it_was_whole_and_is_the_same_file(tmp_path, whole, storage):
    begun(tmp_path / "partial", BLOCKS[:whole], storage)
    with GrowingVectors(tmp_path / "partial", (12, 3), storage, 50) as out:
        assert (out.rows, out.tokens) == (4 * whole, 7 * whole)
        for block in BLOCKS[whole:]:
            out.add(block, 7)
        out.finish(tmp_path / "made")
    assert out.tokens == 21
    assert not list((tmp_path / "partial").iterdir())
    write_vectors(tmp_path / "at_once.npy", (12, 3), BLOCKS, storage)
    assert (tmp_path / "made" / VECTORS).read_bytes() == (tmp_path / "at_once.npy").read_bytes()


def test_time_is_that_of_all_processes(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(vector_file.time, "monotonic", lambda: clock[0])
    out = GrowingVectors(tmp_path, (12, 3), "float32")
    clock[0] = 130.0
    out.add(BLOCKS[0], 1)
    out._out.close()
    clock[0] = 1000.0
    with GrowingVectors(tmp_path, (12, 3), "float32") as again:
        clock[0] = 1005.0
        assert again.seconds == 35.0


def test_what_is_not_of_this_file_or_not_all_there_is_not_believed(tmp_path):
    begun(tmp_path, BLOCKS[:2])
    for shape, storage, resume in (((11, 3), "float32", True), ((12, 3), "float16", True), ((12, 3), "float32", False)):
        out = GrowingVectors(tmp_path / "copy", shape, storage, resume=resume)
        out._out.close()
        for file in tmp_path.glob("*.*"):
            (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
        with GrowingVectors(tmp_path / "copy", shape, storage, resume=resume) as out:
            assert out.rows == 0
    with open(tmp_path / VECTORS, "r+b") as short:
        short.truncate(150)
    with GrowingVectors(tmp_path, (12, 3), "float32") as out:
        assert out.rows == 0
        out._out.write(bytes(200))  # as long as the mark says, and nothing that anybody vouches for
    with GrowingVectors(tmp_path, (12, 3), "float32") as out:
        assert out.rows == 0


def test_too_many_too_few_and_broken_vectors_are_refused(tmp_path):
    with GrowingVectors(tmp_path, (7, 3), "float32", 50) as out:
        out.add(BLOCKS[0], 0)
        with pytest.raises(DataError, match="more passages than the 7"):
            out.add(BLOCKS[1], 0)
        with pytest.raises(DataError, match="4 passages came, 7 were announced"):
            out.finish(tmp_path / "made")
        broken = np.full((2, 3), np.float32(1.0))
        broken[1, 2] = np.nan
        with pytest.raises(DataError, match="55"):
            out.add(broken, 0)
    assert not (tmp_path / "made").exists()
