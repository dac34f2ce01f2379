import json

import numpy as np
import pytest

from rag_exp.analysis.conditions import conditions_of, groups
from rag_exp.analysis.study_fits import StudyFits, described, summary
from rag_exp.analysis.study_fitting import basis_of, fit_table
from rag_exp.analysis.tables import finished, records_to_table
from rag_exp.analysis.words import trust_sentences
from rag_exp.core.errors import DataError
from rag_exp.laws import LawOptions

QUICK = LawOptions(bootstrap=80)


@pytest.fixture(scope="module")
def study(synthetic):
    world = synthetic.World()
    runs = synthetic.quickstart(world)
    return world, runs, records_to_table(runs, synthetic.plan_of(runs))


@pytest.fixture(scope="module")
def losses(study):
    world, runs, table = study
    rows = table.set_index("run_id")
    return {
        r.run_id: world.losses(
            r.sizes["N"],
            r.sizes["M"],
            r.arm,
            rows.loc[r.run_id, "index"] or "flat",
            rows.loc[r.run_id, "growth"] or "coverage",
        )
        for r in runs
    }


@pytest.fixture(scope="module")
def fits(study, losses):
    return fit_table(study[2], QUICK, losses)


def test_the_law_of_the_world_is_found(fits):
    joint = fits.joint()
    assert joint.law.form.name == "joint_gain"
    assert joint.where == {"index": "flat", "growth": "coverage"}
    assert len(joint.run_ids) == 20
    assert joint.law.params["alpha"] == pytest.approx(0.25, abs=0.06)
    assert joint.law.params["gamma"] == pytest.approx(0.95, abs=0.1)
    assert joint.law.resampling["kind"] == "given and wild"
    assert joint.comparison[0]["form"] == "joint_gain"
    assert joint.comparison[0]["heldout"] < 0.5 * min(joint.nearest.values())


def test_too_few_checkpoints_to_tell_their_noise_are_warned_of(study, fits):
    table = study[2]
    three = table[table["N"] < table["N"].max()]
    (law,) = [f.law for f in fit_table(three, LawOptions(bootstrap=40, joint=("joint_gain",))).of("N", "M")]
    assert any(w.startswith("3 checkpoints are too few to tell") for w in law.warnings)
    assert not any("checkpoints are too few" in w for w in fits.joint().law.warnings)


def test_a_law_is_fitted_at_every_level_of_the_other_axis(fits):
    assert sorted(f.where["M"] for f in fits.of("N")) == [997, 2391, 5688, 13_577, 32_380]
    assert sorted(f.where["N"] for f in fits.of("M", growth="coverage", index="flat")) == [
        131_072,
        311_296,
        786_432,
        1_966_080,
    ]
    assert all(f.law.form.name in ("gain", "log_gain", "saturating") for f in fits.of("M"))


def test_what_cannot_be_fitted_stands_there_with_its_reason(fits):
    without = {(f.where["index"], f.where["growth"]): f.reason for f in fits.fits if f.law is None}
    assert set(without) == {("ivf", "coverage"), ("hnsw", "coverage"), ("flat", "distractor")}
    assert all("3 levels of M" in r for r in without.values())


def test_a_single_candidate_needs_no_choice(study):
    found = fit_table(study[2], LawOptions(bootstrap=0, over_M=("gain",)))
    assert {(f.where["index"], f.where["growth"]) for f in found.of("M")} == {
        ("flat", "coverage"),
        ("ivf", "coverage"),
        ("hnsw", "coverage"),
        ("flat", "distractor"),
    }
    assert found.joint().law.intervals["alpha"] is None


def test_the_whole_corpus_belongs_to_both_growths(study):
    rows = finished(study[2])
    rows = rows[rows["arm"] == "dense"]
    by_growth = {(w["index"], w["growth"]): g for w, g in groups(rows, conditions_of(rows))}
    distractor = by_growth[("flat", "distractor")]
    assert sorted(distractor["M"]) == [997, 5688, 32_380]
    assert set(distractor["N"]) == {786_432}
    assert len(by_growth[("flat", "coverage")]) == 20


def test_configuration_that_varies_on_its_own_makes_another_curve(synthetic):
    world = synthetic.World()
    runs = [synthetic.record(world, s, c) for s in ("s0", "s1") for c in ("1000", "null")]
    other = []
    for r in runs:
        config = {**r.config, "objective": {"kind": "rag_token"}}
        other.append(r.model_copy(update={"run_id": r.run_id + "-token", "config": config}))
    same = [r.model_copy(update={"config": {**r.config, "objective": {"kind": "rag_sequence"}}}) for r in runs]
    table = records_to_table([*same, *other])
    assert "config.objective.kind" in conditions_of(table)
    assert "config.generator.size" not in conditions_of(table)
    assert len(list(groups(table, conditions_of(table)))) == 2


