"""Fixed effects by generalised least squares, and the random effects of the groups by best linear prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxre.components import Components
from jaxre.eager import compiled_alone_by_group
from jaxre.frame import within_slopes
from jaxre.moments import GroupMoments, Strata
from jaxre.records import record
from jaxre.rows import Array
from jaxre.strata import stratify
from jaxre.sweep import inverse_and_log_det


@record
class Blue:
    """Best linear unbiased estimate of a mean; see `blue`."""

    mean: Array
    """() [y], the estimate."""
    variance: Array
    """() [y^2], its variance."""
    weights: Array
    """(groups,) [1], Lagrange weights; they sum to 1."""


def blue(means: ArrayLike, variances: ArrayLike) -> Blue:
    """Best linear unbiased estimate of the common mean of independent group means.

    Minimising sum w_j^2 v_j subject to sum w_j = 1 with a Lagrange multiplier gives w_j proportional to 1 / v_j. With
    v_j = between + within / n_j this is the generalised least-squares mean; in a balanced design it is the grand mean.

    Args:
        means: (groups,) [y], ybar_j.
        variances: (groups,) [y^2], their variances; > 0.

    Returns:
        Blue with the mean, its variance 1 / sum (1 / v_j), and the weights.

    Errors:
        ValueError for shapes that do not fit; a variance of 0 gives NaN.

    Source: Searle, Casella and McCulloch (1992), Variance Components, section 3.3; Aitken (1935).

    Example:
        >>> import jaxre
        >>> estimate = jaxre.blue([1.0, 4.0], [1.0, 2.0])
        >>> print(f"{estimate.mean:.4f} {estimate.variance:.4f}", estimate.weights.round(4))
        2.0000 0.6667 [0.6667 0.3333]
    """
    means, precision = jnp.asarray(means), 1 / jnp.asarray(variances)
    if means.ndim != 1 or means.shape != precision.shape:
        raise ValueError(f"means and variances must have one length, got {means.shape} and {precision.shape}.")
    weights = precision / precision.sum()
    return Blue(mean=weights @ means, variance=1 / precision.sum(), weights=weights)


def group_means(moments: GroupMoments) -> Array:
    """Mean of the outcome in each group, in the units of the outcome.

    Args:
        moments: sufficient statistics by group.

    Returns:
        (groups,) [y], ybar_j, with variance between + within / n_j about its expectation; NaN for an empty group.

    Errors:
        none are raised.

    Source: definition.

    Example:
        >>> import jaxre
        >>> print(jaxre.group_means(jaxre.group_moments([1.0, 3.0, 5.0, 9.0], ["a", "a", "b", "b"])))
        [2. 7.]
    """
    frame = moments.frame
    fitted = moments.means[:, :-1] @ jnp.linalg.solve(frame.transform, frame.origin)
    means = (fitted + moments.means[:, -1]) / frame.scale
    return jnp.where(jnp.asarray(moments.sizes) > 0, means, jnp.nan)


@record
class NormalEquations:
    """Strata with what generalised least squares needs of them at every ratio, computed once."""

    strata: Strata
    """the sufficient statistics."""
    products: Array
    """(strata, p + 1, p + 1) sums over each stratum of the cross products of (1, x, y) group means."""
    largest: Array
    """() [1], the largest group size."""
    others: Array
    """(strata,) [1], counts without one group of that size: 1 less in one stratum."""
    limit: Array
    """(p - 1,) slopes as the ratio goes to infinity: least squares within groups."""
    floor: Array
    """() Q(infinity), their residual sum of squares: that of y on [X Z]."""


def normal_equations(strata: Strata) -> NormalEquations:
    """Prepared strata; see NormalEquations."""
    x, p = strata.means, strata.means.shape[-1] - 1
    products = strata.counts[:, None, None] * x[:, :, None] * x[:, None, :]
    if strata.scatter is not None:
        products = products + strata.scatter
    within = strata.within_cross
    limit = within_slopes(within[1:p, 1:p], within[1:p, p], jnp)
    z = jnp.concatenate([jnp.zeros(1, x.dtype), -limit, jnp.ones(1, x.dtype)])
    floor = (within * z * z[:, None]).sum()
    sizes = jnp.where(strata.counts > 0, strata.sizes, 0)
    return NormalEquations(
        strata=strata,
        products=products,
        largest=sizes.max(),
        others=strata.counts - (jnp.arange(len(sizes)) == jnp.argmax(sizes)),
        limit=limit,
        floor=floor,
    )


@record
class Gls:
    """Generalised least squares at a ratio, in the coordinates of the moments' frame."""

    weights: Array
    """(strata,) w_k = k / (1 + ratio k)."""
    gamma: Array
    """(p,) coefficients."""
    normal: Array
    """(p, p) M = X' H^-1 X."""
    inverse: Array
    """(p, p) M^-1."""
    log_det: Array
    """() log det M."""
    squares: Array
    """(strata,) d^2_k, squared residuals of the group means, summed over the stratum."""
    pull: Array
    """(strata, p) the residuals' products with the group means of X."""
    within: Array
    """() residual sum of squares within groups at these coefficients."""
    beyond: Array
    """() `within` less its minimum."""


