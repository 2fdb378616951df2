"""Exact tests and intervals: published digits, classical closed forms, and the pivot by dense algebra in 50 digits."""

import functools

import dense
import designs
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from reference import IDENTIFIED, table
from scipy.special import fdtr, fdtrc, fdtri
from slopes import slopes
from slow import slow

import jaxre
from jaxre import datasets, exact
from jaxre.exact import (
    degrees_of_freedom,
    exact_interval,
    exact_interval_of,
    f_test,
    f_test_of,
    pivot_of,
    pivot_quantiles,
    pivot_root,
)
from jaxre.icc import icc_measures
from jaxre.shared import reduce_block
from jaxre.shared_design import shared_design
from jaxre.spectrum import spectral_curve
from jaxre.stacking import padded

pytestmark = pytest.mark.usefixtures("x64")

NAMES = ("one giant", "unequal", "balanced", "three groups")
F_TEST = jax.jit(f_test)
INTERVAL = jax.jit(exact_interval, static_argnames="side")
ICC = jax.jit(icc_measures)
RATIO_FIELDS = ("ratio_low", "ratio_high", "ratio_low_untruncated", "ratio_high_untruncated")
FIELDS = (*RATIO_FIELDS, "icc_low", "icc_high", "icc_low_untruncated", "icc_high_untruncated")


@jax.jit
def root_at(strata, quantile):
    return pivot_root(pivot_of(strata), *degrees_of_freedom(strata), quantile)


def loaded(name):
    data = datasets.load(name)
    return jaxre.stratify(jaxre.group_moments(data.columns[data.outcome], data.columns[data.group]))


def ends(interval, what="ratio", untruncated=True):
    suffix = "_untruncated" if untruncated else ""
    return [float(getattr(interval, f"{what}_{end}{suffix}")) for end in ("low", "high")]


class Pivot:
    """H by its definition: residual sums of squares from dense matrices."""

    def __init__(self, y, groups, covariates):
        z, x = dense.indicators(groups), dense.design(len(y), covariates)
        both, keep = np.column_stack([z, x[:, 1:]]), []
        for j in range(both.shape[1]):
            if np.linalg.matrix_rank(both[:, [*keep, j]]) > len(keep):
                keep.append(j)
        self.df1, self.df2 = len(keep) - x.shape[1], len(y) - len(keep)
        self.y, self.x, self.z, self.both = y, x, z, both[:, keep]

    def at(self, ratio):
        """In double precision."""
        h = np.eye(len(self.y)) + ratio * self.z @ self.z.T
        residual = self.y - self.both @ np.linalg.lstsq(self.both, self.y)[0]
        floor = residual @ residual
        return (self.y @ dense.projection(self.x, h) @ self.y - floor) / self.df1 / (floor / self.df2)

    @functools.cached_property
    def precise(self):
        """In mpmath's working precision."""
        y, x, z, both = (mpmath.matrix(table.tolist()) for table in (self.y, self.x, self.z, self.both))

        def rest(columns, inverse):
            turned = columns.T * inverse
            residual = y - columns * mpmath.lu_solve(turned * columns, turned * y)
            return (residual.T * inverse * residual)[0]

        floor = rest(both, mpmath.eye(len(self.y)))
        sizes = [int(k) for k in self.z.sum(axis=0)]

        def at(ratio):
            inverse = mpmath.eye(len(self.y)) - z * mpmath.diag([ratio / (1 + ratio * k) for k in sizes]) * z.T
            return (rest(x, inverse) - floor) / self.df1 / (floor / self.df2)

        return at


def test_dyestuff():
    """Computed to 8 digits from F quantiles of 30 digits; the balanced closed form."""
    interval = INTERVAL(loaded("dyestuff"))
    assert ends(interval) == pytest.approx([0.091507694, 5.5736199], rel=1e-8)
    assert ends(interval, "icc") == pytest.approx([0.083836051, 0.84787682], rel=1e-8)
    test = F_TEST(loaded("dyestuff"))
    assert test.statistic == pytest.approx((56357.5 / 5) / (58830 / 24), rel=1e-14)  # Davies and Goldsmith (1972)
    assert (test.df1, test.df2) == (5, 24)
    assert test.p_value == pytest.approx(fdtrc(5, 24, float(test.statistic)), rel=1e-12)


