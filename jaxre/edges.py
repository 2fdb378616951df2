"""How far variances and coefficients reach at one ratio, where the likelihood stays within a limit; see `level_set`."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxre.curve import alone_or_batched
from jaxre.effects import NormalEquations, matmul
from jaxre.level_set import Edges, Family, LevelSet, log_within_edges
from jaxre.profile import Profile, score, solve
from jaxre.rows import Array

VARIANCES = {"between": (0, 1), "within": (1, 0), "total": (1, 1)}  # a and b of (a + b lambda) within


def families_of(
    equations: NormalEquations, variances: tuple[str, ...], places: tuple[int, ...], fixed: bool
) -> tuple[Family, ...]:
    """The variances, and the coefficients at those places, where there are any; `fixed` as in `curve`."""
    families = (
        Family(len(variances), partial(variance_edges, variances)),
        Family(len(places), partial(coefficient_edges, equations, places, fixed)),
    )
    return tuple(family for family in families if family.count)


def variance_edges(names: tuple[str, ...], level: LevelSet, ratio: Array) -> Edges:
    """The edges of the logarithms of "within", "between" or "total" at a ratio.

    Each is (a + b lambda) within. Along an edge (1 - exp(-u)) d log theta / d lambda has the sign of `turn`.
    """
    of_data = level.curve
    at, n = of_data.at(ratio), of_data.n
    steep, slope, size = at.quadratic_1 / at.quadratic, score(at, n), of_data.size
    low, high = log_within_edges(level.room(at), level.rounds)
    edges: list[list[Array]] = [[], [], [], []]
    for a, b in (VARIANCES[name] for name in names):
        share, unit = a + b * ratio, a / size + (a + b) * ratio
        climb = unit * (steep + b / jnp.where(share == 0, 1, share)) if a else 1 + ratio * steep
        middle = jnp.log(at.quadratic / n) + jnp.where(share > 0, jnp.log(jnp.where(share > 0, share, 1)), -jnp.inf)
        turns = [-n * climb * jnp.expm1(-u) - unit * slope for u in (low, high)]
        for column, entry in zip(edges, (-middle - low, middle + high, *turns), strict=True):
            column.append(entry)
    return Edges(jnp.stack(edges[0] + edges[1]), jnp.stack(edges[2] + edges[3]))


def coefficient_edges(
    equations: NormalEquations, places: tuple[int, ...], fixed: bool, level: LevelSet, ratio: Array
) -> Edges:
    """The edges of coefficients, less their origin, at a ratio."""
    rows = equations.strata.frame.transform[jnp.array(places)]
    found = _combined_fixed(equations, rows, ratio) if fixed else _combined(equations, rows, ratio, alone=False)
    (at, middle, spread), (_, drift, widening) = found
    n, room, unit = level.curve.n, level.room(at), ratio + 1 / level.curve.size
    growth = jnp.expm1(room)
    reach = jnp.sqrt(spread * at.quadratic * growth)
    common = n * (widening / spread + at.quadratic_1 / at.quadratic) * growth - (1 + growth) * score(at, n)
    lean = 2 * n * drift * reach / (spread * at.quadratic)
    return Edges(
        jnp.concatenate([reach - middle, reach + middle]), unit * jnp.concatenate([common - lean, common + lean])
    )


Combined = tuple[Profile, Array, Array]


def _combined(equations: NormalEquations, rows: Array, ratio: Array, alone: bool) -> tuple[Combined, Combined]:
    """The profile at a ratio, combinations of the coefficients and their variances; and how they change with it."""

    def parts(ratio: Array) -> Combined:
        at, gamma, cov = solve(equations, ratio, False, alone)
        return at, matmul(rows, gamma), (matmul(rows, cov) * rows).sum(axis=1)

    found: tuple[Combined, Combined] = jax.jvp(parts, (ratio,), (jnp.ones_like(ratio),))
    return found


_combined_fixed = alone_or_batched(_combined)
