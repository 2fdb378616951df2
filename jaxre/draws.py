"""Datasets drawn from the model through their sufficient statistics: no row is drawn, and none is needed."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxre.components import Components
from jaxre.eager import in_one_program
from jaxre.effects import gls, matmul, normal_equations
from jaxre.estimate import Estimate
from jaxre.moments import GroupMoments, Strata
from jaxre.records import record
from jaxre.rows import Array
from jaxre.settings import is_small
from jaxre.status import Status
from jaxre.strata import as_strata
from jaxre.variates import bound, normals_and_chi_squares

Moments = TypeVar("Moments", GroupMoments, Strata)


def draw(key: Array, moments: Moments, components: Components | Estimate, beta: ArrayLike | None = None) -> Moments:
    """Moments of a dataset drawn from the model over the design of `moments`.

    Works inside jit and under vmap over keys. The sufficient statistics are drawn from their own distribution, so the
    cost depends neither on the number of rows nor, for strata, on the number of groups. With v = between + within / k,
    independent of each other given the covariates: the mean outcome of m groups of size k is normal with variance v / m
    and their squares about it are v chi2 on m - 1; the slopes within groups are normal with covariance
    within (X'X within groups)^-1, and the squares that they leave are within chi2 on n - J - rank.

    Args:
        key: random key.
        moments: the design: sizes, and means and products within groups of the covariates.
        components: the two variances, such as an Estimate; within > 0, between >= 0.
        beta: (p,) [y/x], by default generalised least squares on `moments` at these variances.

    Returns:
        GroupMoments or Strata, as given. The origin of their frame is beta, so no digit is lost to a large mean. Equal
        keys give equal datasets, but sizes that are traced use them in another way than concrete ones.

    Errors:
        TypeError for anything but moments; degenerate moments give NaN and keep their status, variances out of their
        range give NaN and the status INVALID.

    Source: Searle, Casella and McCulloch (1992), Variance Components, sections 3.5 and 3.6.

    Example:
        >>> import jax, jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
        >>> model = jaxre.Components(within=2.0, between=3.0)
        >>> keys = jax.random.split(jax.random.key(0), 50_000)
        >>> fits = jax.jit(jax.vmap(lambda key: jaxre.anova(jaxre.draw(key, moments, model))))(keys)
        >>> print(f"{fits.within.mean():.1f} {fits.between_untruncated.mean():.1f}")
        2.0 3.0
    """
    if not isinstance(moments, GroupMoments | Strata):
        as_strata(moments)  # which says what is needed
    numbers = {"ratio": components.ratio, "within": components.within, "beta": beta}
    small = is_small(len(moments.sizes), moments.means.shape[-1] - 1)
    made = in_one_program(_drawn, {"most": freedom_of(moments)}, {"key": key, "moments": moments, **numbers}, small)
    frame = dataclasses.replace(moments.frame, origin=made.pop("origin"))
    return dataclasses.replace(moments, frame=frame, **made)


def _drawn(
    key: Array, moments: GroupMoments | Strata, ratio: Array, within: Array, beta: Array | None, most: Freedom
) -> dict[str, Array]:
    """What of the moments a draw changes."""
    found = draw_from(key, source_of(moments, ratio, within, beta), most)
    changed = {name: getattr(found, name) for name in ("means", "within_cross", "status")}
    scatter = {} if isinstance(found, GroupMoments) or found.scatter is None else {"scatter": found.scatter}
    return {**changed, **scatter, "origin": found.frame.origin}


@record
class Source:
    """The design and the scale of all that is drawn over it, in the coordinates of the moments' frame."""

    moments: Any
    """GroupMoments or Strata of the design, the origin of their frame the coefficients of the model."""
    mean_deviation: Array
    """(strata,) standard deviation of the average outcome of a stratum, or of a group; 0 where there is none."""
    variance: Array
    """(strata,) v, variance of the mean of one group."""
    roots: Array | None
    """(strata, p, p - 1) R with R R' the scatter of (1, x); None without scatter."""
    root_deviation: Array | None
    """(strata, p - 1) standard deviation along each column of R; 0 where there is none."""
    scatter_freedom: Array | None
    """(strata,) [1], degrees of freedom of the outcome's scatter beyond those columns."""
    within: Array
    """() variance within groups."""
    slope_deviation: Array
    """(p - 1,) standard deviation of the slopes within groups; 0 where a covariate does not vary there."""
    within_freedom: Array
    """() [1], n - J - rank of the covariates within groups."""


@dataclasses.dataclass(frozen=True)
class Freedom:
    """Bounds of the chi-squares' degrees of freedom, as far as they are known when tracing; None for any number."""

    scatter: int | None
    """of any stratum's scatter."""
    within: int | None
    """within groups."""


def source_of(
    moments: GroupMoments | Strata, ratio: ArrayLike, within: ArrayLike, beta: ArrayLike | None = None
) -> Source:
    """What a draw needs that no key changes."""
    strata = as_strata(moments)
    moments = strata if isinstance(moments, Strata) else moments
    frame, p, dtype = strata.frame, strata.means.shape[-1] - 1, jnp.result_type(strata.means)
    ratio, within = (jnp.asarray(number, dtype) for number in (ratio, within))
    if beta is None:
        beta = frame.origin + matmul(frame.transform, gls(normal_equations(strata), ratio).gamma)
    possible = (within > 0) & (ratio >= 0) & jnp.isfinite(ratio * within)
    status = jnp.maximum(strata.status, jnp.where(possible, 0, int(Status.INVALID)).astype(jnp.int32))
    within = jnp.where(status == Status.INTERIOR, within * frame.scale * frame.scale, jnp.nan)

    sizes = jnp.asarray(moments.sizes)
    counts = jnp.asarray(moments.counts) if isinstance(moments, Strata) else (sizes > 0).astype(dtype)
    counts = jnp.where(sizes > 0, counts, 0)
    variance = within * (ratio + 1 / jnp.where(sizes > 0, sizes, 1))
    roots = root_deviation = scatter_freedom = None
    if isinstance(moments, Strata) and moments.scatter is not None:
        roots, kept = _roots(moments.scatter[:, :p, :p], counts - 1)
        root_deviation = jnp.where(kept, jnp.sqrt(variance)[:, None], 0)
        scatter_freedom = jnp.maximum(counts - 1 - kept.sum(axis=1), 0)
    squares = jnp.diagonal(jnp.asarray(moments.within_cross))[1:p]
    return Source(
        moments=dataclasses.replace(
            moments, frame=dataclasses.replace(frame, origin=jnp.asarray(beta, dtype)), status=status
        ),
        mean_deviation=jnp.where(counts > 0, jnp.sqrt(variance / jnp.maximum(counts, 1)), 0),
        variance=variance,
        roots=roots,
        root_deviation=root_deviation,
        scatter_freedom=scatter_freedom,
        within=within,
        slope_deviation=jnp.where(squares > 0, jnp.sqrt(within / jnp.where(squares > 0, squares, 1)), 0),
        within_freedom=jnp.maximum(moments.rows - counts.sum() - moments.within_rank, 0),
    )


def _roots(scatter: Array, freedom: Array) -> tuple[Array, Array]:
    """R with R R' = scatter of (1, x), and which of its columns there are.

    As many are kept as the groups of the stratum allow. One that is there by rounding alone is about 0, and the
    outcome's square along it is the chi2 on one degree of freedom that it takes from the rest.
    """
    p = scatter.shape[-1]
    if p == 1:
        return jnp.zeros((len(scatter), 1, 0), scatter.dtype), jnp.zeros((len(scatter), 0), bool)
    squares, vectors = jnp.linalg.eigh(scatter[:, 1:, 1:])
    kept = jnp.arange(p - 1) >= p - 1 - freedom[:, None]  # the largest
    roots = vectors * jnp.sqrt(jnp.maximum(squares, 0))[:, None, :]
    return jnp.concatenate([0 * roots[:, :1], roots], axis=1), kept


def freedom_of(moments: GroupMoments | Strata) -> Freedom:
    """Bounds of the degrees of freedom where the design is concrete, rounded up so that few designs differ."""
    strata = isinstance(moments, Strata)
    counts = moments.counts if isinstance(moments, Strata) else moments.sizes
    scattered = isinstance(moments, Strata) and moments.scatter is not None
    if any(isinstance(fact, jax.core.Tracer) for fact in (moments.rows, moments.within_rank, counts)):
        return Freedom(None if scattered else 0, None)
    counts, p = np.asarray(counts, float), moments.means.shape[-1] - 1
    groups = counts if strata else counts > 0
    within = float(moments.rows) - groups.sum() - float(moments.within_rank)
    return Freedom(bound(counts - p) if scattered else 0, bound(within))


def draw_from(key: Array, source: Source, most: Freedom) -> Any:
    """The part of a draw that needs the key: moments of the kind that the source is of."""
    moments, strata, p = source.moments, len(source.variance), source.moments.means.shape[-1] - 1
    known = jnp.asarray(moments.within_cross)[:p, :p]
    along = 0 if source.root_deviation is None else source.root_deviation.size
    wanted = [(source.within_freedom, most.within)]
    if source.scatter_freedom is not None:
        wanted.append((source.scatter_freedom, most.scatter))
    normals, chi_squares = normals_and_chi_squares(key, strata + p - 1 + along, wanted, source.variance.dtype)
    means = source.mean_deviation * normals[:strata]
    slopes = source.slope_deviation * normals[strata : strata + p - 1]
    rest = source.within * chi_squares[0]
    # without a barrier the compiler draws again in every loop that reads a number
    means, slopes, rest = jax.lax.optimization_barrier((means, slopes, rest))
    products = matmul(known[:, 1:], slopes)
    drawn = {
        "means": jnp.concatenate([jnp.asarray(moments.means)[:, :p], means[:, None]], axis=1),
        "within_cross": _with_outcome(known, products, (products[1:] * slopes).sum() + rest),
    }
    if source.root_deviation is not None and source.scatter_freedom is not None:
        steps = source.root_deviation * normals[strata + p - 1 :].reshape(strata, p - 1)
        rest = source.variance * chi_squares[1]
        steps, rest = jax.lax.optimization_barrier((steps, rest))
        products = (source.roots * steps[:, None, :]).sum(axis=-1)
        squares = (steps * steps).sum(axis=-1) + rest
        drawn["scatter"] = _with_outcome(jnp.asarray(moments.scatter)[:, :p, :p], products, squares)
    return dataclasses.replace(moments, **drawn)


def _with_outcome(known: Array, products: Array, squares: Array) -> Array:
    """Cross products (..., p + 1, p + 1) of (1, x, y) from those of (1, x), of them with y, and of y."""
    top = jnp.concatenate([known, products[..., None]], axis=-1)
    bottom = jnp.concatenate([products, squares[..., None]], axis=-1)
    return jnp.concatenate([top, bottom[..., None, :]], axis=-2)
