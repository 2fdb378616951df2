"""Comparisons: of numbers that may be JAX scalars, and of a batch with its members one at a time."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest


def approx(expected: Any, **tolerances: float) -> Any:
    """`pytest.approx`, which does not take JAX arrays as what is expected."""
    return pytest.approx(np.asarray(expected)[()] if isinstance(expected, jax.Array) else expected, **tolerances)


def same_in_a_batch(one: Callable[..., Any], *batch: Any, rtol: float, atol: float = 0) -> None:
    """`one` of each member of a batch, compiled alone and under vmap."""
    together, compiled = jax.jit(jax.vmap(one))(*batch), jax.jit(one)
    alone = jax.tree.map(lambda *leaves: np.stack(leaves), *map(compiled, *batch))
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
