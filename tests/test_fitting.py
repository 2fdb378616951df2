"""The front door: what comes back, in double precision, and nothing else changed."""

import dataclasses
import json
import threading

import dense
import jax
import numpy as np
import optax
import pandas as pd
import pyarrow as pa
import pytest
from designs import SIZES, labels, simulate
from slow import slow

import jaxre
from jaxre import packed
from jaxre.observations import Observations

METHODS = ("reml", "ml", "anova")
methods = pytest.mark.parametrize("method", METHODS)
RAIL = [
    55,
    53,
    54,
    26,
    37,
    32,
    78,
    91,
    85,
    92,
    100,
    96,
    49,
    51,
    50,
    80,
    85,
    83,
]  # Pinheiro and Bates (2000), section 1.1

KINDS = {
    **dict.fromkeys(["method"], str),
    **dict.fromkeys(["between", "within", "between_untruncated", "ratio", "icc", "log_likelihood", "gap"], float),
    **dict.fromkeys(["beta", "beta_se", "beta_cov", "optima_ratio", "groups", "sizes", "blup", "blup_se"], np.ndarray),
    **dict.fromkeys(["optima", "steps", "n", "dropped"], int),
    "coefficients": tuple,
    "slots": jaxre.GroupMoments,
    "observations": Observations,
    "status": jaxre.Status,
    "certified": bool,
}


@methods
@pytest.mark.parametrize("p", [1, 2])
def test_fields(method, p):
    """Python numbers and NumPy arrays in double precision, of the shapes that the documentation gives."""
    y, groups, x = simulate(1, SIZES["unequal"], p=p)
    fit = jaxre.fit(y, groups, x, method=method)
    assert {field.name: type(getattr(fit, field.name)) for field in dataclasses.fields(fit)} == KINDS
    shapes = {"beta": (p,), "beta_se": (p,), "beta_cov": (p, p), "blup": (6,), "blup_se": (6,), "optima_ratio": (1,)}
    for name, shape in shapes.items():
        assert (getattr(fit, name).shape, getattr(fit, name).dtype) == (shape, np.float64), name
    assert (fit.method, fit.n, fit.p, fit.dropped) == (method, len(y), p, 0)
    assert fit.sizes.tolist() == SIZES["unequal"]
    assert fit.groups.tolist() == list(range(6))
    assert fit.criterion == -2 * fit.log_likelihood
    # each of these is one operation on rounded numbers
    assert fit.ratio == pytest.approx(fit.between / fit.within, rel=1e-15)
    assert fit.icc == pytest.approx(fit.between / (fit.between + fit.within), rel=1e-15)
    assert fit.beta_se == pytest.approx(np.sqrt(np.diag(fit.beta_cov)), rel=1e-15)
    with pytest.raises(dataclasses.FrozenInstanceError):
        fit.between = 0.0


@pytest.mark.parametrize("enabled", [False, True])
def test_double_precision_whatever_jax_is_set_to(enabled):
    """Values that are equal in single precision; the exact answer by hand, within two roundings; the setting stays."""
    y = 2.0**20 + np.array([0.0, 2.0, 10.0, 12.0]) / 2.0**10
    with jax.enable_x64(enabled):
        fit = jaxre.fit(y, [0, 0, 1, 1])
        assert jax.config.jax_enable_x64 is enabled
        assert jax.numpy.ones(1).dtype == (np.float64 if enabled else np.float32)
    assert fit.within == pytest.approx(2 / 2.0**20, rel=1e-15)
    assert fit.between == pytest.approx(49 / 2.0**20, rel=1e-15)
    assert fit.beta[0] == 2.0**20 + 6 / 2.0**10


def test_missing_rows_are_left_out_and_counted():
    """In the outcome, in a covariate and in a label, one of them twice in a row."""
    y, groups, x = simulate(2, SIZES["unequal"], p=3)
    names = groups.astype(object)
    holed, holed_x = y.copy(), x.copy()
    holed[[3, 20]], holed_x[[3, 9], [0, 1]], names[18] = np.nan, np.nan, None
    keep = np.setdiff1d(np.arange(len(y)), [3, 9, 20, 18])
    fit, plain = jaxre.fit(holed, names, holed_x), jaxre.fit(y[keep], groups[keep], x[keep], missing="raise")
    assert (fit.n, fit.dropped, plain.n, plain.dropped) == (17, 4, 17, 0)
    assert fit.between == pytest.approx(plain.between, rel=1e-14)  # the same rows through another label path
    assert "17 observations in 6 groups of 2 to 3; 4 rows with missing values left out" in str(fit)


