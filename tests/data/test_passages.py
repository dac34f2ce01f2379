"""Passages in hash order: nested prefixes, memory-mapped rows, splitting, and what is refused."""

import hashlib
import json
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rag_exp.core.errors import DataError
from rag_exp.data import arrow_rows
from rag_exp.data.passages import PassageTable, Whole, Words, write_passages
from rag_exp.data.sources import CorpusOptions, Document, Passage


class Listed(CorpusOptions):
    """A corpus of documents given as (id, [(passage id, title, text), ...])."""

    kind: Literal["listed"] = "listed"
    listed: list[tuple[str, list[tuple[str, str, str]]]]

    def documents(self):
        for doc, passages in self.listed:
            yield Document(doc, tuple(Passage(*p) for p in passages))


def corpus(sizes, **options):
    """Documents d0, d1, ... of ``sizes`` passages."""
    return Listed(
        listed=[
            (f"d{d}", [(f"d{d}p{p}", f"Title {d}", f"text {p} of {d}") for p in range(n)]) for d, n in enumerate(sizes)
        ],
        **options,
    )


def write(source, folder, chunking=None, gold_ids=None, nearness=None):
    folder.mkdir(parents=True, exist_ok=True)
    stats = write_passages(source, chunking or Whole(), folder, gold_ids, nearness)
    return PassageTable.open(folder), stats


SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=12)
IN_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)


def test_exact_small_corpus(tmp_path):
    table, stats = write(corpus([2, 1, 3]), tmp_path)
    order = list(dict.fromkeys(table.documents(range(6))))
    assert sorted(order) == ["d0", "d1", "d2"]
    sizes = {"d0": 2, "d1": 1, "d2": 3}
    assert table.doc_ends.tolist() == np.cumsum([sizes[d] for d in order]).tolist()
    assert table.ids(range(6)) == [f"{d}p{p}" for d in order for p in range(sizes[d])]
    assert table.texts([0]) == [(f"Title {order[0][1]}", f"text 0 of {order[0][1]}")]
    digest = stats.pop("digest")
    assert len(digest) == 32
    assert stats == {
        "passages": 6,
        "documents": 3,
        "words": 24,
        "source_passages": 6,
        "split_passages": 0,
        "empty_texts": 0,
        "gold_documents": None,
    }
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "doc_ends.npy",
        "doc_words.npy",
        "id_hash.npy",
        "id_row.npy",
        "manifest.json",
        "passages.arrow",
    ]
    assert json.loads((tmp_path / "manifest.json").read_text()) == {**stats, "digest": digest}


def test_the_order_is_pinned(tmp_path):
    """The hash order is part of every published corpus: it must not move between versions."""
    table, _ = write(corpus([1] * 6), tmp_path)
    assert table.documents(range(6)) == ["d0", "d1", "d5", "d2", "d3", "d4"]


def test_prefix_sizes(tmp_path):
    table, _ = write(corpus([3, 3, 3]), tmp_path)
    assert [table.prefix_size(m) for m in (3, 4, 5, 6, 8, 9, 100, None)] == [3, 3, 3, 6, 6, 9, 9, 9]
    assert [table.documents_in(m) for m in (0, 2, 3, 8, 9)] == [0, 0, 1, 2, 3]
    assert [table.words_in(m) for m in (0, 2, 3, 9)] == [0, 0, 12, 36]
    with pytest.raises(DataError, match=r"corpus.size=2 holds no whole document.*has 3 passages"):
        table.prefix_size(2)


def test_the_digest_of_a_prefix_is_that_of_its_ids_in_order(tmp_path, monkeypatch):
    table, _ = write(corpus([3, 1, 2]), tmp_path)
    monkeypatch.setattr("rag_exp.data.passages.BATCH_ROWS", 2)  # read in parts
    for size in range(7):
        lines = "".join(f"{id}\n" for id in table.ids(range(size)))
        assert table.ids_digest(size) == hashlib.blake2b(lines.encode(), digest_size=16).hexdigest()
    assert len({table.ids_digest(size) for size in range(7)}) == 7


@IN_FOLDER
@given(sizes=SIZES, seed=st.integers(0, 5), shuffle=st.randoms())
def test_the_source_order_of_documents_changes_nothing(tmp_path_factory, sizes, seed, shuffle):
    tmp = tmp_path_factory.mktemp("order")
    source = corpus(sizes, order_seed=seed)
    shuffled = list(source.listed)
    shuffle.shuffle(shuffled)
    _, stats = write(source, tmp / "a")
    _, again = write(Listed(listed=shuffled, order_seed=seed), tmp / "b")
    assert stats == again
    for name in ("passages.arrow", "doc_ends.npy", "doc_words.npy", "id_hash.npy", "id_row.npy"):
        assert (tmp / "a" / name).read_bytes() == (tmp / "b" / name).read_bytes()


