"""What must hold for every dataset: invariances, closed forms, and that nothing beats the estimate."""

from fractions import Fraction

import dense
import mpmath
import numpy as np
import pytest
from designs import SIZES, labels, simulate

import jaxre

METHODS = ("reml", "ml", "anova")
UNEQUAL, BALANCED = [5, 2, 7, 5, 7, 9], [5] * 6

methods = pytest.mark.parametrize("method", METHODS)
likelihoods = pytest.mark.parametrize("method", METHODS[:2])


def on_a_lattice(sizes, p, bits=16):
    """A dataset whose values are whole multiples of 2^-bits below 2^5: adding 2^30 to them loses no bit."""
    y, groups, x = simulate(3, sizes, ratio=2.0, p=p)
    return tuple(None if array is None else np.round(array * 2.0**bits) / 2.0**bits for array in (y, groups, x))


def gap(a, b):
    """Relative difference, by the size of the second."""
    return abs(np.asarray(a) - b).max() / abs(np.asarray(b)).max()


@methods
@pytest.mark.parametrize(("sizes", "p"), [(UNEQUAL, 1), (BALANCED, 1), (UNEQUAL, 3)])
def test_shift_of_the_outcome(sizes, p, method):
    """No bit of the data is lost, and the pilot is subtracted before anything is rounded: 1e-14 is 45 eps."""
    y, groups, x = on_a_lattice(sizes, p)
    here = jaxre.fit(y, groups, x, method=method)
    there = jaxre.fit(y + 2.0**30, groups, x, method=method)
    for name in ("between", "within", "icc", "between_untruncated", "beta_se"):
        assert gap(getattr(there, name), getattr(here, name)) <= 1e-14, name
    # the intercept itself is a number near 2^30, good to its last bit, 1.2e-7
    assert abs(there.beta[0] - 2.0**30 - here.beta[0]) <= 2.0**-22
    assert gap(there.blup, here.blup) <= 1e-14


@methods
@pytest.mark.parametrize("power", [498, -498])
@pytest.mark.parametrize(("sizes", "p"), [(UNEQUAL, 1), (BALANCED, 1), (UNEQUAL, 3)])
def test_scale_by_a_power_of_two(sizes, p, power, method):
    """Multiplying by 2^k is exact, so every step rounds as before; variances go to 2^996 without overflow."""
    y, groups, x = simulate(4, sizes, ratio=2.0, p=p)
    scale = 2.0**power
    here, there = (jaxre.fit(values, groups, x, method=method) for values in (y, y * scale))
    assert gap(there.icc, here.icc) <= 1e-14
    for name in ("between", "within", "between_untruncated", "beta_cov"):
        assert gap(getattr(there, name) / scale / scale, getattr(here, name)) <= 1e-14, name
    for name in ("beta", "beta_se", "blup", "blup_se"):
        assert gap(getattr(there, name) / scale, getattr(here, name)) <= 1e-14, name
    # log |scale| for each of the n - p contrasts or n observations; both sums have rounding of eps times their size
    count = here.n - (here.p if method == "reml" else 0)
    assert there.criterion == pytest.approx(here.criterion + 2 * count * np.log(scale), rel=1e-14)


@methods
@pytest.mark.parametrize("p", [1, 3])
def test_order_and_names_do_not_matter(rng, p, method):
    """The same numbers added in another order: 1e-13 leaves room for sqrt(n) eps."""
    y, groups, x = simulate(5, UNEQUAL, ratio=0.5, p=p)
    order = rng.permutation(len(y))
    names = np.array(["pear", "fig", "apple", "kiwi", "plum", "lime"])
    here = jaxre.fit(y, groups, x, method=method)
    there = jaxre.fit(y[order], names[groups[order]], None if x is None else x[order], method=method)
    for name in ("between", "within", "beta", "beta_se"):
        assert gap(getattr(there, name), getattr(here, name)) <= 1e-13, name
    position = [there.groups.tolist().index(name) for name in names]
    assert gap(there.blup[position], here.blup) <= 1e-13
    assert there.sizes[position].tolist() == UNEQUAL


