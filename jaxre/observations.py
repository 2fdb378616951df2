"""Raw values, labels and covariates: every check of input happens here, on the host."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from itertools import count
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from jaxre.columns import covariates_of, numbers, refuse_infinity, refuse_missing, refuse_too_many

MISSING = ("drop", "raise")


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """Group labels as slots 0 .. slots - 1, not every one of which need be taken."""

    slots: np.ndarray
    """(n,) integer slot of each row; -1 where the label is missing."""
    labels: np.ndarray
    """(groups,) distinct labels in order of first appearance."""
    order: np.ndarray | None
    """(groups,) slot of each of `labels`; None when slot j belongs to label j."""
    size: int
    """number of slots."""
    missing: int
    """rows whose label is missing (None, NaN, NaT)."""

    @property
    def codes(self) -> np.ndarray:
        """(n,) position of each row's label in `labels`; -1 where it is missing."""
        if self.order is None:
            return self.slots
        position = np.zeros(self.size, self.slots.dtype)
        position[self.order] = np.arange(len(self.order))
        return np.where(self.slots < 0, -1, position[self.slots]) if self.missing else position[self.slots]


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
            raise ValueError(
                f"covariates must have shape (n, p - 1), got {x.shape}; for one covariate pass x.reshape(-1, 1)."
            )
        if len(x) != len(y):
            raise ValueError(f"values and covariates must have one length, got {len(y)} and {len(x)} rows.")
        x, names, levels = x if x.shape[1] else None, given.names, given.levels
    if len(labels.slots) != len(y):
        raise ValueError(f"values and groups must have one length, got {len(y)} and {len(labels.slots)} rows.")
    w = None if weights is None else precisions(weights, len(y))

    low, high = _extremes(y, x)
    dropped = 0
    unknown = w is not None and np.isnan(w).any()
    if labels.missing or unknown or not (np.isfinite(low).all() and np.isfinite(high).all()):
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
        labels = _first_seen(labels.codes[keep], labels.labels)
        low, high = _extremes(y, x)
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
    return w


def encode(groups: ArrayLike | Sequence[Hashable], name: str = "groups") -> Labels:
    """Labels of any hashable type as slots, with the labels in order of first appearance.

    Integers by their range, data-frame columns by their own dictionary, everything else by a Python one.
    """
    if isinstance(groups, np.ma.MaskedArray):
        mask, groups = np.ma.getmaskarray(groups), groups.data.astype(object)
        groups[mask] = None
    dictionary = getattr(groups, "dictionary_encode", None)  # an Arrow array, chunked or not
    if dictionary is not None:
        try:
            return _from_arrow(dictionary())
        except NotImplementedError:  # Arrow cannot encode lists
            groups = list(np.asarray(groups))
    factorize = getattr(groups, "factorize", None)  # a pandas Series, Index or Categorical
    if factorize is not None:
        codes, labels = factorize()
        return _from_codes(np.asarray(codes), np.asarray(labels))
    try:
        array = np.asarray(groups)
        nested = array.ndim != 1
    except ValueError:  # labels that are sequences of unequal length, such as tuples
        array, nested = None, True
    if hasattr(groups, "null_count") and hasattr(groups, "to_list") and groups.null_count():
        return _from_hashables(groups.to_list())  # a polars Series, whose integers would be doubles
    if nested and isinstance(groups, Sequence) and len(groups) and isinstance(groups[0], tuple):
        return _from_hashables(list(groups))
    if array is None or array.ndim != 1:
        shape = "ragged" if array is None else array.shape
        raise ValueError(f"{name} must be one-dimensional with one label a row, got shape {shape}.")
    if len(array) == 0:
        return Labels(np.zeros(0, np.intp), array, None, 0, 0)
    if array.dtype == bool:
        inner = _from_integers(array.astype(np.intp))
        if inner is not None:
            return dataclasses.replace(inner, labels=inner.labels.astype(bool))
    if np.issubdtype(array.dtype, np.integer):
        inner = _from_integers(array)
        if inner is not None:
            return inner
    if array.dtype.kind in "USf" and isinstance(groups, Sequence) and {type(label) for label in groups} - {float}:
        return _from_hashables(list(groups))  # NumPy would have turned 1 and None into text, and integers into doubles
    hashed = _from_hashables(array.tolist() if array.dtype.kind not in "mM" else list(array))
    if array.dtype.kind != "O":
        hashed = dataclasses.replace(hashed, labels=hashed.labels.astype(array.dtype))
    return hashed


