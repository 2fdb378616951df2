"""The optimum of each method in the coordinates of the moments' frame, and its derivative."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxre.curve import curve
from jaxre.effects import NormalEquations, normal_equations
from jaxre.moments import Strata
from jaxre.optimise import Optimizer
from jaxre.profile import curvature, degrees, profile, score, solve
from jaxre.records import record
from jaxre.rows import Array
from jaxre.search import KEPT_OPTIMA, Search, quick_search, search, whole_search
from jaxre.settings import has_little_to_do
from jaxre.status import Status


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
    excess: Array
    """() Q - Q(infinity)."""
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
    freedom = strata.rows - rank
    within, untruncated, code = anova_ratio(flat.excess, equations.floor, flat.log_det_1, freedom, rank - p)
    ratio = jnp.maximum(untruncated, 0)
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


def likelihood_optimum(
    strata: Strata,
    restricted: bool,
    optimizer: Optimizer | None = None,
) -> Optimum:
    """The best of the local optima of the full or the restricted likelihood, and whether it is proven global."""
    equations = normal_equations(strata)
    fixed = jax.lax.stop_gradient(equations)  # the search has no derivative; `implicit_root` has it
    of_data = partial(curve, restricted=restricted, fixed=optimizer is None)
    return at_search(equations, search(of_data, fixed, optimizer), restricted)


def quick_optimum(strata: Strata, restricted: bool, optimizer: Optimizer | None = None) -> tuple[Optimum, Array]:
    """The optimum by the quick search alone, with whether that settled the matter."""
    equations = normal_equations(strata)
    found = quick_search(curve(equations, restricted, fixed=optimizer is None), optimizer)
    return at_search(equations, found, restricted), found.settled


def whole_optimum(strata: Strata, restricted: bool) -> Optimum:
    """The optimum by the whole search at once."""
    equations = normal_equations(strata)
    return at_search(equations, whole_search(curve(equations, restricted, fixed=True)), restricted)


def at_search(equations: NormalEquations, found: Search, restricted: bool) -> Optimum:
    """The optimum that a search means."""
    return _at(
        equations,
        restricted,
        ratio=implicit_root(restricted, equations, found.ratio),
        within=None,
        untruncated=None,
        code=code_of(found),
        certified=found.certified,
        optima=found.optima,
        optima_ratio=found.optima_ratio,
        gap=found.gap,
        steps=found.steps,
    )


def code_of(found: Search) -> Array:
    """() int32 `Status`, as far as the search can tell."""
    code = jnp.where(found.ratio == 0, Status.BOUNDARY, Status.INTERIOR) + jnp.where(found.optima > 1, 2, 0)
    return jnp.where(found.converged, code, Status.NOT_CONVERGED).astype(jnp.int32)


def anova_ratio(excess: Array, floor: Array, trace: Array, freedom: Array, rank: Array) -> tuple[Array, Array, Array]:
    """Henderson's method 3 from the sums of squares: within, between / within before truncation at 0, and the status.

    excess = RSS_X - RSS_XZ, floor = RSS_XZ on `freedom` degrees, trace = tr(Z' P0 Z), rank = rank[X Z] - p.
    """
    within = floor / freedom
    untruncated = (excess - rank * within) / trace / within
    code = jnp.where(untruncated < 0, Status.NEGATIVE, jnp.where(untruncated == 0, Status.BOUNDARY, Status.INTERIOR))
    return within, untruncated, code.astype(jnp.int32)


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
    at, gamma, gamma_cov = solve(equations, ratio, restricted, has_little_to_do())
    return Optimum(
        ratio=ratio,
        within=at.quadratic / degrees(equations.strata, restricted) if within is None else within,
        untruncated=ratio if untruncated is None else untruncated,
        gamma=gamma,
        gamma_cov=gamma_cov,
        log_det=at.log_det,
        quadratic=at.quadratic,
        excess=at.excess,
        code=code,
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
