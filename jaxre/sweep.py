"""Inverse and log-determinant of a small positive definite matrix by the sweep operator."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def inverse_and_log_det(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Inverse and log-determinant of a symmetric positive definite matrix.

    Each row is swept once, in place; the pivots are those of Cholesky's factorisation, so none need be sought. LAPACK
    would be called back for each matrix of a batch, and inside a loop on a CPU with few threads XLA can then wait for
    itself for ever; these are ordinary array operations, and vectorise over a batch.

    Args:
        matrix: (p, p).

    Returns:
        (p, p) and ().

    Errors:
        none are raised; a matrix that is not positive definite gives NaN or infinity.

    Source: Goodnight (1979), A tutorial on the SWEEP operator, The American Statistician 33, 149-158.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxre.sweep import inverse_and_log_det
        >>> inverse, log_det = inverse_and_log_det(jnp.array([[2.0, 1.0], [1.0, 1.0]]))
        >>> print(inverse.round(4), abs(log_det) < 1e-6)
        [[ 1. -1.]
         [-1.  2.]] True
    """
    p = matrix.shape[-1]
    if p == 1:
        return 1 / matrix, jnp.log(matrix[0, 0])
    places = jnp.arange(p)

    def sweep(k: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        a, log_det = state
        here = places == k
        column, pivot = a[:, k], a[k, k]
        row = jnp.where(here, 1.0, a[k, :]) / pivot
        rest = jnp.where(here[None, :], 0.0, a) - jnp.where(here, 0.0, column)[:, None] * row[None, :]
        return jnp.where(here[:, None], row[None, :], rest), log_det + jnp.log(pivot)

    return jax.lax.fori_loop(0, p, sweep, (matrix, jnp.zeros((), matrix.dtype)))
