"""`rag-exp fit data=FILE`: anybody's table, its law, its card and figures."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rag_exp import cli
from rag_exp.analysis.file_fits import FileFit, read_table
from rag_exp.analysis.law_figures import figures_of_law
from rag_exp.analysis.study_fits import StudyFit, StudyFits
from rag_exp.core.errors import ConfigError, DataError
from rag_exp.laws import fit


def table(**changes):
    """Runs on Chinchilla's law, parameters in millions."""
    rng = np.random.default_rng(0)
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(50, 5_000, 6), np.geomspace(1e9, 1e12, 6)))
    loss = 1.7 + 400 / (n * 1e6) ** 0.34 + 410 / d**0.28
    return pd.DataFrame(
        {"params": n, "tokens": d, "final": loss * np.exp(0.002 * rng.standard_normal(len(n)))} | changes
    )


@pytest.fixture
def csv(place):
    table().to_csv("runs.csv", index=False)
    return place


WORDS = ["data=runs.csv", "N=params", "units.N=1e6", "D=tokens", "y=final"]


def test_a_table_becomes_a_law_with_card_and_figures(csv, capsys):
    assert cli.main(["fit", *WORDS, "law=chinchilla,chinchilla_tied", "bootstrap=100"]) == 0
    said = capsys.readouterr().out
    assert "held-out error" in said
    assert "Across 4 losses" in said
    (found,) = StudyFits.load(csv / "fits" / "runs").fits
    assert found.law.params["E"] == pytest.approx(1.7, abs=0.1)
    low, high = found.law.intervals["alpha" if "alpha" in found.law.intervals else "beta"]
    assert low < high
    figures = {f.stem for f in (csv / "fits" / "runs" / "figures").glob("*.png")}
    assert figures == {"fit", "residuals", "holdouts", "profiles", "contours"}


def test_figures_come_from_the_card_alone(csv):
    assert cli.main(["fit", *WORDS, "law=chinchilla", "bootstrap=50", "cluster=params"]) == 0
    (card,) = (csv / "fits" / "runs" / "fits").glob("final*.json")
    text = json.dumps(json.loads(card.read_text()))
    (csv / "runs.csv").unlink()
    assert json.loads(card.read_text()) == json.loads(text)
    (found,) = StudyFits.load(csv / "fits" / "runs").fits
    assert [f.name for f in figures_of_law(found)] == ["fit", "residuals", "holdouts", "profiles", "contours"]
    assert found.law.resampling["kind"] == "wild"  # six clusters are too few to be drawn


def test_replicates_that_make_no_interval_are_refused_before_the_table_is_read():
    for option in ("bootstrap=10", "bootstrap=-1"):
        with pytest.raises(ConfigError, match=r"bootstrap: .*at least 40 replicates"):
            FileFit.of_words(["data=nowhere.csv", option])
    with pytest.raises(ConfigError, match=r"level: .*at level 0.999 needs at least 1,999 replicates.*not 500"):
        FileFit.of_words(["data=nowhere.csv", "level=0.999"])


def test_units_change_no_prediction(csv):
    assert cli.main(["fit", *WORDS, "law=chinchilla", "bootstrap=0", "out=a"]) == 0
    assert cli.main(["fit", *[w for w in WORDS if "units" not in w], "law=chinchilla", "bootstrap=0", "out=b"]) == 0
    whole, millions = (StudyFits.load(csv / f).fits[0].law for f in "ab")
    one, other = whole.predict({"N": [3e8], "D": [1e11]}), millions.predict({"N": [300], "D": [1e11]})
    assert one == pytest.approx(other, rel=1e-9)


