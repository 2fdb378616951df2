"""Files into columns: CSV, plain or gzipped, and Parquet, read by DuckDB."""

from __future__ import annotations

import contextlib
import csv
import glob
import gzip
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxre.columns import EXACT
from jaxre.design import Design, check_name, check_names, design, not_a_number

MISSING = ("", "NA", "NaN", "nan", "NULL", "null")
DELIMITERS = (",", ";", "\t", "|")
CSV_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
ENDINGS = (*CSV_ENDINGS, ".parquet")
INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
NUMBERS = (*INTEGERS, "UBIGINT", "HUGEINT", "UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN")

Connection = Any  # a duckdb.DuckDBPyConnection: duckdb is optional, and imported when a file is read


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
    with _opened(source) as (connection, relation, names):
        used = (outcome, group, *covariates)
        check_names(source, names, outcome, group, covariates)
        loose = _ending(source) != ".parquet"
        fields = [_field(relation.columns[names.index(name)], loose) for name in used]
        relation.project(", ".join(f"{field} AS k{i}" for i, field in enumerate(fields))).create("observed")
        if connection.execute("SELECT count(*) FROM observed").fetchall() == [(0,)]:
            raise ValueError(f"{source} has column names but no rows; a fit needs at least two groups and three rows.")
        types = [str(kind).partition("(")[0] for kind in connection.table("observed").types]
        parts = [
            _numbers(connection, source, outcome, "k0", types[0]),
            _group(connection, types[1], loose, "k1"),
            *(
                _covariate(connection, source, name, f"k{i}", types[i], loose)
                for i, name in enumerate(covariates, start=2)
            ),
        ]
        arrays = connection.execute(f"SELECT {', '.join(parts)} FROM observed").fetchnumpy().values()
    columns = dict(zip(used, map(_unmasked, arrays), strict=True))
    return design(columns, outcome, group, covariates, source=source)


def column_names(path: str | os.PathLike[str]) -> list[str]:
    """Names of the columns of a file, in its order; errors as those of `read`."""
    with _opened(os.fspath(path)) as (_, _, names):
        return names


@contextlib.contextmanager
def _opened(source: str) -> Iterator[tuple[Connection, Any, list[str]]]:
    """A connection, the file as a relation of it, and the names of its columns; what DuckDB says becomes one line."""
    ending = _ending(source)
    try:
        import duckdb
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f'reading {source} needs duckdb: pip install "jaxre[data]"', name="duckdb") from None
    pattern = glob.escape(source)
    with contextlib.closing(duckdb.connect(":memory:")) as connection:
        try:
            if ending == ".parquet":
                relation = connection.read_parquet(pattern, hive_partitioning=False)
                yield connection, relation, list(relation.columns)
                return
            names, delimiter = _header(source)
            relation = connection.read_csv(
                pattern,
                auto_detect=False,
                header=True,
                columns={f"c{i}": "VARCHAR" for i in range(len(names))},
                delimiter=delimiter,
                quotechar='"',
                escapechar='"',
                compression="gzip" if ending.endswith(".gz") else "none",
                hive_partitioning=False,
            )
            yield connection, relation, names
        except duckdb.Error as error:
            raise ValueError(_unreadable(source, str(error))) from None


def _ending(source: str) -> str:
    """The ending that says how to read a file that is there; an error in one line for one that is not."""
    path = pathlib.Path(source)
    if path.is_dir():
        raise ValueError(f"{source} is a folder; name one file in it.")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path.name!r} in {path.absolute().parent}; check the path.")
    ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)
    if ending is None:
        raise ValueError(f"{source} must end in one of {', '.join(ENDINGS)}; convert it, or rename it if it is one.")
    if path.stat().st_size == 0:
        raise ValueError(f"{source} is empty; expected column names and rows.")
    return ending


def _header(source: str) -> tuple[list[str], str]:
    """Column names of a CSV file and its delimiter, the one that gives the most of them."""
    opened = gzip.open if source.lower().endswith(".gz") else open
    headers = {}
    try:
        for delimiter in DELIMITERS:
            with opened(source, "rt", encoding="utf-8-sig", newline="") as lines:
                headers[delimiter] = next(csv.reader(lines, delimiter=delimiter), None)
    except UnicodeDecodeError:
        with open(source, "rb") as start:
            zipped = start.read(2) == b"\x1f\x8b"
        cure = "looks gzipped; rename it to end in .csv.gz" if zipped else "is not UTF-8 text; save it as CSV in UTF-8"
        raise ValueError(f"{source} {cure}.") from None
    except gzip.BadGzipFile:
        raise ValueError(f"{source} is not gzipped; rename it to end in {_ending(source)[:-3]}.") from None
    except (csv.Error, EOFError, zlib.error) as error:
        raise ValueError(_unreadable(source, str(error))) from None
    names, delimiter = max(((names or [], key) for key, names in headers.items()), key=lambda pair: len(pair[0]))
    if headers[","] is None:
        raise ValueError(f"{source} is empty; expected column names and rows.")
    if not any(name.strip() for name in names):
        raise ValueError(f"{source} begins with a blank line; expected the column names there.")
    return [name.strip() for name in names], delimiter


def _unreadable(source: str, reason: str) -> str:
    """One line about a damaged file: what DuckDB says before it lists its options."""
    facts = reason.split("Possible")[0].split("This can happen")[0].split("  file =")[0]
    kind = "Parquet" if source.lower().endswith(".parquet") else "CSV"
    cure = "write it again" if kind == "Parquet" else "check its quotes, line ends and fields a line"
    return f"{source} cannot be read as {kind} ({' '.join(facts.split()).rstrip('.')[:300]}); {cure}."


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


