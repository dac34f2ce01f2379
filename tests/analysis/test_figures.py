import numpy as np
import pytest

from rag_exp.analysis.figures import figures_of, points_of, save_figures
from rag_exp.analysis.study_fitting import fit_table
from rag_exp.analysis.tables import records_to_table
from rag_exp.laws import LawOptions

ALL = [
    "loss_against_parameters",
    "loss_against_corpus",
    "loss_by_index",
    "loss_by_growth",
    "recall_against_cost",
    "gold_against_cost",
    "arms",
    "residuals",
]


@pytest.fixture(scope="module")
def figures(quick):
    return {f.name: f for f in figures_of(quick.table, quick.fits)}


def layers(figure):
    """All marks of a chart with their data rows."""
    spec = figure.spec
    found = []

    def walk(node, inherited):
        data = node.get("data", inherited)
        for key in ("layer", "hconcat", "vconcat"):
            for child in node.get(key, []):
                walk(child, data)
        if "mark" in node:
            mark = node["mark"]["type"] if isinstance(node["mark"], dict) else node["mark"]
            found.append((mark, node["encoding"], spec["datasets"][data["name"]]))

    walk(spec, spec.get("data"))
    return found


def test_a_full_study_has_every_figure(figures):
    assert list(figures) == ALL
    assert all(f.title and f.caption.endswith((".", ".)")) for f in figures.values())


def test_points_are_the_runs_and_curves_are_the_law(quick, figures):
    marks = layers(figures["loss_against_parameters"])
    points = next(rows for mark, _, rows in marks if mark == "point")
    main = quick.table[quick.table["run_id"].isin(quick.fits.joint().run_ids)]
    assert sorted(p["y"] for p in points) == pytest.approx(sorted(main["nll"]))
    line = next(rows for mark, _, rows in marks if mark == "line")
    law = quick.fits.joint().law
    at = [r for r in line if r["curve"] == "32.4k"]
    expected = law.predict({"N": [r["x"] for r in at], "M": [32_380.0]}, interval=0.95)
    np.testing.assert_allclose([r["y"] for r in at], expected.value_n)
    np.testing.assert_allclose([r["low"] for r in at], expected.low_n)
    np.testing.assert_allclose([r["high"] for r in at], expected.high_n)
    assert {m for m, _, _ in marks} == {"area", "line", "point", "text"}


def test_axes_are_logarithmic_labelled_and_hold_the_data(quick, figures):
    for name, column, title in [
        ("loss_against_parameters", "N", "Generator parameters, without embeddings"),
        ("loss_against_corpus", "M", "Corpus size, passages"),
    ]:
        encoding = next(e for mark, e, _ in layers(figures[name]) if mark == "point")
        scale = encoding["x"]["scale"]
        assert scale["type"] == "log"
        assert scale["domain"][0] < quick.table[column].min()
        assert scale["domain"][1] > quick.table[column].max()
        assert encoding["x"]["title"] == title
        assert encoding["y"]["title"] == "Loss, nats per answer"


def test_a_label_stands_at_every_curve(figures):
    texts = [rows for mark, _, rows in layers(figures["loss_against_corpus"]) if mark == "text"]
    assert {r["curve"] for r in texts[0]} == {"131k", "311k", "786k", "1.97M"}
    assert texts[1][0]["text"] == "Parameters"


def test_indexes_keep_their_colours_and_missing_recall_is_said_not_drawn(figures):
    by_index = next(e for mark, e, _ in layers(figures["loss_by_index"]) if mark == "point")["color"]["scale"]
    cost = next(e for mark, e, _ in layers(figures["recall_against_cost"]) if mark == "point")["color"]["scale"]
    colors = dict(zip(by_index["domain"], by_index["range"], strict=True))
    assert list(colors) == ["flat", "hnsw", "ivf", "bm25"]
    assert all(colors[k] == c for k, c in zip(cost["domain"], cost["range"], strict=True))
    drawn = [r for mark, _, rows in layers(figures["recall_against_cost"]) for r in rows]
    assert {r["index"] for r in drawn} == {"flat", "hnsw", "ivf"}
    assert all(r["index_recall@k"] > 0.5 for r in drawn)
    assert "no such recall: bm25" in figures["recall_against_cost"].caption
    gold = [r for mark, _, rows in layers(figures["gold_against_cost"]) for r in rows]
    assert {r["index"] for r in gold} == {"flat", "hnsw", "ivf", "bm25"}
    assert {r["M"] for r in gold} == {32_380.0}


