"""Sufficient statistics against loops over the rows, and what becomes of data that have no estimate."""

from functools import partial

import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow import slow

import jaxre
from jaxre import Status

pytestmark = pytest.mark.usefixtures("x64")

TRACED = jax.jit(jaxre.group_moments, static_argnames="num_groups")
EAGER = jaxre.group_moments  # concrete rows in double precision go by NumPy
REML = jax.jit(jaxre.reml)
NUMBERS = ("within", "between", "ratio", "icc", "beta", "beta_cov", "beta_se", "log_likelihood")
ROWS = 12
LABELS = np.repeat(np.arange(4), 3)
RNG = np.random.default_rng(0)
Y = RNG.normal(size=ROWS) + RNG.normal(size=4)[LABELS]
X = RNG.normal(size=(ROWS, 2))


def criteria(components, moments):
    """Both likelihoods: what every estimate is made of, at a fraction of the compile time."""
    return jaxre.log_likelihood(components, moments), jaxre.restricted_log_likelihood(components, moments)


CRITERIA = jax.jit(jax.vmap(criteria, (0, None)))
COMPONENTS = jaxre.Components(within=np.array([0.3, 1.0, 1.0, 2.0]), between=np.array([0.0, 0.1, 5.0, 1e6]))


def assert_same_likelihood(a, b, rtol):
    np.testing.assert_allclose(CRITERIA(COMPONENTS, a), CRITERIA(COMPONENTS, b), rtol=rtol)


@pytest.mark.parametrize("where", ["host", "traced"])
@pytest.mark.parametrize("p", [1, 3])
def test_moments_are_the_sums_of_the_definition(where, p):
    x = X if p > 1 else None
    moments = designs.moments(Y, LABELS, x) if where == "host" else TRACED(Y, LABELS, x, num_groups=4)
    table = np.column_stack([np.ones(ROWS), Y] if x is None else [np.ones(ROWS), x, Y])
    means, cross = np.zeros((4, p + 1)), np.zeros((p + 1, p + 1))
    for row, j in zip(table, LABELS, strict=True):
        means[j] += row / 3
    for row, j in zip(table, LABELS, strict=True):
        cross += np.outer(row - means[j], row - means[j])
    # from the frame back: (X, y) = kept columns / scale @ inverse of [[transform, -origin], [0, 1]]
    frame = jax.tree.map(np.asarray, moments.frame)
    turn = np.block([[frame.transform, -frame.origin[:, None]], [np.zeros((1, p)), np.ones((1, 1))]])
    back = np.linalg.inv(turn) / frame.scale
    rounding = 1e-14  # a dozen terms, one small solve
    np.testing.assert_allclose(moments.means @ back, means, rtol=rounding, atol=rounding)
    np.testing.assert_allclose(back.T @ moments.within_cross @ back, cross, rtol=rounding, atol=10 * rounding)
    assert moments.rows == ROWS
    np.testing.assert_array_equal(moments.sizes, [3, 3, 3, 3])
    assert frame.log_volume == pytest.approx(np.linalg.slogdet(frame.scale * frame.transform)[1], abs=rounding)
    assert moments.status == Status.INTERIOR
    assert moments.within_rank == p - 1


@pytest.mark.parametrize("p", [1, 3])
def test_rotated_covariates_are_orthogonal_within_and_in_all(p):
    """The frame's promise: what the normal equations factor is as well conditioned as it can be."""
    y, groups, covariates = designs.simulate(1, designs.SIZES["unequal"], p=p)
    moments = designs.moments(y, groups, None if covariates is None else covariates @ [[1, 1], [0, 1e-3]] + 50)
    cross = moments.within_cross[1:p, 1:p]
    total = cross + (moments.means[:, 1:p].T * moments.sizes) @ moments.means[:, 1:p]
    rounding = 1e-9 * moments.rows  # the covariates are collinear to 1e-3 and 50 off 0
    np.testing.assert_allclose(total, moments.rows * np.eye(p - 1), atol=rounding)
    np.testing.assert_allclose(cross, np.diag(np.diag(cross)), atol=rounding)


