"""Where the encoder works does not change what is saved, nor does how an index is cut."""

import json
import subprocess
import sys
from importlib.util import find_spec
from multiprocessing.process import BaseProcess

import numpy as np
import pytest
import torch

from rag_exp import cli
from rag_exp import config as configs
from rag_exp.builders import embedding, parents, retrieval
from rag_exp.core.errors import DataError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.store import Store
from rag_exp.retrieval import embeddings, vector_file
from rag_exp.retrieval.encoder import Encoder
from rag_exp.retrieval.results import SearchResult
from rag_exp.steps import plan_run
from rag_exp.training.options import TrainerOptions


@pytest.fixture
def moves(monkeypatch):
    """Where encoders were moved, and where and with how many threads they read."""
    moved, read = [], []
    to, vectors = torch.nn.Module.to, Encoder.vectors

    def noted_to(self, device):
        moved.append(str(device))
        return to(self, "cpu")

    def noted_vectors(self, features, role):
        read.append((moved[-1] if moved else None, role, torch.get_num_threads()))
        return vectors(self, features, role)

    monkeypatch.setattr(Encoder, "to", noted_to, raising=False)
    monkeypatch.setattr(Encoder, "vectors", noted_vectors)
    monkeypatch.setattr(TrainerOptions, "resolved_device", lambda self: "cpu:0")
    return moved, read


def test_warm_up_embedding_and_questions_are_encoded_on_the_trainers_device(place, moves):
    moved, read = moves
    before = torch.get_num_threads()
    assert cli.main(["run", "debug=tiny", f"trainer.threads={before + 2}"]) == 0
    # warm-up, one shard of passages, the training and the evaluation questions; each ends on the CPU
    assert moved == ["cpu:0", "cpu"] * 4
    assert {role for _, role, _ in read} == {"question", "passage"}
    assert {(device, threads) for device, _, threads in read} == {("cpu:0", before + 2)}
    assert torch.get_num_threads() == before


def on_ray(index):
    skip = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'rag-exp[ray]'")
    return pytest.param(index, "ray", marks=skip)


@pytest.mark.parametrize(("index", "backend"), [("flat", "local"), ("ivf", "local"), on_ray("flat"), on_ray("ivf")])
def test_an_index_in_shards_is_the_same_artifact_and_finds_the_same(tmp_path, monkeypatch, index, backend):
    for room in (parents, embedding, retrieval):
        monkeypatch.setattr(room, "SHARD_ROWS", 500)  # embeddings in three parts, on Ray all at once

    def asked(root, *overrides):
        config = configs.compose(["debug=tiny", f"index={index}", "evaluation.questions=20", *overrides]).run
        steps = plan_run(config, ContentDigests())
        return Store(tmp_path / root), steps.roles["topk"], steps.roles["index"]

    store, step, _ = asked("whole")
    whole = store.ensure(step)
    store, step, index_step = asked("cut", "retrieval.shards=3", f"retrieval.backend={backend}")
    cut = store.ensure(step)
    assert cut.key == whole.key
    found, expected = SearchResult.load(cut.path), SearchResult.load(whole.path)
    np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)
    np.testing.assert_allclose(found.scores_QK, expected.scores_QK, rtol=1e-6)
    shards = list((tmp_path / "cut" / "objects").glob("index_shard/*/artifact.json"))
    if index == "ivf":
        made = store.ensure(index_step)
        assert len(shards) == 3
        assert {s["key"] for s in made.stats["index_shards"]} == {s.parent.name for s in shards}
        (learnt,) = (tmp_path / "cut" / "objects").glob("quantizer/*/artifact.json")
        assert made.stats["quantizer"]["key"] == learnt.parent.name
        assert made.stats["quantizer"]["seconds"] == json.loads(learnt.read_text())["seconds"] > 0
    else:
        assert not shards  # flat shards are rows of the embeddings
    # What was built in shards is opened in shards by a run that asks for none.
    store, step, _ = asked("cut", "evaluation.k=2")
    np.testing.assert_array_equal(SearchResult.load(store.ensure(step).path).ids_QK, expected.ids_QK[:, :2])
    assert len(list((tmp_path / "cut" / "objects").glob("index_shard/*/artifact.json"))) == len(shards)


