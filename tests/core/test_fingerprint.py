import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_exp.core import fingerprint
from rag_exp.core.errors import DataError
from rag_exp.core.fingerprint import ContentDigests, canonical, digest, file_digest

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_golden_digest_does_not_move():
    # Keys on disk depend on it: a change here orphans every store.
    assert canonical({"b": [1, 2.5, None], "a": "é"}) == '{"a":"\\u00e9","b":[1,2.5,null]}'
    assert digest({"b": [1, 2.5, None], "a": "é"}) == digest({"a": "é", "b": (1, 2.5, None)})
    assert digest({"a": 1}) == "2c6b113b8dd15ffbded9860b43eb0c6c"


@given(plain, plain)
def test_digest_is_injective_on_canonical_text(a, b):
    assert (digest(a) == digest(b)) == (canonical(a) == canonical(b))


def test_true_is_not_one_and_none_is_not_zero():
    assert len({digest(v) for v in (True, 1, None, 0, False, "1", 1.0)}) == 7


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_equal_nothing_are_refused(value):
    with pytest.raises(ValueError, match="identity"):
        digest({"x": [value]})


def test_other_types_are_refused():
    with pytest.raises(TypeError):
        digest({"x": {1, 2}})
    with pytest.raises(TypeError):
        digest({1: "x"})


def test_folder_digest_follows_content_and_names_not_the_place(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "f.txt").write_text("hello")
    digests = ContentDigests()
    assert digests.of(tmp_path / "one") == digests.of(tmp_path / "two")
    (tmp_path / "two" / "sub" / "f.txt").rename(tmp_path / "two" / "sub" / "g.txt")
    assert digests.of(tmp_path / "one") != digests.of(tmp_path / "two")


def test_cache_is_used_and_follows_changes(tmp_path):
    file, cache = tmp_path / "f", tmp_path / "cache.json"
    file.write_text("one")
    first = ContentDigests(cache).of(file)
    assert first == file_digest(file)
    stamp = file.stat()
    # The same size and time: the cache answers (that is what it is for), so a second content shows its use.
    file.write_text("two")
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert ContentDigests(cache).of(file) == first
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert ContentDigests(cache).of(file) == file_digest(file) != first


def test_damaged_cache_and_missing_path(tmp_path):
    (tmp_path / "cache.json").write_text("{not json")
    (tmp_path / "f").write_text("x")
    assert ContentDigests(tmp_path / "cache.json").of(tmp_path / "f") == file_digest(tmp_path / "f")
    with pytest.raises(DataError, match="no such file"):
        ContentDigests().of(tmp_path / "absent")


@pytest.mark.parametrize("of", [".", "f.txt"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch, of):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "f.txt").write_text("x")
    monkeypatch.setattr(fingerprint, "file_digest", refuse)  # not by its mode: root may read everything
    with pytest.raises(DataError, match=r"f\.txt: cannot be read \(Permission denied\)"):
        ContentDigests().of(tmp_path / of)