def test_rail():
    assert ends(INTERVAL(loaded("rail")), "icc") == pytest.approx([0.90506629, 0.99601862], rel=1e-8)


def test_shrout_and_fleiss():
    """Shrout and Fleiss (1979), tables 2 to 4: six targets, four judges."""
    y = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    icc = ICC(jaxre.group_moments(y.ravel(), designs.labels([4] * 6)))
    assert icc.single == pytest.approx(0.165742, abs=5e-7)
    assert [icc.single_low, icc.single_high] == pytest.approx([-0.132932, 0.722560], abs=5e-7)
    assert icc.average == pytest.approx(0.442797, abs=5e-7)
    assert [icc.average_low, icc.average_high] == pytest.approx([-0.8844, 0.9124], abs=5e-5)
    between, within = 4 * y.mean(axis=1).var(ddof=1), y.var(axis=1, ddof=1).mean()
    assert icc.measurements == 4
    assert icc.statistic == pytest.approx(between / within, rel=1e-14)
    assert icc.single == pytest.approx((between - within) / (between + 3 * within), rel=1e-14)
    assert icc.average == pytest.approx((between - within) / between, rel=1e-14)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 1e4])
def test_balanced_is_the_classical_interval(level, ratio):
    """lambda = (F / quantile - 1) / k: Searle, Casella and McCulloch (1992), table 3.4."""
    y, groups, _ = designs.simulate(5, [4] * 7, ratio)
    f = Pivot(y, groups, None).at(0.0)
    quantiles = fdtri(6, 21, np.array([1 + level, 1 - level]) / 2)
    k_lambda = f / quantiles - 1
    strata = jaxre.stratify(designs.moments(y, groups))
    interval, icc = INTERVAL(strata, level), ICC(strata, level)
    digits = {"rel": 1e-11, "abs": 1e-13}  # the dense F, of condition 1 + 4e4
    assert ends(interval) == pytest.approx(k_lambda / 4, **digits)
    assert ends(interval, "icc") == pytest.approx(k_lambda / (k_lambda + 4), **digits)
    assert [icc.single_low, icc.single_high] == pytest.approx(k_lambda / (k_lambda + 4), **digits)
    assert [icc.average_low, icc.average_high] == pytest.approx(1 - quantiles / f, **digits)


@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_root_of_the_pivot_in_50_digits(name, p):
    """H(lambda) in 50 digits, rounded once, leads back to lambda, from the end of the domain to where ICC is 1 - 1e-12.

    With x = 1 + largest size * lambda: rounding of the quantile, of lambda and of H cost some eps times the largest
    size relative to 1; within 1e-5 of the end, with covariates, the tangent at 6e-6 goes on with an error of 1e-10.
    """
    y, groups, covariates = designs.simulate(11, designs.SIZES[name], ratio=0.5, p=p)
    largest, strata = max(designs.SIZES[name]), designs.strata(y, groups, covariates)
    pivot = Pivot(y, groups, covariates)
    assert tuple(map(float, degrees_of_freedom(strata))) == (pivot.df1, pivot.df2)
    with mpmath.workdps(50):
        for x in (1e-9, 1e-6, 1e-4, 0.1, 0.9, 1.1, 3, 100, 1e4, 1e12):
            ratio = (mpmath.mpf(x) - 1) / largest
            found = mpmath.mpf(float(root_at(strata, float(pivot.precise(ratio)))))
            rounding = 1e-15 * largest * max(1, x)
            allowed = max(rounding, 1e-10) if p > 1 and x < 1e-5 else rounding
            assert abs(found - ratio) * largest < allowed, x