@IN_FOLDER
@given(sizes=SIZES, asked=st.lists(st.integers(1, 50), min_size=2, max_size=5))
def test_smaller_corpora_are_nested_prefixes_of_whole_documents(tmp_path_factory, sizes, asked):
    table, _ = write(corpus(sizes), tmp_path_factory.mktemp("nested"))
    known = []
    for m in sorted(asked):
        try:
            size = table.prefix_size(m)
        except DataError:
            assert m < table.doc_ends[0]
            continue
        ids = table.ids(range(size))
        assert size <= m
        assert ids[: len(known)] == known
        documents = table.documents(range(size))
        assert all(documents.count(d) == sizes[int(d[1:])] for d in set(documents))
        known = ids


@IN_FOLDER
@given(sizes=st.lists(st.integers(1, 3), min_size=6, max_size=12))
def test_another_seed_is_another_order(tmp_path_factory, sizes):
    tmp = tmp_path_factory.mktemp("seeds")
    orders = {tuple(write(corpus(sizes, order_seed=s), tmp / str(s))[0].documents(range(sum(sizes)))) for s in range(4)}
    assert len(orders) > 1


def test_removing_documents_keeps_the_order_of_the_others(tmp_path):
    whole, _ = write(corpus([1] * 20), tmp_path / "whole")
    half = Listed(listed=corpus([1] * 20).listed[::2])
    some, _ = write(half, tmp_path / "half")
    kept = {d for d, _ in half.listed}
    assert some.documents(range(10)) == [d for d in whole.documents(range(20)) if d in kept]


def test_distractor_growth_puts_documents_with_gold_first(tmp_path):
    plain, _ = write(corpus([2] * 10), tmp_path / "plain")
    table, stats = write(corpus([2] * 10), tmp_path / "gold", gold_ids={"d7p1", "d2p0", "d2p1", "absent"})
    order = list(dict.fromkeys(table.documents(range(20))))
    before = list(dict.fromkeys(plain.documents(range(20))))
    assert stats["gold_documents"] == 2
    assert order == [d for d in before if d in ("d2", "d7")] + [d for d in before if d not in ("d2", "d7")]


def test_near_documents_come_after_gold_and_before_the_rest(tmp_path):
    plain, _ = write(corpus([2] * 10), tmp_path / "plain")
    before = list(dict.fromkeys(plain.documents(range(20))))
    seen = []

    def nearness(texts, doc_ends):
        seen.extend(texts)
        assert doc_ends.tolist() == list(range(2, 22, 2))
        return np.array([{"d5": 2.0, "d1": 3.0, "d8": 2.0, "d7": 9.0}.get(d, 0.0) for d in before])

    table, stats = write(corpus([2] * 10), tmp_path / "near", None, {"d7p1", "d2p0"}, nearness)
    assert seen == plain.texts(range(20))
    assert (stats["gold_documents"], stats["near_documents"]) == (2, 3)  # d7 is gold, however near
    order = list(dict.fromkeys(table.documents(range(20))))
    gold, tied = ([d for d in before if d in some] for some in (("d2", "d7"), ("d5", "d8")))
    first = [*gold, "d1", *tied]
    assert order == first + [d for d in before if d not in first]
    for rows in (np.arange(20), np.array([19, 0, 7])):
        assert plain.ids(table.rows_in(plain, rows)) == table.ids(rows)
    assert plain.rows_in(plain, rows) is rows


@IN_FOLDER
@given(sizes=SIZES, gold=st.sets(st.integers(0, 11)), shuffle=st.randoms())
def test_nearest_first_does_not_depend_on_the_source_order_either(tmp_path_factory, sizes, gold, shuffle):
    tmp = tmp_path_factory.mktemp("near")
    source = corpus(sizes)
    shuffled = list(source.listed)
    shuffle.shuffle(shuffled)
    gold_ids = {f"d{d}p0" for d in gold}

    def nearness(texts, doc_ends):
        return np.array([n % 3 for n, _ in enumerate(doc_ends)], float)

    _, stats = write(source, tmp / "a", gold_ids=gold_ids, nearness=nearness)
    _, again = write(Listed(listed=shuffled), tmp / "b", gold_ids=gold_ids, nearness=nearness)
    assert stats == again


def test_rows_are_found_by_id_in_any_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow_rows, "BATCH_ROWS", 7)
    table, _ = write(corpus([3] * 20), tmp_path)
    assert len(table._rows.batches) == 9
    ids = table.ids(range(60))
    assert table.rows_of(ids) == [[row] for row in range(60)]
    assert table.rows_of(["nope", ids[5]]) == [[], [5]]
    assert table.rows_of([]) == []
    rows = [59, 0, 13, 13, 7, 30]
    assert table.ids(rows) == [ids[r] for r in rows]
    assert table.ids([]) == []
    assert [t for _, batch in table.batches(batch_rows=25) for t in batch] == table.texts(range(60))
    assert [start for start, _ in table.batches(size=30, batch_rows=25)] == [0, 25]


@pytest.mark.parametrize("row", [-1, 6])
def test_a_row_outside_the_corpus_is_refused(tmp_path, row):
    table, _ = write(corpus([2, 1, 3]), tmp_path)
    with pytest.raises(IndexError, match=f"row {row} of a corpus of 6"):
        table.texts([0, row])


