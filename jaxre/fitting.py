"""The front door for one dataset: arrays in, one fitted result out."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxre import report
from jaxre.coefficients import CoefficientTests, ContrastTest, coefficient_tests, contrast_test, independent
from jaxre.columns import numbers
from jaxre.components import Components
from jaxre.distributions import level_of
from jaxre.effects import predict
from jaxre.exact import ExactInterval, FTest, IccMeasures, exact_interval, f_test, icc_measures
from jaxre.inference import Inference, df_of, infer, information_of, on_host
from jaxre.information import Information, information
from jaxre.moments import GroupMoments, Strata, moments_of, stratify
from jaxre.null import LikelihoodRatioTest, likelihood_ratio_test
from jaxre.observations import Observations, observe
from jaxre.optimise import checked
from jaxre.packed import estimate_one
from jaxre.rows import HostRows
from jaxre.settings import own_settings
from jaxre.status import Status
from jaxre.wald import WaldInterval, wald_interval

METHODS = ("reml", "ml", "anova")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Fit:
    """A fitted one-way random-effects model: NumPy arrays and Python numbers, all in double precision.

    Printed, it is the summary of the fit. See `Estimate` for what each number is.
    """

    method: str
    """"reml", "ml" or "anova"."""
    between: float
    """[y^2], variance between groups; exactly 0 on the boundary."""
    within: float
    """[y^2], variance within groups."""
    between_untruncated: float
    """[y^2], analysis of variance before truncation at 0; equal to between for the other methods."""
    ratio: float
    """[1], between / within."""
    icc: float
    """[1], between / (between + within)."""
    beta: np.ndarray
    """(p,) [y/x], coefficients, the intercept first."""
    beta_se: np.ndarray
    """(p,) [y/x], standard errors."""
    beta_cov: np.ndarray
    """(p, p) [(y/x)^2], covariance of beta."""
    coefficients: tuple[str, ...]
    """names in the order of beta."""
    log_likelihood: float
    """[nat], restricted for REML, full for the other methods (for the analysis of variance at its estimates)."""
    status: Status
    """what became of the fit; `status.message` says it in words."""
    certified: bool
    """the optimum is proven to be the global one; True for the closed form of the analysis of variance."""
    optima: int
    """how many local optima the likelihood has."""
    optima_ratio: np.ndarray
    """(optima,) [1], their ratios, ascending."""
    gap: float
    """[nat], -2 log-likelihood of the second-best optimum less that of the best; infinite when there is one."""
    steps: int
    """steps of the optimiser."""
    groups: np.ndarray
    """(J,) group labels in order of first appearance."""
    sizes: np.ndarray
    """(J,) [1], rows in each group."""
    blup: np.ndarray
    """(J,) [y], predicted group effects."""
    blup_se: np.ndarray
    """(J,) [y], standard errors of the predictions, the uncertainty of beta included, that of the variances not."""
    n: int
    """rows used."""
    dropped: int
    """rows left out because of missing values."""
    moments: GroupMoments
    """sufficient statistics by group, in the order of `groups`, for the pure functions."""

    @property
    def p(self) -> int:
        """Number of coefficients."""
        return len(self.beta)

    @property
    def criterion(self) -> float:
        """[nat], -2 times the log-likelihood."""
        return -2 * self.log_likelihood

    @property
    def components(self) -> Components:
        """The two variances."""
        return Components(within=self.within, between=self.between)

    def summary(self, level: float = 0.95, df: str | None = None) -> str:
        """The fit in words and tables, with tests and intervals; also what `print` shows.

        level: [1], of the intervals. df: "kenward-roger" (the default for REML) or "satterthwaite".
        """
        return report.summary(self, inference=self.inference(level, df))

    def inference(self, level: float = 0.95, df: str | None = None) -> Inference:
        """Tests and intervals of the coefficients, the exact F test of between = 0, the exact interval of the ICC."""
        return infer(self.moments, self.components, self.method, df, level)

    def coefficient_tests(
        self, contrasts: ArrayLike | None = None, *, df: str | None = None, level: float = 0.95
    ) -> CoefficientTests:
        """t tests and intervals of the coefficients or of the rows of L beta; see `jaxre.coefficient_tests`."""
        words = {"df": df_of(self.method, df), **self._words}
        numbers = (self.components, None if contrasts is None else _rows(contrasts, self.p), level_of(level))
        return on_host(_coefficient_tests, self.moments, *numbers, **words)

    def contrast_test(self, contrasts: ArrayLike, *, df: str | None = None) -> ContrastTest:
        """Joint F test of L beta = 0; see `jaxre.contrast_test`."""
        words = {"df": df_of(self.method, df), **self._words}
        return on_host(contrast_test, self.moments, self.components, independent(_rows(contrasts, self.p)), **words)

    def information(self, kind: str = "observed") -> Information:
        """Information about (within, between), with standard errors; see `jaxre.information`."""
        return on_host(information, self.moments, self.components, kind=kind, restricted=self.method != "ml")

    def f_test(self) -> FTest:
        """Exact F test of between = 0; see `jaxre.f_test`."""
        return on_host(f_test, self.moments)

    def exact_interval(self, level: float = 0.95, *, side: str = "two-sided") -> ExactInterval:
        """Exact interval for ratio and ICC; see `jaxre.exact_interval`."""
        return on_host(exact_interval, self.moments, level_of(level), side=side)

    def likelihood_ratio_test(self, seed: int = 0, *, draws: int = 100_000) -> LikelihoodRatioTest:
        """Test of between = 0 against its simulated finite-sample null; see `jaxre.likelihood_ratio_test`."""
        if self.method == "anova":
            raise ValueError("the analysis of variance has no likelihood ratio: use f_test, or method='reml' or 'ml'.")
        with own_settings():
            key = jax.random.key(seed)
            found = likelihood_ratio_test(self.moments, key, draws=draws, restricted=self.method == "reml")
            return jax.tree.map(np.asarray, found)

    def wald_interval(self, parameter: str, level: float = 0.95) -> WaldInterval:
        """Interval from the curvature of the likelihood; see `jaxre.wald_interval`."""
        words = {"parameter": parameter, "restricted": self.method != "ml", "kind": information_of(self.method)}
        return on_host(_wald_interval, self.moments, self.components, level_of(level), **words)

    def icc_measures(self, level: float = 0.95) -> IccMeasures:
        """ICC(1,1) and ICC(1,k) with intervals; see `jaxre.icc_measures`."""
        return on_host(icc_measures, self.moments, level_of(level))

    @property
    def _words(self) -> dict[str, Any]:
        return {"restricted": self.method != "ml", "information": information_of(self.method)}

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return (
            f"Fit(method={self.method!r}, between={self.between:.6g}, within={self.within:.6g}, icc={self.icc:.6g}, "
            f"n={self.n}, groups={len(self.groups)}, status={self.status.name}, certified={self.certified})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Every number as plain Python lists and floats, for JSON; an infinite gap becomes None."""
        return report.plain(self)


