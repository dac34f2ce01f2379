import numpy as np
import pytest

from rag_exp.laws import LawFit, across_losses, fit
from rag_exp.laws.sensitivity import moves

N = np.geomspace(1e5, 1e8, 12)
Y = (2 + 150 * N**-0.35) * np.exp(np.random.default_rng(0).normal(0, 0.01, 12))


def test_every_loss_is_the_fit_under_it():
    law = fit("saturating", {"N": N, "loss": Y}, delta=0.02)
    found = across_losses(law)
    assert list(found) == ["huber_log", "lad_log", "ls_log", "ls_raw"]
    for loss, at in found.items():
        alone = fit("saturating", {"N": N, "loss": Y}, loss=loss, delta=0.02)
        assert at["shapes"]["alpha"] == pytest.approx(alone.params["alpha"], rel=1e-9), loss
        assert at["floor"] == pytest.approx(alone.params["E"], rel=1e-9), loss
        assert at["reason"] is None
    low, high = moves(found)["alpha"]
    assert low == min(at["shapes"]["alpha"] for at in found.values())
    assert high - low > 1e-3


def test_on_exact_data_no_loss_moves_an_exponent():
    found = across_losses(fit("saturating", {"N": N, "loss": 2 + 150 * N**-0.35}))
    low, high = moves(found)["alpha"]
    assert [low, high] == pytest.approx([0.35, 0.35], rel=1e-6)


def test_an_outlier_moves_squares_and_not_absolute_residuals():
    wild = Y.copy()
    wild[6] *= 1.3
    clean, found = fit("saturating", {"N": N, "loss": Y}), across_losses(fit("saturating", {"N": N, "loss": wild}))
    off = {loss: abs(at["shapes"]["alpha"] - clean.params["alpha"]) for loss, at in found.items()}
    assert off["lad_log"] < 0.2 * off["ls_log"]


def test_what_is_fixed_does_not_move_and_what_failed_has_its_reason():
    law = fit("saturating", {"N": N, "loss": Y}, fixed={"E": 2.0}, delta=0.02)
    assert all(at["floor"] == 2.0 for at in across_losses(law).values())
    # Squares of plain losses take a loss below zero, logarithms do not.
    below = fit("saturating", {"N": N, "loss": Y - Y.min() - 0.1}, loss="ls_raw")
    found = across_losses(below)
    assert found["ls_raw"]["reason"] is None
    assert found["ls_log"]["shapes"] is None
    assert "logarithms" in found["ls_log"]["reason"]
    assert moves(found) == {}


def test_the_card_carries_them():
    law = fit("saturating", {"N": N, "loss": Y}, delta=0.02)
    law.across_losses = across_losses(law)
    assert LawFit.from_json(law.to_json()).across_losses == law.across_losses
