"""Inference on each of many datasets as columns: which there are, and what they hold for one dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable

import jax.numpy as jnp

from jaxre.coefficients import coefficient_tests, contrast_test
from jaxre.columns_of_groups import AFTERWARDS, OF_PREDICTIONS
from jaxre.components import Components
from jaxre.criteria import criteria
from jaxre.estimate import Estimate
from jaxre.exact import exact_interval, f_test
from jaxre.icc import icc_measures
from jaxre.inference import information_of
from jaxre.information import information
from jaxre.moments import Strata
from jaxre.null import mixture_tail, statistic_at
from jaxre.profile_interval import RATIOS, Peak, intervals_at, peak_of
from jaxre.rows import Array
from jaxre.status import Status
from jaxre.wald import wald_interval, wald_intervals_of_beta

TESTS = ("beta_df", "beta_t", "beta_p_value", "beta_low", "beta_high")  # of each coefficient
ADJUSTED = ("beta_se_adjusted",)  # by Kenward and Roger
F_TEST = ("f_statistic", "f_df1", "f_df2", "f_p_value")
EXACT = ("ratio_low", "ratio_high", "icc_low", "icc_high")
PARAMETERS = ("between", "within", "sd_between", "sd_within")
ENDS = ("low", "high")
PROFILE = (*(f"{name}_{end}" for name in PARAMETERS for end in ENDS), "profile_settled")
SUMMARY = (*TESTS, *ADJUSTED, *F_TEST, *EXACT, *PROFILE)
EVERY = "inference"  # the name that stands for all of these that a method has
UNTRUNCATED = tuple(f"{name}_untruncated" for name in EXACT)
END_OF_BOUND = {"lower": "low", "upper": "high"}  # of a bound, and the end of the one-sided interval that it is
BOUNDS = tuple(f"{name}_{side}_bound" for name in ("ratio", "icc") for side in END_OF_BOUND)
PROFILE_OF_BETA = tuple(f"beta_profile_{end}" for end in ENDS)  # in the full likelihood
PROFILE_OF_RATIOS = tuple(f"{name}_profile_{end}" for name in RATIOS for end in ENDS)
ERRORS = ("within_se", "between_se", "log_within_se", "log_between_se")
WALD = tuple(f"{name}_wald_{end}" for name in (*PARAMETERS, *RATIOS) for end in ENDS)
WALD_OF_BETA = tuple(f"beta_wald_{end}" for end in ENDS)
MEASURES = ("single", "single_low", "single_high", "average", "average_low", "average_high", "measurements")
ICC_MEASURES = tuple(f"icc_{name}" for name in MEASURES)
CRITERIA = ("aic", "bic", "conditional_aic", "r2_marginal", "r2_conditional")
LIKELIHOOD_RATIO = ("lr_statistic", "lr_p_asymptotic")
DRAWN = ("lr_p_value", "lr_mc_error")  # against draws of the null distribution
BOOTSTRAPPED = (*PARAMETERS, *RATIOS, "beta")
COUNTS = ("bootstrap_boundary", "bootstrap_failed")  # of the replicates
BOOTSTRAP = (*(f"{name}_bootstrap_{end}" for name in BOOTSTRAPPED for end in ENDS), *COUNTS)
SIMULATED = (*DRAWN, *BOOTSTRAP)  # not by `inference_of_one`: see `simulated`
OF_CONTRASTS = {  # of each row of L beta, and what it is in `CoefficientTests`
    "contrast_estimate": "estimate",
    "contrast_se": "standard_error",
    "contrast_df": "df",
    "contrast_t": "t",
    "contrast_p_value": "p_value",
    "contrast_low": "low",
    "contrast_high": "high",
}
JOINT = {  # of all rows, and what it is in `ContrastTest`
    "contrasts_f": "statistic",
    "contrasts_f_df1": "df1",
    "contrasts_f_df2": "df2",
    "contrasts_f_p_value": "p_value",
}
CONTRASTS = (*OF_CONTRASTS, *JOINT)
ON_REQUEST = {"contrasts": CONTRASTS, "predict_groups": tuple(OF_PREDICTIONS)}  # by the argument that asks for them
PROFILES = (*PROFILE, *PROFILE_OF_RATIOS, *PROFILE_OF_BETA)
FURTHER = (*UNTRUNCATED, *BOUNDS, *ERRORS, *WALD, *WALD_OF_BETA, *ICC_MEASURES, *CRITERIA, *LIKELIHOOD_RATIO)
COLUMNS = (*SUMMARY, *PROFILE_OF_RATIOS, *PROFILE_OF_BETA, *FURTHER, *SIMULATED, *AFTERWARDS, *CONTRASTS)
BOOTSTRAP_OF_BETA = tuple(f"beta_bootstrap_{end}" for end in ENDS)
OF_COEFFICIENTS = (*TESTS, *ADJUSTED, *WALD_OF_BETA, *PROFILE_OF_BETA, *BOOTSTRAP_OF_BETA)
OF_LIKELIHOOD = {*PROFILES, *LIKELIHOOD_RATIO, *DRAWN}  # which the analysis of variance has not


def available(method: str, df: str, given: Collection[str]) -> tuple[str, ...]:
    """The columns that there are by a method, with those degrees of freedom and the arguments given."""
    absent = {*(() if df == "kenward-roger" else ADJUSTED), *(OF_LIKELIHOOD if method == "anova" else ())}
    absent |= set(() if method == "ml" else PROFILE_OF_BETA)
    absent |= {name for argument, names in ON_REQUEST.items() if argument not in given for name in names}
    return tuple(name for name in COLUMNS if name not in absent)


def inference_of_one(
    strata: Strata,
    estimate: Estimate,
    asked: Iterable[str],
    method: str,
    df: str,
    level: float,
    contrasts: tuple[tuple[float, ...], ...],
    whole: bool,
) -> tuple[dict[str, Array], Array]:
    """The columns asked for, of one dataset, NaN where there is no estimate; and whether the search settled them."""
    asked, restricted, settled = set(asked), method != "ml", jnp.ones((), bool)
    found: dict[str, Array] = {}
    if jnp.ndim(strata.frame.transform) == 0:
        frame = dataclasses.replace(strata.frame, transform=strata.frame.transform[None, None])
        strata = dataclasses.replace(strata, frame=frame)
    at, kind = Components(within=estimate.within, between=estimate.between), information_of(method)
    if asked & {*TESTS, *ADJUSTED}:
        tests = coefficient_tests(strata, at, df=df, level=level, restricted=restricted, information=kind)
        found |= {name: getattr(tests, name.removeprefix("beta_")) for name in TESTS}
        found["beta_se_adjusted"] = tests.standard_error
    if asked & set(CONTRASTS):
        rows = jnp.asarray(contrasts, estimate.within.dtype)
        tests = coefficient_tests(strata, at, rows, df=df, level=level, restricted=restricted, information=kind)
        found |= {column: getattr(tests, name) for column, name in OF_CONTRASTS.items()}
        joint = contrast_test(strata, at, rows, df=df, restricted=restricted, information=kind)
        found |= {column: getattr(joint, name) for column, name in JOINT.items()}
    if asked & set(F_TEST):
        test = f_test(strata)
        found |= {name: getattr(test, name.removeprefix("f_")) for name in F_TEST}
    if asked & {*EXACT, *UNTRUNCATED}:
        interval = exact_interval(strata, level)
        found |= {name: getattr(interval, name) for name in (*EXACT, *UNTRUNCATED)}
    for side, end in END_OF_BOUND.items():
        bounds = {f"{name}_{side}_bound": f"{name}_{end}" for name in ("ratio", "icc")}
        if asked & set(bounds):
            interval = exact_interval(strata, level, side=side)
            found |= {column: getattr(interval, name) for column, name in bounds.items()}
    if asked & set(PROFILES):
        p, of_beta = len(estimate.beta), asked & set(PROFILE_OF_BETA)
        parameters = (*(PARAMETERS if asked & set(PROFILE) else ()), *RATIOS, *(range(p) if of_beta else ()))
        peak: Peak = peak_of(estimate)
        search = "whole" if whole else "quick"
        intervals = intervals_at(strata, peak, parameters, level, restricted=restricted, search=search)
        for name, of_parameter in zip(parameters, intervals, strict=True):
            kind_of = f"{name}_profile" if name in RATIOS else name
            found |= {f"{kind_of}_{end}": getattr(of_parameter, end) for end in ENDS}
        if of_beta:
            found |= {f"beta_profile_{end}": jnp.stack([found.pop(f"{i}_{end}") for i in range(p)]) for end in ENDS}
        found["profile_settled"] = settled = intervals[0].settled
    if asked & set(ERRORS):
        about = information(strata, at, restricted=restricted, kind=kind)
        found |= dict(zip(ERRORS, (*about.standard_error, *about.log_standard_error), strict=True))
    for name in (*PARAMETERS, *RATIOS):
        ends = {f"{name}_wald_{end}": end for end in ENDS}
        if asked & set(ends):
            wald = wald_interval(strata, at, name, level, restricted=restricted, kind=kind)
            found |= {column: getattr(wald, end) for column, end in ends.items()}
    if asked & set(WALD_OF_BETA):
        wald = wald_intervals_of_beta(strata, at, level, restricted=restricted, kind=kind)
        found |= {f"beta_wald_{end}": getattr(wald, end) for end in ENDS}
    if asked & set(ICC_MEASURES):
        measures = icc_measures(strata, level)
        found |= {f"icc_{name}": getattr(measures, name) for name in MEASURES}
    if asked & set(CRITERIA):
        of_fit = criteria(strata, at, method=method)
        found |= {name: getattr(of_fit, name) for name in CRITERIA}
    if asked & set(LIKELIHOOD_RATIO):
        statistic = statistic_at(strata, estimate.ratio, restricted)
        found |= {"lr_statistic": statistic, "lr_p_asymptotic": mixture_tail(statistic)}
    nan = jnp.where(estimate.status >= Status.UNBOUNDED, jnp.nan, 0.0)
    found = {name: number if name == "profile_settled" else number + nan for name, number in found.items()}
    return found, settled
