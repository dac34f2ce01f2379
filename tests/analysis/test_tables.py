import json

import pytest

from rag_exp.analysis.tables import finished, load_study, missing_runs, records_to_table, study_folder, varying
from rag_exp.core.errors import DataError


@pytest.fixture(scope="module")
def world(synthetic):
    return synthetic.World()


def test_a_run_is_a_row_with_its_sizes_setting_metrics_and_costs(synthetic, world):
    table = records_to_table([synthetic.record(world, "s1", "5700", index="ivf")])
    row = table.iloc[0]
    assert (row["arm"], row["index"], row["growth"], row["status"]) == ("dense", "ivf", "coverage", "finished")
    assert (row["N"], row["N_total"], row["M"], row["M_train"], row["K"]) == (311_296, 1_111_296, 5688, 32_380, 4)
    assert row["nll"] > 0
    assert row["flops.training"] == 6.0 * 311_296 * 4e7
    assert row["bytes.index"] == 776 * 5688
    assert row["seconds.run"] == 3.0
    assert row["config.generator.size"] == "s1"
    assert row["config.generator.layers"] == "[1, 2]"
    assert row["config.evaluation.index.kind"] == "ivf"
    assert row["artifacts.checkpoint"] == "checkpoint-s1-False-0"


def test_missing_values_stay_missing_and_keep_their_reasons(synthetic, world):
    table = records_to_table([synthetic.record(world), synthetic.record(world, arm="closed_book")])
    closed = table.iloc[1]
    assert closed["index"] is None
    assert closed["growth"] is None
    assert closed["M"] != closed["M"]
    assert closed["gold_recall@k"] != closed["gold_recall@k"]
    assert closed["nulls"]["M"] == "a closed-book run reads no corpus"
    assert not closed["whole_corpus"]
    assert table.iloc[0]["whole_corpus"]


def test_the_evaluation_setting_counts_before_the_training_setting(synthetic, world):
    growth = records_to_table([synthetic.record(world, corpus="1000", growth="distractor")]).iloc[0]
    assert growth["growth"] == "distractor"
    assert not growth["whole_corpus"]
    bm25 = records_to_table([synthetic.record(world, arm="bm25", index="bm25")]).iloc[0]
    assert bm25["index"] == "bm25"


def test_axes_are_what_varies_without_neutral_configuration(synthetic, world):
    table = records_to_table([synthetic.record(world, s, c) for s in ("s0", "s1") for c in ("1000", "5700")])
    assert table.attrs["axes"] == ["N", "M", "config.generator.size", "config.evaluation.corpus_size"]
    assert len(set(table["config.paths.root"])) == 2  # it varies, and is no axis
    assert varying(table[table["N"] == 131_072]) == ["M", "config.evaluation.corpus_size"]


def test_one_missing_value_among_equal_ones_varies(synthetic, world):
    table = records_to_table([synthetic.record(world), synthetic.record(world, arm="closed_book")])
    assert {"M", "index", "arm"} <= set(table.attrs["axes"])


def test_the_plans_axes_are_columns_null_where_a_run_stands_for_several_points(synthetic, world):
    runs = [synthetic.record(world, "s0"), synthetic.record(world, "s1", arm="closed_book")]
    plan = synthetic.plan_of(runs)
    plan["runs"].append({**plan["runs"][1], "point": {"generator.size": "s1", "evaluation.corpus_size": "1000"}})
    table = records_to_table(runs, plan)
    assert table["generator.size"].tolist() == ["s0", "s1"]
    assert table["evaluation.corpus_size"].tolist() == ["None", None]
    assert (table.attrs["study"], table.attrs["metric"]) == ("quickstart", "nll")


def test_a_study_is_loaded_by_folder_or_by_name_in_the_plans_order(
    synthetic, world, write_study, tmp_path, monkeypatch
):
    runs = [synthetic.record(world, s) for s in ("s2", "s0", "s1")]
    write_study(tmp_path / "outputs" / "studies" / "mine", runs)
    assert load_study(tmp_path / "outputs" / "studies" / "mine")["N"].tolist() == [786_432, 131_072, 311_296]
    monkeypatch.chdir(tmp_path)
    assert len(load_study("mine")) == 3
    write_study(tmp_path / "results" / "published", runs[:1])
    assert len(load_study("published")) == 1
    monkeypatch.setenv("RAG_EXP_ROOT", str(tmp_path / "elsewhere"))
    write_study(tmp_path / "elsewhere" / "studies" / "mine", runs[:2])
    assert len(load_study("mine")) == 2


def test_a_study_that_is_not_there_says_which_are(synthetic, world, write_study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="There are no studies there yet"):
        load_study("quickstart")
    write_study(tmp_path / "results" / "quickstart", [synthetic.record(world)])
    with pytest.raises(DataError, match=r"Did you mean 'quickstart'\? Studies there: quickstart"):
        load_study("quickstrat")
    (tmp_path / "results" / "quickstart" / "records").joinpath("s2-all-dense-flat-coverage-0.json").unlink()
    with pytest.raises(DataError, match="no records yet"):
        load_study("quickstart")


def test_a_damaged_plan_or_record_names_the_file(synthetic, world, write_study, tmp_path):
    folder = write_study(tmp_path / "a", [synthetic.record(world)])
    (folder / "plan.json").write_text("{")
    with pytest.raises(DataError, match=r"plan\.json: not JSON"):
        load_study(folder)
    (folder / "plan.json").unlink()
    with pytest.raises(DataError, match=r"plan\.json: cannot be read"):
        load_study(folder)
    folder = write_study(tmp_path / "b", [synthetic.record(world)])
    next((folder / "records").glob("*")).write_text(json.dumps({"run_id": "x"}))
    with pytest.raises(DataError, match="not a run record"):
        load_study(folder)
    assert study_folder(folder) == folder


def test_failed_and_missing_runs_are_told_apart(synthetic, world):
    runs = [synthetic.record(world, s, status="failed" if s == "s1" else "finished") for s in ("s0", "s1", "s2")]
    table = records_to_table(runs[:2], synthetic.plan_of(runs))
    assert [r["run_id"] for r in missing_runs(table)] == ["s2-all-dense-flat-coverage-0"]
    assert finished(table)["run_id"].tolist() == ["s0-all-dense-flat-coverage-0"]
    with pytest.raises(DataError, match=r"no.*metric 'nl'.*Did you mean 'nll'|has the metric 'nl'"):
        finished(table, "nl")
