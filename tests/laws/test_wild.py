"""What residuals say of errors, and that intervals of small designs hold the truth as often as they say."""

import numpy as np
import pytest

from rag_exp.core.errors import LawError
from rag_exp.laws import fit
from rag_exp.laws.coverage import covered, simulated, solved
from rag_exp.laws.evaluation import evaluate
from rag_exp.laws.fitting import prepare
from rag_exp.laws.replication import Resampling
from rag_exp.laws.wild import Errors, smoother

N4, D5 = np.repeat([1e6, 1e7, 1e8, 1e9], 5), np.tile([1e8, 3e8, 1e9, 3e9, 1e10], 4)
CHINCHILLA = {"E": 1.7, "A": 400.0, "B": 1000.0, "alpha": 0.34, "beta": 0.33}
N5, M5 = np.repeat(np.geomspace(1e5, 3e6, 5), 5), np.tile(np.geomspace(1e3, 3e4, 5), 5)
GAIN = {"E": 8.0, "A": 300.0, "G": 0.002, "alpha": 0.5, "gamma": 0.7}


def problem_of(form, axes, truth, **options):
    """The form on its own exact losses, and the inner parameters that these come from."""
    exact = evaluate(prepare(form, {**axes, "loss": np.arange(1.0, 1.0 + len(axes["N"]))}).form, axes, _row(truth))[0]
    problem = prepare(form, {**axes, "loss": exact}, **options)
    return problem, problem.optimum()[0].theta_Rp[0]


def _row(truth):
    return np.array([list(truth.values())])


def linear(x, residual, labels=None):
    """Errors of a straight line's residuals."""
    units = np.arange(len(x)) if labels is None else labels
    basis = np.linalg.qr(np.stack([np.ones(len(x)), x], axis=1))[0]
    return Errors(np.arange(len(x)), np.ones(len(x)), residual, residual, basis, units, labels is not None)


@pytest.mark.parametrize("clustered", [False, True])
def test_percentiles_are_students_intervals_of_a_linear_law(clustered):
    """A slope that five clusters tell alone, or that eight rows tell: of 600 studies 95% hold it, give or take 0.9%."""
    x = np.repeat(np.arange(5.0), 4) if clustered else np.array([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 3.0])
    labels = np.repeat(np.arange(5), 4) if clustered else None
    rng = np.random.default_rng(0)
    hat = linear(x, x, labels).basis
    slope = np.linalg.pinv(np.stack([np.ones(len(x)), x], axis=1))[1]
    held = 0
    for s in range(600):
        error = rng.normal(0, 1, len(x)) + (rng.normal(0, 1, 5)[labels] if clustered else 0.0)
        draws = linear(x, error - hat @ (hat.T @ error), labels).draw(300, s, len(x)) @ slope
        low, high = np.percentile(draws, [2.5, 97.5])
        held += low <= -(slope @ error) <= high
    assert 0.925 <= held / 600 <= 0.98, held


def test_errors_get_the_size_back_that_the_fit_took():
    """A row that leads the line leaves no residual; its errors are as large as those of the others."""
    x = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    rng = np.random.default_rng(0)
    variance = np.zeros(12)
    for s in range(200):
        error = rng.normal(0, 1, 12)
        hat = linear(x, x).basis
        found = linear(x, error - hat @ (hat.T @ error))
        variance += found.draw(200, s, 12).var(0) / 200
    np.testing.assert_allclose(variance, 10 / 8, rtol=0.25)  # Student's t of 10 degrees of freedom


def test_errors_have_mean_zero_and_one_sign_within_a_cluster_that_the_fit_did_not_bend():
    labels = np.repeat(np.arange(6), 3)
    residual = np.repeat([1.0, -1.0, 1.0, -1.0, 1.0, -1.0], 3)
    bare = linear(np.arange(18.0), residual, labels)
    unbent = Errors(bare.rows, bare.root_n, residual, residual, np.zeros((18, 0)), labels, True)
    drawn = unbent.draw(2000, 0, 18).reshape(2000, 6, 3)
    np.testing.assert_allclose(drawn, drawn[:, :, :1] * np.ones(3), rtol=1e-9)
    assert abs(np.sign(drawn).mean()) < 0.03


