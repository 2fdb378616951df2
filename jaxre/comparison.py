"""Comparison of two mean models by their likelihoods."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from jaxre.effects import group_means
from jaxre.fitting import Fit
from jaxre.settings import host_settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """A likelihood-ratio test of nested mean models; see `compare`."""

    statistic: float
    """[1], twice the difference of the log-likelihoods."""
    df: int
    """how many coefficients the larger model has more."""
    p_value: float
    """from chi-square on df degrees of freedom."""


def compare(small: Fit, large: Fit) -> Comparison:
    """Likelihood-ratio test of a mean model within a larger one, both fitted by maximum likelihood to the same rows.

    The statistic is asymptotically chi-square. With few groups it rejects too often for covariates that vary between
    groups; `Fit.contrast_test` with the degrees of freedom of Kenward and Roger is the better test then.

    Args:
        small: the model of the hypothesis, by method="ml".
        large: the model that contains it, by method="ml".

    Returns:
        Comparison.

    Errors:
        TypeError for anything but two fits. ValueError for fits by another method (restricted likelihoods of different
        covariates are densities of different contrasts of the data, and not comparable), of different rows, groups,
        weights or outcomes, with no more coefficients in the second, or where the second does not contain the first
        (for rows in another order, where it has the lower likelihood, so that it cannot).

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
    for fit in (small, large):
        if not isinstance(fit, Fit):
            raise TypeError(f"compare needs two results of jaxre.fit, got {type(fit).__name__}.")
        if fit.method != "ml":
            raise ValueError(
                f"mean models are compared by maximum likelihood, got a fit by method={fit.method!r}: restricted "
                "likelihoods of different covariates are not comparable; fit both by method='ml'."
            )
    if small.n != large.n or small.groups.tolist() != large.groups.tolist() or not _same_rows(small, large):
        raise ValueError(
            f"both fits must be of the same rows, got {small.n} rows in {len(small.groups)} groups and {large.n} in "
            f"{len(large.groups)}, or other values; leave out of both what is missing in one."
        )
    df, statistic = large.p - small.p, 2 * (large.log_likelihood - small.log_likelihood)
    rounding = 1e-9 * max(1.0, abs(small.log_likelihood))
    if df >= 1:
        _refuse_not_nested(small, large)
    if df < 1 or statistic < -rounding:
        raise ValueError(
            f"the second model must contain the first, got {small.p} and {large.p} coefficients and log-likelihoods "
            f"{small.log_likelihood:.6g} and {large.log_likelihood:.6g}; put the smaller model first."
        )
    statistic = max(statistic, 0.0)
    with host_settings():
        p_value = float(jax.scipy.special.gammaincc(df / 2, statistic / 2))
    return Comparison(statistic=statistic, df=df, p_value=p_value)


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
