"""Inference on each of many datasets as columns: which there are, and what they hold for one dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import jax.numpy as jnp

from jaxre.coefficients import coefficient_tests
from jaxre.components import Components
from jaxre.estimate import Estimate
from jaxre.exact import exact_interval, f_test
from jaxre.moments import Strata
from jaxre.profile_interval import Peak, intervals_at, peak_of
from jaxre.rows import Array
from jaxre.status import Status

TESTS = ("beta_df", "beta_t", "beta_p_value", "beta_low", "beta_high")  # of each coefficient
ADJUSTED = ("beta_se_adjusted",)  # by Kenward and Roger
F_TEST = ("f_statistic", "f_df1", "f_df2", "f_p_value")
EXACT = ("ratio_low", "ratio_high", "icc_low", "icc_high")
PARAMETERS = ("between", "within", "sd_between", "sd_within")
PROFILE = (*(f"{name}_{end}" for name in PARAMETERS for end in ("low", "high")), "profile_settled")
OF_COEFFICIENTS = (*TESTS, *ADJUSTED)
COLUMNS = (*OF_COEFFICIENTS, *F_TEST, *EXACT, *PROFILE)
EVERY = "inference"  # the name that stands for all that a method has


def available(method: str, df: str) -> tuple[str, ...]:
    """The columns that there are by a method and with those degrees of freedom."""
    adjusted = ADJUSTED if df == "kenward-roger" else ()
    return (*TESTS, *adjusted, *F_TEST, *EXACT, *(() if method == "anova" else PROFILE))


def inference_of_one(
    strata: Strata, estimate: Estimate, asked: Iterable[str], method: str, df: str, level: float, whole: bool
) -> tuple[dict[str, Array], Array]:
    """The columns asked for, of one dataset, NaN where there is no estimate; and whether the search settled them."""
    asked, restricted, settled = set(asked), method != "ml", jnp.ones((), bool)
    found: dict[str, Array] = {}
    if jnp.ndim(strata.frame.transform) == 0:
        frame = dataclasses.replace(strata.frame, transform=strata.frame.transform[None, None])
        strata = dataclasses.replace(strata, frame=frame)
    if asked & set(OF_COEFFICIENTS):
        kind = "expected" if method == "anova" else "observed"
        at = Components(within=estimate.within, between=estimate.between)
        tests = coefficient_tests(strata, at, df=df, level=level, restricted=restricted, information=kind)
        found |= {name: getattr(tests, name.removeprefix("beta_")) for name in TESTS}
        found["beta_se_adjusted"] = tests.standard_error
    if asked & set(F_TEST):
        test = f_test(strata)
        found |= {name: getattr(test, name.removeprefix("f_")) for name in F_TEST}
    if asked & set(EXACT):
        interval = exact_interval(strata, level)
        found |= {name: getattr(interval, name) for name in EXACT}
    if asked & set(PROFILE):
        peak: Peak = peak_of(estimate)
        search = "whole" if whole else "quick"
        intervals = intervals_at(strata, peak, PARAMETERS, level, restricted=restricted, search=search)
        for name, of_parameter in zip(PARAMETERS, intervals, strict=True):
            found |= {f"{name}_low": of_parameter.low, f"{name}_high": of_parameter.high}
        found["profile_settled"] = settled = intervals[0].settled
    nan = jnp.where(estimate.status >= Status.UNBOUNDED, jnp.nan, 0.0)
    found = {name: number if name == "profile_settled" else number + nan for name, number in found.items()}
    return found, settled
