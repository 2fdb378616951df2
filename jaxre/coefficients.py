"""t and F tests of the coefficients with Satterthwaite's and with Kenward and Roger's degrees of freedom."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxre.coefficient_error import CoefficientError, suiting
from jaxre.columns import numbers
from jaxre.components import Components
from jaxre.distributions import f_tails, level_of, t_p_value, t_quantile
from jaxre.eager import compiled_alone
from jaxre.moments import GroupMoments, Strata
from jaxre.records import record
from jaxre.rows import Array


@record
class CoefficientTests:
    """A t test and an interval for each coefficient or contrast; see `coefficient_tests`."""

    estimate: Array
    """(q,) [y/x], L beta."""
    standard_error: Array
    """(q,) [y/x]; with Kenward and Roger's, from their adjusted covariance."""
    df: Array
    """(q,) [1]."""
    t: Array
    """(q,) [1], estimate / standard_error."""
    p_value: Array
    """(q,) two-sided."""
    low: Array
    """(q,) [y/x], lower end of the interval."""
    high: Array
    """(q,) [y/x], upper end."""
    covariance: Array
    """(q, q) [(y/x)^2], of L beta."""


@record
class ContrastTest:
    """A joint F test of several contrasts; see `contrast_test`."""

    statistic: Array
    """() [1], F; with Kenward and Roger's, scaled by their lambda."""
    df1: Array
    """() [1], how many contrasts."""
    df2: Array
    """() [1]."""
    p_value: Array
    """()."""
    scaling: Array
    """() [1], lambda of Kenward and Roger; 1 with Satterthwaite's."""


@compiled_alone
def coefficient_tests(
    moments: GroupMoments | Strata,
    components: Components,
    contrasts: ArrayLike | None = None,
    *,
    df: str = "satterthwaite",
    level: float = 0.95,
    restricted: bool = True,
    information: str = "observed",
) -> CoefficientTests:
    """Student's t tests and intervals, one for each row of L beta, at estimated variance components.

    Satterthwaite: df = 2 f^2 / Var(f) with f the variance of the contrast as a function of (within, between), whose
    covariance is the inverse of the observed information, as in lmerTest. On the boundary between = 0 the likelihood
    has no curvature that would say how well between is known; there the expected information takes its place. lmerTest
    has n - p degrees of freedom then, as if between were known to be 0, which is anticonservative.

    Kenward and Roger: the covariance of beta with their correction for its bias, and df from the expected information
    of the restricted likelihood; for one contrast those of Satterthwaite with that information.

    Args:
        moments: sufficient statistics, by group or by stratum.
        components: the estimates; for Kenward and Roger's those of REML.
        contrasts: (q, p) or (p,) [x], rows of L; by default each coefficient.
        df: "satterthwaite" or "kenward-roger".
        level: [1], of the intervals.
        restricted: whether the estimates are those of REML (or the analysis of variance) or of maximum likelihood.
        information: "observed" or "expected", behind Satterthwaite's degrees of freedom; for estimates that are no
            optimum, as those of the analysis of variance, "expected".

    Returns:
        CoefficientTests with q entries.

    Errors:
        ValueError for a level outside (0, 1), contrasts of another length than p, an unknown df, or Kenward and Roger's
        without REML. Degenerate moments give NaN.

    Source: Satterthwaite (1946), Biometrics Bulletin 2, 110-114; Kenward and Roger (1997), Biometrics 53, 983-997;
        Kuznetsova, Brockhoff and Christensen (2017), Journal of Statistical Software 82(13).

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
        >>> tests = jaxre.coefficient_tests(moments, jaxre.reml(moments), df="kenward-roger")
        >>> print(f"{tests.df[0]:.4f} {tests.p_value[0]:.4f}")
        2.0000 0.0591
    """
    at = CoefficientError(moments, components, df, restricted, information)
    rows, size = at.rows(contrasts)
    level = level_of(level)
    covariance, (spread, *changes) = at.covariance(rows), at.spreads(rows)
    freedom = at.freedom(jnp.diagonal(spread), [jnp.diagonal(change) for change in changes])
    estimate = at.estimate(contrasts)
    error = jnp.sqrt(jnp.diagonal(covariance)) * size
    t = estimate / error
    margin = t_quantile(level, freedom) * error
    return CoefficientTests(
        estimate=estimate,
        standard_error=error,
        df=freedom,
        t=t,
        p_value=t_p_value(t, freedom),
        low=estimate - margin,
        high=estimate + margin,
        covariance=covariance * size * size[:, None],
    )


def contrast_test(
    moments: GroupMoments | Strata,
    components: Components,
    contrasts: ArrayLike,
    *,
    df: str = "satterthwaite",
    restricted: bool = True,
    information: str = "observed",
) -> ContrastTest:
    """Joint F test of L beta = 0, with the degrees of freedom of Satterthwaite or of Kenward and Roger.

    Satterthwaite's: the contrasts are turned to be uncorrelated, and the mean of their squared t statistics is F with
    df2 = sum nu / (nu - 2) / sum 1 / (nu - 2) from their own degrees of freedom nu (2 where one is below 2), as in
    lmerTest.

    Args:
        moments: sufficient statistics, by group or by stratum.
        components: the estimates; for Kenward and Roger's those of REML.
        contrasts: (q, p) [x], linearly independent rows of L.
        df: "satterthwaite" or "kenward-roger".
        restricted: whether the estimates are those of REML (or the analysis of variance) or of maximum likelihood.
        information: as in `coefficient_tests`.

    Returns:
        ContrastTest.

    Errors:
        As `coefficient_tests`; ValueError for concrete contrasts that depend on each other.

    Source: Kenward and Roger (1997), Biometrics 53, 983-997; Kuznetsova, Brockhoff and Christensen (2017), Journal of
        Statistical Software 82(13), section 4.2.

    Example:
        >>> import jaxre
        >>> import numpy as np
        >>> y = [3.0, 5.0, 11.0, 9.5, 7.0, 6.0, 8.0]
        >>> moments = jaxre.group_moments(y, [0, 0, 1, 1, 2, 2, 2], np.array([[0, 1, 0, 1, 2, 3, 4.0]]).T)
        >>> test = jaxre.contrast_test(moments, jaxre.reml(moments), [[0, 1]], df="kenward-roger")
        >>> print(test.df1, bool(0 < test.p_value < 1))
        1.0 True
    """
    if isinstance(contrasts, (list, tuple, np.ndarray, jax.Array)) and not isinstance(contrasts, jax.core.Tracer):
        rows = np.atleast_2d(np.asarray(contrasts, float))
        contrasts = independent(rows) if rows.ndim == 2 else rows
    return _contrast_test(moments, components, contrasts, df, restricted, information)