@pytest.mark.parametrize("sizes", [designs.SIZES["pairs of sizes"], designs.SIZES["one giant"]])
@pytest.mark.parametrize("p", [1, 3])
def test_strata_hold_what_the_groups_hold(sizes, p):
    moments = designs.moments(*designs.simulate(2, sizes, p=p))
    strata = jaxre.stratify(moments)
    np.testing.assert_array_equal(strata.sizes, sorted(set(sizes)))
    np.testing.assert_array_equal(strata.counts, [sizes.count(k) for k in sorted(set(sizes))])
    for k, m, mean, scatter in zip(strata.sizes, strata.counts, strata.means, strata.scatter, strict=True):
        part = moments.means[moments.sizes == k]
        np.testing.assert_allclose(mean, part.mean(axis=0), atol=1e-15)  # one division
        np.testing.assert_allclose(scatter + m * np.outer(mean, mean), part.T @ part, atol=1e-14)


@pytest.mark.parametrize("p", [1, 3])
def test_strata_answer_as_groups_do(p):
    y, groups, x = designs.simulate(2, designs.SIZES["pairs of sizes"], p=p)
    of_groups = TRACED(y, groups, x, num_groups=6)
    # traced sizes make one stratum a group; concrete ones, and NumPy's, one a size
    concrete = jax.jit(lambda y: jaxre.stratify(jaxre.group_moments(y, groups, x, num_groups=6)))(y)
    assert concrete.sizes.shape == (3,)
    rounding = 1e-13  # other orders of summation over 30 rows
    assert_same_likelihood(of_groups, concrete, rounding)
    assert_same_likelihood(of_groups, designs.strata(y, groups, x), rounding)


@pytest.mark.parametrize("p", [1, 3])
def test_padding_groups_are_invisible(p):
    x = X if p > 1 else None
    bare, padded = TRACED(Y, LABELS, x, num_groups=4), TRACED(Y, LABELS, x, num_groups=9)
    for name in ("rows", "within_cross", "within_rank", "status"):
        np.testing.assert_allclose(getattr(bare, name), getattr(padded, name), rtol=1e-14, atol=1e-14)  # vector widths
    np.testing.assert_array_equal(padded.means[4:], np.zeros((5, p + 1)))
    np.testing.assert_array_equal(padded.sizes[4:], np.zeros(5))
    assert_same_likelihood(bare, padded, 1e-14)  # sums of the same terms and zeros


def test_labels_of_any_type_are_numbered_by_first_appearance():
    y = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    names = jax.jit(lambda y: jaxre.group_moments(y, ["b", "a", "b", "c", "a"]))(y)
    codes = jax.jit(lambda y: jaxre.group_moments(y, np.array([0, 1, 0, 2, 1]), num_groups=3))(y)
    jax.tree.map(np.testing.assert_array_equal, names, codes)


# One shape for every dataset without an estimate, so that two compilations serve them all.

ONE_EACH = np.arange(ROWS)
THREE = np.minimum(LABELS, 2)
SPANNING = (THREE[:, None] == [1, 2]).astype(float)  # with the intercept, the indicators of three groups
WITHIN_GROUP = np.tile([0.0, 1.0, 2.0], 4)
BY_GROUP = np.array([0.5, -1.0, 2.0, 0.25])[LABELS]


def with_nan(table, place):
    table = np.array(table, float)
    table[place] = np.nan
    return table


