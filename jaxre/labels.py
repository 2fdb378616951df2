"""Group labels of any hashable type as integers."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import count
from typing import Any

import numpy as np
from jax.typing import ArrayLike

MANY_ROWS = 16  # rows a slot from which on free slots cost less than to subtract from every label


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
    if len(array) > max(300, MANY_ROWS * (high - low)) and 0 <= low <= (high - low) // 4:
        low = 0  # some slots stay free
    slots = array if low == 0 and array.dtype != np.uint64 else (array - array.dtype.type(low))
    slots = slots.astype(np.intp, copy=False)
    size = high - low + 1
    order = _first_seen_slots(slots, size)
    labels = order if low == 0 else order.astype(array.dtype) + array.dtype.type(low)
    return Labels(slots, labels.astype(given), order, size, 0)


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
    return first_seen(found.slots, found.labels)


def first_seen(codes: np.ndarray, names: np.ndarray) -> Labels:
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