@pytest.mark.parametrize("labels", [None, np.repeat(np.arange(4), 5)])
def test_residuals_and_what_they_lack_make_the_errors_covariance_within_clusters(labels):
    """E[r r'] = (I - H) V (I - H), and V less that is what is added, for weighted rows too."""
    rng = np.random.default_rng(0)
    units, root = np.arange(20) if labels is None else labels, rng.uniform(0.5, 2, 20)
    basis = np.linalg.qr(rng.normal(size=(20, 3)))[0]
    errors = Errors(np.arange(20), root, *rng.normal(size=(2, 20)), basis, units, labels is not None)
    means = np.eye(units.max() + 1)[units] * root[:, None]
    means /= np.linalg.norm(means, axis=0)
    between, within = errors.parts()
    common = errors.common(errors.bounded_n)
    np.testing.assert_allclose(common, means @ (means.T @ errors.bounded_n))
    outer = between.mean_square(common @ common)
    inner = within.mean_square(((errors.bounded_n - common) ** 2).sum())
    V = outer * means @ means.T + inner * (np.eye(20) - means @ means.T)
    left = np.eye(20) - basis @ basis.T
    lacking = V - left @ V @ left
    drawn = errors._taken(np.random.default_rng(1), 40_000)
    for unit in range(units.max() + 1):
        mine = np.flatnonzero(units == unit)
        size, vectors = np.linalg.eigh(lacking[np.ix_(mine, mine)])
        whole = (vectors * np.maximum(size, 0)) @ vectors.T
        np.testing.assert_allclose(drawn[:, mine].T @ drawn[:, mine] / 40_000, whole, atol=0.03 * V.max())


def test_parameters_are_counted_where_they_are_told():
    """E, A and alpha are told between the five sizes, G and gamma within them."""
    clustered, theta = problem_of("joint_gain", {"N": N5, "M": M5}, GAIN, cluster=N5.tolist())
    between, within = Errors.of(clustered, theta).parts()
    assert (between.parameters, between.spare) == pytest.approx((3, 2), abs=0.1)
    assert (within.parameters, within.spare) == pytest.approx((2, 18), abs=0.1)
    rows, theta = problem_of("joint_gain", {"N": N5, "M": M5}, GAIN)
    assert Errors.of(rows, theta).spare() == {"rows": {"parameters": 5.0, "spare": 20.0}}


def test_residuals_of_a_fit_through_the_rows_are_those_of_a_smoother_fit():
    rng = np.random.default_rng(0)
    true = evaluate(prepare("chinchilla", {"N": N4, "D": D5, "loss": D5}).form, {"N": N4, "D": D5}, _row(CHINCHILLA))[0]
    noise = rng.normal(0, 0.01, 20)
    problem = prepare("chinchilla", {"N": N4, "D": D5, "loss": true * np.exp(noise)})
    theta = problem.optimum()[0].theta_Rp[0]
    rough = np.abs(problem.objective.residuals(theta[None])[0])
    assert (rough < 1.1e-3).sum() >= 5
    found = Errors.of(problem, theta)
    assert (np.abs(found.residual_n) < 1e-3).sum() <= 3
    assert found.bounded_n.std() == pytest.approx(0.01 * np.sqrt(15 / 20), rel=0.3)
    # An outlier is an error that its row may have, and nothing of the size of the others'.
    noise[7] += 0.5
    problem = prepare("chinchilla", {"N": N4, "D": D5, "loss": true * np.exp(noise)})
    theta, threshold = (lambda t: (t, smoother(problem, t)[1]))(problem.optimum()[0].theta_Rp[0])
    assert threshold < 0.06
    size = Errors.of(problem, theta).draw(400, 0, 20).std(0)
    assert size[7] > 0.3
    assert np.median(np.delete(size, 7)) < 0.03


