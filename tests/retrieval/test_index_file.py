"""An index that faiss made elsewhere: what it is, which passages it holds, and searches of it by the real verb."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import pytest

from rag_exp import cli
from rag_exp.core.errors import DataError
from rag_exp.core.record import read_record
from rag_exp.retrieval.disk_lists import DiskLists
from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.faiss_file import OpenFile, describe
from rag_exp.retrieval.index_file import File, FileIndex, Named
from rag_exp.retrieval.numbering import rows_of
from rag_exp.retrieval.recall import recall_against
from rag_exp.retrieval.results import SearchResult
from rag_exp.show import artifact_folder, show_run
from rag_exp.study import expand

PASSAGES, QUESTIONS, DIMS = 900, 30, 16
WORDS = ["corpus=jsonl", "corpus.files=corpus.jsonl", "questions=jsonl", "questions.files.dev=dev.jsonl"]
WORDS += ["questions.files.train=train.jsonl", "encoder=precomputed", "encoder.passages=p.npy"]
WORDS += ["encoder.passage_ids=p.txt", "encoder.questions=q.npy", "encoder.question_ids=q.txt", "retrieval.k=5"]
FILE = ["index=file", "index.path=made.faiss", "index.ids=made.txt"]


def clustered(rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((12, DIMS))
    found = (centres[rng.integers(12, size=rows)] + 0.5 * rng.standard_normal((rows, DIMS))).astype(np.float32)
    return found * rng.uniform(0.8, 1.2, (rows, 1)).astype(np.float32)


def write(file: str, string: str, vectors: np.ndarray, numbers: np.ndarray | None = None, l2: bool = False) -> None:
    """Any index by raw faiss."""
    native = faiss.index_factory(vectors.shape[1], string, faiss.METRIC_L2 if l2 else faiss.METRIC_INNER_PRODUCT)
    native.train(vectors)
    if numbers is None:
        native.add(vectors)
    else:
        native.add_with_ids(vectors, numbers)
    faiss.write_index(native, file)


@pytest.fixture
def vectors(place: Path) -> np.ndarray:
    """A corpus, its questions and their vectors; those of the passages are in the order of ``made.txt``."""
    rng = np.random.default_rng(0)
    ids = [str(i) for i in rng.permutation(PASSAGES)]
    corpus = [{"id": i, "text": f"text {i}"} for i in rng.permutation(ids)]
    for split in ("dev", "train"):
        asked = [
            {"id": f"{split}{i}", "question": f"which {i}?", "answers": ["x"], "gold": [str(i)]}
            for i in range(QUESTIONS)
        ]
        (place / f"{split}.jsonl").write_text("\n".join(map(json.dumps, asked)))
    (place / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    found = clustered(PASSAGES, 1)
    np.save("p.npy", found)
    np.save("q.npy", clustered(2 * QUESTIONS, 2))
    (place / "p.txt").write_text("\n".join(ids))
    (place / "made.txt").write_text("\n".join(ids))
    (place / "q.txt").write_text("\n".join(f"{split}{i}" for split in ("dev", "train") for i in range(QUESTIONS)))
    return found


def bench(*words: str) -> None:
    assert cli.main(["bench", *WORDS, *words]) == 0


def records(place: Path) -> list:
    found = [read_record(f) for f in place.glob("outputs/runs/*/record.json")]
    return sorted(found, key=lambda r: r.created)


def exported(place: Path, kind: str) -> dict[str, dict[str, float]]:
    """For every question the passages that the one run with this kind of index found, best first, and their scores."""
    (record,) = (r for r in records(place) if r.config["index"]["kind"] == kind)
    assert cli.main(["export", record.run_id, "--trec", f"{kind}.trec"]) == 0
    found: dict[str, dict[str, float]] = {}
    for line in (place / f"{kind}.trec").read_text().splitlines():
        asked, _, passage, _, score, _ = line.split()
        found.setdefault(asked, {})[passage] = float(score)
    return found


def same(place: Path) -> bool:
    """Whether both runs, of the file and of the flat index, found the same passages with the same scores."""
    one, other = exported(place, "file"), exported(place, "flat")
    return list(one) == list(other) and all(
        list(one[q]) == list(other[q]) and list(one[q].values()) == pytest.approx(list(other[q].values()), rel=1e-4)
        for q in one
    )


def test_flat_vectors_in_any_order_are_found_as_the_flat_index_finds_them(vectors, place):
    write("made.faiss", "Flat", vectors)
    bench(*FILE)
    bench("index=flat")
    assert same(place)
    record = next(r for r in records(place) if r.config["index"]["kind"] == "file")
    assert record.metrics["index_recall@k"] == 1.0
    assert record.metrics["distances_per_query"] == PASSAGES
    assert record.metrics["index_bytes_per_passage"] == pytest.approx(4 * DIMS + 8, rel=0.01)
    assert record.metrics["latency_p50_ms"] > 0
    assert record.search["type"] == "IndexFlatIP"
    assert record.seconds["index"] is None
    assert record.nulls["seconds.index"] == record.nulls["flops.index_build"] == "the index was built elsewhere"
    assert record.bytes["index"] < 20 * PASSAGES  # the file itself is not copied
    assert "index -" in show_run(place / "outputs", record.run_id)


def test_lists_find_what_raw_faiss_finds_and_are_tuned(vectors, place):
    write("made.faiss", "IVF16,Flat", vectors)
    bench(*FILE)
    _, raw = faiss.read_index("made.faiss").search(np.load("q.npy")[:QUESTIONS], 5)
    ids = (place / "made.txt").read_text().splitlines()
    found = exported(place, "file")
    assert [list(found[f"dev{q}"]) for q in range(QUESTIONS)] == [[ids[number] for number in row] for row in raw]
    bench(*FILE, "index.search='nprobe=2'", "index.mode=iso_recall", "index.recall_target=0.99")
    fixed, tuned = sorted(records(place), key=lambda r: r.config["index"]["mode"])
    assert fixed.metrics["index_recall@k"] < 0.99 <= tuned.search["tuning_recall"]
    assert tuned.search["nprobe"] > 1
    assert tuned.artifacts["index"] == fixed.artifacts["index"]


ALONE = ["encoder.passages=null", "encoder.passage_ids=null", "index.compared=false"]


def test_questions_alone_are_embedded_where_nothing_is_compared(vectors, place):
    write("made.faiss", "IVF16,SQ8", vectors)
    bench(*FILE, "corpus.size=700", "index.built=once", "index.search='nprobe=3'")
    bench(*FILE, "corpus.size=700", "index.built=once", "index.search='nprobe=3'", *ALONE)
    alone, compared = sorted(records(place), key=lambda r: r.config["index"]["compared"])
    one, other = (SearchResult.load(artifact_folder(place / "outputs", record, "topk")) for record in (alone, compared))
    np.testing.assert_array_equal(one.ids_QK, other.ids_QK)
    np.testing.assert_array_equal(one.scores_QK, other.scores_QK)
    assert alone.metrics["gold_recall@k"] == compared.metrics["gold_recall@k"]
    assert alone.metrics["index_recall@k"] is alone.metrics["prior_kl"] is None
    assert alone.nulls["index_recall@k"].startswith("index.compared=false: passages are not embedded")
    assert alone.flops["embedding"] is None
    assert alone.nulls["flops.embedding"] == "the index was built elsewhere"
    assert not [role for role in alone.artifacts if role.startswith("embeddings")]


def test_what_needs_the_passages_vectors_says_so(vectors, place, capsys):
    write("made.faiss", "IVF4,SQ8", vectors, l2=True)
    said = refused(capsys, *ALONE, "index.mode=iso_recall", "index.rescore=4")
    for words in ("there is no recall to tune to", "nothing can be scored anew", "L2 distances of codes are no inner"):
        assert words in said
    assert "encoder.passages: null: passages' vectors are needed" in refused(capsys, *ALONE, "index.compared=true")
    assert "give both, or neither" in refused(capsys, "encoder.passages=null")


def test_a_smaller_corpus_is_selected_by_its_passages(vectors, place):
    write("made.faiss", "Flat", vectors)
    bench(*FILE, "corpus.size=300", "index.built=once")
    bench("index=flat", "corpus.size=300")
    assert same(place)


def run_id(*words: str) -> str:
    (point,) = expand(["task=retrieval", *WORDS, *FILE, *words]).points
    return point.run_id


def test_content_and_not_the_path_is_what_a_run_is_known_by(vectors, place):
    write("made.faiss", "Flat", vectors)
    known = run_id()
    Path("made.faiss").rename("other.faiss")
    assert run_id("index.path=other.faiss") == known
    write("other.faiss", "SQ8", vectors)
    assert run_id("index.path=other.faiss") != known
    write("other.faiss", "Flat", vectors)
    assert run_id("index.path=other.faiss") == known
    (place / "made.txt").write_text("\n".join(reversed((place / "made.txt").read_text().splitlines())))
    assert run_id("index.path=other.faiss") != known


class Corpus:
    """A corpus of passages by id, as an index is opened over it."""

    def __init__(self, ids: list[str]):
        self._ids, self._rows = ids, {id: row for row, id in enumerate(ids)}

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self, rows) -> list[str]:
        return [self._ids[row] for row in rows]

    def rows_of(self, ids) -> list[list[int]]:
        return [[self._rows[id]] if id in self._rows else [] for id in ids]


def opened(vectors: np.ndarray, **options) -> tuple[FileIndex, np.ndarray]:
    """``made.faiss`` over the passages in the order of their numbers, and their vectors in that order."""
    ids = Path("made.txt").read_text().splitlines()
    order = np.argsort(np.array(ids, np.int64))
    corpus = Corpus([ids[row] for row in order])
    return File(path="made.faiss", **options).create(Named([vectors[order]], corpus), 0), vectors[order]


@pytest.mark.parametrize(
    ("string", "l2"),
    [
        ("Flat", True), ("HNSW8", True), ("IVF4,Flat", True), ("IDMap,SQ8", True), ("IVF4,SQ8", True),
        ("IDMap,Flat", False), ("IDMap2,IVF4,Flat", False), ("IVF4,Flat+", False), ("IDMap,HNSW8", False),
    ],
)  # fmt: skip
def test_what_raw_faiss_finds_is_found_by_rows_with_inner_products(vectors, string, l2):
    """Also where numbers were given to the vectors, by an IDMap or by inverted lists."""
    numbered = "IDMap" in string or string.endswith("+")
    numbers = np.array(Path("made.txt").read_text().split(), np.int64)
    write("made.faiss", string.removesuffix("+"), vectors, numbers if numbered else None, l2)
    index, ordered = opened(vectors, ids=None if numbered else "made.txt")
    queries = np.load("q.npy")
    found = index.search(queries, 5)
    raw = faiss.read_index("made.faiss").search(queries, 5)[1]
    np.testing.assert_array_equal(np.sort(found.ids_QK), np.sort(raw if numbered else numbers[raw]))
    exact = np.einsum("qd,qkd->qk", queries, ordered[found.ids_QK])
    np.testing.assert_allclose(found.scores_QK, exact, atol=0.5 if "SQ" in string else 1e-3)
    assert index.exact_scores == ("SQ" not in string)


@pytest.mark.parametrize("string", ["Flat", "HNSW32"])
def test_vectors_that_were_lifted_to_one_length_are_found_by_inner_product(vectors, string):
    """As DPR makes them for a graph by L2 distance."""
    squares = (vectors**2).sum(axis=1)
    lifted = np.concatenate([vectors, np.sqrt(squares.max() - squares)[:, None]], axis=1)
    write("made.faiss", string, lifted, l2=True)
    assert File(path="made.faiss", ids="made.txt").misfits(DIMS) == []
    assert File(path="made.faiss", ids="made.txt").misfits(DIMS - 1) != []
    index, ordered = opened(vectors, ids="made.txt", search="efSearch=300" if "HNSW" in string else "")
    queries = np.load("q.npy")
    found, exact = index.search(queries, 10), exact_topk(queries, [ordered], 10)
    np.testing.assert_array_equal(found.ids_QK, exact.ids_QK)
    np.testing.assert_allclose(found.scores_QK, exact.scores_QK, rtol=1e-3, atol=1e-3)


def test_other_vectors_of_one_dimension_more_are_none_of_the_encoder(vectors):
    write("made.faiss", "Flat", np.pad(vectors, ((0, 0), (0, 1)), constant_values=3), l2=True)
    index, _ = opened(vectors, ids="made.txt")
    with pytest.raises(DataError, match="both must come from one encoder"):
        index.search(np.load("q.npy"), 10)


@pytest.mark.parametrize("string", ["IDMap,Flat", "IVF4,SQ8", "IDMap,IVF4,PQ4x4fs", "IVF4,Flat"])
@pytest.mark.parametrize("spread", [1, 1000])  # of the numbers: from 0 on, or with gaps
def test_a_selection_is_of_the_first_rows(vectors, string, spread):
    numbers = np.array(Path("made.txt").read_text().split(), np.int64) * spread
    write("made.faiss", string, vectors, numbers)
    Path("made.txt").write_text("\n".join(map(str, numbers.tolist())))
    index, ordered = opened(vectors, search="" if "IVF" not in string else "nprobe=4")
    index.select(200)
    found = index.search(ordered[::9], 10)
    assert found.mask_QK.all()
    assert found.ids_QK.max() < 200
    exact = exact_topk(ordered[::9], [ordered[:200]], 10)
    assert (recall_against(found, exact, 10, False) or 0) > (0.99 if "Flat" in string else 0.5)


@pytest.mark.parametrize("string", ["IDMap,Flat", "IVF4,Flat"])
def test_numbers_below_zero_are_numbers(vectors, string):
    """Hashes of 64 bits, as they come where they have a sign."""
    numbers = -2 - np.random.default_rng(3).permutation(PASSAGES)
    write("made.faiss", string, vectors, numbers)
    Path("made.txt").write_text("\n".join(map(str, numbers.tolist())))
    index, ordered = opened(vectors, search="" if "IVF" not in string else "nprobe=4")
    found, exact = index.search(ordered[::9], 5), exact_topk(ordered[::9], [ordered], 5)
    np.testing.assert_array_equal(found.ids_QK, exact.ids_QK)
    assert not index.search(ordered[:2], PASSAGES + 1).mask_QK[:, -1].any()
    index.select(200)
    np.testing.assert_array_equal(
        index.search(ordered[::9], 5).ids_QK, exact_topk(ordered[::9], [ordered[:200]], 5).ids_QK
    )


def test_a_vector_with_the_number_of_nothing_is_refused(vectors):
    write("made.faiss", "IVF4,Flat", vectors, np.arange(PASSAGES) - 1)
    Path("made.txt").write_text("\n".join(map(str, range(-1, PASSAGES - 1))))
    with pytest.raises(DataError, match="has the number -1"):
        opened(vectors)


@pytest.mark.parametrize(("string", "dial"), [("HNSW4", "efSearch"), ("PQ4x4", "rescore"), ("Flat", None)])
def test_the_dial_is_that_of_its_type(vectors, string, dial):
    write("made.faiss", string, vectors)
    options = File(path="made.faiss", ids="made.txt", mode="iso_recall", search="efSearch=7,x=1")
    assert options.dial == dial
    assert options.tuned == (dial is not None)
    assert options.searched_by()["search"] == ("x=1" if dial == "efSearch" else "efSearch=7,x=1")
    if dial == "efSearch":
        index, _ = opened(vectors, ids="made.txt")
        index.turn(99)
        assert index.native.hnsw.efSearch == 99


def test_a_file_that_changes_under_a_run_is_not_searched(vectors, tmp_path):
    write("made.faiss", "Flat", vectors)
    index, _ = opened(vectors, ids="made.txt")
    index.save(tmp_path)
    assert File(path="made.faiss").load(tmp_path).size == PASSAGES
    write("made.faiss", "Flat", vectors + 1)
    with pytest.raises(DataError, match="it changed since"):
        File(path="made.faiss").load(tmp_path)
    Path("made.faiss").unlink()
    with pytest.raises(DataError, match=r"made\.faiss"):
        File(path="made.faiss").load(tmp_path)


def test_vectors_of_another_encoder_or_under_wrong_names_are_noticed(vectors):
    write("made.faiss", "IVF4,Flat", vectors)
    Path("other.txt").write_text("\n".join(reversed(Path("made.txt").read_text().splitlines())))
    with pytest.raises(
        DataError, match=r"not those that the encoder gives: of \d+ among 65 passages they are far apart"
    ):
        opened(vectors, ids="other.txt")
    write("made.faiss", "Flat", vectors / 5)
    with pytest.raises(DataError, match="or they were normalised"):
        opened(vectors, ids="made.txt")


@pytest.mark.parametrize("string", ["Flat", "HNSW4"])
def test_a_vector_that_is_none_is_named(vectors, string):
    broken = vectors.copy()
    broken[70, 3] = np.nan
    native = faiss.index_factory(DIMS, string, faiss.METRIC_INNER_PRODUCT)
    native.train(vectors)
    native.add(broken)
    faiss.write_index(native, "made.faiss")
    passage = Path("made.txt").read_text().splitlines()[70]
    with pytest.raises(DataError, match=rf"passage \d+ \('{passage}'\) in made.faiss holds NaN"):
        opened(vectors, ids="made.txt")


def refused(capsys: pytest.CaptureFixture, *words: str) -> str:
    assert cli.main(["bench", *WORDS, *FILE, *words]) == 2
    assert not list(Path("outputs").glob("store/objects/embeddings/*"))  # before any long work
    return capsys.readouterr().err


def test_what_does_not_fit_a_run_is_named_before_it_starts(vectors, place, capsys):
    assert "index.path: no file 'made.faiss' (looked from" in refused(capsys)
    write("made.faiss", "Flat", vectors)
    assert "index.ids: no file 'nowhere.txt'" in refused(capsys, "index.ids=nowhere.txt")
    said = refused(capsys, "corpus.size=300")
    assert "corpus.size: 300: index=file holds a whole corpus" in said
    assert "index.built=once" in said
    assert "does not take 'nprobe=4'" in refused(capsys, "index.search='nprobe=4'")
    assert "was made whole, and is not cut" in refused(capsys, "retrieval.shards=2")
    write("made.faiss", "NSG16,Flat", vectors)
    said = refused(capsys, "corpus.size=300", "index.built=once")
    assert "index=file (IndexNSGFlat) takes no selection of passages; search the whole corpus" in said
    faiss.write_index(faiss.IndexFlatIP(DIMS), "made.faiss")
    assert "index.path: made.faiss holds no vectors" in refused(capsys)
    write("made.faiss", "Flat", np.pad(vectors, ((0, 0), (0, 1))))
    assert "holds vectors of 17 dimensions, the encoder's have 16" in refused(capsys)
    write("made.faiss", "Flat", vectors[:-1])
    last = (place / "made.txt").read_text().splitlines()[-1]
    assert f"made.txt: 900 ids for the 899 vectors of made.faiss; without one are '{last}'" in refused(capsys)


def test_what_is_no_index_that_can_be_searched_is_said(vectors, place):
    (place / "made.faiss").write_text("no index")
    with pytest.raises(DataError, match=r"made.faiss: no readable faiss index there \(Index type"):
        describe("made.faiss")
    faiss.write_index_binary(faiss.IndexBinaryFlat(DIMS), "made.faiss")
    with pytest.raises(DataError, match="an index of binary codes"):
        describe("made.faiss")
    faiss.write_index(faiss.IndexFlat(DIMS, faiss.METRIC_L1), "made.faiss")
    with pytest.raises(DataError, match="another measure than inner product or L2 distance"):
        describe("made.faiss")
    write("made.faiss", "L2norm,Flat", vectors, l2=True)
    with pytest.raises(DataError, match="L2 distances of vectors that it normalises itself"):
        describe("made.faiss")
    write("made.faiss", "PCA8,IDMap,Flat", vectors, np.arange(PASSAGES))
    with pytest.raises(DataError, match="its IDMap is not the outermost part"):
        describe("made.faiss")


def test_lists_in_a_file_of_their_own_are_refused(vectors):
    native = faiss.index_factory(DIMS, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
    native.train(vectors)
    lists = DiskLists()
    lists.fill(native, [vectors])
    faiss.write_index(native, "made.faiss")
    with pytest.raises(DataError, match="its inverted lists lie in a file of their own"):
        describe("made.faiss")


def test_vectors_and_passages_that_do_not_match_are_named(vectors):
    write("made.faiss", "Flat", vectors)
    ids = Path("made.txt").read_text().splitlines()
    corpus, numbers = Corpus(ids), np.arange(PASSAGES)

    def match(names: list[str], numbers: np.ndarray = numbers) -> np.ndarray:
        Path("names.txt").write_text("\n".join(names))
        return rows_of(numbers, "made.faiss", "names.txt", corpus)

    assert match(ids).tolist() == numbers.tolist()
    with pytest.raises(DataError, match=r"made.faiss: no vector for 1 of the corpus's 900 passages, first '\d+'"):
        match(ids[:-1], numbers[:-1])
    with pytest.raises(DataError, match=r"names.txt: 2 of 900 ids are no passage of the corpus, first 'x', 'y'"):
        match([*ids[:-2], "x", "y"])
    with pytest.raises(DataError, match=rf"names.txt: the passage '{ids[0]}' comes twice"):
        match([*ids[:-1], ids[0]])
    with pytest.raises(DataError, match=r"has the number 906, for which names.txt has no line.*index.ids=null"):
        match(ids, numbers + 7)
    with pytest.raises(DataError, match="two of its vectors have the number 5"):
        match(ids, np.where(numbers == 6, 5, numbers))
    with pytest.raises(DataError, match=r"1 of 900 ids are no passage.*by other ids than the numbers"):
        rows_of(np.where(numbers == 6, 12345, numbers), "made.faiss", None, corpus)


@pytest.mark.parametrize(
    ("string", "exact", "codes", "ties", "selects"),
    [
        ("Flat", True, False, True, True),
        ("IVF4,Flat", True, False, True, True),
        ("HNSW8", True, False, False, True),
        ("PCA8,IVF4,Flat", False, False, True, True),
        ("IVF4,PQ4x4fs", False, True, True, True),
        ("PQ4x4", False, True, True, False),
        ("SQ8", False, False, True, True),
        ("NSG8", True, False, False, False),
        ("IVF4,SQ8,RFlat", False, True, False, False),
        ("IDMap,RaBitQ", False, True, True, True),
    ],
)
def test_what_a_file_holds_is_seen_from_it(vectors, string, exact, codes, ties, selects):
    write("made.faiss", string, vectors, np.arange(PASSAGES) if "IDMap" in string else None)
    known = describe("made.faiss")
    found = (known.exact_scores, known.compares_codes, known.settles_ties, known.selects)
    assert found == (exact, codes, ties, selects)
    assert (known.passages, known.dims) == (PASSAGES, DIMS)
    file = OpenFile("made.faiss")
    assert sum(len(numbers) for numbers, _ in file.vectors()) == (PASSAGES if exact else 0)