@methods
@pytest.mark.parametrize(
    ("shift", "matrix"),
    [
        pytest.param([1000.0, -3.0], np.eye(2), id="shift"),
        pytest.param([0.0, 0.0], np.diag([1e8, 1e-9]), id="scale"),
        pytest.param([0.0, 0.0], np.array([[1.0, 2.0], [-1.0, 1.0]]), id="rotation"),
    ],
)
def test_coordinates_of_the_covariates_do_not_matter(shift, matrix, method):
    """Another basis of the same space: components and predictions stay. The shift costs three digits of the covariates,
    hence 1e-12."""
    y, groups, x = simulate(6, UNEQUAL, ratio=0.5, p=3)
    here, there = (jaxre.fit(y, groups, covariates, method=method) for covariates in (x, x @ matrix + shift))
    for name in ("between", "within", "blup", "blup_se"):
        assert gap(getattr(there, name), getattr(here, name)) <= 1e-12, name
    # the restricted likelihood holds log det X'V^-1 X, which moves with the basis
    moved = 2 * np.log(np.linalg.det(matrix)) if method == "reml" else 0
    assert there.criterion == pytest.approx(here.criterion + moved, rel=1e-12)


def squares(y, groups):
    """SSB and SSW of a balanced design."""
    table = np.array([y[groups == j] for j in range(groups.max() + 1)])
    means = table.mean(axis=1)
    return table.shape[1] * ((means - y.mean()) ** 2).sum(), ((table - means[:, None]) ** 2).sum(), *table.shape


@pytest.mark.parametrize("seed", range(4))
def test_balanced_closed_forms(seed):
    """When positive, REML is the analysis of variance, and ML divides SSB by J in place of J - 1; the mean is the grand
    mean. Sums of 30 squares, written naively here: 1e-13."""
    y, groups, _ = simulate(seed, BALANCED, ratio=2.0)
    ssb, ssw, j, k = squares(y, groups)
    within = ssw / (j * (k - 1))
    expected = {
        "reml": max(0, (ssb / (j - 1) - within) / k),
        "anova": max(0, (ssb / (j - 1) - within) / k),
        "ml": max(0, (ssb / j - within) / k),
    }
    for method, between in expected.items():
        fit = jaxre.fit(y, groups, method=method)
        assert between > 0
        assert fit.between == pytest.approx(between, rel=1e-13), method
        assert fit.within == pytest.approx(within, rel=1e-13), method
        assert fit.beta[0] == pytest.approx(y.mean(), rel=1e-14), method
        assert fit.optima == 1


@pytest.mark.parametrize("small", [[1, 2, 3], [2] * 6])
def test_one_group_dominates(small):
    """400,000 rows beside groups of a few: n^2 - sum n_j^2 has 4 digits fewer than n^2. Whole numbers, so exact sums;
    their few roundings to doubles and the passes over the rows leave 1e-13."""
    sizes = [*small, 400_000]
    groups, n = labels(sizes), sum(sizes)
    y = np.random.default_rng(1).integers(-9, 10, size=n) + 3 * groups
    total = [Fraction(int(y[groups == j].sum())) for j in range(len(sizes))]
    explained = sum(s * s / k for s, k in zip(total, sizes, strict=True))
    inside = int((y * y).sum()) - explained
    within = inside / (n - len(sizes))
    between = explained - sum(total) ** 2 / n - (len(sizes) - 1) * within
    between *= Fraction(n, n * n - sum(k * k for k in sizes))
    fit = jaxre.fit(y, groups, method="anova")
    assert fit.between_untruncated == pytest.approx(float(between), rel=1e-13)
    assert fit.within == pytest.approx(float(within), rel=1e-13)
    fit = jaxre.fit(y, groups)
    with mpmath.workdps(60):
        means = [mpmath.mpf(int(s)) / k for s, k in zip(total, sizes, strict=True)]
        inside = mpmath.mpf(inside.numerator) / inside.denominator
    exact = dense.precise_ratio_of_moments(sizes, means, inside, fit.ratio, restricted=True)
    assert fit.ratio == pytest.approx(float(exact), rel=1e-13)


def test_balanced_boundary():
    """Where the analysis of variance is negative, the likelihoods end at exactly 0, and within is the variance of y."""
    y, groups = np.tile([1.0, 2.0, 4.0, 9.0], 3), labels([4] * 3)
    sst = ((y - 4) ** 2).sum()
    for method, count in (("reml", 11), ("ml", 12)):
        fit = jaxre.fit(y, groups, method=method)
        assert (fit.between, fit.status.name) == (0.0, "BOUNDARY")
        assert fit.within == pytest.approx(sst / count, rel=1e-14)
    untruncated = jaxre.fit(y, groups, method="anova").between_untruncated
    assert untruncated == pytest.approx(-sst / 9 / 4, rel=1e-14)  # SSB = 0


@methods
@pytest.mark.parametrize("sizes", [UNEQUAL, BALANCED, SIZES["one giant"]])
def test_predictions_sum_to_zero(sizes, method):
    """With an intercept, sum a_j = 0: its normal equation is sum w_j (ybar_j - x_j beta) = 0, and a_j is the ratio
    times each term."""
    y, groups, x = simulate(8, sizes, ratio=1.0, p=2)
    fit = jaxre.fit(y, groups, x, method=method)
    assert fit.between > 0
    assert abs(fit.blup.sum()) <= 1e-13 * abs(fit.blup).sum()


