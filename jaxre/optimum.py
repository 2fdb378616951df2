"""The optimum of each method in the coordinates of the moments' frame, and its derivative."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax

from jaxre.certificate import WIDTH, find_basins, first_look
from jaxre.effects import NormalEquations, gls, normal_equations
from jaxre.moments import Strata
from jaxre.optimise import descend
from jaxre.profile import Curve, curvature, curve, degrees, drop, profile, profile_of, score
from jaxre.records import record
from jaxre.rows import Array
from jaxre.status import Status

KEPT_OPTIMA = WIDTH + 1

T = TypeVar("T")


@record
class Optimum:
    """Where a method ends, in the coordinates of the moments' frame."""

    ratio: Array
    """() [1], lambda."""
    within: Array
    """() variance within groups of the scaled outcome."""
    untruncated: Array
    """() between / within before truncation at 0; equal to ratio for the likelihoods."""
    gamma: Array
    """(p,) coefficients."""
    gamma_cov: Array
    """(p, p) their covariance in units of within."""
    log_det: Array
    """() L."""
    quadratic: Array
    """() Q."""
    code: Array
    """() int32 `Status` as far as the search can tell."""
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


def anova_optimum(strata: Strata) -> Optimum:
    """Henderson's method 3 in closed form; see `anova`."""
    equations = normal_equations(strata)
    p = strata.means.shape[-1] - 1
    flat = profile(equations, jnp.zeros_like(strata.rows), restricted=True)
    rank = strata.counts.sum() + strata.within_rank
    within = equations.floor / (strata.rows - rank)
    untruncated = (flat.excess - (rank - p) * within) / flat.log_det_1 / within
    ratio = jnp.maximum(untruncated, 0)
    code = jnp.where(untruncated < 0, Status.NEGATIVE, jnp.where(ratio == 0, Status.BOUNDARY, Status.INTERIOR))
    return _at(
        equations,
        restricted=False,
        ratio=ratio,
        within=within,
        untruncated=untruncated,
        code=code,
        certified=jnp.array(True),
        optima=jnp.ones((), jnp.int32),
        optima_ratio=jnp.full(KEPT_OPTIMA, jnp.nan, ratio.dtype).at[0].set(ratio),
        gap=jnp.full_like(within, jnp.inf),
        steps=jnp.zeros((), jnp.int32),
    )


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


def quick_search(curve: Curve, optimizer: optax.GradientTransformation | None = None) -> Search:
    """The optimum where a first look can prove that there is only one."""
    look = first_look(curve)
    inside = look.settled & ~look.at_zero
    found = descend(curve, look.low, look.high, look.start, inside, optimizer)
    ratio = jnp.where(inside, found.ratio, 0)
    place = jnp.arange(KEPT_OPTIMA) == inside
    return Search(
        settled=look.settled | ~curve.valid,
        ratio=ratio,
        converged=found.settled,
        certified=look.settled & found.settled,
        optima=jnp.ones((), jnp.int32),
        optima_ratio=jnp.where(place, ratio, jnp.nan),
        gap=jnp.full_like(ratio, jnp.inf),
        steps=found.steps.astype(jnp.int32),
    )


def whole_search(curve: Curve, optimizer: optax.GradientTransformation | None = None) -> Search:
    """Every local optimum, in every basin of the branch and bound, and the best of them."""
    basins = find_basins(curve)
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
    best = jnp.argmin(values)
    others = jnp.where(jnp.arange(KEPT_OPTIMA) == best, jnp.inf, values)
    rounding = 64 * jnp.finfo(n.dtype).eps * n
    settled = converged[best] & jnp.isfinite(values[best])
    return Search(
        settled=jnp.ones((), bool),
        ratio=ratios[best],
        converged=settled,
        certified=settled & basins.complete & converged.all() & (values[best] <= basins.unresolved - rounding),
        optima=basins.count + basins.zero_is_optimum,
        optima_ratio=ratios,
        gap=others.min() - values[best],
        steps=steps.astype(jnp.int32),
    )