@pytest.mark.parametrize("seed", range(6))
def test_random_designs_with_covariates_are_dense(seed, rng):
    """F, its degrees of freedom and p, and the two ends put back into H, for a covariate that varies within groups,
    one that does not, and sizes of 1 to 9."""
    sizes = np.random.default_rng(seed).integers(1, 10, size=8)
    y, groups, covariates = designs.simulate(seed, sizes, ratio=0.4, p=3)
    covariates[:, 0] = np.random.default_rng(seed).normal(size=8)[groups]
    pivot, strata = Pivot(y, groups, covariates), designs.strata(y, groups, covariates, size=9)
    rounding = 1e-11  # a dense solve, of condition 1e3
    test = F_TEST(strata)
    assert (test.df1, test.df2) == (pivot.df1, pivot.df2) == (8 + 1 - 3, len(y) - 9)
    assert test.statistic == pytest.approx(pivot.at(0.0), rel=rounding)
    assert test.p_value == pytest.approx(fdtrc(pivot.df1, pivot.df2, pivot.at(0.0)), rel=rounding)
    low, high = ends(INTERVAL(strata, 0.9))
    assert low < high
    quantiles = fdtri(pivot.df1, pivot.df2, [0.95, 0.05])
    assert pivot.at(high) == pytest.approx(quantiles[1], rel=rounding)
    if low > -1 / sizes.max():
        assert pivot.at(low) == pytest.approx(quantiles[0], rel=rounding)
    else:
        assert pivot.at(low * (1 - 1e-6)) < quantiles[0]


@pytest.mark.parametrize("name", NAMES)
def test_interval_and_test_are_dual(name):
    """0 is the lower end at the level at which the test just rejects."""
    for seed in range(20):
        strata = designs.strata(*designs.simulate(seed, designs.SIZES[name], ratio=0.5))
        p_value = float(F_TEST(strata).p_value)
        assert (ends(INTERVAL(strata))[0] > 0) == (p_value < 0.025)
        if p_value > 1e-9:  # 1 - p has digits of p left
            low, high = ends(INTERVAL(strata, 1 - p_value, side="lower"))
            assert low == pytest.approx(0, abs=1e-14 / p_value)  # rounding of 1 - p, relative to p
            assert high == np.inf


@pytest.mark.parametrize("p", [1, 3])
def test_one_sided_bounds_are_ends_of_wider_intervals(p):
    strata = designs.strata(*designs.simulate(21, designs.SIZES["unequal"], p=p))
    both, lower, upper = (
        INTERVAL(strata, 0.9),
        INTERVAL(strata, 0.95, side="lower"),
        INTERVAL(strata, 0.95, side="upper"),
    )
    digits = 1e-13  # 1 - 0.95 and (1 - 0.9) / 2 differ in their last digits
    assert ends(lower)[0] == pytest.approx(ends(both)[0], rel=digits)
    assert ends(upper)[1] == pytest.approx(ends(both)[1], rel=digits)
    assert ends(lower)[1] == np.inf
    assert ends(lower, "icc")[1] == 1
    assert ends(upper)[0] == -1 / 5
    assert ends(upper, "icc")[0] == pytest.approx(-1 / 4, rel=1e-15)
    assert ends(upper, untruncated=False)[0] == ends(upper, "icc", untruncated=False)[0] == 0


def test_truncated_ends_are_exactly_zero():
    """Group means closer than chance allows: all of the interval lies below 0."""
    groups = designs.labels([6] * 3)
    y = np.array([0.0, 1.0, 1.01, 0.0, 0.99, 0.02] * 3) + 0.02 * groups
    strata = jaxre.stratify(designs.moments(y, groups))
    interval = INTERVAL(strata)
    low, high = ends(interval)
    assert -1 / 6 < low < high < 0
    assert [float(getattr(interval, name)) for name in ("ratio_low", "ratio_high", "icc_low", "icc_high")] == [0] * 4
    assert ICC(strata).single_high < 0


@pytest.mark.parametrize("p", [1, 2])
def test_where_no_ratio_solves_the_end_is_the_end_of_the_domain(p):
    """One group is much the largest, so H is finite where its weight becomes infinite."""
    sizes = [2, 2, 3, 30]
    y, groups, covariates = designs.simulate(0, sizes, ratio=0.0, p=p)
    pivot, strata = Pivot(y, groups, covariates), designs.strata(y, groups, covariates)
    with mpmath.workdps(50):
        most = float(pivot.precise((mpmath.mpf("1e-15") - 1) / 30))
    assert root_at(strata, most * (1 + 1e-9)) == -1 / 30
    assert -1 / 30 < root_at(strata, most * (1 - 1e-6)) < -1 / 30 + 1e-5
    assert root_at(strata, np.inf) == -1 / 30
    assert root_at(strata, 0.0) == np.inf
    level = 2 * fdtr(pivot.df1, pivot.df2, most) - 1  # of the interval whose lower end is just there
    assert 0.1 < level < 0.999
    assert ends(INTERVAL(strata, level + 1e-6))[0] == -1 / 30
    assert ends(INTERVAL(strata, level - 1e-6))[0] > -1 / 30


