import dataclasses

import numpy as np
import pytest

from rag_exp.analysis.study_fits import StudyFits
from rag_exp.analysis.study_fitting import fit_table
from rag_exp.analysis.tables import records_to_table
from rag_exp.analysis.words import amount, effect_sentence, equation_with_numbers, exchange_sentence, paragraphs
from rag_exp.laws import LawOptions, fit
from rag_exp.laws.effects import Effect, Exchange


def an_effect(fall=3.41, low=3.24, high=3.57, axis="N"):
    return Effect(axis, 2e5, 2e6, {"M": 32_380.0} if axis == "N" else {"N": 2e6}, fall, low, high)


def test_an_effect_in_words():
    assert effect_sentence(an_effect(), "nll") == (
        "Ten times the parameters (200k to 2M) lower the loss by 3.41 [3.24, 3.57] nats per answer at 32,380 passages."
    )
    assert "lowers the loss by 0.5 nats per answer" in effect_sentence(an_effect(0.5, None, None, "M"), "nll")


def test_a_loss_that_rises_is_said_to_rise():
    assert effect_sentence(an_effect(-0.4, -0.5, -0.3, "M"), "nll") == (
        "Ten times the corpus (200k to 2M) raises the loss by 0.40 [0.30, 0.50] nats per answer "
        "at 2,000,000 parameters."
    )


def test_an_interval_that_includes_zero_is_said_to():
    text = effect_sentence(an_effect(0.1, -0.2, 0.4, "M"), "nll")
    assert "changes the loss by -0.10 [-0.40, 0.20]" in text
    assert "includes zero, so these runs do not show which way" in text


def test_exchange_rates_in_words():
    of = an_effect(axis="M")
    base = Exchange(of, "N", 5e5, 3.2, 2.5, 4.1, True, 0.0)
    assert (
        exchange_sentence(base)
        == "Ten times the corpus is worth 3.2 times the parameters [2.5, 4.1], from 500k parameters."
    )
    outside = dataclasses.replace(base, high=None, within=False)
    assert exchange_sentence(outside).endswith("[2.5, no bound], from 500k parameters, which leaves what was measured.")
    none = dataclasses.replace(base, factor=None)
    assert exchange_sentence(none).startswith(
        "No growth of the parameters alone, up to a millionfold, would bring as much"
    )
    rising = dataclasses.replace(base, effect=an_effect(-0.4, -0.5, -0.3, "M"))
    assert (
        exchange_sentence(rising)
        == "No exchange rate follows, since ten times the corpus does not lower the loss for certain."
    )


def test_amounts_carry_as_many_digits_as_their_interval():
    assert amount(3.41234, 3.24, 3.57) == "3.41 [3.24, 3.57]"
    assert amount(123.4, 100.0, 150.0) == "123 [100, 150]"
    assert amount(0.012345, 0.012, 0.0131) == "0.0123 [0.0120, 0.0131]"
    assert amount(3.41234) == "3.41"


def test_an_equation_with_its_numbers():
    N = np.geomspace(1e5, 1e7, 6)
    law = fit("saturating(N)", {"N": N, "loss": 2 + 100 * N**-0.5})
    assert equation_with_numbers(law) == "loss = 2 + 100 N^-0.5"
    M = np.geomspace(1e3, 1e5, 6)
    assert equation_with_numbers(fit("log_gain", {"M": M, "loss": 9 - 0.5 * np.log(M)})) == "loss = 9 - 0.5 ln M"
    assert equation_with_numbers(fit("power(N)", {"N": N, "loss": 50 * N**-0.1})) == "loss = 50 N^-0.1"


def test_the_reading_holds_its_numbers_and_its_hedges(quick):
    text = "\n".join(paragraphs(quick.table, quick.fits))
    assert (
        "40 of 40 planned runs are finished. Each asks the same 400 questions; the loss is in nats per answer." in text
    )
    assert "E + A N^-alpha - G M^gamma" in text
    assert "Ten times the parameters (197k to 1.97M) lower the loss by 3." in text
    assert "Ten times the corpus (3.24k to 32.4k) lowers the loss by " in text
    assert "95% intervals over 80 refits to the runs' residuals" in text
    assert "Fitted without the largest models it misses them by" in text
    assert "repeating the nearest level would by" in text
    assert "not tested beyond 1,966,080 parameters and 32,380 passages" in text
    assert "cannot hold far beyond the data" in text
    assert "At 19.7M parameters and 32.4k passages (1 decade beyond the largest N): " in text
    assert "Across 4 losses of the residuals alpha goes from 0." in text
    assert "one seed" in text
    assert "of what the gold passage brings" in text
    assert "The ivf index in place of exact search changes the loss by +" in text


def test_without_a_joint_law_the_reading_says_why_and_what_is_known(synthetic):
    world = synthetic.World()
    runs = [synthetic.record(world, s, c) for s in ("s0", "s1", "s2", "s3") for c in ("1000", "null")]
    table = records_to_table(runs, synthetic.plan_of(runs))
    text = "\n".join(paragraphs(table, fit_table(table, LawOptions(bootstrap=60))))
    assert "no setting has three model sizes and three corpus sizes" in text
    assert "Ten times the parameters (197k to 1.97M) lower the loss by" in text
    assert "M = 32,380" in text


def test_a_joint_law_that_failed_is_explained(quick):
    joint = dataclasses.replace(quick.fits.joint(), law=None, reason="the losses are constant")
    fits = StudyFits("nll", "dense", [joint], [], "x")
    text = "\n".join(paragraphs(quick.table, fits))
    assert "No law in both axes could be fitted: the losses are constant" in text
    assert "Observed, without a law: from 131k to 1.97M parameters the loss goes from 13.3 to 9.1" in text


def test_failed_and_missing_runs_are_counted(synthetic):
    world = synthetic.World()
    runs = [synthetic.record(world, s, status="failed" if s == "s1" else "finished") for s in ("s0", "s1", "s2")]
    table = records_to_table(runs[:2], synthetic.plan_of(runs))
    text = "\n".join(paragraphs(table, fit_table(table)))
    assert "1 of 3 planned runs is finished; 1 failed; 1 left no record." in text


@pytest.mark.parametrize("kind", ["closed_book", "oracle"])
def test_a_study_of_one_arm_needs_no_words_about_laws_it_cannot_have(synthetic, kind):
    table = records_to_table([synthetic.record(synthetic.World(), arm=kind)])
    text = "\n".join(paragraphs(table, fit_table(table)))
    assert "1 of 1 planned run is finished" in text
    assert "No finished run of arm dense" in text


def test_a_law_with_a_term_in_both_axes_does_not_claim_the_same_worth_everywhere():
    import numpy as np
    import pandas as pd

    from rag_exp.analysis.words import _worth
    from rag_exp.laws import fit

    N, M = (a.ravel() for a in np.meshgrid(np.geomspace(1e4, 1e6, 5), np.geomspace(1e3, 1e5, 5)))
    loss = 15 - 4e-5 * M + 2e-3 * M * N**-0.5
    data = pd.DataFrame({"N": N, "M": M, "loss": loss})
    mixed = " ".join(_worth(fit("joint_coverage", data, bootstrap=0), "nll", {}))
    added = " ".join(_worth(fit("joint_gain", data, bootstrap=0), "nll", {}))
    assert "depends on the model" in mixed
    assert "same worth" not in mixed
    assert "same worth" in added
