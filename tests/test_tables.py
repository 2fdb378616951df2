"""Files into columns: the same table from CSV, gzip and Parquet, and an error in one line for every bad file."""

import gzip
import pathlib
import sys
from collections.abc import Callable

import duckdb
import numpy as np
import pandas as pd
import pytest

import jaxre
from jaxre import tables

Write = Callable[..., pathlib.Path]

RATS = """\
weight,litter,sex,dose,age,weaned,note
6.6,1,Male,low,1.5,true,a
7.4,1,Female,high,2,false,b
NA,2,Male,low,3e0,true,c
6.1,2,,high,.5,true,d
5.9,3,Female,control,NaN,FALSE,e
6.3,3,Male,control,1,True,f
6.25,4,Male,low,4,false,g
"""


@pytest.fixture
def write(tmp_path: pathlib.Path) -> Write:
    def to(text: str | bytes, name: str = "rats.csv") -> pathlib.Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return to


def parquet(path: pathlib.Path, columns: str, rows: str) -> pathlib.Path:
    """A Parquet file of SQL values."""
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT * FROM (VALUES {rows}) AS t({columns})) TO '{path}'").fetchall()
    return path


def test_columns_of_a_csv_file(write: Write) -> None:
    table = tables.read(write(RATS), "weight", "litter", ["sex", "age", "weaned", "dose"])
    np.testing.assert_array_equal(table.outcome, [6.6, 7.4, np.nan, 6.1, 5.9, 6.3, 6.25])
    assert table.groups.dtype == np.int64
    assert table.groups.tolist() == [1, 1, 2, 2, 3, 3, 4]
    assert table.coefficients == ("sexMale", "age", "weanedTRUE", "dosehigh", "doselow")
    nan = np.nan
    np.testing.assert_array_equal(
        table.covariates,
        [
            [1, 1.5, 1, 0, 1],
            [0, 2, 0, 1, 0],
            [1, 3, 1, 0, 1],
            [nan, 0.5, 1, 1, 0],
            [0, nan, 0, 0, 0],
            [1, 1, 1, 0, 0],
            [1, 4, 0, 0, 1],
        ],
    )


def test_fit_reports_the_rows_that_it_dropped(write: Write) -> None:
    table = tables.read(write(RATS), "weight", "litter", ["sex", "age"])
    assert np.isnan(table.outcome).sum() == 1
    values = (
        "y,g,x\n" + "".join(f"{i * i % 7},{i % 3},{'' if i == 4 else i}\n" for i in range(12)) + "NA,1,2\n3,NULL,1\n"
    )
    table = tables.read(write(values), "y", "g", ["x"])
    assert jaxre.fit(table.outcome, table.groups, table.covariates).dropped == 3


def test_csv_gzip_and_parquet_agree(write: Write, rng: np.random.Generator) -> None:
    """In 20 MB, which DuckDB reads in several parts at once: the order of the rows must survive."""
    n = 20_000
    frame = pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "g": rng.integers(0, 1000, n),
            "name": np.char.add("g", rng.integers(0, 1000, n).astype(str)),
            "x": rng.normal(size=n) * 10.0 ** rng.integers(-300, 300, n),
            "sex": np.where(rng.random(n) < 0.5, "F", "M"),
            "old": rng.random(n) < 0.5,
            "padding": "x" * 1000,
        }
    )
    frame.loc[rng.integers(0, n, 100), "y"] = np.nan
    plain = write(frame.to_csv(index=False))
    zipped = write(gzip.compress(plain.read_bytes(), compresslevel=1), "rats.csv.gz")
    binary = plain.with_suffix(".parquet")
    frame.to_parquet(binary)
    expected = np.stack([frame["x"], frame["sex"] == "M", frame["old"]], axis=1)
    for path in (plain, zipped, binary):
        for group in ("g", "name"):
            table = tables.read(path, "y", group, ["x", "sex", "old"])
            np.testing.assert_array_equal(table.outcome, frame["y"])
            assert table.groups.tolist() == frame[group].tolist()
            np.testing.assert_array_equal(table.covariates, expected)
            assert table.coefficients == ("x", "sexM", "oldTRUE")
        np.testing.assert_array_equal(tables.read(path, "old", "g").outcome, frame["old"])


