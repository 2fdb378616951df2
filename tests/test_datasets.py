"""The data sets that come with the package: what is in them, and the fits that were published of them."""

import numpy as np
import pytest

import jaxre
from jaxre import datasets
from jaxre.design import design


def fitted(name: str) -> jaxre.Fit:
    data = datasets.load(name)
    made = design(data.columns, data.outcome, data.group, data.covariates)
    return jaxre.fit(made.outcome, made.groups, made.covariates)


@pytest.mark.parametrize(
    ("name", "rows", "groups", "smallest", "largest", "total"),
    [
        ("dyestuff", 30, 6, 5, 5, 45825.0),
        ("dyestuff2", 30, 6, 5, 5, 169.968),
        ("pastes", 60, 30, 2, 2, 3603.2),
        ("rail", 18, 6, 3, 3, 1197.0),
        ("ratpupweight", 322, 27, 2, 18, 1958.07),
        ("sleepstudy", 180, 18, 10, 10, 53731.42),
    ],
)
def test_contents(name: str, rows: int, groups: int, smallest: int, largest: int, total: float) -> None:
    data = datasets.load(name)
    sizes = np.unique(data.columns[data.group], return_counts=True)[1]
    assert (data.rows, data.groups) == (rows, groups)
    assert (sizes.min(), sizes.max()) == (smallest, largest)
    assert data.columns[data.outcome].sum() == pytest.approx(total, abs=0.006)  # half a unit of the digits given
    assert {len(column) for column in data.columns.values()} == {rows}
    assert {data.outcome, data.group, *data.covariates} <= set(data.columns)
    assert data.title
    assert "(19" in data.source or "(20" in data.source


def test_every_name_loads_in_any_case() -> None:
    assert [datasets.load(name.upper()).name for name in datasets.names()] == list(datasets.names())
    assert list(datasets.names()) == sorted(datasets.names())


def test_columns_are_integers_doubles_or_text() -> None:
    kinds = {name: column.dtype.kind for name, column in datasets.load("ratpupweight").columns.items()}
    assert kinds == {"weight": "f", "sex": "U", "Litter": "i", "Lsize": "i", "Treatment": "U"}


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"no data set 'iris'.*dyestuff, dyestuff2, pastes, rail"):
        datasets.load("iris")


def test_litter_sizes_of_the_rat_pups_are_the_numbers_of_their_rows() -> None:
    columns = datasets.load("ratpupweight").columns
    litters, counts = np.unique(columns["Litter"], return_counts=True)
    assert [set(columns["Lsize"][columns["Litter"] == litter].tolist()) for litter in litters] == [
        {count} for count in counts.tolist()
    ]


def test_balanced_fits_are_the_analysis_of_variance() -> None:
    """Mean squares by hand: REML of balanced data is (MSB - MSW) / n_j when that is positive, and 0 otherwise."""
    for name in ("dyestuff", "dyestuff2", "pastes", "rail"):
        data, result = datasets.load(name), fitted(name)
        y, labels = data.columns[data.outcome].astype(float), data.columns[data.group]
        table = np.array([y[labels == label] for label in np.unique(labels)])
        within = table.var(axis=1, ddof=1).mean()
        between = table.mean(axis=1).var(ddof=1) - within / table.shape[1]
        assert result.between == pytest.approx(max(between, 0.0), rel=1e-12)
        assert result.within == pytest.approx(within if between > 0 else y.var(ddof=1), rel=1e-12)


def test_dyestuff_is_exact() -> None:
    result = fitted("dyestuff")
    assert result.between == pytest.approx(1764.05, rel=1e-13)
    assert result.within == pytest.approx(2451.25, rel=1e-13)
    assert result.beta[0] == pytest.approx(1527.5, rel=1e-14)


def test_sleepstudy_with_days() -> None:
    """25-digit values from 280-bit arithmetic on the doubles of the file."""
    result = fitted("sleepstudy")
    assert result.between == pytest.approx(1378.178508418503381420088, rel=1e-12)
    assert result.within == pytest.approx(960.456578928759348581516, rel=1e-12)
    np.testing.assert_allclose(result.beta, [251.405104848484845666747, 10.46728595959595998163741], rtol=1e-12)
    assert result.criterion == pytest.approx(1786.465085394921103539077, rel=1e-12)


def test_rat_pups_with_sex_by_treatment() -> None:
    """Weight on sex * Treatment + Lsize, coded from the text columns; 25-digit values from 280-bit arithmetic."""
    columns = datasets.load("ratpupweight").columns
    male = columns["sex"] == "Male"
    low, high = (columns["Treatment"] == level for level in ("Low", "High"))
    covariates = np.stack([~male, low, high, columns["Lsize"], ~male & low, ~male & high], axis=1)
    result = jaxre.fit(columns["weight"], columns["Litter"], covariates)
    assert result.between == pytest.approx(0.0965172026998145537671992, rel=1e-12)
    assert result.within == pytest.approx(0.1634884111017434477741095, rel=1e-12)
    assert result.criterion == pytest.approx(401.104322382797952158965, rel=1e-12)
    assert result.beta[4] == pytest.approx(-0.1283820991857669876226759, rel=1e-12)
