"""Branch and bound on the ratio: every basin of the profile likelihood, and the proof that there are no others.

With f(lambda) = N log Q + L, the profile of -2 log L up to a constant: Q is a sum of terms c / (1 + lambda nu) with
c, nu >= 0, each log-convex, so -Q' and -Q'/Q fall; L rises and is concave; and each of -Q''/Q', L' and -L''/L' falls.
So on an interval [a, b]

    N Q'(a)/Q(a) + L'(b)  <=  f'  <=  N Q'(b)/Q(b) + L'(a)

and an interval on which f' keeps its sign holds no optimum. f' has the sign of F = Q + N Q'/L', whose derivative is
N |Q'|/L' (e - l) with e = -Q''/Q' and l = L'/N - L''/L'. So F rises on [a, b] if e(b) > l(a) (then at most one minimum
of f, and one if F changes sign) and falls if e(a) < l(b) (then no minimum inside). In between F' lies between -D and U,

    D = N |Q'(a)|/L'(b) max(l(a) - e(b), 0),    U = N |Q'(a)|/L'(b) max(e(a) - l(b), 0)

and F stays above the higher of F(a) - D (lambda - a) and F(b) - U (b - lambda), which settles intervals where F comes
close to 0 without reaching it. Beyond the last point a, lambda f' >= a L'(a) - N (Q(a) - Q(infinity)) / Q(infinity).
What none of these decides is split, in log(1 + mean size * lambda).

A first look at a dozen points settles most datasets: each interval rises, or f' keeps its sign on it, and at most one
of them holds a minimum. The others are left to the branch and bound.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxre.profile import Curve, Profile, drop, score, score_noise, score_root
from jaxre.records import record
from jaxre.rows import Array

STRIDE = 1.45  # of 1 + largest size * lambda, from one point of the first look to the next
WIDTH = 16  # points that are looked at in one round of branch and bound, and basins that are kept
ROWS = 96  # intervals that are kept at once
REFINED = 3  # steps towards the root where a proof needs no points
GROWTH = 4.0  # of 1 + typical size * lambda, from one first point to the next
ROUNDS = 500

EMPTY, BASIN, UNDECIDED = 0, 1, 2
FIELDS = len(Profile._fields)


@record
class Look:
    """What a first look at a dozen points says; the rest means something only where `settled`."""

    settled: Array
    """() bool, lambda = 0 is the only local minimum of f, or `low` to `high` holds the only one."""
    at_zero: Array
    """() bool, lambda = 0 is it."""
    low: Array
    """() [1], left end of the basin."""
    high: Array
    """() [1], right end, may be infinite."""
    start: Array
    """() [1], a first iterate in it."""


def first_look(curve: Curve) -> Look:
    """The proof at a fixed set of points, without a loop."""
    ratios = (STRIDE ** jnp.arange(curve.looks, dtype=curve.size.dtype) - 1) / curve.largest
    at = jax.vmap(curve.at)(ratios)
    a = at
    b = jax.tree.map(lambda leaf: jnp.concatenate([leaf[1:], leaf[-1:]]), at)
    b = b._replace(ratio=jnp.append(ratios[1:], jnp.inf))
    zero = jax.tree.map(lambda leaf: leaf[0], at)
    at_zero = score(zero, curve.n) >= -score_noise(zero, curve.n)
    one, undecided = _classify(a, b, curve, at_zero)
    settled = ~undecided.any() & (one.sum() + at_zero == 1)
    start = chord_root(a, b, curve)
    pick = lambda column, otherwise: jnp.where(one, column, otherwise).max()
    low, high = pick(a.ratio, 0.0), pick(b.ratio, 0.0)
    return Look(settled=settled, at_zero=at_zero, low=low, high=high, start=pick(start, 0.0))


def look_at_proof(curve: Curve) -> Look:
    """A look that needs the profile at 0 alone, because F is known to cross 0 at most once."""
    zero = curve.at(jnp.zeros_like(curve.floor))
    at_zero = score(zero, curve.n) >= -score_noise(zero, curve.n)
    start = chord_root(zero, zero._replace(ratio=jnp.full_like(curve.floor, jnp.inf)), curve)
    start = jax.lax.fori_loop(0, REFINED, lambda _, ratio: _closer_root(ratio, curve), start)
    low, high = jnp.zeros_like(start), jnp.full_like(start, jnp.inf)
    return Look(settled=curve.proven, at_zero=at_zero, low=low, high=high, start=start)


@record
class Basins:
    """Intervals of the ratio that hold exactly one interior minimum of f each, and the state of the proof."""

    low: Array
    """(WIDTH,) [1], left ends; the first `count` are basins."""
    high: Array
    """(WIDTH,) [1], right ends, may be infinite."""
    start: Array
    """(WIDTH,) [1], where the chord of F crosses 0: a first iterate."""
    count: Array
    """() int32, how many."""
    zero: Profile
    """f and its derivatives at lambda = 0."""
    zero_is_optimum: Array
    """() bool, f'(0) >= 0 up to rounding: lambda = 0 is a local minimum."""
    unresolved: Array
    """() [1], smallest f - f(0) on an interval that rounding leaves undecided; infinite when there is none."""
    unresolved_ratio: Array
    """() [1], the ratio there."""
    complete: Array
    """() bool, every part of [0, infinity) was decided or is in `unresolved`."""


