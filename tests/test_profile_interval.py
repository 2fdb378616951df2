"""Profile-likelihood intervals: published digits, closed forms of balanced data, and a slow twin in dense matrices."""

import functools

import dense
import designs
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from profile_twin import Twin
from reference import CASES, EVERYDAY, table
from scipy.stats import chi2
from slopes import slopes
from slow import but_for, slow

import jaxre
from jaxre import datasets
from jaxre.curve import curve
from jaxre.edges import families_of
from jaxre.effects import normal_equations
from jaxre.extremes import quick_extremes, whole_extremes
from jaxre.level_set import FINE, LevelSet, log_within_edges
from jaxre.profile_interval import PARAMETERS, ProfileInterval, profile_interval, profile_intervals
from jaxre.stacking import padded

pytestmark = pytest.mark.usefixtures("x64")

LIMIT = chi2.ppf(0.95, 1)
COLLINEAR = "n19_near_collinear_1e-7"  # 1e-7 between two covariates leaves the other program 4 digits
WITH_PROFILE = [case for case in CASES if "profile_interval_ml_95" in case and case["id"] != COLLINEAR]


@functools.cache
def compiled(parameters, restricted=False):
    run = functools.partial(profile_intervals, restricted=restricted)
    return jax.jit(lambda strata, level: run(strata, parameters, level))


def intervals(strata, parameters, level=0.95, restricted=False):
    """{parameter: (low, high)}, all of them settled."""
    found = compiled(parameters, restricted)(strata, level)
    assert all(one.settled for one in found)
    return {name: (float(one.low), float(one.high)) for name, one in zip(parameters, found, strict=True)}


def every(strata, level=0.95, restricted=False):
    return intervals(strata, PARAMETERS if restricted else (*PARAMETERS, 0), level, restricted)


def strata_of(name):
    data = datasets.load(name)
    moments = jaxre.group_moments(data.columns[data.outcome], data.columns[data.group])
    return padded(jaxre.stratify(moments), designs.PADDED)


def test_dyestuff():
    """Published to four decimals: the profile interval of the between standard deviation."""
    assert every(strata_of("dyestuff"))["sd_between"] == pytest.approx((12.1965, 84.0634), abs=5e-5)


@pytest.mark.parametrize("case", but_for(WITH_PROFILE, EVERYDAY), ids=lambda case: case["id"])
def test_reference(case):
    """Computed in double precision by another program: 1e-10 of the width, or the last digit of the end."""
    data, expected = table(case["id"]), case["profile_interval_ml_95"]
    p = len(case["coefficients"])
    moments = jaxre.group_moments(data.values, data.groups, data.covariates)
    strata = jaxre.stratify(moments)
    most = 1 << (max(len(strata.sizes), designs.PADDED) - 1).bit_length()  # so that most cases share a program
    strata = padded(strata, most)
    found = profile_intervals(strata, ("sd_between", "sd_within", *range(p)))
    for one, true in zip(found, expected.values(), strict=True):
        allowed = 1e-10 * (true[1] - true[0]) + np.spacing(np.abs(true).max())
        assert one.settled
        assert abs(np.array([one.low, one.high]) - true).max() <= allowed
        assert (one.low == 0) == (true[0] == 0)


def test_the_reference_set_is_whole():
    assert len(WITH_PROFILE) == 79


