"""The curve of a search, however many points and datasets it is evaluated for."""

import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxre
from jaxre.curve import curve
from jaxre.effects import normal_equations
from jaxre.profile import profile

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("p", [1, 3])
def test_the_curve_of_a_search_is_the_profile(p):
    """Alone, at several ratios at once, and of several datasets besides; 1e-13 is the order of a sum over five strata,
    of terms of one sign or two, with covariates times their condition of 10."""
    each = [jaxre.stratify(designs.moments(*designs.simulate(seed, [2, 3, 5, 8, 9, 9], 1.0, p=p))) for seed in range(3)]
    one, several = normal_equations(each[0]), jax.vmap(normal_equations)(jaxre.stack(each))
    ratios = jnp.array([0.0, 0.3, 2.0, 1e4])
    at = lambda equations, ratio: curve(equations, True, fixed=True).at(ratio)
    plain = lambda equations, ratio: profile(equations, ratio, True)
    expected = jax.vmap(jax.vmap(plain, (None, 0)), (0, None))(several, ratios)
    alone = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(jax.jit(at)(one, ratio) for ratio in ratios))
    at_once = jax.jit(jax.vmap(at, (None, 0)))(one, ratios)
    together = jax.jit(jax.vmap(jax.vmap(at, (None, 0)), (0, None)))(several, ratios)
    rounding = 1e-13 if p == 1 else 1e-12
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=rounding, atol=rounding)
    jax.tree.map(close, together, expected)
    for found in (alone, at_once):
        jax.tree.map(lambda a, b: close(a, b[0]), found, expected)
