"""Fits and losses inside what users of JAX already have: modules, samplers, checkpoints, exported programs."""

import equinox
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxre
from jaxre import datasets

pytestmark = [
    pytest.mark.usefixtures("x64"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the other libraries among themselves
]
GROUPS = np.repeat([0, 1, 2, 3, 4], [3, 5, 2, 4, 4])


@pytest.fixture
def data(rng):
    x = rng.normal(size=len(GROUPS))
    return x, 1 + 2 * x + 1.5 * rng.normal(size=5)[GROUPS] + rng.normal(size=len(GROUPS))


def icc(y):
    return jaxre.reml(jaxre.group_moments(y, GROUPS)).icc


def plain_loss(slope, logs, x, y):
    return jaxre.negative_log_likelihood(y - slope * x, GROUPS, logs[0], logs[1], restricted=True)


def test_an_equinox_module(data):
    """The gradient by the fields of a module is the plain one, and a step of optax lowers the loss."""

    class Model(equinox.Module):
        slope: jax.Array
        logs: jax.Array

        def __call__(self, x, y):
            return plain_loss(self.slope, self.logs, x, y)

    model, start = Model(jnp.array(0.5), jnp.array([0.1, -0.2])), (jnp.array(0.5), jnp.array([0.1, -0.2]))
    value, gradient = equinox.filter_jit(equinox.filter_value_and_grad(lambda m: m(*data)))(model)
    expected = jax.grad(plain_loss, (0, 1))(*start, *data)
    np.testing.assert_allclose(gradient.slope, expected[0], rtol=1e-12)
    np.testing.assert_allclose(gradient.logs, expected[1], rtol=1e-12)
    optimiser = optax.sgd(1e-3)
    updates, _ = optimiser.update(gradient, optimiser.init(equinox.filter(model, equinox.is_array)))
    assert equinox.apply_updates(model, updates)(*data) < value


def test_a_flax_module_with_a_fit_in_its_loss(data):
    """The derivative of the ICC of a network's output in the network's weights, against central differences."""

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(1, 4, rngs=rngs, param_dtype=jnp.float64)
            self.out = nnx.Linear(4, 1, rngs=rngs, param_dtype=jnp.float64)

        def __call__(self, x):
            return self.out(jnp.tanh(self.hidden(x[:, None])))[:, 0]

    x, y = data
    network = Network(nnx.Rngs(0))
    loss = lambda network: icc(y - network(x))
    gradient = nnx.jit(nnx.grad(loss))(network)["out"]["kernel"][...]
    step = 1e-5 * np.eye(4)

    def moved(by):
        graph, state = nnx.split(network)
        state["out"]["kernel"] = state["out"]["kernel"].replace(state["out"]["kernel"][...] + by[:, None])
        return loss(nnx.merge(graph, state))

    numeric = [(moved(by) - moved(-by)) / 2e-5 for by in step]
    np.testing.assert_allclose(gradient[:, 0], numeric, rtol=1e-6, atol=1e-10)


def test_scan_and_checkpoint(data, rng):
    """Fits one after the other in a scan are those alone, and recomputation changes no gradient."""
    outcomes = data[1] + rng.normal(size=(3, len(GROUPS)))
    _, found = jax.jit(lambda outcomes: jax.lax.scan(lambda carry, y: (carry, icc(y)), 0, outcomes))(outcomes)
    np.testing.assert_allclose(found, [icc(jnp.asarray(y)) for y in outcomes], rtol=1e-12)
    y = jnp.asarray(outcomes[0])
    np.testing.assert_allclose(jax.jit(jax.grad(jax.checkpoint(icc)))(y), jax.jit(jax.grad(icc))(y), rtol=1e-12)


def test_an_exported_program(data):
    """Serialised and read back, the fit gives the same numbers, and so does its gradient."""
    y = jnp.asarray(data[1])
    shape = jax.ShapeDtypeStruct(y.shape, y.dtype)
    for function in (icc, jax.grad(icc)):
        program = jax.export.export(jax.jit(function))(shape).serialize()
        np.testing.assert_allclose(jax.export.deserialize(program).call(y), function(y), rtol=1e-12)


def test_records_survive_npz_and_orbax(data, tmp_path):
    checkpoints = pytest.importorskip("orbax.checkpoint")
    moments = jaxre.group_moments(data[1], GROUPS)
    for record in (moments, jaxre.stratify(moments), jaxre.reml(moments), jaxre.exact_interval(moments)):
        leaves, structure = jax.tree.flatten(record)
        np.savez(tmp_path / "record.npz", *leaves)
        with np.load(tmp_path / "record.npz") as file:
            again = jax.tree.unflatten(structure, [file[name] for name in file.files])
        folder = tmp_path / type(record).__name__
        with checkpoints.StandardCheckpointer() as saver:
            saver.save(folder, record)
            saver.wait_until_finished()
            restored = saver.restore(folder, jax.tree.map(jnp.asarray, record))
        for other in (again, restored):
            assert type(other) is type(record)
            jax.tree.map(np.testing.assert_array_equal, record, other)


# the posterior of Dyestuff's standard deviations with half-normal priors of scale 100, the mean flat
SCALE = 100.0


@pytest.fixture(scope="module")
def quadrature():
    """E of the ICC and of the logarithms of the standard deviations: the mean integrates out to the restricted
    likelihood, which is that of the two sums of squares; a rule of equal steps on the logarithms, exact to 1e-8."""
    columns = datasets.load("dyestuff").columns
    y = columns["Yield"].reshape(6, 5)
    squares_between = 5 * ((y.mean(axis=1) - y.mean()) ** 2).sum()
    squares_within = ((y - y.mean(axis=1)[:, None]) ** 2).sum()
    log_b, log_w = np.meshgrid(np.linspace(-16, 8, 2401), np.linspace(2, 7, 501), indexing="ij")
    b, w = np.exp(2 * log_b), np.exp(2 * log_w)
    total = w + 5 * b
    log_p = -(24 * np.log(w) + squares_within / w + 5 * np.log(total) + squares_between / total) / 2
    log_p += -(b + w) / (2 * SCALE**2) + log_b + log_w
    p = np.exp(log_p - log_p.max())
    mean = lambda number: float((number * p).sum() / p.sum())
    return {"icc": mean(b / (b + w)), "log_b": mean(log_b), "log_w": mean(log_w)}


def dyestuff_moments():
    columns = datasets.load("dyestuff").columns
    return jaxre.group_moments(columns["Yield"] * 1.0, columns["Batch"])


def meets(quadrature, log_b, log_w, effective):
    """Within four Monte-Carlo errors."""
    for name, draws in {
        "icc": 1 / (1 + np.exp(2 * (log_w - log_b))),
        "log_b": log_b,
        "log_w": log_w,
    }.items():
        size = effective(draws)
        assert size > 200, name
        assert abs(draws.mean() - quadrature[name]) < 4 * draws.std() / np.sqrt(size), name


def test_numpyro_draws_the_posterior(quadrature):
    import numpyro
    from numpyro import distributions
    from numpyro.diagnostics import effective_sample_size

    moments = dyestuff_moments()

    def model():
        b, w = (numpyro.sample(name, distributions.HalfNormal(SCALE)) for name in ("b", "w"))
        mean = numpyro.sample("mean", distributions.ImproperUniform(distributions.constraints.real, (), ()))
        at = jaxre.Components(within=w * w, between=b * b)
        numpyro.factor("likelihood", jaxre.log_likelihood(at, moments, (1500 + 10 * mean)[None]))

    kernel = numpyro.infer.NUTS(model, target_accept_prob=0.95)
    sampler = numpyro.infer.MCMC(kernel, num_warmup=1000, num_samples=4000, progress_bar=False)
    sampler.run(jax.random.key(1))
    found = sampler.get_samples()
    effective = lambda draws: float(effective_sample_size(draws[None]))
    meets(quadrature, np.log(np.asarray(found["b"])), np.log(np.asarray(found["w"])), effective)


@pytest.mark.slow
def test_blackjax_draws_the_posterior(quadrature):
    import blackjax

    moments = dyestuff_moments()

    def log_density(at):
        b, w = jnp.exp(at[0]), jnp.exp(at[1])
        components = jaxre.Components(within=w * w, between=b * b)
        prior = -(b * b + w * w) / (2 * SCALE**2) + at[0] + at[1]
        return prior + jaxre.log_likelihood(components, moments, (1500 + 10 * at[2])[None])

    @jax.jit
    def run(key):
        warming, sampling = jax.random.split(key)
        adaptation = blackjax.window_adaptation(blackjax.nuts, log_density, target_acceptance_rate=0.95)
        (state, parameters), _ = adaptation.run(warming, jnp.array([3.5, 3.9, 2.7]), num_steps=1000)
        step = blackjax.nuts(log_density, **parameters).step

        def one(state, key):
            state, _ = step(key, state)
            return state, state.position

        return jax.lax.scan(one, state, jax.random.split(sampling, 4000))[1]

    draws = np.asarray(run(jax.random.key(2)))
    effective = lambda column: float(blackjax.diagnostics.effective_sample_size(column[None]))
    meets(quadrature, draws[:, 0], draws[:, 1], effective)
