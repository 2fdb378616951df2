"""Columns of files as numbers, labels and categories, by DuckDB's SQL."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np

from jaxre.columns import EXACT
from jaxre.design import Design, check_name, check_names, design, not_a_number
from jaxre.files import Opened, opened

MISSING = ("", "NA", "NaN", "nan", "NULL", "null")
INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
NUMBERS = (*INTEGERS, "UBIGINT", "HUGEINT", "UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN")


def read(path: str | os.PathLike[str], outcome: str, group: str, covariates: Sequence[str] = ()) -> Design:
    """Outcome, group labels and covariates of a CSV or Parquet file.

    A CSV file has a line of column names and a comma, semicolon, tab or bar between fields; spaces around a field do
    not count, and an empty field, NA, NaN, nan, NULL and null are missing. In it, a covariate is numeric when every
    value is a number and otherwise categorical. A Parquet file has types of its own. In both, true and false, as
    booleans or as text, are the levels TRUE and FALSE of a covariate, and 1 and 0 of an outcome. Group labels that are
    integers stay integers, all others become text.

    Args:
        path: file ending in .csv, .tsv (or either with .gz) or .parquet.
        outcome: name of the outcome's column.
        group: name of the column of group labels.
        covariates: names of the covariates' columns.

    Returns:
        Design, a row for each of the file's, with the missing ones marked.

    Errors:
        FileNotFoundError for a path without a file, ModuleNotFoundError without duckdb; ValueError for a file that
        cannot be read, has no rows, or whose columns do not suit, with the first value that does not.

    Source: definition.

    Example:
        >>> import pathlib, tempfile
        >>> from jaxre import tables
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "rats.csv"
        ...     _ = path.write_text("weight,litter,sex\\n6.6,1,Male\\n7.4,1,Female\\nNA,2,Male\\n6.1,2,Male\\n")
        ...     rats = tables.read(path, "weight", "litter", ["sex"])
        >>> print(rats.outcome, rats.groups, rats.coefficients)
        [6.6 7.4 nan 6.1] [1 1 2 2] ('sexMale',)
    """
    source = os.fspath(path)
    with opened(source) as file:
        check_names(source, file.names, outcome, group, covariates)
        kinds = {outcome: _numbers, group: _group, **dict.fromkeys(covariates, _covariate)}
        columns = _taken(file, kinds)
    return design(columns, outcome, group, covariates, source=source)


def column_names(path: str | os.PathLike[str]) -> list[str]:
    """Names of the columns of a file, in its order; errors as those of `read`."""
    with opened(os.fspath(path)) as file:
        return file.names


def _field(name: str, loose: bool) -> str:
    """SQL for a column; where all is text, without the spaces around it and with its missing values as NULL."""
    quoted = '"' + name.replace('"', '""') + '"'
    if not loose:
        return quoted
    trimmed = f"trim({quoted})"
    for text in MISSING:  # one by one: DuckDB makes a join of IN (...), which changes the order of the rows
        trimmed = f"nullif({trimmed}, '{text}')"
    return trimmed


def _double(key: str, kind: str) -> str:
    """SQL for a column as doubles, NULL where text is not a number."""
    if kind == "VARCHAR":
        return f"CASE WHEN contains({key}, '_') THEN NULL ELSE try_cast({key} AS DOUBLE) END"
    return f"CAST({key} AS DOUBLE)"


def _numbers(file: Opened, name: str, key: str, kind: str) -> str:
    """SQL for an outcome as doubles; an error where it holds anything else."""
    if kind not in (*NUMBERS, "VARCHAR"):
        raise ValueError(
            f"{file.source}: the outcome {name!r} must hold numbers, is of type {kind}; choose another column."
        )
    number = _double(key, kind)
    wrong = _first(file, key, f"{number} IS NULL")
    if wrong and _is_truth(file, key):
        return f"CAST(CAST({key} AS BOOLEAN) AS DOUBLE) AS {key}"
    if wrong:
        raise ValueError(not_a_number(file.source, name, *wrong))
    _refuse_rounding(file, name, key, kind)
    return f"{number} AS {key}"


def _refuse_rounding(file: Opened, name: str, key: str, kind: str) -> None:
    """An error where a column has a whole number that a double would round."""
    if kind not in ("BIGINT", "UBIGINT", "HUGEINT", "UHUGEINT", "DECIMAL", "VARCHAR"):
        return
    number, written = _double(key, kind), f"CAST({key} AS VARCHAR)"
    rounded = f"coalesce(try_cast({number} AS HUGEINT) <> try_cast({key} AS HUGEINT), true)"  # or beyond that type too
    whole = f"regexp_full_match({written}, '[+-]?[0-9]+')"
    inexact = _first(file, key, f"abs({number}) >= {EXACT} AND {whole} AND {rounded}")
    if inexact:
        raise ValueError(
            f"{file.source}: column {name!r} has integers beyond 2^53, which doubles cannot hold exactly, such as "
            f"{inexact[0]} in data row {inexact[1]}; subtract a constant first."
        )


def _group(file: Opened, name: str, key: str, kind: str) -> str:
    """SQL for labels: integers where all are."""
    integer = kind in INTEGERS
    if file.loose:
        whole = f"CAST(try_cast({key} AS BIGINT) AS VARCHAR) = {key}"  # 007 is text, or it would be one group with 7
        every = f"SELECT coalesce(bool_and(coalesce({whole}, {key} IS NULL)), true) FROM observed"
        integer = file.connection.execute(every).fetchall() == [(True,)]
    if kind in ("FLOAT", "DOUBLE"):
        return f"CASE WHEN isnan({key}) THEN NULL ELSE CAST({key} AS VARCHAR) END AS labels"
    return f"CAST({key} AS {'BIGINT' if integer else 'VARCHAR'}) AS labels"


def _covariate(file: Opened, name: str, key: str, kind: str) -> str:
    """SQL for a covariate, as doubles or as text; an error where it is neither."""
    if kind == "BOOLEAN":
        return f"upper(CAST({key} AS VARCHAR)) AS {key}"
    if kind in NUMBERS or (file.loose and _is_numeric(file, name, key)):
        _refuse_rounding(file, name, key, kind)
        return f"{_double(key, kind)} AS {key}"
    if kind not in ("VARCHAR", "ENUM"):
        raise ValueError(
            f"{file.source}: the covariate {name!r} must hold numbers, text or booleans, is of type {kind}; "
            f"convert it to a number or to text."
        )
    if _is_truth(file, key):
        return f"upper(CAST({key} AS VARCHAR)) AS {key}"
    return f"CAST({key} AS VARCHAR) AS {key}"


def _is_truth(file: Opened, key: str) -> bool:
    """Whether text is all true and false."""
    truths = f"SELECT bool_and(lower(CAST({key} AS VARCHAR)) IN ('true', 'false')) FROM observed"
    return bool(file.connection.execute(truths).fetchall() == [(True,)])


def _is_numeric(file: Opened, name: str, key: str) -> bool:
    """Whether text is all numbers; an error where most of it is, for then the rest are slips rather than levels."""
    number = _double(key, "VARCHAR")
    ((present, numeric),) = file.connection.execute(f"SELECT count({key}), count({number}) FROM observed").fetchall()
    if 2 * numeric <= present or numeric == present:
        return numeric == present
    value, row = _first(file, key, f"{number} IS NULL") or ("", 0)
    raise ValueError(
        f"{file.source}: the covariate {name!r} is neither numeric nor categorical: {numeric} of its {present} values "
        f"are numbers, the first that is not is {value!r} in data row {row}; correct it, or name the levels of a "
        f"category by words."
    )


def _first(file: Opened, key: str, condition: str) -> tuple[str, int] | None:
    """The first value for which a condition holds, and its row, from 1."""
    query = f"SELECT {key}, rowid + 1 FROM observed WHERE {key} IS NOT NULL AND {condition} ORDER BY rowid LIMIT 1"
    found = file.connection.execute(query).fetchall()
    return found[0] if found else None


def _unmasked(column: np.ndarray) -> np.ndarray:
    """An array with NaN or None where DuckDB's has a mask."""
    if not isinstance(column, np.ma.MaskedArray):
        return column
    if column.dtype.kind == "f":
        return column.filled(np.nan)
    mask = np.ma.getmaskarray(column)
    if not mask.any():
        return column.data
    plain = column.data.astype(object)
    plain[mask] = None
    return plain


