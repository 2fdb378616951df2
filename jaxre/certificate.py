"""Branch and bound on the ratio: every basin of the profile likelihood, and the proof that there are no others.

What the facts at the ends of an interval do not decide, see `intervals`, is split in log(1 + mean size * lambda).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxre.curve import Curve
from jaxre.intervals import GROWTH, chord_root, facts_of, middle_ratio, on_interval, on_ray, rises_at
from jaxre.look import Look
from jaxre.profile import Profile, drop, score_root
from jaxre.records import record
from jaxre.rows import Array

WIDTH = 16  # points that are looked at in one round of branch and bound, and basins that are kept
ROWS = 96  # intervals that are kept at once
ROUNDS = 500

EMPTY, BASIN, UNDECIDED = 0, 1, 2
FIELDS = len(Profile._fields)


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


def basin_of(look: Look, start: Array) -> Basins:
    """What a first look has settled; of a dataset that is not valid nothing, which is not complete."""
    wide = lambda number: jnp.full(WIDTH, number)
    return Basins(
        low=wide(look.low),
        high=wide(look.high),
        start=wide(start),
        count=(look.settled & ~look.at_zero).astype(jnp.int32),
        zero=look.zero,
        zero_is_optimum=look.at_zero | ~look.settled,
        unresolved=jnp.full_like(look.low, jnp.inf),
        unresolved_ratio=jnp.zeros_like(look.low),
        complete=look.settled,
    )


def find_basins(curve: Curve) -> Basins:
    """Every basin of the profile of -2 log L over lambda >= 0; see `intervals`.

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
        endless, left, right = jnp.isinf(b.ratio), facts_of(a, curve), facts_of(b, curve)
        falling = jnp.where(a.ratio == 0, ~rises_at(zero, curve), left.root < 0)
        inside, beyond = on_interval(left, right, falling, curve), on_ray(left, falling, curve)
        rising, undecided = (jnp.where(endless, *masks) for masks in zip(beyond, inside, strict=True))
        kinds = jnp.where(kinds != UNDECIDED, kinds, jnp.where(rising, BASIN, jnp.where(undecided, UNDECIDED, EMPTY)))
        width = b.ratio - a.ratio
        fall_a, fall_b = left.steep / left.quadratic, right.steep / right.quadratic
        steepest = jnp.maximum(fall_a - right.climb, left.climb - fall_b)  # |f'| on the interval
        tiny = (width <= 64 * eps * (a.ratio + 1 / curve.largest)) | (width * steepest <= 8 * eps * curve.count)
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
        start=chord_root(a.ratio, score_root(a, n), b.ratio, score_root(b, n), curve),
        count=jnp.minimum(count, WIDTH),
        zero=zero,
        zero_is_optimum=rises_at(zero, curve),
        unresolved=head[FIELDS],
        unresolved_ratio=head[FIELDS + 1],
        complete=(head[FIELDS + 2] == 0) & ~(kind == UNDECIDED).any() & (count <= WIDTH),
    )
