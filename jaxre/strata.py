"""Moments with the groups of one size put together, so that the likelihood's cost forgets how many groups there are."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxre.by_group import sums_by_group
from jaxre.moments import GroupMoments, Strata
from jaxre.settings import as_jax_holds, staging


def stratify(moments: GroupMoments) -> Strata:
    """Moments with the groups of one size put together.

    Where the sizes are concrete, one stratum for each distinct size, so that the cost of the likelihood no longer
    depends on the number of groups; where they are traced, one stratum for each group.

    Args:
        moments: sufficient statistics by group.

    Returns:
        Strata, largest possible reduction that tracing allows.

    Errors:
        none are raised.

    Source: definition.

    Example:
        >>> import jaxre
        >>> strata = jaxre.stratify(jaxre.group_moments([1.0, 3.0, 5.0, 9.0, 4.0], [0, 0, 1, 1, 2]))
        >>> print(strata.sizes, strata.counts)
        [1. 2.] [1. 2.]
    """
    shared: dict[str, Any] = {
        name: getattr(moments, name) for name in ("rows", "within_cross", "within_rank", "frame", "status")
    }
    if isinstance(moments.sizes, jax.core.Tracer):
        single = (moments.sizes > 0).astype(moments.sizes.dtype)
        return Strata(sizes=moments.sizes, counts=single, means=moments.means, scatter=None, **shared)
    every = np.asarray(moments.sizes)
    if isinstance(moments.means, np.ndarray) and 0 < np.count_nonzero(every) < len(every):
        moments = dataclasses.replace(moments, means=moments.means[every > 0])
        every = every[every > 0]
    if isinstance(moments.means, np.ndarray) and (every == every[0]).all():  # balanced
        mean = moments.means.sum(axis=0) / len(every)
        gap = moments.means - mean
        count = np.array([len(every) if every[0] > 0 else 0], every.dtype)
        return Strata(sizes=every[:1], counts=count, means=mean[None], scatter=(gap.T @ gap)[None], **shared)
    sizes, stratum, taken = _distinct(every)
    counts = (taken * (sizes > 0)).astype(sizes.dtype)
    means: Any
    scatter: Any
    if isinstance(moments.means, np.ndarray):
        means, scatter = _stratum_products(moments.means, stratum, len(sizes))
    else:
        total = sums_by_group(moments.means, stratum, len(sizes))
        means = total / np.maximum(counts, 1)[:, None]
        gap = moments.means - means[stratum]
        scatter = sums_by_group(gap[:, :, None] * gap[:, None, :], stratum, len(sizes))
    return Strata(sizes=sizes, counts=counts, means=means, scatter=scatter, **shared)


def as_strata(moments: GroupMoments | Strata) -> Strata:
    """Strata of either kind of moments, which are constants of a program in a precision that it knows."""
    if isinstance(moments, Strata):
        return as_jax_holds(moments) if staging() else moments
    if not isinstance(moments, GroupMoments):
        raise TypeError(
            f"moments must be GroupMoments or Strata, got {type(moments).__name__}; call group_moments first."
        )
    strata = stratify(moments)
    return as_jax_holds(strata) if staging() else strata


def _distinct(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct sizes in ascending order, which of them each is, and how often each occurs."""
    if sizes.min() >= 0 and sizes.max() <= 2 * len(sizes) + 100:
        whole = sizes.astype(np.intp)
        if (whole == sizes).all():
            taken = np.bincount(whole)
            places = np.flatnonzero(taken)
            return places.astype(sizes.dtype), (np.cumsum(taken > 0) - 1)[whole], taken[places]
    return np.unique(sizes, return_inverse=True, return_counts=True)


def _stratum_products(table: np.ndarray, stratum: np.ndarray, strata: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scatter of the rows of `table` in each stratum, with the rows sorted by stratum once."""
    order = np.argsort(stratum.astype(np.uint16) if strata <= 1 << 16 else stratum, kind="stable")  # by radix if short
    table, stratum = table[order], stratum[order]
    counts = np.bincount(stratum, minlength=strata)
    starts = np.cumsum(counts) - counts
    means = np.add.reduceat(table, starts) / counts[:, None]
    gap = table - means[stratum]
    columns = table.shape[1]
    scatter = np.empty((strata, columns, columns))
    for i in range(columns):
        for j in range(i + 1):
            scatter[:, i, j] = scatter[:, j, i] = np.add.reduceat(gap[:, i] * gap[:, j], starts)
    return means, scatter
