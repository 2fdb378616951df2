"""The likelihood as a loss, against dense algebra and the likelihood of the engine."""

import dense
import designs
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxre

pytestmark = pytest.mark.usefixtures("x64")
SIZES = [5, 2, 7, 1, 1, 9]


def simulated(seed=0):
    rng = np.random.default_rng(seed)
    groups = designs.labels(SIZES)
    return rng.normal(size=len(groups)) + rng.normal(size=len(SIZES))[groups], groups, rng.gamma(2.0, size=len(groups))


@pytest.mark.parametrize("weighted", [False, True])
def test_full_likelihood_by_dense_algebra(weighted):
    r, groups, weights = simulated()
    w = weights if weighted else np.ones_like(weights)
    v = 0.7 * np.diag(1 / w) + 1.3 * (groups[:, None] == groups)
    expected = (len(r) * np.log(2 * np.pi) + np.linalg.slogdet(v)[1] + r @ np.linalg.solve(v, r)) / 2
    given = weights if weighted else None
    found = jaxre.negative_log_likelihood(r, groups, np.log(0.7), np.log(1.3), weights=given)
    assert float(found) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("restricted", [False, True])
def test_is_the_engine_s_likelihood(restricted, weighted):
    """The restricted one is of a model with a mean; the full one at a mean of 0."""
    r, groups, weights = simulated()
    weights = weights if weighted else None
    moments = jaxre.group_moments(r, groups, weights=weights)

    def engine(logs):
        components = jaxre.Components(within=jnp.exp(logs[0]), between=jnp.exp(logs[1]))
        if restricted:
            return -jaxre.restricted_log_likelihood(components, moments)
        return -jaxre.log_likelihood(components, moments, jnp.zeros(1))

    loss = lambda logs: jaxre.negative_log_likelihood(r, groups, *logs, weights=weights, restricted=restricted)
    at = jnp.log(jnp.array([0.7, 1.3]))
    for derivative in (lambda f: f, jax.grad, jax.hessian):
        np.testing.assert_allclose(jax.jit(derivative(loss))(at), jax.jit(derivative(engine))(at), rtol=1e-12)