def test_a_worker_process_opens_the_table_again(tmp_path):
    table, _ = write(corpus([2, 2]), tmp_path)
    table.texts([0])
    assert pickle.loads(pickle.dumps(table)).ids(range(4)) == table.ids(range(4))


def test_long_passages_are_cut_and_found_by_their_old_id(tmp_path):
    text = "one two  three\nfour five"
    source = Listed(listed=[("a", [("p", "T", text), ("q", "T", "six seven")]), ("b", [("r", "", " eight ")])])
    table, stats = write(source, tmp_path, Words(max_words=2))
    (parts,), (whole,) = table.rows_of(["p"]), table.rows_of(["q"])
    assert table.ids(parts) == ["p#0", "p#1", "p#2"]
    assert [t for _, t in table.texts(parts)] == ["one two", "three\nfour", "five"]
    assert [title for title, _ in table.texts(parts)] == ["T"] * 3
    assert table.ids(whole) == ["q"]
    assert table.rows_of(["p#1"]) == [[parts[1]]]
    assert table.texts(table.rows_of(["r"])[0]) == [("", " eight ")]
    assert (stats["source_passages"], stats["split_passages"], stats["passages"], stats["words"]) == (3, 1, 5, 8)


@given(n=st.integers(1, 40), size=st.integers(1, 12), data=st.data())
def test_windows_cover_every_word_and_overlap_as_asked(n, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    words = [f"w{i}" for i in range(n)]
    parts = [p.text.split() for p in Words(max_words=size, overlap=overlap).parts(Passage("p", "", " ".join(words)))]
    assert all(len(p) == size for p in parts[:-1])
    assert len(parts[-1]) <= size
    assert [*parts[0], *(w for p in parts[1:] for w in p[overlap:])] == words
    assert all(a[len(a) - overlap :] == b[:overlap] for a, b in pairwise(parts))


def test_an_overlap_that_never_ends_is_refused():
    with pytest.raises(ValidationError, match=r"overlap \(3\) must be less than max_words \(3\)"):
        Words(max_words=3, overlap=3)


@pytest.mark.parametrize("listed", [[], [("d", [])]])
def test_an_empty_corpus_is_refused(tmp_path, listed):
    with pytest.raises(DataError, match=r"corpus=listed\) is empty"):
        write(Listed(listed=listed), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_passage_id_that_comes_twice_is_refused_with_both_places(tmp_path):
    source = Listed(listed=[("a", [("x", "", "1"), ("y", "", "2")]), ("b", [("z", "", "3")]), ("c", [("y", "", "4")])])
    with pytest.raises(
        DataError, match=r"'y' comes twice: as passage 2 .*document 'a'.* as passage 4 \(document 'c'\)"
    ):
        write(source, tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [("one two three", "four", "'x'"), ("one", "two three four", "'x'"), ("a b c", "d e f", "'x'")],
)
def test_cutting_does_not_hide_an_id_that_comes_twice(tmp_path, first, second, named):
    source = Listed(listed=[("a", [("x", "", first)]), ("b", [("x", "", second)])])
    with pytest.raises(DataError, match=f"Passage id {named} comes twice: as passage 1 .* and as passage 2"):
        write(source, tmp_path, Words(max_words=2))


def test_an_id_that_looks_like_a_part_of_another_is_refused(tmp_path):
    source = Listed(listed=[("a", [("x", "", "one two three")]), ("b", [("x#1", "", "four")])])
    with pytest.raises(DataError, match=r"Passage id 'x#1' comes twice: as passage 2 .* and as passage 1"):
        write(source, tmp_path, Words(max_words=2))


def test_a_document_id_that_comes_twice_is_refused_with_both_places(tmp_path):
    source = Listed(listed=[("a", [("x", "", "1")]), ("b", [("y", "", "2")]), ("a", [("z", "", "3")])])
    with pytest.raises(DataError, match=r"'a' comes twice, as document 1 and as document 3 .*must follow one another"):
        write(source, tmp_path)


def test_text_that_is_no_unicode_is_refused_by_name(tmp_path):
    source = Listed(listed=[("a", [("x", "fine", "fine"), ("y", "T", "half \ud83d of a pair")])])
    with pytest.raises(DataError, match=r"Passage 'y' of document 'a': its text holds half a surrogate pair"):
        write(source, tmp_path)


def test_no_artifact_is_a_clear_error(tmp_path):
    with pytest.raises(DataError, match="no passages there"):
        PassageTable.open(tmp_path)


def test_a_batch_never_holds_more_than_its_limits(monkeypatch):
    monkeypatch.setattr(arrow_rows, "BATCH_ROWS", 3)
    monkeypatch.setattr(arrow_rows, "BATCH_CHARS", 10)
    chars = np.array([4, 4, 4, 25, 1, 1, 1, 1, 0, 0])
    ranges = list(arrow_rows.batch_ranges(chars))
    assert ranges == [(0, 2), (2, 3), (3, 4), (4, 7), (7, 10)]
    assert list(arrow_rows.batch_ranges(np.array([], dtype=np.int64))) == []


def test_open_reads_paths_given_as_text(tmp_path):
    write(corpus([1]), tmp_path)
    assert len(PassageTable.open(Path(str(tmp_path)))) == 1
