"""Comparison of two mean models by their likelihoods."""

from __future__ import annotations

import dataclasses
from typing import overload

import jax
import numpy as np

from jaxre.effects import group_means
from jaxre.fits import FitMany
from jaxre.fitting import Fit
from jaxre.settings import host_settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """A likelihood-ratio test of nested mean models; see `compare`. Of many datasets, arrays (datasets,)."""

    statistic: float | np.ndarray
    """[1], twice the difference of the log-likelihoods."""
    df: int
    """how many coefficients the larger model has more."""
    p_value: float | np.ndarray
    """from chi-square on df degrees of freedom."""


@overload
def compare(small: Fit, large: Fit) -> Comparison: ...


@overload
def compare(small: FitMany, large: FitMany) -> Comparison: ...


def compare(small: Fit | FitMany, large: Fit | FitMany) -> Comparison:
    """Likelihood-ratio test of a mean model within a larger one, both fitted by maximum likelihood to the same rows.

    The statistic is asymptotically chi-square. With few groups it rejects too often for covariates that vary between
    groups; `Fit.contrast_test` with the degrees of freedom of Kenward and Roger is the better test then.

    Args:
        small: the model of the hypothesis, by method="ml"; of `fit` or of `fit_many`.
        large: the model that contains it, by method="ml", of the same function.

    Returns:
        Comparison; of many datasets, which keep no outcomes, NaN where either has no estimate, where the numbers of
        rows or groups differ, and where the second has the lower likelihood, so that it cannot contain the first.

    Errors:
        TypeError for anything but two fits. ValueError for fits by another method (restricted likelihoods of different
        covariates are densities of different contrasts of the data, and not comparable), of different rows, groups,
        weights or outcomes, with no more coefficients in the second, or where the second does not contain the first
        (for rows in another order, where it has the lower likelihood, so that it cannot; of many datasets, by the names
        of the coefficients).

    Source: Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 2.4.2.

    Example:
        >>> import jaxre
        >>> sleep = jaxre.datasets.load("sleepstudy").columns
        >>> days = sleep["Days"][:, None]
        >>> small = jaxre.fit(sleep["Reaction"], sleep["Subject"], method="ml")
        >>> large = jaxre.fit(sleep["Reaction"], sleep["Subject"], days, method="ml")
        >>> found = jaxre.compare(small, large)
        >>> print(f"{found.statistic:.2f} {found.df} {found.p_value:.1e}")
        116.46 1 3.8e-27
    """
    if isinstance(small, FitMany) and isinstance(large, FitMany):
        return _each(small, large)
    for fit in (small, large):
        if not isinstance(fit, Fit):
            raise TypeError(
                f"compare needs two results of jaxre.fit, or two of fit_many, got {type(small).__name__} and "
                f"{type(large).__name__}."
            )
    assert isinstance(small, Fit)
    assert isinstance(large, Fit)
    _refuse_other_methods(small, large)
    if small.n != large.n or small.groups.tolist() != large.groups.tolist() or not _same_rows(small, large):
        raise ValueError(
            f"both fits must be of the same rows, got {small.n} rows in {len(small.groups)} groups and {large.n} in "
            f"{len(large.groups)}, or other values; leave out of both what is missing in one."
        )
    df, statistic = large.p - small.p, _statistic(small, large)
    if df >= 1:
        _refuse_not_nested(small, large)
    if df < 1 or np.isnan(statistic):
        raise ValueError(
            f"the second model must contain the first, got {small.p} and {large.p} coefficients and log-likelihoods "
            f"{small.log_likelihood:.6g} and {large.log_likelihood:.6g}; put the smaller model first."
        )
    return Comparison(statistic=float(statistic), df=df, p_value=float(_p_value(df, statistic)))


def _refuse_other_methods(*fits: Fit | FitMany) -> None:
    for fit in fits:
        if fit.method != "ml":
            raise ValueError(
                f"mean models are compared by maximum likelihood, got a fit by method={fit.method!r}: restricted "
                "likelihoods of different covariates are not comparable; fit both by method='ml'."
            )


def _statistic(small: Fit | FitMany, large: Fit | FitMany) -> np.ndarray:
    """Twice the difference; NaN where it is negative by more than rounding."""
    low, high = np.asarray(small.log_likelihood), np.asarray(large.log_likelihood)
    difference = 2 * (high - low)
    return np.where(difference < -1e-9 * np.maximum(1.0, abs(low)), np.nan, np.maximum(difference, 0.0))


def _p_value(df: int, statistic: np.ndarray) -> np.ndarray:
    with host_settings():
        return np.asarray(jax.scipy.special.gammaincc(df / 2, statistic / 2))


def _each(small: FitMany, large: FitMany) -> Comparison:
    """The test of each of many datasets."""
    _refuse_other_methods(small, large)
    for fits in (small, large):
        if fits.log_likelihood is None:
            raise ValueError("the fits have no log_likelihood; ask fit_many for it in quantities.")
    if len(small) != len(large):
        raise ValueError(f"both must be of the same datasets, got {len(small)} and {len(large)}.")
    if small.names is not None and large.names is not None and not np.array_equal(small.names, large.names):
        raise ValueError("both must be of the same datasets in one order, got other names of datasets.")
    missing = [name for name in small.coefficients if name not in large.coefficients]
    df = len(large.coefficients) - len(small.coefficients)
    if missing or df < 1:
        raise ValueError(
            f"the second model must contain the first, got {small.coefficients} and {large.coefficients}; "
            f"put the smaller model first."
        )
    same = (small.rows == large.rows) & (small.group_counts == large.group_counts)
    statistic = np.where(same, _statistic(small, large), np.nan)
    return Comparison(statistic=statistic, df=df, p_value=_p_value(df, statistic))


def _refuse_not_nested(small: Fit, large: Fit) -> None:
    """An error where a covariate of the first is no combination of those of the second; for rows in one order."""
    inner, outer = small.observations, large.observations
    if inner.covariates is None or not np.array_equal(inner.values, outer.values):
        return
    table = np.ones((small.n, 1)) if outer.covariates is None else np.column_stack([np.ones(small.n), outer.covariates])
    table = table / abs(table).max(axis=0)
    wanted = inner.covariates / abs(inner.covariates).max(axis=0)
    left = abs(wanted - table @ np.linalg.lstsq(table, wanted)[0]).max(axis=0)
    outside = [repr(name) for name, gap in zip(small.coefficients[1:], left, strict=True) if gap > 1e-6]
    if outside:
        raise ValueError(
            f"the second model must contain the first, and has no combination of covariates equal to "
            f"{', '.join(outside)}; fit the second with all covariates of the first and more."
        )


def _same_rows(one: Fit, other: Fit) -> bool:
    """Whether the weights and the group means of the outcome agree, the latter up to the rounding of their sums."""
    weights = [np.ones(1) if fit.observations.weights is None else fit.observations.weights for fit in (one, other)]
    if weights[0].shape != weights[1].shape or (weights[0] != weights[1]).any():
        return False
    with host_settings():
        first, second = (np.asarray(group_means(fit.moments)) for fit in (one, other))
    return bool(np.allclose(first, second, rtol=1e-9, atol=1e-9 * float(np.ptp(first))))
