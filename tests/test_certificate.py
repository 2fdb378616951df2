"""The certificate against grids: every local optimum is found, none is invented, and the bounds of the proof hold."""

import dataclasses

import dense
import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxre
from jaxre import Status
from jaxre.certificate import find_basins
from jaxre.curve import curve
from jaxre.effects import normal_equations
from jaxre.intervals import facts_of, largest_gap
from jaxre.profile import Profile, profile
from jaxre.search import whole_search
from jaxre.spectrum import Coordinates, Proof, Spectrum, spectral_curve

pytestmark = pytest.mark.usefixtures("x64")

DATASETS = 25
ESTIMATE = {method: jax.jit(jax.vmap(estimator)) for method, estimator in {"ml": jaxre.ml, "reml": jaxre.reml}.items()}
BASINS = jax.jit(
    jax.vmap(lambda strata, restricted: find_basins(curve(normal_equations(strata), restricted)), (0, None)),
    static_argnums=1,
)
PROFILES = jax.jit(
    jax.vmap(lambda strata, ratio, restricted: profile(normal_equations(strata), ratio, restricted), (None, 0, None)),
    static_argnums=2,
)
SEARCH = jax.jit(lambda data: whole_search(spectral_curve(data)))


def draw(design, p, first=0):
    """Datasets whose true ratio runs over 0, 0.1, 1 and 10."""
    return [designs.simulate(first + i, designs.SIZES[design], (0, 0.1, 1, 10)[i % 4], p) for i in range(DATASETS)]


def assert_optima_are_those_of_the_grid(spectrum, grid, restricted, estimate):
    """Each reported optimum is a minimum of f, and each minimum that the grid shows is reported."""
    f, slope = spectrum.profile(grid, restricted)
    reported = np.sort(estimate.optima_ratio[~np.isnan(estimate.optima_ratio)])
    assert len(reported) == estimate.optima
    assert slope[-1] > 0  # the grid reaches beyond the last optimum
    assert (slope[0] >= 0) == (0 in reported)
    interior = reported[reported > 0]
    aside = 1e-7  # far above the error of an optimum, far below the distance of two
    assert (spectrum.profile(interior * (1 - aside), restricted)[1] < 0).all()
    assert (spectrum.profile(interior * (1 + aside), restricted)[1] > 0).all()
    cells = np.searchsorted(grid, interior) - 1
    assert set(dense.local_minima(slope)) <= set(cells)
    assert spectrum.profile(float(estimate.ratio), restricted)[0][0] <= f.min() + spectrum.rounding  # none is better


def assert_proven(design, p, method, first=0):
    datasets = draw(design, p, first)
    estimates = jax.tree.map(np.asarray, ESTIMATE[method](designs.stack([designs.strata(*data) for data in datasets])))
    restricted = method == "reml"
    for i, (y, groups, covariates) in enumerate(datasets):
        estimate = jax.tree.map(lambda leaf, i=i: leaf[i], estimates)
        spectrum = dense.Spectrum.of(y, dense.design(len(y), covariates), groups)
        assert estimate.certified
        assert_optima_are_those_of_the_grid(spectrum, dense.profile_grid(groups), restricted, estimate)
        boundary, several = estimate.ratio == 0, estimate.optima > 1
        assert estimate.status == (Status.BOUNDARY if boundary else Status.INTERIOR) + (2 if several else 0)
        at_best = spectrum.log_likelihood(float(estimate.ratio), restricted)
        assert estimate.log_likelihood == pytest.approx(at_best, rel=1e-10)  # eigenvalues of 31 groups, 20,000 rows
        if several:  # the gap is that of the grid's own f
            values = np.sort(spectrum.profile(estimate.optima_ratio, restricted)[0])
            assert estimate.gap == pytest.approx(values[1] - values[0], abs=spectrum.rounding)
        else:
            assert np.isinf(estimate.gap)


@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("method", ["ml", "reml"])
@pytest.mark.parametrize("design", designs.SIZES)
def test_every_optimum_is_found_and_proven(design, p, method):
    assert_proven(design, p, method)