def gls(equations: NormalEquations, ratio: Array, alone: bool = False) -> Gls:
    """Generalised least squares with covariance H = I + ratio Z Z'; O(strata p^2 + p^3). One that is `alone`, not in a
    batch, has fewer operations to compile."""
    strata, products = equations.strata, equations.products
    k, m, x, within = strata.sizes, strata.counts, strata.means, strata.within_cross
    p = x.shape[-1] - 1
    weights = k / (1 + ratio * k)
    normal = within + matmul(weights, products.reshape(len(k), -1)).reshape(within.shape)
    inverse, log_det = inverse_and_log_det(normal[:p, :p])
    gamma = contract(inverse, normal[:p, p], alone)
    z = jnp.append(-gamma, jnp.ones_like(gamma[:1])) if alone else [*(-gamma), 1.0]
    gap = contract(x, z, alone)
    pull, squares = (m * gap)[:, None] * x, m * gap * gap
    if strata.scatter is not None:
        turned = contract(strata.scatter, z, alone)
        pull, squares = pull + turned, squares + contract(turned, z, alone)
    beyond = gamma[1:] - equations.limit
    return Gls(
        weights=weights,
        gamma=gamma,
        normal=normal[:p, :p],
        inverse=inverse,
        log_det=log_det,
        squares=squares,
        pull=pull[:, :p],
        within=contract(contract(within, z, alone), z, alone),
        beyond=contract(contract(within[1:p, 1:p], beyond, alone), beyond, alone),
    )


def contract(table: Array, vector: Array | Sequence[Any], alone: bool = False) -> Array:
    """Product of the last axis with a short vector. Written out, since XLA fuses additions, but not reductions, which
    under vmap would be passes over the memory; not where the program is `alone`, which only takes longer to compile."""
    if alone:
        return matmul(table, vector)
    terms = [table[..., i] * entry for i, entry in enumerate(vector)]
    return sum(terms[1:], terms[0]) if terms else jnp.zeros(table.shape[:-1], table.dtype)


def matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


@record
class Blup:
    """Best linear unbiased predictions of the group effects; see `blup`."""

    effect: Array
    """(groups,) [y], predicted a_j."""
    variance: Array
    """(groups,) [y^2], variance of (prediction - a_j), the uncertainty of beta included."""
    shrinkage: Array
    """(groups,) [1], n_j between / (within + n_j between), in [0, 1)."""


@compiled_alone_by_group
def blup(moments: GroupMoments, components: Components) -> Blup:
    """Best linear unbiased predictions of the group effects at given variance components.

    a_j = s_j (ybar_j - xbar_j' beta), s_j = n_j between / (within + n_j between), beta by generalised least squares.
    The error of the prediction has variance between (1 - s_j) + s_j^2 xbar_j' Cov(beta) xbar_j.

    Args:
        moments: sufficient statistics by group.
        components: the two variances.

    Returns:
        Blup with arrays (groups,).

    Errors:
        TypeError for anything but GroupMoments; degenerate moments give NaN.

    Source: Henderson (1975), Biometrics 31, 423-447; Searle, Casella and McCulloch (1992), chapter 7.

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0], [0, 0, 1, 1])
        >>> print(jaxre.blup(moments, jaxre.Components(within=2.0, between=3.0)).effect)
        [-2.25  2.25]
    """
    if not isinstance(moments, GroupMoments):
        raise TypeError(f"blup needs the moments by group, of group_moments, got {type(moments).__name__}.")
    ratio = jnp.asarray(components.ratio)
    fit = gls(normal_equations(stratify(moments)), ratio)
    scale = moments.frame.scale
    return predict(
        moments.sizes, moments.means, scale, ratio, components.between, components.within, fit.gamma, fit.inverse
    )


def predict(
    sizes: Array,
    means: Array,
    scale: Array,
    ratio: Array,
    between: Array,
    within: Array,
    gamma: Array,
    gamma_cov: Array,
) -> Blup:
    """Predictions from a fit in the coordinates of a frame of that scale, gamma_cov in units of within; NumPy or JAX.

    With the intercept alone, each group may have a scale, variances and gamma (1, groups) of its own.
    """
    x, y = means[:, :-1], means[:, -1]
    shrinkage = ratio * sizes / (1 + ratio * sizes)
    alone = x.shape[1] == 1  # x is then 1, or 0 where there is no group
    xp = np if isinstance(gamma_cov, np.ndarray) else jnp
    of_mean = gamma_cov[0, 0] if alone else xp.einsum("ij,ij->j", gamma_cov @ x.T, x.T)  # columns are contiguous
    return Blup(
        effect=shrinkage * (y - (gamma[0] if alone else x @ gamma)) / scale + 0.0,  # no -0
        variance=between * (1 - shrinkage) + within * shrinkage**2 * of_mean,
        shrinkage=shrinkage,
    )