STATUSES = {
    "ordinary": (Y, LABELS, None, Status.INTERIOR),
    "ordinary with covariates": (Y, LABELS, X, Status.INTERIOR),
    "one group": (Y, np.zeros(ROWS, int), None, Status.NOT_IDENTIFIED),
    "one group with covariates": (Y, np.zeros(ROWS, int), X, Status.NOT_IDENTIFIED),
    "all groups of size one": (Y, ONE_EACH, None, Status.NOT_IDENTIFIED),
    "covariates that span the groups": (Y, THREE, SPANNING, Status.NOT_IDENTIFIED),
    "covariates that take every row": (Y, np.repeat(np.arange(10), [2, 2] + [1] * 8), X, Status.NOT_IDENTIFIED),
    "no variation within groups": (BY_GROUP, LABELS, None, Status.UNBOUNDED),
    "none beyond the covariates": (
        BY_GROUP + 3 * WITHIN_GROUP,
        LABELS,
        np.column_stack([WITHIN_GROUP, X[:, 0]]),
        Status.UNBOUNDED,
    ),
    "none up to the last digit": (BY_GROUP + 0.1 * LABELS, LABELS, None, Status.UNBOUNDED),
    "a covariate twice": (Y, LABELS, X[:, [0, 0]], Status.RANK_DEFICIENT),
    "a covariate three times another": (Y, LABELS, np.column_stack([X[:, 0], 3 * X[:, 0] + 1]), Status.RANK_DEFICIENT),
    "a constant covariate": (Y, LABELS, np.column_stack([X[:, 0], np.full(ROWS, 0.1)]), Status.RANK_DEFICIENT),
    "constant": (np.full(ROWS, 0.1), LABELS, None, Status.CONSTANT_OUTCOME),
    "constant with covariates": (np.full(ROWS, 1e9 + 0.1), LABELS, X, Status.CONSTANT_OUTCOME),
    "NaN in the outcome": (with_nan(Y, 3), LABELS, None, Status.INVALID),
    "NaN in a covariate": (Y, LABELS, with_nan(X, (5, 1)), Status.INVALID),
    "infinity in the outcome": (np.where(ONE_EACH == 2, np.inf, Y), LABELS, None, Status.INVALID),
    "collinear to 1e-7": (Y, LABELS, np.column_stack([X[:, 0], X[:, 0] + 1e-7 * X[:, 1]]), Status.INTERIOR),
    "covariates constant within groups": (Y, LABELS, np.column_stack([BY_GROUP, BY_GROUP**2]), Status.INTERIOR),
    "one of each": (Y, LABELS, np.column_stack([BY_GROUP, WITHIN_GROUP]), Status.INTERIOR),
}


@pytest.mark.parametrize("case", STATUSES)
def test_status_says_why_there_is_no_estimate(case):
    y, groups, x, expected = STATUSES[case]
    assert Status(int(TRACED(y, groups, x, num_groups=ROWS).status)) == expected


@pytest.mark.parametrize("case", [name for name, parts in STATUSES.items() if parts[-1] != Status.INVALID])
def test_host_moments_have_the_same_status(case):
    y, groups, x, expected = STATUSES[case]  # what is invalid never reaches them: it is refused before
    assert Status(int(designs.moments(y, groups, x).status)) == expected


@pytest.mark.parametrize("case", STATUSES)
def test_outside_jit_the_status_is_the_same(case):
    y, groups, x, expected = STATUSES[case]
    assert Status(int(EAGER(y, groups, x, num_groups=ROWS).status)) == expected


@pytest.mark.parametrize("within", [None, 0.7])
@pytest.mark.parametrize("weights", [None, RNG.uniform(0.5, 2, size=ROWS)], ids=["equal", "weighted"])
@pytest.mark.parametrize("x", [None, X], ids=["alone", "covariates"])
def test_outside_jit_numpy_makes_the_same_moments(x, weights, within):
    """The two orders of adding up a dozen rows differ by a few units in the last place of a sum."""
    one, other = (form(Y, LABELS, x, weights=weights, within=within, num_groups=5) for form in (EAGER, TRACED))
    assert isinstance(one.means, np.ndarray)
    assert not isinstance(other.means, np.ndarray)
    assert_same_likelihood(one, other, rtol=1e-13)


def test_outside_jit_a_dataset_without_estimate_has_the_same_form():
    """So that moments of good and of bad datasets can be stacked."""
    good, bad = (jaxre.stratify(EAGER(y, LABELS, num_groups=ROWS)) for y in (Y, with_nan(Y, 3)))
    both = jax.tree.map(lambda *leaves: np.stack(leaves), good, bad)
    assert both.status.tolist() == [Status.INTERIOR, Status.INVALID]
    assert isinstance(bad.means, np.ndarray)


