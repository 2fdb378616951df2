"""Derivatives of a function along a direction, from one program: linearised, transposed and by differences."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Slopes(NamedTuple):
    """Of a function with a vector of numbers."""

    value: np.ndarray
    """(m,) at the point."""
    forward: np.ndarray
    """(m,) along the direction, by the linearised function."""
    reverse: np.ndarray
    """(m,) the same from the Jacobian, the linearised function transposed."""
    difference: np.ndarray
    """(m,) the same by central differences."""
    jacobian: Any
    """a (m, ...) array for each array of the argument, in reverse mode."""


def slopes(function: Callable[[Any], jax.Array], at: Any, direction: Any, step: float = 1e-5) -> Slopes:
    """The derivatives of a function of one argument, an array or a tuple of arrays."""
    at, direction = jax.tree.map(jnp.asarray, (at, direction))

    @jax.jit
    def run(at: Any) -> tuple[Any, Any, Any]:
        value, forward = jax.linearize(function, at)
        (jacobian,) = jax.vmap(jax.linear_transpose(forward, at))(jnp.eye(len(value), dtype=value.dtype))
        return value, forward(direction), jacobian

    value, forward, jacobian = jax.tree.map(np.asarray, run(at))
    moved = lambda step: run(jax.tree.map(lambda a, d: a + step * d, at, direction))[0]
    products = jax.tree.map(lambda j, d: np.tensordot(j, d, np.ndim(d)), jacobian, direction)
    return Slopes(
        value=value,
        forward=forward,
        reverse=sum(jax.tree.leaves(products)),
        difference=np.asarray(moved(step) - moved(-step)) / (2 * step),
        jacobian=jacobian,
    )
