import json

import pytest

from rag_exp.core.errors import DataError
from rag_exp.core.record import RunRecord, read_record, write_record


def record(**more):
    return RunRecord(run_id="r", status="finished", arm="dense", seed=0, config={}, artifacts={}, created="now", **more)


def test_numbers_come_back_unrounded(tmp_path):
    value = 0.1 + 0.2
    write_record(record(metrics={"nll": value, "em": None}, nulls={"em": "not decoded"}), tmp_path / "r.json")
    back = read_record(tmp_path / "r.json")
    assert back.metrics == {"nll": value, "em": None}
    assert back == record(metrics={"nll": value, "em": None}, nulls={"em": "not decoded"})


def test_nan_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"not JSON compliant|Out of range"):
        write_record(record(metrics={"nll": float("nan")}), tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_named(tmp_path):
    file = tmp_path / "r.json"
    with pytest.raises(DataError, match=r"r\.json"):
        read_record(file)
    file.write_text("{")
    with pytest.raises(DataError, match=r"not a run record.*Delete it and issue the run again"):
        read_record(file)
    file.write_text(json.dumps({"run_id": "x"}))
    with pytest.raises(DataError, match="status"):
        read_record(file)
