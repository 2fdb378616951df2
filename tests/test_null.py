"""The simulated null of the likelihood-ratio tests: closed forms, brute force, and the p-values of other software."""

import dense
import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import EVERYDAY, IDENTIFIED, table
from scipy.special import chdtrc, fdtr, fdtrc
from slow import slow

import jaxre
from jaxre import Status
from jaxre.eager import BUCKETS
from jaxre.exact import f_test
from jaxre.null import (
    NORMALS,
    compared_with_null,
    drawn_coordinates,
    likelihood_ratio_statistic,
    likelihood_ratio_test,
    null_statistics,
)
from jaxre.null_design import concrete_design, traced_design
from jaxre.stacking import padded

pytestmark = pytest.mark.usefixtures("x64")

KEY_SEED = 5
F_TEST = jax.jit(f_test)
likelihoods = pytest.mark.parametrize("restricted", [True, False], ids=["reml", "ml"])


def strata_of(name, p=1, seed=3, ratio=0.5):
    return jaxre.stratify(designs.moments(*designs.simulate(seed, designs.SIZES[name], ratio, p=p)))


def key():
    return jax.random.key(KEY_SEED)


def drawn_alike(design, draws, largest_count):
    """The outcomes behind the first draws."""
    most = next((most for most in BUCKETS if largest_count <= most <= NORMALS), None)
    return jax.vmap(lambda i: drawn_coordinates(design, jax.random.fold_in(key(), i), most))(jnp.arange(draws))


def errors_apart(first, second, draws):
    """Difference of two shares in its standard errors; `draws` says of how many each is, infinity where it is exact."""
    pooled = (first + second) / 2 if np.isfinite(draws[1]) else second
    return abs(first - second) / np.sqrt(pooled * (1 - pooled) * sum(1 / n for n in draws))


def closed_form(squares, floor, groups, rows, restricted):
    """The statistic of a balanced one-way layout from its two sums of squares: the estimates are those of the analysis
    of variance, between MS_B / MS_W - 1 (or with SS_B / J for maximum likelihood) and within MS_W."""
    df1, n = (groups - 1, rows - 1) if restricted else (groups, rows)
    between, within = squares / df1, floor / (rows - groups)
    gain = n * np.log((squares + floor) / n) - df1 * np.log(between) - (n - df1) * np.log(within)
    return np.where(between > within, gain, 0)


@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("name", designs.SIZES)
def test_eigenvalues_are_those_of_the_dense_matrix(name, p):
    """From strata, strata that are padded, groups, and traced."""
    _, groups, covariates = designs.simulate(3, designs.SIZES[name], p=p)
    if name == "a continent and islands":  # the dense projector would have 4e8 entries
        groups = groups[19_900:]
        covariates = None if covariates is None else covariates[19_900:]
    y = np.random.default_rng(0).normal(size=len(groups))
    x, z = dense.design(len(y), covariates), dense.indicators(groups)
    basis = z - x @ np.linalg.lstsq(x, z)[0]
    nu = np.linalg.eigvalsh(z.T @ basis)
    moments = designs.moments(y, groups, covariates)
    strata = jaxre.stratify(moments)
    rank = int(len(np.unique(groups)) + strata.within_rank - p)
    everything = (
        concrete_design(strata, True),
        *(
            jax.jit(traced_design, static_argnums=1)(one, True)
            for one in (strata, padded(strata, len(strata.sizes) + 2), jaxre.stratify(padded(moments, len(z.T) + 3)))
        ),
    )
    for design in everything:
        spectrum = design.spectrum
        found = np.sort(np.repeat(spectrum.values, np.asarray(spectrum.counts, int)))
        np.testing.assert_allclose(found, nu[-rank:], atol=1e-12 * nu[-1], rtol=0)  # eps times the size of the matrix
        assert design.freedom == len(y) - np.linalg.matrix_rank(np.column_stack([x, z]))
    assert nu[:-rank].max() < 1e-9


