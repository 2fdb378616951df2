"""Columns of numbers from whatever the user has: arrays, lists, series, data frames with text in them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

MOST_LEVELS = 500  # of a categorical covariate: each but one becomes a column of doubles


@dataclasses.dataclass(frozen=True, eq=False)
class Covariates:
    """Covariates as numbers, with the names of their columns."""

    table: np.ndarray
    """(n, p - 1) [x], NaN where missing; or of another shape, as it was given."""
    names: tuple[str, ...]
    """(p - 1) names."""


def covariates_of(given: Any, complete: np.ndarray, name: str = "covariates") -> Covariates:
    """Covariates of an array, or of a data frame, whose text columns become treatment-coded ones.

    `complete` marks the rows in which nothing else is missing: a level counts where it occurs in a complete row.
    """
    frame = _frame(given)
    if frame is None:
        table = numbers(given, name)
        return Covariates(table, tuple(f"x{i + 1}" for i in range(table.shape[-1] if table.ndim else 0)))
    parts = {column: _text(frame[column]) or _numeric(frame[column], name) for column in frame.columns}
    if len(complete) != len(frame):
        complete = np.ones(len(frame), bool)  # an error that the caller words better
    for part in parts.values():
        complete = complete & (part.present if isinstance(part, Text) else ~np.isnan(part))
    names: list[str] = []
    tables: list[np.ndarray] = []
    for column, part in parts.items():
        if isinstance(part, Text):
            levels = levels_of(name, column, part.values[complete], part.order)
            names += [f"{column}{level}" for level in levels[1:]]
            tables.append(treatment(part.values, levels))
        else:
            names.append(str(column))
            tables.append(part[:, None])
    table = np.concatenate(tables, axis=1) if tables else np.zeros((len(frame), 0))
    return Covariates(table, tuple(names))


def _frame(given: Any) -> Any:
    """The data frame through narwhals, None for anything that is not a data frame."""
    if isinstance(given, np.ndarray) or not (hasattr(given, "columns") or hasattr(given, "column_names")):
        return None
    try:
        import narwhals.stable.v2 as narwhals
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "covariates in a data frame need narwhals: pip install 'jaxre[data]', or pass an array of numbers."
        ) from None
    return narwhals.from_native(given, eager_only=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A column of text or of categories."""

    values: np.ndarray
    """(n,) strings, None where missing."""
    order: list[str] | None
    """every level in an order of its own, None for sorted ones."""

    @property
    def present(self) -> np.ndarray:
        """(n,) bool, not missing."""
        return np.array([value is not None for value in self.values.tolist()], bool)


def _text(series: Any) -> Text | None:
    import narwhals.stable.v2 as narwhals

    categorical = isinstance(series.dtype, (narwhals.Categorical, narwhals.Enum))
    if not categorical and series.dtype not in (narwhals.String, narwhals.Object):
        return None
    given = series.to_list()
    if not categorical and not any(isinstance(value, str) for value in given):
        return None
    values = np.empty(len(given), object)
    values[:] = [None if value is None or value != value else str(value) for value in given]
    return Text(values, [str(level) for level in series.cat.get_categories().to_list()] if categorical else None)


def _numeric(series: Any, name: str) -> np.ndarray:
    import narwhals.stable.v2 as narwhals

    name = f"column {series.name!r} of {name}"
    if series.null_count() and (series.dtype.is_numeric() or series.dtype == narwhals.Boolean):
        numbers(series.drop_nulls().to_numpy(), name)
        return np.asarray(series.cast(narwhals.Float64).to_numpy(), np.float64)
    return numbers(series.to_numpy(), name)


