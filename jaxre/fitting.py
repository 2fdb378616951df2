"""The front door for one dataset: arrays in, one fitted result out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from jaxre.effects import predict
from jaxre.fitted import Fit
from jaxre.intercept import host_moments
from jaxre.observations import Observations, observe
from jaxre.optimise import Optimizer, checked
from jaxre.packed import estimate_one
from jaxre.rows import HostRows
from jaxre.status import Status
from jaxre.strata import stratify

METHODS = ("reml", "ml", "anova")


def fit(
    values: ArrayLike,
    groups: ArrayLike | Sequence[Hashable],
    covariates: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    method: str = "reml",
    missing: str = "drop",
    optimizer: Optimizer | None = None,
) -> Fit:
    """Fitted one-way random-effects model y = X beta + Z a + e.

    Checks the input, forms the moments, estimates, predicts the group effects. In double precision whatever JAX is set
    to, which it leaves as it is.

    Args:
        values: (n,) [y] outcome.
        groups: (n,) labels of any hashable type, or a column of a data frame.
        covariates: (n, p - 1) [x], no column of ones; in a data frame, names are kept, and text and
            categories become treatment-coded columns, as in R.
        weights: (n,) [1] precision of each row: its variance within groups is within / weight, as in lme4. All > 0, and
            from 1e-100 to 1e100.
        method: "reml", "ml" or "anova".
        missing: "drop" leaves out rows in which anything is missing and reports how many; "raise" refuses them.
        optimizer: any optax transformation in the place of `newton()`, for "reml" and "ml".

    Returns:
        Fit.

    Errors:
        ValueError for input of the wrong shape, infinite values, weights that are not positive, missing ones under
        "raise", an unknown method, and for a dataset without an estimate: not identified, unbounded, rank-deficient
        covariates, constant outcome, or a result outside the range of doubles. TypeError for values that are not real
        numbers, or labels that cannot be hashed, or an optimizer that is no optax transformation.

    Source: Searle, Casella and McCulloch (1992), Variance Components.

    Example:
        >>> import jaxre
        >>> result = jaxre.fit([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], ["a", "a", "b", "b", "c", "c"])
        >>> print(f"{result.between:.6f} {result.within:.6f} {result.certified}")
        8.333333 1.500000 True
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be one of 'reml', 'ml' or 'anova', got {method!r}.")
    if optimizer is not None and method == "anova":
        raise ValueError(
            "the analysis of variance is a closed form: leave optimizer out, or use method='reml' or 'ml'."
        )
    if optimizer is not None:
        checked(optimizer)
    return fit_observed(observe(values, groups, covariates, weights=weights, missing=missing), method, optimizer)


def fit_observed(data: Observations, method: str, optimizer: Optimizer | None = None) -> Fit:
    """The same of observations that have passed their checks."""
    rows = HostRows(data.values, data.groups.slots, data.covariates, data.sizes, data.extremes, data.weights)
    with np.errstate(all="ignore"):  # overflow and 0/0 end in a status
        moments = host_moments(rows)
        if Status(int(moments.status)).failed:
            raise ValueError(_refusal(Status(int(moments.status)), data))
        estimate = estimate_one(stratify(moments), method, optimizer)
        status = Status(int(estimate.status))
        if status.failed:
            raise ValueError(_refusal(status, data))
        predicted = predict(
            moments.sizes,
            moments.means,
            moments.frame.scale,
            estimate.ratio,
            estimate.between,
            estimate.within,
            estimate.gamma,
            estimate.gamma_cov,
        )
        blup_se = np.sqrt(predicted.variance)
    if not np.isfinite(predicted.effect).all():
        raise ValueError(f"{Status.OUT_OF_RANGE.message}.")
    order: Any = slice(None) if data.groups.order is None else data.groups.order  # of first appearance
    optima = sorted(ratio for ratio in estimate.optima_ratio.tolist() if ratio == ratio)
    return Fit(
        method=method,
        between=float(estimate.between),
        within=float(estimate.within),
        between_untruncated=float(estimate.between_untruncated),
        ratio=float(estimate.ratio),
        icc=float(estimate.icc),
        beta=estimate.beta,
        beta_se=estimate.beta_se,
        beta_cov=estimate.beta_cov,
        coefficients=("(Intercept)", *data.names),
        log_likelihood=float(estimate.log_likelihood),
        status=status,
        certified=bool(estimate.certified),
        optima=int(estimate.optima),
        optima_ratio=np.array(optima),
        gap=float(estimate.gap),
        steps=int(estimate.steps),
        groups=data.groups.labels,
        sizes=data.sizes[order],
        blup=predicted.effect[order],
        blup_se=blup_se[order],
        n=len(data.values),
        dropped=data.dropped,
        slots=moments,
        observations=data,
    )


def _refusal(status: Status, data: Observations) -> str:
    """Why there is no fit, with the numbers of this dataset."""
    sizes = data.sizes[data.sizes > 0]
    least, most = int(sizes.min()), int(sizes.max())
    facts = f"{len(data.values)} rows in {len(sizes)} {'group' if len(sizes) == 1 else 'groups'} of {least}"
    facts += f" to {most}" if most > least else ""
    if status == Status.CONSTANT_OUTCOME:
        facts += f", every value {data.values[0]:.6g}"
    elif status == Status.RANK_DEFICIENT:
        low, high = data.extremes
        constant = [repr(name) for name, a, b in zip(data.names, low, high, strict=False) if a == b]
        facts += f"; constant: {', '.join(constant)}" if constant else ""
    elif status == Status.NOT_IDENTIFIED and len(sizes) == 1:
        facts += "; a single group"
    elif status == Status.NOT_IDENTIFIED and sizes.max() == 1:
        facts += "; all groups of size one"
    return f"{status.message} (got {facts})."
