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

A first look, from point to point, settles most datasets: each interval rises, or f' keeps its sign on it, and at most
one of them holds a minimum. The others are left to the branch and bound.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxre.curve import Curve
from jaxre.profile import Profile, drop, score, score_noise, score_root
from jaxre.records import record
from jaxre.rows import Array
from jaxre.settings import repeat, repeat_while

LEAST, MOST, LEAST_AGAIN = 1.5, 4.0, 1.1  # strides of a first look, of 1 + largest size * lambda; and when shortened
TIMID = 0.95  # share of the stride that the bounds of F' at its near end promise
FAR, MOST_LOOKS = 1e6, 40  # where a first look gives up: a batch waits for its last dataset
WIDTH = 16  # points that are looked at in one round of branch and bound, and basins that are kept
ROWS = 96  # intervals that are kept at once
REFINED = 4  # steps towards the root of F before the optimiser starts; one less from the chord of a short interval
GROWTH = 4.0  # of 1 + typical size * lambda, from one first point to the next
ROUNDS = 500
MANY = 100.0

EMPTY, BASIN, UNDECIDED = 0, 1, 2
FIELDS = len(Profile._fields)


@record
class Look:
    """What a first look from point to point says; the rest means something only where `settled`."""

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
    """The proof from point to point: under vmap each number is a vector over the datasets.

    From a point the next one is a stride away; where nothing is known of what lies between, the stride becomes its
    root, down to LEAST_AGAIN. It ends where it is known what lies beyond. A tally counts the intervals that hold a
    minimum, and rises by MANY for one about which nothing is known.

    The loop carries the profile at both ends of an interval, so that each of its numbers is one sum over the strata: a
    compiler that fuses would else form all of them again in whatever is decided by them.
    """
    blank = jnp.zeros_like(curve.floor)
    zero = curve.at(blank)
    at_zero = rises_at(zero, curve)
    # by itself a mask would be formed anew in each of the loops over the batch that read it; a root is not
    kept = lambda mask: jnp.sqrt(jnp.where(mask, blank + 1, blank)) > 0
    ahead = lambda growth, stride: curve.at((growth * stride - 1) / curve.largest)._replace(log_det=blank)

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        i, behind, before, growth, stride, tally, basin, active = state
        a, b = facts_of(behind, curve), facts_of(before, curve)
        sign = jnp.where(at_zero, 1.0, -1.0) * abs(a.root)  # up to rounding
        a = a._replace(root=jnp.where(growth == 1, sign, a.root))
        one, unknown = _inside(a, b, a.root < 0, curve)
        closer = kept(unknown & (stride > LEAST_AGAIN))
        here = kept(active & ~closer)
        found, lost = kept(here & one), here & unknown
        basin = _where(found, (a.ratio, b.ratio, a.root, b.root), basin)
        growth = jnp.where(here, growth * stride, growth)
        one, unknown = _beyond(b, b.root < 0, curve)
        ended, last = kept(here & ~unknown), kept(here & ~unknown & one)
        basin = _where(last, (b.ratio, jnp.full_like(b.ratio, jnp.inf), b.root, b.root), basin)
        tally = tally + jnp.where(found, 1.0, 0.0) + jnp.where(last, 1.0, 0.0)
        tally = tally + jnp.where(lost | (here & unknown & (growth > FAR)), MANY, 0.0)
        stride = jnp.where(closer, jnp.sqrt(stride), _stride(b))
        behind = Profile(*_where(here, before, behind))
        return i + 1, behind, ahead(growth, stride), growth, stride, tally, basin, active & ~ended & (tally < MANY)

    def some_left(state: tuple[Any, ...]) -> Array:
        return (most_of_batch(state[-1].astype(jnp.int32)) > 0) & (state[0] < MOST_LOOKS)

    growth, stride = blank + 1, _stride(facts_of(zero, curve))
    profiles = zero._replace(log_det=blank), ahead(growth, stride)
    start = 0, *profiles, growth, stride, jnp.where(at_zero, blank + 1, blank), (blank,) * 4, curve.valid
    *_, tally, (low, high, f_low, f_high), active = repeat_while(some_left, step, start)
    begin = chord_root(low, f_low, high, f_high, curve)
    return Look(settled=(tally == 1) & ~active & curve.valid, at_zero=at_zero, low=low, high=high, start=begin)


def _stride(at: Facts) -> Array:
    """How far the sign of F' at a point is likely to reach: e and l fall as 1 / (1 + size * lambda) at most."""
    reach = TIMID * jnp.maximum(at.bend / at.need, at.need / at.bend)
    return jnp.clip(jnp.where(reach > LEAST, reach, LEAST), LEAST, MOST)  # LEAST where it is none


