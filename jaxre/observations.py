"""Raw values, labels and covariates: every check of input happens here, on the host."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence

import numpy as np
from jax.typing import ArrayLike

from jaxre.columns import covariates_of, numbers, refuse_infinity, refuse_missing, refuse_too_many
from jaxre.labels import Labels, encode, first_seen

MISSING = ("drop", "raise")
LEAST_WEIGHT, MOST_WEIGHT = 1e-100, 1e100  # beyond, products of weights and squares leave the range of doubles
AT_ONCE = 1 << 16  # numbers that stay in the cache


@dataclasses.dataclass(frozen=True, eq=False)
class Observations:
    """Checked rows: float64, finite, of one length, without missing ones."""

    values: np.ndarray
    """(n,) [y]."""
    groups: Labels
    """the labels of the rows kept."""
    sizes: np.ndarray
    """(slots,) [1], rows in each slot."""
    covariates: np.ndarray | None
    """(n, p - 1) [x], None without covariates."""
    names: tuple[str, ...]
    """(p - 1) names of the covariates."""
    levels: dict[str, list[str]]
    """levels of each text column that was treatment-coded, the first of them without a column."""
    extremes: tuple[np.ndarray, np.ndarray]
    """(p,), (p,) smallest and largest value of each covariate, then of y."""
    dropped: int
    """rows left out because something in them was missing."""
    weights: np.ndarray | None = None
    """(n,) [1], precisions of the rows; None without weights."""


def observe(
    values: ArrayLike,
    groups: ArrayLike | Sequence[Hashable],
    covariates: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    missing: str = "drop",
) -> Observations:
    """Checked observations from whatever the user has: arrays, lists, columns of a data frame."""
    if missing not in MISSING:
        raise ValueError(f"missing must be 'drop' or 'raise', got {missing!r}.")
    y = numbers(values, "values")
    if y.ndim != 1:
        raise ValueError(
            f"values must be one-dimensional, got shape {y.shape}; pass one outcome, for example values[:, 0]."
        )
    if len(y) == 0:
        raise ValueError("values has no rows; a fit needs at least two groups and three rows.")
    labels = encode(groups)
    x: np.ndarray | None = None
    names: tuple[str, ...] = ()
    levels: dict[str, list[str]] = {}
    if covariates is not None:
        together = len(y) == len(labels.slots)
        given = covariates_of(covariates, ~np.isnan(y) & (labels.slots >= 0) if together else np.zeros(0, bool))
        x = given.table
        if x.ndim != 2:
            remedy = "for one covariate pass x.reshape(-1, 1)" if x.ndim == 1 else "pass a column for each covariate"
            raise ValueError(f"covariates must have shape (n, p - 1), got {x.shape}; {remedy}.")
        if len(x) != len(y):
            raise ValueError(
                f"values and covariates must have one length, got {len(y)} and {len(x)}; pass a row of covariates for "
                f"each value."
            )
        x, names, levels = x if x.shape[1] else None, given.names, given.levels
    if len(labels.slots) != len(y):
        raise ValueError(
            f"values and groups must have one length, got {len(y)} and {len(labels.slots)}; pass a label for each "
            f"value."
        )
    w = None if weights is None else precisions(weights, len(y))

    low, high = extremes(y, x)
    dropped = 0
    unknown = w is not None and np.isnan(w).any()
    if labels.missing or unknown or not all(map(math.isfinite, (*low.tolist(), *high.tolist()))):
        refuse_infinity(y, "values")
        absent = np.isnan(y)
        if x is not None:
            refuse_infinity(x, "covariates")
        if missing == "raise":
            refuse_missing(absent, "values")
            if x is not None:
                refuse_missing(np.isnan(x), "covariates")
            refuse_missing(labels.slots < 0, "groups")
            if w is not None:
                refuse_missing(np.isnan(w), "weights")
        if x is not None:
            absent |= np.isnan(x).any(axis=1)
        absent |= labels.slots < 0
        if w is not None:
            absent |= np.isnan(w)
        dropped = int(absent.sum())
        keep = ~absent
        if dropped == len(y):
            raise ValueError(f"no rows are left: all {len(y)} have a missing value; check the columns that you pass.")
        y, x, w = y[keep], None if x is None else x[keep], None if w is None else w[keep]
        labels = first_seen(labels.codes[keep], labels.labels)
        low, high = extremes(y, x)
    if x is not None:
        refuse_too_many(x)
    sizes = np.bincount(labels.slots, minlength=labels.size)
    return Observations(
        values=y,
        groups=labels,
        sizes=sizes,
        covariates=x,
        names=names,
        levels=levels,
        extremes=(low, high),
        dropped=dropped,
        weights=w,
    )


def precisions(weights: ArrayLike, rows: int) -> np.ndarray:
    w = numbers(weights, "weights")
    if w.shape != (rows,):
        raise ValueError(f"weights must have shape ({rows},) like values, got {w.shape}.")
    refuse_infinity(w, "weights")
    wrong = np.flatnonzero(w <= 0)
    if len(wrong):
        raise ValueError(
            f"weights must be positive, got {w[wrong[0]]:g} in row {wrong[0]} ({len(wrong)} such): a row has variance "
            "within / weight; leave out a row that is to count for nothing."
        )
    wrong = np.flatnonzero((w < LEAST_WEIGHT) | (w > MOST_WEIGHT))
    if len(wrong):
        raise ValueError(
            f"weights must lie between {LEAST_WEIGHT:g} and {MOST_WEIGHT:g}, got {w[wrong[0]]:g} in row {wrong[0]} "
            f"({len(wrong)} such); divide all by one number, which divides `within` as well and changes nothing else."
        )
    return w


def extremes(y: np.ndarray, x: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of each covariate and of y; NaN where one is missing."""
    if x is None:
        return y.min(keepdims=True), y.max(keepdims=True)
    low, high = _of_columns(x)
    return np.append(low, y.min()), np.append(high, y.max())


def _of_columns(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both of each column, from one reading; rows are taken 64 at a time, because NumPy is slow along short rows."""
    whole = len(x) // 64 * 64
    if whole == 0 or not x.flags.c_contiguous:
        return x.min(axis=0), x.max(axis=0)
    wide = x[:whole].reshape(whole // 64, -1)
    rows = max(1, AT_ONCE // wide.shape[1])
    parts = [wide[start : start + rows] for start in range(0, len(wide), rows)]
    found = [(part.min(axis=0), part.max(axis=0)) for part in parts]
    low, high = np.min([low for low, _ in found], axis=0), np.max([high for _, high in found], axis=0)
    low, high = (np.concatenate([ends.reshape(64, -1), x[whole:]]) for ends in (low, high))
    return low.min(axis=0), high.max(axis=0)
