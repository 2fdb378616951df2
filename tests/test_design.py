"""Named columns into outcome, labels and treatment-coded covariates."""

from typing import Any

import numpy as np
import pytest

from jaxre.columns import MOST_LEVELS
from jaxre.design import Design, design, listing


def text(*values: str | None) -> np.ndarray:
    return np.array(values, object)


def made(covariates: list[str], **columns: Any) -> Design:
    rows = len(next(iter(columns.values())))
    table = {"y": np.arange(float(rows)), "g": np.arange(rows) // 2, **columns}
    return design(table, "y", "g", covariates, source="table.csv")


def test_levels_are_sorted_and_the_first_is_the_reference() -> None:
    result = made(["dose"], dose=text("low", "high", "control", "low"))
    assert result.coefficients == ("dosehigh", "doselow")
    np.testing.assert_array_equal(result.covariates, [[0, 1], [1, 0], [0, 0], [0, 1]])


def test_numbers_and_text_keep_the_order_asked_for() -> None:
    result = made(["x", "s", "z"], z=np.array([1, 2, 3, 4]), s=text("b", "a", "b", "a"), x=np.array([0.5, 1, 2, 3]))
    assert result.coefficients == ("x", "sb", "z")
    np.testing.assert_array_equal(result.covariates, [[0.5, 1, 1], [1, 0, 2], [2, 1, 3], [3, 0, 4]])


def test_arrays_of_text_are_categorical_too() -> None:
    assert made(["s"], s=np.array(["b", "a", "b", "a"])).coefficients == ("sb",)


def test_without_covariates() -> None:
    result = made([], x=np.zeros(3))
    assert result.covariates is None
    assert result.coefficients == ()


def test_missing_values_stay_for_fit_to_count() -> None:
    result = made(["s", "x"], s=text("a", None, "b", "b", "a"), x=np.array([1.0, 2.0, np.nan, 3.0, 4.0]))
    np.testing.assert_array_equal(result.covariates, [[0, 1], [np.nan, 2], [1, np.nan], [1, 3], [0, 4]])


@pytest.mark.parametrize(
    "incomplete",
    [
        {"y": np.array([1.0, np.nan, 2.0, 3.0])},
        {"g": text("u", None, "v", "v")},
        {"x": np.array([1.0, np.nan, 2.0, 3.0])},
        {"t": text("u", None, "v", "v")},
    ],
)
def test_a_level_of_incomplete_rows_alone_makes_no_column(incomplete: dict[str, np.ndarray]) -> None:
    others = [name for name in ("x", "t") if name in incomplete]
    result = made(["s", *others], s=text("a", "only here", "b", "a"), **incomplete)
    assert result.coefficients[0] == "sb"
    assert result.covariates is not None
    assert result.covariates.shape[1] == 1 + len(others)
    assert (result.covariates[[0, 2, 3], 0] == [0, 1, 0]).all()


@pytest.mark.parametrize(
    ("outcome", "group", "covariates", "message"),
    [
        (
            "weigth",
            "litter",
            [],
            r"table.csv has no column 'weigth'; did you mean 'Weight'\? Its columns are 'Weight', ",
        ),
        ("Weight", "qqq", [], r"table.csv has no column 'qqq'. Its columns are 'Weight', 'litter', 'sex'."),
        ("Weight", "litter", ["sxe"], r"no column 'sxe'; did you mean 'sex'\?"),
        ("Weight", "Weight", [], r"'Weight' is used twice \(outcome 'Weight', group 'Weight', covariates none\)"),
        ("Weight", "litter", ["Weight"], "'Weight' is used twice .* each column can play one part"),
        ("Weight", "litter", ["sex", "sex"], "'sex' is used twice .* covariates 'sex', 'sex'"),
        ("sex", "litter", [], "table.csv: the outcome 'sex' must hold numbers, got 'F' in data row 2; correct it"),
    ],
)
def test_names_that_do_not_suit(outcome: str, group: str, covariates: list[str], message: str) -> None:
    columns = {"Weight": np.arange(3.0), "litter": np.arange(3), "sex": text(None, "F", "M")}
    with pytest.raises(ValueError, match=message):
        design(columns, outcome, group, covariates, source="table.csv")


def test_infinite_numbers() -> None:
    with pytest.raises(ValueError, match=r"column 'x' must be finite, got 2 infinite .* first in data row 2;"):
        made(["x"], x=np.array([1.0, np.inf, -np.inf, 2.0]))


def test_no_complete_row() -> None:
    columns = {"x": np.array([np.nan, 1.0]), "s": text("a", None)}
    with pytest.raises(ValueError, match=r"no row has a value .* \(missing of 2 rows: 'y' 0, 'g' 0, 'x' 1, 's' 1\)"):
        made(["x", "s"], **columns)
    with pytest.raises(ValueError, match="no row has a value"):
        design({"y": text(None, None), "g": np.arange(2)}, "y", "g")


def test_a_single_level() -> None:
    with pytest.raises(
        ValueError, match=r"'s' is text with the single level 'a' in the 3 complete rows; .*leave it out"
    ):
        made(["s"], s=text("a", "a", None, "a"))


def test_a_level_for_each_row() -> None:
    with pytest.raises(ValueError, match="'s' is text with too many levels: 4 in 4 complete rows, the first 'a'"):
        made(["s"], s=text("b", "a", "d", "c"))


def test_more_levels_than_columns_should_be_made_of() -> None:
    levels = [f"level {i}" for i in range(MOST_LEVELS + 1)]
    with pytest.raises(ValueError, match=f"too many levels: {MOST_LEVELS + 1} in {2 * MOST_LEVELS + 2} complete rows"):
        made(["s"], s=text(*levels, *levels))
    assert len(made(["s"], s=text(*levels[:-1], *levels[:-1])).coefficients) == MOST_LEVELS - 1


def test_long_texts_and_lists_are_cut() -> None:
    with pytest.raises(ValueError, match=r"got 'a{35}\.\.\. in data row 1"):
        design({"y": text("a" * 1000), "g": np.arange(1)}, "y", "g")
    assert listing([f"c{i}" for i in range(25)]).endswith("'c19' and 5 more")
