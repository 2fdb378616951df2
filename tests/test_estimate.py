"""The estimators as functions of moments: inside jit, under vmap, in single precision, and in closed form."""

import functools

import dense
import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow import slow

import jaxre
from jaxre import Status

pytestmark = pytest.mark.usefixtures("x64")

ESTIMATORS = {"anova": jaxre.anova, "ml": jaxre.ml, "reml": jaxre.reml}
NUMBERS = ("within", "between", "between_untruncated", "ratio", "icc", "beta", "beta_cov", "beta_se", "log_likelihood")
GROUPS = designs.labels(designs.SIZES["unequal"])
ROWS, COUNT = len(GROUPS), 6
X = designs.simulate(0, designs.SIZES["unequal"], p=3)[2]
GOOD = [
    designs.simulate(seed, designs.SIZES["unequal"], ratio)[0] for seed, ratio in [(31, 1.0), (32, 0.0), (33, 20.0)]
]
WITH_NAN = np.where(np.arange(ROWS) == 4, np.nan, GOOD[0])
BATCH = np.stack([GOOD[0], WITH_NAN, GOOD[1], np.full(ROWS, 0.1), GOOD[2], GROUPS + 0.5])
BATCH_STATUS = [Status.INTERIOR, Status.INVALID, None, Status.CONSTANT_OUTCOME, Status.INTERIOR, Status.UNBOUNDED]


def concrete_design(method, covariates):
    """From one outcome to its estimate, the design known when tracing."""
    return lambda y: ESTIMATORS[method](jaxre.group_moments(y, GROUPS, covariates, num_groups=COUNT))


@functools.cache
def compiled(method, covaried=False):
    return jax.jit(concrete_design(method, X if covaried else None))


def assert_same(ours, theirs, rtol):
    for name in (*NUMBERS, "optima", "optima_ratio", "status", "certified"):
        a, b = np.asarray(getattr(ours, name)), np.asarray(getattr(theirs, name))
        scale = np.abs(np.where(np.isfinite(b), b, 0)).max(initial=0)  # of the whole field: off-diagonals may vanish
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale, err_msg=name)


def entry(estimates, i):
    return jax.tree.map(lambda leaf: leaf[i], estimates)


@pytest.mark.parametrize(
    ("method", "covaried"), [("anova", False), slow("ml", False), slow("reml", False), ("reml", True)]
)
def test_a_batch_is_a_loop_and_a_bad_dataset_spoils_no_other(method, covaried):
    one = compiled(method, covaried)
    batch = jax.jit(jax.vmap(concrete_design(method, X if covaried else None)))(BATCH)
    for i, (y, status) in enumerate(zip(BATCH, BATCH_STATUS, strict=True)):
        estimate = one(y)
        assert_same(entry(batch, i), estimate, 1e-13)  # other vector widths, other order of short sums
        if status is not None:
            assert batch.status[i] == status
        failed = Status(int(batch.status[i])).failed
        assert failed == (i in (1, 3, 5))
        for name in NUMBERS:
            assert np.isnan(getattr(batch, name)[i]).all() == failed
        assert batch.certified[i] != failed