def test_without_the_answers_losses_the_runs_residuals_are_resampled(study):
    found = fit_table(study[2], QUICK)
    assert found.joint().law.resampling["kind"] == "wild"
    with_options = fit_table(study[2], LawOptions(bootstrap=60, resample="questions"))
    assert "resample=questions needs" in with_options.fits[0].reason


def test_forms_are_chosen_by_the_holdouts_that_are_asked_for(study):
    table = study[2]
    each = ("leave_one_level_out_N", "leave_one_level_out_M")
    plain, asked = LawOptions(bootstrap=0), LawOptions(bootstrap=0, holdout=each)
    assert basis_of(table, plain) != basis_of(table, asked)
    found = fit_table(table, asked)
    joint = found.joint()
    assert tuple(joint.nearest) == each
    errors = {r["form"]: r["heldout"] for r in joint.comparison}
    best = joint.law.form.label
    assert errors[best] == min(errors.values())
    near = [f for f, e in errors.items() if f != best and e <= asked.acceptable * errors[best]]
    assert [law.form.label for law in joint.law.alternatives] == near
    assert {tuple(f.nearest) for f in found.of("M")} == {("leave_one_level_out_M",)}
    text = " ".join(trust_sentences(joint))
    assert "without each model size in turn it misses that one by" in text
    assert "without each corpus size in turn it misses that one by" in text


def test_the_largest_compute_needs_the_tokens_of_every_run(study):
    rows = study[2].copy()
    rows.attrs = study[2].attrs
    options = LawOptions(bootstrap=0, holdout="largest_compute", over_M=("gain(M)",))
    fits = fit_table(rows.assign(D=1e9), options)
    assert tuple(fits.joint().nearest) == ("largest_compute",)
    held = next(r for r in fits.joint().comparison if r["form"] == fits.joint().law.form.label)
    assert held["largest_compute.rows"] == len(fits.joint().run_ids) // 5
    lacking = fit_table(rows.assign(D=None), options)
    assert lacking.joint() is None
    assert "largest_compute needs D" in next(f for f in lacking.fits if f.axes == ("N", "M")).reason


def test_replicates_that_cannot_be_fitted_leave_the_law_without_intervals_and_say_so(study, monkeypatch):
    from rag_exp.core.errors import LawError
    from rag_exp.laws import replication

    def refuse(*args, **kwargs):
        raise LawError("3 of 80 replicates did not converge")

    monkeypatch.setattr(replication, "refit", refuse)
    found = fit_table(study[2], QUICK)
    law = found.joint().law
    assert law.intervals["alpha"] is None
    assert any(w.startswith("no intervals: 3 of 80") for w in law.warnings)


def test_coverage_on_request_and_hierarchical_replicates(synthetic):
    world = synthetic.World()
    runs = [
        synthetic.record(world, s, c, seed=k)
        for s in ("s0", "s1", "s2", "s3")
        for c in ("1000", "5700", "null")
        for k in (0, 1)
    ]
    table = records_to_table(runs, synthetic.plan_of(runs))
    losses = {r.run_id: world.losses(r.sizes["N"], r.sizes["M"], seed=r.seed) for r in runs}
    options = {"bootstrap": 60, "joint": ("joint_gain",), "over_N": ("saturating(N)",), "over_M": ("gain",)}
    fits = fit_table(table, LawOptions(coverage=20, resample="hierarchical", **options), losses)
    law = fits.joint().law
    assert law.resampling["kind"] == "hierarchical"
    assert law.resampling["levels"]["questions"] == 400
    assert law.resampling["levels"]["rows with other seeds"] == 24
    assert law.coverage["studies"] == 20
    assert "On 20 simulated studies of this design the 95% intervals held E in " in summary(fits.joint())


def test_fit_cards_are_written_and_read_back(fits, tmp_path):
    files = fits.save(tmp_path)
    assert all(f.is_file() for f in files)
    card = json.loads((tmp_path / "fits" / "loss_in_N_and_M__index=flat__growth=coverage.json").read_text())
    assert card["card"]["equation"] == "E + A N^-alpha - G M^gamma"
    assert len(card["card"]["draws"]["E"]) == 80
    again = StudyFits.load(tmp_path)
    assert [f.name for f in again.fits] == [f.name for f in fits.fits]
    at = {"N": [1e6], "M": [2e4]}
    np.testing.assert_array_equal(
        again.joint().law.predict(at, interval=0.95), fits.joint().law.predict(at, interval=0.95)
    )
    assert (again.basis, again.notes, again.metric) == (fits.basis, fits.notes, fits.metric)
    again.fits = again.fits[:2]
    again.save(tmp_path)
    assert len(list((tmp_path / "fits").glob("loss*.json"))) == 2
    (tmp_path / "fits" / "index.json").unlink()
    with pytest.raises(DataError, match="Fit first"):
        StudyFits.load(tmp_path)


