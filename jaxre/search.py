"""The search for the global optimum over lambda: a quick one that settles most datasets, a whole one for the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxre.certificate import WIDTH, Basins, basin_of, find_basins
from jaxre.curve import Curve
from jaxre.look import REFINED, Look, first_look, look_at_proof, refined
from jaxre.optimise import Optimizer, checked, descend
from jaxre.profile import drop
from jaxre.records import record
from jaxre.rescue import quick_or_whole
from jaxre.rows import Array

KEPT_OPTIMA = WIDTH + 1

T = TypeVar("T")


@record
class Search:
    """What the search over lambda found."""

    settled: Array
    """() bool, the search is over; False only after a first look that decided nothing."""
    ratio: Array
    """() [1], lambda of the best optimum."""
    converged: Array
    """() bool, the best is a root of the score, or 0."""
    certified: Array
    """() bool, see `Estimate`."""
    optima: Array
    """() int32, see `Estimate`."""
    optima_ratio: Array
    """(17,) [1], see `Estimate`."""
    gap: Array
    """() [nat], see `Estimate`."""
    steps: Array
    """() int32, see `Estimate`."""


def quick_search(curve: Curve, optimizer: Optimizer | None = None) -> Search:
    """The optimum where a first look can prove that there is only one."""
    if curve.closed is not None:
        root = jnp.maximum(curve.closed, 0)
        return _single(root, jnp.ones_like(root, bool), jnp.ones_like(root, bool), jnp.zeros_like(root))
    look, start = _look(curve, optimizer)
    inside = look.settled & ~look.at_zero
    found = descend(curve, look.low, look.high, start, inside, optimizer)
    ratio = jnp.where(inside, found.ratio, 0)
    return _single(ratio, look.settled | ~curve.valid, look.settled & found.settled, found.steps)


def _look(curve: Curve, optimizer: Optimizer | None) -> tuple[Look, Array]:
    """A first look, and where to start in the basin that it shows."""
    if not curve.look:
        look, steps = look_at_proof(curve), REFINED
    else:  # a basin that was looked at is short, and the chord over it a better start
        look = first_look(curve)
        steps = REFINED - 1 + (0 if curve.proven is None else curve.proven.astype(jnp.int32))
    return look, refined(look, curve, steps if optimizer is None else 0)  # another's optimizer does its work itself


def _single(ratio: Array, settled: Array, certified: Array, steps: Array) -> Search:
    place = jnp.where(ratio > 0, 1, 0)
    return Search(
        settled=settled,
        ratio=ratio,
        converged=certified,
        certified=certified,
        optima=jnp.ones((), jnp.int32),
        optima_ratio=jnp.where(jnp.arange(KEPT_OPTIMA) == place, ratio, jnp.nan),
        gap=jnp.full_like(ratio, jnp.inf),
        steps=steps.astype(jnp.int32),
    )


def whole_search(curve: Curve, optimizer: Optimizer | None = None) -> Search:
    """Every local optimum, in every basin of the branch and bound, and the best of them."""
    return _best_of(find_basins(curve), curve, optimizer)


def _search_alone(curve: Curve, optimizer: Optimizer | None) -> Search:
    """The quick search or the whole one, with one descent for both, which takes less time to compile."""
    look, start = _look(curve, optimizer)
    seen = look.settled | ~curve.valid
    basins = jax.lax.cond(seen, lambda: basin_of(look, start), lambda: find_basins(curve))
    found = _best_of(basins, curve, optimizer)
    return dataclasses.replace(found, converged=found.converged & curve.valid)


def _best_of(basins: Basins, curve: Curve, optimizer: Optimizer | None) -> Search:
    """The optimum of each basin, and the best of them."""
    n, zero = curve.n, basins.zero

    def visit(state: tuple[Array, ...]) -> tuple[Array, ...]:
        i, ratios, values, converged, steps = state
        found = descend(curve, basins.low[i], basins.high[i], basins.start[i], i < basins.count, optimizer)
        here = jnp.arange(KEPT_OPTIMA) == i + 1
        value = drop(curve.at(found.ratio), zero, n)
        ratios, values = jnp.where(here, found.ratio, ratios), jnp.where(here, value, values)
        return i + 1, ratios, values, jnp.where(here, found.settled, converged), steps + found.steps

    first = jnp.arange(KEPT_OPTIMA) == 0
    at_zero = first & basins.zero_is_optimum
    start = (
        jnp.zeros((), jnp.int32),
        jnp.where(at_zero, jnp.zeros_like(n), jnp.nan),
        jnp.where(at_zero, jnp.zeros_like(n), jnp.inf),
        jnp.ones(KEPT_OPTIMA, bool),
        jnp.zeros_like(n),
    )
    _, ratios, values, converged, steps = jax.lax.while_loop(lambda state: state[0] < basins.count, visit, start)
    rounding = 64 * jnp.finfo(n.dtype).eps * curve.count
    extra = jnp.isfinite(basins.unresolved) & (basins.unresolved < values.min() - rounding)  # the best point known
    here = extra & (jnp.arange(KEPT_OPTIMA) == jnp.minimum(basins.count + 1, WIDTH))
    ratios = jnp.where(here, basins.unresolved_ratio, ratios)
    values = jnp.where(here, basins.unresolved, values)
    best = jnp.argmin(values)
    others = jnp.where(jnp.arange(KEPT_OPTIMA) == best, jnp.inf, values)
    settled = converged[best] & jnp.isfinite(values[best])
    return Search(
        settled=jnp.ones((), bool),
        ratio=ratios[best],
        converged=settled,
        certified=settled & basins.complete & converged.all() & (values[best] <= basins.unresolved - rounding),
        optima=basins.count + basins.zero_is_optimum + extra,
        optima_ratio=ratios,
        gap=others.min() - values[best],
        steps=steps.astype(jnp.int32),
    )


def search(curve_of: Callable[[T], Curve], data: T, optimizer: Optimizer | None = None) -> Search:
    """The quick search where it settles the matter, else the whole one; in a batch, that one for those that need it."""
    if optimizer is not None:
        checked(optimizer)
    here = curve_of(data)
    if here.closed is not None:  # nothing is left to search
        return quick_search(here, optimizer)
    return quick_or_whole(
        lambda data: quick_search(curve_of(data), optimizer),
        lambda data: whole_search(curve_of(data), optimizer),
        lambda found: found.settled,
        data,
        alone=lambda data: _search_alone(curve_of(data), optimizer),
    )