def find_basins(curve: Curve) -> Basins:
    """Every basin of the profile of -2 log L over lambda >= 0; see the head of this module.

    The loop carries a table with a row for each interval (the profile at its left and at its right end, what it is, and
    the next point to look at) and the head (the profile at 0, the smallest value on an unresolved interval and where
    that is, whether an interval was lost for want of room, the rounds): two arrays, because each one costs a kernel to
    compile. Unresolved is what is too small to split, or so flat that f changes by less than its rounding.
    """
    n, size = curve.n, curve.size
    eps = jnp.finfo(size.dtype).eps
    evaluate = jax.vmap(lambda ratio: jnp.stack(curve.at(ratio)))

    def split(state: tuple[Array, Array]) -> tuple[Array, Array]:
        table, head = state
        low, high, kind = table[:, :FIELDS], table[:, FIELDS : 2 * FIELDS], table[:WIDTH, 2 * FIELDS]
        new = evaluate(table[:WIDTH, -1])
        begin = head[-1] == 0
        at_zero = jnp.where(begin, new[0], head[:FIELDS])
        zero = Profile(*at_zero)
        # the first time the new points are the intervals' ends, afterwards the middles of the first rows
        after = jnp.concatenate([new[1:], new[-1:].at[0, 0].set(jnp.inf)])
        endless = jnp.where(jnp.isinf(high[:WIDTH, :1]) & (jnp.arange(FIELDS) > 0), new, high[:WIDTH])
        basin = (kind == BASIN)[:, None]
        lows = jnp.concatenate([jnp.where(begin, new, low[:WIDTH]), new])
        highs = jnp.concatenate([jnp.where(begin, after, jnp.where(basin, high[:WIDTH], new)), endless])
        kinds = jnp.concatenate([kind, jnp.where((kind == UNDECIDED) & ~begin, UNDECIDED, EMPTY)])

        a, b = Profile(*lows.T), Profile(*highs.T)
        rising, undecided = _classify(a, b, curve, score(zero, n) >= -score_noise(zero, n))
        kinds = jnp.where(kinds != UNDECIDED, kinds, jnp.where(rising, BASIN, jnp.where(undecided, UNDECIDED, EMPTY)))
        width = b.ratio - a.ratio
        steepest = jnp.maximum(fall(a, n) - b.log_det_1, a.log_det_1 - fall(b, n))  # |f'| on the interval
        tiny = (width <= 64 * eps * (a.ratio + 1 / curve.largest)) | (width * steepest <= 8 * eps * n)
        tiny = tiny & (kinds == UNDECIDED)
        values = jnp.where(tiny, drop(a, zero, n), jnp.inf)
        least = jnp.argmin(values)
        lower = values[least] < head[FIELDS]
        unresolved = jnp.where(lower, jnp.stack([values[least], a.ratio[least]]), head[FIELDS : FIELDS + 2])
        kinds = jnp.where(tiny, EMPTY, kinds)
        middle = middle_ratio(lows[:, 0], highs[:, 0], size)
        halves = jnp.concatenate([lows, highs, kinds[:, None], middle[:, None]], axis=1)

        # depth first: the undecided before the basins, the newest before the others, so that the table stays short
        rows = jnp.concatenate([halves, table[WIDTH:]])
        order = jnp.argsort(rows[:, 2 * FIELDS], stable=True, descending=True)
        lost = jnp.where(rows[order[ROWS], 2 * FIELDS] != EMPTY, 1, head[FIELDS + 2])
        return rows[order[:ROWS]], jnp.concatenate([at_zero, unresolved, jnp.stack([lost, head[-1] + 1])])

    def unfinished(state: tuple[Array, Array]) -> Array:
        table, head = state
        return (table[0, 2 * FIELDS] == UNDECIDED) & (head[-1] < ROUNDS)

    blank = jnp.zeros((ROWS, 2 * FIELDS + 2), size.dtype)
    grid = (GROWTH ** jnp.arange(WIDTH, dtype=size.dtype) - 1) / size
    blank = blank.at[:WIDTH, 2 * FIELDS].set(UNDECIDED).at[:WIDTH, -1].set(grid)
    start = blank, jnp.zeros(FIELDS + 4, size.dtype).at[FIELDS].set(jnp.inf)
    table, head = jax.lax.while_loop(unfinished, split, start)
    a, b = Profile(*table[:WIDTH, :FIELDS].T), Profile(*table[:WIDTH, FIELDS : 2 * FIELDS].T)
    kind, zero = table[:, 2 * FIELDS], Profile(*head[:FIELDS])
    count = (kind == BASIN).sum(dtype=jnp.int32)
    return Basins(
        low=a.ratio,
        high=b.ratio,
        start=chord_root(a, b, curve),
        count=jnp.minimum(count, WIDTH),
        zero=zero,
        zero_is_optimum=score(zero, n) >= -score_noise(zero, n),
        unresolved=head[FIELDS],
        unresolved_ratio=head[FIELDS + 1],
        complete=(head[FIELDS + 2] == 0) & ~(kind == UNDECIDED).any() & (count <= WIDTH),
    )