def test_negative_analysis_of_variance():
    """Both the truncated and the untruncated value, and the status says that the model does not suit the data."""
    fit = jaxre.fit([1.0, 5.0, 2.0, 4.0, 3.0, 3.0], list("aabbcc"), method="anova")
    assert (fit.between, fit.ratio, fit.icc) == (0.0, 0.0, 0.0)
    assert fit.between_untruncated == pytest.approx(-5 / 3, rel=1e-15)  # SSB = 0, SSW = 10: (0 - 2 * 10/3) / 4
    assert fit.within == pytest.approx(10 / 3, rel=1e-15)
    assert fit.beta[0] == 3
    assert fit.status is jaxre.Status.NEGATIVE
    assert "the model does not suit the data" in fit.status.message
    assert "the model does not suit the data" in str(fit)
    assert "before truncation at 0: -1.66667" in str(fit)
    assert fit.certified


@pytest.mark.parametrize(("seed", "p"), [(0, 2), (1, 3), (2, 3)])
def test_henderson_3(seed, p):
    """Against the residual projections of X and of [X Z], densely; one covariate is constant within groups. 1e-12:
    dense projections of 21 rows."""
    y, groups, x = simulate(seed, SIZES["unequal"], p=p)
    x[:, -1] = np.array([1.0, 4.0, -2.0, 0.5, 3.0, 2.0])[groups]
    within, between = dense.henderson_3(y, dense.design(len(y), x), groups)
    fit = jaxre.fit(y, groups, x, method="anova")
    assert fit.within == pytest.approx(within, rel=1e-12)
    assert fit.between_untruncated == pytest.approx(between, rel=1e-12)
    assert fit.between == max(fit.between_untruncated, 0)


@methods
def test_likelihood_effects_and_predictions(method):
    """log-likelihood, coefficients and predictions at the estimates, by dense algebra; the analysis of variance reports
    the full likelihood. 1e-11: dense inverses of 21 rows."""
    y, groups, x = simulate(4, SIZES["unequal"], ratio=2.0, p=2)
    fit, design = jaxre.fit(y, groups, x, method=method), dense.design(len(y), x)
    v = dense.covariance(fit.within, fit.between, groups)
    beta, beta_cov = dense.gls(y, design, v)
    effects, variances = dense.blup(y, design, groups, fit.within, fit.between)
    density = dense.restricted_log_likelihood if method == "reml" else dense.log_likelihood
    assert fit.log_likelihood == pytest.approx(density(y, design, v), rel=1e-11)
    assert fit.beta == pytest.approx(beta, rel=1e-11)
    assert fit.beta_cov == pytest.approx(beta_cov, rel=1e-11)
    assert fit.blup == pytest.approx(effects, rel=1e-11)
    assert fit.blup_se**2 == pytest.approx(variances, rel=1e-11)


def test_moments_are_those_of_the_groups_in_their_order():
    fit = jaxre.fit(RAIL, np.repeat([2, 5, 1, 6, 3, 4], 3))
    assert fit.moments.sizes.tolist() == fit.sizes.tolist()
    with jax.enable_x64(True):
        effects = jaxre.blup(fit.moments, fit.components).effect
    np.testing.assert_allclose(effects, fit.blup, rtol=1e-13)


