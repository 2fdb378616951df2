"""A JAX likelihood engine for the one-way random-effects model y = X beta + Z a + e.

    observations -> moments -> likelihood -> estimate -> report

`fit` goes the whole way from arrays to a certified fit, `fit_many` for many datasets at once; the steps are pure
functions that work inside jit and vmap.
"""

from jaxre import datasets, plots
from jaxre.arrays import group_moments
from jaxre.batches import share
from jaxre.bootstrap import Bootstrap, bootstrap
from jaxre.checks import HomogeneityCheck, NormalityCheck, homogeneity_check, normality_check
from jaxre.coefficients import CoefficientTests, ContrastTest, coefficient_tests, contrast_test
from jaxre.comparison import Comparison, compare
from jaxre.components import Components, covariance, expectation, group_mean_variance
from jaxre.criteria import Criteria, criteria
from jaxre.draws import draw
from jaxre.effects import Blue, Blup, blue, blup, group_means
from jaxre.estimate import Estimate, anova, ml, reml
from jaxre.exact import ExactInterval, FTest, exact_interval, f_test
from jaxre.fits import FitMany
from jaxre.fitted import Fit
from jaxre.fitting import fit
from jaxre.frame import Frame
from jaxre.group_effects import GroupEffects, expected_ranks, group_effects
from jaxre.icc import IccMeasures, icc_measures
from jaxre.inference import Inference
from jaxre.influence import Influence, influence
from jaxre.information import Information, information
from jaxre.likelihood import (
    LogVarianceDerivatives,
    log_likelihood,
    log_variance_derivatives,
    restricted_log_likelihood,
)
from jaxre.loss import GroupBatch, group_batches, negative_log_likelihood
from jaxre.many import fit_many
from jaxre.meta import MetaAnalysis, meta_analysis
from jaxre.meta_fit import MetaFit, fit_meta
from jaxre.moments import GroupMoments, Strata
from jaxre.null import LikelihoodRatioTest, likelihood_ratio_test, null_statistics
from jaxre.optimise import Path, alternating, newton
from jaxre.prediction import Predictions, predictions
from jaxre.profile_interval import ProfileInterval, profile_interval, profile_intervals
from jaxre.residuals import Residuals, residuals
from jaxre.stacking import stack
from jaxre.status import Status
from jaxre.strata import stratify
from jaxre.wald import WaldInterval, wald_interval

__version__ = "0.1.0"

__all__ = [
    "Blue",
    "Blup",
    "Bootstrap",
    "CoefficientTests",
    "Comparison",
    "Components",
    "ContrastTest",
    "Criteria",
    "Estimate",
    "ExactInterval",
    "FTest",
    "Fit",
    "FitMany",
    "Frame",
    "GroupBatch",
    "GroupEffects",
    "GroupMoments",
    "HomogeneityCheck",
    "IccMeasures",
    "Inference",
    "Influence",
    "Information",
    "LikelihoodRatioTest",
    "LogVarianceDerivatives",
    "MetaAnalysis",
    "MetaFit",
    "NormalityCheck",
    "Path",
    "Predictions",
    "ProfileInterval",
    "Residuals",
    "Status",
    "Strata",
    "WaldInterval",
    "alternating",
    "anova",
    "blue",
    "blup",
    "bootstrap",
    "coefficient_tests",
    "compare",
    "contrast_test",
    "covariance",
    "criteria",
    "datasets",
    "draw",
    "exact_interval",
    "expectation",
    "expected_ranks",
    "f_test",
    "fit",
    "fit_many",
    "fit_meta",
    "group_batches",
    "group_effects",
    "group_mean_variance",
    "group_means",
    "group_moments",
    "homogeneity_check",
    "icc_measures",
    "influence",
    "information",
    "likelihood_ratio_test",
    "log_likelihood",
    "log_variance_derivatives",
    "meta_analysis",
    "ml",
    "negative_log_likelihood",
    "newton",
    "normality_check",
    "null_statistics",
    "plots",
    "predictions",
    "profile_interval",
    "profile_intervals",
    "reml",
    "residuals",
    "restricted_log_likelihood",
    "share",
    "stack",
    "stratify",
    "wald_interval",
]