def middle_ratio(low: Array, high: Array, size: Array) -> Array:
    """The middle of [low, high] in log(1 + size * ratio); far out on an interval without end."""
    end = jnp.isinf(high)
    top = jnp.where(end, 0.0, high)
    product = (1 + size * low) * (1 + size * top)
    excess = low + top + size * low * top  # (sqrt(product) - 1) / size without cancellation at small ratios
    return jnp.where(end, GROWTH**3 * (low + 1 / size), excess / (1 + jnp.sqrt(product)))


def _classify(a: Profile, b: Profile, curve: Curve, rises_at_zero: Array) -> tuple[Array, Array]:
    """Masks of the intervals that hold exactly one minimum, and of those about which nothing is known yet."""
    n = curve.n
    endless = jnp.isinf(b.ratio)
    slack = 64 * jnp.finfo(n.dtype).eps
    fall_a, fall_b = fall(a, n), fall(b, n)
    lower, lower_size = b.log_det_1 - fall_a, b.log_det_1 + b.cancelled + fall_a
    upper, upper_size = a.log_det_1 - fall_b, a.log_det_1 + a.cancelled + fall_b
    tail = a.ratio * (a.log_det_1 - slack * (a.log_det_1 + a.cancelled)) - n * a.excess / curve.floor * (1 + slack)
    signed = jnp.where(endless, tail > 0, (lower > slack * lower_size) | (upper < -slack * upper_size))

    bend_a, bend_b = -a.quadratic_2 / a.quadratic_1, -b.quadratic_2 / b.quadratic_1
    need_a, need_b = a.log_det_1 / n - a.log_det_2 / a.log_det_1, b.log_det_1 / n - b.log_det_2 / b.log_det_1
    off_a, off_b = (slack * (need + _cancelled(at, curve)) for need, at in ((need_a, a), (need_b, b)))
    rises = jnp.where(endless, curve.rises_beyond(a.ratio), bend_b > need_a + off_a)
    falls = ~endless & (bend_a < need_b - off_b)
    f_a, f_b = score_root(a, n), jnp.where(endless, curve.floor, score_root(b, n))
    width = jnp.where(endless, 0.0, b.ratio - a.ratio)
    steepest = -n * a.quadratic_1 / b.log_det_1 * width
    down, up = steepest * jnp.maximum(need_a - bend_b, 0), steepest * jnp.maximum(bend_a - need_b, 0)
    total = jnp.where(down + up > 0, down + up, 1.0)
    lowest = f_a - down * jnp.clip((f_a - f_b + up) / total, 0.0, 1.0)
    highest = f_a + up * jnp.clip((f_b - f_a + down) / total, 0.0, 1.0)
    rounding = slack * (a.quadratic - n * a.quadratic_1 / a.log_det_1 * (1 + a.cancelled / a.log_det_1))
    one_sign = ~endless & (f_a * f_b > 0) & ((lowest > rounding) | (highest < -rounding))
    signed = signed | one_sign
    falling_at_a = jnp.where(a.ratio == 0, ~rises_at_zero, f_a < 0)
    one = rises & falling_at_a & (f_b >= 0)
    return ~signed & one, ~(signed | rises | falls)