def test_the_arms_stand_in_order_over_the_largest_corpus(quick, figures):
    marks = layers(figures["arms"])
    encoding, rows = next((e, r) for mark, e, r in marks if mark == "point")
    assert encoding["y"]["sort"] == [
        "No passage (closed book)",
        "Random passages",
        "BM25",
        "Dense retrieval",
        "Gold passage (oracle)",
    ]
    dense = {r["N"]: r["loss"] for r in rows if r["arm"] == "Dense retrieval"}
    table = quick.table
    whole = table[(table["arm"] == "dense") & (table["index"] == "flat") & (table["M"] == 32_380)]
    assert dense == pytest.approx(dict(zip(whole["N"], whole["nll"], strict=True)))


def test_growths_share_their_last_point(figures):
    rows = next(r for mark, _, r in layers(figures["loss_by_growth"]) if mark == "point")
    last = {r["curve"]: r["y"] for r in rows if r["x"] == 32_380}
    assert last["coverage"] == last["distractor"]


def test_residuals_are_the_laws(quick, figures):
    rows = next(r for mark, _, r in layers(figures["residuals"]) if mark == "point")
    law = quick.fits.joint().law
    np.testing.assert_allclose([r["percent"] for r in rows], 100 * np.expm1(law.residuals()))


def test_seeds_show_as_means_with_error_bars(synthetic):
    world = synthetic.World()
    runs = [
        synthetic.record(world, s, c, seed=i) for s in ("s0", "s1", "s2") for c in ("1000", "null") for i in (0, 1, 2)
    ]
    table = records_to_table(runs, synthetic.plan_of(runs))
    made = {f.name: f for f in figures_of(table, fit_table(table, LawOptions(bootstrap=0)))}
    marks = layers(made["loss_against_parameters"])
    points = next(rows for mark, _, rows in marks if mark == "point")
    assert len(points) == 6
    assert all(p["low"] < p["y"] < p["high"] and p["seeds"] == 3 for p in points)
    assert "rule" in {m for m, _, _ in marks}
    assert "means over seeds" in made["loss_against_parameters"].caption


def test_what_cannot_be_drawn_is_left_out(synthetic):
    world = synthetic.World()
    one = records_to_table([synthetic.record(world, arm="closed_book")])
    assert figures_of(one, fit_table(one)) == []
    two = records_to_table([synthetic.record(world, c) for c in ("s0", "s1")])
    assert [f.name for f in figures_of(two, fit_table(two))] == ["loss_against_parameters"]
    pair = records_to_table([synthetic.record(world), synthetic.record(world, arm="oracle")])
    assert [f.name for f in figures_of(pair, fit_table(pair))] == ["arms"]


def test_points_carry_what_a_reader_hovers_for(quick):
    rows = quick.table[quick.table["run_id"] == "s2-5700-dense-ivf-coverage-0"]
    point = points_of(rows, "M", "nll").iloc[0]
    assert (point["x"], point["passages"], point["parameters"], point["index"], point["seeds"]) == (
        5688,
        5688,
        786_432,
        "ivf",
        1,
    )
    assert point["loss"] == point["y"] == rows["nll"].iloc[0]


def test_files_are_png_and_pdf(figures, tmp_path):
    files = save_figures([figures["arms"], figures["recall_against_cost"]], tmp_path / "figures")
    assert [f.name for f in files] == ["arms.png", "arms.pdf", "recall_against_cost.png", "recall_against_cost.pdf"]
    for f in files:
        start = f.read_bytes()[:8]
        assert start == b"\x89PNG\r\n\x1a\n" if f.suffix == ".png" else start.startswith(b"%PDF")
        assert f.stat().st_size > 5000
