"""What `fit_many` simulates for each dataset: the draws of `likelihood_ratio_test` and of `bootstrap` of one fit."""

import designs
import numpy as np
import pytest

import jaxre
from jaxre.columns_of_inference import BOOTSTRAP, BOOTSTRAPPED, DRAWN, SIMULATED
from jaxre.simulated import bootstrapped

SIZES = [4, 2, 3, 4, 3, 5]
WORDS = {"draws": 3000, "replicates": 200, "seed": 7}


def outcomes():
    """(n, 5): at between = 0, twice inside, one with a design of its own, and one that is constant."""
    columns = [designs.simulate(seed, SIZES, ratio)[0] for seed, ratio in enumerate((0.0, 0.5, 2.0, 20.0))]
    values = np.column_stack([*columns, np.ones(sum(SIZES))])
    values[:, 0] -= jaxre.fit(values[:, 0], designs.labels(SIZES)).blup[designs.labels(SIZES)] * 2
    values[[3, 4], 2] = np.nan
    return values


def expected_of(fit):
    """The columns of one fit, from its methods."""
    result = fit.bootstrap(bootstrapped, seed=7, replicates=200, level=0.8)
    found = {"bootstrap_boundary": result.boundary, "bootstrap_failed": result.failed}
    for name in BOOTSTRAPPED:
        found |= {f"{name}_bootstrap_low": result.low[name], f"{name}_bootstrap_high": result.high[name]}
    if fit.method != "anova":
        test = fit.likelihood_ratio_test(7, draws=3000)
        found |= {"lr_p_value": test.p_value, "lr_mc_error": test.mc_error}
    return found


def test_every_form_draws_what_one_fit_draws():
    """With the intercept alone the numbers are the same, whatever the form, the order and the company."""
    values, groups = outcomes(), designs.labels(SIZES)
    words = {"quantities": ("between", *SIMULATED), "level": 0.8, **WORDS}
    fits = jaxre.fit_many(values, groups, **words)
    turned = jaxre.fit_many([(column, groups) for column in values.T[::-1]], **words)
    table = jaxre.fit_many(values.T.ravel(), np.tile(groups, 5), datasets=np.repeat(np.arange(5), len(groups)), **words)
    assert set(fits.inference) == set(SIMULATED)
    assert fits.between[0] == 0 == turned.between[-1]
    for i in range(4):
        expected = expected_of(jaxre.fit(values[:, i], groups))
        for name in SIMULATED:
            several = [made.inference[name][place] for made, place in ((fits, i), (turned, 4 - i), (table, i))]
            # estimates that differ in their last digits, at draws that are the same
            np.testing.assert_allclose(several, np.broadcast_to(expected[name], np.shape(several)), 1e-9, err_msg=name)
    for made, place in ((fits, 4), (turned, 0), (table, 4)):
        assert all(np.isnan(column[place]).all() for column in made.inference.values())
    assert fits.inference["lr_p_value"][0] == 1
    assert fits.inference["lr_mc_error"][0] == 0
    assert fits.inference["beta_bootstrap_low"].shape == (5, 1)


@pytest.mark.slow
def test_with_covariates():
    """The null distribution is that of one fit; the bootstrap has its own draws, of the same distribution."""
    values, groups, x = outcomes()[:, [1, 3]], designs.labels(SIZES), designs.simulate(0, SIZES, p=2)[2]
    names = (*DRAWN, "between_bootstrap_high", "beta_bootstrap_low")
    fits = jaxre.fit_many(1e5 * values + 1e9, groups, x, quantities=names, level=0.5, **WORDS)
    for i in (0, 1):
        fit = jaxre.fit(1e5 * values[:, i] + 1e9, groups, x)
        expected = fit.likelihood_ratio_test(7, draws=3000).p_value  # a mean of zeros and ones, rounded
        np.testing.assert_allclose(fits.inference["lr_p_value"][i], expected, rtol=1e-14)
        result = fit.bootstrap(lambda fit: (fit.between, fit.beta), replicates=5000)
        between, beta = (np.asarray(values) for values in result.replicates)
        beyond = between > fits.inference["between_bootstrap_high"][i], beta < fits.inference["beta_bootstrap_low"][i]
        shares = np.concatenate([np.ravel(mask.mean(axis=0)) for mask in beyond])
        # a quarter on either side; four standard errors of 200 replicates' quantile and of 5000
        np.testing.assert_allclose(shares, 0.25, atol=4 * np.sqrt(0.25 * 0.75 * (1 / 200 + 1 / 5000)))


def test_an_end_that_the_replicates_do_not_determine():
    """Of 200 replicates none is the 0.25th."""
    fits = jaxre.fit_many(
        outcomes(), designs.labels(SIZES), quantities=("icc_bootstrap_low", "bootstrap_failed"), level=0.9975, **WORDS
    )
    assert np.isnan(fits.inference["icc_bootstrap_low"]).all()
    assert fits.inference["bootstrap_failed"][:4].tolist() == [0, 0, 0, 0]


def test_anova_has_the_bootstrap_alone():
    values, groups = outcomes(), designs.labels(SIZES)
    with pytest.raises(ValueError, match=r"\['lr_p_value'\], which method='anova'"):
        jaxre.fit_many(values, groups, method="anova", quantities="lr_p_value")
    fits = jaxre.fit_many(values, groups, method="anova", quantities=BOOTSTRAP, level=0.8, **WORDS)
    expected = expected_of(jaxre.fit(values[:, 1], groups, method="anova"))
    for name in BOOTSTRAP:
        np.testing.assert_allclose(fits.inference[name][1], expected[name], rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("words", [{"draws": 0}, {"replicates": 2.5}, {"seed": -1}, {"draws": True}, {"seed": "a"}])
def test_numbers_that_are_none(words):
    with pytest.raises(ValueError, match=r"must be a whole number, [01] or more, got"):
        jaxre.fit_many(outcomes(), designs.labels(SIZES), quantities="lr_p_value", **words)
