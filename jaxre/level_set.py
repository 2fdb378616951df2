"""Where -2 log L stays within a limit of its minimum, as a set over lambda: its parts and their ends.

With f(lambda) = N log Q + L, the room r = (limit - (f - min f)) / N is at least 0 on a set S of ratios. It is made of
parts around the local minima of f, all of which are known; f has one sign of slope from each to the next maximum, so
every end of S is the only root in its bracket. How far any parameter reaches on S is found in `extremes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxre.curve import Curve
from jaxre.profile import Profile, curvature, drop, score
from jaxre.roots import increasing_root
from jaxre.rows import Array

FINE, ROUGH = 3, 2
FARTHEST = 0.98  # of the logarithm of the largest number: where a search for an end of S gives up


class Edges(NamedTuple):
    """How far k parameters reach at one lambda; first the k lower edges, signs reversed, then the k upper ones."""

    outward: Array
    """(2 k,) how far each edge lies outwards, on a scale that rises with the parameter."""
    turn: Array
    """(2 k,) of the sign with which it moves outwards as lambda grows."""


@dataclasses.dataclass(frozen=True)
class LevelSet:
    """The region in which -2 log L is at most its minimum plus a limit, seen over lambda."""

    curve: Curve
    """the profile of the data."""
    best: Profile
    """the profile at the global minimum."""
    limit: Array
    """() [nat] how far -2 log L may rise."""
    rounds: int
    """of Newton's method for an edge: FINE, or ROUGH where only its place is sought, whose error enters squared."""

    def rise(self, at: Profile) -> Array:
        """f less its minimum."""
        return drop(at, self.best, self.curve.n)

    def room(self, at: Profile) -> Array:
        """r, at least 0."""
        return jnp.maximum(self.limit - self.rise(at), 0) / self.curve.n


@dataclasses.dataclass(frozen=True)
class Family:
    """Some parameters whose edges are found together."""

    count: int
    """k, how many."""
    edges: Callable[[LevelSet, Array], Edges]
    """their edges at a ratio."""


def log_within_edges(room: Array, rounds: int = FINE) -> tuple[Array, Array]:
    """The two roots u of u + exp(-u) - 1 = r, by Newton's method on a convex function; two rounds leave 2e-8.

    It starts from their series in s = sqrt(2 r), bent so that they fit large ones too.
    """
    s = jnp.sqrt(2 * room)

    def root(u: Array) -> Array:
        for _ in range(rounds):
            slope = -jnp.expm1(-u)
            u = u - (u - slope - room) / jnp.where(slope == 0, 1, slope)
        return u

    third = s * s * s / 36
    return root(-jnp.log1p(s + s * s / 3 + third / (1 + s / 6))), root(s + s * s / 6 + third / (1 + s))


class Scale(NamedTuple):
    """The coordinate in which ratios are searched: log lambda on a set away from 0, else log(1 + size lambda)."""

    size: Array
    """() a typical group size."""
    away: Array
    """() bool, whether 0 is left out."""

    def of(self, ratio: Array) -> Array:
        return jnp.where(self.away, jnp.log(jnp.where(self.away, ratio, 1)), jnp.log1p(self.size * ratio))

    def ratio(self, place: Array) -> Array:
        return jnp.where(self.away, jnp.exp(place), jnp.expm1(jnp.where(self.away, 0, place)) / self.size)


class Part(NamedTuple):
    """An interval of S, run through by an angle from 0 to pi."""

    low: Array
    """() [1], its lower end."""
    high: Array
    """() [1], its upper end."""
    scale: Scale
    """its coordinate."""

    def at(self, angle: Array) -> Array:
        """The ratio at an angle: each end once, exactly, and the angle even with the root of the room near them."""
        low, high = self.scale.of(self.low), self.scale.of(self.high)
        ratio = self.scale.ratio(low + (high - low) * jnp.sin(angle / 2) ** 2)
        inside = jnp.clip(ratio, self.low, self.high)
        return jnp.where(angle <= 0, self.low, jnp.where(angle >= jnp.pi, self.high, inside))


def end_of(level: LevelSet, inner: Profile, outer: Array) -> tuple[Array, Array]:
    """The end of S between a minimum of f and a point beyond it, on a stretch where f is monotone; that point itself
    where it belongs to S. And whether it was found.

    Newton's method on the root of the rise, which is nearly linear in log(1 + size lambda).
    """
    of_data, size, limit = level.curve, level.curve.size, level.limit
    eps, most = jnp.finfo(size.dtype).eps, jnp.finfo(size.dtype).max
    side = jnp.where(outer < inner.ratio, -1, 1).astype(size.dtype)
    bounded = jnp.isfinite(outer)
    reached = bounded & (level.rise(of_data.at(jnp.where(bounded, outer, inner.ratio))) <= limit)
    here, there = jnp.log1p(size * inner.ratio), jnp.minimum(jnp.log1p(size * outer), FARTHEST * jnp.log(most))

    def excess(forward: Array) -> tuple[Array, Array]:
        place = side * forward
        at = of_data.at(jnp.expm1(place) / size)
        root = jnp.sqrt(jnp.maximum(level.rise(at), 0))
        return root - jnp.sqrt(limit), side * score(at, of_data.n) * jnp.exp(place) / size / (2 * root)

    unit = inner.ratio + 1 / size
    slope = jnp.maximum(side * score(inner, of_data.n) * unit, 0)
    bend = jnp.maximum(curvature(inner, of_data.n) * unit * unit, 1e-3)
    room = jnp.maximum(limit - level.rise(inner), 0)
    step = 2 * room / (slope + jnp.sqrt(slope * slope + 2 * room * bend))
    low, high = (jnp.where(reached | ~of_data.valid, 0, side * place) for place in (here, there))
    found = side * increasing_root(excess, low, high, side * here + jnp.minimum(step, 5), 1.0)
    ratio = jnp.where(reached, outer, jnp.expm1(found) / size)
    gap = abs(level.rise(of_data.at(ratio)) - limit)
    return ratio, reached | (gap <= eps**0.6 * (1 + limit) + 8 * eps * of_data.count)


def summit_of(of_data: Curve, low: Array, high: Array) -> Array:
    """The local maximum of f between two neighbouring local minima; infinity where there is no second."""
    size, is_two = of_data.size, jnp.isfinite(high)
    left, right = (jnp.where(is_two, jnp.log1p(size * ratio), 0) for ratio in (low, high))

    def falling(place: Array) -> tuple[Array, Array]:
        at, unit = of_data.at(jnp.expm1(place) / size), jnp.exp(place) / size
        slope = score(at, of_data.n) * unit
        return -slope, -(curvature(at, of_data.n) * unit * unit + slope)

    root = increasing_root(falling, left, right, (left + right) / 2, 1.0)
    return jnp.where(is_two, jnp.expm1(root) / size, jnp.inf)
