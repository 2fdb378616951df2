"""Intervals of the ratio: what the profile of the likelihood at their ends proves, and points within them.

With f(lambda) = N log Q + L, the profile of -2 log L up to a constant: Q is a sum of terms c / (1 + lambda nu) with
c, nu >= 0, each log-convex, so -Q' and -Q'/Q fall; L rises and is concave; and each of -Q''/Q', L' and -L''/L' falls.
So on an interval [a, b]

    N Q'(a)/Q(a) + L'(b)  <=  f'  <=  N Q'(b)/Q(b) + L'(a)

and an interval on which f' keeps its sign holds no optimum. f' has the sign of F = Q + N Q'/L', whose derivative is
N |Q'|/L' (e - l) with e = -Q''/Q' and l = L'/N - L''/L'. So F rises on [a, b] if e(b) > l(a) (then at most one minimum
of f, and one if F changes sign) and falls if e(a) < l(b) (then no minimum inside).

Both e and l are convex. -Q' is a sum of c w^2 over terms with w = nu / (1 + lambda nu), the Laplace transform of a
mixture of gamma densities of shape 2 and scales w; so e = 2 E w is its mean, and e'' its third central moment,
24 E w^3 - 36 E w^2 E w + 16 (E w)^3. With E w^3 E w >= (E w^2)^2 that is (E w)^3 (24 m^2 - 36 m + 16) > 0 at least,
m = E w^2 / (E w)^2. For L', a mixture with shape 1, it is (E w)^3 (6 m^2 - 6 m + 2) > 0, and L' is convex itself. So e
lies above its tangents, l below its chord, and G, the largest of the chord less the tangents, decides more: F rises if
G < 0. In between F' lies between -D and U,

    D = N |Q'(a)|/L'(b) max(G, 0),    U = N |Q'(a)|/L'(b) max(e(a) - l(b), 0)

and F stays above the higher of F(a) - D (lambda - a) and F(b) - U (b - lambda), which settles intervals where F comes
close to 0 without reaching it. Beyond the last point a, lambda f' >= a L'(a) - N (Q(a) - Q(infinity)) / Q(infinity).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxre.curve import Curve
from jaxre.profile import Profile, score, score_noise
from jaxre.rows import Array

GROWTH = 4.0  # of 1 + typical size * lambda, from one first point to the next


def rises_at(at: Profile, curve: Curve) -> Array:
    """Whether f rises at a point, up to rounding."""
    return score(at, curve.n) >= -score_noise(at, curve.n)


class Facts(NamedTuple):
    """What the proof asks of the profile at a point; few numbers, because a loop carries them from point to point."""

    ratio: Array
    quadratic: Array
    """Q."""
    excess: Array
    """Q - Q(infinity)."""
    steep: Array
    """N |Q'|."""
    climb: Array
    """L'."""
    bend: Array
    """e = -Q''/Q'."""
    fall: Array
    """-e' = Q'''/Q' - e^2; NaN where Q''', of the order of weights^4, has lost digits to underflow."""
    need: Array
    """l = L'/N - L''/L'."""
    root: Array
    """F = Q + N Q'/L'."""
    per_climb: Array
    """1 / L'."""
    cancelled: Array | None
    """what was subtracted to make L', None where nothing was."""


def facts_of(at: Profile, curve: Curve) -> Facts:
    """What the proof asks of the profile; anything at infinity, where it is not asked."""
    steep, per_climb = -curve.n * at.quadratic_1, 1 / at.log_det_1
    per_first = 1 / at.quadratic_1
    bend, kind = -at.quadratic_2 * per_first, jnp.finfo(at.ratio.dtype)
    whole = -at.quadratic_3 > float(kind.tiny) / float(kind.eps) ** 2  # what underflowed is below its rounding
    return Facts(
        ratio=at.ratio,
        quadratic=at.quadratic,
        excess=at.excess,
        steep=steep,
        climb=at.log_det_1,
        bend=bend,
        fall=jnp.where(whole, at.quadratic_3 * per_first - bend * bend, jnp.nan),
        need=at.log_det_1 / curve.n - at.log_det_2 * per_climb,
        root=at.quadratic - steep * per_climb,
        per_climb=per_climb,
        cancelled=at.cancelled if curve.cancels else None,
    )


def _climb_size(at: Facts) -> Array:
    """L' and what was subtracted to make it: its rounding is of that size."""
    return at.climb if at.cancelled is None else at.climb + at.cancelled


def _need_size(at: Facts, curve: Curve) -> Array:
    """The same for l; no term of L'' is more than the largest weight times one of L'."""
    if at.cancelled is None:
        return at.need
    weight = curve.largest / (1 + at.ratio * curve.largest)
    return at.need + at.cancelled * (1 / curve.n + 3 * weight * at.per_climb)


def _bend_size(at: Facts, width: Array | None, curve: Curve) -> Array:
    """What e's tangent, at its point or a width away, is made of: with covariates differences of terms as large as the
    largest weight. Without, a group that dominates was never seen to cost e more than a tenth of that, e' a quarter."""
    weight = curve.largest / (1 + at.ratio * curve.largest)
    if at.cancelled is None:
        here = at.bend + weight / 16
        return here if width is None else here + (at.fall + weight * at.bend / 4) * width
    return 3 * weight if width is None else 3 * weight * (1 + 2 * weight * width)