@pytest.mark.parametrize(
    ("design", "p", "method", "seed", "ratio"),
    [
        ("balanced", 3, "ml", 55, 10),
        ("pairs of sizes", 3, "ml", 55, 10),
        ("one giant", 1, "reml", 1853, 0.1),
        ("pairs of sizes", 1, "ml", 1248, 0),
    ],
)
def test_likelihoods_that_are_nearly_flat_are_settled(design, p, method, seed, ratio):
    """About one dataset in 2,000 has a stretch with f' near 0, where the bounds need hundreds of intervals."""
    datasets = [designs.simulate(seed, designs.SIZES[design], ratio, p)] * DATASETS
    estimates = ESTIMATE[method](designs.stack([designs.strata(*data) for data in datasets]))
    estimate = jax.tree.map(lambda leaf: np.asarray(leaf)[0], estimates)
    y, groups, covariates = datasets[0]
    spectrum = dense.Spectrum.of(y, dense.design(len(y), covariates), groups)
    assert estimate.certified
    assert_optima_are_those_of_the_grid(spectrum, dense.profile_grid(groups), method == "reml", estimate)


@pytest.mark.parametrize("method", ["ml", "reml"])
def test_several_optima_occur_and_are_counted(method):
    """The designs above are not all easy: in the one with a giant, ML often has two optima."""
    estimates = ESTIMATE[method](designs.stack([designs.strata(*data) for data in draw("one giant", 1)]))
    several = (np.asarray(estimates.optima) > 1).sum()
    assert (several >= 3) == (method == "ml")


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("design", ["one giant", "pairs of sizes", "a continent and islands"])
def test_bounds_of_the_proof_hold(design, p, restricted):
    y, groups, covariates = designs.simulate(11, designs.SIZES[design], p=p)
    strata = designs.strata(y, groups, covariates)
    n = len(y) - (p if restricted else 0)
    rng = np.random.default_rng(p)
    ratios = np.sort(np.append(0, np.expm1(rng.uniform(0, np.log1p(1e6), 299)) / (len(y) / groups.max())))
    at = jax.tree.map(np.asarray, PROFILES(strata, ratios, restricted))
    of = curve(normal_equations(strata), restricted)
    facts = jax.tree.map(np.asarray, facts_of(Profile(*map(jnp.asarray, at)), of))
    slope = n * at.quadratic_1 / at.quadratic + at.log_det_1
    room = 32 * np.finfo(float).eps * (n * -at.quadratic_1 / at.quadratic + at.log_det_1)  # rounding of the two terms

    a, c, b = np.sort(rng.integers(0, 300, size=(3, 5000)), axis=0)
    lower = n * at.quadratic_1[a] / at.quadratic[b] + at.log_det_1[b]
    upper = n * at.quadratic_1[b] / at.quadratic[a] + at.log_det_1[a]
    assert (slope[c] >= lower - room[c]).all()
    assert (slope[c] <= upper + room[c]).all()

    falls = lambda f, digits: (np.diff(f) <= digits * np.abs(f[:-1])).all()
    clean = 1e-12  # sums over strata; the second derivatives lose a few digits more to the projection on X
    assert falls(at.quadratic, clean)
    assert falls(-at.quadratic_1, clean)
    assert falls(at.log_det_1, clean)
    assert falls(at.quadratic_2, 1e-9)
    assert falls(-at.log_det_2, 1e-9)
    assert falls(-at.quadratic_2 / at.quadratic_1, 1e-9)
    assert falls(-at.log_det_2 / at.log_det_1, 1e-9)

    e, need, fall = facts.bend, facts.need, facts.fall  # e above its tangents, l below its chords
    sunk, risen = fall[a] * (ratios[c] - ratios[a]), fall[b] * (ratios[b] - ratios[c])
    assert (e[c] >= e[a] - sunk - 1e-9 * (e[a] + sunk)).all()
    assert (e[c] >= e[b] + risen - 1e-9 * e[c]).all()
    share = (ratios[c] - ratios[a]) / np.where(b > a, ratios[b] - ratios[a], 1)
    assert (need[c] <= (1 - share) * need[a] + share * need[b] + 1e-9 * need[a]).all()
    gaps = jax.vmap(largest_gap, (0, 0, None))
    between = lambda a, b: np.asarray(gaps(*(jax.tree.map(lambda x, i=i: x[i], facts) for i in (a, b)), of))
    gap = between(a, b)
    assert (need[c] - e[c] <= gap).all()
    assert (gap <= need[a] - e[b] + 1e-9 * need[a]).all()  # so no worse than from monotone e and l alone
    a = np.arange(299)
    b = np.minimum(np.searchsorted(1 + ratios * groups.max(), 2.5 * (1 + ratios[a] * groups.max())), 299)  # a stride
    doubtful = (need[a] > e[b]) & (e[a] > 1.6 * need[a]) & (e[b] > 1.6 * need[b])
    assert (between(a, b)[doubtful] < 0).mean() > 0.9  # and better
    assert doubtful.sum() > 30

    floor = at.quadratic[0] - at.excess[0]
    tail = ratios[a] * at.log_det_1[a] - n * at.excess[a] / floor
    assert (ratios[b] * slope[b] >= tail - 1e-9 * (1 + np.abs(tail))).all()  # cancellation where both terms are large


