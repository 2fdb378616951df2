"""Probabilities and quantiles of F, t and chi-square in JAX, each tail to its own digits."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betaln, erfc, gammainc, gammaincc, gammaln, ndtri
from jax.typing import ArrayLike

from jaxre.incomplete_beta import betainc
from jaxre.roots import increasing_root
from jaxre.rows import Array

TERMS = (24, 32, 48)  # of the polynomial for a quantile of t


def f_tails(x: ArrayLike, df1: ArrayLike, df2: ArrayLike) -> tuple[Array, Array]:
    """Probabilities below and above x under F(df1, df2), each with its own digits."""
    x, df1, df2 = (jnp.asarray(number, float) for number in (x, df1, df2))
    ratio = jnp.maximum(df1 * x / df2, 0)
    below = betainc(df1 / 2, df2 / 2, ratio / (1 + ratio))
    above = betainc(df2 / 2, df1 / 2, 1 / (1 + ratio))
    return jnp.where(x == jnp.inf, 1.0, below), jnp.where(x == jnp.inf, 0.0, above)


@jax.custom_jvp
def f_quantile(probability: ArrayLike, df1: ArrayLike, df2: ArrayLike, wanted: Array | bool = True) -> Array:
    """Quantile of F(df1, df2): 0 and infinity at probabilities 0 and 1; anything where it is not `wanted`.

    Newton's method for the logarithm of the smaller tail in log x, from Paulson's approximation.
    """
    p, df1, df2 = (jnp.asarray(number, float) for number in (probability, df1, df2))
    lower = p < 0.5
    tail = jnp.where(lower, p, 1 - p)
    inner = (tail > 0) & (tail <= 0.5)
    tail = jnp.where(inner, tail, 0.5) + 0 * (df1 + df2)
    a, b, z = 2 / (9 * df1), 2 / (9 * df2), jnp.where(lower, 1.0, -1.0) * ndtri(tail)
    root = jnp.sqrt(jnp.maximum((1 - a) ** 2 * b + (1 - b) ** 2 * a - a * b * z * z, 0))
    cube = ((1 - a) * (1 - b) + z * root) / ((1 - b) ** 2 - b * z * z)
    start = 3 * jnp.log(jnp.where(cube > 0, cube, jnp.nan))
    half_1, half_2 = df1 / 2, df2 / 2
    norm, first, second = betaln(half_1, half_2), jnp.where(lower, half_1, half_2), jnp.where(lower, half_2, half_1)

    def excess(log_x: Array) -> tuple[Array, Array]:
        ratio = df1 * jnp.exp(log_x) / df2
        log_density = half_1 * jnp.log(ratio) - (half_1 + half_2) * jnp.log1p(ratio) - norm  # of log x
        mine = betainc(first, second, jnp.where(lower, ratio, 1.0) / (1 + ratio))
        value = jnp.where(lower, 1.0, -1.0) * (jnp.log(mine) - jnp.log(tail))
        return value, jnp.exp(log_density) / mine

    start = jnp.where(jnp.isfinite(start), start, 0.0)
    ends = jnp.full_like(tail, -700.0), jnp.full_like(tail, 700.0)
    found = jnp.exp(increasing_root(excess, *ends, start, 1.0, wanted))
    known = (df1 > 0) & (df2 > 0) & (p >= 0) & (p <= 1)
    return jnp.where(known, jnp.where(inner, found, jnp.where(lower, 0.0, jnp.inf)), jnp.nan)


@f_quantile.defjvp
def _f_quantile_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    """By the implicit function theorem."""
    probability, df1, df2, wanted = primals
    found = f_quantile(probability, df1, df2, wanted)
    inside = (found > 0) & (found < jnp.inf) & jnp.asarray(wanted)
    x = jnp.where(inside, found, 1.0)
    changes = [jnp.broadcast_to(change, x.shape).astype(x.dtype) for change in tangents[:3]]
    numbers = [jnp.broadcast_to(jnp.asarray(number, x.dtype), x.shape) for number in (df1, df2)]
    tails = lambda df1, df2, x: f_tails(x, df1, df2)[0]
    _, moved = jax.jvp(tails, (*numbers, x), (*changes[1:], jnp.zeros_like(x)))
    _, density = jax.jvp(tails, (*numbers, x), (*map(jnp.zeros_like, numbers), jnp.ones_like(x)))
    return found, jnp.where(inside, (changes[0] - moved) / density, 0.0)


def t_p_value(t: ArrayLike, df: ArrayLike) -> Array:
    """Two-sided p-value of Student's t; of a normal deviate where df is infinite.

    From 10,000 degrees of freedom on by Hill's expansion of the normal deviate that has the same p-value: the
    incomplete beta function loses a digit for every factor of ten in df, and the expansion gains six.

    Source: Hill (1970), Communications of the ACM 13, 617-619.
    """
    t, df = jnp.asarray(t, float), jnp.asarray(df, float)
    many, normal = df >= 1e4, df >= 1e18  # from where on no digit tells them apart
    a = jnp.where(many & ~normal, df, 1e4) - 0.5
    z_2 = jnp.minimum(jnp.where(normal, t * t, a * jnp.log1p(t * t / (a + 0.5))), 1e5)  # beyond, p is below any number
    b = 48 * a * a
    third = (((4 * z_2 + 33) * z_2 + 240) * z_2 + 855) / (10 * b * (1 + (0.8 * z_2 * z_2 + 100) / b))
    correction = jnp.where(normal, 0.0, (z_2 + 3 - third) / b)
    inside = (z_2 > 0) & ~jnp.isinf(t)  # at 0 the p-value has a peak, and this derivative is 0
    z = jnp.sqrt(jnp.where(inside, z_2, 1.0)) * (1 + correction)
    z = jnp.where(inside, z, jnp.where(t == 0, 0.0, jax.lax.stop_gradient(abs(t))))
    found = jnp.where(many, erfc(z / jnp.sqrt(2.0)), f_tails(t * t, 1.0, jnp.where(many, 1e4, df))[1])
    return jnp.where(jnp.isnan(df), jnp.nan, found)  # also of an infinite t


def t_quantile(level: ArrayLike, df: ArrayLike) -> Array:
    """t with P(|T| <= t) = level; the normal one where df is infinite.

    A level that is known when the program is made has a polynomial in 1 / df, for df from 1 on, in place of a search.
    """
    df = jnp.asarray(df, float)
    normal = jnp.isinf(df)
    if isinstance(level, float) and 0 < level < 1:
        easy = df >= 1
        x = 2 / jnp.where(easy, df, 1.0) - 1
        above, last = jnp.zeros_like(x), jnp.zeros_like(x)
        *rest, constant = t_polynomial(level)[::-1]
        for coefficient in rest:  # Clenshaw's recurrence
            above, last = 2 * x * above - last + coefficient, above
        found = jnp.exp(x * above - last + constant)
        slow = jnp.sqrt(f_quantile(level, 1.0, jnp.where(easy, 1.0, df), ~easy & (df > 0)))
        found = jnp.where(normal, -ndtri((1 - level) / 2), found)
        return jnp.where(easy, found, jnp.where(df > 0, slow, jnp.nan))
    level = jnp.asarray(level, float)
    return jnp.where(normal, -ndtri((1 - level) / 2), jnp.sqrt(f_quantile(level, 1.0, jnp.where(normal, 1.0, df))))


@functools.lru_cache(maxsize=64)
def t_polynomial(level: float) -> tuple[float, ...]:
    """Chebyshev coefficients of log t_quantile(level, df) in 2 / df - 1, good to about 1e-13."""
    table = np.zeros(0)
    for terms in TERMS:  # no more than it takes: the search loses digits as df grows
        angle = (np.arange(terms) + 0.5) * np.pi / terms
        with jax.enable_x64(True), jax.ensure_compile_time_eval():
            df = jnp.asarray(2 / (1 + np.cos(angle)))
            values = np.asarray(jnp.log(f_quantile(jnp.asarray(level), 1.0, df)) / 2)
        table = np.cos(np.arange(terms)[:, None] * angle) @ values * 2 / terms
        if abs(table[-2:]).max() < 5e-13:
            break
    table[0] /= 2
    return tuple(table.tolist())


def chi2_quantile(level: ArrayLike) -> Array:
    """Quantile of chi-square on one degree of freedom."""
    return ndtri((1 - jnp.asarray(level, float)) / 2) ** 2


def chi2_above(x: ArrayLike, df: ArrayLike) -> Array:
    """Probability above x under chi-square."""
    return gammaincc(jnp.asarray(df, float) / 2, jnp.maximum(jnp.asarray(x, float), 0) / 2)


def gamma_quantile(probability: ArrayLike, shape: ArrayLike) -> Array:
    """Quantile of the gamma distribution of scale 1; half that of chi-square on 2 * shape degrees of freedom.

    Newton's method for the logarithm of the smaller tail in log x, from Wilson and Hilferty's approximation.
    """
    p, shape = jnp.asarray(probability, float), jnp.asarray(shape, float)
    known = (shape > 0) & (p > 0) & (p < 1)
    a, p = jnp.where(known, shape, 1.0), jnp.where(known, p, 0.5)
    lower = p < 0.5
    tail, sign = jnp.where(lower, p, 1 - p), jnp.where(lower, 1.0, -1.0)
    cube = 1 - 1 / (9 * a) + ndtri(p) / (3 * jnp.sqrt(a))
    small = (jnp.log(p) + gammaln(a + 1)) / a  # where the quantile is near 0
    start = jnp.where(cube > 0.1, jnp.log(a) + 3 * jnp.log(jnp.maximum(cube, 0.1)), small)

    def excess(log_x: Array) -> tuple[Array, Array]:
        x = jnp.exp(log_x)
        mine = jnp.where(lower, gammainc(a, x), gammaincc(a, x))
        log_density = a * log_x - x - gammaln(a)  # of log x
        return sign * (jnp.log(mine) - jnp.log(tail)), jnp.exp(log_density) / mine

    found = jnp.exp(increasing_root(excess, jnp.full_like(a, -700.0), jnp.full_like(a, 700.0), start, 1.0))
    return jnp.where(known, found, jnp.nan)


def level_of(level: float) -> float:
    """A confidence level, checked where it is concrete."""
    if isinstance(level, jax.core.Tracer):
        return level
    try:
        inside = not isinstance(level, str | bytes) and 0 < float(level) < 1
    except (TypeError, ValueError):
        inside = False
    if not inside:
        raise ValueError(f"level must lie between 0 and 1, such as 0.95, got {level!r}.")
    return level