def test_truth_as_text(tmp_path: pathlib.Path) -> None:
    """In any case, with missing values; beside a number it is none."""
    frame = pd.DataFrame({"y": [1.5, 2, 4, 5], "g": list("aabb"), "t": ["true", None, "FALSE", "True"]})
    plain, binary = tmp_path / "truth.csv", tmp_path / "truth.parquet"
    frame.to_csv(plain, index=False)
    frame.to_parquet(binary)
    for path in (plain, binary):
        np.testing.assert_array_equal(tables.read(path, "t", "g").outcome, [1, np.nan, 0, 1])
        np.testing.assert_array_equal(tables.columns(path, ["g"], ["t"])["t"], [1, np.nan, 0, 1])  # of a wide file
        table = tables.read(path, "y", "g", ["t"])
        assert table.coefficients == ("tTRUE",)
        np.testing.assert_array_equal(table.covariates[[0, 2, 3], 0], [1, 0, 1])
    plain.write_text("y,g\ntrue,a\n1,a\nfalse,b\n")
    with pytest.raises(ValueError, match="must hold numbers, got 'true' in data row 1"):
        tables.read(plain, "y", "g")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends(write: Write, delimiter: str, newline: str) -> None:
    lines = (" y , g", " 1.5 , a ", '"2","b, ""c"""', "NULL,a")
    table = tables.read(write(newline.join(lines).replace(",", delimiter)), "y", "g")
    np.testing.assert_array_equal(table.outcome, [1.5, 2, np.nan])
    assert table.groups.tolist() == ["a", 'b, "c"'.replace(",", delimiter), "a"]


@pytest.mark.parametrize("missing", ["", "NA", "NaN", "nan", "NULL", "null", " ", " NA "])
def test_missing_values_of_a_csv_file(write: Write, missing: str) -> None:
    rows = (
        f"{missing},a,1,u",
        f"1,{missing},2,v",
        f"2,b,{missing},u",
        f"3,b,4,{missing}",
        "4,c,5,v",
        "5,c,6,u",
        "6,d,7,v",
    )
    table = tables.read(write("\n".join(["y,g,x,s", *rows])), "y", "g", ["x", "s"])
    assert np.flatnonzero(np.isnan(table.outcome)).tolist() == [0]
    assert table.groups.tolist() == ["a", None, "b", "b", "c", "c", "d"]
    assert table.covariates is not None
    assert np.argwhere(np.isnan(table.covariates)).tolist() == [[2, 0], [3, 1]]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["3", "-1", "3"], [3, -1, 3]),
        (["3", "NA", "3"], [3, None, 3]),
        (["007", "7", "07"], ["007", "7", "07"]),
        (["1.0", "2", "1"], ["1.0", "2", "1"]),
        (["99999999999999999999", "1", "1"], ["99999999999999999999", "1", "1"]),
        (["A1", "2", "3"], ["A1", "2", "3"]),
        (["true", "false", "true"], ["true", "false", "true"]),
        (["1_0", "10", "10"], ["1_0", "10", "10"]),
    ],
)
def test_group_labels_are_integers_or_text(write: Write, labels: list[str], expected: list[object]) -> None:
    text = "y,g\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels))
    assert tables.read(write(text), "y", "g").groups.tolist() == expected


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_integers_that_doubles_would_round_are_refused(ending: str, tmp_path: pathlib.Path) -> None:
    """They would all be called one number; those that doubles hold are taken, however large."""
    path = tmp_path / f"large.{ending}"
    columns = "(9007199254740992 + i)::BIGINT AS y, i % 3 AS g, (9007199254740992 + 2 * i)::BIGINT AS even, i AS x"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT {columns} FROM range(12) r(i)) TO '{path}'").fetchall()
    said = "'y' has integers beyond 2\\^53.* such as 9007199254740993 in data row 2; subtract"
    for refused in (
        lambda: tables.read(path, "y", "g"),
        lambda: tables.read(path, "x", "g", ["y"]),
        lambda: tables.columns(path, ["g"], ["x", "y"]),
    ):
        with pytest.raises(ValueError, match=said):
            refused()
    path = tmp_path / f"larger.{ending}"
    kind = "VARCHAR" if ending == "csv" else "DECIMAL(38, 0)"
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT '{2**125 + 1}'::{kind} AS y, i AS g FROM range(9) r(i)) TO '{path}'"
        ).fetchall()
    with pytest.raises(ValueError, match=r"beyond 2\^53.* such as \S*42535295865117307932921825928971026433"):
        tables.read(path, "y", "g")
    path = tmp_path / f"large.{ending}"
    assert tables.read(path, "even", "g").outcome.astype(np.int64).tolist() == [2**53 + 2 * i for i in range(12)]