def levels_of(source: str, name: str, values: np.ndarray, order: Sequence[str] | None = None) -> list[str]:
    """Levels of a text covariate in the complete rows, sorted or in an order of their own."""
    present = set(values.tolist())
    levels = sorted(present) if order is None else [level for level in order if level in present]
    if len(levels) == 1:
        raise ValueError(
            f"{source}: the covariate {name!r} is text with the single level {short(levels[0])} in the "
            f"{len(values)} complete rows; a categorical covariate needs two or more levels, so leave it out."
        )
    if len(levels) > MOST_LEVELS or len(levels) == len(values):
        raise ValueError(
            f"{source}: the covariate {name!r} is text with too many levels: {len(levels)} in {len(values)} complete "
            f"rows, the first {short(levels[0])}; a categorical covariate has fewer levels than rows and at most "
            f"{MOST_LEVELS}, so leave it out or use it as the group."
        )
    return levels


def treatment(values: np.ndarray, levels: Sequence[str]) -> np.ndarray:
    """Indicators (n, levels - 1) of every level but the first; NaN where the value is missing."""
    place = {level: float(i) for i, level in enumerate(levels)} | {None: np.nan}
    codes = np.array([place.get(value, 0.0) for value in values.tolist()])[:, None]
    return np.where(np.isnan(codes), np.nan, codes == np.arange(1, len(levels)))


def short(value: object) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]}..."


def numbers(given: Any, name: str) -> np.ndarray:
    """The numbers in double precision, NaN where they are masked or null."""
    if isinstance(given, np.ma.MaskedArray):
        given = np.ma.filled(given.astype(np.float64), np.nan)
    try:
        array = np.asarray(given)
    except ValueError:
        raise ValueError(
            f"{name} must have rows of one length, got ragged ones; give every row the same columns."
        ) from None
    if array.dtype == object and hasattr(given, "to_numpy"):  # nullable columns of a data frame
        with contextlib.suppress(TypeError, ValueError):
            array = given.to_numpy(dtype=np.float64, na_value=np.nan)
    if array.dtype.kind == "c":
        raise TypeError(f"{name} must be real, got {array.dtype}; pass the real part or the modulus.")
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"{name} must be numeric, got an array of {_contents(array)}; convert it first, for example with "
            f"numpy.asarray({name}, dtype=float)."
        )
    doubles = array.astype(np.float64, copy=False)
    if array.dtype.kind in "iu" and array.size and (doubles.max() > 2.0**53 or doubles.min() < -(2.0**53)):
        raise ValueError(
            f"{name} has integers beyond 2^53, which doubles cannot hold exactly, such as "
            f"{array.flat[abs(doubles).argmax()]}; subtract a constant first."
        )
    return doubles


def _contents(array: np.ndarray) -> str:
    if array.dtype.kind == "O" and array.size:
        first = next((item for item in array.flat if not isinstance(item, (int, float))), array.flat[0])
        return f"objects such as {first!r}"
    return {"U": "text", "S": "bytes", "M": "dates", "m": "durations"}.get(array.dtype.kind, str(array.dtype))


def refuse_too_many(x: np.ndarray) -> None:
    """An error where there are no more rows than coefficients."""
    rows, columns = x.shape
    if rows <= columns + 1:
        raise ValueError(
            f"not identified: covariates has {columns} columns, with the intercept {columns + 1} coefficients, for "
            f"{rows} complete rows; leave out covariates until there are more rows than coefficients."
        )


def refuse_infinity(array: np.ndarray, name: str) -> None:
    infinite = np.isinf(array)
    if infinite.any():
        raise ValueError(
            f"{name} must be finite, got {int(infinite.sum())} infinite, the first at {first_index(infinite)}; "
            f"remove or replace them."
        )


def refuse_missing(absent: np.ndarray, name: str) -> None:
    if absent.any():
        raise ValueError(
            f"{name} has {int(absent.sum())} missing, the first at {first_index(absent)}; "
            f"remove them, or pass missing='drop' to leave out those rows."
        )


def first_index(mask: np.ndarray) -> str:
    """Where a mask first holds, in words."""
    index = tuple(int(i[0]) for i in np.nonzero(mask))
    return f"index {index[0] if len(index) == 1 else index}"
