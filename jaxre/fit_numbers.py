"""The numbers of one fit, and what follows from them alone."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from jaxre.coefficients import place_of
from jaxre.components import Components
from jaxre.moments import GroupMoments, in_order
from jaxre.observations import Observations
from jaxre.profile_interval import PARAMETERS, Peak
from jaxre.search import KEPT_OPTIMA
from jaxre.status import Status


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FitNumbers:
    """A fitted one-way random-effects model: NumPy arrays and Python numbers, all in double precision.

    See `Estimate` for what each number is.
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
    slots: GroupMoments
    """`moments` in the order in which the labels are coded."""
    observations: Observations
    """the rows used; where nothing had to be converted or left out, the arrays that were passed, not copies."""

    @property
    def p(self) -> int:
        """Number of coefficients."""
        return len(self.beta)

    @functools.cached_property
    def moments(self) -> GroupMoments:
        """Sufficient statistics by group, in the order of `groups`, for the pure functions."""
        return in_order(self.slots, self.observations.groups.order)

    @property
    def criterion(self) -> float:
        """[nat], -2 times the log-likelihood."""
        return -2 * self.log_likelihood

    @property
    def components(self) -> Components:
        """The two variances."""
        return Components(within=self.within, between=self.between)

    def place_of(self, parameter: str | int) -> str | int:
        """A coefficient's place, also instead of its name; the name of any other parameter as it is."""
        if not isinstance(parameter, str):
            return place_of(parameter, self.p)
        named = parameter not in PARAMETERS and parameter in self.coefficients
        return self.coefficients.index(parameter) if named else parameter

    @property
    def peak(self) -> Peak:
        """The optimum and its rivals, where profile intervals begin."""
        ratios = np.full(KEPT_OPTIMA, np.nan)
        ratios[: len(self.optima_ratio)] = self.optima_ratio
        return Peak(
            ratio=self.ratio,
            between=self.between,
            within=self.within,
            beta=self.beta,
            optima=self.optima,
            optima_ratio=ratios,
            certified=self.certified,
            status=int(self.status),
        )
