"""Mean squared errors of predictions: of known parameters, of an estimated mean, of estimated variances."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxre.components import Components
from jaxre.distributions import t_quantile
from jaxre.effects import NormalEquations, gls, normal_equations
from jaxre.estimate import Estimate
from jaxre.information import expected, inverse_2
from jaxre.moments import GroupMoments
from jaxre.profile import degrees, profile
from jaxre.rows import Array
from jaxre.status import Status
from jaxre.strata import stratify

METHODS = ("reml", "ml", "anova")

T = TypeVar("T")


class Point(NamedTuple):
    """A fit at its components, in the coordinates of the moments' frame, and how well the components are known."""

    equations: NormalEquations
    """of the moments."""
    ratio: Array
    """() between / within."""
    within: Array
    """() [y^2]."""
    between: Array
    """() [y^2]."""
    gamma: Array
    """(p,) coefficients."""
    inverse: Array
    """(p, p) covariance of gamma in units of within."""
    covariance: Array
    """(2, 2) of the estimates of (within, between) in units of within."""
    bias: Array
    """(2,) of the same, in units of within."""
    rank: Array
    """() r = rank[X Z] - p, degrees of freedom between groups."""


class Error(NamedTuple):
    """Error of predictions, one entry each."""

    variance: Array
    """[y^2], variances known: g1 + g2."""
    mse: Array
    """[y^2], variances estimated: g1 + g2 + 2 g3, less b' grad g1 for maximum likelihood."""
    df: Array
    """[1], Satterthwaite's degrees of freedom of the estimated error."""


def point(moments: GroupMoments, components: Components | Estimate, method: str) -> Point:
    """A fit at its components; see Point."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}.")
    if not isinstance(moments, GroupMoments):
        raise TypeError(f"moments must be by group, of group_moments, got {type(moments).__name__}.")
    strata = stratify(moments)
    equations, ratio = normal_equations(strata), jnp.asarray(components.ratio)
    fit = gls(equations, ratio)
    covariance, bias = of_components(equations, ratio, method)
    return Point(
        equations=equations,
        ratio=ratio,
        within=jnp.asarray(components.within),
        between=jnp.asarray(components.between),
        gamma=fit.gamma,
        inverse=fit.inverse,
        covariance=covariance,
        bias=bias,
        rank=strata.counts.sum() + strata.within_rank - (strata.means.shape[-1] - 1),
    )


def of_components(equations: NormalEquations, ratio: Array, method: str) -> tuple[Array, Array]:
    """Covariance and first-order bias of the estimates of (within, between) in units of within.

    Of a likelihood: the inverse of the expected information, and for maximum likelihood half of it times the gradient
    of log det X' V^-1 X. Of Henderson's method 3: the variances of its sums of squares, with r = rank[X Z] - p on
    between, f on within, T1 = tr(Z' P0 Z) and T2 = tr(Z' P0 Z)^2.
    """
    strata, unit, none = equations.strata, jnp.ones_like(ratio), jnp.zeros((2,), ratio.dtype)
    restricted = profile(equations, ratio, True)
    if method == "reml":
        return inverse_2(expected(restricted, degrees(strata, True), unit)), none
    if method == "ml":
        full = profile(equations, ratio, False)
        covariance = inverse_2(expected(full, degrees(strata, False), unit))
        slope = restricted.log_det_1 - full.log_det_1  # of log det X' H^-1 X
        gradient = jnp.stack([-(strata.means.shape[-1] - 1) - ratio * slope, slope])
        return covariance, covariance @ gradient / 2
    flat, p = profile(equations, jnp.zeros_like(ratio), True), strata.means.shape[-1] - 1
    rank = strata.counts.sum() + strata.within_rank
    freedom, r, first, second = strata.rows - rank, rank - p, flat.log_det_1, -flat.log_det_2
    of_within, cross = 2 / freedom, -2 * r / freedom / first
    of_between = 2 * (r + 2 * ratio * first + ratio * ratio * second + r * r / freedom) / first / first
    return jnp.stack([jnp.stack([of_within, cross]), jnp.stack([cross, of_between])]), none


def error(at: Point, sizes: Array, contrast: Callable[[Array, Array], Array], noise: ArrayLike = 0.0) -> Error:
    """Error of x' beta + a_j, or of a_j alone, or of an observation, predicted in groups of the sizes n_j.

    g1 = between / (1 + ratio n_j) is the variance of a_j given the data; g2 = d' C d with C the covariance of beta;
    g3 = within Var(ratio) n_j / (1 + ratio n_j)^3. Maximum likelihood underestimates the variances by b, to first
    order, and with them g1, by b' grad g1.

    Satterthwaite's degrees of freedom tend to 0 with between, where the estimate of a small variance is not like a
    chi-square. They are held at r / 2 and 1 at least: with few groups the intervals then cover about what they should.

    Args:
        at: the fit.
        sizes: (m,) n_j; 0 for a new group.
        contrast: (m, p) d from (1 - s_j, s_j), s_j the shrinkage, in the coordinates of the frame: x - s_j xbar_j for
            x' beta + a_j, and - s_j xbar_j for a_j.
        noise: (m,) or () in units of within, variance of what is added to the mean: 1 / weight for an observation.
    """

    def variance(ratio: Array) -> Array:  # in units of within
        rest = 1 / (1 + ratio * sizes)
        d = contrast(rest[:, None], (ratio * sizes * rest)[:, None])
        return ratio * rest + squares(gls(at.equations, ratio).inverse, d) + noise

    known, slope = jax.jvp(variance, (at.ratio,), (jnp.ones_like(at.ratio),))
    rest = 1 / (1 + at.ratio * sizes)
    of_ratio = quadratic(at.covariance, -at.ratio, jnp.ones_like(at.ratio))
    underestimated = (at.bias[0] * at.ratio * at.ratio * sizes + at.bias[1]) * rest * rest
    total = known + 2 * of_ratio * sizes * rest**3 - underestimated
    spread = quadratic(at.covariance, known - at.ratio * slope, slope)
    df = jnp.maximum(2 * total * total / spread, jnp.maximum(at.rank / 2, 1))
    return Error(variance=at.within * known, mse=at.within * total, df=df)


def ends(value: Array, error: Error, level: float) -> tuple[Array, Array]:
    """Student's interval."""
    half = t_quantile(level, error.df) * jnp.sqrt(error.mse)
    return value - half, value + half


def quadratic(matrix: Array, a: Array, b: Array) -> Array:
    """(a, b) matrix (a, b)', element by element."""
    return matrix[0, 0] * a * a + 2 * matrix[0, 1] * a * b + matrix[1, 1] * b * b


def squares(inverse: Array, x: Array) -> Array:
    """x_i' inverse x_i for every row."""
    return ((x @ inverse) * x).sum(axis=1)


def where_known(found: T, moments: GroupMoments, at: Point) -> T:
    """The record, NaN throughout where moments or components have no meaning."""
    valid = (jnp.asarray(moments.status) == Status.INTERIOR) & jnp.isfinite(at.within) & jnp.isfinite(at.ratio)
    return jax.tree.map(lambda leaf: jnp.where(valid, leaf, jnp.nan), found)
