from types import SimpleNamespace

import pytest

from rag_exp.analysis.fits import current_fits, fit_study, law_options, question_losses, report_study
from rag_exp.analysis.study_fits import StudyFits
from rag_exp.analysis.tables import load_study
from rag_exp.core.errors import ConfigError

QUESTIONS = [f"q{i}" for i in range(400)]


@pytest.fixture
def plan(synthetic, write_study, tmp_path):
    world = synthetic.World()
    runs = [synthetic.record(world, s, c) for s in ("s0", "s1", "s2", "s3") for c in ("1000", "5700", "13600", "null")]
    folder = write_study(tmp_path / "studies" / "quickstart", runs)
    found = SimpleNamespace(
        folder=folder, root=tmp_path, name="quickstart", metric="nll", law={"bootstrap": 60}, forms={}
    )
    return found, runs, world


def write_answers(root, runs, world, order=None):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for i, r in enumerate(runs):
        file = root / "store" / "objects" / "evaluation" / r.artifacts["evaluation"] / "predictions.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        losses = world.losses(r.sizes["N"], r.sizes["M"])
        rows = list(zip(QUESTIONS, losses.tolist(), strict=True))
        rows = rows[::-1] if i % 2 else rows
        pq.write_table(pa.table({"id": [q for q, _ in rows], "nll": [v for _, v in rows]}), file)


def test_fitting_a_study_says_a_line_per_law_and_writes_the_cards(plan):
    study, runs, _ = plan
    lines = list(fit_study(study, runs))
    assert sum(line.startswith("loss_in_") for line in lines) == 9
    assert any(
        line.startswith("note: Intervals come from the runs' residuals alone: the answers' losses") for line in lines
    )
    assert lines[-1] == f"9 fit cards: {study.folder / 'fits'}"
    assert StudyFits.load(study.folder).joint().law.resampling["kind"] == "wild"


def test_where_the_answers_are_in_the_store_questions_are_resampled(plan):
    study, runs, world = plan
    write_answers(study.root, runs, world)
    losses, reason = question_losses(runs, study.root, "nll")
    assert reason is None
    for r in runs:  # in one order, whatever the files' own
        assert losses[r.run_id] == pytest.approx(world.losses(r.sizes["N"], r.sizes["M"]).tolist())
    list(fit_study(study, runs))
    assert StudyFits.load(study.folder).joint().law.resampling["kind"] == "given and wild"


def test_why_there_are_no_answers_is_said(plan):
    study, runs, world = plan
    assert question_losses(runs, study.root, "nll_per_byte") == ({}, "nll_per_byte is no plain mean over questions")
    write_answers(study.root, runs[:-1], world)
    losses, reason = question_losses(runs, study.root, "nll")
    assert len(losses) == len(runs) - 1
    assert reason == "the answers of 1 of 16 runs are not in the store any more"


def test_a_report_fits_once_and_again_only_for_other_runs_or_options(plan, monkeypatch):
    study, runs, _ = plan
    study.law |= {"over_N": ["power(N)"], "over_M": ["gain(M)"], "joint": ["joint_gain"]}
    path = report_study(study, runs)
    assert path == study.folder / "report.html"
    table = load_study(study.folder)
    cards = {f: f.stat().st_mtime_ns for f in (study.folder / "fits").iterdir()}
    current_fits(study, runs, table, law_options(study.law, study.forms))
    assert {f: f.stat().st_mtime_ns for f in (study.folder / "fits").iterdir()} == cards
    study.law |= {"bootstrap": 61}
    fits = current_fits(study, runs, table, law_options(study.law, study.forms))
    assert len(fits.joint().law.draws_Rp) == 61


def test_a_studys_own_forms_take_the_place_of_the_candidates():
    assert law_options({}, {"joint": ["joint_gain"]}).joint == ("joint_gain",)
    assert law_options({"joint": ["joint"], "seed": 3}, {"joint": ["joint_gain"]}).seed == 3
    with pytest.raises(ConfigError, match=r"law\.joint: .*No form is called 'jonit'"):
        law_options({"joint": ["jonit"]}, {})
    with pytest.raises(ConfigError, match=r"law\.bootstrp"):
        law_options({"bootstrp": 3}, {})