def test_derivatives_in_the_residuals():
    """V^-1 r, and second derivatives V^-1, forward over reverse as reverse over reverse."""
    r, groups, _ = simulated()
    inverse = np.linalg.inv(dense.covariance(0.7, 1.3, groups))
    loss = lambda r: jaxre.negative_log_likelihood(r, groups, np.log(0.7), np.log(1.3))
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(r)), inverse @ r, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(jax.hessian(loss)(jnp.asarray(r)), inverse, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(jax.jacrev(jax.grad(loss))(jnp.asarray(r)), inverse, rtol=1e-12, atol=1e-14)


def test_no_variance_between_groups():
    r, groups, _ = simulated()
    loss = lambda logs: jaxre.negative_log_likelihood(r, groups, logs[0], logs[1])
    at = jnp.array([np.log(2.0), -jnp.inf])
    assert float(loss(at)) == pytest.approx((len(r) * np.log(4 * np.pi) + r @ r / 2) / 2, rel=1e-14)
    gradient = jax.grad(loss)(at)
    assert float(gradient[0]) == pytest.approx((len(r) - r @ r / 2) / 2, rel=1e-13)
    assert gradient[1] == 0


@pytest.mark.parametrize("restricted", [False, True])
def test_padding_changes_nothing(restricted):
    """Rows that are masked out may hold anything, and groups may be empty; up to the order of the sums."""
    r, groups, weights = simulated()
    options = {"weights": weights, "restricted": restricted}
    expected = jax.value_and_grad(lambda r: jaxre.negative_log_likelihood(r, groups, 0.1, 0.2, **options))(r)
    padded = np.append(r, [np.nan, np.inf]), np.append(groups, [99, -1]), np.append(weights, [0, np.nan])

    @jax.jit
    def loss(r, codes, weights, mask):
        options = {"weights": weights, "mask": mask, "restricted": restricted, "num_groups": 9}
        return jaxre.negative_log_likelihood(r, codes, 0.1, 0.2, **options)

    value, gradient = jax.value_and_grad(loss)(*map(jnp.asarray, padded), jnp.arange(len(r) + 2) < len(r))
    assert float(value) == pytest.approx(float(expected[0]), rel=1e-14)
    np.testing.assert_allclose(gradient, np.append(expected[1], [0, 0]), rtol=1e-12)


def test_many_datasets_at_once():
    _, groups, _ = simulated()
    r = np.random.default_rng(1).normal(size=(4, len(groups)))
    batch = jax.vmap(lambda r, a, b: jaxre.negative_log_likelihood(r, groups, a, b))
    logs = np.linspace(-1, 1, 4)
    one = [
        jaxre.negative_log_likelihood(*each, a, -a) for each, a in zip([(row, groups) for row in r], logs, strict=True)
    ]
    np.testing.assert_allclose(batch(r, logs, -logs), one, rtol=1e-14)


def test_minibatches_of_whole_groups_are_unbiased():
    """The mean over every pair of groups, each as likely, is the whole: loss and gradient in log-variances and mean."""
    r, groups, _ = simulated()

    def loss(at, rows, codes):
        options = {"num_groups": 6, "total_groups": 6}
        return jaxre.negative_log_likelihood(jnp.asarray(r)[rows] - at[2], codes, at[0], at[1], **options)

    at, of_rows = jnp.array([0.3, -0.4, 0.2]), jax.jit(jax.value_and_grad(loss))
    whole = of_rows(at, np.arange(len(r)), groups)
    pairs = [np.flatnonzero((groups == i) | (groups == j)) for i in range(6) for j in range(i)]
    parts = [of_rows(at, rows, groups[rows]) for rows in pairs]
    for i in range(2):
        np.testing.assert_allclose(np.mean([part[i] for part in parts], axis=0), whole[i], rtol=1e-13)


def test_batches_deal_every_group_once():
    labels = np.array([f"g{i}" for i in range(23)])[np.random.default_rng(0).permutation(np.repeat(np.arange(23), 3))]
    labels = np.append(labels, ["g0"] * 40)
    seen, sizes = [], []
    for batch in jaxre.group_batches(jax.random.key(1), labels, 5):
        rows, codes = batch.rows[batch.mask], batch.groups[batch.mask]
        assert len(batch.rows) in (16, 32, 64)
        names = [set(labels[rows[codes == code]]) for code in range(codes.max() + 1)]
        assert all(len(name) == 1 for name in names)
        assert sum((labels == name.pop()).sum() for name in map(set, names)) == len(rows)  # whole groups
        sizes.append(codes.max() + 1)
        seen.extend(rows)
    assert sorted(seen) == list(range(len(labels)))
    assert sorted(sizes) == [4, 4, 5, 5, 5]
    again = next(jaxre.group_batches(jax.random.key(1), labels, 5))
    assert (again.rows == next(jaxre.group_batches(jax.random.key(1), labels, 5)).rows).all()
    assert set(again.rows) != set(next(jaxre.group_batches(jax.random.key(2), labels, 5)).rows)


def test_each_pair_of_groups_is_as_likely():
    """1,500 first batches of two of four groups: each pair 250 times, within five standard deviations of 14.4."""
    firsts = (next(jaxre.group_batches(jax.random.key(i), np.arange(4), 2)) for i in range(1500))
    _, counts = np.unique([sorted(batch.rows[batch.mask]) for batch in firsts], axis=0, return_counts=True)
    assert len(counts) == 6
    assert abs(counts - 250).max() < 72


def test_learned_by_an_optax_optimiser_beside_weights():
    """Adam on whole batches, a linear mean and two log-variances: the estimates of maximum likelihood."""
    y, groups, x = designs.simulate(4, SIZES * 3, 2.0, p=2)
    table = jnp.column_stack([jnp.ones_like(y), x])
    scale = float(np.std(y))

    def loss(parameters):
        r = (y - table @ parameters["beta"]) / scale
        return jaxre.negative_log_likelihood(r, groups, *parameters["logs"])

    optimiser = optax.adam(optax.exponential_decay(0.05, 200, 0.5))

    def step(state, _):
        parameters, memory = state
        updates, memory = optimiser.update(jax.grad(loss)(parameters), memory)
        return (optax.apply_updates(parameters, updates), memory), None

    start = {"beta": jnp.zeros(table.shape[1]), "logs": jnp.zeros(2)}
    (found, _), _ = jax.jit(lambda: jax.lax.scan(step, (start, optimiser.init(start)), length=2000))()
    fit = jaxre.fit(y, groups, x, method="ml")
    np.testing.assert_allclose(np.exp(found["logs"]) * scale**2, [fit.within, fit.between], rtol=1e-5)
    np.testing.assert_allclose(found["beta"], fit.beta, rtol=1e-4)


def test_bad_input_is_refused_on_the_host():
    r, groups, weights = simulated()
    loss = lambda r=r, groups=groups, **options: jaxre.negative_log_likelihood(r, groups, 0.0, 0.0, **options)
    wrong = weights.copy()
    wrong[[3, 5]] = 0, -1
    for options, match in (
        ({"weights": wrong}, "weights must be positive and finite; .*; 2 are not, the first in row 3"),
        ({"weights": weights[1:]}, r"residuals and weights must have one length, got \(25,\) and \(24,\)"),
        ({"groups": groups[1:]}, "residuals and groups must have one length"),
        ({"num_groups": 3}, "from 0 to num_groups - 1 = 2; 11 are not, the first in row 14"),
        ({"mask": np.ones(25)}, "mask must be booleans"),
        ({"r": r[:, None]}, "one-dimensional"),
        ({"restricted": True, "total_groups": 9}, "not a sum over groups"),
        ({"total_groups": 0}, "total_groups must be the number of groups in all, got 0"),
        ({"groups": [None, *groups[1:].tolist()]}, "groups must all have labels; .*; 1 are not, the first in row 0"),
    ):
        with pytest.raises(ValueError, match=match):
            loss(**options)
    with pytest.raises(ValueError, match="size must be at least 1 group, got 0"):
        jaxre.group_batches(jax.random.key(0), groups, 0)
    with pytest.raises(ValueError, match=r"log_within must be one number, got shape \(3,\); .* jax.vmap"):
        jaxre.negative_log_likelihood(r, groups, np.zeros(3), 0.0)
    with pytest.raises(ValueError, match="groups has no rows"):
        jaxre.group_batches(jax.random.key(0), [], 2)
    with pytest.raises(TypeError, match="groups must be concrete"):
        jax.jit(lambda groups: next(jaxre.group_batches(jax.random.key(0), groups, 2)).rows)(groups)
    with pytest.raises(ValueError, match="1 are missing"):
        jaxre.group_batches(jax.random.key(0), ["a", None, "b"], 1)


def test_bad_input_is_nan_inside_jit():
    """Value and gradient, so that nothing trains on it."""
    r, groups, weights = simulated()
    loss = lambda r, groups, weights, mask: jaxre.negative_log_likelihood(
        r, groups, 0.0, 0.0, weights=weights, mask=mask, num_groups=6
    )
    graded = jax.jit(jax.value_and_grad(loss))
    good = r, groups, weights, np.ones(25, bool)
    assert np.isfinite(graded(*good)[0])
    for place, value in ((0, np.nan), (0, np.inf), (1, 6), (1, -1), (2, 0.0), (2, np.nan)):
        bad = [np.array(column) for column in good]
        bad[place][7] = value
        found, gradient = graded(*bad)
        assert np.isnan(found), (place, value)
        assert np.isnan(gradient).any(), (place, value)
    assert np.isnan(graded(*good[:3], np.zeros(25, bool))[0])


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("logs", [(-400.0, 400.0), (0.0, 800.0), (0.0, -np.inf)])
def test_a_ratio_beyond_the_doubles_has_a_loss_and_gradients(x64, logs, restricted):
    """By logarithms: with between far above within, log(1 + ratio size) is their difference plus log size."""
    r, groups, _ = simulated()
    loss = lambda r, logs: jaxre.negative_log_likelihood(r, groups, *logs, restricted=restricted)
    value, (of_rows, of_logs) = jax.value_and_grad(loss, (0, 1))(r * np.exp(logs[0] / 2), logs)
    assert np.isfinite([value, *of_logs]).all()
    assert np.isfinite(of_rows).all()
    groups_that_count = len(np.unique(groups)) - restricted
    assert of_logs[1] == pytest.approx(groups_that_count / 2 if logs[1] > 0 else 0, abs=1e-9)


def test_labels_and_residuals_of_few_bits(x64):
    """More groups than the labels' own type can count, and residuals that are summed in single precision."""
    groups = (np.arange(1000) % 250).astype(np.uint8)
    r = np.random.default_rng(0).normal(size=1000)
    loss = lambda r, groups: jaxre.negative_log_likelihood(r, groups, 0.0, 0.0, num_groups=256)
    assert float(jax.jit(loss)(r, groups)) == pytest.approx(float(loss(r, groups.astype(int))), rel=1e-12)
    fit = lambda groups: jaxre.anova(jaxre.group_moments(r, groups, num_groups=256)).within
    assert float(jax.jit(fit)(groups)) == pytest.approx(float(fit(groups.astype(int))), rel=1e-12)
    rough = jnp.asarray(r, jnp.bfloat16)
    assert float(loss(rough, groups)) == pytest.approx(float(loss(rough.astype(float), groups)), rel=1e-5)
    moments = jaxre.group_moments(np.float16(r), groups, num_groups=256)
    assert moments.means.dtype == np.float32
    assert float(moments.rows) == 1000


def test_single_precision_is_kept():
    r, groups, _ = simulated()
    found = jaxre.negative_log_likelihood(jnp.asarray(r, jnp.float32), groups, jnp.float32(0.1), jnp.float32(0.2))
    assert found.dtype == jnp.float32
    assert float(found) == pytest.approx(float(jaxre.negative_log_likelihood(r, groups, 0.1, 0.2)), rel=1e-6)
