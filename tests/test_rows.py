"""The passes over the rows: the blocked host passes give what the plain traced ones give."""

from fractions import Fraction

import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripts import load

import jaxre
from jaxre.intercept import moments_of_outcome
from jaxre.moments import moments_of
from jaxre.rows import HostRows
from jaxre.traced_rows import TracedRows

pytestmark = pytest.mark.usefixtures("x64")


def both(p, block, seed=0):
    y, groups, covariates = designs.simulate(seed, [3, 1, 8, 0, 5, 20], p=p)
    order = np.random.default_rng(seed).permutation(len(y))
    y, groups = y[order] + 100, groups[order]
    covariates = None if covariates is None else covariates[order]
    host = designs.rows(y, groups, covariates)
    host.block = block
    return host, TracedRows(jnp.asarray(y), groups, None if covariates is None else jnp.asarray(covariates), 6)


@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("block", [1, 7, 37, 1000])
def test_host_and_traced_passes_agree_to_rounding(p, block):
    host, traced = both(p, block)
    rng = np.random.default_rng(p)
    scale, anchors = 2.0 ** rng.integers(-3, 3, p), rng.normal(size=(p, 6))
    rounding = {"rtol": 1e-13, "atol": 1e-12}  # sums of 37 terms of up to 1e3, in another order
    np.testing.assert_array_equal(host.sizes, traced.sizes)
    np.testing.assert_array_equal(host.first, traced.first)
    np.testing.assert_array_equal(host.extremes, traced.extremes)
    np.testing.assert_allclose(host.sums(scale)[0], traced.sums(scale)[0], **rounding)
    for rotation in (None, rng.normal(size=(p, p))):
        for ours, theirs in zip(
            host.residual_products(scale, anchors, rotation),
            traced.residual_products(scale, anchors, rotation),
            strict=True,
        ):
            np.testing.assert_allclose(ours, theirs, **{**rounding, "atol": 1e-10})  # squares: 1e6 in size
    if p > 1:
        a, b = host.triangle(scale, anchors), np.asarray(traced.triangle(scale, anchors))
        np.testing.assert_allclose(a.T @ a, b.T @ b, **rounding)  # a triangle is unique up to the signs of its rows


@pytest.mark.parametrize("p", [1, 3])
def test_passes_are_the_sums_they_say(p):
    host, _ = both(p, 7)
    table = np.column_stack([host.values] if p == 1 else [host.covariates, host.values])
    scale, pilot = np.full(p, 0.5), 0.5 * table[0]
    anchors = np.arange(6.0 * p).reshape(p, 6)
    rotation = np.random.default_rng(2).normal(size=(p, p))
    rounding = {"rtol": 1e-13, "atol": 1e-10}  # as above
    sums, of_residuals, cross = np.zeros((p, 6)), np.zeros((p, 6)), np.zeros((p, p))
    for row, j in zip(table, host.codes, strict=True):
        sums[:, j] += 0.5 * row - pilot
        residual = rotation.T @ (0.5 * row - anchors[:, j])
        of_residuals[:, j] += residual
        cross += np.outer(residual, residual)
    np.testing.assert_allclose(host.sums(scale)[0], sums, **rounding)
    found_sums, found_cross = host.residual_products(scale, anchors, rotation)
    np.testing.assert_allclose(found_sums, of_residuals, **rounding)
    np.testing.assert_allclose(found_cross, cross, **rounding)


@pytest.mark.parametrize("p", [1, 2])
def test_many_rows_keep_their_digits(p):
    """Past 20,000 rows the host turns products in place of rows; blocks must not change the answer."""
    y, groups, covariates = designs.simulate(3, [30_000, 5_000, 3], p=p)
    whole, blocked = designs.rows(y, groups, covariates), designs.rows(y, groups, covariates)
    blocked.block = 1234
    a, b = moments_of(whole), moments_of(blocked)
    rounding = 1e-12  # 35,000 terms in another order: eps sqrt(n) on sums, less on their mean
    np.testing.assert_allclose(a.within_cross, b.within_cross, rtol=rounding, atol=rounding * a.rows)
    np.testing.assert_allclose(a.means, b.means, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 6.0])