@pytest.mark.parametrize("method", ["reml", slow("ml"), slow("anova")])
def test_inference_of_a_fit_is_that_of_the_pure_functions(method):
    y, groups, x = simulate(3, SIZES["unequal"], p=3)
    contrasts = np.eye(3)[1:]
    fit = jaxre.fit(y, groups, x, method=method)
    words = {"restricted": method != "ml", "information": "expected" if method == "anova" else "observed"}
    df = "kenward-roger" if method == "reml" else "satterthwaite"
    with jax.enable_x64(True):
        expected = (
            jaxre.coefficient_tests(fit.moments, fit.components, level=0.9, df=df, **words),
            jaxre.f_test(fit.moments),
            jaxre.exact_interval(fit.moments, 0.9),
            jaxre.contrast_test(fit.moments, fit.components, contrasts, df=df, **words),
            jaxre.information(fit.moments, fit.components, restricted=method != "ml"),
            jaxre.icc_measures(fit.moments, 0.9),
        )
    inference = fit.inference(0.9)
    found = (
        inference.coefficients,
        inference.f_test,
        inference.interval,
        fit.contrast_test(contrasts),
        fit.information(),
        fit.icc_measures(0.9),
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), found, expected)
    alone = fit.coefficient_tests(contrasts, level=0.9)
    np.testing.assert_allclose(alone.p_value, expected[0].p_value[1:], rtol=1e-10)
    assert fit.f_test().p_value == inference.f_test.p_value
    wald = fit.wald_interval("icc", 0.9)
    assert wald.low < fit.icc < wald.high
    if method != "anova":
        ratio = fit.likelihood_ratio_test(seed=1, draws=2000)
        with jax.enable_x64(True):
            again = jaxre.likelihood_ratio_test(fit.moments, jax.random.key(1), draws=2000, restricted=method == "reml")
        for name in ("statistic", "p_value"):
            assert float(getattr(ratio, name)) == float(getattr(again, name))
    assert fit.exact_interval(0.9).icc_low == inference.interval.icc_low


