"""Files opened as tables: CSV, plain or gzipped, and Parquet, by DuckDB; what is wrong with one in a line."""

from __future__ import annotations

import contextlib
import csv
import glob
import gzip
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

DELIMITERS = (",", ";", "\t", "|")
CSV_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
ENDINGS = (*CSV_ENDINGS, ".parquet")

Connection = Any  # a duckdb.DuckDBPyConnection: duckdb is optional, and imported when a file is read


class Opened(NamedTuple):
    """A file that can be asked for its columns."""

    source: str
    """its path."""
    connection: Connection
    """to a database in memory."""
    relation: Any
    """the file as a table of it."""
    names: list[str]
    """of the columns, as the file has them."""
    loose: bool
    """whether all is text, spaces and missing values as they were written."""


@contextlib.contextmanager
def opened(source: str) -> Iterator[Opened]:
    """An open file; what DuckDB says becomes an error of one line."""
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
                yield Opened(source, connection, relation, list(relation.columns), loose=False)
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
            yield Opened(source, connection, relation, names, loose=True)
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