def test_products_within_groups_from_the_first_pass_are_those_about_the_means(ratio):
    """Where at least an eighth of each column lies within groups: a digit lost at most, of sums in runs of 2,048."""
    y, groups, covariates = designs.simulate(1, np.full(400, 60), ratio=ratio, p=3)
    rows = designs.rows(y + 3, groups, covariates)
    scale = np.ones(3)
    sums, within = rows.sums(scale)
    anchors = sums / rows.sizes + rows.first[:, None]
    plain = rows.residual_products(scale, anchors, None)[1]
    spread = np.sqrt(plain.diagonal())
    np.testing.assert_allclose(within / spread / spread[:, None], plain / spread / spread[:, None], rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("groups", "effect"), [(3_000, 3.0), (8, 0.5)], ids=["little lies within groups", "the means need a correction"]
)
def test_the_first_pass_leaves_the_products_to_the_next_where_they_would_lose_digits(groups, effect):
    codes = np.arange(30_000) % groups
    y = np.cos(np.arange(30_000.0))
    assert designs.rows(y, codes, None).sums(np.ones(1))[1] is not None
    assert designs.rows(y + np.where(codes % 2, effect, -effect), codes, None).sums(np.ones(1))[1] is None


@pytest.mark.parametrize("off", [1e12, 1.7e15])
@pytest.mark.parametrize("groups", [6, 600])
@pytest.mark.parametrize("p", [1, 2])
def test_many_rows_far_from_zero(off, groups, p):
    """Whole numbers stay whole when a large one is added, such as times in microseconds: the same moments, to the bit
    where nothing is rounded, else to 1e-13."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(groups), 60_000 // groups)
    y = np.round(rng.normal(size=60_000) * 2 + 0.05 * rng.normal(size=groups)[codes])
    x = None if p == 1 else np.round(4 * rng.normal(size=(60_000, 1)))
    near, far = designs.moments(y, codes, x), designs.moments(y + off, codes, x)
    np.testing.assert_allclose(far.within_cross, near.within_cross, rtol=1e-13, atol=1e-13 * near.rows)
    np.testing.assert_allclose(far.means, near.means, rtol=1e-13, atol=1e-13)


def test_a_label_out_of_range_makes_every_size_nan():
    rows = TracedRows(jnp.ones(3), np.array([0, 1, 2]), None, 2)
    assert np.isnan(rows.sizes).all()
    assert np.isnan(TracedRows(jnp.ones(3), jnp.array([0, 1, -1]), None, 2).sizes).all()


@pytest.mark.parametrize("front", ["host", "traced"])
def test_products_within_groups_keep_their_digits_beside_any_spread_between(front):
    """Group means 1e6 times as far apart as the rows of a group: a residual is exact, so 1e-15 a term is left."""
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(6), 5)
    y = rng.normal(size=6)[groups] + 1e-6 * rng.normal(size=30)
    exact = sum(
        (value - sum(map(Fraction, y[groups == j])) / 5) ** 2 for j, value in zip(groups, map(Fraction, y), strict=True)
    )
    rows = designs.rows(y, groups, None) if front == "host" else TracedRows(jnp.asarray(y), groups, None, 6)
    moments = moments_of(rows)
    found = float(moments.within_cross[-1, -1]) / float(moments.frame.scale) ** 2
    assert found == pytest.approx(float(exact), rel=5e-15)  # 30 terms


@pytest.mark.parametrize("groups", [100, 3])
@pytest.mark.parametrize(("x_off", "y_off"), [(2.0**30, 0.0), (2.0**40, 2.0**40)])
def test_many_rows_with_covariates_far_from_zero(groups, x_off, y_off):
    """The covariates explain all but 1e-4 of the outcome, and stay exact when a large number is added: as the law says,
    the same to 1e-14."""
    rng = np.random.default_rng(5)
    codes, grid = np.arange(30_000) % groups, lambda numbers: np.rint(numbers * 256) / 256
    x = grid(rng.normal(size=(30_000, 1)))
    x = np.column_stack([x, grid(x[:, 0] + 0.08 * rng.normal(size=30_000))])
    y = 100 * x[:, 0] + grid(rng.normal(size=groups)[codes] + rng.normal(size=30_000))
    near, far = jaxre.fit(y, codes, x), jaxre.fit(y + y_off, codes, x + x_off)
    assert far.within == pytest.approx(near.within, rel=1e-14)
    assert far.between == pytest.approx(near.between, rel=1e-14)
    np.testing.assert_allclose(far.beta_se[1:], near.beta_se[1:], rtol=1e-14)
    np.testing.assert_allclose(far.beta[1:], near.beta[1:], rtol=0, atol=1e-13 * near.beta_se[1:].max())


@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("off", [0, 2**30])
def test_a_fit_of_many_rows_is_exact(p, off):
    """40,000 rows, where passes are saved: 1e-12 of the exact root, near zero and a million spreads away from it."""
    sizes = np.r_[np.full(12, 3_000), np.arange(1, 81)]
    groups = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(7)
    unit = 2.0**-10
    covariates = np.rint(rng.normal(size=(len(groups), p - 1)) / unit) * unit
    effects = 30 * rng.normal(size=len(sizes))
    y = np.rint((covariates.sum(axis=1) + effects[groups] + rng.normal(size=len(groups))) / unit) * unit
    found = jaxre.fit(y + off, groups, covariates if p > 1 else None)
    between, within = load("exact").between_and_within(y, groups, covariates, unit, found.ratio)
    assert found.between == pytest.approx(float(between), rel=1e-12)
    assert found.within == pytest.approx(float(within), rel=1e-12)
    assert found.certified


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sizes", [[5] * 6, [3, 1, 8, 0, 5, 20], [1, 1, 1], [7], [0, 0, 4, 2]], ids=str)
@pytest.mark.parametrize("shift", [0.0, 1e12])
def test_moments_of_an_outcome_alone_are_those_of_the_general_steps(sizes, shift, weighted):
    rng = np.random.default_rng(len(sizes))
    groups = np.repeat(np.arange(len(sizes)), sizes)
    y = np.round(rng.normal(size=len(groups)) + rng.normal(size=len(sizes))[groups], 3) + shift
    weights = rng.uniform(0.5, 2, len(y)) if weighted else None
    extremes = (y.min(keepdims=True), y.max(keepdims=True))
    rows = lambda: HostRows(y, groups, None, np.bincount(groups, minlength=len(sizes)), extremes, weights)
    quick, plain = moments_of_outcome(rows()), moments_of(rows())
    spread = abs(plain.means[:, 1]).max()
    for a, b in zip(jax.tree.leaves(quick), jax.tree.leaves(plain), strict=True):
        assert np.shape(a) == np.shape(b)
        np.testing.assert_allclose(a, b, rtol=1e-15, atol=4 * np.finfo(float).eps * spread)  # the same steps


@pytest.mark.parametrize("y", [[2.0] * 6, [np.inf] + [1.0] * 5, [1e-320, 2e-320, 3e-320, 1e-320, 0, 0]], ids=str)
def test_moments_of_an_outcome_alone_have_the_status_of_the_general_steps(y):
    y, groups = np.array(y), np.array([0, 0, 0, 1, 1, 1])
    extremes = (y.min(keepdims=True), y.max(keepdims=True))
    rows = lambda: HostRows(y, groups, None, np.bincount(groups), extremes)
    with np.errstate(all="ignore"):
        assert moments_of_outcome(rows()).status == moments_of(rows()).status
