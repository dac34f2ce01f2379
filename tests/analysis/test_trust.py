import numpy as np

from rag_exp.analysis.trust import coverage_sentence, loss_sentence
from rag_exp.laws import across_losses, fit

N, M = np.repeat(np.geomspace(2e5, 4e6, 4), 5), np.tile(np.geomspace(1000, 32_000, 5), 4)
DATA = {"N": N, "M": M, "loss": 14 + 150 * N**-0.35 - 3e-4 * M}


def test_the_exponents_across_losses_in_words():
    clean = fit("joint_gain", DATA, delta=0.02)
    assert loss_sentence(clean) is None
    clean.across_losses = across_losses(clean)
    assert loss_sentence(clean) == (
        "Across 4 losses of the residuals alpha goes from 0.35 to 0.35, gamma goes from 1 to 1."
    )
    for name in ("lad_log", "ls_log", "ls_raw"):
        clean.across_losses[name] = {"shapes": None, "floor": None, "reason": "no"}
    assert "is not known (lad_log could not be fitted)" in loss_sentence(clean)


def test_the_coverage_in_words():
    law = fit("joint_gain", DATA, delta=0.02)
    assert coverage_sentence(law) is None
    law.coverage = {"studies": 200, "level": 0.95, "shares": {"alpha": 0.935, "gamma": 0.9}, "error": 0.0154}
    assert coverage_sentence(law) == (
        "On 200 simulated studies of this design the 95% intervals held alpha in 94%, gamma in 90% (give or take 1.5%)."
    )
