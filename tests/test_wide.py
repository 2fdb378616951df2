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
    "used twice": (
        ["long.csv", "--group", "sample", "--dataset", "sample", "--outcome", "y"],
        "'sample' is used twice",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(files, case, capsys, monkeypatch):
    folder, _, _ = files
    monkeypatch.chdir(folder)
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