@pytest.mark.parametrize(("name", "place"), [("within", 0), ("between", 1)])
def test_near_collinear(name, place):
    """-2 log L in 40 digits at the ends, less its minimum, is the limit to the condition, 1e7, times rounding."""
    data = table(COLLINEAR)
    moments = jaxre.group_moments(data.values, data.groups, data.covariates)
    estimate, (interval,) = jaxre.ml(moments), profile_intervals(moments, [name])
    with mpmath.workdps(40):
        fall = dense.precise_fall(data.values, data.groups, data.covariates)
        best = [mpmath.log(float(one)) for one in (estimate.within, estimate.between)]
        for end in (interval.low, interval.high):
            fixed = mpmath.log(float(end))
            along = lambda other, fixed=fixed: fall(other, fixed) if place else fall(fixed, other)
            other = mpmath.findroot(lambda log, along=along: mpmath.diff(along, log), best[1 - place], tol=1e-20)
            assert float(along(other) - fall(*best)) == pytest.approx(LIMIT, abs=1e-9)


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.9999])
@pytest.mark.parametrize("seed", [5, 7])
def test_balanced_closed_forms(seed, level, restricted):
    """With s = within + k between, -2 log L is a function of within plus one of s, so each has its own limit:
    J (k - 1) log within + SSW / within and N_s log s + SSB / s, N_s = J or J - 1; a mean of ybar + d adds n d^2 to SSB.
    True while the other one, at its optimum, leaves between positive."""
    j, k = 7, 4
    y, groups, _ = designs.simulate(seed, [k] * j, 20.0)
    inner = sum(((y[groups == i] - y[groups == i].mean()) ** 2).sum() for i in range(j))
    outer = k * ((y.reshape(j, k).mean(axis=1) - y.mean()) ** 2).sum()
    count = j - restricted
    limit = mpmath.mpf(chi2.ppf(level, 1))

    def ends(squares, n):
        """The two roots of n log v + squares / v less its minimum = limit."""
        branches = [-mpmath.lambertw(-mpmath.exp(-1 - limit / n), branch) for branch in (-1, 0)]
        return [float(squares / n / mpmath.re(branch)) for branch in branches]

    with mpmath.workdps(30):
        within, of_s = ends(inner, j * (k - 1)), ends(outer, count)
        reach = float(mpmath.sqrt(outer / (j * k) * mpmath.expm1(limit / count)))
    assert of_s[0] > within[1]  # between stays positive
    found = every(designs.strata(y, groups), level, restricted)
    assert found["within"] == pytest.approx(within, rel=1e-12)
    assert found["sd_within"] == pytest.approx(np.sqrt(within), rel=1e-12)
    if not restricted:
        assert found[0] == pytest.approx((y.mean() - reach, y.mean() + reach), rel=1e-12)

    def fall(ratio):
        """-2 log L, within profiled out, less its minimum."""
        at = lambda growth: (j * (k - 1) + count) * mpmath.log(inner + outer / growth) + count * mpmath.log(growth)
        return at(1 + k * ratio) - at((outer / count) / (inner / (j * (k - 1))))

    for end in found["ratio"]:
        with mpmath.workdps(30):
            root = mpmath.findroot(lambda ratio: fall(ratio) - limit, mpmath.mpf(end))
        assert end == pytest.approx(float(root), rel=1e-12)


def scan(name, low, high):
    """Values of a parameter that reach well beyond both ends."""
    if isinstance(name, int):
        return np.linspace(low - (high - low), high + (high - low), 122)  # neither end is one of them
    values = np.geomspace((low if low > 0 else 1e-3 * high) / 30, 30 * high, 201)
    return np.concatenate([[0.0], values]) if name in ("ratio", "between") else values


def against_twin(twin, name, interval, limit):
    """Both ends to 1e-8 (the twin's bisection of a minimum), and how many pieces a dense scan shows."""
    low, high = float(interval.low), float(interval.high)
    true_low, true_high, pieces = twin.region(name, limit, scan(name, low, high))
    scale = abs(true_high - true_low) if isinstance(name, int) else 0
    assert low == pytest.approx(true_low, rel=1e-8, abs=1e-8 * scale)
    assert high == pytest.approx(true_high, rel=1e-8, abs=1e-8 * scale)
    assert bool(interval.pieces) == (pieces > 1)
    assert interval.settled
    return pieces


SMALL = {name: designs.SIZES[name] for name in ("one giant", "three groups", "unequal")} | {"pairs": [2, 2, 3]}