def _coefficient_tests(
    strata: Strata, components: Components, contrasts: Any, level: Any, **words: Any
) -> CoefficientTests:
    return coefficient_tests(strata, components, contrasts, level=level, **words)


def _wald_interval(strata: Strata, components: Components, level: Any, parameter: str, **words: Any) -> WaldInterval:
    return wald_interval(strata, components, parameter, level, **words)


def _rows(contrasts: ArrayLike, p: int) -> np.ndarray:
    rows = np.atleast_2d(numbers(contrasts, "contrasts"))
    if rows.ndim != 2 or rows.shape[1] != p:
        raise ValueError(f"contrasts must have shape (q, {p}), a column for each coefficient, got {rows.shape}.")
    return rows


def fit(
    values: ArrayLike,
    groups: ArrayLike | Sequence[Hashable],
    covariates: ArrayLike | None = None,
    *,
    method: str = "reml",
    missing: str = "drop",
    optimizer: optax.GradientTransformation | None = None,
) -> Fit:
    """Fitted one-way random-effects model y = X beta + Z a + e.

    Checks the input, forms the moments, estimates, predicts the group effects. In double precision whatever JAX is set
    to, which it leaves as it is.

    Args:
        values: (n,) [y] outcome.
        groups: (n,) labels of any hashable type, or a column of a data frame.
        covariates: (n, p - 1) [x], no column of ones; in a data frame, names are kept, and text and
            categories become treatment-coded columns, as in R.
        method: "reml", "ml" or "anova".
        missing: "drop" leaves out rows in which anything is missing and reports how many; "raise" refuses them.
        optimizer: any optax transformation in the place of `newton()`, for "reml" and "ml".

    Returns:
        Fit.

    Errors:
        ValueError for input of the wrong shape, infinite values, missing ones under "raise", an unknown method, and for
        a dataset without an estimate: not identified, unbounded, rank-deficient covariates, constant outcome, or a
        result outside the range of doubles. TypeError for values that are not real numbers, or labels that cannot be
        hashed, or an optimizer that is no optax transformation.

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
    data = observe(values, groups, covariates, missing=missing)
    rows = HostRows(data.values, data.groups.slots, data.covariates, data.sizes, data.extremes)
    with np.errstate(all="ignore"):  # overflow and 0/0 end in a status
        moments = moments_of(rows)
        if Status(int(moments.status)).failed:
            raise ValueError(_refusal(Status(int(moments.status)), data, moments))
        estimate = estimate_one(stratify(moments), method, optimizer)
        status = Status(int(estimate.status))
        if status.failed:
            raise ValueError(_refusal(status, data, moments))
        predicted = predict(
            moments, estimate.ratio, estimate.between, estimate.within, estimate.gamma, estimate.gamma_cov
        )
        blup_se = np.sqrt(predicted.variance)
    if not np.isfinite(predicted.effect).all():
        raise ValueError(f"{Status.OUT_OF_RANGE.message}.")
    if data.groups.order is None:
        order: Any = slice(None)
    else:  # of first appearance
        order = data.groups.order
        moments = dataclasses.replace(moments, sizes=moments.sizes[order], means=moments.means[order])
    optima = estimate.optima_ratio[~np.isnan(estimate.optima_ratio)]
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
        optima_ratio=np.sort(optima),
        gap=float(estimate.gap),
        steps=int(estimate.steps),
        groups=data.groups.labels,
        sizes=data.sizes[order],
        blup=predicted.effect[order],
        blup_se=blup_se[order],
        n=len(data.values),
        dropped=data.dropped,
        moments=moments,
    )


def _refusal(status: Status, data: Observations, moments: GroupMoments) -> str:
    """Why there is no fit, with the numbers of this dataset."""
    sizes = moments.sizes[moments.sizes > 0]
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