def test_types_of_a_parquet_file(tmp_path: pathlib.Path) -> None:
    path = parquet(
        tmp_path / "typed.parquet",
        "y, whole, real, day, code, flag, price, missing",
        "(1::FLOAT, 1::UTINYINT, 1.5::DOUBLE, DATE '2020-01-02', '1', true, 1.25::DECIMAL(5, 2), NULL::DOUBLE),"
        "(NULL, 2, 'nan', NULL, '2', false, NULL, NULL), (2.5, NULL, 2, DATE '2020-01-03', '1', NULL, 7.5, NULL),"
        "(3.5, 2, 1.5, DATE '2020-01-02', '2', true, 1.5, NULL), (4.5, 2, 2, DATE '2020-01-02', '1', false, 2.5, NULL)",
    )
    assert tables.read(path, "y", "whole").groups.tolist() == [1, 2, None, 2, 2]
    assert tables.read(path, "y", "real").groups.tolist() == ["1.5", None, "2.0", "1.5", "2.0"]
    assert tables.read(path, "y", "day").groups.tolist()[:3] == ["2020-01-02", None, "2020-01-03"]
    assert tables.read(path, "y", "code").groups.tolist() == ["1", "2", "1", "2", "1"]
    table = tables.read(path, "price", "whole", ["code", "flag"])  # text of digits in a typed file is categorical
    np.testing.assert_array_equal(table.outcome, [1.25, np.nan, 7.5, 1.5, 2.5])
    assert table.coefficients == ("code2", "flagTRUE")
    np.testing.assert_array_equal(table.covariates, [[0, 1], [1, 0], [0, np.nan], [1, 1], [0, 0]])
    with pytest.raises(
        ValueError, match="covariate 'day' must hold numbers, text or booleans, is of type DATE; convert"
    ):
        tables.read(path, "y", "whole", ["day"])
    with pytest.raises(ValueError, match="outcome 'day' must hold numbers, is of type DATE; choose another column"):
        tables.read(path, "day", "whole")
    with pytest.raises(ValueError, match=r"no row has a value in every column .* 'missing' 5"):
        tables.read(path, "missing", "whole")


def test_names_cannot_break_out(write: Write, tmp_path: pathlib.Path) -> None:
    """Quotes, wildcards, statements and Hive folders in names are names."""
    folder = tmp_path / "year=2020" / "it's; DROP TABLE observed --"
    folder.mkdir(parents=True)
    for name in ("a[1]*?.csv", "';--.csv", '".csv'):
        path = folder / name
        path.write_text('"y""; DROP TABLE observed; --",g\'\n1,2\n3,4\n')
        assert tables.read(path, 'y"; DROP TABLE observed; --', "g'").outcome.tolist() == [1, 3]
        with pytest.raises(ValueError, match="no column 'year'"):
            tables.read(path, "year", "g'")
    frame = pd.DataFrame({'y"; --': [1.0, 3.0], "g'[*]": [2, 4]})
    frame.to_parquet(folder / "a[1]*?.parquet")
    assert tables.read(folder / "a[1]*?.parquet", 'y"; --', "g'[*]").groups.tolist() == [2, 4]