def test_a_table_in_one_axis(place):
    pd.DataFrame({"M": np.geomspace(1e3, 1e6, 8), "loss": 2 + 30 * np.geomspace(1e3, 1e6, 8) ** -0.3}).to_parquet(
        "m.parquet"
    )
    assert cli.main(["fit", "data=m.parquet", "bootstrap=0", "law=saturating(M)", "out=m"]) == 0
    assert StudyFits.load(place / "m").fits[0].law.params["E"] == pytest.approx(2.0, abs=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["N=parms"], "no column 'parms'. Did you mean 'params'"),
        (["y=loss"], "no column 'loss'"),
        (["law=chinchila"], "Did you mean"),
        (["bootstraps=3"], "Did you mean 'bootstrap'"),
        (["units.K=3"], "units.K: no column is axis K"),
        (["fixed.E=-1"], "fixed.E: input should be greater than or equal to 0"),
        (["fix.E=1"], "fix.E: unknown key. Known: data,"),
        (["units.N=-1"], "units.N: input should be greater than 0"),
        (["law=joint"], "read the axis M; name its column"),
        (["delta=-1"], "delta"),
        (["holdout"], "key=value"),
    ],
)
def test_a_mistake_is_answered_before_any_fit(csv, capsys, words, message):
    given = [w for w in WORDS if w.split("=")[0] not in {x.split("=")[0] for x in words}]
    assert cli.main(["fit", *given, *words]) == 2
    assert message in capsys.readouterr().err
    assert not (csv / "fits").exists()


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({"eval/perplexity": 9.0}, ["y=eval/perplexity"], "y: 'eval/perplexity' is a perplexity"),
        ({"eval/accuracy": 0.5}, ["y=eval/accuracy"], "is a score and not a loss"),
        ({"params": "7B"}, [], "N: column 'params' holds what is not a number"),
    ],
)
def test_what_is_no_loss_or_no_number_is_refused_by_its_column(place, capsys, changes, words, message):
    table(**changes).to_csv("runs.csv", index=False)
    given = [w for w in WORDS if not (words and w.startswith("y="))]
    assert cli.main(["fit", *given, *words, "law=chinchilla", "bootstrap=0"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("column", ["N_definition", "params_definition"])
def test_rows_of_a_file_that_mean_different_things_by_an_axis_are_refused(place, capsys, column):
    table(**{column: ["with embeddings"] * 18 + ["without"] * 18}).to_csv("runs.csv", index=False)
    assert cli.main(["fit", *WORDS, "law=chinchilla", "bootstrap=0"]) == 1
    assert "do not mean the same by N: 'with embeddings' in rows 0, 1" in capsys.readouterr().err


def test_a_known_floor_is_held_in_every_form_that_has_one(csv):
    words = [*WORDS, "law=chinchilla,chinchilla_tied", "bootstrap=50", "acceptable=1e9", "fixed.E=1.7"]
    assert cli.main(["fit", *words]) == 0
    law = StudyFits.load(csv / "fits" / "runs").fits[0].law
    assert [one.params["E"] for one in (law, *law.alternatives)] == [1.7, 1.7]
    assert law.intervals["E"] is None


def test_the_card_claims_no_definition_that_nobody_gave(place):
    table(tokens_definition="all tokens, repeats too").to_csv("runs.csv", index=False)
    assert cli.main(["fit", *WORDS, "law=chinchilla,chinchilla_tied", "bootstrap=0", "acceptable=1e9"]) == 0
    law = StudyFits.load(place / "fits" / "runs").fits[0].law
    for one in (law, *law.alternatives):
        assert one.definitions["N"] == "column params of runs.csv times 1e+06, not said"
        assert one.definitions["D"] == "all tokens, repeats too"


def test_a_column_with_a_slash_makes_no_folder(place):
    table().rename(columns={"final": "val/loss"}).to_csv("runs.csv", index=False)
    words = [w for w in WORDS if not w.startswith("y=")]
    assert cli.main(["fit", *words, "y=val/loss", "law=chinchilla", "bootstrap=0"]) == 0
    assert (place / "fits" / "runs" / "fits" / "val_loss_in_N_and_D.json").is_file()


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="no file"):
        read_table(str(tmp_path / "x.csv"))
    with pytest.raises(DataError, match=r"\.csv, \.tsv, \.parquet"):
        read_table("x.xlsx")
    (tmp_path / "x.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="cannot be read"):
        read_table(str(tmp_path / "x.parquet"))


@pytest.mark.parametrize(
    ("name", "sep"), [("x.csv", ","), ("x.csv", ";"), ("x.csv", "\t"), ("x.tsv", "\t"), ("x.tsv.gz", "\t")]
)
def test_values_are_separated_as_the_first_line_is(tmp_path, name, sep):
    runs = table().rename(columns={"final": "loss, in nats"})
    runs.to_csv(tmp_path / name, index=False, sep=sep)
    pd.testing.assert_frame_equal(read_table(str(tmp_path / name)), runs)
    runs[["params"]].to_csv(tmp_path / name, index=False, sep=sep)
    pd.testing.assert_frame_equal(read_table(str(tmp_path / name)), runs[["params"]])


def test_a_chart_of_steps_is_no_table_of_runs(tmp_path):
    curves = {f"{run} - loss{end}": [3.0, 2.0] for run in ("a", "b") for end in ("", "__MIN", "__MAX")}
    pd.DataFrame({"Step": [1, 2], **curves}).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(DataError, match=r"a W&B chart \('a - loss' with.*Export the project's table of runs"):
        read_table(str(tmp_path / "x.csv"))


def test_words_are_read_as_they_stand():
    made = FileFit.of_words(["data=x.csv", "law=[chinchilla,kaplan]", "N=p", "units.N=1e6", "loss=ls_log"])
    assert made.law == ("chinchilla", "kaplan")
    assert (made.columns, made.units, made.loss) == ({"N": "p"}, {"N": 1e6}, "ls_log")
    with pytest.raises(ConfigError, match="data"):
        FileFit.of_words(["N=p"])


def test_bands_of_equal_loss_that_hide_each_other_are_not_drawn():
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e8, 1e10, 4), np.geomspace(1e9, 1e11, 4)))
    law = fit("chinchilla", {"N": n, "D": d, "loss": 1.7 + 400 * n**-0.34 + 410 * d**-0.28}, loss="ls_log")
    for spread, drawn in ((0.05, True), (0.6, False)):  # of the floor over replicates; lines are some 0.3 nats apart
        draws = np.tile([law.params[p] for p in law.form.parameters], (101, 1))
        draws[:, law.form.parameters.index("E")] += np.linspace(-spread, spread, 101)
        shaken = replace(law, draws_Rp=draws, resampling={**law.resampling, "draws": 101})
        figure = next(f for f in figures_of_law(StudyFit("law", ("N", "D"), {}, shaken)) if f.name == "contours")
        assert ("area" in {layer["mark"]["type"] for layer in figure.spec["layer"]}) is drawn
        assert ("not drawn" in figure.caption) is not drawn