@pytest.mark.parametrize(("index", "backend"), [("ivf", "local"), on_ray("ivf")])
def test_an_index_in_shards_that_is_built_once_finds_the_same_at_every_size(tmp_path, index, backend):
    """The prefixes end in the first and in the second of three shards; the dial is tuned over each."""

    def asked(root, size, *overrides):
        once = [f"index@evaluation.index={index}", "evaluation.index.built=once", "evaluation.questions=20"]
        once += ["evaluation.index.mode=iso_recall", "evaluation.index.tuning_questions=50"]
        config = configs.compose(["debug=tiny", *once, f"evaluation.corpus_size={size}", *overrides]).run
        return Store(tmp_path / root).ensure(plan_run(config, ContentDigests()).roles["topk"])

    for size in (300, 700):
        whole, cut = asked("whole", size), asked("cut", size, "retrieval.shards=3", f"retrieval.backend={backend}")
        assert cut.key == whole.key
        found, expected = SearchResult.load(cut.path), SearchResult.load(whole.path)
        np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)
        np.testing.assert_allclose(found.scores_QK, expected.scores_QK, rtol=1e-6)
        assert found.ids_QK.max() < size
        assert cut.stats["distances"] == whole.stats["distances"]
        assert cut.stats["recall"] == whole.stats["recall"]
    assert len(list((tmp_path / "cut" / "objects").glob("index_shard/*/artifact.json"))) == 3


@pytest.mark.parametrize("index", ["flat", "ivf"])
def test_float16_embeddings_are_half_the_bytes_and_find_the_same(tmp_path, index):
    results, sizes = [], []
    for storage in ("float32", "float16"):
        overrides = ["debug=tiny", f"index={index}", "evaluation.questions=20", f"encoder.storage={storage}"]
        steps = plan_run(configs.compose(overrides).run, ContentDigests())
        store = Store(tmp_path / storage)
        results.append(SearchResult.load(store.ensure(steps.roles["topk"]).path))
        (file,) = (tmp_path / storage / "objects").glob("embeddings/*/vectors.npy")
        sizes.append(file.stat().st_size - 128)
    assert sizes[0] == 2 * sizes[1]
    wide, half = results
    assert np.abs(wide.scores_QK - half.scores_QK).max() < 1e-3 * np.abs(wide.scores_QK).max()
    assert (wide.ids_QK[:, 0] == half.ids_QK[:, 0]).mean() > 0.9


DIES_IN_THE_THIRD_SHARD = """
import os, sys
from pathlib import Path
from rag_exp import config as configs
from rag_exp.builders import embedding, parents, retrieval
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.store import Store
from rag_exp.retrieval.encoder import Encoder
from rag_exp.steps import plan_run

encode, shards = Encoder.encode_counted, []

def dies(self, texts, role, progress=None):
    shards.extend([role] * (role == "passage"))
    return os._exit(9) if len(shards) == 3 else encode(self, texts, role, progress)

for room in (parents, embedding, retrieval):
    room.SHARD_ROWS = 500
Encoder.encode_counted = dies
Store(Path(sys.argv[1])).ensure(plan_run(configs.compose(sys.argv[2:]).run, ContentDigests()).roles["topk"])
"""


