"""What can be asked of one fit: tests, intervals, predictions, criticism, tables, each by a pure function."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxre import report, tidy
from jaxre.bootstrap import bootstrap, variances_and_mean
from jaxre.bootstrap_result import Bootstrap
from jaxre.checks import HomogeneityCheck, NormalityCheck, homogeneity_check, normality_check
from jaxre.coefficients import (
    CoefficientTests,
    ContrastTest,
    coefficient_tests,
    contrast_rows,
    contrast_test,
    independent,
)
from jaxre.columns import Covariates
from jaxre.components import Components
from jaxre.criteria import Criteria, criteria
from jaxre.distributions import level_of
from jaxre.exact import ExactInterval, FTest, exact_interval, f_test
from jaxre.fit_numbers import FitNumbers
from jaxre.group_effects import GroupEffects, expected_ranks, group_effects
from jaxre.icc import IccMeasures, icc_measures
from jaxre.inference import (
    Inference,
    as_numpy,
    df_of,
    infer,
    information_of,
    on_groups,
    on_host,
    on_many,
    profile_of_one,
)
from jaxre.influence import Influence, influence
from jaxre.information import Information, information
from jaxre.moments import GroupMoments
from jaxre.null import LikelihoodRatioTest, likelihood_ratio_test
from jaxre.prediction import Predictions, predictions, rows_asked
from jaxre.profile_interval import ProfileInterval, checked, profile_interval
from jaxre.replicates import Statistic
from jaxre.residuals import Residuals, residuals
from jaxre.settings import host_settings
from jaxre.wald import WaldInterval, wald_interval

MOST_RANKED = 10_000  # groups whose expected ranks are in a table unasked


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Fit(FitNumbers):
    """A fitted one-way random-effects model, and what can be asked of it; the fields are those of `FitNumbers`.

    Printed, it is the summary of the fit.
    """

    def summary(self, level: float = 0.95, df: str | None = None, *, groups: bool = False) -> str:
        """The fit in words and tables, with tests and intervals; also what `print` shows.

        level: [1], of the intervals. df: "kenward-roger" (the default for REML) or "satterthwaite". groups: whether to
        list the groups too.
        """
        return report.summary(self, self.inference(level, df), self.tidy_groups(level) if groups else None)

    def inference(self, level: float = 0.95, df: str | None = None) -> Inference:
        """What `print` shows: tests and intervals of coefficients and variances, the exact F test, criteria."""
        return infer(self.moments, self.components, self.peak, self.method, df, level)

    def coefficient_tests(
        self, contrasts: ArrayLike | None = None, *, df: str | None = None, level: float = 0.95
    ) -> CoefficientTests:
        """t tests and intervals of the coefficients or of the rows of L beta; see `jaxre.coefficient_tests`."""
        words, named = {"df": df_of(self.method, df), **self._words}, {"level": level_of(level)}
        rows = None if contrasts is None else contrast_rows(contrasts, self.p)
        return on_host(coefficient_tests, self.moments, self.components, rows, named=named, **words)

    def contrast_test(self, contrasts: ArrayLike, *, df: str | None = None) -> ContrastTest:
        """Joint F test of L beta = 0; see `jaxre.contrast_test`."""
        words, rows = {"df": df_of(self.method, df), **self._words}, independent(contrast_rows(contrasts, self.p))
        return on_host(contrast_test, self.moments, self.components, rows, **words)

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
        with host_settings():
            key = jax.random.key(seed)
            found = likelihood_ratio_test(self.moments, key, draws=draws, restricted=self.method == "reml")
            return as_numpy(found)

    def wald_interval(self, parameter: str | int, level: float = 0.95) -> WaldInterval:
        """Interval from the curvature of the likelihood; see `jaxre.wald_interval`.

        Coefficients by name or place; one that is named like a variance goes by its place.
        """
        words = {
            "parameter": self.place_of(parameter),
            "restricted": self.method != "ml",
            "kind": information_of(self.method),
        }
        return on_host(wald_interval, self.moments, self.components, named={"level": level_of(level)}, **words)

    def icc_measures(self, level: float = 0.95) -> IccMeasures:
        """ICC(1,1) and ICC(1,k) with intervals; see `jaxre.icc_measures`."""
        return on_host(icc_measures, self.moments, level_of(level))

    def profile_interval(
        self, parameter: str | int, level: float = 0.95, *, restricted: bool | None = None
    ) -> ProfileInterval:
        """Profile-likelihood interval of a variance, ratio, ICC or coefficient; see `jaxre.profile_interval`.

        parameter: as there, or the name of a coefficient (one that is named like a variance goes by its place).
        restricted: by default that of the method, and the full likelihood for a coefficient, of which the restricted
        one has no profile.
        """
        if self.method == "anova":
            raise ValueError(
                "the analysis of variance maximises no likelihood: use exact_interval, bootstrap, or method='reml'."
            )
        parameter = self.place_of(parameter)
        if restricted is None:
            restricted = self.method == "reml" and isinstance(parameter, str)
        level, parameter = level_of(level), checked(parameter, self.p, restricted)
        if restricted == (self.method == "reml"):
            return profile_of_one(self.moments, self.peak, parameter, level, restricted)
        with host_settings(), np.errstate(all="ignore"):
            return as_numpy(profile_interval(self.moments, parameter, level, restricted=restricted))

    def bootstrap(
        self,
        statistic: Statistic = variances_and_mean,
        *,
        seed: int = 0,
        replicates: int = 1000,
        level: float = 0.95,
        kind: str = "percentile",
        progress: bool | None = None,
    ) -> Bootstrap:
        """Parametric bootstrap of any function of a fit; see `jaxre.bootstrap`."""
        with host_settings():
            key = jax.random.key(seed)
        return bootstrap(
            self.moments,
            key,
            statistic,
            replicates=replicates,
            method=self.method,
            level=level,
            kind=kind,
            progress=progress,
        )

    def group_effects(self, level: float = 0.95) -> GroupEffects:
        """BLUPs and predicted means of the groups with their mean squared errors; see `jaxre.group_effects`."""
        return self._groups(level, False)[0]

    def expected_ranks(self) -> np.ndarray:
        """(J,) expected rank of each group; see `jaxre.expected_ranks`."""
        return self._groups(0.95, True)[1]

    def predict(
        self,
        groups: ArrayLike | Sequence[Hashable],
        covariates: Any = None,
        *,
        weights: ArrayLike | None = None,
        allow_new: bool = False,
        level: float = 0.95,
    ) -> Predictions:
        """Predicted means and observations, in groups of the data and in new ones; see `jaxre.predictions`.

        groups: (m,) labels; one that the fit does not know is an error unless allow_new, and then a new group.
        covariates: (m, p - 1), or a data frame with the columns of the fit, text coded as it was there. weights: (m,)
        precisions of the observations asked for, 1 without.
        """
        known = Covariates(np.zeros((0, self.p - 1)), self.coefficients[1:], self.observations.levels)
        rows = rows_asked(self.groups, known, groups, covariates, weights, allow_new=allow_new)
        named = {"level": level_of(level)}
        return on_many(predictions, self.moments, self.components, rows=rows, named=named, method=self.method)

    def residuals(self) -> Residuals:
        """Residuals, marginal and conditional, fitted values and leverage of the rows used; see `jaxre.residuals`."""
        rows = self.observations
        with host_settings(), np.errstate(all="ignore"):
            found = residuals(
                self.moments, self.components, rows.values, rows.groups.codes, rows.covariates, rows.weights
            )
            return as_numpy(found)

    def influence(self) -> Influence:
        """What leaving out each group does to every parameter, by exact refits; see `jaxre.influence`."""
        rows, count = self.observations, len(self.groups)
        with host_settings(), np.errstate(all="ignore"):
            words: dict[str, Any] = {"weights": rows.weights, "num_groups": count, "method": self.method}
            found = influence(rows.values, rows.groups.codes, rows.covariates, **words)
            return as_numpy(found)

    def criteria(self) -> Criteria:
        """AIC, BIC, conditional AIC, marginal and conditional R^2; see `jaxre.criteria`."""
        return on_host(criteria, self.moments, self.components, method=self.method)

    def homogeneity_check(self) -> HomogeneityCheck:
        """Brown and Forsythe's test of equal variances within the groups; see `jaxre.homogeneity_check`.

        With weights, of conditional residuals times the roots of the weights, which make their variances equal.
        """
        rows, of_rows = self.observations, self.residuals()
        even = of_rows.marginal if rows.weights is None else of_rows.conditional * np.sqrt(rows.weights)
        with host_settings():
            found = homogeneity_check(even, rows.groups.codes, len(self.groups))
            return as_numpy(found)

    def normality_check(self, of: str = "residuals") -> NormalityCheck:
        """Shapiro and Francia's test of the standardised "residuals" or "effects"; see `jaxre.normality_check`."""
        if of not in ("residuals", "effects"):
            raise ValueError(f"of must be 'residuals' or 'effects', got {of!r}.")
        values = self.residuals().conditional_standardised if of == "residuals" else self.group_effects().standardised
        with host_settings():
            return as_numpy(normality_check(values))

    def tidy(self, level: float = 0.95, df: str | None = None) -> dict[str, np.ndarray]:
        """Columns of a table with a row for each coefficient and each variance parameter."""
        return tidy.terms(self, self.inference(level, df))

    def glance(self) -> dict[str, np.ndarray]:
        """Columns of a table with one row, for the fit as a whole."""
        return tidy.glance(self, self.inference())

    def tidy_groups(self, level: float = 0.95) -> dict[str, np.ndarray]:
        """Columns of a table with a row for each group; expected ranks up to 10,000 groups, being O(groups^2)."""
        return tidy.groups(self, *self._groups(level, len(self.groups) <= MOST_RANKED))

    def augment(self) -> dict[str, np.ndarray]:
        """Columns of a table with a row for each row used: fitted values, residuals, leverage."""
        return tidy.rows(self)

    def _groups(self, level: float, ranked: bool) -> tuple[GroupEffects, Any]:
        words, named = {"method": self.method, "ranked": ranked}, {"level": level_of(level)}
        return on_groups(_effects_and_ranks, self.moments, self.components, named=named, **words)

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


def _effects_and_ranks(
    moments: GroupMoments, components: Components, level: Any, method: str, ranked: bool
) -> tuple[GroupEffects, Any]:
    effects = group_effects(moments, components, method=method, level=level)
    return effects, expected_ranks(effects) if ranked else None
