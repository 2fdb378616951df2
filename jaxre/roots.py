"""Roots of increasing functions, many at a time."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxre.rows import Array

STEPS = 100  # of a bracketed search: bisection alone needs no more for a double


def increasing_root(
    function: Callable[[Array], tuple[Array, Array]],
    low: Array,
    high: Array,
    start: Array,
    scale: float = 0.0,
    wanted: Array | bool = True,
) -> Array:
    """Roots of increasing functions, one an element, by Newton's method inside a bracket that closes in.

    Args:
        function: from x to values and slopes, element by element; NaN counts as a value below 0.
        low: left ends, finite.
        high: right ends, finite.
        start: first iterates.
        scale: added to |x| to say what a small step is; 1 where x is a logarithm.
        wanted: where a root is asked for; elsewhere nothing is done, and where none is, no step is taken.

    Returns:
        the roots; `low` or `high` where a function has one sign on its bracket.
    """
    eps = jnp.finfo(jnp.result_type(start)).eps

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        x, low, high, count, done = state
        value, slope = function(x)
        low, high = jnp.where(value > 0, low, x), jnp.where(value > 0, x, high)
        newton = x - value / slope
        inside = (newton >= low) & (newton <= high)
        new = jnp.where(inside, newton, low + (high - low) / 2)
        # the error of Newton's next step is of the order of its square
        ended = (inside & (abs(new - x) <= eps**0.6 * (abs(x) + scale))) | (high - low <= 2 * eps * abs(x))
        ended = ended | (value == 0)
        return jnp.where(done | (value == 0), x, new), low, high, count + 1, done | ended

    start = jnp.clip(start, low, high)
    blank = jnp.zeros_like(start)
    first = start, low + blank, high + blank, jnp.zeros((), jnp.int32), (blank > 0) | ~jnp.asarray(wanted)
    return jax.lax.while_loop(lambda state: ~state[-1].all() & (state[3] < STEPS), step, first)[0]