def test_weights_whose_fourth_powers_vanish_prove_nothing_more():
    """In single precision with weights of 1e-10, by ML: F crosses 0 at 2.30e8, 1.09e9, 2.00e9 and 3.70e9."""
    strata = jaxre.stratify(jaxre.group_moments(np.arange(8.0, dtype=np.float32), np.repeat(np.arange(4), 2)))
    table = np.column_stack([np.ones(4), [0.32625195384, 0.04957184196, 0.00714635337, -0.00744718360]])
    numbers = {
        "rows": 118.0,
        "sizes": 1e-10 * np.array([1.0, 7, 10, 100]),
        "counts": np.ones(4),
        "means": table,
        "scatter": None,
        "within_cross": np.diag([0, 1e-10]),
    }
    single = lambda leaf: None if leaf is None else np.asarray(leaf, np.float32)
    strata = dataclasses.replace(strata, **{name: single(leaf) for name, leaf in numbers.items()})
    basins = jax.jit(lambda one: find_basins(curve(normal_equations(one), False)))(strata)
    assert basins.low.dtype == np.float32
    assert basins.zero_is_optimum + basins.count == 3 or np.isfinite(basins.unresolved) or not basins.complete


@pytest.mark.parametrize("restricted", [False, True])
def test_basins_hold_one_minimum_each_and_zero_is_judged_by_its_slope(restricted):
    datasets = draw("one giant", p=3)
    basins = BASINS(designs.stack([designs.strata(*data) for data in datasets]), restricted)
    assert np.asarray(basins.complete).all()
    for i, (y, groups, covariates) in enumerate(datasets):
        spectrum = dense.Spectrum.of(y, dense.design(len(y), covariates), groups)
        slope = lambda ratio, spectrum=spectrum: spectrum.profile(ratio, restricted)[1]
        assert basins.zero_is_optimum[i] == (slope(0.0)[0] >= 0)
        minima = 0
        for j in range(basins.count[i]):
            inside = np.linspace(basins.low[i, j], basins.high[i, j], 2000)
            minima += len(dense.local_minima(slope(inside)))
            assert basins.low[i, j] <= basins.start[i, j] <= basins.high[i, j]
        assert minima == basins.count[i] == len(dense.local_minima(slope(dense.profile_grid(groups))))