def columns(path: str | os.PathLike[str], labels: Sequence[str], numeric: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of a file: labels and categories as `read` takes them, and numbers with NaN where they are missing."""
    source = os.fspath(path)
    with opened(source) as file:
        for name in (*labels, *numeric):
            check_name(source, file.names, name)
        kinds = dict.fromkeys(labels, _covariate) | {labels[0]: _group} | dict.fromkeys(numeric, _numbers)
        return _taken(file, kinds)


def _taken(file: Opened, kinds: dict[str, Callable[..., str]]) -> dict[str, np.ndarray]:
    """Columns by name, each as the SQL that its function writes."""
    fields = [_field(file.relation.columns[file.names.index(name)], file.loose) for name in kinds]
    file.relation.project(", ".join(f"{field} AS k{i}" for i, field in enumerate(fields))).create("observed")
    if file.connection.execute("SELECT count(*) FROM observed").fetchall() == [(0,)]:
        raise ValueError(f"{file.source} has column names but no rows; a fit needs at least two groups and three rows.")
    types = [str(kind).partition("(")[0] for kind in file.connection.table("observed").types]
    parts = [sql(file, name, f"k{i}", types[i]) for i, (name, sql) in enumerate(kinds.items())]
    arrays = file.connection.execute(f"SELECT {', '.join(parts)} FROM observed").fetchnumpy().values()
    return dict(zip(kinds, map(_unmasked, arrays), strict=True))
