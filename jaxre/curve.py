"""The profile of one dataset as a function of lambda: all that certificate and optimiser see of the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxre.effects import NormalEquations
from jaxre.frame import FREEDOM_OF_KNOWN
from jaxre.profile import Columns, Profile, columns_of, degrees, profile, profile_of_columns
from jaxre.proof import proven_by_design
from jaxre.rows import Array
from jaxre.settings import has_little_to_do
from jaxre.status import Status

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Curve:
    """The profile of one dataset as a function of lambda: all that certificate and optimiser see of the data."""

    at: Callable[[Array], Profile]
    """Q and L at a ratio."""
    n: Array
    """() N, degrees of freedom."""
    count: Array
    """() [1], of how many terms the rounding of f is: N, but the groups where within is known."""
    floor: Array
    """() Q(infinity) > 0."""
    size: Array
    """() a typical group size, the unit in which ratios are large or small."""
    largest: Array
    """() the largest group size."""
    valid: Array
    """() bool, whether there is an estimate to look for."""
    rises_from: Array
    """() a ratio from which F is known, from the design alone, to rise; infinity where none is."""
    cancels: bool
    """whether L' is a difference."""
    closed: Array | None = None
    """() root of the score, negative where the optimum is 0, where there is a closed form."""
    proven: Array | None = None
    """() bool, whether F is known to cross 0 at most once, and from below, where that needs no point of the profile."""
    look: bool = True
    """whether a first look from point to point is worth its time where that is not known."""


def curve(equations: NormalEquations, restricted: bool, fixed: bool = False) -> Curve:
    """The profile through strata; `fixed` where nothing differentiates it, as the line search of an optimiser may:
    it then compiles in less time."""
    strata = equations.strata
    n, groups, largest = degrees(strata, restricted), strata.counts.sum(), equations.largest
    smallest = jnp.where(strata.counts > 0, strata.sizes, largest).min()

    columns, alone = columns_of(equations, has_little_to_do()), strata.means.shape[-1] == 2
    # no eigenvalue of Z' P0 Z is below the smallest size; but covariates may push one there
    rises_from = known_to_rise_from(smallest, largest, groups / n) if alone else jnp.full_like(equations.floor, jnp.inf)
    closed = None
    if alone and len(strata.sizes) == 1:  # balanced: F is linear in 1 / (1 + lambda k)
        k, m, inner = strata.sizes[0], strata.counts[0], strata.within_cross[1, 1]
        scatter = jnp.zeros_like(inner) if strata.scatter is None else strata.scatter[0, 1, 1]
        excess = scatter * (n * k / (m - 1 if restricted else m) - k)
        closed = closed_ratio(excess / inner, k)
    return Curve(
        at=partial(_searched(restricted), equations, columns)
        if fixed
        else lambda ratio: profile(equations, ratio, restricted),
        n=n,
        count=jnp.where(n < FREEDOM_OF_KNOWN, n, groups),
        floor=equations.floor,
        size=(strata.counts * strata.sizes).sum() / groups,
        largest=largest,
        valid=strata.status == Status.INTERIOR,
        rises_from=rises_from,
        cancels=not alone,
        closed=closed,
        proven=proven_by_design(equations, columns, restricted) if columns and fixed and closed is None else None,
    )


def known_to_rise_from(least: Array, most: Array, share: Array) -> Array:
    """The ratio from which 2 / (1 / least + ratio) > (1 + share) / (1 / most + ratio), share = terms of L / N.

    The left side is at most -Q''/Q', the right one at least L'/N - L''/L', when all nu lie between least and most.
    """
    share = (1 + share) * (1 + 1e-6)
    return jnp.where(share < 2, jnp.maximum(share / least - 2 / most, 0) / (2 - share), jnp.inf)


def closed_ratio(share: Array, size: Array) -> Array:
    """The root of F where it is linear in 1 / (1 + lambda size), 0 where that is 1 but for rounding."""
    return jnp.where(share - 1 > 16 * jnp.finfo(share.dtype).eps, (share - 1) / size, jnp.minimum(share - 1, 0))


def alone_or_batched(function: Callable[..., T]) -> Callable[..., T]:
    """A function of arrays, first those of a dataset, and of a word `alone`, which is false where vmap maps over
    datasets that are not few: sums are then written out, so that they fuse. Not for derivatives in reverse."""

    @jax.custom_batching.custom_vmap
    def run(*arrays: Any) -> T:
        return function(*arrays, alone=True)

    @run.def_vmap
    def batched(size: int, mapped: list[Any], *arrays: Any) -> tuple[T, Any]:
        axes = jax.tree.map(lambda one: 0 if one else None, tuple(mapped))
        several = lambda *arrays, alone: jax.vmap(partial(function, alone=alone), axes, axis_size=size)(*arrays)
        points_of_one = not any(jax.tree.leaves(mapped[0]))
        found = alone_or_batched(several)(*arrays) if points_of_one else several(*arrays, alone=has_little_to_do())
        return found, jax.tree.map(lambda _: True, found)

    return run


@cache
def _searched(restricted: bool) -> Callable[[NormalEquations, Columns | None, Array], Profile]:
    """`profile`, from columns that stand outside of a loop where there are any and the loop is over a batch."""

    def at(equations: NormalEquations, columns: Columns | None, ratio: Array, alone: bool) -> Profile:
        if alone or columns is None:
            return profile(equations, ratio, restricted, alone)
        return profile_of_columns(equations, columns, ratio, restricted)

    return alone_or_batched(at)
