"""How far any parameter reaches where -2 log L stays within a limit of its minimum.

Above each lambda of the set S of `level_set`, with room r, lies one interval of any other parameter:

    log within = log(Q / N) + u    for u + exp(-u) - 1 <= r
    beta_i = beta_i(lambda) + d    for d^2 <= C_ii Q (exp(r) - 1),    C = (X' H^-1 X)^-1

so the extremes of a parameter over all that the likelihood allows are those of its two edges over S: one dimension. An
edge turns where its derivative changes sign, and an error of lambda there enters the extreme by its square alone. The
derivative is infinite where S ends and r is 0, but its sign is that of a function that is not, `turn`; S is run through
by an angle, in which edges are smooth there too.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxre.level_set import Edges, Family, LevelSet, Part, Scale, end_of, summit_of
from jaxre.records import record
from jaxre.rows import Array
from jaxre.turning import Bracket, turning_point

GLANCES = 8  # parts of S on whose ends an edge is looked at, at first
SCANNED = 64  # the same, of each part between two local maxima of f, where the first look leaves a doubt
CANDIDATES = 3  # turns of an edge that are followed to the end in each such part


@record
class Extremes:
    """Where on the ratio axis the extremes of each parameter lie."""

    settled: Array
    """() bool, all extremes are found and nothing is in doubt."""
    ends: Array
    """(2,) [1], the outermost ends of S."""
    places: Array
    """(parameters, 2) [1], the ratio at which each parameter is least, and at which it is greatest."""
    pieces: Array
    """(1 + parameters,) bool, whether values between the extremes are left out; first of the ratio itself."""


def _edges(level: LevelSet, families: tuple[Family, ...], ratio: Array) -> Edges:
    """The edges of all families at a ratio."""
    parts = [Edges(jnp.zeros(0, ratio.dtype), jnp.zeros(0, ratio.dtype))]
    parts += [family.edges(level, ratio) for family in families]
    return Edges(*(jnp.concatenate(fields, axis=-1) for fields in zip(*parts, strict=True)))


def _pairs(families: tuple[Family, ...], edges: Array) -> Array:
    """(..., parameters, 2), lower and upper, from the edges of all families."""
    found, first = [jnp.zeros((*edges.shape[:-1], 0, 2), edges.dtype)], 0
    for family in families:
        own = edges[..., first : first + 2 * family.count]
        found.append(jnp.stack([own[..., : family.count], own[..., family.count :]], axis=-1))
        first += 2 * family.count
    return jnp.concatenate(found, axis=-2)


def _turning_points(
    level: LevelSet, families: tuple[Family, ...], part: Part, brackets: Bracket
) -> tuple[Array, Array]:
    """The angle of the turn in each bracket, (edges, ...), and whether each was found; one edge after the other."""
    angles, ended, first = [brackets.low[:0]], [brackets.low[:0] == 0], 0
    for family in families:

        def one(given: tuple[Array, Bracket], family: Family = family) -> tuple[Array, Array]:
            edge, bracket = given
            find = partial(turning_point, lambda angle: family.edges(level, part.at(angle)).turn[edge])
            return jax.vmap(find)(bracket) if bracket.low.ndim else find(bracket)

        own = Bracket(*(field[first : first + 2 * family.count] for field in brackets))
        found = jax.lax.map(one, (jnp.arange(2 * family.count), own))
        angles.append(found[0])
        ended.append(found[1])
        first += 2 * family.count
    return jnp.concatenate(angles), jnp.concatenate(ended)


def quick_extremes(level: LevelSet, families: tuple[Family, ...], several: Array) -> Extremes:
    """The extremes where f has one local minimum, and a first look shows one turn of each edge.

    Args:
        level: the level set.
        families: the parameters.
        several: () bool, whether f has several local minima.
    """
    blank = jnp.zeros_like(level.limit)
    ends, found = jax.lax.map(lambda outer: end_of(level, level.best, outer), jnp.stack([blank, blank + jnp.inf]))
    part = Part(ends[0], ends[1], Scale(level.curve.size, ends[0] > 0))

    def look(i: Array, state: tuple[Array, Bracket, Array]) -> tuple[Array, Bracket, Array]:
        before, bracket, count = state
        angle = blank + i * (jnp.pi / GLANCES)
        now = _edges(level, families, part.at(angle)).turn
        falls = (before > 0) & (now <= 0)  # at the first end an edge may turn at once
        new = Bracket(jnp.maximum(angle - jnp.pi / GLANCES, 0), angle, before, now)
        bracket = Bracket(*(jnp.where(falls, one, old) for one, old in zip(new, bracket, strict=True)))
        return now, bracket, count + falls

    parameters = sum(family.count for family in families)
    zeros = jnp.zeros(2 * parameters, blank.dtype)
    start = zeros + 1, Bracket(zeros, zeros, zeros, zeros), zeros
    last, brackets, count = jax.lax.fori_loop(0, GLANCES + 1, look, start)
    angles, ended = _turning_points(level, families, part, brackets)
    return Extremes(
        settled=found.all() & ~several & ended.all() & (count == 1).all() & (last <= 0).all(),
        ends=ends,
        places=_pairs(families, jax.vmap(part.at)(angles)),
        pieces=jnp.zeros(1 + parameters, bool),
    )


def whole_extremes(level: LevelSet, families: tuple[Family, ...], minima: Array) -> Extremes:
    """The extremes over all parts of S, each looked at closely.

    Args:
        level: the level set.
        families: the parameters.
        minima: (m,) [1], all local minima of f, NaN where there are fewer.
    """
    minima = jnp.sort(minima)
    known = ~jnp.isnan(minima)
    after = jnp.where(jnp.append(known[1:], False), jnp.append(minima[1:], jnp.inf), jnp.inf)
    summits = jax.vmap(partial(summit_of, level.curve))(minima, after)
    before = jnp.append(jnp.zeros_like(summits[:1]), summits[:-1])
    lowest = jax.vmap(level.curve.at)(minima)
    alive = known & (jax.vmap(level.rise)(lowest) <= level.limit)
    ends_of = jax.vmap(partial(end_of, level))
    (lows, highs), found = jax.lax.map(lambda outer: ends_of(lowest, outer), jnp.stack([before, summits]))

    def visit(state: tuple[Array, ...]) -> tuple[Array, ...]:
        i, settled, ratios, outward = state
        part = Part(lows[i], highs[i], Scale(level.curve.size, lows[i] > 0))
        ended, *new = _extremes_of_part(level, families, part)
        here = (jnp.arange(len(minima)) == i)[:, None] & alive[:, None]
        ratios, outward = (jnp.where(here, one, old) for one, old in zip(new, (ratios, outward), strict=True))
        return i + 1, settled & (ended | ~alive[i]), ratios, outward

    parameters = sum(family.count for family in families)
    none = jnp.full((len(minima), 2 * parameters), -jnp.inf, minima.dtype)
    start = jnp.zeros((), jnp.int32), jnp.ones((), bool), none, none
    _, settled, ratios, outward = jax.lax.while_loop(lambda state: state[0] < known.sum(), visit, start)
    best = jnp.argmax(outward, axis=0)
    spans = _pairs(families, outward) * jnp.array([-1, 1], minima.dtype)  # (minima, parameters, 2)
    own = jnp.where(alive[:, None], jnp.stack([lows, highs], axis=1), jnp.array([jnp.inf, -jnp.inf]))
    spans = jnp.concatenate([own[:, None], spans], axis=1)
    return Extremes(
        settled=settled & alive.any() & (found | ~alive).all(),
        ends=jnp.stack([own[:, 0].min(), own[:, 1].max()]),
        places=_pairs(families, jnp.take_along_axis(ratios, best[None], axis=0)[0]),
        pieces=jax.vmap(_apart, 1)(spans[..., 0], spans[..., 1]),
    )


def _apart(low: Array, high: Array) -> Array:
    """Whether the union of intervals has a gap; an interval from infinity to minus infinity is none."""
    order = jnp.argsort(low)
    return ((low[order][1:] > jax.lax.cummax(high[order])[:-1]) & (low[order][1:] < jnp.inf)).any()


def _extremes_of_part(level: LevelSet, families: tuple[Family, ...], part: Part) -> tuple[Array, Array, Array]:
    """Whether all searches ended, the ratio of the extreme of each edge, and how far outwards it is: (edges,)."""
    angles = jnp.linspace(0, jnp.pi, SCANNED + 1, dtype=part.low.dtype)
    seen = jax.vmap(lambda angle: _edges(level, families, part.at(angle)))(angles)  # (angles, edges)
    falls = (seen.turn[:-1] > 0) & (seen.turn[1:] <= 0)
    hopes = jnp.where(falls, jnp.maximum(seen.outward[:-1], seen.outward[1:]), -jnp.inf)
    hope, which = jax.lax.top_k(hopes.T, CANDIDATES)  # (edges, candidates)
    turn_at = lambda which: jnp.take_along_axis(seen.turn.T, which, axis=1)
    brackets = Bracket(angles[which], angles[which + 1], turn_at(which), turn_at(which + 1))
    brackets = Bracket(*(jnp.where(hope > -jnp.inf, field, 0) for field in brackets))
    turned, ended = _turning_points(level, families, part, brackets)
    ends = jnp.zeros_like(turned[:, :1])
    turned = jnp.concatenate([turned, ends, ends + jnp.pi], axis=1)
    every = jax.vmap(jax.vmap(lambda angle: _edges(level, families, part.at(angle)).outward))(turned)
    reach = jnp.diagonal(every, axis1=0, axis2=2).T  # (edges, candidates and ends)
    reach = jnp.where(jnp.isnan(reach), -jnp.inf, reach)
    best = jnp.argmax(reach, axis=1)[:, None]
    angle, reach = (jnp.take_along_axis(table, best, axis=1)[:, 0] for table in (turned, reach))
    return ended.all(), jax.vmap(part.at)(angle), reach