@pytest.mark.parametrize("transformation", ["jit", "scan", "cond", "vmap", "grad"])
def test_concrete_rows_within_a_transformation(transformation):
    """Rows that the function closes over are concrete, but a program is being made all the same."""
    y = jnp.asarray(Y)
    icc = lambda scale: scale * jaxre.reml(EAGER(y, LABELS, num_groups=4)).icc
    found = {
        "jit": lambda: jax.jit(icc)(2.0),
        "scan": lambda: jax.lax.scan(lambda carry, scale: (carry, icc(scale)), 0.0, jnp.array([2.0]))[1][0],
        "cond": lambda: jax.lax.cond(jnp.array(True), icc, lambda scale: scale, 2.0),
        "vmap": lambda: jax.vmap(icc)(jnp.array([2.0]))[0],
        "grad": lambda: 2 * jax.grad(icc)(2.0),
    }[transformation]()
    assert float(found) == pytest.approx(2 * float(jaxre.fit(Y, LABELS).icc), rel=1e-12)


def test_weights_have_derivatives_where_the_values_are_concrete():
    """To the truncation of a central difference of step 1e-5."""
    w, direction, step = RNG.uniform(0.5, 2, size=ROWS), RNG.normal(size=ROWS), 1e-5
    between = lambda w: jaxre.anova(jaxre.group_moments(Y, LABELS, weights=w, num_groups=4)).between_untruncated
    found = jax.grad(between)(jnp.asarray(w)) @ direction
    ahead, behind = (float(between(w + sign * step * direction)) for sign in (1, -1))
    assert float(found) == pytest.approx((ahead - behind) / (2 * step), rel=1e-7)


@pytest.mark.parametrize("wrong", [-1.0, 0.0, np.nan, np.inf, 1e308])
def test_outside_jit_a_wrong_weight_is_invalid(wrong):
    assert EAGER(Y, LABELS, X, weights=np.where(ONE_EACH % 3 == 2, wrong, 1.0)).status == Status.INVALID
    assert wrong == 1e308 or EAGER(Y, LABELS, within=wrong).status == Status.INVALID


@pytest.mark.parametrize("label", [-1, 12, 1000])
def test_a_label_out_of_range_is_invalid(label):
    for form in (TRACED, EAGER):
        found = form(Y, np.where(ONE_EACH == 7, label, LABELS), None, num_groups=ROWS)
        assert found.status == Status.INVALID
        assert np.isnan(REML(found).between)


@pytest.mark.parametrize("case", [name for name, parts in STATUSES.items() if parts[-1].failed])
def test_estimates_of_degenerate_data_are_nan_beside_their_status(case):
    y, groups, x, expected = STATUSES[case]
    estimate = REML(TRACED(y, groups, x, num_groups=ROWS))
    assert estimate.status == expected
    assert not estimate.certified
    assert all(np.isnan(getattr(estimate, name)).all() for name in NUMBERS)


def test_near_collinear_covariates_keep_their_digits():
    """beta on (x, x + 1e-7 z) is beta on (x, z), turned: the rows keep what cross products would lose."""
    near = np.column_stack([X[:, 0], X[:, 0] + 1e-7 * X[:, 1]])
    apart = np.column_stack([X[:, 0], (near[:, 1] - near[:, 0]) * 2**23])  # exact difference, exact scaling
    a, b = (REML(TRACED(Y, LABELS, x, num_groups=ROWS)) for x in (near, apart))
    rounding = 1e-8  # eps divided by the distance of 1e-7, with room for the size of the design
    np.testing.assert_allclose(a.between, b.between, rtol=rounding)
    np.testing.assert_allclose(a.within, b.within, rtol=rounding)
    np.testing.assert_allclose(a.beta[2], b.beta[2] * 2**23, rtol=rounding)


