"""Tables of a fit as plain columns that go into any data frame: a row a term, a fit, a group, an observation."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxre.group_effects import GroupEffects
from jaxre.inference import Inference

Table = dict[str, np.ndarray]
Fitted = Any  # a jaxre.Fit, which imports this module


def terms(fit: Fitted, inference: Inference) -> Table:
    """A row for each coefficient, then for between, within, their roots, the ratio and the ICC.

    Columns: effect ("fixed" or "random"), term, estimate, std_error, df, statistic, p_value, low, high and the method
    of the interval; what there is not is NaN. The p-value of between is that of the exact F test.
    """
    tests, nan = inference.coefficients, np.nan
    of_coefficients = zip(
        *(tests.estimate, tests.standard_error, tests.df, tests.t, tests.p_value, tests.low, tests.high), strict=True
    )
    rows: list[tuple[Any, ...]] = [
        ("fixed", name, *numbers, inference.df) for name, numbers in zip(fit.coefficients, of_coefficients, strict=True)
    ]
    within_se, between_se = fit.information("expected" if fit.method == "anova" else "observed").standard_error
    test, exact = inference.f_test, inference.interval
    of_test = {"between": (test.df1, test.statistic, test.p_value)}
    errors = {
        "between": between_se,
        "within": within_se,
        "sd_between": between_se / 2 / np.sqrt(fit.between) if fit.between > 0 else nan,
        "sd_within": within_se / 2 / np.sqrt(fit.within),
    }
    values = {"between": fit.between, "within": fit.within}
    values |= {f"sd_{name}": np.sqrt(value) for name, value in values.items()}
    for name, value in values.items():
        found, kind = _interval(fit, name, inference)
        rows.append(("random", name, value, errors[name], *of_test.get(name, (nan, nan, nan)), *found, kind))
    for name, value in (("ratio", fit.ratio), ("icc", fit.icc)):
        ends = getattr(exact, f"{name}_low"), getattr(exact, f"{name}_high")
        rows.append(("random", name, value, nan, nan, nan, nan, *ends, "exact"))
    names = ("effect", "term", "estimate", "std_error", "df", "statistic", "p_value", "low", "high", "interval")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    text = ("effect", "term", "interval")
    return {name: np.array(column, object if name in text else float) for name, column in columns.items()}


def _interval(fit: Fitted, name: str, inference: Inference) -> tuple[tuple[float, float], str]:
    if inference.variances is None:
        found = fit.wald_interval(name, inference.level)
        return (found.low, found.high), "wald"
    found = inference.variances[name]
    return (found.low, found.high), "profile"


def glance(fit: Fitted, inference: Inference) -> Table:
    """One row: what describes the fit as a whole."""
    about, test = inference.criteria, inference.f_test
    numbers = {
        "method": fit.method,
        "n": fit.n,
        "groups": len(fit.groups),
        "p": fit.p,
        "dropped": fit.dropped,
        "between": fit.between,
        "within": fit.within,
        "icc": fit.icc,
        "log_likelihood": fit.log_likelihood,
        "aic": about.aic,
        "bic": about.bic,
        "conditional_aic": about.conditional_aic,
        "r2_marginal": about.r2_marginal,
        "r2_conditional": about.r2_conditional,
        "f_statistic": test.statistic,
        "f_df1": test.df1,
        "f_df2": test.df2,
        "f_p_value": test.p_value,
        "status": fit.status.name.lower(),
        "certified": fit.certified,
        "optima": fit.optima,
        "gap": fit.gap,
    }
    return {
        name: np.array([value], object) if isinstance(value, str) else np.atleast_1d(np.asarray(value))
        for name, value in numbers.items()
    }


def groups(fit: Fitted, found: GroupEffects, expected_ranks: np.ndarray | None) -> Table:
    """A row for each group: its label, size, predicted effect and mean with their intervals, and its rank."""
    table = {
        "group": fit.groups,
        "size": fit.sizes,
        "effect": found.effect,
        "effect_se": np.sqrt(found.effect_mse),
        "effect_low": found.effect_low,
        "effect_high": found.effect_high,
        "mean": found.mean,
        "mean_se": np.sqrt(found.mean_mse),
        "mean_low": found.mean_low,
        "mean_high": found.mean_high,
        "shrinkage": found.shrinkage,
        "rank": found.rank,
    }
    return table if expected_ranks is None else table | {"expected_rank": expected_ranks}


def rows(fit: Fitted) -> Table:
    """A row for each row used: outcome, group, covariates, fitted values, residuals and leverage."""
    data, found = fit.observations, fit.residuals()
    columns = {"value": data.values, "group": fit.groups[data.groups.codes]}
    if data.covariates is not None:
        columns |= {name: data.covariates[:, i] for i, name in enumerate(fit.coefficients[1:])}
    if data.weights is not None:
        columns |= {"weight": data.weights}
    return columns | {
        "fitted": found.conditional_fitted,
        "residual": found.conditional,
        "residual_standardised": found.conditional_standardised,
        "marginal_fitted": found.marginal_fitted,
        "marginal_residual": found.marginal,
        "marginal_residual_standardised": found.marginal_standardised,
        "leverage": found.leverage,
    }