def largest_gap(a: Facts, b: Facts, curve: Curve) -> Array:
    """G, at least the largest of l - e on [a, b].

    That is below l's chord less e's tangent at a, and below the chord less that at b, so below any mean of the two,
    which is linear and largest at an end; the best mean is level where there is one. Without a tangent it is below
    l(a) - e(b).
    """
    slack, width = 64 * jnp.finfo(curve.n.dtype).eps, b.ratio - a.ratio
    sink_a, sink_b = a.fall * width, b.fall * width
    need_a, need_b = a.need + slack * _need_size(a, curve), b.need + slack * _need_size(b, curve)
    bend_a, far_a = (a.bend - slack * _bend_size(a, far, curve) for far in (None, width))
    bend_b, far_b = (b.bend - slack * _bend_size(b, far, curve) for far in (None, width))
    of_a = need_a - bend_a, need_b - far_a + sink_a
    of_b = need_a - far_b - sink_b, need_b - bend_b
    grows_a, grows_b = of_a[1] - of_a[0], of_b[1] - of_b[0]
    part = grows_a - grows_b
    share = jnp.clip(grows_a / jnp.where(part > 0, part, 1.0), 0.0, 1.0)
    mean = lambda i: of_a[i] + share * (of_b[i] - of_a[i])
    return jnp.where(jnp.isnan(sink_a + sink_b), need_a - bend_b, jnp.maximum(mean(0), mean(1)))


def on_interval(a: Facts, b: Facts, falling: Array, curve: Curve) -> tuple[Array, Array]:
    """Masks of the intervals [a, b] that hold exactly one minimum, and of those about which nothing is known yet;
    `falling` says whether f falls at a."""
    slack = 64 * jnp.finfo(curve.n.dtype).eps
    # the bounds on f', each times Q at the end where its falling part is taken
    lower, lower_size = b.climb * a.quadratic - a.steep, _climb_size(b) * a.quadratic + a.steep
    upper, upper_size = a.climb * b.quadratic - b.steep, _climb_size(a) * b.quadratic + b.steep
    gap = largest_gap(a, b, curve)
    falls = a.bend < b.need - slack * _need_size(b, curve)
    steepest = a.steep * (b.ratio - a.ratio) * b.per_climb
    down, up = steepest * jnp.maximum(gap, 0), steepest * jnp.maximum(a.bend - b.need, 0)
    share = 1 / jnp.where(down + up > 0, down + up, 1.0)
    lowest = a.root - down * jnp.clip((a.root - b.root + up) * share, 0.0, 1.0)
    highest = a.root + up * jnp.clip((b.root - a.root + down) * share, 0.0, 1.0)
    rounding = slack * (a.quadratic + a.steep * a.per_climb * a.per_climb * _climb_size(a))
    rises = (gap < 0) & (b.root - a.root > rounding)  # else its crossing could be rounding
    one_sign = (a.root * b.root > 0) & ((lowest > rounding) | (highest < -rounding))
    signed = (lower > slack * lower_size) | (upper < -slack * upper_size) | one_sign
    return ~signed & rises & falling & (b.root >= 0), ~(signed | rises | falls)


def on_ray(a: Facts, falling: Array, curve: Curve) -> tuple[Array, Array]:
    """The same of [a, infinity)."""
    slack = 64 * jnp.finfo(curve.n.dtype).eps
    signed = a.ratio * (a.climb - slack * _climb_size(a)) * curve.floor > curve.n * a.excess * (1 + slack)
    rises = a.ratio >= curve.rises_from
    return ~signed & rises & falling, ~(signed | rises)


def middle_ratio(low: Array, high: Array, size: Array) -> Array:
    """The middle of [low, high] in log(1 + size * ratio); far out on an interval without end."""
    end = jnp.isinf(high)
    top = jnp.where(end, 0.0, high)
    product = (1 + size * low) * (1 + size * top)
    excess = low + top + size * low * top  # (sqrt(product) - 1) / size without cancellation at small ratios
    return jnp.where(end, GROWTH**3 * (low + 1 / size), excess / (1 + jnp.sqrt(product)))


def chord_root(low: Array, f_low: Array, high: Array, f_high: Array, curve: Curve) -> Array:
    """Where the chord of F crosses 0 in s = 1 / (1 + size * ratio), a variable in which F is nearly linear."""
    endless = jnp.isinf(high)
    f_high = jnp.where(endless, curve.floor, f_high)
    s_low, s_high = 1 / (1 + curve.size * low), jnp.where(endless, 0.0, 1 / (1 + curve.size * high))
    s = s_low + jnp.clip(-f_low / (f_high - f_low), 0.0, 1.0) * (s_high - s_low)
    ratio = jnp.clip((1 / s - 1) / curve.size, low, high)
    return jnp.where(jnp.isfinite(ratio) & (ratio > 0), ratio, middle_ratio(low, high, curve.size))