@pytest.mark.parametrize("name", but_for(SMALL, ("one giant", "unequal")))
@pytest.mark.parametrize("restricted", [False, slow(True)])
@pytest.mark.parametrize(("ratio", "level"), [(0.0, 0.95), (0.5, 0.99), (30.0, 0.9)])
def test_twin(name, restricted, ratio, level):
    y, groups, _ = designs.simulate(len(name), SMALL[name], ratio)
    parameters = PARAMETERS if restricted else (*PARAMETERS, 0)
    found = dict(zip(parameters, compiled(parameters, restricted)(designs.strata(y, groups), level), strict=True))
    twin = Twin(y, groups, restricted=restricted)
    for parameter in ("ratio", "between", "within", "total", *(() if restricted else (0,))):
        against_twin(twin, parameter, found[parameter], chi2.ppf(level, 1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_twin_with_a_covariate(seed):
    y, groups, x = designs.simulate(seed, designs.SIZES["unequal"], seed * 1.0, p=2)
    parameters = ("between", "within", 0, 1)
    found = compiled(parameters)(designs.strata(y, groups, x), 0.95)
    twin = Twin(y, groups, x)
    for parameter, interval in zip(parameters, found, strict=True):
        against_twin(twin, parameter, interval, LIMIT)


MANY = [1, 1, 1, 1, 13, 13]
IN_PIECES = {"ratio": 1, "two pieces": 2}


@pytest.mark.parametrize("r", [1e-16, 1e-9, 1e-3, 0.3, 4.0, 60.0])
def test_log_within_edges(r):
    """u + exp(-u) - 1 = r by Lambert's function; the absolute error is what counts, since u is a logarithm."""
    with mpmath.workdps(40):
        roots = [-mpmath.log(-mpmath.re(mpmath.lambertw(-mpmath.exp(-1 - mpmath.mpf(r)), k))) for k in (-1, 0)]
    assert log_within_edges(jnp.array(r)) == pytest.approx([float(root) for root in roots], abs=2e-15, rel=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_close_look_agrees_with_a_quick_one(seed):
    """Where both settle the matter: the same ends of S and the same extremes, whose place is known to a square root."""
    strata = designs.strata(*designs.simulate(seed, designs.SIZES["unequal"], 0.4 * seed))

    @jax.jit
    def both(strata):
        equations, estimate = normal_equations(strata), jaxre.ml(strata)
        of_data = curve(equations, False)
        level = LevelSet(of_data, of_data.at(estimate.ratio), jnp.asarray(LIMIT), FINE)
        families = families_of(equations, ("between", "within"), (0,), fixed=True)
        return quick_extremes(level, families, estimate.optima > 1), whole_extremes(
            level, families, estimate.optima_ratio
        )

    quick, whole = both(strata)
    assert quick.settled
    assert whole.settled
    np.testing.assert_allclose(quick.ends, whole.ends, rtol=1e-12)
    np.testing.assert_allclose(quick.places, whole.places, rtol=1e-5)
    assert not quick.pieces.any()
    assert not whole.pieces.any()


def test_boundary():
    """The estimate is 0, and so is the lower end, exactly; ends that lie at 0 are ends of the other parameters too."""
    strata = strata_of("dyestuff2")
    found = compiled((*PARAMETERS, 0))(strata, 0.95)
    of = dict(zip((*PARAMETERS, 0), found, strict=True))
    for name in ("ratio", "icc", "between", "sd_between"):
        assert of[name].low == of[name].estimate == 0
        assert 0 < of[name].high < np.inf
    assert all(one.settled for one in found)


def test_zero_can_be_within_reach_of_a_positive_estimate():
    y, groups, _ = designs.simulate(4, designs.SIZES["unequal"], 0.4)
    strata = designs.strata(y, groups)
    wide, narrow = every(strata, 0.9999), every(strata, 0.05)
    assert jaxre.ml(strata).between > 0
    assert wide["between"][0] == 0 < narrow["between"][0]


@pytest.mark.parametrize("restricted", [False, True])
def test_higher_levels_hold_lower_ones(restricted):
    strata = designs.strata(*designs.simulate(2, designs.SIZES["unequal"], 1.0))
    nested = [every(strata, level, restricted) for level in (1e-6, 0.5, 0.95, 1 - 1e-12)]
    for name in nested[0]:
        lows, highs = zip(*(one[name] for one in nested), strict=True)
        assert (np.diff(lows) <= 0).all()
        assert (np.diff(highs) > 0).all()
        assert np.isfinite(highs).all()


def test_functions_of_each_other():
    found = every(designs.strata(*designs.simulate(2, designs.SIZES["unequal"], 1.0)))
    for name in ("between", "within", "total"):
        assert found[f"sd_{name}"] == pytest.approx(np.sqrt(found[name]), rel=1e-14)
    ratio = np.array(found["ratio"])
    assert found["icc"] == pytest.approx(ratio / (1 + ratio), rel=1e-14)


def test_batch():
    """Each dataset of a batch as by itself: ordinary ones, at 0, in pieces, without an estimate."""
    datasets = [designs.simulate(seed, MANY, ratio)[:2] for seed, ratio in [(0, 0.0), (1, 1.0), (2, 30.0), (3, 0.1)]]
    datasets += [(several(), designs.labels(MANY)), (np.ones(30), designs.labels(MANY))]
    batch = [designs.strata(*one) for one in datasets]
    parameters = (*PARAMETERS, 0)
    found = jax.jit(jax.vmap(lambda one: profile_intervals(one, parameters)))(designs.stack(batch))
    for i, strata in enumerate(batch):
        alone = compiled(parameters)(strata, 0.95)
        for many, one in zip(found, alone, strict=True):
            assert many.settled[i] == one.settled
            assert many.pieces[i] == one.pieces
            np.testing.assert_allclose([many.low[i], many.high[i]], [one.low, one.high], rtol=1e-12)
    assert np.isnan([one.low[-1] for one in found]).all()
    assert not any(one.settled[-1] for one in found)
    assert all(one.settled[:-1].all() for one in found)


def several():
    """An outcome whose likelihood of sizes 1, 1, 1, 1, 13, 13 has two optima, with a region in two pieces."""
    return designs.simulate(0, MANY, 10.0)[0]


def test_derivatives():
    """Euler: a variance is of degree 2 in the outcome, its root and a coefficient of 1, a ratio of 0; a shift moves the
    mean alone. And one direction by finite differences, whose truncation and rounding leave 1e-7."""
    y, groups, _ = designs.simulate(2, designs.SIZES["unequal"], 1.0)
    parameters = ("ratio", "between", "sd_within", 0)
    jumble = np.random.default_rng(0).normal(size=len(y))

    def ends(y):
        found = profile_intervals(jaxre.group_moments(y, groups, num_groups=6), parameters)
        return jnp.array([[one.low, one.high] for one in found]).ravel()

    found = slopes(ends, y, jumble)
    here, by_y = found.value.reshape(4, 2), found.jacobian.reshape(4, 2, len(y))
    degree = np.array([0, 2, 1, 1])[:, None]
    np.testing.assert_allclose(by_y @ y, degree * here, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(by_y.sum(axis=-1), np.array([0, 0, 0, 1])[:, None] + np.zeros((4, 2)), atol=1e-9)
    np.testing.assert_allclose(found.reverse, found.difference, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.forward, found.reverse, rtol=1e-9, atol=1e-12)  # sums in another order


def test_single_precision():
    y, groups, _ = designs.simulate(2, designs.SIZES["unequal"], 1.0)
    strata = designs.strata(y, groups)
    true = every(strata)
    with jax.enable_x64(False):
        found = dict(zip(PARAMETERS, profile_intervals(jax.tree.map(np.float32, strata), PARAMETERS), strict=True))
    for name, one in found.items():
        assert one.low.dtype == np.float32
        assert one.settled
        assert (one.low, one.high) == pytest.approx(true[name], rel=1e-3)


@pytest.mark.parametrize(
    "y",
    [np.ones(6), np.array([1.0, 2.0, np.nan, 1.0, 2.0, 3.0]), np.array([1.0, 1.0, 2.0, 2.0, 3.0, 3.0])],
    ids=["constant", "nan", "no variation within"],
)
def test_without_an_estimate(y):
    found = compiled((*PARAMETERS, 0))(designs.strata(y, designs.labels([2, 2, 2])), 0.95)
    for one in found:
        assert isinstance(one, ProfileInterval)
        assert np.isnan([one.low, one.high, one.estimate]).all()
        assert not one.settled
        assert not one.pieces


def test_misuse():
    moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
    with pytest.raises(ValueError, match=r"level must lie between 0 and 1, such as 0\.95, got 95"):
        profile_interval(moments, "ratio", 95)
    with pytest.raises(ValueError, match=r"parameter must be one of 'ratio', .* got 'variance'"):
        profile_interval(moments, "variance")
    for place in (1, -1, True):
        with pytest.raises(ValueError, match=f"from 0 to 0, got {place}"):
            profile_interval(moments, place)
    with pytest.raises(ValueError, match=r"no profile of a coefficient.*use restricted=False"):
        profile_interval(moments, 0, restricted=True)
    with pytest.raises(TypeError, match="moments must be GroupMoments or Strata"):
        profile_interval([1.0], "ratio")
