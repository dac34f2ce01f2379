"""Milvus beside the contract of all indexes: its parameters reach it, and its secrets stay where they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from rag_exp.core.errors import DataError
from rag_exp.retrieval import milvus_collections, milvus_index
from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.indexes import Milvus
from rag_exp.retrieval.recall import recall_against
from rag_exp.retrieval.tuning import tune

SECRET = "http://someone:hunter2@127.0.0.1:9"


@pytest.fixture
def installed():
    pytest.importorskip("milvus_lite", reason="Milvus Lite is not installed: pip install 'rag-exp[milvus]'")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "options",
    [
        Milvus(type="IVF_FLAT", nlist=16, mode="iso_recall"),
        Milvus(m=2, ef_construction=4, ef_search=1, mode="iso_recall"),
    ],
    ids=["ivf", "hnsw"],
)
def test_a_higher_dial_finds_more_and_is_tuned_to(options: Milvus, shard_files, tmp_path: Path):
    options = options.model_copy(update={"mode": "iso_recall"})
    vectors, queries = shard_files.clustered(1500), shard_files.clustered(60, seed=1)
    exact = exact_topk(queries, [vectors], 10)
    built = options.create([vectors], 0)
    built.turn(1)
    least = recall_against(built.search(queries, 10), exact, 10, True)
    assert least < 0.95
    tuned = tune(built, options, queries, exact, 10)
    assert tuned.dial == ("nprobe" if options.type == "IVF_FLAT" else "ef_search")
    assert tuned.recall > least
    built.save(tmp_path)
    again = options.load(tmp_path)
    again.turn(tuned.value)
    assert recall_against(again.search(queries, 10), exact, 10, True) == pytest.approx(tuned.recall)


@pytest.mark.usefixtures("installed")
def test_codes_of_eight_bits_give_approximate_scores(shard_files):
    vectors = shard_files.clustered(500)
    assert not Milvus(type="IVF_SQ8").create([vectors], 0).exact_scores
    assert Milvus(type="HNSW").create([vectors], 0).exact_scores


@pytest.mark.usefixtures("installed")
def test_an_artifact_is_searched_without_being_written_to(shard_files, tmp_path: Path):
    Milvus(type="FLAT").create([shard_files.clustered(100)], 0).save(tmp_path)
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    one, other = Milvus(type="FLAT").load(tmp_path), Milvus(type="FLAT").load(tmp_path)  # both at once, too
    queries = shard_files.clustered(5, seed=1)
    np.testing.assert_array_equal(one.search(queries, 3).ids_QK, other.search(queries, 3).ids_QK)
    assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before


@pytest.mark.usefixtures("installed")
def test_a_collection_that_is_gone_is_said(shard_files, tmp_path: Path):
    Milvus(type="FLAT").create([shard_files.clustered(100)], 0).save(tmp_path)
    facts = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(facts | {"collection": "rag_exp_other"}))
    with pytest.raises(DataError, match="rag_exp_other is not in Milvus any more"):
        Milvus(type="FLAT").load(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps(facts | {"passages": 7}))
    with pytest.raises(DataError, match="100 passages of 7"):
        Milvus(type="FLAT").load(tmp_path)


@pytest.mark.usefixtures("installed")
def test_no_message_and_no_option_holds_the_address_or_the_token(shard_files, monkeypatch):
    options = Milvus(engine="cluster", type="FLAT", token_variable="OUR_TOKEN")
    monkeypatch.delenv("MILVUS_URI", raising=False)
    (problem,) = options.problems(100)
    assert problem.startswith("index.uri_variable: the environment variable MILVUS_URI is not set")
    monkeypatch.setenv("MILVUS_URI", SECRET)
    monkeypatch.setenv("OUR_TOKEN", "hunter3")
    monkeypatch.setattr(milvus_collections, "PATIENCE", 0.5)
    assert options.problems(100) == []
    with pytest.raises(DataError) as error:
        options.create([shard_files.clustered(10)], 0)
    said = str(error.value) + options.model_dump_json()
    assert "at the address that MILVUS_URI holds" in said
    assert "hunter" not in said
    assert error.value.__suppress_context__


def test_where_the_server_is_does_not_identify_an_index():
    one, other = Milvus(engine="cluster"), Milvus(engine="cluster", uri_variable="ELSEWHERE", token_variable="T")
    assert one.identity() == other.identity()
    assert one.identity() != Milvus().identity()


def test_problems_are_known_before_the_build(monkeypatch):
    monkeypatch.setattr(milvus_index, "find_spec", lambda name: None)
    assert Milvus().problems(10) == [
        "index.kind: milvus needs pymilvus and milvus-lite: pip install 'rag-exp[milvus]'."
    ]
    monkeypatch.setattr(milvus_index, "find_spec", lambda name: object())
    (problem,) = Milvus(type="IVF_FLAT", nlist=50).problems(100)
    assert problem.startswith("index.nlist: 50 lists need 1950 passages, the corpus has 100; use index.nlist=auto (2)")
    assert Milvus(type="IVF_FLAT").problems(3) == []
    with pytest.raises(ValidationError):
        Milvus(type="DISKANN")


@pytest.mark.usefixtures("installed")
def test_what_a_build_failed_of_is_told_where_its_collection_cannot_be_dropped_either(shard_files, monkeypatch):
    from pymilvus import MilvusException

    asked = []

    class Lost:
        def drop_collection(self, name):
            asked.append(name)
            raise MilvusException(message=SECRET)

    def fill(self, client, collection, content):
        raise DataError("Milvus refuses: the disk is full")

    monkeypatch.setattr(Milvus, "_client", lambda self, home: Lost())
    monkeypatch.setattr(Milvus, "_fill", fill)
    with pytest.raises(DataError, match="the disk is full"):
        Milvus(engine="cluster", type="FLAT").create([shard_files.clustered(10)], 0)
    assert len(asked) == 1