@likelihoods
@pytest.mark.parametrize("sizes", [[5] * 6, [3] * 2, [2] * 40])
def test_balanced_draws_have_a_closed_form(sizes, restricted):
    strata = jaxre.stratify(designs.moments(*designs.simulate(1, sizes)[:2]))
    draws, design = 1000, concrete_design(strata, restricted)
    drawn = drawn_alike(design, draws, len(sizes) - 1)
    assert drawn.squares.shape == (draws, 1)
    expected = closed_form(drawn.squares[:, 0], drawn.floor, len(sizes), sum(sizes), restricted)
    found = null_statistics(strata, key(), draws, restricted=restricted)
    # a difference of numbers of the size of n
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14 * sum(sizes))
    np.testing.assert_array_equal(found == 0, expected == 0)


@likelihoods
def test_share_of_zeros_for_six_groups_of_five(restricted):
    """0 where MS_B <= MS_W, or SS_B / 6 <= MS_W: not in half of the draws, as the mixture has it."""
    draws = 100_000
    null = null_statistics(strata_of("balanced"), key(), draws, restricted=restricted)
    exact = fdtr(5, 24, 1.0 if restricted else 6 / 5)
    assert exact == pytest.approx(0.561 if restricted else 0.660, abs=1e-3)
    assert errors_apart(float((null == 0).mean()), exact, (draws, np.inf)) < 4
    assert compared_with_null(jnp.asarray(1.0), null).probability_of_zero == np.mean(np.asarray(null) == 0)


@likelihoods
def test_balanced_p_is_that_of_the_f_test(restricted):
    draws, positive = 40_000, 0
    null = null_statistics(strata_of("balanced"), key(), draws, restricted=restricted)
    for seed in range(12):
        strata = strata_of("balanced", seed=seed, ratio=0.1)
        test = compared_with_null(likelihood_ratio_statistic(strata, restricted), null)
        exact = float(F_TEST(strata).p_value)
        if test.statistic > 0:
            positive += 1
            assert errors_apart(float(test.p_value), exact, (draws, np.inf)) < 4
        else:
            assert (test.p_value, test.mc_error, test.p_asymptotic) == (1, 0, 1)
    assert 3 < positive < 12


@pytest.mark.parametrize(("name", "p"), [("one giant", 1), slow("unequal", 3)])
@likelihoods
def test_draws_are_the_highest_point_of_their_profile(name, p, restricted):
    """Against 4,000 points of f by its definition: no point is higher, and one comes as close as the mesh allows.

    With one giant group the full likelihood has draws with several optima."""
    strata, draws = strata_of(name, p), 400
    design = concrete_design(strata, restricted)
    spectrum, counts = design.spectrum, np.asarray(design.spectrum.counts, int)
    found = np.asarray(null_statistics(strata, key(), draws, restricted=restricted))
    drawn = drawn_alike(design, draws, counts.max())
    groups, several = designs.labels(designs.SIZES[name]), 0
    sizes, nu = np.bincount(groups).astype(float), np.repeat(spectrum.values, counts)
    grid = dense.profile_grid(groups)
    for statistic, squares, floor in zip(found, drawn.squares, drawn.floor, strict=True):
        t = np.repeat(squares / np.maximum(counts, 1), counts)
        f, slope = dense.Spectrum(floor, t, nu, sizes, len(groups), p, 0.0).profile(grid, restricted)
        several += len(dense.local_minima(slope)) + (slope[0] >= 0) > 1
        best = (f[0] - f).max()
        assert best - 1e-12 <= statistic <= best * (1 + 1e-3) + 1e-4
    assert several > 0 or name != "one giant" or restricted


@pytest.mark.slow
def test_null_is_that_of_datasets_drawn_row_by_row():
    """Normal rows over an unequal design with a covariate, each dataset fitted: shares of 0 and beyond three points."""
    _, groups, x = designs.simulate(1, designs.SIZES["pairs of sizes"], p=2)
    rows = np.random.default_rng(8).normal(size=(4000, len(groups)))
    of_one = lambda y: likelihood_ratio_statistic(jaxre.group_moments(y, groups, x, num_groups=6), restricted=False)
    fitted = np.asarray(jax.jit(jax.vmap(of_one))(rows))
    null = np.asarray(null_statistics(designs.moments(rows[0], groups, x), key(), 20_000, restricted=False))
    for point in (0.0, 0.3, 1.0, 3.0):
        shares = [float((sample > point).mean()) for sample in (fitted, null)]
        assert errors_apart(*shares, (len(fitted), len(null))) < 4, point


