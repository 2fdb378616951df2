"""From arrays, concrete or traced, to moments."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxre.columns import numbers
from jaxre.eager import in_one_program
from jaxre.labels import encode
from jaxre.moments import GroupMoments, moments_of
from jaxre.observations import LEAST_WEIGHT, MOST_WEIGHT, extremes
from jaxre.rows import Array, HostRows, Rows
from jaxre.settings import is_small, staging
from jaxre.traced_rows import TracedRows, sizes_of


def group_moments(
    values: ArrayLike,
    groups: ArrayLike | Sequence[Hashable],
    covariates: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    within: ArrayLike | None = None,
    num_groups: int | None = None,
) -> GroupMoments:
    """Sufficient statistics of each group: sizes, means, and the cross products within groups.

    The O(n) step of every fit. Works inside jit and under vmap, and follows the dtype of `values`.
    With W = (1, covariates, y): n_j, W-bar_j, and sum_j sum_i (W_ij - W-bar_j)(W_ij - W-bar_j)', by two passes over
    centred data, in the coordinates that `Frame` describes.

    Args:
        values: (n,) [y] outcome.
        groups: (n,) group of each row. Without `num_groups`, concrete labels of any hashable type, numbered in order of
            first appearance; with it, integers 0 .. num_groups - 1, which may be traced.
        covariates: (n, p - 1) [x], no column of ones; None for the intercept alone.
        weights: (n,) [1] precision of each row: its variance within groups is within / weight. All > 0, and from 1e-100
            to 1e100; None for 1.
        within: () [y^2], the variance within groups, > 0, where it is known; None where it is to be estimated. A group
            may then be a single row: with weights 1 / v_i and within 1 this is a random-effects meta-analysis of
            estimates with sampling variances v_i. The moments are those of a variance with infinite degrees of freedom.
        num_groups: number of groups, padding included.

    Returns:
        GroupMoments with arrays (groups,), (groups, p + 1) and (p + 1, p + 1); NumPy's where the rows are concrete, in
        double precision and on a CPU, where there is then nothing to compile, else JAX's.

    Errors:
        ValueError for shapes that do not fit, TypeError for what is not a real number. NaN, infinity, a label out of
        range, a weight out of its range or a known variance that is not positive give the status INVALID, and an
        unidentified or degenerate dataset its own status: see `Status`.

    Source: Chan, Golub and LeVeque (1983), The American Statistician 37, 242-247 (two-pass sums).

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([1.0, 3.0, 5.0, 9.0], ["a", "a", "b", "b"])
        >>> print(moments.sizes, moments.within_cross[-1, -1] / moments.frame.scale**2)
        [2. 2.] 10.0
    """
    y = real_array(values, "values")
    if y.ndim != 1 or y.shape[0] == 0:
        raise ValueError(
            f"values must be one-dimensional with at least one row, got shape {y.shape}; pass one outcome."
        )
    x = None
    if covariates is not None:
        x = real_array(covariates, "covariates").astype(y.dtype)
        if x.ndim != 2 or x.shape[0] != y.shape[0]:
            raise ValueError(f"covariates must have shape ({y.shape[0]}, p - 1) like values, got {x.shape}.")
        x = x if x.shape[1] else None
        if x is not None and x.shape[0] <= x.shape[1] + 1:
            raise ValueError(f"covariates must have fewer columns than rows less one, got {x.shape}; leave some out.")
    codes, count = codes_of(groups, num_groups)
    if codes.shape != y.shape:
        raise ValueError(
            f"values and groups must have one length, got {y.shape} and {codes.shape}; pass a label for each value."
        )
    w = None if weights is None else real_array(weights, "weights")
    if w is not None and w.shape != y.shape:
        raise ValueError(
            f"values and weights must have one length, got {y.shape} and {w.shape}; pass a weight for each value."
        )
    known = None if within is None else real_array(within, "within").astype(y.dtype)
    given = {"y": y, "codes": codes, "x": x, "w": w, "known": known}
    traced = staging() or any(isinstance(one, jax.core.Tracer) for one in given.values())
    if traced or not _on_a_cpu(y):  # elsewhere what is known of the groups saves scattered additions
        return _in_jax(count, **given)
    if y.dtype != np.float64:
        return _in_a_program(count, **given)
    with np.errstate(all="ignore"):  # what overflows ends in a status
        rows = _rows_on_host(y, codes, x, count, w)
        if rows is not None:
            return moments_of(rows, None if known is None else np.asarray(known))
    found: GroupMoments = jax.tree.map(np.asarray, _in_a_program(count, **given))
    return found


def _in_jax(
    count: int,
    y: Array,
    codes: Array,
    x: Array | None,
    w: Array | None,
    known: Array | None,
    sizes: Array | None = None,
) -> GroupMoments:
    return moments_of(TracedRows(y, codes, x, count, w, sizes), known)


def _in_a_program(count: int, y: Array, codes: np.ndarray, x: Array | None, **others: Any) -> GroupMoments:
    """The same compiled as a whole, of labels that are known: numbers of any size and any type are counted here."""
    codes = np.where((codes >= 0) & (codes < count), codes.astype(np.int64), -1).astype(np.int32)
    given = {"y": y, "codes": codes, "x": x, "sizes": sizes_of(codes, count).astype(float), **others}
    return in_one_program(_in_jax, {"count": count}, given, is_small(len(y), 1 if x is None else x.shape[1] + 1))


def _on_a_cpu(y: jax.Array) -> bool:
    return y.is_fully_addressable and {one.platform for one in y.devices()} == {"cpu"}


def _rows_on_host(y: Array, codes: Array, x: Array | None, count: int, w: Array | None) -> Rows | None:
    """The rows in NumPy; None if they have a number, label or weight that is none, of which JAX says so."""
    table, weights = (None if given is None else np.asarray(given, float) for given in (x, w))
    values = np.asarray(y)
    reach = extremes(values, table)
    labelled = codes.min() >= 0 and codes.max() < count
    weighed = weights is None or bool((weights >= LEAST_WEIGHT).all() and (weights <= MOST_WEIGHT).all())
    if not (np.isfinite(reach).all() and labelled and weighed):
        return None
    return HostRows(values, codes.astype(np.intp), table, np.bincount(codes, minlength=count), reach, weights)


def codes_of(groups: ArrayLike | Sequence[Hashable], num_groups: int | None) -> tuple[Any, int]:
    """Integer codes of the groups and how many groups there are; see `group_moments`."""
    if num_groups is None:
        if isinstance(groups, jax.core.Tracer):
            raise ValueError("traced groups need num_groups: pass num_groups=J and integers 0 .. J - 1.")
        encoded = encode(groups)
        return encoded.codes, len(encoded.labels)
    codes: Any = groups if isinstance(groups, jax.core.Tracer) else np.asarray(groups)
    count = operator.index(num_groups)
    if count < 1:
        raise ValueError(f"num_groups must be at least 1, got {count}.")
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"with num_groups, groups must be integers 0 .. num_groups - 1, got {codes.dtype}.")
    if codes.dtype.itemsize < 4:  # or the number of groups would not be one of theirs
        codes = codes.astype(np.int32)
    return codes, count


def real_array(given: Any, name: str) -> jax.Array:
    """Real numbers as a JAX array, in the floating-point type that they have, at least that of 32 bits."""
    if isinstance(given, jax.Array):
        if jnp.iscomplexobj(given):
            raise TypeError(f"{name} must be real, got {given.dtype}; pass the real part or the modulus.")
        array = given
    else:
        plain = getattr(given, "dtype", None)
        array = jnp.asarray(given if plain in (np.float32, np.float16) else numbers(given, name))
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array.astype(jnp.result_type(float))
    return array if array.dtype.itemsize >= 4 else array.astype(jnp.float32)
