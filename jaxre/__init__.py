"""A JAX likelihood engine for the one-way random-effects model y = X beta + Z a + e.

    observations -> moments -> likelihood -> estimate -> report

`fit` goes the whole way from arrays to a certified fit, `fit_many` for many datasets at once; the steps are pure
functions that work inside jit and vmap.
"""

from jaxre import datasets
from jaxre.batches import share
from jaxre.coefficients import CoefficientTests, ContrastTest, coefficient_tests, contrast_test
from jaxre.comparison import Comparison, compare
from jaxre.components import Components, covariance, expectation, group_mean_variance
from jaxre.effects import Blue, Blup, blue, blup, group_means
from jaxre.estimate import Estimate, anova, ml, reml
from jaxre.exact import ExactInterval, FTest, IccMeasures, exact_interval, f_test, icc_measures
from jaxre.fits import FitMany
from jaxre.fitting import Fit, fit
from jaxre.frame import Frame
from jaxre.inference import Inference
from jaxre.information import Information, information
from jaxre.likelihood import (
    LogVarianceDerivatives,
    log_likelihood,
    log_variance_derivatives,
    restricted_log_likelihood,
)
from jaxre.many import fit_many
from jaxre.moments import GroupMoments, Strata, group_moments, stack, stratify
from jaxre.null import LikelihoodRatioTest, likelihood_ratio_test, null_statistics
from jaxre.optimise import Path, alternating, newton
from jaxre.status import Status
from jaxre.wald import WaldInterval, wald_interval

__version__ = "0.1.0"

__all__ = [
    "Blue",
    "Blup",
    "CoefficientTests",
    "Comparison",
    "Components",
    "ContrastTest",
    "Estimate",
    "ExactInterval",
    "FTest",
    "Fit",
    "FitMany",
    "Frame",
    "GroupMoments",
    "IccMeasures",
    "Inference",
    "Information",
    "LikelihoodRatioTest",
    "LogVarianceDerivatives",
    "Path",
    "Status",
    "Strata",
    "WaldInterval",
    "alternating",
    "anova",
    "blue",
    "blup",
    "coefficient_tests",
    "compare",
    "contrast_test",
    "covariance",
    "datasets",
    "exact_interval",
    "expectation",
    "f_test",
    "fit",
    "fit_many",
    "group_mean_variance",
    "group_means",
    "group_moments",
    "icc_measures",
    "information",
    "likelihood_ratio_test",
    "log_likelihood",
    "log_variance_derivatives",
    "ml",
    "newton",
    "null_statistics",
    "reml",
    "restricted_log_likelihood",
    "share",
    "stack",
    "stratify",
    "wald_interval",
]