def _from_integers(array: np.ndarray) -> Labels | None:
    """Slots are the integers less the smallest; None when they are too far apart for that."""
    low, high, given = int(array.min()), int(array.max()), array.dtype
    if high - low > 4 * len(array) + 1000:
        return None
    if array.dtype.itemsize < 8:
        array = array.astype(np.int64)  # or the difference of two labels could overflow
    if len(array) > 300 and 0 <= low <= (high - low) // 4:
        low = 0  # some slots stay free, and nothing needs subtracting
    slots = array if low == 0 and array.dtype != np.uint64 else (array - array.dtype.type(low))
    slots = slots.astype(np.intp, copy=False)
    size = high - low + 1
    order = _first_seen_slots(slots, size)
    return Labels(slots, (order.astype(array.dtype) + array.dtype.type(low)).astype(given), order, size, 0)


def _first_seen_slots(slots: np.ndarray, size: int) -> np.ndarray:
    """The slots that are taken, in order of first appearance."""
    if len(slots) <= 300:
        return np.array(list(dict.fromkeys(slots.tolist())), np.intp)
    first = np.full(size, -1, np.intp)
    soon = min(len(slots), 8 * size)  # most groups show up early; only rows of the others are looked at again
    first[slots[:soon][::-1]] = np.arange(soon - 1, -1, -1)  # the last write to a slot is its first row
    if soon < len(slots):
        late = np.flatnonzero((first < 0)[slots[soon:]])[::-1] + soon
        first[slots[late]] = late
    seen = np.zeros(len(slots), bool)
    seen[first[first >= 0]] = True
    return slots[seen]


def _from_hashables(items: list[Any]) -> Labels:
    numbers: defaultdict[Any, int] = defaultdict(count().__next__)
    try:
        slots = np.fromiter(map(numbers.__getitem__, items), np.intp, len(items))
    except TypeError as error:
        raise TypeError(
            f"groups must be hashable labels, got one that is not: {error}; use strings or integers."
        ) from None
    labels = np.empty(len(numbers), object)
    labels[:] = list(numbers)
    return _from_codes(slots, labels)


def _from_codes(codes: np.ndarray, labels: np.ndarray) -> Labels:
    """Slots from the codes of a dictionary in any order, whose labels may be missing or unused."""
    absent = np.array([_is_missing(label) for label in labels.tolist()], bool)
    if absent.any():
        renumber = np.append(np.cumsum(~absent) - 1, -1)
        renumber[:-1][absent] = -1
        codes, labels = renumber[codes], labels[~absent]
    return Labels(codes.astype(np.intp, copy=False), labels, None, len(labels), int((codes < 0).sum()))


def _is_missing(label: Any) -> bool:
    try:
        return label is None or bool(label != label)
    except TypeError:  # pandas.NA
        return True


def _from_arrow(encoded: Any) -> Labels:
    if hasattr(encoded, "unify_dictionaries"):
        encoded = encoded.unify_dictionaries().combine_chunks()
    indices = encoded.indices
    codes = (indices.fill_null(-1) if indices.null_count else indices).to_numpy(zero_copy_only=False)
    names = np.empty(len(encoded.dictionary), object)
    names[:] = encoded.dictionary.to_pylist()
    if len(set(encoded.dictionary.to_pylist())) < len(names):  # a dictionary may hold a value twice
        distinct = _from_hashables(names.tolist())
        codes, names = np.append(distinct.codes, -1)[codes], distinct.labels
    found = _from_codes(codes, names)
    return _first_seen(found.slots, found.labels)


def _first_seen(codes: np.ndarray, names: np.ndarray) -> Labels:
    """Labels that occur, in order of first appearance, from codes into `names`; -1 stays missing."""
    absent = codes < 0
    missing = int(absent.sum())
    seen = codes[~absent] if missing else codes
    if len(seen) == 0:
        return Labels(codes.astype(np.intp), names[:0], None, 0, missing)
    inner = _from_integers(seen) or _from_hashables(seen.tolist())
    slots = inner.slots
    if missing:
        slots = np.full(len(codes), -1, np.intp)
        slots[~absent] = inner.slots
    return Labels(slots, names[inner.labels.astype(np.intp)], inner.order, inner.size, missing)


def _extremes(y: np.ndarray, x: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of each covariate and of y; NaN where one is missing."""
    if x is None:
        return y.min(keepdims=True), y.max(keepdims=True)
    low, high = (_by_column(x, reduce) for reduce in (np.min, np.max))
    return np.append(low, y.min()), np.append(high, y.max())


def _by_column(x: np.ndarray, reduce: Callable[..., np.ndarray]) -> np.ndarray:
    """A reduction of each column; rows are taken 64 at a time, because NumPy is slow along short rows."""
    whole = len(x) // 64 * 64
    if whole == 0 or not x.flags.c_contiguous:
        return reduce(x, axis=0)
    wide = reduce(x[:whole].reshape(whole // 64, -1), axis=0).reshape(64, -1)
    return reduce(np.concatenate([wide, x[whole:]]), axis=0)
