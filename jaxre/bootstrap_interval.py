"""Intervals from the replicates of one number: percentile, basic and BCa; by NumPy, or by JAX inside of a program."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from jaxre.rows import Array

Interval = tuple[Array, Array, Array, Array, Array]


def interval_of(drawn: np.ndarray, estimate: float, scores: np.ndarray | None, kind: str, level: float) -> Interval:
    """Interval, bias, standard error and the number of replicates used, of one number, on the host."""
    known = ~np.isnan(drawn)
    if not known.all():  # none is masked below, which would take longer
        drawn, scores = drawn[known], None if scores is None else scores[known]
    if len(drawn) < 2:
        return (*np.full(4, np.nan), np.asarray(len(drawn)))
    return _interval(drawn, estimate, scores, None, kind, level, np)


def traced_interval_of(drawn: Array, estimate: Array, scores: Array | None, kind: str, level: Array) -> Interval:
    """The same in JAX."""
    return _interval(drawn, estimate, scores, ~jnp.isnan(drawn), kind, level, jnp)


def _interval(drawn: Any, estimate: Any, scores: Any, known: Any, kind: str, level: Any, xp: Any) -> Interval:
    """Of the replicates that are `known`, None for all."""
    used = xp.asarray(len(drawn) if known is None else known.sum())
    places = xp.stack([(1 - xp.asarray(level)) / 2, (1 + xp.asarray(level)) / 2])
    mean = lambda values: _mean(values, known, xp)
    if kind == "bca":
        below = mean(drawn < estimate) + mean(drawn == estimate) / 2
        places = _bca_places(below, acceleration(drawn, scores, known, xp), places, xp)
    low, high = order_statistics(drawn, used, places, xp)
    if kind == "basic":
        low, high = 2 * estimate - high, 2 * estimate - low
    average = mean(drawn)
    bias = xp.where(used > 1, average - estimate, xp.nan)
    gap, size = _in_units(drawn - average, known, xp)
    variance = mean(gap * gap) * (used / xp.where(used > 1, used - 1, xp.nan))
    return low, high, bias, size * xp.sqrt(variance), used


def _mean(values: Any, known: Any, xp: Any) -> Any:
    """Over the replicates, the first axis."""
    if known is None:
        return values.mean(axis=0)
    mask = known.reshape(-1, *[1] * (values.ndim - 1))
    return xp.where(mask, values, 0).sum(axis=0) / known.sum()


def _in_units(deviations: Any, known: Any, xp: Any) -> tuple[Any, Any]:
    """Over the largest of them, and that: their powers are then numbers, whatever unit the replicates are in."""
    sizes = abs(deviations)
    size = (sizes if known is None else xp.where(known, sizes, 0)).max()
    size = xp.where(size > 0, size, 1.0)
    return deviations / size, size


def order_statistics(drawn: Any, used: Any, places: Any, xp: Any = np) -> Any:
    """Those at (used + 1) a for the places a, interpolated; NaN beyond the first and the last.

    `used` replicates are not NaN.
    """
    h = (used + 1) * places
    inside = (h >= 1) & (h <= used)
    k = xp.where(inside, h, 1).astype(int)
    before, after = k - 1, xp.minimum(k, used - 1)
    ordered = np.partition(drawn, np.unique([before, after])) if xp is np else xp.sort(drawn)  # NaN is last
    a, b = ordered[before], ordered[after]
    return xp.where(inside, xp.where((a == b) | (h == k), a, a + (h - k) * (b - a)), xp.nan)


def _bca_places(below: Any, c: Any, places: Any, xp: Any) -> Any:
    """Where BCa takes its order statistics; NaN where it is not defined."""
    cdf, inverse = _normal(xp)
    defined = (below > 0) & (below < 1) & ~xp.isnan(c)
    z0 = inverse(xp.where(defined, below, 0.5))
    step = z0 + inverse(places)
    room = 1 - c * step
    return xp.where(defined & (room > 0), cdf(z0 + step / xp.where(room > 0, room, 1)), xp.nan)


def _normal(xp: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """The standard normal distribution and its inverse."""
    if xp is jnp:
        return ndtr, ndtri
    return np.vectorize(NormalDist().cdf), np.vectorize(NormalDist().inv_cdf)


def acceleration(drawn: Any, scores: Any, known: Any = None, xp: Any = np) -> Any:
    """A sixth of the skewness of the regression of the replicates on their scores; NaN where they do not vary."""
    mean = lambda values: _mean(values, known, xp)
    deviation = lambda values: values - mean(values) if known is None else _zeroed(values - mean(values), known, xp)
    x, t = deviation(scores), _in_units(deviation(drawn), None, xp)[0]
    largest = abs(x).max(axis=0)
    x = x / xp.where(largest > 0, largest, 1)
    spread = xp.sqrt(mean(x * x))
    x = x / xp.where(spread > 0, spread, 1)
    finite = xp.isfinite(t).all()
    score = x @ xp.linalg.lstsq(x.T @ x, x.T @ xp.where(finite, t, 0))[0]
    varies, variance = finite & (t != 0).any(), mean(score * score)
    return xp.where(varies, mean(score**3) / xp.where(varies, variance, 1) ** 1.5 / 6, xp.nan)


def _zeroed(values: Any, known: Any, xp: Any) -> Any:
    return xp.where(known.reshape(-1, *[1] * (values.ndim - 1)), values, 0)
