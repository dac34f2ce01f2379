import json
import re
import time
from html import unescape

import pytest

from rag_exp.analysis.report import write_report
from rag_exp.analysis.study_fitting import fit_table
from rag_exp.analysis.tables import records_to_table
from rag_exp.laws import LawOptions

SPEC = re.compile(r'<script type="application/vnd\.vegalite\+json" data-home="chart-(\w+)">(.*?)</script>', re.S)


@pytest.fixture(scope="module")
def report(quick, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    start = time.process_time()
    path = write_report(quick.table, quick.fits, quick.table.attrs["plan"], folder)
    return path, path.read_text(encoding="utf-8"), time.process_time() - start


def plain(html):
    """The page's words, without scripts, charts and marks."""
    html = re.sub(r"<(script|style|svg)\b.*?</\1>", " ", html, flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


def test_the_page_needs_no_network(report):
    _, html, _ = report
    marks = re.sub(r"(<script\b[^>]*>).*?</script>", r"\1", html, flags=re.S)
    assert not re.search(r"<(script|img|iframe|link|source|image|use)\b[^>]*\b(src|href)\s*=", marks)
    styles = "".join(re.findall(r"<style>(.*?)</style>", html, re.S))
    assert "@import" not in styles
    assert "url(" not in styles
    assert html.count("window.vegaEmbed=") == 1


def test_every_chart_has_its_data_inside_and_a_still_for_readers_without_scripts(report):
    _, html, _ = report
    specs = {name: json.loads(text) for name, text in SPEC.findall(html)}
    assert len(specs) == 9  # of figures_of, and the hold-outs
    for name, spec in specs.items():
        assert spec["datasets"]
        assert "url" not in json.dumps(spec.get("data", {}))
        assert re.search(rf'<div id="chart-{name}"><svg', html)


def test_figures_are_files_too(report):
    path, html, _ = report
    names = {name for name, _ in SPEC.findall(html)}
    assert {f.name for f in (path.parent / "figures").iterdir()} == {f"{n}.{s}" for n in names for s in ("png", "pdf")}


def test_the_page_says_what_the_study_found(report, quick):
    _, html, _ = report
    text = plain(html)
    for words in (
        "From-scratch readers of four sizes over corpora of five sizes.",
        "40 of 40 finished",
        "Ten times the parameters (197k to 1.97M) lower the loss by",
        "without largest N",
        "repeat the nearest level",
        "rag-exp run -m study=quickstart",
        "0123456789abcdef0123456789abcdef01234567",
        "3 levels of M: without the largest, too few are left to choose",
        "arm oracle searches no index",
        "a closed-book run reads no corpus",
        "Each model size was trained with one seed",
    ):
        assert words in text, words
    assert html.count("<tr><td data-value=") == len(quick.runs)


def test_missing_values_show_as_dashes_with_their_reasons(report):
    _, html, _ = report
    assert '<abbr title="a closed-book run reads no corpus">–</abbr>' in html
    assert '<abbr title="BM25 has no exact search to compare with">–</abbr>' in html
    assert ">nan<" not in html.lower()
    assert ">None<" not in html


def test_it_is_written_in_seconds(report):
    assert report[2] < 15


def test_failed_and_missing_runs_are_listed_with_their_last_line(synthetic, tmp_path):
    world = synthetic.World()
    runs = [synthetic.record(world, s, status="failed" if s == "s1" else "finished") for s in ("s0", "s1", "s2", "s3")]
    table = records_to_table(runs[:3], synthetic.plan_of(runs, description="<b>bold</b>", command=None, commit=None))
    text = write_report(table, fit_table(table), table.attrs["plan"], tmp_path).read_text()
    words = plain(text)
    assert "2 of 4 finished" in words
    assert "failed: TrainingError: the loss is NaN at step 40" in words
    assert "1 planned run left no record: generator.size=s3" in words
    assert "No law was fitted." in words
    assert "&lt;b&gt;bold&lt;/b&gt;" in text


def test_distractor_growth_is_said_to_raise_the_loss(synthetic, tmp_path):
    world = synthetic.World(noise=0.001)
    corpora = ("1000", "2400", "5700", "13600", "null")
    runs = [synthetic.record(world, s, c, growth="distractor") for s in ("s0", "s1", "s2", "s3") for c in corpora]
    table = records_to_table(runs, synthetic.plan_of(runs))
    fits = fit_table(table, LawOptions(bootstrap=60))
    assert fits.joint().law.form.name == "joint_rising"
    words = plain(write_report(table, fits, table.attrs["plan"], tmp_path).read_text())
    assert "Ten times the corpus (3.24k to 32.4k) raises the loss by" in words
    assert "No exchange rate follows, since ten times the corpus does not lower the loss for certain." in words
