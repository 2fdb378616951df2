"""Pure functions outside of jit, alone and under its transformations: the numbers that they have inside, from programs
that are there to be used again."""

import contextlib

import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow import but_for

import jaxre

SIZES = [3, 1, 4, 2]
GROUPS = designs.labels(SIZES)
OUTCOMES = np.stack([designs.simulate(seed, SIZES, 2.0)[0] for seed in range(3)])
AT = jaxre.Components(within=1.0, between=2.0)
VARIANCES = np.linspace(0.5, 2.0, len(GROUPS))


@contextlib.contextmanager
def programs():
    """A list that fills with a name for each program that is lowered."""
    made = []
    listen = lambda event, *_, **__: made.append(event) if "jaxpr_to_mlir" in event else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield made
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def batch(x64):
    return jaxre.stack([jaxre.stratify(designs.moments(y, GROUPS)) for y in OUTCOMES])


FUNCTIONS = {
    "reml": jaxre.reml,
    "exact_interval": jaxre.exact_interval,
    "log_likelihood": lambda strata: jaxre.log_likelihood(AT, strata, [3.0]),
    "log_variance_derivatives": lambda strata: jaxre.log_variance_derivatives(AT, strata, restricted=True),
    "alternating": lambda strata: jaxre.alternating(strata, AT, steps=np.int64(5), restricted=False),
    "profile_interval": lambda strata: jaxre.profile_interval(strata, "icc"),
}


@pytest.mark.parametrize("name", but_for(FUNCTIONS, ("reml", "log_likelihood")))
def test_under_vmap_as_inside_jit(batch, name):
    """The last bits are those of another program; a second call finds all of it made."""
    mapped = jax.vmap(FUNCTIONS[name])
    found, expected = mapped(batch), jax.jit(mapped)(batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11), found, expected)
    with programs() as made:
        mapped(batch)
    assert made == []


def test_derivatives_as_inside_jit(x64):
    """Of estimates in the values of known groups, whose sizes stay known."""
    icc = lambda y: jaxre.reml(jaxre.group_moments(y, GROUPS)).icc
    slope = jax.grad(icc)
    found = slope(OUTCOMES[0])
    np.testing.assert_allclose(found, jax.jit(slope)(OUTCOMES[0]), rtol=1e-9)
    forward = jax.jvp(icc, (OUTCOMES[0],), (np.ones_like(OUTCOMES[0]),))[1]
    assert abs(forward) < 1e-12 * abs(found).sum()  # nothing depends on the mean
    with programs() as made:
        slope(OUTCOMES[1])
    assert made == []
    # what was linearised outside of jit may be called within
    back = jax.vjp(icc, OUTCOMES[0])[1]
    np.testing.assert_allclose(jax.jit(back)(1.0)[0], found, rtol=1e-12)


def test_moments_in_single_precision_are_one_program():
    """Which is used again for other numbers of the same shape; 1e-5 is the rounding of a dozen terms."""
    x = designs.simulate(0, SIZES, p=3)[2]
    single = jaxre.group_moments(OUTCOMES[0], GROUPS, x)
    assert single.means.dtype == np.float32
    with jax.enable_x64(True):
        double = jaxre.group_moments(OUTCOMES[0], GROUPS, x)
        expected = jaxre.restricted_log_likelihood(AT, double)
    assert jaxre.restricted_log_likelihood(AT, single) == pytest.approx(float(expected), rel=1e-5)
    with programs() as made:
        jaxre.group_moments(OUTCOMES[1], GROUPS, x)
    assert made == []


def test_a_draw_is_one_program(x64):
    """By itself and under a vmap over keys: the numbers that are drawn inside jit, to their rounding."""
    moments = designs.moments(OUTCOMES[0], GROUPS)
    keys = jax.random.split(jax.random.key(0), 3)
    for kind in (moments, jaxre.stratify(moments)):
        inside = jax.jit(jax.vmap(lambda key, kind=kind: jaxre.draw(key, kind, AT, [1.0])))(keys)
        mapped = jax.vmap(lambda key, kind=kind: jaxre.draw(key, kind, AT, [1.0]))(keys)
        one = jaxre.draw(keys[1], kind, AT, [1.0])
        assert isinstance(one.sizes, np.ndarray)  # known, as they were
        for name in ("means", "within_cross"):
            expected = getattr(inside, name)
            np.testing.assert_allclose(getattr(mapped, name), expected, rtol=1e-11, atol=1e-13)
            np.testing.assert_allclose(getattr(one, name), expected[1], rtol=1e-11, atol=1e-13)
        assert one.frame.origin == 1
        with programs() as made:
            jaxre.draw(keys[2], kind, jaxre.Components(within=2.0, between=0.5), [4.0])
        assert made == []
    with pytest.raises(TypeError, match="must be GroupMoments or Strata"):
        jaxre.draw(keys[0], [1.0], AT)


