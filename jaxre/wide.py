"""Files of many datasets: wide and long tables and matrices in, a table with a row for each dataset out."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import os
import pathlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxre import tables
from jaxre.design import Design, design, listing

OUTPUTS = (".parquet", ".csv")


@dataclasses.dataclass(frozen=True, eq=False)
class Wide:
    """A matrix of outcomes over one design."""

    values: Any
    """(n, datasets) [y], NaN where missing; memory-mapped where the file allows it."""
    names: list[str]
    """(datasets) names of the outcomes."""
    groups: np.ndarray
    """(n,) labels."""
    covariates: np.ndarray | None
    """(n, p - 1) [x]."""
    coefficients: tuple[str, ...]
    """(p - 1) names of the columns of covariates."""


def read_wide(path: str, patterns: Sequence[str], group: str, covariates: Sequence[str] = ()) -> Wide:
    """Outcomes whose names match a pattern, with the group and the covariates, of a CSV or Parquet file.

    Args:
        path: as for `tables.read`.
        patterns: shell patterns such as "gene_*".
        group: name of the column of group labels.
        covariates: names of the covariates' columns.

    Returns:
        Wide, the outcomes in the order of the file.

    Errors:
        those of `tables.read`; ValueError for a pattern that no column matches, with the columns that there are.

    Source: definition.

    Example:
        >>> import pathlib, tempfile
        >>> from jaxre import wide
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "genes.csv"
        ...     _ = path.write_text("sample,gene_a,gene_b\\ns1,1,2\\ns1,2,NA\\ns2,4,6\\ns2,5,7\\n")
        ...     genes = wide.read_wide(str(path), ["gene_*"], "sample")
        >>> print(genes.names, genes.values[:, 1], genes.groups)
        ['gene_a', 'gene_b'] [ 2. nan  6.  7.] ['s1' 's1' 's2' 's2']
    """
    if not patterns:
        raise ValueError(f"{path}: no outcome is named; --outcomes takes names and patterns such as 'gene_*'.")
    names = tables.column_names(path)
    taken = {group, *covariates}
    repeated = [name for name, times in Counter((group, *covariates)).items() if times > 1]
    repeated += [pattern for pattern in patterns if pattern in taken]
    if repeated:
        raise ValueError(
            f"{path}: column {repeated[0]!r} is used twice (outcomes {listing(patterns)}, group {group!r}, covariates "
            f"{listing(covariates) or 'none'}); each column can play one part."
        )
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names if name not in taken):
            raise ValueError(f"{path}: no outcome matches {pattern!r}; the columns are {listing(names)}.")
    chosen = [
        name for name in names if name not in taken and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]
    columns = tables.columns(path, [group, *covariates], numeric=chosen)
    rest = {name: columns[name] for name in (group, *covariates)}
    probe = "".join(names) + "_"  # a name that no column has: the design is of the group and the covariates alone
    made = design({**rest, probe: np.zeros(len(columns[group]))}, probe, group, covariates, source=path)
    values = np.column_stack([columns[name] for name in chosen])
    return Wide(values, chosen, made.groups, made.covariates, made.coefficients)


def read_matrix(path: str, group: str) -> Wide:
    """A `.npy` matrix (n, datasets), memory-mapped, with the labels of its rows from a `.npy` or a text file.

    Args:
        path: file of the matrix.
        group: file of the labels: a `.npy` array (n,), or UTF-8 text with one label a line, where an
            empty line, NA, NaN, nan, NULL and null are missing.

    Returns:
        Wide; the datasets are named by their place, from 0.

    Errors:
        FileNotFoundError for a path without a file; ValueError for a matrix of other than two dimensions or a number of
        labels that does not fit.

    Source: definition.

    Example:
        >>> import pathlib, tempfile, numpy as np
        >>> from jaxre import wide
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     matrix, labels = pathlib.Path(folder) / "y.npy", pathlib.Path(folder) / "labels.txt"
        ...     np.save(matrix, np.ones((3, 5)))
        ...     _ = labels.write_text("a\\na\\nb\\n")
        ...     print(wide.read_matrix(str(matrix), str(labels)).values.shape)
        (3, 5)
    """
    for name in (path, group):
        if not pathlib.Path(name).is_file():
            raise FileNotFoundError(f"there is no file {name!r}; check the path.")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        labels = (
            np.load(group, allow_pickle=False)
            if group.endswith(".npy")
            else _lines(pathlib.Path(group).read_text(encoding="utf-8-sig"))
        )
    except EOFError:
        raise ValueError(f"{path} or {group} is empty; expected a NumPy array, or labels a line each.") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} must be a NumPy array of numbers, {group} one of labels or UTF-8 text: {str(error).rstrip('.')}."
        ) from None
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{path} must hold real numbers, has type {values.dtype}; convert it first.")
    if values.ndim != 2:
        raise ValueError(f"{path} must hold a matrix (observations, datasets), has shape {values.shape}.")
    if labels.shape != (len(values),):
        raise ValueError(f"{group} must have one label for each of the {len(values)} rows, has shape {labels.shape}.")
    return Wide(values, [str(i) for i in range(values.shape[1])], labels, None, ())


def _lines(text: str) -> np.ndarray:
    """A label a line, None where it is missing, as in a column of a CSV file."""
    labels = [line.strip() for line in text.splitlines()]
    return np.array([None if label in tables.MISSING else label for label in labels], object)


def read_long(
    path: str, outcome: str, group: str, dataset: str, covariates: Sequence[str] = ()
) -> tuple[Design, np.ndarray]:
    """Outcome, group and covariates of a long table, and the labels of its datasets; as `tables.read` otherwise.

    Args:
        path: as for `tables.read`.
        outcome: name of the outcome's column.
        group: name of the column of group labels.
        dataset: name of the column of dataset labels.
        covariates: names of the covariates' columns.

    Returns:
        Design, and (n,) labels of the datasets.

    Errors:
        those of `tables.read`.

    Source: definition.

    Example:
        >>> import pathlib, tempfile
        >>> from jaxre import wide
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "long.csv"
        ...     _ = path.write_text("d,g,y\\nx,1,1\\nx,1,2\\nx,2,4\\nz,1,5\\n")
        ...     made, labels = wide.read_long(str(path), "y", "g", "d")
        >>> print(made.outcome, labels)
        [1. 2. 4. 5.] ['x' 'x' 'x' 'z']
    """
    made = tables.read(path, outcome, group, covariates)
    if dataset in (outcome, group, *covariates):
        raise ValueError(f"column {dataset!r} is used twice; the datasets need a column of their own.")
    return made, tables.read(path, outcome, dataset).groups


def check_output(path: str) -> None:
    """An error for a table that could not be written, before the work is done."""
    target = pathlib.Path(path)
    if target.suffix.lower() not in OUTPUTS:
        raise ValueError(f"{path} must end in {' or '.join(OUTPUTS)}.")
    folder = target.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; make it first.")
    if target.is_dir():
        raise ValueError(f"{path} is a folder; name a file to write.")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written to; choose another folder.")


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """A temporary name beside `path` that becomes `path` once all is written; nothing is left behind otherwise."""
    check_output(path)
    target = pathlib.Path(path)
    handle, name = tempfile.mkstemp(suffix=target.suffix, prefix=f".{target.stem}.", dir=target.absolute().parent)
    os.close(handle)
    try:
        yield name
        os.replace(name, path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise


def write(columns: Mapping[str, np.ndarray], path: str) -> None:
    """A table as Parquet or CSV, by the ending of its name, complete or not at all.

    Args:
        columns: (n,) each.
        path: file to write; one that is there is replaced.

    Returns:
        nothing.

    Errors:
        ValueError for another ending or a folder, FileNotFoundError for a folder that is not there, PermissionError for
        one that cannot be written to.

    Source: definition.

    Example:
        >>> import pathlib, tempfile, numpy as np
        >>> from jaxre import wide
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "fits.csv"
        ...     wide.write({"dataset": np.array(["a", "b"], object), "icc": np.array([0.25, np.nan])}, str(path))
        ...     print(path.read_text())
        dataset,icc
        a,0.25
        b,
        <BLANKLINE>
    """
    with replacing(path) as name:
        _copy(columns, name)


def _copy(table: Mapping[str, np.ndarray], path: str) -> None:
    """The table in a file of that kind; missing numbers are empty in CSV."""
    import duckdb

    with contextlib.closing(duckdb.connect(":memory:")) as connection:
        connection.register("given", {f"k{i}": column for i, column in enumerate(table.values())})
        quoted = ['"' + name.replace('"', '""') + '"' for name in table]
        number = lambda i, column: f"nullif(k{i}, 'NaN'::DOUBLE)" if column.dtype.kind == "f" else f"k{i}"
        fields = ", ".join(
            f"{number(i, column)} AS {name}"
            for i, (name, column) in enumerate(zip(quoted, table.values(), strict=True))
        )
        kind = "PARQUET" if path.lower().endswith(".parquet") else "CSV, HEADER"
        target = path.replace("'", "''")
        connection.execute(f"COPY (SELECT {fields} FROM given) TO '{target}' (FORMAT {kind})")
