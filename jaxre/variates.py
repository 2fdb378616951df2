"""Standard normal numbers and chi-squares, the variates of which all draws are made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfinv

from jaxre.rows import Array

FACTORS = (
    0,
    1,
    2,
    3,
    4,
    6,
    8,
    12,
    16,
    24,
    32,
)  # uniforms in a product for a chi-square; for more, rejection is quicker


def bound(freedom: Any) -> int | None:
    """Twice the factors that all need, rounded up, and 1 more where any is odd; None where they are too many."""
    freedom = np.maximum(freedom, 0).astype(int)
    enough = [factors for factors in FACTORS if 2 * factors >= freedom.max() - 1]
    return 2 * enough[0] + int((freedom % 2).any()) if enough else None


def normals_and_chi_squares(
    key: Array, count: int, wanted: Sequence[tuple[Array, int | None]], dtype: Any
) -> tuple[Array, list[Array]]:
    """Standard normal numbers (count,); and for each (freedom, most) chi-squares on whole numbers of degrees of freedom
    of at most so many, 0 on none.

    All come from one call for uniform numbers, since a call costs more than its numbers; but for those on very many
    degrees of freedom, which have keys of their own.
    """
    shapes = [(0 if most is None else most // 2 + most % 2, *jnp.shape(freedom)) for freedom, most in wanted]
    ends = count + np.cumsum([0, *map(math.prod, shapes)])
    alone = all(most is not None for _, most in wanted)
    of_uniforms, *keys = [key] if alone else jax.random.split(key, 1 + len(wanted))
    uniforms = jax.random.uniform(of_uniforms, (int(ends[-1]),), dtype)
    least = float(np.nextafter(np.array(-1, dtype), 0))
    found = [
        _large_chi_square(keys[place], freedom)
        if most is None
        else _small_chi_square(uniforms[ends[place] : ends[place + 1]].reshape(shapes[place]), freedom, most)
        for place, (freedom, most) in enumerate(wanted)
    ]
    return math.sqrt(2) * erfinv(jnp.maximum(2 * uniforms[:count] - 1, least)), found


def _small_chi_square(uniforms: Array, freedom: Array, most: int) -> Array:
    """As -2 log of a product of uniforms, and the square of a normal, 2 erfinv(u)^2, where their number is odd."""
    factors, halves = most // 2, jnp.floor(freedom / 2)
    total = jnp.zeros_like(freedom)
    if most % 2:
        total = jnp.where(freedom > 2 * halves, 2 * erfinv(uniforms[-1]) ** 2, 0)
    if factors == 0:
        return total
    product = jnp.ones_like(freedom)
    for i in range(factors):
        product = product * jnp.where(i < halves, 1 - uniforms[i], 1)
    return total - 2 * jnp.log(product)


def _large_chi_square(key: Array, freedom: Array) -> Array:
    """Chi-squares on any number of degrees of freedom, by rejection.

    Twice a gamma variable of shape a = freedom / 2. With d = a - 1/3, z normal and v = (1 + z / (3 sqrt d))^3, d v is
    one where log u < z^2 / 2 + d (1 - v + log v). For a < 1, one of shape a + 1 times u^(1/a) is.

    Source: Marsaglia and Tsang (2000), ACM Transactions on Mathematical Software 26, 363-372.
    """
    a, like = freedom / 2, {"shape": freedom.shape, "dtype": freedom.dtype}
    d = jnp.where(a < 1, a + 1, a) - 1 / 3

    def attempt(key: Array) -> tuple[Array, Array]:
        of_normal, of_uniform = jax.random.split(key)
        z, u = jax.random.normal(of_normal, **like), 1 - jax.random.uniform(of_uniform, **like)
        v = jnp.maximum(1 + z / (3 * jnp.sqrt(d)), 0) ** 3
        return d * v, jnp.log(u) < z * z / 2 + d * (1 - v + jnp.log(v))  # never where v = 0

    def again(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, gamma, accepted = state
        other, good = attempt(jax.random.fold_in(key, count))
        return count + 1, jnp.where(accepted, gamma, other), accepted | good

    first = jnp.ones((), jnp.uint32), *attempt(jax.random.fold_in(key, 0))
    _, gamma, _ = jax.lax.while_loop(lambda state: ~state[2].all(), again, first)
    power = 1 - jax.random.uniform(jax.random.fold_in(key, jnp.uint32(2**32 - 1)), **like)
    gamma = jnp.where(a < 1, gamma * power ** (1 / jnp.where(a > 0, a, 1)), gamma)
    return jnp.where(a > 0, 2 * gamma, 0)