def test_no_scatter_between_groups():
    """All group means equal: F = 0, every ratio is too large, and the two ends are at the end of the domain."""
    y = np.array([1.0, 3.0, 0.0, 4.0, -1.0, 5.0, 2.0, 2.0])
    strata = jaxre.stratify(designs.moments(y, designs.labels([2] * 4)))
    test, interval, icc = F_TEST(strata), INTERVAL(strata), ICC(strata)
    assert (test.statistic, test.p_value) == (0, 1)
    assert ends(interval) == [-0.5, -0.5]
    assert ends(interval, "icc") == [-1, -1]
    assert ends(interval, untruncated=False) == ends(interval, "icc", untruncated=False) == [0, 0]
    assert [icc.single, icc.single_low, icc.single_high] == [-1, -1, -1]
    assert [icc.average, icc.average_low, icc.average_high] == [-np.inf] * 3


@pytest.mark.parametrize("p", [1, 3])
def test_icc_of_unequal_sizes(p):
    """The analysis of variance's ICC, untruncated; the average of k = n0 by Spearman and Brown, at the ends too."""
    y, groups, covariates = designs.simulate(3, designs.SIZES["unequal"], p=p)
    strata, sizes = designs.strata(y, groups, covariates), np.array(designs.SIZES["unequal"])
    x, z = dense.design(len(y), covariates), dense.indicators(groups)
    off = np.eye(len(y)) - x @ np.linalg.pinv(x)
    n0 = np.trace(z.T @ off @ z) / 5
    if p == 1:
        assert n0 == pytest.approx((len(y) - (sizes**2).sum() / len(y)) / 5, rel=1e-13)
    within, between = dense.henderson_3(y, x, groups)
    icc, interval = ICC(strata), INTERVAL(strata)
    rounding = 1e-12  # dense projections of 21 rows
    assert icc.measurements == pytest.approx(n0, rel=rounding)
    assert icc.single == pytest.approx(between / (between + within), rel=rounding)
    assert icc.average == pytest.approx(1 - 1 / float(F_TEST(strata).statistic), rel=1e-15)
    spearman_brown = lambda one: n0 * one / (1 + (n0 - 1) * one)
    assert icc.average == pytest.approx(spearman_brown(float(icc.single)), rel=rounding)
    assert [icc.single_low, icc.single_high] == ends(interval, "icc")
    assert icc.average_low == pytest.approx(spearman_brown(float(icc.single_low)), rel=rounding)
    assert icc.average_high == pytest.approx(spearman_brown(float(icc.single_high)), rel=rounding)


@pytest.mark.parametrize("case", IDENTIFIED, ids=lambda case: case["id"])
def test_f_of_the_reference_cases(case):
    """Without covariates F = SSB / (J - 1) / within from 25 digits; equal sizes: the interval's ends from them too.

    1e-12 is what the estimates are asked for; where sums of squares between groups vanish, 1e-12 of those expected."""
    data, expected = table(case["id"]), {name: float(text) for name, text in case["anova"].items()}
    strata = jaxre.stratify(designs.moments(data.values, np.unique(data.groups, return_inverse=True)[1]))
    strata = padded(strata, next(4**i for i in range(9) if 4**i >= len(strata.sizes)))
    df1, df2 = case["groups"] - 1, case["n"] - case["groups"]
    untruncated, within, n0 = (expected[name] for name in ("between_untruncated", "within", "n0"))
    f = untruncated * n0 / within + 1
    test = F_TEST(strata)
    assert (test.df1, test.df2) == (df1, df2)
    assert test.statistic == pytest.approx(f, rel=1e-12, abs=1e-12)
    if len(np.unique(strata.sizes[strata.counts > 0])) == 1:
        k_lambda = f / fdtri(df1, df2, np.array([0.975, 0.025])) - 1
        assert ends(INTERVAL(strata)) == pytest.approx(k_lambda / n0, rel=1e-11, abs=1e-11 / n0)


