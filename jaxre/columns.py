"""Columns of numbers from whatever the user has: arrays, lists, series, data frames with text in them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

EXACT = 2**53  # whole numbers up to it are doubles
MOST_LEVELS = 500  # of a categorical covariate: each but one becomes a column of doubles


@dataclasses.dataclass(frozen=True, eq=False)
class Covariates:
    """Covariates as numbers, with the names of their columns."""

    table: np.ndarray
    """(n, p - 1) [x], NaN where missing; or of another shape, as it was given."""
    names: tuple[str, ...]
    """(p - 1) names."""
    levels: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """levels of each text column of a data frame, the first of them the one that has no column here."""


def covariates_of(given: Any, complete: np.ndarray, name: str = "covariates") -> Covariates:
    """Covariates of an array, or of a data frame, whose text columns become treatment-coded ones.

    `complete` marks the rows in which nothing else is missing: a level counts where it occurs in a complete row.
    """
    frame = frame_of(given)
    if frame is None:
        table = numbers(given, name)
        return Covariates(table, tuple(f"x{i + 1}" for i in range(table.shape[-1] if table.ndim else 0)))
    parts = {column: _text(frame[column]) or numeric(frame[column], name) for column in frame.columns}
    if len(complete) != len(frame):
        complete = np.ones(len(frame), bool)  # an error that the caller words better
    for part in parts.values():
        complete = complete & (part.present if isinstance(part, Text) else ~np.isnan(part))
    names: list[str] = []
    tables: list[np.ndarray] = []
    coded: dict[str, list[str]] = {}
    for column, part in parts.items():
        if isinstance(part, Text):
            levels = coded[column] = levels_of(name, column, part.values[complete], part.order)
            names += [f"{column}{level}" for level in levels[1:]]
            tables.append(treatment(part.values, levels))
        else:
            names.append(str(column))
            tables.append(part[:, None])
    table = np.concatenate(tables, axis=1) if tables else np.zeros((len(frame), 0))
    return Covariates(table, tuple(names), coded)


def covariates_again(given: Any, known: Covariates, name: str = "covariates") -> np.ndarray:
    """Covariates (m, p - 1) of further rows, coded as the known ones were; columns of a data frame go by name."""
    frame = frame_of(given)
    if frame is None:
        table = numbers(given, name)
        table = table.reshape(-1, 1) if table.ndim == 1 and len(known.names) == 1 else table
        if table.ndim != 2 or table.shape[1] != len(known.names):
            raise ValueError(
                f"{name} must have shape (m, {len(known.names)}), the columns {', '.join(known.names) or 'none'}, "
                f"got {table.shape}."
            )
    else:
        of_text = [f"{column}{level}" for column, levels in known.levels.items() for level in levels[1:]]
        needed = [*known.levels, *(column for column in known.names if column not in of_text)]
        absent = [column for column in needed if column not in frame.columns]
        if absent:
            raise ValueError(
                f"{name} must have the columns {', '.join(needed)}, got {', '.join(frame.columns)}: "
                f"{', '.join(absent)} missing."
            )
        columns = {column: numeric(frame[column], name)[:, None] for column in needed if column not in known.levels}
        for column, levels in known.levels.items():
            coded = _coded(frame[column].to_list(), column, levels, name)
            columns |= {f"{column}{level}": coded[:, i : i + 1] for i, level in enumerate(levels[1:])}
        parts = [columns[column] for column in known.names]
        table = np.concatenate(parts, axis=1) if parts else np.zeros((len(frame), 0))
    refuse_infinity(table, name)
    if np.isnan(table).any():
        raise ValueError(f"{name} must have no missing values, got {int(np.isnan(table).sum())}; leave those rows out.")
    return table


def _coded(given: list[Any], column: str, levels: list[str], name: str) -> np.ndarray:
    values = np.array([None if value is None or value != value else str(value) for value in given], object)
    unknown = sorted({value for value in values.tolist() if value is not None} - set(levels))
    if unknown:
        raise ValueError(
            f"{name}: column {column!r} must hold levels of the fit, {', '.join(map(short, levels[:5]))}"
            f"{', ...' if len(levels) > 5 else ''}, got {', '.join(map(short, unknown[:5]))}."
        )
    return treatment(values, levels)


def coefficients_of(covariates: Any, n: int) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Covariates (n, p - 1), None for none, and the names of the coefficients."""
    if covariates is None:
        return None, ("(Intercept)",)
    given = covariates_of(covariates, np.ones(n, bool))
    x = given.table
    if x.ndim != 2 or len(x) != n:
        raise ValueError(f"covariates must have shape ({n}, p - 1) like values, got {x.shape}.")
    refuse_infinity(x, "covariates")
    return (x if x.shape[1] else None), ("(Intercept)", *given.names)


