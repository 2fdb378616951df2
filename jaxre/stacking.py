"""Moments of several datasets as one record: padding to one number of strata, and stacking."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.moments import GroupMoments, Strata

Moments = TypeVar("Moments", GroupMoments, Strata)


def stack(moments: Sequence[Moments], *, axis: int = 0) -> Moments:
    """Moments of several datasets as one record with a datasets axis, for `jax.vmap` over an estimator.

    Where the datasets differ in how many strata (or groups) they have, the others are padded with strata of size 0: a
    stratum with k = 0 has the weight k / (1 + lambda k) = 0 and log(1 + lambda k) = 0, and adds exactly nothing.

    Args:
        moments: GroupMoments or Strata, of one kind and with one p; Strata make the faster batch.
        axis: 0, or -1 for `jax.vmap(..., in_axes=-1)`: the numbers of one kind then lie side by side, which a CPU reads
            faster, and a GPU without gaps.

    Returns:
        GroupMoments or Strata, each field with the axis (datasets,) before its own, or after; NumPy arrays unless
        traced.

    Errors:
        ValueError for no datasets, datasets that differ in p, or another axis; TypeError for GroupMoments among Strata.

    Source: definition.

    Example:
        >>> import jax, jaxre
        >>> two = jaxre.group_moments([3.0, 5.0, 11.0, 9.0], [0, 0, 1, 1])
        >>> three = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0, 5.0], [0, 0, 1, 1, 2, 2, 2])
        >>> batch = jaxre.stack([jaxre.stratify(two), jaxre.stratify(three)])
        >>> print(batch.sizes.tolist(), jax.vmap(jaxre.reml)(batch).certified)
        [[2.0, 0.0], [2.0, 3.0]] [ True  True]
        >>> last = jaxre.stack([jaxre.stratify(two), jaxre.stratify(three)], axis=-1)
        >>> print(last.sizes.tolist(), jax.vmap(jaxre.reml, in_axes=-1)(last).certified)
        [[2.0, 2.0], [0.0, 3.0]] [ True  True]
    """
    if axis not in (0, -1):
        raise ValueError(f"axis must be 0, datasets first, or -1, datasets last, got {axis!r}.")
    moments = list(moments)
    if not moments:
        raise ValueError("moments must have at least one dataset, got none; pass a list of GroupMoments or Strata.")
    kinds = sorted({type(one).__name__ for one in moments})
    if len(kinds) > 1:
        raise TypeError(f"moments must be of one kind, got {' and '.join(kinds)}; call stratify on the GroupMoments.")
    widths = sorted({one.means.shape[-1] - 1 for one in moments})
    if len(widths) > 1:
        raise ValueError(
            f"moments must have one number of coefficients, got p = {' and '.join(map(str, widths))}; stack those "
            f"of each p by themselves."
        )
    most = max(len(one.sizes) for one in moments)
    return stacked([padded(one, most) for one in moments], axis=axis)


def stacked(moments: Sequence[Moments], axis: int) -> Moments:
    """Moments of one shape with a datasets axis at that place."""
    xp: Any = jnp if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(list(moments))) else np
    return jax.tree.map(lambda *leaves: xp.stack(leaves, axis=axis), *moments)


def padded(moments: Moments, size: int) -> Moments:
    """Moments with as many strata, or groups, as asked for: those of size 0 add exactly nothing."""
    names = ("sizes", "means") if isinstance(moments, GroupMoments) else ("sizes", "counts", "means", "scatter")
    fields = {name: getattr(moments, name) for name in names}
    if fields.get("scatter", 0) is None:  # every count is 1
        fields["scatter"] = 0 * moments.means[:, :, None] * moments.means[:, None, :]
    xp = jnp if isinstance(moments.means, jax.core.Tracer) else np
    missing = size - len(moments.sizes)
    pad = lambda leaf: xp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1))
    return dataclasses.replace(moments, **{name: pad(leaf) for name, leaf in fields.items()})
