"""Named columns as what `fit` takes; text becomes treatment-coded covariates."""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxre.columns import levels_of, short, treatment

MOST_NAMES = 20  # columns that an error lists


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Design:
    """What `fit` takes, from named columns: `fit(d.outcome, d.groups, d.covariates)`. Rows keep their order."""

    outcome: np.ndarray
    """(n,) [y], NaN where missing."""
    groups: np.ndarray
    """(n,) labels; None where missing."""
    covariates: np.ndarray | None
    """(n, p - 1) [x], NaN where missing; None without covariates."""
    coefficients: tuple[str, ...]
    """(p - 1) names of the columns of covariates."""


def design(
    columns: Mapping[str, np.ndarray],
    outcome: str,
    group: str,
    covariates: Sequence[str] = (),
    *,
    source: str = "the table",
) -> Design:
    """Outcome, group labels and covariates of named columns.

    A covariate of text becomes a column of zeros and ones for each of its levels but the first in sorted order, as R's
    treatment coding does: `sexMale` is 1 where sex is "Male". Levels count where the whole row is complete, so that
    leaving out the rows with something missing leaves no column of zeros.

    Args:
        columns: (n,) each, numbers with NaN or text with None where missing.
        outcome: name of the outcome's column.
        group: name of the column of group labels.
        covariates: names of the covariates' columns.
        source: what the errors call the table.

    Returns:
        Design.

    Errors:
        ValueError for a name that is not there or is used twice, text in the outcome, an infinite number, no complete
        row, and a text covariate with one level or with too many.

    Source: R's contr.treatment.

    Example:
        >>> import numpy as np
        >>> from jaxre.design import design
        >>> table = {"y": np.array([3.0, 5.0, 4.0]), "g": np.array([1, 1, 2]), "sex": np.array(["M", "F", "M"])}
        >>> made = design(table, "y", "g", ["sex"])
        >>> print(made.coefficients, made.covariates.T)
        ('sexM',) [[1. 0. 1.]]
    """
    check_names(source, list(columns), outcome, group, covariates)
    y = columns[outcome]
    absent = [_missing(columns[name]) for name in (outcome, group, *covariates)]
    if y.dtype.kind not in "fiub" and not absent[0].all():
        row = int(np.argmin(absent[0]))
        raise ValueError(not_a_number(source, outcome, y[row].item() if y.dtype.kind == "U" else y[row], row + 1))
    complete = ~np.any(absent, axis=0)
    if not complete.any():
        raise ValueError(_nothing_left(source, (outcome, group, *covariates), absent))
    for name in (outcome, *covariates):
        _refuse_infinity(source, name, columns[name])
    names: list[str] = []
    parts: list[np.ndarray] = []
    for name in covariates:
        if columns[name].dtype.kind in "fiub":
            names.append(name)
            parts.append(columns[name].astype(np.float64)[:, None])
        else:
            levels = levels_of(source, name, columns[name][complete])
            names += [f"{name}{level}" for level in levels[1:]]
            parts.append(treatment(columns[name], levels))
    return Design(
        outcome=y.astype(np.float64),
        groups=columns[group],
        covariates=np.concatenate(parts, axis=1) if parts else None,
        coefficients=tuple(names),
    )


def check_names(source: str, names: Sequence[str], outcome: str, group: str, covariates: Sequence[str]) -> None:
    """ValueError unless every column asked for is there once and plays one part."""
    used = (outcome, group, *covariates)
    for name in used:
        check_name(source, names, name)
    repeated = next((name for name, times in Counter(used).items() if times > 1), None)
    if repeated is not None:
        raise ValueError(
            f"column {repeated!r} is used twice (outcome {outcome!r}, group {group!r}, covariates "
            f"{listing(covariates) or 'none'}); each column can play one part."
        )


def check_name(source: str, names: Sequence[str], name: str) -> None:
    """ValueError unless a column is there, and once."""
    if name not in names:
        near = difflib.get_close_matches(name.lower(), [other.lower() for other in names], n=1)
        hint = next((f"; did you mean {other!r}?" for other in names if near == [other.lower()]), ".")
        raise ValueError(f"{source} has no column {name!r}{hint} Its columns are {listing(names)}.")
    if names.count(name) > 1:
        raise ValueError(
            f"{source} has {names.count(name)} columns named {name!r}; rename them so that each has its own name."
        )


def listing(names: Iterable[str]) -> str:
    """Quoted names with commas, the first twenty of them."""
    every = list(names)
    more = f" and {len(every) - MOST_NAMES} more" if len(every) > MOST_NAMES else ""
    return ", ".join(repr(name) for name in every[:MOST_NAMES]) + more


def not_a_number(source: str, name: str, value: object, row: int) -> str:
    """The error for text where the outcome should be."""
    return (
        f"{source}: the outcome {name!r} must hold numbers, got {short(value)} in data row {row}; "
        f"correct it, leave it empty if it is missing, or choose another column."
    )


def _missing(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind == "f":
        return np.isnan(column)
    if column.dtype.kind == "O":
        return np.array([value is None for value in column.tolist()], bool)
    return np.zeros(len(column), bool)


def _nothing_left(source: str, names: Sequence[str], absent: Sequence[np.ndarray]) -> str:
    counts = ", ".join(f"{name!r} {int(mask.sum())}" for name, mask in zip(names, absent, strict=True))
    return (
        f"{source}: no row has a value in every column asked for (missing of {len(absent[0])} rows: {counts}); "
        f"leave out the column that is empty."
    )


def _refuse_infinity(source: str, name: str, column: np.ndarray) -> None:
    infinite = np.isinf(column) if column.dtype.kind == "f" else np.zeros(0, bool)
    if infinite.any():
        raise ValueError(
            f"{source}: column {name!r} must be finite, got {int(infinite.sum())} infinite or too large for a double, "
            f"the first in data row {int(infinite.argmax()) + 1}; correct it, or leave it empty if it is missing."
        )