def test_wrong_use_of_inference():
    fit = jaxre.fit(RAIL, np.repeat([2, 5, 1, 6, 3, 4], 3), method="ml")
    for wrong, message in (
        (lambda: fit.summary(level=95), "level must lie between 0 and 1, such as 0.95, got 95"),
        (lambda: fit.summary(df="kenward-roger"), "are those of REML, got method='ml'"),
        (lambda: fit.coefficient_tests([[1, 2]]), r"contrasts must have shape \(q, 1\)"),
        (lambda: fit.coefficient_tests(df="wald"), "df must be one of 'satterthwaite', 'kenward-roger', got 'wald'"),
        (lambda: fit.contrast_test([[1], [1]]), "must be linearly independent"),
        (lambda: fit.exact_interval(side="left"), "side must be one of"),
        (lambda: fit.likelihood_ratio_test(draws=0), "draws must be at least 1"),
        (lambda: fit.information("fisher"), "kind must be 'observed' or 'expected'"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_summary():
    """What users of lme4 look for; `lmer(travel ~ 1 + (1 | Rail))` prints 615.31, 24.805, 16.17, 4.021, 66.50, 10.17
    and the criterion 122.2."""
    fit = jaxre.fit(RAIL, np.repeat([2, 5, 1, 6, 3, 4], 3))
    lines = [" ".join(line.split()) for line in str(fit).splitlines()]
    assert lines[0] == "Linear mixed model fit by REML"
    title = "Random effects, with profile-likelihood intervals of the standard deviations:"
    assert lines.index("18 observations in 6 groups of 3") < lines.index(title)
    assert "REML criterion (-2 restricted log-likelihood): 122.1770" in lines
    at = lines.index(title)
    assert lines[at + 1] == "Group Variance Std.Dev. Share 2.5 % 97.5 %"
    assert lines[at + 2].startswith("group 615.311 24.8055 0.9744 ")
    assert lines[at + 3].startswith("Residual 16.1667 4.02078 0.0256 ")
    for end in map(float, lines[at + 3].split()[-2:]):  # balanced: 12 log v + 194 / v rises by the quantile of chi2
        share = end**2 / (194 / 12)
        assert 12 * (np.log(share) + 1 / share - 1) == pytest.approx(3.841459, abs=1e-4)  # of six digits
    # lmer: AIC 128.177, BIC 130.8481; the R2 of a model without covariates is the ICC
    assert any(line.startswith("AIC 128.1770, BIC 130.8481, conditional AIC") for line in lines)
    # balanced: 5 degrees of freedom, so 66.5 +- 2.570582 x 10.17104, and p = 0.00125 at t = 6.538
    row = next(line for line in lines if line.startswith("(Intercept)"))
    assert row == "(Intercept) 66.5 10.171 5.00 6.538 0.0013 40.3545 92.6455"
    assert "Fixed effects, with the degrees of freedom of Kenward and Roger:" in lines[: lines.index(row)]
    # mean squares 1862.1 and 16.16667; Wald's pivot is the classical interval where sizes are equal
    assert "Exact F test of no variance between groups: F = 115.181 on 5 and 12 degrees of freedom, p = 1e-09" in lines
    assert "Intraclass correlation: 0.974399; exact 95% interval 0.905066 to 0.996019" in lines
    assert "Status: interior optimum" in lines
    assert "Certificate: proven global, the only local optimum" in lines
    assert "between=615.311, within=16.1667" in repr(fit)


@methods
def test_to_dict_is_json_at_full_precision(method):
    fit = jaxre.fit(RAIL, np.repeat(list("bcadef"), 3), method=method)
    plain = fit.to_dict()
    again = json.loads(json.dumps(plain, allow_nan=False))
    assert again == plain
    assert again["between"] == fit.between
    assert again["beta_cov"] == fit.beta_cov.tolist()
    assert dict(zip(again["labels"], again["blup"], strict=True)) == dict(zip("bcadef", fit.blup.tolist(), strict=True))
    assert again["status"] == fit.status.name.lower()
    assert again["gap"] is None  # one optimum


def test_labels_of_any_type_go_into_json():
    dates = np.repeat(np.array(["2024-01-02", "2024-01-01", "2024-01-03"], "M8[D]"), 6)
    plain = jaxre.fit(RAIL, dates, method="anova").to_dict()
    assert json.loads(json.dumps(plain))["labels"] == ["2024-01-02", "2024-01-01", "2024-01-03"]


@pytest.mark.parametrize("method", METHODS[:2])
@pytest.mark.parametrize(
    "optimizer",
    [pytest.param(optax.lbfgs(), id="lbfgs"), pytest.param(optax.adam(0.1), id="adam", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("sizes", [slow("unequal"), "one giant"])
def test_other_optimisers(optimizer, method, sizes):
    """Whatever proposes the steps, the loop ends on the score; 1e-10 is its last Newton correction."""
    y, groups, _ = simulate(42, SIZES[sizes])
    newton, other = jaxre.fit(y, groups, method=method), jaxre.fit(y, groups, method=method, optimizer=optimizer)
    assert newton.between > 0
    assert other.between == pytest.approx(newton.between, rel=1e-10)
    assert other.within == pytest.approx(newton.within, rel=1e-10)
    assert (other.certified, other.optima, other.status) == (newton.certified, newton.optima, newton.status)
    assert other.steps >= newton.steps >= 1


def test_the_closed_form_takes_no_optimiser():
    with pytest.raises(ValueError, match=r"closed form: leave optimizer out, or use method='reml' or 'ml'"):
        jaxre.fit(RAIL, labels([3] * 6), method="anova", optimizer=optax.adam(0.1))


def test_two_threads():
    """Double precision is switched on for a thread, not for the process: two that fit at once change neither each
    other's numbers nor the setting of a third."""
    problems = [simulate(seed, SIZES["unequal"], p=2) for seed in range(8)]
    expected = [jaxre.fit(*problem).between for problem in problems]
    found: dict[int, list[float]] = {}
    barrier = threading.Barrier(3)

    def work(thread):
        barrier.wait()
        found[thread] = [jaxre.fit(*problem).between for _ in range(20) for problem in problems]

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(2)]
    for thread in threads:
        thread.start()
    barrier.wait()
    while any(thread.is_alive() for thread in threads):
        assert jax.numpy.ones(1).dtype == np.float32
        threads[0].join(timeout=0.01)
    assert found == {0: expected * 20, 1: expected * 20}


def test_new_data_do_not_compile_anew():
    """100 datasets of 12 to 900 rows in 3 to 60 groups: two bucket sizes, each with the quick search and, where it does
    not settle the matter, the whole one."""
    rng = np.random.default_rng(0)
    packed._kernel.cache_clear()
    strata, shapes, lowered = set(), set(), []
    listen = lambda event, *_, **__: lowered.append(event) if "jaxpr_to_mlir" in event else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    for _ in range(100):
        groups = labels(rng.integers(1, rng.integers(3, 16), size=rng.integers(3, 60)) + 1)
        strata.add(len(set(np.bincount(groups).tolist())))
        shapes.add((len(groups), groups.max()))
        jaxre.fit(rng.normal(size=len(groups)), groups)
    jax.monitoring.unregister_event_duration_listener(listen)
    assert min(strata) <= 4 < max(strata) <= 16
    assert len(shapes) > 90
    compiled = packed._kernel.cache_info().misses
    assert 2 <= compiled <= 4
    assert len(lowered) == compiled  # no program for another shape, and none beside the kernels


def test_a_thousandth_on_a_million_million():
    """Data of 4 digits after 12 that never vary are not "unbounded": what doubles hold of them is fitted. Subtracting
    1e12 is exact; the covariate's slope is known to 1e-16 of 1e12 / 1e-3, so the components to 1e-8 with it."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 6)
    y = 1e12 + 1e-3 * (rng.normal(size=240) + rng.normal(size=40)[groups])
    for x in (None, rng.normal(size=(240, 1))):
        far, near = jaxre.fit(y, groups, x), jaxre.fit(y - 1e12, groups, x)
        assert far.between == pytest.approx(near.between, rel=1e-8)
        assert far.within == pytest.approx(near.within, rel=1e-8)


def frame_of_kinds():
    """Numbers, text with a hole, categories in an order of their own, one of them unused, and truth values."""
    rng = np.random.default_rng(1)
    sex = rng.choice(["M", "F"], 60).astype(object)
    sex[3] = None
    sites = pd.Categorical(rng.choice(["z", "a", "k"], 60), categories=["z", "a", "k", "unused"])
    return pd.DataFrame({"dose": rng.normal(size=60), "sex": sex, "site": sites, "ok": rng.random(60) < 0.5})


@pytest.mark.parametrize("kind", [lambda frame: frame, pa.Table.from_pandas], ids=["pandas", "Arrow"])
def test_text_in_a_data_frame(kind):
    """Treatment coding written out by hand is the same fit."""
    rng, groups, frame = np.random.default_rng(0), np.repeat(np.arange(12), 5), frame_of_kinds()
    y = rng.normal(size=60) + rng.normal(size=12)[groups]
    y[7] = np.nan
    named = jaxre.fit(y, groups, kind(frame))
    by_hand = np.column_stack([frame.dose, frame.sex == "M", frame.site == "a", frame.site == "k", frame.ok]).astype(
        float
    )
    by_hand[3, 1] = np.nan
    plain = jaxre.fit(y, groups, by_hand)
    assert named.coefficients == ("(Intercept)", "dose", "sexM", "sitea", "sitek", "ok")
    assert (named.dropped, named.between, named.beta.tolist()) == (2, plain.between, plain.beta.tolist())


def test_a_level_only_in_incomplete_rows_has_no_column():
    groups, frame = np.repeat(np.arange(12), 5), frame_of_kinds()
    y = np.random.default_rng(0).normal(size=60) + groups
    y[(frame.site == "a").to_numpy()] = np.nan
    assert jaxre.fit(y, groups, frame).coefficients == ("(Intercept)", "dose", "sexM", "sitek", "ok")


@pytest.mark.parametrize(
    ("column", "error", "parts"),
    [
        (pd.Timestamp("2020"), TypeError, ["column 't' of covariates", "numeric", "dates"]),
        ("x", ValueError, ["'t'", "single level 'x'", "leave it out"]),
        ([str(i) for i in range(60)], ValueError, ["'t'", "too many levels: 59 in 59 complete rows"]),
        ([None, *range(58), 2**53 + 2], ValueError, ["column 't' of covariates", "beyond 2^53"]),
    ],
)
def test_columns_that_cannot_be_covariates(column, error, parts):
    groups, frame = np.repeat(np.arange(12), 5), frame_of_kinds()
    frame["t"] = pd.array(column, dtype="Int64") if isinstance(column, list) and column[0] is None else column
    with pytest.raises(error) as caught:
        jaxre.fit(np.arange(60.0), groups, frame)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