def test_column_names(write: Write) -> None:
    assert tables.column_names(write("y, g ,y\n1,2,3\n")) == ["y", "g", "y"]
    assert tables.column_names(write("\ufeffy\n1\n")) == ["y"]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "rats.csv", r"rats.csv is empty; expected column names and rows\.$"),
        ("", "rats.parquet", "rats.parquet is empty"),
        (gzip.compress(b"", mtime=0), "rats.csv.gz", "rats.csv.gz is empty"),
        ("y,g\n", "rats.csv", "rats.csv has column names but no rows; a fit needs at least two groups and three rows"),
        ("\n1,2\n", "rats.csv", "begins with a blank line; expected the column names there"),
        ("y,g\n1,2\n", "rats.xlsx", r"rats.xlsx must end in one of .csv, .csv.gz, .tsv, .tsv.gz, .parquet; convert it"),
        ("y,g\n1,2\n3\n", "rats.csv", "cannot be read as CSV .*Line: 3 .*Expected Number of Columns: 2 Found: 1"),
        ("y,g\n1,2\n3,4,5\n", "rats.csv", "cannot be read as CSV .*Expected Number of Columns: 2 Found: 3"),
        ('y,g\n1,"2\n3,4\n', "rats.csv", r"cannot be read as CSV .*unterminated quote.*; check its quotes"),
        (b"y,g\xe9\n1,2\n", "rats.csv", "rats.csv is not UTF-8 text; save it as CSV in UTF-8"),
        (b"y,g\n1,\xe9\n", "rats.csv", "rats.csv is not UTF-8 text"),
        (b"y,g\n" + b"1,2\n" * 9999 + b"1,\xe9\n", "rats.csv", "cannot be read as CSV .*not utf-8 encoded"),
        ("y,g\n1,2\n", "rats.csv.gz", "is not gzipped; rename it to end in .csv."),
        (gzip.compress(b"y,g\n" + b"1,2\n" * 9, mtime=0)[:-12], "rats.csv.gz", "cannot be read as CSV"),
        ("PAR1 no more", "rats.parquet", r"rats.parquet cannot be read as Parquet \(.*\); write it again"),
        ("y,g,g\n1,2,3\n", "rats.csv", "rats.csv has 2 columns named 'g'; rename them"),
        ("y,h\n1,2\n", "rats.csv", r"has no column 'g'. Its columns are 'y', 'h'\."),
        ("y,g\n1,2\nNA,2\n1.5x,2\n", "rats.csv", "outcome 'y' must hold numbers, got '1.5x' in data row 3; correct it"),
        ("y;g\n1;2\n1,5;2\n", "rats.csv", "got '1,5' in data row 2"),
        ("y,g\n1,2\n1_000,2\n", "rats.csv", "got '1_000' in data row 2"),
        (
            "y,g\n1,2\n1e999,2\n",
            "rats.csv",
            "'y' must be finite, got 1 infinite or too large for a double, the first in data row 2",
        ),
        ("y,g\n1,2\n-inf,2\n", "rats.csv", "'y' must be finite, got 1 infinite"),
        (
            "y,g\n1,\n2,NA\n",
            "rats.csv",
            r"no row has a value in every column asked for \(missing of 2 rows: 'y' 0, 'g' 2\)",
        ),
    ],
)
def test_bad_files(write: Write, text: str | bytes, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        tables.read(write(text, name), "y", "g")
    assert "\n" not in str(caught.value)


def test_a_covariate_that_is_mostly_numbers(write: Write) -> None:
    path = write("y,g,x\n1,1,3\n2,1,NA\n3,2,4\n4,2,five\n5,3,6\n")
    with pytest.raises(
        ValueError,
        match="'x' is neither numeric nor categorical: 3 of its 4 values are numbers, the first "
        "that is not is 'five' in data row 4; correct it",
    ):
        tables.read(path, "y", "g", ["x"])


def test_a_covariate_of_one_level_and_of_too_many(write: Write) -> None:
    with pytest.raises(ValueError, match="'weaned' is text with the single level 'TRUE' in the 2 complete rows"):
        tables.read(write("y,g,weaned\n1,1,true\n2,1,True\nNA,1,false\n"), "y", "g", ["weaned"])
    with pytest.raises(ValueError, match="'note' is text with too many levels: 6 in 6 complete rows"):
        tables.read(write(RATS), "weight", "litter", ["note"])


def test_a_missing_file_and_a_folder(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"^there is no file 'none.csv' in {tmp_path}; check the path.$"):
        tables.read(tmp_path / "none.csv", "y", "g")
    with pytest.raises(ValueError, match="is a folder; name one file in it"):
        tables.read(tmp_path, "y", "g")


def test_without_duckdb(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ModuleNotFoundError, match=r'needs duckdb: pip install "jaxre\[data\]"$'):
        tables.read(write(RATS), "weight", "litter")