def test_integers_become_floating_point_and_float32_is_followed():
    whole = TRACED(np.arange(12), LABELS, num_groups=4)
    assert whole.means.dtype == jnp.float64
    single = TRACED(Y.astype(np.float32), LABELS, X.astype(np.float32), num_groups=4)
    floats = [leaf.dtype for leaf in jax.tree.leaves(single) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype("float32")}
    assert single.status == Status.INTERIOR
    assert single.status.dtype == jnp.int32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((3, 2)), [0, 1, 1]), "one-dimensional"),
        ((np.zeros(0), []), "at least one row"),
        ((np.zeros(3), [0, 1]), "one length"),
        ((np.zeros(3), [0, 1, 1], np.zeros(3)), r"shape \(3, p - 1\)"),
        ((np.zeros(3), [0, 1, 1], np.zeros((2, 1))), r"shape \(3, p - 1\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        jaxre.group_moments(*arguments)


def test_labels_that_cannot_be_groups_are_refused():
    with pytest.raises(ValueError, match="traced groups need num_groups"):
        jax.jit(jaxre.group_moments)(Y, LABELS)
    with pytest.raises(ValueError, match="must be integers"):
        jaxre.group_moments(Y, LABELS + 0.5, num_groups=4)


def test_no_columns_of_covariates_is_the_intercept_alone():
    a, b = TRACED(Y, LABELS, np.zeros((ROWS, 0)), num_groups=4), TRACED(Y, LABELS, None, num_groups=4)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-15), a, b)


def drawn(groups, p=1):
    """Moments of a dataset in groups of 1 to `groups` rows."""
    y, labels, x = designs.simulate(groups, np.arange(1, groups + 1), p=p)
    return designs.moments(y, labels, x)


@pytest.mark.parametrize(("kind", "p"), [("groups", 3), slow("strata", 1), slow("groups", 1), slow("strata", 3)])
def test_a_stack_of_different_numbers_of_strata_is_one_at_a_time(kind, p):
    datasets = [drawn(groups, p) for groups in (4, 5, 4)]
    if kind == "strata":
        datasets = [jaxre.stratify(one) for one in datasets]
    batch = jaxre.stack(datasets)
    assert batch.sizes.shape == (3, 5)
    found = jax.jit(jax.vmap(jaxre.reml))(batch)
    for i, one in enumerate(datasets):
        expected = REML(one)
        for name in NUMBERS:
            size = abs(getattr(expected, name)).max()
            np.testing.assert_allclose(getattr(found, name)[i], getattr(expected, name), rtol=1e-12, atol=1e-12 * size)
        assert found.certified[i] == expected.certified


def test_a_stack_of_one_is_the_dataset_and_traced_moments_stack():
    one = jaxre.stratify(drawn(5))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b), jaxre.stack([one]), one)
    two = [one, jaxre.stratify(drawn(4))]
    moved = lambda leaf: np.moveaxis(leaf, 0, -1)
    jax.tree.map(np.testing.assert_array_equal, jaxre.stack(two, axis=-1), jax.tree.map(moved, jaxre.stack(two)))
    traced = jax.jit(lambda y: jaxre.stack([jaxre.group_moments(y, LABELS), jaxre.group_moments(2 * y, LABELS)]))(Y)
    host = jaxre.stack([jaxre.group_moments(Y, LABELS), jaxre.group_moments(2 * Y, LABELS)])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-14, atol=1e-14), traced, host)
    assert isinstance(host.means, np.ndarray)


def test_what_cannot_be_stacked_is_refused():
    with pytest.raises(ValueError, match="at least one dataset"):
        jaxre.stack([])
    with pytest.raises(ValueError, match="axis must be 0, datasets first, or -1, datasets last, got 1"):
        jaxre.stack([drawn(5)], axis=1)
    with pytest.raises(ValueError, match="p = 1 and 3"):
        jaxre.stack([drawn(5), drawn(5, p=3)])
    with pytest.raises(TypeError, match="GroupMoments and Strata"):
        jaxre.stack([drawn(5), jaxre.stratify(drawn(5))])
