"""The optimum of each method in the coordinates of the moments' frame, and its derivative."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxre.certificate import WIDTH, find_basins
from jaxre.effects import NormalEquations, gls, normal_equations
from jaxre.likelihood import curvature, degrees, profile, profile_of, score
from jaxre.moments import Strata
from jaxre.optimise import minimise
from jaxre.records import record
from jaxre.rows import Array
from jaxre.status import Status

KEPT_OPTIMA = WIDTH + 1


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


def likelihood_optimum(
    strata: Strata, restricted: bool, optimizer: optax.GradientTransformation | None = None
) -> Optimum:
    """The best of the local optima of the full or the restricted likelihood, and whether it is proven global."""
    equations = normal_equations(strata)
    n = degrees(strata, restricted)
    searched = jax.lax.stop_gradient(equations)  # the search has no derivative; `implicit_root` has it
    basins = find_basins(searched, restricted)
    found = minimise(searched, restricted, basins, optimizer)

    values = jnp.append(jnp.where(basins.zero_is_optimum, 0.0, jnp.inf), found.value)
    ratios = jnp.append(jnp.where(basins.zero_is_optimum, 0.0, jnp.nan), found.ratio)
    best = jnp.argmin(values)
    optimum, ratio = values[best], ratios[best]
    others = jnp.where(jnp.arange(len(values)) == best, jnp.inf, values)
    rounding = 64 * jnp.finfo(n.dtype).eps * n
    certified = basins.complete & found.converged.all() & (optimum <= basins.unresolved - rounding)
    several = basins.count + basins.zero_is_optimum > 1
    code = jnp.where(ratio == 0, Status.BOUNDARY, Status.INTERIOR) + jnp.where(several, 2, 0)
    converged = jnp.append(True, found.converged)[best] & jnp.isfinite(optimum)
    return _at(
        equations,
        restricted,
        ratio=implicit_root(restricted, equations, ratio),
        within=None,
        untruncated=None,
        code=jnp.where(converged, code, Status.NOT_CONVERGED),
        certified=certified & converged,
        optima=basins.count + basins.zero_is_optimum,
        optima_ratio=ratios,
        gap=others.min() - optimum,
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
