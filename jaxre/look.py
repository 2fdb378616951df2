"""A first look at the profile likelihood, from point to point: it settles most datasets.

Each interval rises, or f' keeps its sign on it, and at most one of them holds a minimum; see `intervals`. What it does
not settle is left to the branch and bound.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxre.curve import Curve
from jaxre.intervals import Facts, chord_root, facts_of, middle_ratio, on_interval, on_ray, rises_at
from jaxre.profile import Profile, score_root
from jaxre.records import record
from jaxre.rows import Array
from jaxre.settings import formed_once, repeat, repeat_while

LEAST, MOST, LEAST_AGAIN = 1.5, 4.0, 1.1  # strides of a first look, of 1 + largest size * lambda; and when shortened
TIMID = 0.95  # share of the stride that the bounds of F' at its near end promise
FAR, MOST_LOOKS = 1e6, 40  # where a first look gives up: a batch waits for its last dataset
REFINED = 4  # steps towards the root of F before the optimiser starts; one less from the chord of a short interval
MANY = 100.0  # of a tally that no number of basins reaches


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
    zero: Profile
    """the profile at lambda = 0."""


def first_look(curve: Curve) -> Look:
    """The proof from point to point: under vmap each number is a vector over the datasets.

    From a point the next one is a stride away; where nothing is known of what lies between, the stride becomes its
    root, down to LEAST_AGAIN. It ends where it is known what lies beyond. A tally counts the intervals that hold a
    minimum, and rises by MANY for one about which nothing is known.

    Where the design has proven that F crosses 0 once at most, no step is taken.

    The loop carries the profile at both ends of an interval, so that each of its numbers is one sum over the strata: a
    compiler that fuses would else form all of them again in whatever is decided by them.
    """
    blank = jnp.zeros_like(curve.floor)
    zero = curve.at(blank)
    at_zero = rises_at(zero, curve)
    ahead = lambda growth, stride: curve.at((growth * stride - 1) / curve.largest)._replace(log_det=blank)

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        i, behind, before, growth, stride, tally, basin, active = state
        a, b = facts_of(behind, curve), facts_of(before, curve)
        sign = jnp.where(at_zero, 1.0, -1.0) * abs(a.root)  # up to rounding
        a = a._replace(root=jnp.where(growth == 1, sign, a.root))
        one, unknown = on_interval(a, b, a.root < 0, curve)
        closer = formed_once(unknown & (stride > LEAST_AGAIN))
        here = formed_once(active & ~closer)
        found, lost = formed_once(here & one), here & unknown
        basin = _where(found, (a.ratio, b.ratio, a.root, b.root), basin)
        growth = jnp.where(here, growth * stride, growth)
        one, unknown = on_ray(b, b.root < 0, curve)
        ended, last = formed_once(here & ~unknown), formed_once(here & ~unknown & one)
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
    first = score_root(zero, curve.n)
    proven = jnp.zeros_like(curve.valid) if curve.proven is None else curve.proven & curve.valid
    basin = _where(proven, (blank, jnp.full_like(blank, jnp.inf), first, first), (blank,) * 4)
    tally = jnp.where(at_zero | proven, blank + 1, blank)
    start = 0, *profiles, growth, stride, tally, basin, curve.valid & ~proven
    *_, tally, (low, high, f_low, f_high), active = repeat_while(some_left, step, start)
    begin = chord_root(low, f_low, high, f_high, curve)
    settled = (tally == 1) & ~active & curve.valid
    return Look(settled=settled, at_zero=at_zero, low=low, high=high, start=begin, zero=zero)


def _stride(at: Facts) -> Array:
    """How far the sign of F' at a point is likely to reach: e and l fall as 1 / r at most, r = 1 + size * lambda.

    Where they do, from r = 1 on, e = share / r lies above l = 1 / r as far as R < share + sqrt(share^2 - 1) by the
    tangents, which meet at 2 R / (R + 1), and the chord; and below as far as 1 / share."""
    share = at.bend / at.need
    reach = TIMID * jnp.where(share > 1, share + jnp.sqrt(jnp.maximum(share * share - 1, 0)), 1 / share)
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
    settled = curve.proven & curve.valid
    return Look(settled=settled, at_zero=rises_at(zero, curve), low=low, high=high, start=start, zero=zero)


def refined(look: Look, curve: Curve, steps: int | Array) -> Array:
    """The first iterate after some Newton steps for the root of F in s = 1 / (1 + size * ratio), inside the basin.

    Where datasets of a batch take different numbers of them, none depends on the company."""

    def step(i: Any, ratio: Array) -> Array:
        at, s = curve.at(ratio), 1 / (1 + curve.size * ratio)
        share = curve.n / at.log_det_1
        root = at.quadratic + share * at.quadratic_1
        slope = at.quadratic_1 + share * (at.quadratic_2 - at.quadratic_1 * at.log_det_2 / at.log_det_1)
        closer = s + root * curve.size * s * s / slope
        closer = jnp.where(closer > 0, jnp.minimum(closer, 1.0), 0.1 * s)
        closer = jnp.clip((1 / closer - 1) / curve.size, look.low, look.high)
        return closer if isinstance(steps, int) else jnp.where(i < steps, closer, ratio)

    start = repeat(steps if isinstance(steps, int) else most_of_batch(steps), step, look.start)
    inside = (start > look.low) & (start < look.high)
    return jnp.where(inside, start, middle_ratio(look.low, look.high, curve.size))
