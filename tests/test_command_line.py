"""The command: what it prints, its numbers, and one line for whatever the user can put right."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from slow import but_for

import jaxre
from jaxre import datasets
from jaxre.command_line import main

Capture = pytest.CaptureFixture[str]


def printed(capsys: Capture, *arguments: str) -> str:
    code = main(arguments)
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


def refused(capsys: Capture, *arguments: str) -> str:
    """The one line of an error."""
    code = main(arguments)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("jaxre: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("jaxre: error: ").rstrip("\n")


def numbers(capsys: Capture, *arguments: str) -> dict[str, Any]:
    def reject(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(printed(capsys, *arguments, "--json"), parse_constant=reject)


@pytest.fixture
def rats(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "rats.csv"
    columns = datasets.load("ratpupweight").columns
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]))
    return str(path)


def test_dyestuff_is_the_summary_that_lme4_users_expect(capsys: Capture) -> None:
    assert printed(capsys, "fit", "dyestuff").splitlines()[:12] == [
        "Linear mixed model fit by REML",
        "Formula: Yield ~ 1 + (1 | Batch)",
        "30 observations in 6 groups of 5",
        "",
        "REML criterion (-2 restricted log-likelihood): 319.6543",
        "AIC 325.6543, BIC 329.8579, conditional AIC 327.0494; R2 0.4185",
        "",
        "Random effects, with profile-likelihood intervals of the standard deviations:",
        " Group     Variance  Std.Dev.   Share    2.5 %   97.5 %",
        " Batch      1764.05   42.0006  0.4185  15.6572  101.066",
        " Residual   2451.25   49.5101  0.5815  38.2301  67.6577",
        "Intraclass correlation: 0.418487; exact 95% interval 0.0838361 to 0.847877",
    ]


def test_dyestuff_in_closed_form(capsys: Capture) -> None:
    found = numbers(capsys, "fit", "Dyestuff")
    assert found["between"] == pytest.approx(1764.05, rel=1e-13)
    assert found["within"] == pytest.approx(2451.25, rel=1e-13)
    assert found["beta"] == pytest.approx([1527.5], rel=1e-14)
    assert found["beta_se"] == pytest.approx([np.sqrt(1764.05 / 6 + 2451.25 / 30)], rel=1e-13)
    assert {key: found[key] for key in ("file", "outcome", "group", "covariates", "method", "n", "groups")} == {
        "file": "Dyestuff",
        "outcome": "Yield",
        "group": "Batch",
        "covariates": [],
        "method": "reml",
        "n": 30,
        "groups": 6,
    }
    assert (found["status"], found["certified"], found["gap"]) == ("interior", True, None)


def test_json_is_the_fit_at_full_precision(capsys: Capture) -> None:
    data = datasets.load("dyestuff")
    fit = jaxre.fit(data.columns["Yield"], data.columns["Batch"], method="ml")
    found = numbers(capsys, "fit", "dyestuff", "--method", "ml")
    assert {key: found[key] for key in fit.to_dict()} == fit.to_dict()
    assert found["inference"] == fit.inference().to_dict()
    tables = {"terms": fit.tidy(), "fit": fit.glance(), "groups": fit.tidy_groups(), "rows": fit.augment()}
    for name, table in tables.items():
        assert list(found["tables"][name]) == list(table)
    assert found["tables"]["groups"]["mean_low"] == tables["groups"]["mean_low"].tolist()
    assert found["tables"]["fit"]["gap"] == [None]  # infinite
    assert found["tables"]["terms"]["term"] == tables["terms"]["term"].tolist()


def test_groups_are_listed_when_asked_for(capsys: Capture) -> None:
    lines = printed(capsys, "fit", "dyestuff", "--groups").splitlines()
    at = lines.index("Groups, with 95% intervals of their means:")
    assert lines[at + 1].split() == ["Group", "Rows", "Effect", "Std.Error", "Mean", "low", "high", "Expected", "rank"]
    assert lines[at + 2].split()[:3] == ["A", "5", "-17.6069"]  # as lme4's ranef
    assert len(lines) == at + 8


def test_level_and_degrees_of_freedom(capsys: Capture) -> None:
    shown = printed(capsys, "fit", "sleepstudy", "--level", "0.9", "--df", "satterthwaite")
    assert "Fixed effects, with the degrees of freedom of Satterthwaite:" in shown
    assert " 5 % " in shown
    found = numbers(capsys, "fit", "sleepstudy", "--level", "0.9")["inference"]
    assert (found["df"], found["level"]) == ("kenward-roger", 0.9)
    wrong = refused(capsys, "fit", "dyestuff", "--method", "ml", "--df", "kenward-roger")
    assert wrong.startswith("the degrees of freedom of Kenward and Roger are those of REML, got method='ml'")


@pytest.mark.parametrize(
    ("name", "method"),
    but_for(
        [*((name, "reml") for name in datasets.names()), ("dyestuff2", "ml"), ("ratpupweight", "anova")],
        [("dyestuff", "reml"), ("dyestuff2", "ml")],
    ),
)
def test_every_data_set_and_every_method(capsys: Capture, name: str, method: str) -> None:
    found = numbers(capsys, "fit", name, "--method", method)
    data = datasets.load(name)
    assert (found["n"], found["groups"], found["covariates"]) == (data.rows, data.groups, list(data.covariates))
    assert found["certified"]


def test_a_file_as_the_data_set_of_that_name(capsys: Capture, rats: str) -> None:
    options = ("--outcome", "weight", "--group", "Litter", "--covariates", "sex, Treatment,Lsize")
    from_file, by_name = numbers(capsys, "fit", rats, *options), numbers(capsys, "fit", "ratpupweight")
    assert from_file.pop("file") == rats
    assert by_name.pop("file") == "ratpupweight"
    assert from_file == by_name
    assert from_file["coefficients"] == ["(Intercept)", "sexMale", "TreatmentHigh", "TreatmentLow", "Lsize"]
    assert "weight ~ 1 + sexMale + TreatmentHigh + TreatmentLow + Lsize + (1 | Litter)" in printed(
        capsys, "fit", rats, *options
    )


@pytest.mark.slow
def test_options_go_before_what_a_data_set_says(capsys: Capture) -> None:
    assert numbers(capsys, "fit", "pastes", "--group", "batch", "--covariates", "cask")["coefficients"] == [
        "(Intercept)",
        "caskb",
        "caskc",
    ]
    assert numbers(capsys, "fit", "sleepstudy", "--covariates", "")["covariates"] == []


def test_a_covariate_with_a_comma_in_its_name(capsys: Capture, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "comma.csv"
    path.write_text('y,g,"a, b"\n' + "".join(f"{i * i % 11},{i % 4},{i % 5}\n" for i in range(20)))
    found = numbers(capsys, "fit", str(path), "--outcome", "y", "--group", "g", "--covariates", '"a, b"')
    assert found["covariates"] == ["a, b"]


def test_dropped_rows_are_reported(capsys: Capture, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "gaps.csv"
    path.write_text("y,g\n" + "".join(f"{'NA' if i == 3 else i * i % 11},{i % 4}\n" for i in range(20)))
    assert "19 observations in 4 groups of 4 to 5; 1 row with missing values left out" in printed(
        capsys, "fit", str(path), "--outcome", "y", "--group", "g"
    )


def test_datasets_are_listed_with_their_sources(capsys: Capture) -> None:
    head, *rows = printed(capsys, "datasets").split("\n\n")[0].splitlines()
    assert head.split() == ["name", "rows", "groups", "outcome", "group", "covariates"]
    assert rows[0].split() == ["dyestuff", "30", "6", "Yield", "Batch", "-"]
    assert rows[4].split() == ["ratpupweight", "322", "27", "weight", "Litter", "sex,Treatment,Lsize"]
    assert [row.split()[0] for row in rows] == list(datasets.names())
    text = " ".join(printed(capsys, "datasets").split())
    assert all(datasets.load(name).source in text for name in datasets.names())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["dyestuf"],
            "'dyestuf' is neither a file nor a data set that comes with jaxre (dyestuff, dyestuff2, pastes, ",
        ),
        (["none.csv"], "there is no file 'none.csv' in "),
        (["FILE"], "--outcome and --group must name a column of FILE; it has 'weight', 'sex', 'Litter', 'Lsize', "),
        (["FILE", "--outcome", "weight"], "--group must name a column of FILE; it has 'weight', 'sex', "),
        (["FILE", "--outcome", "Weight", "--group", "Litter"], "FILE has no column 'Weight'; did you mean 'weight'? "),
        (
            ["FILE", "--outcome", "sex", "--group", "Litter"],
            "FILE: the outcome 'sex' must hold numbers, got 'Male' in ",
        ),
        (["dyestuff", "--outcome", "Batch"], "column 'Batch' is used twice (outcome 'Batch', group 'Batch', "),
        (
            ["rail", "--covariates", "weight,"],
            "'weight,' must be names with commas between them, got an empty one; leave",
        ),
        (["rail", "--covariates", "weight"], "rail has no column 'weight'. Its columns are 'Rail', 'travel'."),
        (["pastes", "--outcome", "cask"], "pastes: the outcome 'cask' must hold numbers, got 'a' in data row 1; "),
        (["pastes", "--group", "batch", "--covariates", "sample"], "not identified: "),
    ],
)
def test_user_errors(capsys: Capture, rats: str, arguments: list[str], message: str) -> None:
    found = refused(capsys, "fit", *(rats if argument == "FILE" else argument for argument in arguments))
    assert found.startswith(message.replace("FILE", rats))


def test_a_constant_covariate_is_called_by_its_name(capsys: Capture, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "constant.csv"
    path.write_text("y,g,dose\n1,a,2\n2,a,2\n3,b,2\n5,b,2\n4,c,2\n6,c,2\n")
    arguments = ("fit", str(path), "--outcome", "y", "--group", "g", "--covariates", "dose")
    assert "(got 6 rows in 3 groups of 2; constant: 'dose')" in refused(capsys, *arguments)


def test_errors_of_several_lines_become_one(capsys: Capture, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "ragged.csv"
    path.write_text("y,g\n1,2\n3\n")
    assert "Expected Number of Columns: 2 Found: 1" in refused(
        capsys, "fit", str(path), "--outcome", "y", "--group", "g"
    )


def test_without_duckdb(capsys: Capture, rats: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert refused(capsys, "fit", rats, "--outcome", "weight", "--group", "Litter").endswith(
        'needs duckdb: pip install "jaxre[data]"'
    )
    assert "1764.05" in printed(capsys, "fit", "dyestuff")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fit"], "the following arguments are required: FILE"),
        (["fit", "dyestuff", "--method", "lm"], "argument --method: invalid choice: 'lm'"),
        (["fit", "dyestuff", "--json", "more"], "unrecognized arguments: more"),
        (["fit", "dyestuff", "--covariates", "a", "b"], "commas and no spaces between them, as in --covariates A,B"),
        (
            ["fit", "dyestuff", "--level", "95"],
            "argument --level: level must lie between 0 and 1, such as 0.95, got 95",
        ),
        (["fit", "dyestuff", "--level", "high"], "argument --level: level must lie between 0 and 1"),
        (["fits"], "invalid choice: 'fits'"),
    ],
)
def test_wrong_usage(capsys: Capture, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("jaxre: error: ")
    assert message in err
    assert "--help" in err


def test_an_interrupt_leaves_no_traceback(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxre.datasets.load", interrupted)
    assert main(["fit", "dyestuff"]) == 130
    assert capsys.readouterr() == ("", "jaxre: interrupted\n")


MATRIX = ["fit-many", "y.npy", "--group", "labels.txt", "--out", "o.csv"]
TABLE = ["fit-many", "y.csv", "--group", "g", "--out", "o.csv"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([*MATRIX, "--covariates", "x"], ["--covariates cannot be used with a matrix"]),
        ([*MATRIX, "--dataset", "d", "--outcome", "y"], ["--outcome and --dataset cannot be used with a matrix"]),
        ([*TABLE, "--dataset", "d", "--outcome", "y", "--outcomes", "z*"], ["--outcomes cannot be used with a long"]),
        ([*TABLE, "--outcomes", "y", "--outcome", "y"], ["--outcome cannot be used with a wide table"]),
        ([*TABLE, "--outcomes", ""], ["--outcomes, or --dataset and --outcome, must be given"]),
        ([*TABLE, "--outcomes", "y", "--covariates", "x\nt"], ["names with commas"]),
        ([*TABLE, "--outcomes", "y", "--df", "satterthwaite"], ["--df says how to compute tests", "add --inference"]),
        ([*TABLE, "--outcomes", "y", "--level", "0.9"], ["--level says how"]),
        (["fit", ""], ["FILE is empty"]),
    ],
)
def test_options_that_do_not_go_together(capsys: Capture, arguments: list[str], parts: list[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert all(part in err for part in ["jaxre: error: ", *parts])


def test_the_table_is_not_written_over_what_is_read(
    capsys: Capture, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pathlib.Path("y.csv").write_text("g,y\na,1\na,2\nb,4\nb,7\n")
    found = refused(capsys, "fit-many", "y.csv", "--group", "g", "--outcomes", "y", "--out", str(tmp_path / "y.csv"))
    assert "--out must not be a file that is read" in found
    assert pathlib.Path("y.csv").read_text().startswith("g,y")


def test_version(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"jaxre {jaxre.__version__}\n"


def test_as_a_module_and_with_a_reader_that_leaves() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "jaxre", "datasets"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 141
    usage = subprocess.run([sys.executable, "-m", "jaxre", "--help"], capture_output=True, text=True, check=True)
    assert usage.stdout.startswith("usage: jaxre ")