@compiled_alone
def _contrast_test(
    moments: GroupMoments | Strata,
    components: Components,
    contrasts: ArrayLike,
    df: str,
    restricted: bool,
    information: str,
) -> ContrastTest:
    at = CoefficientError(moments, components, df, restricted, information)
    rows, sizes = at.rows(contrasts)
    size = sizes.max()  # one for all, since turning them depends on how they are weighed against each other
    rows, q = rows * (sizes / size)[:, None], rows.shape[0]
    estimate, (spread, *changes) = at.estimate(contrasts) / size, at.spreads(rows)
    if df == "kenward-roger":
        return _kenward_roger(estimate, at.covariance(rows), spread, changes, at.uncertainty)
    variances, turn = jnp.linalg.eigh(spread)
    squares = (turn.T @ estimate) ** 2 / variances
    nu = at.freedom(variances, [jnp.diagonal(turn.T @ change @ turn) for change in changes])
    excess = jnp.where(nu > 2, nu - 2, 1.0)
    df2 = jnp.where((nu > 2).all(), (nu / excess).sum() / (1 / excess).sum(), 2.0) if q > 1 else nu[0]
    statistic = squares.mean()
    df1 = jnp.asarray(q, statistic.dtype)
    return ContrastTest(
        statistic=statistic,
        df1=df1,
        df2=df2 + 0 * statistic,
        p_value=f_tails(statistic, df1, df2)[1],
        scaling=jnp.ones_like(statistic),
    )


def _kenward_roger(
    estimate: Array, adjusted: Array, spread: Array, changes: list[Array], uncertainty: Array
) -> ContrastTest:
    """The scaled F statistic and its df2 from the first two moments of F, matched as Kenward and Roger do."""
    q = len(estimate)
    turned = [jnp.linalg.solve(spread, change) for change in changes]
    pairs = [(i, j) for i in range(2) for j in range(2)]
    a1 = sum(uncertainty[i, j] * jnp.trace(turned[i]) * jnp.trace(turned[j]) for i, j in pairs)
    a2 = sum(uncertainty[i, j] * jnp.trace(turned[i] @ turned[j]) for i, j in pairs)
    b = (a1 + 6 * a2) / (2 * q)
    g = ((q + 1) * a1 - (q + 4) * a2) / ((q + 2) * a2)
    below = 3 * q + 2 * (1 - g)
    c1, c2, c3 = g / below, (q - g) / below, (q + 2 - g) / below
    shrunk = 1 - a2 / q  # 1 / E*
    rho = (1 + c1 * b) / ((1 - c2 * b) ** 2 * (1 - c3 * b)) * shrunk**2 / q
    df2 = 4 + (q + 2) / (q * rho - 1) if q > 1 else 2 / a2
    scaling = df2 * shrunk / (df2 - 2) if q > 1 else jnp.ones_like(a2)
    statistic = scaling * (estimate @ jnp.linalg.solve(adjusted, estimate)) / q
    df1 = jnp.asarray(q, statistic.dtype)
    return ContrastTest(statistic=statistic, df1=df1, df2=df2, p_value=f_tails(statistic, df1, df2)[1], scaling=scaling)


def contrast_rows(contrasts: ArrayLike, p: int | None = None) -> np.ndarray:
    """Concrete contrasts as rows of L, of so many coefficients if that is known."""
    given = numbers(contrasts, "contrasts")
    _refuse_no_numbers(given)
    rows: np.ndarray = suiting(np.atleast_2d(given), p)
    return rows


def independent(rows: np.ndarray) -> np.ndarray:
    """Concrete contrasts, none of which the others imply."""
    _refuse_no_numbers(rows)
    rank = np.linalg.matrix_rank(rows)
    if rank < len(rows):
        raise ValueError(
            f"contrasts must be linearly independent, got {len(rows)} rows of rank {rank}; leave some out."
        )
    return rows


def _refuse_no_numbers(rows: np.ndarray) -> None:
    if rows.size == 0 or not np.isfinite(rows).all():
        raise ValueError(f"contrasts must have at least one row of finite numbers, got {rows.tolist()}.")


def place_of(parameter: Any, p: int) -> int:
    """The place of a coefficient, if there is one."""
    if not hasattr(parameter, "__index__"):
        raise TypeError(f"parameter must be a name, or the place of a coefficient, got {parameter!r}.")
    place = operator.index(parameter)
    if isinstance(parameter, bool) or not 0 <= place < p:
        raise ValueError(f"a coefficient's place must be from 0 to {p - 1}, got {parameter!r}.")
    return place
