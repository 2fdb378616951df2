"""NIST's one-way analyses of variance, against exact rational arithmetic and against NIST's certified values."""

from fractions import Fraction

import numpy as np
import pytest
from reference import NIST, table

import jaxre

by_file = pytest.mark.parametrize("case", NIST, ids=lambda case: case["id"].removeprefix("NIST_"))


def exact(case):
    """SSB, SSW, within and between before truncation of the stored doubles, which are fractions, without rounding."""
    data = table(case["id"])
    groups: dict[str, list[Fraction]] = {}
    for value, label in zip(data.values.tolist(), data.groups.tolist(), strict=True):
        groups.setdefault(label, []).append(Fraction(value))
    n, j, total = len(data.values), len(groups), sum(map(sum, groups.values()))
    ssb = sum(sum(rows) ** 2 / len(rows) for rows in groups.values()) - total**2 / n
    ssw = sum(value**2 for rows in groups.values() for value in rows)
    ssw -= sum(sum(rows) ** 2 / len(rows) for rows in groups.values())
    within = ssw / (n - j)
    between = n * (ssb - (j - 1) * within) / (n * n - sum(len(rows) ** 2 for rows in groups.values()))
    return ssb, ssw, within, between


def error(found, truth):
    return abs(float((Fraction(float(found)) - truth) / truth))


def test_all_eleven_files():
    assert len(NIST) == 11


@by_file
def test_fourteen_digits(case):
    """Every file is balanced with a positive `between`, so REML is the analysis of variance, and ML divides SSB by J,
    with (SSB + SSW) / n where that leaves nothing between. 1e-14 is 45 eps, for sums of up to 18,009 squares."""
    data = table(case["id"])
    ssb, ssw, within, between = exact(case)
    sizes = np.unique(data.groups, return_counts=True)[1].tolist()
    assert len(set(sizes)) == 1
    assert between > 0
    by_ml = (ssb / len(sizes) - within) / sizes[0]

    anova, reml, ml = (jaxre.fit(data.values, data.groups, method=method) for method in ("anova", "reml", "ml"))
    for fit in (anova, reml):
        assert error(fit.within, within) <= 1e-14
        assert error(fit.between, between) <= 1e-14
    assert anova.between_untruncated == anova.between
    if by_ml > 0:
        assert error(ml.within, within) <= 1e-14
        assert error(ml.between, by_ml) <= 1e-14
    else:  # SiRstv
        assert ml.between == 0
        assert error(ml.within, (ssb + ssw) / len(data.values)) <= 1e-14


@by_file
def test_certified_values(case):
    """NIST's mean squares, which belong to the decimals as printed.

    Reading them as doubles moves each by half a unit in the last place u at most, the vector of all n by sqrt(n) u / 2,
    and the root of a sum of squares by no more than that: a projection does not stretch. So a sum of squares S is good
    to 2 r + r^2, r = sqrt(n / S) u / 2: three to four digits in SmLs07 to SmLs09, whose values are near 1e12. NIST
    prints 15 digits, so 1e-14 is added.
    """
    data, certified = table(case["id"]), case["certified"]
    fit = jaxre.fit(data.values, data.groups, method="anova")
    half_unit = np.spacing(abs(data.values).max()) / 2
    size = len(data.values) / len(fit.groups)
    for name, mean_square in (("W", fit.within), ("B", fit.within + size * fit.between)):
        r = half_unit * np.sqrt(len(data.values) / float(certified[f"SS{name}"]))
        assert mean_square == pytest.approx(float(certified[f"MS{name}"]), rel=2 * r + r**2 + 1e-14, abs=0), name
    assert r < 1e-3  # what the bound allows is never a free pass