def _numbers(connection: Connection, source: str, name: str, key: str, kind: str) -> str:
    """SQL for an outcome as doubles; an error where it holds anything else."""
    if kind not in (*NUMBERS, "VARCHAR"):
        raise ValueError(f"{source}: the outcome {name!r} must hold numbers, is of type {kind}; choose another column.")
    number = _double(key, kind)
    wrong = _first(connection, key, f"{number} IS NULL")
    if wrong and _is_truth(connection, key):
        return f"CAST(CAST({key} AS BOOLEAN) AS DOUBLE) AS {key}"
    if wrong:
        raise ValueError(not_a_number(source, name, *wrong))
    _refuse_rounding(connection, source, name, key, kind)
    return f"{number} AS {key}"


def _refuse_rounding(connection: Connection, source: str, name: str, key: str, kind: str) -> None:
    """An error where a column has a whole number that a double would round."""
    if kind not in ("BIGINT", "UBIGINT", "HUGEINT", "UHUGEINT", "DECIMAL", "VARCHAR"):
        return
    number, written = _double(key, kind), f"CAST({key} AS VARCHAR)"
    rounded = f"coalesce(try_cast({number} AS HUGEINT) <> try_cast({key} AS HUGEINT), true)"  # or beyond that type too
    whole = f"regexp_full_match({written}, '[+-]?[0-9]+')"
    inexact = _first(connection, key, f"abs({number}) >= {EXACT} AND {whole} AND {rounded}")
    if inexact:
        raise ValueError(
            f"{source}: column {name!r} has integers beyond 2^53, which doubles cannot hold exactly, such as "
            f"{inexact[0]} in data row {inexact[1]}; subtract a constant first."
        )


def _group(connection: Connection, kind: str, loose: bool, key: str) -> str:
    integer = kind in INTEGERS
    if loose:
        whole = f"CAST(try_cast({key} AS BIGINT) AS VARCHAR) = {key}"  # 007 is text, or it would be one group with 7
        integer = connection.execute(f"SELECT coalesce(bool_and(coalesce({whole}, {key} IS NULL)), true) FROM observed")
        integer = integer.fetchall() == [(True,)]
    if kind in ("FLOAT", "DOUBLE"):
        return f"CASE WHEN isnan({key}) THEN NULL ELSE CAST({key} AS VARCHAR) END AS labels"
    return f"CAST({key} AS {'BIGINT' if integer else 'VARCHAR'}) AS labels"


def _covariate(connection: Connection, source: str, name: str, key: str, kind: str, loose: bool) -> str:
    if kind == "BOOLEAN":
        return f"upper(CAST({key} AS VARCHAR)) AS {key}"
    if kind in NUMBERS or (loose and _is_numeric(connection, source, name, key)):
        _refuse_rounding(connection, source, name, key, kind)
        return f"{_double(key, kind)} AS {key}"
    if kind not in ("VARCHAR", "ENUM"):
        raise ValueError(
            f"{source}: the covariate {name!r} must hold numbers, text or booleans, is of type {kind}; "
            f"convert it to a number or to text."
        )
    if _is_truth(connection, key):
        return f"upper(CAST({key} AS VARCHAR)) AS {key}"
    return f"CAST({key} AS VARCHAR) AS {key}"


def _is_truth(connection: Connection, key: str) -> bool:
    """Whether text is all true and false."""
    truths = f"SELECT bool_and(lower(CAST({key} AS VARCHAR)) IN ('true', 'false')) FROM observed"
    return bool(connection.execute(truths).fetchall() == [(True,)])


def _is_numeric(connection: Connection, source: str, name: str, key: str) -> bool:
    """Whether text is all numbers; an error where most of it is, for then the rest are slips rather than levels."""
    number = _double(key, "VARCHAR")
    ((present, numeric),) = connection.execute(f"SELECT count({key}), count({number}) FROM observed").fetchall()
    if 2 * numeric <= present or numeric == present:
        return numeric == present
    value, row = _first(connection, key, f"{number} IS NULL") or ("", 0)
    raise ValueError(
        f"{source}: the covariate {name!r} is neither numeric nor categorical: {numeric} of its {present} values are "
        f"numbers, the first that is not is {value!r} in data row {row}; correct it, or name the levels of a category "
        f"by words."
    )


def _first(connection: Connection, key: str, condition: str) -> tuple[str, int] | None:
    """The first value for which a condition holds, and its row, from 1."""
    query = f"SELECT {key}, rowid + 1 FROM observed WHERE {key} IS NOT NULL AND {condition} ORDER BY rowid LIMIT 1"
    found = connection.execute(query).fetchall()
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
    with _opened(source) as (connection, relation, names):
        loose = _ending(source) != ".parquet"
        wanted = [*labels, *numeric]
        for name in wanted:
            check_name(source, names, name)
        fields = [_field(relation.columns[names.index(name)], loose) for name in wanted]
        relation.project(", ".join(f"{field} AS k{i}" for i, field in enumerate(fields))).create("observed")
        types = [str(kind).partition("(")[0] for kind in connection.table("observed").types]
        if connection.execute("SELECT count(*) FROM observed").fetchall() == [(0,)]:
            raise ValueError(f"{source} has column names but no rows; a fit needs at least two groups and three rows.")
        parts = []
        for i, name in enumerate(wanted):
            key = f"k{i}"
            if i == 0:
                parts.append(_group(connection, types[0], loose, key))
            elif i < len(labels):
                parts.append(_covariate(connection, source, name, key, types[i], loose))
            else:
                parts.append(_numbers(connection, source, name, key, types[i]))
        arrays = connection.execute(f"SELECT {', '.join(parts)} FROM observed").fetchnumpy().values()
    return dict(zip(wanted, map(_unmasked, arrays), strict=True))
