import json

import numpy as np
import pytest

from rag_exp.core.errors import LawError
from rag_exp.laws import LawFit, fit

N, M = np.repeat(np.geomspace(2e5, 4e6, 4), 5), np.tile(np.geomspace(1000, 32_000, 5), 4)
LOSS = (9 + 150 * N**-0.35 - 0.5 * np.log(M)) * np.exp(np.random.default_rng(0).normal(0, 0.01, 20))


@pytest.fixture(scope="module", params=["joint_log_gain", "joint_gain"])
def law(request):
    return fit(request.param, {"N": N, "M": M, "loss": LOSS}, bootstrap=100, bootstrap_kind="wild", delta=0.02)


def test_a_law_printed_is_a_page_and_not_its_rows():
    N = np.geomspace(1e5, 1e8, 12)
    data = {"N": N, "nats": (2 + 150 * N**-0.35) * np.exp(np.random.default_rng(0).normal(0, 0.01, 12))}
    law = fit("saturating", data, y="nats", fixed={"E": 2.0}, bootstrap=40, bootstrap_kind="wild", loss="ls_log")
    law.alternatives, law.warnings = [fit("power", data, y="nats")], ["a warning"]
    law.across_losses = {loss: {"shapes": {"alpha": a}} for loss, a in (("ls_log", 0.35), ("lad_log", 0.4))}
    head, floor, _, alpha, other, note = repr(law).splitlines()
    assert head == "nats = E + A N^-alpha   (saturating(N), ls_log, 12 rows)"
    assert floor.split() == ["E", "2", "fixed"]
    assert alpha == f"  alpha    {law.params['alpha']:<10.4g} 95% [{law.intervals['alpha'][0]:.4g}, " + (
        f"{law.intervals['alpha'][1]:.4g}]   across losses 0.35 to 0.4"
    )
    assert (other, note) == ("  acceptable too: A N^-alpha", "  note: a warning")


def test_the_card_is_json_that_gives_the_same_predictions_and_bands(law):
    again = LawFit.from_json(law.to_json())
    points = {"N": [1e6, 1e7], "M": 64_000}
    np.testing.assert_array_equal(again.predict(points), law.predict(points))
    for a, b in zip(again.predict(points, interval=0.9), law.predict(points, interval=0.9), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.to_json() == law.to_json()
    assert again.warnings == law.warnings


def test_the_card_says_what_a_reader_needs(law):
    card = json.loads(law.to_json())
    assert card["equation"] == law.form.equation
    assert card["definitions"]["N"] == "generator parameters, embeddings left out"
    assert card["definitions"]["M"] == "passages in the index"
    assert card["ranges"]["M"] == [1000, 32000]
    assert card["resampling"]["kind"] == "wild"
    assert card["resampling"]["seed"] == 0
    assert len(card["rows"]["y"]) == 20
    assert card["rows"]["left_out"] == []
    assert set(card["versions"]) == {"python", "numpy", "rag_exp"}
    assert card["certificate"]["gradient"] <= card["certificate"]["goal"]
    assert (card["loss"], card["delta"], card["level"]) == ("huber_log", 0.02, 0.95)
    assert len(card["draws"]["E"]) == 100


def test_a_long_card_thins_its_draws_and_keeps_the_intervals_of_all():
    law = fit("joint_log_gain", {"N": N, "M": M, "loss": LOSS}, bootstrap=1500, bootstrap_kind="wild", loss="ls_log")
    again = LawFit.from_json(law.to_json())
    assert len(again.draws_Rp) == 1000
    assert again.intervals == law.intervals


def test_predictions_broadcast_and_widen_beyond_the_data(law):
    far = law.predict({"N": [1e6, 4e6, 4e7, 4e8], "M": [32_000.0]}, interval=0.95)
    np.testing.assert_allclose(far.beyond_n, [0, 0, 1, 2], atol=1e-9)
    width = far.high_n - far.low_n
    assert width[3] > width[2] > width[1]
    assert (far.low_n <= far.value_n).all()
    assert (far.value_n <= far.high_n).all()


def test_predictions_need_their_axes_and_intervals_their_draws(law):
    with pytest.raises(LawError, match="needs 'M'"):
        law.predict({"N": [1e6]})
    with pytest.raises(LawError, match="positive values of N"):
        law.predict({"N": [0.0], "M": [1.0]})
    bare = fit("joint_gain", {"N": N, "M": M, "loss": LOSS}, loss="ls_log")
    with pytest.raises(LawError, match="this fit has none"):
        bare.predict({"N": [1e6], "M": [1e4]}, interval=0.9)
    with pytest.raises(LawError, match="replicates"):
        _ = bare.draws
    assert bare.intervals == dict.fromkeys(bare.form.parameters)


def test_what_is_not_a_card_is_refused():
    with pytest.raises(LawError, match="Not a fit card"):
        LawFit.from_json("{")
    with pytest.raises(LawError, match="schema is 99"):
        LawFit.from_json('{"schema": 99}')


def test_residuals_are_those_of_the_objective(law):
    r = np.abs(law.residuals())
    huber = np.where(r <= 0.02, r**2 / 2, 0.02 * (r - 0.01)).sum()
    assert huber == pytest.approx(law.objective, rel=1e-9)


def test_the_distance_from_the_data_is_told_per_axis(law):
    found = law.distance({"N": [2e4, 1e6, 4e7], "M": [32_000.0, 100.0, 3.2e6]})
    np.testing.assert_allclose(found["N"], [-1, 0, 1], atol=1e-9)
    np.testing.assert_allclose(found["M"], [0, -1, 2], atol=1e-9)


def test_an_interval_spans_the_acceptable_forms_on_the_card_too(law):
    from dataclasses import replace

    other = fit("joint", {"N": N, "M": M, "loss": LOSS}, bootstrap=100, bootstrap_kind="wild", delta=0.02)
    both = replace(law, alternatives=[other])
    points = {"N": [1e6, 4e7], "M": [32_000.0, 320_000.0]}
    one, two, spanned = (x.predict(points, interval=0.9) for x in (law, other, both))
    np.testing.assert_array_equal(spanned.value_n, one.value_n)
    np.testing.assert_array_equal(spanned.low_n, np.minimum(one.low_n, two.low_n))
    np.testing.assert_array_equal(spanned.high_n, np.maximum(one.high_n, two.high_n))
    np.testing.assert_array_equal(spanned.forms_high_n, np.maximum(one.value_n, two.value_n))
    again = LawFit.from_json(both.to_json())
    np.testing.assert_array_equal(again.predict(points, interval=0.9), spanned)
    bare = replace(law, alternatives=[fit("joint", {"N": N, "M": M, "loss": LOSS}, delta=0.02)])
    assert (bare.predict(points, interval=0.9).low_n <= np.minimum(one.low_n, two.value_n)).all()