def test_a_batch_may_have_labels_and_sizes_of_its_own():
    """Stacked moments of different designs: a stratum for each group, padding where a dataset has fewer."""
    traced = jax.jit(jax.vmap(lambda y, groups: jaxre.group_moments(y, groups, num_groups=8)))
    labels = np.stack([GROUPS, GROUPS // 2, (GROUPS + 1) % 6, np.arange(ROWS) % 8])
    moments = traced(np.stack(GOOD + GOOD[:1]), labels)
    assert moments.sizes.shape == (4, 8)
    batch = jax.jit(jax.vmap(jaxre.reml))(moments)
    strata = designs.stack(
        [designs.strata(y, np.unique(g, return_inverse=True)[1]) for y, g in zip(GOOD + GOOD[:1], labels, strict=True)]
    )
    assert_same(batch, jax.jit(jax.vmap(jaxre.reml))(strata), 1e-12)  # moments by two implementations, then a root


@pytest.mark.parametrize("method", ["anova", "reml"])
def test_single_precision_follows_its_dtype(method):
    single = jax.jit(concrete_design(method, X.astype(np.float32)))
    double = compiled(method, covaried=True)
    for y in (GOOD[0], GOOD[2]):
        a, b = single(y.astype(np.float32)), double(y)
        assert a.status == b.status
        for name in NUMBERS:
            found, wanted = np.asarray(getattr(a, name)), np.asarray(getattr(b, name))
            assert found.dtype == np.float32
            # 1e-7 in the data, times the condition of a variance ratio
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    assert single(WITH_NAN.astype(np.float32)).status == Status.INVALID
    assert single(np.full(ROWS, 0.1, np.float32)).status == Status.CONSTANT_OUTCOME
    assert single((GROUPS + 0.5).astype(np.float32)).status == Status.UNBOUNDED


def test_jax_in_its_default_precision_works_too():
    with jax.enable_x64(False):
        estimate = jax.jit(concrete_design("reml", None))(GOOD[0])
        assert estimate.between.dtype == jnp.float32
        assert estimate.status == Status.INTERIOR
    reference = compiled("reml")(GOOD[0])
    assert float(estimate.between) == pytest.approx(float(reference.between), rel=1e-4)  # as above


def balanced(seed, ratio):
    y, groups, _ = designs.simulate(seed, designs.SIZES["balanced"], ratio)
    ssw = (dense.centre(y, groups) ** 2).sum()
    return y, ssw, 5 * y.reshape(6, 5).mean(axis=1).var() * 6


BALANCED = {
    method: jax.jit(lambda y, f=f: f(jaxre.group_moments(y, designs.labels([5] * 6), num_groups=6)))
    for method, f in ESTIMATORS.items()
}


@pytest.mark.parametrize("seed", [41, 42, 43])
def test_balanced_interior_has_closed_forms(seed):
    y, ssw, ssb = balanced(seed, ratio=4.0)
    within = ssw / 24
    between = {"anova": (ssb / 5 - within) / 5, "reml": (ssb / 5 - within) / 5, "ml": (ssb / 6 - within) / 5}
    assert between["ml"] > 0
    for method, estimator in BALANCED.items():
        estimate = estimator(y)
        rounding = 1e-13  # sums of 30 terms, and one difference that loses less than a digit
        assert float(estimate.within) == pytest.approx(within, rel=rounding)
        assert float(estimate.between) == pytest.approx(between[method], rel=rounding)
        assert float(estimate.beta[0]) == pytest.approx(y.mean(), rel=rounding)
        assert float(estimate.beta_se[0]) == pytest.approx(np.sqrt((between[method] + within / 5) / 6), rel=rounding)
        assert float(estimate.icc) == pytest.approx(between[method] / (between[method] + within), rel=rounding)
        assert float(estimate.ratio) == pytest.approx(between[method] / within, rel=rounding)
        assert estimate.status == Status.INTERIOR
        assert estimate.optima == 1
        assert estimate.certified


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_balanced_boundary_has_closed_forms(seed):
    y, ssw, ssb = balanced(seed, ratio=0.0)
    untruncated = (ssb / 5 - ssw / 24) / 5
    assert untruncated < 0
    within = {"anova": ssw / 24, "reml": (ssw + ssb) / 29, "ml": (ssw + ssb) / 30}
    for method, estimator in BALANCED.items():
        estimate = estimator(y)
        assert estimate.between == estimate.ratio == estimate.icc == 0
        assert float(estimate.within) == pytest.approx(within[method], rel=1e-13)  # sums of 30 terms
        assert estimate.status == (Status.NEGATIVE if method == "anova" else Status.BOUNDARY)
    assert float(BALANCED["anova"](y).between_untruncated) == pytest.approx(untruncated, rel=1e-12)  # a difference
    assert BALANCED["reml"](y).between_untruncated == 0


@pytest.mark.parametrize("design", ["unequal", "one giant", "three groups"])
@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("ratio", [0.0, 3.0])
def test_analysis_of_variance_is_hendersons_third_method(design, p, ratio):
    y, groups, covariates = designs.simulate(51, designs.SIZES[design], ratio, p)
    estimate = jax.jit(jaxre.anova)(designs.strata(y, groups, covariates))
    x = dense.design(len(y), covariates)
    within, untruncated = dense.henderson_3(y, x, groups)
    rounding = 1e-11  # two dense projections of 105 rows by pseudo-inverses
    assert float(estimate.within) == pytest.approx(within, rel=rounding)
    assert float(estimate.between_untruncated) == pytest.approx(untruncated, rel=rounding, abs=rounding)
    between = max(untruncated, 0)
    assert float(estimate.between) == pytest.approx(between, rel=rounding, abs=rounding)
    assert estimate.status == (Status.NEGATIVE if untruncated < 0 else Status.INTERIOR)
    assert estimate.certified
    v = dense.covariance(within, between, groups)
    beta, cov = dense.gls(y, x, v)
    np.testing.assert_allclose(estimate.beta, beta, rtol=rounding, atol=rounding)
    np.testing.assert_allclose(estimate.beta_cov, cov, rtol=rounding, atol=rounding)
    np.testing.assert_allclose(estimate.beta_se, np.sqrt(np.diag(cov)), rtol=rounding)
    assert float(estimate.log_likelihood) == pytest.approx(dense.log_likelihood(y, x, v), rel=rounding)
    if p == 1:  # the sums of squares of the one-way table
        sizes, n = np.bincount(groups), len(y)
        means = np.bincount(groups, weights=y) / sizes
        ssb = sizes @ (means - y.mean()) ** 2
        classical = n * (ssb - (len(sizes) - 1) * within) / (n**2 - (sizes**2).sum())
        assert float(estimate.between_untruncated) == pytest.approx(classical, rel=rounding, abs=rounding)


@pytest.mark.parametrize("method", ["ml", "reml"])
def test_everything_reported_is_dense_at_the_estimated_variances(method):
    y, groups, covariates = designs.simulate(61, designs.SIZES["unequal"], 2.0, p=3)
    estimate = jax.jit(ESTIMATORS[method])(designs.strata(y, groups, covariates))
    x, v = dense.design(len(y), covariates), dense.covariance(float(estimate.within), float(estimate.between), groups)
    beta, cov = dense.gls(y, x, v)
    rounding = 1e-12  # dense solves of condition 1e2
    np.testing.assert_allclose(estimate.beta, beta, rtol=rounding)
    np.testing.assert_allclose(estimate.beta_cov, cov, rtol=rounding, atol=rounding)
    np.testing.assert_allclose(estimate.beta_se, np.sqrt(np.diag(cov)), rtol=rounding)
    criterion = dense.restricted_log_likelihood if method == "reml" else dense.log_likelihood
    best = criterion(y, x, v)
    assert float(estimate.log_likelihood) == pytest.approx(best, rel=rounding)
    for within, between in [(1.001, 1), (0.999, 1), (1, 1.01), (1, 0.99)]:
        moved = dense.covariance(within * float(estimate.within), between * float(estimate.between), groups)
        assert criterion(y, x, moved) < best


def test_codes_of_the_status_are_data_with_a_message():
    assert [int(status) for status in Status] == list(range(len(Status)))
    assert len({status.message for status in Status}) == len(Status)
    assert not any(status.failed for status in Status if status <= Status.NOT_CONVERGED)
    assert all(status.failed for status in Status if status > Status.NOT_CONVERGED)
    assert Status.INTERIOR + 2 == Status.INTERIOR_SEVERAL
    assert Status.BOUNDARY + 2 == Status.BOUNDARY_SEVERAL
    assert str(Status.RANK_DEFICIENT) == Status.RANK_DEFICIENT.message
    estimate = BALANCED["reml"](balanced(41, 4.0)[0])
    assert estimate.status.dtype == jnp.int32