def _where(mask: Array, new: tuple[Array, ...], old: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(jnp.where(mask, a, b) for a, b in zip(new, old, strict=True))


@jax.custom_batching.custom_vmap
def most_of_batch(number: Array) -> Array:
    """The number; under vmap the largest of the batch, once for all, so that a loop can end there."""
    return number


@most_of_batch.def_vmap
def _most_of_batch(size: int, batched: list[bool], number: Array) -> tuple[Array, bool]:
    return most_of_batch(number.max(axis=0) if batched[0] else number), False


def look_at_proof(curve: Curve) -> Look:
    """A look that needs the profile at 0 alone, because F is known to cross 0 at most once."""
    zero = curve.at(jnp.zeros_like(curve.floor))
    low, high = jnp.zeros_like(curve.floor), jnp.full_like(curve.floor, jnp.inf)
    start = chord_root(low, score_root(zero, curve.n), high, curve.floor, curve)
    return Look(settled=curve.proven & curve.valid, at_zero=rises_at(zero, curve), low=low, high=high, start=start)


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
        endless, left, right = jnp.isinf(b.ratio), facts_of(a, curve), facts_of(b, curve)
        falling = jnp.where(a.ratio == 0, ~rises_at(zero, curve), left.root < 0)
        inside, beyond = _inside(left, right, falling, curve), _beyond(left, falling, curve)
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


def middle_ratio(low: Array, high: Array, size: Array) -> Array:
    """The middle of [low, high] in log(1 + size * ratio); far out on an interval without end."""
    end = jnp.isinf(high)
    top = jnp.where(end, 0.0, high)
    product = (1 + size * low) * (1 + size * top)
    excess = low + top + size * low * top  # (sqrt(product) - 1) / size without cancellation at small ratios
    return jnp.where(end, GROWTH**3 * (low + 1 / size), excess / (1 + jnp.sqrt(product)))


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
    return Facts(
        ratio=at.ratio,
        quadratic=at.quadratic,
        excess=at.excess,
        steep=steep,
        climb=at.log_det_1,
        bend=-at.quadratic_2 / at.quadratic_1,
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


def _inside(a: Facts, b: Facts, falling: Array, curve: Curve) -> tuple[Array, Array]:
    """Masks of the intervals [a, b] that hold exactly one minimum, and of those about which nothing is known yet;
    `falling` says whether f falls at a."""
    slack = 64 * jnp.finfo(curve.n.dtype).eps
    # the bounds on f', each times Q at the end where its falling part is taken
    lower, lower_size = b.climb * a.quadratic - a.steep, _climb_size(b) * a.quadratic + a.steep
    upper, upper_size = a.climb * b.quadratic - b.steep, _climb_size(a) * b.quadratic + b.steep
    rises = b.bend > a.need + slack * _need_size(a, curve)
    falls = a.bend < b.need - slack * _need_size(b, curve)
    steepest = a.steep * (b.ratio - a.ratio) * b.per_climb
    down, up = steepest * jnp.maximum(a.need - b.bend, 0), steepest * jnp.maximum(a.bend - b.need, 0)
    share = 1 / jnp.where(down + up > 0, down + up, 1.0)
    lowest = a.root - down * jnp.clip((a.root - b.root + up) * share, 0.0, 1.0)
    highest = a.root + up * jnp.clip((b.root - a.root + down) * share, 0.0, 1.0)
    rounding = slack * (a.quadratic + a.steep * a.per_climb * a.per_climb * _climb_size(a))
    one_sign = (a.root * b.root > 0) & ((lowest > rounding) | (highest < -rounding))
    signed = (lower > slack * lower_size) | (upper < -slack * upper_size) | one_sign
    return ~signed & rises & falling & (b.root >= 0), ~(signed | rises | falls)


def _beyond(a: Facts, falling: Array, curve: Curve) -> tuple[Array, Array]:
    """The same of [a, infinity)."""
    slack = 64 * jnp.finfo(curve.n.dtype).eps
    signed = a.ratio * (a.climb - slack * _climb_size(a)) * curve.floor > curve.n * a.excess * (1 + slack)
    rises = a.ratio >= curve.rises_from
    return ~signed & rises & falling, ~(signed | rises)


def refined(look: Look, curve: Curve, steps: int) -> Array:
    """The first iterate after some Newton steps for the root of F in s = 1 / (1 + size * ratio), inside the basin."""

    def step(_: Any, ratio: Array) -> Array:
        at, s = curve.at(ratio), 1 / (1 + curve.size * ratio)
        share = curve.n / at.log_det_1
        root = at.quadratic + share * at.quadratic_1
        slope = at.quadratic_1 + share * (at.quadratic_2 - at.quadratic_1 * at.log_det_2 / at.log_det_1)
        closer = s + root * curve.size * s * s / slope
        closer = jnp.where(closer > 0, jnp.minimum(closer, 1.0), 0.1 * s)
        return jnp.clip((1 / closer - 1) / curve.size, look.low, look.high)

    start = repeat(steps, step, look.start)
    inside = (start > look.low) & (start < look.high)
    return jnp.where(inside, start, middle_ratio(look.low, look.high, curve.size))


def chord_root(low: Array, f_low: Array, high: Array, f_high: Array, curve: Curve) -> Array:
    """Where the chord of F crosses 0 in s = 1 / (1 + size * ratio), a variable in which F is nearly linear."""
    endless = jnp.isinf(high)
    f_high = jnp.where(endless, curve.floor, f_high)
    s_low, s_high = 1 / (1 + curve.size * low), jnp.where(endless, 0.0, 1 / (1 + curve.size * high))
    s = s_low + jnp.clip(-f_low / (f_high - f_low), 0.0, 1.0) * (s_high - s_low)
    ratio = jnp.clip((1 / s - 1) / curve.size, low, high)
    return jnp.where(jnp.isfinite(ratio) & (ratio > 0), ratio, middle_ratio(low, high, curve.size))