GRID = [(name, p, seed) for name in ("one giant", "three groups", "unequal") for p in (1, 2) for seed in range(6)]
SEVERAL = [(37, "ml"), (39, "ml"), (108, "reml")]  # two optima each, by that method


@likelihoods
@pytest.mark.parametrize(("name", "p", "seed"), GRID + [("one giant", 1, seed) for seed, _ in SEVERAL])
def test_no_grid_point_beats_the_estimate(name, p, seed, method):
    """Against 4,000 ratios from 0 to 1e9 / mean size, through eigenvalues; every minimum of the grid is an optimum that
    was counted. The profile is a sum of at most 109 logarithms: it rounds to 1e-11 of a nat at most."""
    y, groups, x = simulate(seed, SIZES[name], ratio=0.3, p=p)
    fit = jaxre.fit(y, groups, x, method=method)
    spectrum, restricted = dense.Spectrum.of(y, dense.design(len(y), x), groups), method == "reml"
    grid = dense.profile_grid(groups)
    value, slope = spectrum.profile(grid, restricted)
    assert fit.log_likelihood == pytest.approx(spectrum.log_likelihood(fit.ratio, restricted), abs=1e-11)
    assert spectrum.profile(fit.ratio, restricted)[0][0] <= value.min() + 1e-11
    minima = dense.local_minima(slope)
    assert fit.certified
    assert fit.optima == len(minima) + (slope[0] >= 0)
    interior = fit.optima_ratio[fit.optima_ratio > 0]
    assert ((grid[minima] <= interior) & (interior <= grid[minima + 1])).all()


@pytest.mark.parametrize(("seed", "method"), SEVERAL)
def test_the_designs_include_several_optima(seed, method):
    fit = jaxre.fit(*simulate(seed, SIZES["one giant"], ratio=0.3)[:2], method=method)
    assert fit.optima == 2
    assert fit.status.name.endswith("SEVERAL")
    assert 0 < fit.gap < np.inf


# Few degrees of freedom within beside those between: the profile is nearly flat in log lambda over decades.
FLAT = {"three pairs": [2] * 3, "ten pairs": [2] * 10, "two pairs": [2, 2], "a pair among singles": [1] * 10 + [2]}


@likelihoods
@pytest.mark.parametrize("ratio", [1.0, 1e2, 1e4, 1e8])
@pytest.mark.parametrize("sizes", FLAT.values(), ids=FLAT)
def test_flat_profiles_are_certified(sizes, ratio, method):
    """Duplicate measurements that agree to many digits, against a grid up to 1e14 / mean size."""
    for seed in range(5):
        y, groups, _ = simulate(seed, sizes, ratio=ratio)
        fit = jaxre.fit(y, groups, method=method)
        spectrum = dense.Spectrum.of(y, dense.design(len(y)), groups)
        value, slope = spectrum.profile(dense.profile_grid(groups, top=1e14), method == "reml")
        assert fit.certified
        assert fit.optima == len(dense.local_minima(slope)) + (slope[0] >= 0)
        assert spectrum.profile(fit.ratio, method == "reml")[0][0] <= value.min() + 1e-11  # as above


@pytest.mark.parametrize("digits", [3, 7, 11, 15])
def test_pairs_that_nearly_agree(digits):
    """One pair of three differs by d = 8^-digits: within = d^2 / 6 by hand, and REML is the analysis of variance. The
    differences are exact, hence 1e-14."""
    d = 8.0**-digits
    y, groups = [1.0, 1.0 + d, 2.0, 2.0, 3.0, 3.0], [0, 0, 1, 1, 2, 2]
    for method in METHODS:
        fit = jaxre.fit(y, groups, method=method)
        assert fit.certified
        assert fit.within == pytest.approx(d**2 / 6, rel=1e-14)
    means = np.array([1 + d / 2, 2, 3])
    assert jaxre.fit(y, groups).between == pytest.approx(means.var(ddof=1) - d**2 / 12, rel=1e-14)


@methods
@pytest.mark.parametrize("scale", [1e160, 1e-170, 1e300, 1e-300])
def test_what_leaves_the_range_of_doubles_is_said(scale, method):
    """Variances of 1e320 and 1e-340 are no doubles; they come back neither as infinity nor as 0."""
    y, groups, _ = simulate(9, UNEQUAL)
    with pytest.raises(ValueError, match=r"out of range.*power of ten"):
        jaxre.fit(y * scale, groups, method=method)