def frame_of(given: Any) -> Any:
    """The data frame through narwhals, None for anything that is not a data frame."""
    if isinstance(given, np.ndarray) or not (hasattr(given, "columns") or hasattr(given, "column_names")):
        return None
    try:
        import narwhals.stable.v2 as narwhals
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "a data frame needs narwhals: pip install 'jaxre[data]', or pass an array of numbers."
        ) from None
    names = [str(name) for name in getattr(given, "column_names", given.columns if hasattr(given, "columns") else ())]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"a data frame has two columns named {twice!r}; rename one of them.")
    if hasattr(given, "set_axis") and any(not isinstance(name, str) for name in given.columns):
        given = given.set_axis(names, axis=1)  # a frame made of an array, whose columns are named 0, 1, ...
    try:
        return narwhals.from_native(given, eager_only=True)
    except TypeError:
        raise TypeError(
            f"a data frame must be in memory, got {type(given).__module__}.{type(given).__name__}; pass what its "
            "collect() or df() returns."
        ) from None


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


def numeric(series: Any, name: str) -> np.ndarray:
    """A column of a data frame as doubles, NaN where it is null."""
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
    mask = None
    if isinstance(given, np.ma.MaskedArray):
        mask, given = np.ma.getmaskarray(given), given.data
    try:
        array = np.asarray(given)
    except ValueError:
        raise ValueError(
            f"{name} must have rows of one length, got ragged ones; give every row the same columns."
        ) from None
    except TypeError as error:
        if "Tracer" not in type(error).__name__:
            raise
        raise TypeError(
            f"{name} must be concrete, got a value that jit, vmap or grad traces; there use jaxre.group_moments with "
            "jaxre.reml, ml or anova, or jaxre.meta_analysis."
        ) from None
    if array.dtype == object and hasattr(given, "to_numpy") and not any(isinstance(v, str) for v in array.flat):
        with contextlib.suppress(TypeError, ValueError):  # nullable columns of a data frame
            array = given.to_numpy(dtype=np.float64, na_value=np.nan)
    kind = array.dtype.kind
    if kind == "c":
        raise TypeError(f"{name} must be real, got {array.dtype}; pass the real part or the modulus.")
    if kind in "mM":
        raise TypeError(
            f"{name} must be numeric, got an array of {_contents(array)}; convert it to a number of days, or of "
            f"another unit, first."
        )
    if kind not in "fiub":
        raise TypeError(
            f"{name} must be numeric, got an array of {_contents(array)}; convert it first, for example with "
            f"numpy.asarray(..., dtype=float)."
        )
    doubles = array.astype(np.float64, copy=False)
    if array.size and (kind in "iu" or (array is not given and _of_integers(given))):
        inexact = beyond_doubles(array) if kind in "iu" else abs(doubles) >= EXACT  # rounded already
        if inexact.any():
            raise ValueError(
                f"{name} has integers beyond 2^53, which doubles cannot hold exactly, such as "
                f"{'' if kind in 'iu' else 'about '}{array.flat[inexact.argmax()]}; subtract a constant first."
            )
    return doubles if mask is None else np.where(mask, np.nan, doubles)


def beyond_doubles(array: np.ndarray) -> np.ndarray:
    """Mask of the integers that doubles may not hold exactly."""
    return (array > EXACT) | (array < -EXACT) if array.dtype.itemsize == 8 else np.zeros(array.shape, bool)


def _of_integers(given: Any) -> bool:
    """Whether a column of doubles was one of integers before it had missing values."""
    return str(getattr(given, "dtype", getattr(given, "type", ""))).lower().startswith(("int", "uint"))


def _contents(array: np.ndarray) -> str:
    if array.dtype.kind == "O" and array.size:
        first = next((item for item in array.flat if not isinstance(item, (int, float))), array.flat[0])
        return f"objects such as {short(first)}"
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
