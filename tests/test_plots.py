"""What a picture shows is what the functions say."""

import itertools

import designs
import matplotlib as mpl
import numpy as np
import pytest
from slow import slow

mpl.use("Agg")
import matplotlib.pyplot as plt

import jaxre
from jaxre import plots
from jaxre.rise import local_optima, profile_rise


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def dyestuff():
    columns = jaxre.datasets.load("dyestuff").columns
    return jaxre.fit(columns["Yield"], columns["Batch"])


@pytest.fixture(scope="module")
def several():
    """Sizes 1, 1, 1, 1, 13, 13: one optimum at 0 and a better one inside."""
    y, groups, _ = designs.simulate(104, [1, 1, 1, 1, 13, 13], 10.0)
    return jaxre.fit(y, groups, method="ml")


def test_caterpillar(dyestuff):
    axis = plots.caterpillar(dyestuff, 0.9)
    found = dyestuff.group_effects(0.9)
    order = np.argsort(found.effect)
    assert [text.get_text() for text in axis.get_yticklabels()] == dyestuff.groups[order].tolist()
    segments = np.array(axis.collections[0].get_segments())
    np.testing.assert_array_equal(segments[:, :, 0], np.column_stack([found.effect_low, found.effect_high])[order])
    assert plots.caterpillar(dyestuff, axis=axis) is axis


@pytest.mark.parametrize("groups", [6, 40])
def test_names_of_groups_do_not_overlap(groups):
    y, codes, _ = designs.simulate(2, [3] * groups, 1.0)
    axis = plots.caterpillar(jaxre.fit(y, codes))
    axis.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axis.get_yticklabels()]
    assert len(boxes) == groups
    assert all(below.y1 <= above.y0 for below, above in itertools.pairwise(boxes))


@pytest.mark.parametrize("parameter", ["ratio", "icc", "between", "sd_within", "total"])
def test_the_profile_crosses_the_limit_at_the_ends_of_the_interval(dyestuff, parameter):
    """To 1e-6: of the parabola through three points of the grid."""
    interval = dyestuff.profile_interval(parameter, 0.9)
    values = np.array([interval.low, interval.high, interval.estimate])
    np.testing.assert_allclose(profile_rise(dyestuff, parameter, values), [2.705543454, 2.705543454, 0], atol=1e-6)


def test_every_local_optimum_is_marked(several):
    assert several.optima == 2
    for parameter in ("ratio", "sd_within"):
        places, heights = local_optima(several, parameter)
        assert sorted(heights) == pytest.approx([0, several.gap], abs=1e-9)
        np.testing.assert_allclose(profile_rise(several, parameter, places), heights, atol=1e-6)
    axis = plots.profile_likelihood(several, "ratio")
    curve, every, best = (line.get_xydata() for line in axis.lines[-3:])
    assert len(every) == 2
    assert best[0, 0] == pytest.approx(several.ratio, rel=1e-12)
    assert curve[:, 1].min() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("level", [0.05, slow(0.95)])
@pytest.mark.parametrize("parameter", ["ratio", slow("icc"), "sd_within"])
def test_an_optimum_outside_the_interval_is_in_the_picture(several, parameter, level):
    places, heights = local_optima(several, parameter)
    axis = plots.profile_likelihood(several, parameter, level)
    interval = several.profile_interval(parameter, level)
    assert level > 0.5 or not (interval.low <= places.min() and places.max() <= interval.high)
    assert axis.get_xlim()[0] <= places.min()
    assert places.max() <= axis.get_xlim()[1]
    assert heights.max() < axis.get_ylim()[1]
    curve = axis.lines[-3].get_xdata()
    assert ((curve >= interval.low) & (curve <= interval.high)).sum() > 200  # however far off the optimum is


def test_quantiles_residuals_and_influence(dyestuff):
    axis = plots.quantiles(dyestuff)
    np.testing.assert_array_equal(axis.lines[-1].get_ydata(), np.sort(dyestuff.residuals().conditional_standardised))
    check = dyestuff.normality_check()
    np.testing.assert_allclose(axis.lines[-1].get_xdata(), np.sort(check.scores), rtol=1e-10, atol=1e-12)
    assert len(plots.quantiles(dyestuff, "effects").lines[-1].get_xdata()) == 6
    points = plots.residuals(dyestuff).lines[-1].get_xydata()
    found = dyestuff.residuals()
    np.testing.assert_array_equal(points, np.column_stack([found.conditional_fitted, found.conditional_standardised]))
    axis = plots.influence(dyestuff)
    np.testing.assert_array_equal(axis.lines[-1].get_ydata(), dyestuff.influence().cook)
    assert {text.get_text() for text in axis.texts} == {"E", "F", "C"}  # the three largest


def test_odd_fits():
    """Two groups, each of which leaves no fit when it is left out; long labels; an estimate of 0."""
    y, groups, _ = designs.simulate(1, [8, 8], 0.0)
    fit = jaxre.fit(y, np.array(["a very long name of a group indeed", "b"])[groups])
    assert "2 without a fit" in plots.influence(fit).get_title(loc="right")
    assert plots.caterpillar(fit).get_yticklabels()[0].get_text() in ("a very long name of a...", "b")
    zero = jaxre.datasets.load("dyestuff2").columns
    axis = plots.profile_likelihood(jaxre.fit(zero["Yield"], zero["Batch"]), "between")
    assert axis.get_xlim()[0] == 0


def test_misuse(dyestuff):
    with pytest.raises(ValueError, match=r"parameter must be one of 'ratio'.*got 'sigma'"):
        plots.profile_likelihood(dyestuff, "sigma")
    with pytest.raises(ValueError, match="of must be 'residuals' or 'effects', got 'all'"):
        plots.quantiles(dyestuff, "all")
    columns = jaxre.datasets.load("dyestuff").columns
    with pytest.raises(ValueError, match="maximises no likelihood"):
        plots.profile_likelihood(jaxre.fit(columns["Yield"], columns["Batch"], method="anova"))
