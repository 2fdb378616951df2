"""The incomplete beta function, from which come the tails of F and t."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from jaxre.rows import Array

DIFFERENCE = 3e-3  # of a parameter: errors of about 1e-12 from the fourth order, and 1e-13 from rounding
MOST_TERMS = 5000  # of a continued fraction, which takes about the root of its parameters


@jax.custom_jvp
def betainc(a: Array, b: Array, x: Array) -> Array:
    """Regularised incomplete beta function, with derivatives in all three arguments; NaN outside of its domain.

    By the continued fraction of its smaller tail. Each element stands still once it has converged, so that none depends
    on the others, as those of JAX do: there all go on until the last has.

    Source: NIST Digital Library of Mathematical Functions, 8.17.22; Lentz (1976), Applied Optics 15, 668-671.
    """
    a, b, x = jnp.broadcast_arrays(a, b, x)
    known = (a > 0) & (b > 0) & (a < jnp.inf) & (b < jnp.inf) & (x >= 0) & (x <= 1)
    inside = known & (x > 0) & (x < 1)
    a, b, y = (jnp.where(inside, number, 0.5) for number in (a, b, x))
    swapped = y > (a + 1) / (a + b + 2)
    p, q, u = jnp.where(swapped, b, a), jnp.where(swapped, a, b), jnp.where(swapped, 1 - y, y)
    eps, least = float(jnp.finfo(u.dtype).eps), float(jnp.finfo(u.dtype).tiny) ** 0.5

    def ratio(state: Array, numerator: Array) -> tuple[Array, Array]:
        """One level of the fraction: the next numerator and denominator, each over the one before."""
        above, below = state
        kept = lambda number: jnp.where(abs(number) < least, least, number)
        return kept(1 + numerator / above), 1 / kept(1 + numerator * below)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        m, above, below, value, running = state
        even = m * (q - m) * u / ((p + 2 * m - 1) * (p + 2 * m))
        odd = -(p + m) * (p + q + m) * u / ((p + 2 * m) * (p + 2 * m + 1))
        first = ratio((above, below), even)
        second = ratio(first, odd)
        change = second[0] * second[1]
        now = value * first[0] * first[1] * change
        keep = lambda new, old: jnp.where(running, new, old)
        still = running & (abs(change - 1) > eps)
        return m + 1, keep(second[0], above), keep(second[1], below), keep(now, value), still

    one = jnp.ones_like(u)
    below = 1 / (1 - (p + q) * u / (p + 1))
    start = jnp.ones((), u.dtype), one, below, below, inside
    *_, value, _ = jax.lax.while_loop(lambda state: state[-1].any() & (state[0] < MOST_TERMS), step, start)
    norm = gammaln(p) + gammaln(q) - gammaln(p + q)  # betaln of JAX is good to 1e-7 where q is above 8 or so
    tail = jnp.exp(p * jnp.log(u) + q * jnp.log1p(-u) - norm) / p * value
    found = jnp.where(swapped, 1 - tail, tail)
    return jnp.where(inside, found, jnp.where(known, x, jnp.nan))  # at the ends it is x itself


@betainc.defjvp
def _betainc_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    """In x by the density; in a and b, where there is no closed form, by differences of fourth order."""
    a, b, x = primals
    inside = (x > 0) & (x < 1)
    safe = jnp.where(inside, x, 0.5)
    norm = gammaln(a) + gammaln(b) - gammaln(a + b)  # betaln of JAX is good to 1e-7 where b is above 8 or so
    density = jnp.exp((a - 1) * jnp.log(safe) + (b - 1) * jnp.log1p(-safe) - norm)

    def slope(of: Callable[[Array], Array], at: Array) -> Array:
        step = DIFFERENCE * at
        return (8 * (of(at + step) - of(at - step)) - (of(at + 2 * step) - of(at - 2 * step))) / (12 * step)

    change = (
        slope(lambda a: betainc(a, b, safe), a) * tangents[0] + slope(lambda b: betainc(a, b, safe), b) * tangents[1]
    )
    return betainc(a, b, x), jnp.where(inside, change + density * tangents[2], 0.0)