def search(curve_of: Callable[[T], Curve], data: T, optimizer: optax.GradientTransformation | None = None) -> Search:
    """The quick search where it settles the matter, else the whole one; in a batch, that one where any needs it."""

    def quick(data: T) -> Search:
        return quick_search(curve_of(data), optimizer)

    def whole(data: T) -> Search:
        return whole_search(curve_of(data), optimizer)

    def choose(first: Search, data: T) -> Search:
        return jax.lax.cond(first.settled, lambda first, _: first, lambda _, data: whole(data), first, data)

    @jax.custom_batching.custom_vmap
    def run(data: T) -> Search:
        return choose(quick(data), data)

    @run.def_vmap
    def batched(size: int, mapped: list[T], data: T) -> tuple[Search, Search]:
        axes = jax.tree.map(lambda one: 0 if one else None, mapped[0])
        first = jax.vmap(quick, (axes,), axis_size=size)(data)

        def mixed(first: Search, data: T) -> Search:
            later = jax.vmap(whole, (axes,), axis_size=size)(data)
            return jax.tree.map(
                lambda a, b: jnp.where(jnp.reshape(first.settled, (-1,) + (1,) * (a.ndim - 1)), a, b), first, later
            )

        found = jax.lax.cond(first.settled.all(), lambda first, _: first, mixed, first, data)
        return found, jax.tree.map(lambda _: True, found)

    return run(data)


def likelihood_optimum(
    strata: Strata,
    restricted: bool,
    optimizer: optax.GradientTransformation | None = None,
) -> Optimum:
    """The best of the local optima of the full or the restricted likelihood, and whether it is proven global."""
    equations = normal_equations(strata)
    fixed = jax.lax.stop_gradient(equations)  # the search has no derivative; `implicit_root` has it
    return at_search(equations, search(partial(curve, restricted=restricted), fixed, optimizer), restricted)


def quick_optimum(
    strata: Strata, restricted: bool, optimizer: optax.GradientTransformation | None = None
) -> tuple[Optimum, Array]:
    """The optimum by the quick search alone, with whether that settled the matter."""
    equations = normal_equations(strata)
    found = quick_search(curve(equations, restricted), optimizer)
    return at_search(equations, found, restricted), found.settled


def at_search(equations: NormalEquations, found: Search, restricted: bool) -> Optimum:
    """The optimum that a search means."""
    code = jnp.where(found.ratio == 0, Status.BOUNDARY, Status.INTERIOR) + jnp.where(found.optima > 1, 2, 0)
    return _at(
        equations,
        restricted,
        ratio=implicit_root(restricted, equations, found.ratio),
        within=None,
        untruncated=None,
        code=jnp.where(found.converged, code, Status.NOT_CONVERGED),
        certified=found.certified,
        optima=found.optima,
        optima_ratio=found.optima_ratio,
        gap=found.gap,
        steps=found.steps,
    )


def _at(
    equations: NormalEquations,
    restricted: bool,
    ratio: Array,
    within: Array | None,
    untruncated: Array | None,
    code: Array,
    **facts: Array,
) -> Optimum:
    """The optimum at a ratio; by default within is its maximiser there."""
    fit = gls(equations, ratio)
    at = profile_of(equations, fit, ratio, restricted)
    return Optimum(
        ratio=ratio,
        within=at.quadratic / degrees(equations.strata, restricted) if within is None else within,
        untruncated=ratio if untruncated is None else untruncated,
        gamma=fit.gamma,
        gamma_cov=fit.inverse,
        log_det=at.log_det,
        quadratic=at.quadratic,
        code=code.astype(jnp.int32),
        **facts,
    )


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def implicit_root(restricted: bool, equations: NormalEquations, ratio: Array) -> Array:
    """The ratio, a root of the score, as a function of the moments.

    The score f'(lambda, moments) = 0 defines lambda, so d lambda = -(d f' / d moments) d moments / f''. On the boundary
    the derivative is 0.
    """
    return ratio


@implicit_root.defjvp
def _implicit_root_jvp(
    restricted: bool, primals: tuple[NormalEquations, Array], tangents: tuple[NormalEquations, Array]
) -> tuple[Array, Array]:
    equations, ratio = primals
    root = implicit_root(restricted, equations, ratio)
    n = degrees(equations.strata, restricted)
    at = profile(equations, root, restricted)
    _, change = jax.jvp(lambda moved: score(profile(moved, root, restricted), n), (equations,), (tangents[0],))
    interior = root > 0
    return root, jnp.where(interior, -change / jnp.where(interior, curvature(at, n), 1), 0)