@pytest.mark.parametrize("method", ["ml", "reml"])
@pytest.mark.parametrize("design", ["balanced", "unequal"])
def test_an_intraclass_correlation_next_to_one_is_found(design, method):
    """within = 1e-12 between: the optimum lies at a ratio of 1e12, and no fixed end of a search would reach it."""
    datasets = []
    for seed in range(DATASETS):
        y, groups, _ = designs.simulate(seed, designs.SIZES[design], ratio=0)
        effects = np.random.default_rng(seed).normal(size=6)
        datasets.append((effects[groups] + 1e-6 * y, groups))
    estimates = ESTIMATE[method](designs.stack([designs.strata(*data) for data in datasets]))
    assert np.asarray(estimates.certified).all()
    assert (np.asarray(estimates.status) == Status.INTERIOR).all()
    for (y, groups), ratio in zip(datasets[:4], np.asarray(estimates.ratio), strict=False):
        exact = dense.precise_ratio(y, groups, ratio, method == "reml")
        assert 1e11 < ratio < 1e13
        assert ratio == pytest.approx(float(exact), rel=1e-13)  # data are exact; 21 terms and one division


@pytest.mark.parametrize("method", ["ml", "reml"])
@pytest.mark.parametrize("p", [1, 3])
def test_the_boundary_is_exactly_zero(method, p):
    """Residuals with no variation between groups at all: the optimum is 0, not 1e-9."""
    datasets = []
    for seed in range(DATASETS):
        y, groups, covariates = designs.simulate(seed, designs.SIZES["unequal"], ratio=0, p=p)
        inside = None if covariates is None else dense.centre(covariates, groups)
        datasets.append((dense.centre(y, groups), groups, inside))
    estimates = ESTIMATE[method](designs.stack([designs.strata(*data) for data in datasets]))
    assert (np.asarray(estimates.between) == 0).all()
    assert (np.asarray(estimates.icc) == 0).all()
    assert (np.asarray(estimates.status) == Status.BOUNDARY).all()
    assert np.asarray(estimates.certified).all()
    n = len(datasets[0][0]) - (p if method == "reml" else 0)
    for (y, _, x), within in zip(datasets, np.asarray(estimates.within), strict=True):
        full = dense.design(len(y), x)
        residual = y - full @ np.linalg.lstsq(full, y)[0]
        assert within == pytest.approx(residual @ residual / n, rel=1e-13)  # least squares in both


@pytest.mark.parametrize(("push", "certified"), [(0, False), (1e-9, True), (-1e-9, True), (1e-6, True), (-1e-6, True)])
def test_a_root_of_the_score_that_is_nearly_triple(push, certified):
    """Where f, f' and f'' vanish together f' is nothing but rounding: the point is found, and not called proven.

    Q = 1 + sum t_i / (1 + lambda nu_i); t solves F = F' = F'' = 0 at `place`, linear in t. Its error is of the order of
    the cube root of eps, 6e-6, times a condition of some tens; pushed aside, the root is single and moves.
    """
    nu, n, place = jnp.array([1.0, 6.0, 60.0]), 9.0, 0.0525217251966192

    def f_at(t, ratio):
        root = lambda r: (
            1 + (t / (1 + r * nu)).sum() - n * (t * nu / (1 + r * nu) ** 2).sum() / (nu / (1 + r * nu)).sum()
        )
        return jnp.array([root(ratio), jax.grad(root)(ratio), jax.grad(jax.grad(root))(ratio)])

    zero = jnp.zeros(3)
    t = jnp.linalg.solve(jax.jacfwd(f_at)(zero, place), -f_at(zero, place)) * (1 + push * jnp.array([1.0, -1.0, 1.0]))
    assert (t > 0).all()
    one, nothing = jnp.ones(3), jnp.zeros((1, 3))
    spectrum = Spectrum(
        rows=jnp.float64(12),
        degrees=jnp.float64(n),
        values=nu,
        counts=one,
        log_values=nu,
        log_counts=one,
        size=jnp.float64(8),
        largest=jnp.float64(60),
        proof=Proof(slope=nothing, low=nothing, high=nothing),
    )
    outcome = Coordinates(squares=t, floor=jnp.float64(1), valid=jnp.array(True))
    found = SEARCH((spectrum, outcome))
    assert found.optima == 1
    assert bool(found.certified) == certified
    assert found.ratio == pytest.approx(place, rel=0.03 if push else 1e-3)
    # what the certificate takes for the rounding of F, 64 eps of the 3.5 that its terms add up to
    assert abs(f_at(t, found.ratio)[0]) < 64 * np.finfo(float).eps * 3.5