def drawn(draws, sizes, ratio, covariates, seed):
    """Strata of datasets drawn from the model over one design, with a leading axis."""
    groups, rng = designs.labels(sizes), np.random.default_rng(seed)
    y = rng.normal(size=(draws, len(groups))) + np.sqrt(ratio) * rng.normal(size=(draws, len(sizes)))[:, groups]
    of_one = lambda y: jaxre.stratify(jaxre.group_moments(y, groups, covariates, num_groups=len(sizes)))
    return jax.jit(jax.vmap(of_one))(y)


@pytest.mark.parametrize("ratio", [slow(0.0), 0.5])
def test_coverage_and_size(ratio):
    """Over groups of 1 to 9, with two covariates that are constant in the groups: the level, within 4 Monte-Carlo
    errors; with (groups - 1, n - groups) for degrees of freedom far from it."""
    draws, sizes, level = 20_000, designs.SIZES["unequal"], 0.9
    by_group = np.random.default_rng(9).normal(size=(6, 2))
    strata = drawn(draws, sizes, ratio, by_group[designs.labels(sizes)], seed=17)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def covered(strata, freedom):
        pivot = pivot_of(strata)
        interval = exact_interval_of(pivot, *freedom, *pivot_quantiles(*freedom, level, "two-sided"))
        rejected = f_test_of(pivot.curve, *freedom).p_value <= 0.05
        low, high = interval.ratio_low_untruncated, interval.ratio_high_untruncated
        return (low <= ratio) & (ratio <= high), low > ratio, high < ratio, rejected

    def share(freedom):
        return np.array([np.mean(mask) for mask in covered(strata, freedom)])

    right, wrong = (6.0 - 3, len(designs.labels(sizes)) - 6.0), (5.0, len(designs.labels(sizes)) - 6.0)
    np.testing.assert_array_equal(np.unique(jax.vmap(degrees_of_freedom)(strata)[0]), right[0])
    error = lambda probability: 4 * np.sqrt(probability * (1 - probability) / draws)
    found = share(tuple(map(jnp.asarray, right)))
    assert abs(found[0] - level) < error(level)
    assert abs(found[1:3] - 0.05).max() < error(0.05)
    mistaken = share(tuple(map(jnp.asarray, wrong)))
    assert mistaken[0] < level - 3 * error(level)
    if ratio == 0:
        assert abs(found[3] - 0.05) < error(0.05)
        assert abs(mistaken[3] - 0.05) > 3 * error(0.05)


def test_batch_is_a_loop_and_a_bad_dataset_spoils_no_other():
    y, groups, x = designs.simulate(31, designs.SIZES["unequal"], p=3)
    rows = np.stack([y, np.where(np.arange(len(y)) == 4, np.nan, y), np.full(len(y), 0.1), groups + 0.5, y[::-1]])
    one = lambda y: jaxre.group_moments(y, groups, x, num_groups=6)
    alone = jax.jit(lambda y: icc_measures(one(y)))
    batch = jax.jit(jax.vmap(lambda y: icc_measures(one(y))))(rows)
    for i, row in enumerate(rows):
        good = i in (0, 4)
        for ours, theirs in zip(jax.tree.leaves(batch), jax.tree.leaves(alone(row)), strict=True):
            np.testing.assert_allclose(ours[i], theirs, rtol=1e-13)
            assert np.isfinite(ours[i]) == good


@pytest.mark.parametrize("p", [1, 3])
def test_strata_groups_padding_and_traced_sizes_agree(p):
    y, groups, covariates = designs.simulate(8, designs.SIZES["pairs of sizes"], p=p)
    moments = designs.moments(y, groups, covariates)
    expected = jax.tree.leaves(ICC(designs.strata(y, groups, covariates)))
    for other in (moments, padded(moments, 9)):
        np.testing.assert_allclose(jax.tree.leaves(ICC(other)), expected, rtol=2e-13)  # sums in another order


def test_a_shared_design_gives_the_same():
    """From spectral coordinates, without strata."""
    y, groups, covariates = designs.simulate(8, designs.SIZES["unequal"], p=3)
    design, strata = shared_design(groups, covariates, restricted=True), designs.strata(y, groups, covariates)
    data = reduce_block(design, jnp.asarray(y)[:, None], jnp.float64)
    of_data = spectral_curve((design.spectrum, jax.tree.map(lambda leaf: leaf[..., 0], data.outcome)))
    freedom = jnp.asarray(design.rank), jnp.asarray(design.freedom)
    ours = exact_interval_of(exact.Pivot(of_data, of_data), *freedom, *pivot_quantiles(*freedom, 0.95, "two-sided"))
    theirs = INTERVAL(strata)
    for name in FIELDS:
        assert getattr(ours, name) == pytest.approx(float(getattr(theirs, name)), rel=1e-11, abs=1e-13)