def case_strata(case):
    data = table(case["id"])
    codes = np.unique(data.groups, return_inverse=True)[1]
    return jaxre.stratify(designs.moments(data.values, codes, data.covariates))


# no more programs than two are compiled for these
FEW_SIZES = [
    case
    for case in IDENTIFIED
    if len(case["coefficients"]) == 1
    and len(np.unique(np.unique(table(case["id"]).groups, return_counts=True)[1])) <= 16
]


@pytest.mark.parametrize("case", FEW_SIZES, ids=lambda case: case["id"])
def test_statistics_of_the_reference_cases(case):
    """25 digits; the statistic is a difference of n log Q and L, each right to some eps of n and of itself."""
    strata = case_strata(case)
    strata = strata if len(strata.sizes) == 1 else padded(strata, 16)
    for name, restricted in (("reml", True), ("ml", False)):
        expected = float(case[name]["likelihood_ratio"])
        found = likelihood_ratio_statistic(strata, restricted)
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-14 * case["n"])
        assert (found == 0) == (float(case[name]["ratio"]) == 0)


FEW = [case for case in EVERYDAY if len(case["coefficients"]) == 1][:6]
SIMULATED = [
    pytest.param(case, name, id=f"{case['id']}-{name}", marks=[pytest.mark.slow] * (case not in FEW))
    for case in IDENTIFIED
    for name in ("rlrt", "lrt")
    if name in case and case[name]["statistic"] > 0 and 0 < case[name].get("p_simulated_1e5", 0) < 1
]


@pytest.mark.parametrize(("case", "name"), SIMULATED)
def test_p_of_the_reference_cases(case, name):
    """Of the statistics that other software found, against its 100,000 simulations: 4 combined Monte-Carlo errors."""
    draws, statistic, expected = 100_000, case[name]["statistic"], case[name]["p_simulated_1e5"]
    null = null_statistics(case_strata(case), key(), draws, restricted=name == "rlrt")
    test = compared_with_null(jnp.asarray(statistic), null)
    assert errors_apart(float(test.p_value), expected, (draws, draws)) < 4
    assert test.p_value == pytest.approx((np.asarray(null) >= statistic).sum() / draws, rel=4e-16)
    assert test.mc_error == pytest.approx(np.sqrt(test.p_value * (1 - test.p_value) / draws), rel=1e-12)
    assert test.p_asymptotic == pytest.approx(chdtrc(1, statistic) / 2, rel=1e-12)


def test_the_key_decides():
    strata = strata_of("unequal")
    first = null_statistics(strata, key(), 500)
    np.testing.assert_array_equal(first, null_statistics(strata, key(), 500))
    np.testing.assert_array_equal(first[:70], null_statistics(strata, key(), 70))  # draw i depends on i alone
    assert (first != null_statistics(strata, jax.random.key(KEY_SEED + 1), 500)).any()
    assert (np.diff(np.sort(first[first > 0])) > 0).all()  # no draw twice


def test_the_outcome_plays_no_part():
    _, groups, x = designs.simulate(7, designs.SIZES["unequal"], p=2)
    one, other = (np.random.default_rng(seed).normal(size=len(groups)) for seed in (1, 2))
    draws = [null_statistics(designs.moments(y, groups, x), key(), 500) for y in (one, 1000 * other)]
    # covariates are rotated by the same matrix whatever the outcome
    np.testing.assert_allclose(*draws, rtol=1e-9, atol=1e-12)


def assert_one_distribution(found, concrete):
    for point in (0.0, 0.3, 1.0, 3.0):
        shares = [float((np.asarray(sample) > point).mean()) for sample in (found, concrete)]
        assert errors_apart(*shares, (len(found), len(concrete))) < 4, point


@pytest.mark.slow
def test_traced_strata_have_the_same_null():
    """How many groups a stratum has is not known when tracing; here some share an eigenvalue."""
    moments = jax.tree.map(jnp.asarray, strata_of("balanced", p=3))
    found = jax.jit(null_statistics, static_argnums=2)(moments, key(), 3000)
    assert found.shape == (3000,)
    assert_one_distribution(found, null_statistics(moments, jax.random.key(77), 100_000))