def test_the_basis_changes_with_the_runs_and_the_options(study, synthetic):
    _, runs, table = study
    assert basis_of(table, QUICK) == basis_of(records_to_table(list(reversed(runs)), table.attrs["plan"]), QUICK)
    assert basis_of(table, QUICK) != basis_of(records_to_table(runs[:-1], table.attrs["plan"]), QUICK)
    assert basis_of(table, QUICK) != basis_of(table, LawOptions(bootstrap=81))


def test_seeds_are_rows_of_the_fit_and_one_seed_is_noted(study, synthetic, fits):
    assert any("one seed" in n for n in fits.notes)
    world = synthetic.World()
    runs = synthetic.quickstart(world, seeds=(0, 1))
    found = fit_table(records_to_table(runs, synthetic.plan_of(runs)), LawOptions(bootstrap=0))
    assert len(found.joint().run_ids) == 40
    assert not any("one seed" in n for n in found.notes)


def test_a_study_too_small_for_laws_says_so(synthetic):
    world = synthetic.World()
    runs = [synthetic.record(world, s, c) for s in ("s0", "s1") for c in ("1000", "null")]
    found = fit_table(records_to_table(runs))
    assert found.fits == []
    assert any("3 levels" in n for n in found.notes)
    only = fit_table(records_to_table([synthetic.record(world, arm="closed_book")]))
    assert any("No finished run of arm dense" in n for n in only.notes)
    with pytest.raises(DataError, match="nlll"):
        fit_table(records_to_table(runs), LawOptions(metric="nlll"))


def test_lines_for_the_terminal(fits):
    line = summary(fits.joint())
    assert line.startswith("loss_in_N_and_M__index=flat__growth=coverage: E + A N^-alpha - G M^gamma: E 1")
    assert "held-out error" in line
    bad = next(f for f in fits.fits if f.law is None)
    assert summary(bad).startswith(f"{bad.name}: no law: 3 levels")
    assert described({"index": "flat", "growth": None, "M": 32_380}) == "flat index, M = 32,380"


IN_D = LawOptions(
    bootstrap=0,
    over_N=("power",),
    over_M=("gain",),
    joint=("joint_gain",),
    trained=("chinchilla", "rag_power", "rag_log"),
)


def lengths(sizes=(1e5, 3e5, 1e6, 3e6), steps=(100, 300, 900, 2700), corpora=(1000, 3000, 9000, 27_000)):
    """A study whose training lengths vary, of a law in N, D and M."""
    import itertools

    import pandas as pd

    rows = []
    for n, s, m in itertools.product(sizes, steps, corpora):
        d = 4e4 * s
        nll = 3 + 40 * n**-0.25 + 60 * d**-0.2 + 4 - 0.02 * m**0.45
        rows.append({"N": n, "D": d, "M": m, "config.training.steps": s, "nll": nll, "run_id": f"{n:g}-{s}-{m}"})
    same = {"status": "finished", "arm": "dense", "index": "flat", "growth": "coverage", "K": 4, "K_train": 4}
    table = pd.DataFrame(rows).assign(**same, M_train=27_000, seed=0, whole_corpus=False)
    table["whole_corpus"] = table["M"] == max(corpora)
    table.attrs["metric"] = "nll"
    return table


def test_where_the_length_of_training_varies_a_law_has_D(study):
    found = fit_table(lengths(), IN_D)
    law = found.widest()
    assert law.axes == ("N", "D", "M")
    assert law.where == {"index": "flat", "growth": "coverage"}
    assert len(law.run_ids) == 64
    assert law.law.form.name == "rag_power"
    params = law.law.params
    assert (params["alpha"], params["beta"], params["gamma"]) == pytest.approx((0.25, 0.2, 0.45), abs=0.01)
    # Each length is a curve of its own, as before.
    assert {f.where["config.training.steps"] for f in found.fits if f.axes == ("N", "M")} == {100, 300, 900, 2700}
    assert found.joint().axes == ("N", "M")


def test_a_law_of_D_at_each_corpus_where_there_are_few_and_none_where_lengths_are_few():
    found = fit_table(lengths(corpora=(1000, 27_000)), IN_D)
    assert [(f.axes, f.where["M"]) for f in found.fits if "D" in f.axes] == [(("N", "D"), 1000), (("N", "D"), 27_000)]
    assert found.widest().law.form.name == "chinchilla"
    assert not [f for f in fit_table(lengths(steps=(100, 300)), IN_D).fits if "D" in f.axes]


def test_the_option_of_laws_in_D_leaves_cards_of_other_studies_as_they_are(study):
    table = study[2]
    assert "trained" not in LawOptions().identity()
    assert basis_of(table, LawOptions()) == basis_of(table.assign(**{"config.training.steps": 300}), LawOptions())
    assert basis_of(lengths(), LawOptions()) != basis_of(lengths(), LawOptions(trained=("chinchilla",)))
