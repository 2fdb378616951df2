"""The two variances of the model, and what they say of observations and of group means."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxre.records import record


@record
class Components:
    """Variance components of y = X beta + Z a + e.

    Errors:
        none of its own: negative variances give negative or NaN results, and plain Python floats with within = 0 raise
        ZeroDivisionError, as Python does.

    Source: definition.

    Example:
        >>> from jaxre import Components
        >>> components = Components(within=3.0, between=1.0)
        >>> components.icc, components.ratio
        (0.25, 0.3333333333333333)
    """

    within: Any
    """() [y^2], variance of e; > 0."""
    between: Any
    """() [y^2], variance of a; >= 0."""

    @property
    def total(self) -> Any:
        """() [y^2], variance of an observation: between + within."""
        return self.between + self.within

    @property
    def ratio(self) -> Any:
        """() [1], lambda = between / within."""
        return self.between / self.within

    @property
    def icc(self) -> Any:
        """() [1], intraclass correlation: between / (between + within)."""
        return self.between / self.total


def expectation(beta: ArrayLike, covariates: ArrayLike) -> jax.Array:
    """Expectation of the observations, X beta with X = (1, covariates).

    Args:
        beta: (p,) [y/x], the intercept first.
        covariates: (n, p - 1) [x]; (n, 0) for the intercept alone.

    Returns:
        (n,) [y].

    Errors:
        TypeError or ValueError from JAX for shapes that do not fit.

    Source: definition.

    Example:
        >>> import numpy as np, jaxre
        >>> print(jaxre.expectation([1.0, 2.0], np.array([[0.0], [3.0]])))
        [1. 7.]
    """
    coefficients = jnp.asarray(beta)
    return coefficients[0] + jnp.asarray(covariates) @ coefficients[1:]


def covariance(components: Components, groups: ArrayLike) -> jax.Array:
    """Dense covariance matrix of the observations, V = within I + between Z Z'.

    The slow and obvious form of the model: var y_ij = between + within, cov(y_ij, y_i'j') = between in one group and 0
    across groups. It is what every fast formula of this package is tested against.

    Args:
        components: the two variances.
        groups: (n,) integer group of each row.

    Returns:
        (n, n) [y^2].

    Errors:
        none are raised.

    Source: definition; Searle, Casella and McCulloch (1992), Variance Components, section 3.1.

    Example:
        >>> import jaxre
        >>> print(jaxre.covariance(jaxre.Components(within=3.0, between=1.0), [0, 0, 1]))
        [[4. 1. 0.]
         [1. 4. 0.]
         [0. 0. 4.]]
    """
    labels = jnp.asarray(groups)
    same_group = labels[:, None] == labels[None, :]
    return components.within * jnp.eye(labels.shape[0]) + components.between * same_group


def group_mean_variance(components: Components, sizes: ArrayLike) -> Any:
    """Variance of each group's mean about its expectation, between + within / n_j.

    Args:
        components: the two variances.
        sizes: (groups,) [1], the n_j; > 0.

    Returns:
        (groups,) [y^2].

    Errors:
        none are raised; a size of 0 gives infinity.

    Source: definition.

    Example:
        >>> import numpy as np, jaxre
        >>> print(jaxre.group_mean_variance(jaxre.Components(within=3.0, between=1.0), np.array([1.0, 3.0])))
        [4. 2.]
    """
    return components.between + components.within / sizes
