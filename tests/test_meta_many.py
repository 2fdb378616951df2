"""Many meta-analyses at once: the numbers of `fit_meta`, one dataset at a time."""

import itertools

import jax
import numpy as np
import pandas
import pytest
from slow import but_for

import jaxre
from jaxre.meta import METHODS, TESTS
from jaxre.meta_many import OF_COEFFICIENTS, QUANTITIES

STUDIES, DATASETS = 9, 40
COMBINATIONS = list(itertools.product(METHODS, TESTS, (False, True), (1, 2)))  # shared variances or not, p
EVERYDAY = [("reml", "normal", False, 1), ("ml", "knapp-hartung", True, 2), ("pm", "normal", False, 2)]


def data(seed=0):
    """Effects with tau2 from 0 to 2, some missing, and variances of their own."""
    rng = np.random.default_rng(seed)
    variances = rng.uniform(0.05, 1, size=(STUDIES, DATASETS))
    tau2 = np.linspace(0, 2, DATASETS)
    effects = 0.5 + rng.normal(size=variances.shape) * np.sqrt(variances + tau2)
    effects[rng.random(effects.shape) < 0.1] = np.nan
    variances[2, 7] = np.nan
    return effects, variances, rng.normal(size=(STUDIES, 1))


def check(fits, i, single, names=QUANTITIES):
    for name in names:
        expected = getattr(single, name)
        # tau2 differs by 1e-12 of its standard error's size; p-values by what that is of their argument
        np.testing.assert_allclose(getattr(fits, name)[i], expected, rtol=1e-9, atol=1e-11, err_msg=f"{name} of {i}")


@pytest.mark.parametrize(("method", "test", "shared", "p"), but_for(COMBINATIONS, EVERYDAY))
def test_each_is_that_of_one_at_a_time(method, test, shared, p):
    effects, variances, x = data()
    x, variances = x if p == 2 else None, variances[:, 0] if shared else variances
    fits = jaxre.fit_meta_many(effects, variances, x, method=method, test=test, level=0.9)
    for i in range(DATASETS):
        own = variances if shared else variances[:, i]
        check(fits, i, jaxre.fit_meta(effects[:, i], own, x, method=method, test=test, level=0.9))
    assert fits.beta_cov.shape == (DATASETS, p, p)
    assert (fits.status.dtype, fits.studies.dtype, fits.certified.dtype) == (np.int32, np.int32, bool)
    assert len(fits) == DATASETS


def test_a_bad_dataset_is_a_status_and_changes_no_bit():
    effects, variances, _ = data()
    expected = jaxre.fit_meta_many(effects, variances)
    worse, bad = effects.copy(), variances.copy()
    worse[1, 3], worse[1:, 4], worse[:, 5], bad[:, 6], bad[:, 8] = np.inf, np.nan, np.nan, 0.0, -1.0
    fits = jaxre.fit_meta_many(worse, bad)
    changed = np.array([3, 4, 5, 6, 8])
    same = np.setdiff1d(np.arange(DATASETS), changed)
    found = [jaxre.Status(code).name for code in fits.status[changed]]
    assert found == ["INVALID", "NOT_IDENTIFIED", "INVALID", "INVALID", "INVALID"]
    for name in QUANTITIES:
        table = getattr(fits, name)
        np.testing.assert_array_equal(table[same], getattr(expected, name)[same], err_msg=name)
    assert np.isnan(fits.tau2[changed]).all()
    assert "40 datasets" in str(fits)
    assert "estimates are proven to be the global optimum" in str(fits)


def test_what_is_not_asked_for_is_none_and_a_table_has_the_rest():
    effects, variances, x = data()
    x = pandas.DataFrame({"latitude": x[:, 0]})
    fits = jaxre.fit_meta_many(effects, variances, x, quantities=("tau2", "beta"))
    assert fits.coefficients == ("(Intercept)", "latitude")
    assert all((getattr(fits, name) is None) == (name not in ("status", "tau2", "beta")) for name in QUANTITIES)
    assert list(fits.to_dict()) == ["tau2", "beta[(Intercept)]", "beta[latitude]", "status"]
    every = jaxre.fit_meta_many(effects, variances, x).to_dict()
    assert {f"{name}[latitude]" for name in OF_COEFFICIENTS} < set(every)
    assert "meta-regressions by REML" in str(fits)
    assert repr(fits) == "MetaMany(method='reml', datasets=40)"


def test_settings_of_jax_and_arrays_of_jax_make_no_difference():
    effects, variances, _ = data()
    expected = jaxre.fit_meta_many(effects, variances)
    with jax.enable_x64(True):
        given = jax.device_put((effects, variances))
    found = jaxre.fit_meta_many(*given)
    for name in QUANTITIES:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.ones(3), np.ones(3)), {}, r"got \(3,\) and \(3,\); for one outcome use jaxre.fit_meta"),
        ((np.ones((3, 2)), np.ones((2, 3))), {}, r"that or \(studies,\), got \(3, 2\) and \(2, 3\)"),
        ((np.ones((3, 0)), np.ones(3)), {}, r"got \(3, 0\)"),
        ((np.ones((3, 2)), np.ones(3)), {"method": "sj"}, "method must be one of 'reml'"),
        ((np.ones((3, 2)), np.ones(3)), {"test": "t"}, "test must be one of 'normal'"),
        ((np.ones((3, 2)), np.ones(3)), {"level": 1}, "level must lie between 0 and 1"),
        ((np.ones((3, 2)), np.ones(3)), {"quantities": "tau"}, r"unknown names \['tau'\]; there are studies, tau2"),
        ((np.ones((3, 2)), np.ones(3), np.ones((2, 1))), {}, r"covariates must have shape \(3, p - 1\), got \(2, 1\)"),
        ((np.ones((3, 2)), np.ones(3), np.full((3, 1), np.inf)), {}, "covariates .*infinite"),
    ],
)
def test_misuse(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        jaxre.fit_meta_many(*arguments, **options)


def test_traced_values_are_refused():
    with pytest.raises(TypeError, match=r"jaxre\.meta_analysis"):
        jax.jit(lambda y: jaxre.fit_meta_many(y, np.ones(3)).tau2)(np.ones((3, 2)))
