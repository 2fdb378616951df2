"""`jaxre fit-many`: wide and long tables and matrices in, a table with a row for each dataset out."""

import csv
import pathlib

import designs
import numpy as np
import pytest

import jaxre
from jaxre import wide
from jaxre.command_line import main


@pytest.fixture
def files(tmp_path):
    """One dataset of four genes as a wide table, a long one and a matrix."""
    rng = np.random.default_rng(0)
    groups = designs.labels([5] * 6)
    values = np.round(rng.normal(size=(30, 4)) + rng.normal(size=(6, 4))[groups], 6)
    samples = [f"s{g}" for g in groups]
    with open(tmp_path / "wide.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["sample", "sex", *(f"gene_{i}" for i in range(4)), "note"])
        for i in range(30):
            table.writerow([samples[i], "MF"[i % 2], *(repr(v) for v in values[i].tolist()), "x"])
    with open(tmp_path / "long.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["gene", "sample", "y"])
        table.writerows([f"gene_{k}", samples[i], values[i, k]] for k in range(4) for i in range(30))
    np.save(tmp_path / "matrix.npy", values)
    (tmp_path / "labels.txt").write_text("\n".join(samples) + "\n")
    return tmp_path, values, groups


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("form", ["wide", "long", "matrix"])
def test_every_form_gives_the_same_table(files, form, capsys):
    folder, values, groups = files
    arguments = {
        "wide": ["wide.csv", "--group", "sample", "--outcomes", "gene_*"],
        "long": ["long.csv", "--group", "sample", "--dataset", "gene", "--outcome", "y"],
        "matrix": ["matrix.npy", "--group", str(folder / "labels.txt")],
    }[form]
    out = folder / "fits.csv"
    assert main(["fit-many", str(folder / arguments[0]), *arguments[1:], "--out", str(out)]) == 0
    assert "4 datasets" in capsys.readouterr().out
    rows, fits = rows_of(out), jaxre.fit_many(values, groups)
    assert [row["dataset"] for row in rows] == [str(i) if form == "matrix" else f"gene_{i}" for i in range(4)]
    for row, between, se in zip(rows, fits.between, fits.beta_se[:, 0], strict=True):
        assert float(row["between"]) == pytest.approx(between, rel=1e-12)
        assert float(row["beta_se[(Intercept)]"]) == pytest.approx(se, rel=1e-12)
        assert row["rows"] == "30"
        assert row["status"] in ("interior", "boundary")
        assert row["certified"] == "true"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["wide.csv", "long.csv", "matrix.npy", "labels.txt", "fits.csv"]
    )


def test_parquet_and_categorical_covariates(files):
    import duckdb

    folder, _, _ = files
    out = str(folder / "fits.parquet")
    options = ["--group", "sample", "--outcomes", "gene_1,gene_3", "--covariates", "sex", "--out", out]
    assert main(["fit-many", str(folder / "wide.csv"), *options]) == 0
    found = duckdb.sql(f"SELECT * FROM '{out}'").fetchnumpy()
    assert found["dataset"].tolist() == ["gene_1", "gene_3"]
    assert {"beta[sexM]", "beta_se[sexM]", "icc", "log_likelihood"} <= set(found)


def test_inference_as_columns(files):
    folder, values, groups = files
    out = folder / "fits.csv"
    options = ["--group", "sample", "--outcomes", "gene_*", "--inference", "--level", "0.9", "--df", "satterthwaite"]
    assert main(["fit-many", str(folder / "wide.csv"), *options, "--out", str(out)]) == 0
    rows = rows_of(out)
    fits = jaxre.fit_many(values, groups, quantities="inference", level=0.9, df="satterthwaite").inference
    assert "between" in rows[0]
    for name, column in fits.items():
        key = f"{name}[(Intercept)]" if name.startswith("beta") else name
        for row, number in zip(rows, column, strict=True):
            found = row[key] == "true" if name == "profile_settled" else float(row[key])
            assert found == pytest.approx(np.ravel(number)[0], rel=1e-9), name


REFUSED = {
    "pattern": (
        ["wide.csv", "--group", "sample", "--outcomes", "protein_*"],
        "no outcome matches 'protein_*'; the columns",
    ),
    "no form": (["wide.csv", "--group", "sample"], "--outcomes, or --dataset and --outcome"),
    "no outcome": (["long.csv", "--group", "sample", "--dataset", "gene"], "--outcome must be given"),
    "wrong group": (["wide.csv", "--group", "sampel", "--outcomes", "gene_*"], "did you mean 'sample'"),
    "text": (["wide.csv", "--group", "sample", "--outcomes", "note"], "must hold numbers, got 'x' in data row 1"),
    "no file": (["none.csv", "--group", "sample", "--outcomes", "g*"], "there is no file 'none.csv'"),
    "labels": (["matrix.npy", "--group", "wide.csv"], "one label for each of the 30 rows"),
    "outcome and covariate": (
        ["wide.csv", "--group", "sample", "--outcomes", "gene_1,gene_2", "--covariates", "gene_1"],
        "column 'gene_1' is used twice (outcomes 'gene_1', 'gene_2', group 'sample', covariates 'gene_1')",
    ),
    "covariate twice": (
        ["wide.csv", "--group", "sample", "--outcomes", "gene_*", "--covariates", "note,note"],
        "column 'note' is used twice (outcomes 'gene_*', group 'sample', covariates 'note', 'note')",
    ),
    "empty matrix": (["empty.npy", "--group", "wide.csv"], "empty.npy or wide.csv is empty"),
    "used twice": (
        ["long.csv", "--group", "sample", "--dataset", "sample", "--outcome", "y"],
        "'sample' is used twice",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(files, case, capsys, monkeypatch):
    folder, _, _ = files
    monkeypatch.chdir(folder)
    (folder / "empty.npy").touch()
    arguments, message = REFUSED[case]
    assert main(["fit-many", *arguments, "--out", "fits.csv"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "fits.csv").exists()


@pytest.mark.parametrize(
    ("out", "message"), [("fits.txt", "must end in .parquet or .csv"), ("no/fits.csv", "no folder")]
)
def test_an_output_that_cannot_be_is_said_first(files, out, message, capsys, monkeypatch):
    monkeypatch.chdir(files[0])
    assert main(["fit-many", "wide.csv", "--group", "sample", "--outcomes", "gene_*", "--out", out]) == 2
    assert message in capsys.readouterr().err


def interrupted(path):
    with wide.replacing(path) as name:
        pathlib.Path(name).write_text("half")
        raise KeyboardInterrupt


def test_an_interrupted_run_leaves_what_was_there(tmp_path):
    path = tmp_path / "fits.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        interrupted(str(path))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_labels_of_a_text_file(tmp_path):
    """As in a column of a CSV file: a byte-order mark and spaces do not count, and an empty line is missing."""
    matrix, labels = tmp_path / "y.npy", tmp_path / "labels.txt"
    np.save(matrix, np.ones((6, 2)))
    labels.write_text("\ufeffa\na \n b\n\nNA\nb\n", encoding="utf-8")
    assert wide.read_matrix(str(matrix), str(labels)).groups.tolist() == ["a", "a", "b", None, None, "b"]


@pytest.mark.parametrize("header", ["y,g,y", "g,g,y", "y,g,x,x"])
def test_columns_that_are_there_twice(tmp_path, header, capsys):
    path = tmp_path / "twice.csv"
    path.write_text(header + "\n" + "1,2,3,4\n"[: 2 * len(header.split(",")) - 1] + "\n")
    covariates = ["--covariates", "x"] if "x" in header else []
    out = str(tmp_path / "o.csv")
    assert main(["fit-many", str(path), "--group", "g", "--outcomes", "y", *covariates, "--out", out]) == 2
    assert "2 columns named" in capsys.readouterr().err


@pytest.mark.parametrize(("dtype", "name"), [(complex, "complex128"), ("U3", "<U3")])
def test_a_matrix_that_is_not_of_numbers(tmp_path, dtype, name, capsys):
    path, labels = tmp_path / "y.npy", tmp_path / "labels.txt"
    np.save(path, np.ones((3, 2), dtype))
    labels.write_text("a\na\nb\n")
    assert main(["fit-many", str(path), "--group", str(labels), "--out", str(tmp_path / "o.csv")]) == 2
    assert f"must hold real numbers, has type {name}" in capsys.readouterr().err


def test_an_output_that_is_a_folder(tmp_path, capsys):
    out = tmp_path / "o.csv"
    out.mkdir()
    assert main(["fit-many", "y.csv", "--group", "g", "--outcomes", "y", "--out", str(out)]) == 2
    assert "is a folder; name a file" in capsys.readouterr().err