def fall(at: Profile, n: Array) -> Array:
    """-N Q'/Q, the part of -f' that falls in the ratio."""
    return -n * at.quadratic_1 / at.quadratic


def _cancelled(at: Profile, curve: Curve) -> Array:
    """What was subtracted in L'/N - L''/L'; no term of L'' is more than the largest weight times one of L'."""
    weight = curve.largest / (1 + at.ratio * curve.largest)
    return at.cancelled * (1 / curve.n + 3 * jnp.where(jnp.isinf(at.ratio), 0, weight) / at.log_det_1)


def _closer_root(ratio: Array, curve: Curve) -> Array:
    """One Newton step for the root of F in s = 1 / (1 + size * ratio), kept within a factor of ten."""
    at, s = curve.at(ratio), 1 / (1 + curve.size * ratio)
    share = curve.n / at.log_det_1
    root = at.quadratic + share * at.quadratic_1
    slope = at.quadratic_1 + share * (at.quadratic_2 - at.quadratic_1 * at.log_det_2 / at.log_det_1)
    closer = jnp.clip(s + root * curve.size * s * s / slope, 0.1 * s, jnp.minimum(10 * s, 1.0))
    return (1 / closer - 1) / curve.size


def chord_root(a: Profile, b: Profile, curve: Curve) -> Array:
    """Where the chord of F crosses 0 in s = 1 / (1 + size * ratio), a variable in which F is nearly linear."""
    endless = jnp.isinf(b.ratio)
    f_a, f_b = score_root(a, curve.n), jnp.where(endless, curve.floor, score_root(b, curve.n))
    s_a, s_b = 1 / (1 + curve.size * a.ratio), jnp.where(endless, 0.0, 1 / (1 + curve.size * b.ratio))
    s = s_a + jnp.clip(-f_a / (f_b - f_a), 0.0, 1.0) * (s_b - s_a)
    ratio = jnp.clip((1 / s - 1) / curve.size, a.ratio, b.ratio)
    return jnp.where(jnp.isfinite(ratio) & (ratio > 0), ratio, middle_ratio(a.ratio, b.ratio, curve.size))