def test_batch_with_bad_datasets():
    """By group, sizes concrete and the rest traced. Datasets without an estimate give NaN, and spoil no other."""
    y, groups, _ = designs.simulate(31, designs.SIZES["unequal"], ratio=1.0)
    flat = np.concatenate([np.linspace(-1, 1, k) for k in designs.SIZES["unequal"]])  # group means 0: on the boundary
    rows = np.stack([y, np.where(np.arange(len(y)) == 4, np.nan, y), flat, np.full(len(y), 0.1), groups + 0.5])

    @jax.jit
    @jax.vmap
    def of_batch(y):
        moments = jaxre.group_moments(y, groups, num_groups=6)
        null = null_statistics(moments, key(), 5000)
        return compared_with_null(likelihood_ratio_statistic(moments), null), null

    tests, null = of_batch(rows)
    good = np.array([True, False, True, False, False])
    for leaf in jax.tree.leaves(tests):
        np.testing.assert_array_equal(np.isfinite(leaf), good)
    concrete = designs.moments(y, groups)
    assert_one_distribution(null[0], null_statistics(concrete, jax.random.key(77), 100_000))
    assert tests.statistic[0] == pytest.approx(float(likelihood_ratio_statistic(concrete)), rel=1e-11)
    assert (tests.statistic[2], tests.p_value[2], tests.mc_error[2], tests.p_asymptotic[2]) == (0, 1, 0, 1)
    for row in rows[[1, 3, 4]]:
        moments = designs.moments(row, groups)
        assert moments.status >= Status.UNBOUNDED
        assert all(np.isnan(leaf) for leaf in jax.tree.leaves(likelihood_ratio_test(moments, key(), draws=10)))


def test_p_is_exactly_1_at_the_boundary():
    """However many draws: 49 times 1 / 49 is less than 1."""
    y, groups = np.array([1.0, 3.0, 0.0, 4.0, -1.0, 5.0]), designs.labels([2] * 3)
    test = likelihood_ratio_test(designs.moments(y, groups), key(), draws=49)
    assert (test.statistic, test.p_value, test.mc_error, test.p_asymptotic) == (0, 1, 0, 1)


def test_single_precision():
    y, groups, _ = designs.simulate(5, designs.SIZES["balanced"])
    with jax.enable_x64(False):
        moments = jaxre.group_moments(y.astype(np.float32), groups, num_groups=6)
        test = likelihood_ratio_test(moments, key(), draws=20_000)
        assert {leaf.dtype for leaf in jax.tree.leaves(test)} == {np.dtype(np.float32)}
    strata = jaxre.stratify(designs.moments(y, groups))
    assert test.statistic == pytest.approx(float(likelihood_ratio_statistic(strata)), abs=1e-4)  # eps n
    assert errors_apart(float(test.p_value), fdtrc(5, 24, float(F_TEST(strata).statistic)), (20_000, np.inf)) < 4


@pytest.mark.parametrize("draws", [0, -3])
def test_no_draws_are_refused(draws):
    with pytest.raises(ValueError, match="draws must be at least 1, got"):
        null_statistics(strata_of("unequal"), key(), draws)


def test_draws_are_a_whole_number():
    for draws in (1.5, None, "10", True):
        with pytest.raises(TypeError, match="draws must be a whole number, got"):
            null_statistics(strata_of("unequal"), key(), draws)


def test_inside_jit_with_concrete_groups(rng):
    """As a pipeline has it: traced values, known sizes. The statistic is the same, the p-value but for the draws."""
    groups = designs.labels([4, 2, 3, 4])
    values = rng.normal(size=13) + groups / 2
    for restricted in (True, False):
        test = lambda y, k=restricted: likelihood_ratio_test(
            jaxre.group_moments(y, groups), key(), draws=2000, restricted=k
        )
        outside, inside = test(values), jax.jit(test)(values)
        assert float(inside.statistic) == pytest.approx(float(outside.statistic), rel=1e-9, abs=1e-12)
        assert abs(inside.p_value - outside.p_value) < 4 * np.sqrt(2 * 0.25 / 2000)  # at most


def test_other_than_moments_are_refused():
    for function in (likelihood_ratio_test, null_statistics):
        with pytest.raises(TypeError, match="GroupMoments or Strata"):
            function(np.ones(3), key())
