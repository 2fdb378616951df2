"""A JAX likelihood engine for the one-way random-effects model y = X beta + Z a + e.

    observations -> moments -> likelihood -> estimate -> report

`fit` goes the whole way from arrays to a certified fit, `fit_many` for many datasets at once; the steps are pure
functions that work inside jit and vmap. What `fit` does not need is imported where it is first asked for.
"""

import typing as _typing
from importlib import import_module as _import_module

from jaxre.arrays import group_moments
from jaxre.bootstrap import bootstrap
from jaxre.bootstrap_result import Bootstrap
from jaxre.checks import HomogeneityCheck, NormalityCheck, homogeneity_check, normality_check
from jaxre.coefficients import CoefficientTests, ContrastTest, coefficient_tests, contrast_test
from jaxre.components import Components, covariance, expectation, group_mean_variance
from jaxre.criteria import Criteria, criteria
from jaxre.draws import draw
from jaxre.effects import Blue, Blup, blue, blup, group_means
from jaxre.estimate import Estimate, anova, ml, reml
from jaxre.exact import ExactInterval, FTest, exact_interval, f_test
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
from jaxre.moments import GroupMoments, Strata
from jaxre.null import LikelihoodRatioTest, likelihood_ratio_test, null_statistics
from jaxre.optimise import Path, alternating, newton
from jaxre.prediction import Predictions, predictions
from jaxre.profile_interval import ProfileInterval, profile_interval, profile_intervals
from jaxre.residuals import Residuals, residuals
from jaxre.status import Status
from jaxre.strata import stratify
from jaxre.wald import WaldInterval, wald_interval

if _typing.TYPE_CHECKING:
    from jaxre import datasets, plots
    from jaxre.batches import share
    from jaxre.comparison import Comparison, compare
    from jaxre.fits import FitMany
    from jaxre.loss import GroupBatch, group_batches, negative_log_likelihood
    from jaxre.many import fit_many
    from jaxre.meta import MetaAnalysis, meta_analysis
    from jaxre.meta_fit import MetaFit, fit_meta
    from jaxre.meta_many import MetaMany, fit_meta_many
    from jaxre.stacking import stack

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
    "MetaMany",
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
    "fit_meta_many",
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

_LATER = {
    "datasets": "datasets",
    "plots": "plots",
    "Comparison": "comparison",
    "FitMany": "fits",
    "GroupBatch": "loss",
    "MetaAnalysis": "meta",
    "MetaFit": "meta_fit",
    "MetaMany": "meta_many",
    "compare": "comparison",
    "fit_many": "many",
    "fit_meta": "meta_fit",
    "fit_meta_many": "meta_many",
    "group_batches": "loss",
    "meta_analysis": "meta",
    "negative_log_likelihood": "loss",
    "share": "batches",
    "stack": "stacking",
}

if not _typing.TYPE_CHECKING:  # which else would take any name for one of the package

    def __getattr__(name: str):
        """What is imported at its first use: a public name, by its module."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = _import_module(f"jaxre.{_LATER[name]}")
        found = module if name == _LATER[name] else getattr(module, name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