def test_nothing_is_given_where_no_error_can_be_told():
    runs = {"N": [1e6, 1e7, 1e8], "loss": [3.0, 2.5, 2.2]}
    with pytest.raises(LawError, match=r"rows are as many as the parameters that they alone tell \(3\).*with fixed"):
        fit("saturating", runs, loss="ls_log", bootstrap=60, bootstrap_kind="wild")
    noisy = np.array(runs["loss"]) * np.exp(np.random.default_rng(0).normal(0, 0.01, (60, 3)))
    hierarchy = {"loss": "ls_log", "bootstrap": 60, "bootstrap_kind": "hierarchical", "cluster": ["a", "b", "c"]}
    with pytest.raises(LawError, match="leaves the errors' size unknown"):
        fit("saturating", runs, **hierarchy)
    questions = np.array(runs["loss"]) * np.random.default_rng(0).choice([0.9, 1.1], (30, 1))
    asked = fit("saturating", {**runs, "loss": questions.mean(0)}, **hierarchy, questions=questions)
    assert any("only the noise of questions and seeds" in w for w in asked.warnings)
    law = fit("saturating", runs, loss="ls_log", bootstrap_kind="wild", replicates=noisy)
    assert any("only the noise of the given replicates" in w for w in law.warnings)
    some = {k: v[N5 > 1.1e5][:15] for k, v in {"N": N5, "M": M5}.items()}
    loss = 8 + 300 * some["N"] ** -0.5 - 0.002 * some["M"] ** 0.7
    loss *= np.exp(np.random.default_rng(1).normal(0, 0.003, 15))
    with pytest.raises(LawError, match="clusters are as many as the parameters"):
        fit("joint_gain", {**some, "loss": loss}, bootstrap=60, bootstrap_kind="wild", cluster=some["N"].tolist())


def test_a_size_known_from_two_clusters_is_warned_of():
    loss = (8 + 300 * N5**-0.5 - 0.002 * M5**0.7) * np.exp(np.random.default_rng(1).normal(0, 0.003, 25))
    options = {"bootstrap": 60, "bootstrap_kind": "wild", "delta": 0.02}
    law = fit("joint_gain", {"N": N5, "M": M5, "loss": loss}, **options, cluster=N5.tolist())
    assert any("known from 2.0 clusters beside the 3 parameters" in w for w in law.warnings)
    assert law.resampling["spare"]["clusters"]["spare"] == pytest.approx(2, abs=0.1)
    assert not any("known from" in w for w in fit("joint_gain", {"N": N5, "M": M5, "loss": loss}, **options).warnings)


@pytest.mark.parametrize(
    ("design", "noise", "options"),
    [
        (("chinchilla", {"N": N4, "D": D5}, CHINCHILLA), (0.0, 0.01), {}),
        (("chinchilla", {"N": N4, "D": D5}, CHINCHILLA), (0.0, 0.01), {"bootstrap_kind": "case"}),
        (("chinchilla", {"N": N4, "D": D5}, CHINCHILLA), (0.005, 0.01), {"loss": "ls_log", "cluster": N4.tolist()}),
        (("joint_gain", {"N": N5, "M": M5}, GAIN), (0.003, 0.003), {"delta": 0.02, "cluster": N5.tolist()}),
    ],
    ids=["20 rows, Huber 1e-3", "the same, rows drawn", "4 clusters", "5 checkpoints, Huber 0.02"],
)
def test_intervals_of_small_designs_hold_the_truth(design, noise, options):
    """Of 80 intervals of 95% fewer than 69 hold the truth in 0.1% of cases; residuals as they are gave 60 to 68."""
    kind = {"bootstrap_kind": "wild"} | options
    problem, theta = problem_of(*design, **{k: v for k, v in options.items() if k != "bootstrap_kind"})
    y = simulated(problem, theta, noise, 80, 1)
    ends = solved(problem, y, theta[None])
    how = Resampling(kind["bootstrap_kind"], 100, 0, unconverged="leave_out")
    shares = covered(problem, ends, y, how, 0.95, problem.design.to_papers(theta[None])[0])
    assert (shares >= 69 / 80).all(), shares