def test_embedding_that_was_killed_goes_on_after_the_last_whole_shard(tmp_path, monkeypatch):
    for room in (parents, embedding, retrieval):
        monkeypatch.setattr(room, "SHARD_ROWS", 500)
    overrides = ["debug=tiny", "evaluation.questions=20"]
    step = plan_run(configs.compose(overrides).run, ContentDigests()).roles["topk"]
    whole = Store(tmp_path / "whole").ensure(step)
    killed = subprocess.run([sys.executable, "-c", DIES_IN_THE_THIRD_SHARD, str(tmp_path / "killed"), *overrides])
    assert killed.returncode == 9
    finished = sorted((tmp_path / "killed" / "objects").glob("embeddings/*/vectors.npy"))
    assert [len(np.load(file)) for file in finished] == [500, 500]
    content = finished[0].read_bytes()
    finished[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # and one of them is damaged

    encode, read = Encoder.encode_counted, []

    def counted(self, texts, role, progress=None):
        read.extend([len(texts)] * (role == "passage"))
        return encode(self, texts, role, progress)

    monkeypatch.setattr(Encoder, "encode_counted", counted)
    found = Store(tmp_path / "killed").ensure(step)
    shards = sorted((tmp_path / "killed" / "objects").glob("embeddings/*/vectors.npy"))
    rows = sorted(len(np.load(file)) for file in shards)
    assert (len(rows), rows[1:]) == (3, [500, 500])
    assert sorted(read) == [rows[0], 500]  # the last, which is the shortest, and the damaged one
    for file in shards:
        other = tmp_path / "whole" / file.relative_to(tmp_path / "killed")
        np.testing.assert_array_equal(np.load(file), np.load(other))
    np.testing.assert_array_equal(SearchResult.load(found.path).ids_QK, SearchResult.load(whole.path).ids_QK)


def test_a_shard_that_was_killed_goes_on_after_its_last_marked_block(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "BLOCK_ROWS", 300)
    monkeypatch.setattr(vector_file, "MARK_EVERY", 0.0)
    step = plan_run(configs.compose(["debug=tiny"]).run, ContentDigests()).roles["index"]
    Store(tmp_path / "whole").ensure(step)
    encode, read = Encoder.encode_counted, []

    def dies(self, texts, role, progress=None):
        read.extend([len(texts)] * (role == "passage"))
        if len(read) == 3:
            raise KeyboardInterrupt
        return encode(self, texts, role, progress)

    monkeypatch.setattr(Encoder, "encode_counted", dies)
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path / "killed").ensure(step)
    Store(tmp_path / "killed").ensure(step)
    assert read[:4] == [300] * 4, "two blocks, the one that was not finished, and that one again"
    assert shards(tmp_path / "killed") == shards(tmp_path / "whole")
    assert sum(read) - 300 == next(iter(shards(tmp_path / "whole").values()))[1]["passages"]


def shards(root):
    """The vectors' file and what was noted of every shard of embeddings below ``root``, by its artifact's key."""
    records = [json.loads(file.read_text()) for file in sorted((root / "objects").glob("embeddings/*/artifact.json"))]
    return {
        r["key"]: (r["files"]["vectors.npy"], {n: v for n, v in r["stats"].items() if n != "encode_seconds"})
        for r in records
    }


def test_processes_that_share_embedding_write_the_same_and_one_that_dies_is_told_of(tmp_path, monkeypatch):
    for room in (parents, embedding, retrieval):
        monkeypatch.setattr(room, "SHARD_ROWS", 500)
    monkeypatch.setattr(embeddings, "BLOCK_ROWS", 90)
    overrides = ["debug=tiny", "evaluation.questions=20"]
    alone, shared = (
        plan_run(configs.compose([*overrides, f"trainer.embedders={n}"]).run, ContentDigests()) for n in (1, 2)
    )
    assert alone.run_id == shared.run_id
    Store(tmp_path / "alone").ensure(alone.roles["index"])
    expected = shards(tmp_path / "alone")
    assert len(expected) == 3

    started, share = [], embedding.EmbedJob._shared
    start = BaseProcess.start
    monkeypatch.setattr(BaseProcess, "start", lambda process: (started.append(process), start(process)))

    def after_a_kill(job, devices):
        if job.first:
            for process in started:
                process.kill()
                process.join()
        return share(job, devices)

    store = Store(tmp_path / "shared")
    with monkeypatch.context() as patch:
        patch.setattr(embedding.EmbedJob, "_shared", after_a_kill)
        with pytest.raises(
            DataError, match=r"Passages 500 to 999 .* the 2 processes that shared them died .*trainer\.embedders"
        ):
            store.ensure(shared.roles["index"])
    assert len(shards(store.root)) == 1
    assert not list((store.root / "tmp").glob("*"))

    started.clear()
    store.ensure(shared.roles["index"])
    assert shards(store.root) == expected  # sizes and digests of the files, tokens, FLOPs
    assert len(started) == 2, "the same processes for both shards"
    assert not any(process.is_alive() for process in started)