def test_scale_and_shift_change_nothing():
    y, groups, x = designs.simulate(8, designs.SIZES["unequal"], p=2)
    expected = INTERVAL(designs.strata(y, groups, x))
    for scale, shift in ((2.0**400, 0.0), (2.0**-400, 0.0), (1.0, 2.0**20)):
        found = INTERVAL(designs.strata(y * scale + shift, groups, x * 8 + 1))
        digits = 1e-12 if shift == 0 else 1e-9  # the shift leaves 32 bits behind the point
        for name in FIELDS:
            assert getattr(found, name) == pytest.approx(float(getattr(expected, name)), rel=digits, abs=digits)


def test_single_precision():
    y, groups, covariates = designs.simulate(5, designs.SIZES["unequal"], p=2)
    expected = [F_TEST(m).statistic for m in [designs.moments(y, groups, covariates)]]
    expected += ends(INTERVAL(designs.strata(y, groups, covariates)))
    with jax.enable_x64(False):
        moments = jaxre.group_moments(y.astype(np.float32), groups, covariates.astype(np.float32), num_groups=6)
        test, interval = jax.jit(f_test)(moments), jax.jit(exact_interval)(moments)
        found = [test.statistic, interval.ratio_low_untruncated, interval.ratio_high_untruncated]
        assert {leaf.dtype for leaf in jax.tree.leaves((test, interval))} == {np.dtype(np.float32)}
        assert np.array(found, float) == pytest.approx(np.array(expected, float), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 95, float("nan")])
def test_a_level_outside_0_and_1_is_refused(level):
    for function in (exact_interval, icc_measures):
        with pytest.raises(ValueError, match="level must lie between 0 and 1"):
            function(loaded("rail"), level)
        found = jax.jit(function)(loaded("rail"), level)
        ends = [leaf for name, leaf in vars(found).items() if "low" in name or "high" in name]
        assert np.isnan(ends).all()


def test_an_unknown_side_and_other_than_moments_are_refused():
    with pytest.raises(ValueError, match="side must be one of 'two-sided', 'lower', 'upper', got 'left'"):
        exact_interval(loaded("rail"), side="left")
    for function in (f_test, exact_interval, icc_measures):
        with pytest.raises(TypeError, match="GroupMoments or Strata"):
            function(np.ones(3))


@pytest.mark.parametrize("p", [1, 2])
def test_derivatives_beside_an_end_on_the_edge(p):
    """The lower ratio is truncated at 0 or at the edge of its domain; no derivative of it or of the others is NaN."""
    groups, x = np.repeat(np.arange(4), [2, 3, 4, 2]), np.random.default_rng(2).normal(size=(11, p - 1))
    ends = lambda y: jnp.stack(jax.tree.leaves(exact_interval(jaxre.group_moments(y, groups, x if p > 1 else None))))
    y = np.random.default_rng(1).normal(size=11)
    assert exact_interval(jaxre.group_moments(y, groups, x if p > 1 else None)).ratio_low == 0
    forward, reverse = jax.jacfwd(ends)(y), jax.jacrev(ends)(y)
    assert np.isfinite(forward).all()
    np.testing.assert_allclose(reverse, forward, rtol=1e-9, atol=1e-9)


def test_derivatives_of_the_ends():
    """Against central differences, whose truncation and rounding leave 1e-7; forward as backward."""
    y, groups, x = designs.simulate(2, designs.SIZES["unequal"], 2.0, p=2)
    jumble = np.random.default_rng(0).normal(size=len(y))

    def ends(y):
        found = exact_interval(jaxre.group_moments(y, groups, x), 0.9)
        return jnp.stack([found.ratio_low, found.ratio_high, found.icc_low_untruncated])

    found = slopes(ends, y, jumble)
    np.testing.assert_allclose(found.forward, found.difference, rtol=1e-6)
    np.testing.assert_allclose(found.reverse, found.forward, rtol=1e-10)