def test_a_loss_is_one_program(x64):
    loss = lambda logs, y: jaxre.negative_log_likelihood(y, GROUPS, logs[0], logs[1], restricted=True)
    at = np.array([0.1, 0.7])
    found, slope = jax.value_and_grad(loss)(at, OUTCOMES[0])
    value, gradient = jax.jit(jax.value_and_grad(loss))(at, OUTCOMES[0])
    np.testing.assert_allclose([loss(at, OUTCOMES[0]), found], value, rtol=1e-14)
    np.testing.assert_allclose(slope, gradient, rtol=1e-12)
    with programs() as made:
        loss(at + 1, OUTCOMES[1])
        jax.value_and_grad(loss)(at + 1, OUTCOMES[1])
    assert made == []


def test_a_meta_analysis_is_one_program(x64):
    effects = OUTCOMES[0].tolist()
    one = jaxre.meta_analysis(effects, VARIANCES, method="pm", level=0.9)
    inside = jax.jit(lambda y: jaxre.meta_analysis(y, VARIANCES, method="pm", level=0.9))(OUTCOMES[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11), one, inside)
    tau2 = lambda y: jaxre.meta_analysis(y, VARIANCES, method="pm").tau2
    slope = jax.grad(tau2)(jnp.asarray(OUTCOMES[0]))
    np.testing.assert_allclose(slope, jax.jit(jax.grad(tau2))(OUTCOMES[0]), rtol=1e-9)
    with programs() as made:
        jaxre.meta_analysis(OUTCOMES[1], VARIANCES, method="pm", level=0.8)
        jax.grad(tau2)(jnp.asarray(OUTCOMES[1]))
    assert made == []


def test_equal_words_of_other_types_are_other_programs(x64):
    """1, 1.0 and True are equal: what one of them has made must not serve another."""
    moments = designs.moments(OUTCOMES[0], GROUPS)
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        jaxre.alternating(moments, AT, steps=5.0)
    path = jaxre.alternating(moments, AT, steps=5)
    assert path.within.shape == (6,)
    for steps in (np.array(5), jnp.int32(5)):
        np.testing.assert_array_equal(jaxre.alternating(moments, AT, steps=steps).within, path.within)
    with pytest.raises(ValueError, match="coefficient's place must be"):
        jaxre.wald_interval(moments, AT, False)
    assert jaxre.wald_interval(moments, AT, 0).high > 0


def test_arguments_that_no_program_takes(x64):
    """Go operation by operation, or are refused in words."""
    fit = jaxre.fit(OUTCOMES[0], GROUPS)
    assert jaxre.log_likelihood(fit, fit.moments) == pytest.approx(jaxre.log_likelihood(fit.components, fit.moments))
    for level in (np.float32(1.5), jnp.asarray(1.5), np.array(1.5)):
        with pytest.raises(ValueError, match="level must lie between 0 and 1"):
            jaxre.exact_interval(fit.moments, level)
    with pytest.raises(TypeError, match="blup needs the moments by group"):
        jaxre.blup(None, AT)


@pytest.mark.parametrize("y", [np.float32(OUTCOMES[0]), np.where(GROUPS == 1, np.nan, OUTCOMES[0])])
@pytest.mark.parametrize(("labels", "good"), [(GROUPS + 2**32, False), (np.uint8(GROUPS), True), (GROUPS - 1, False)])
def test_labels_of_any_integers_are_counted_before_they_are_32_bits(x64, y, labels, good):
    found = jaxre.group_moments(y, labels, num_groups=300)
    assert (found.status == jaxre.Status.INTERIOR) == (good and np.isfinite(y).all())
    assert np.isfinite(found.sizes).all() == good
    assert not good or found.sizes[:4].tolist() == SIZES


def test_sizes_of_groups_are_counted_and_not_added_up():
    """Ones in half precision add up to 2,048 at most."""
    found = jaxre.group_moments(np.float16(np.arange(3005) % 7), np.repeat([0, 1], [3000, 5]))
    assert found.sizes.tolist() == [3000, 5]
