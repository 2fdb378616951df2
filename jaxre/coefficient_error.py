"""The error of the coefficients at estimated variances, by Satterthwaite's or by Kenward and Roger's method."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxre.components import Components
from jaxre.effects import Gls, NormalEquations, gls, matmul, normal_equations
from jaxre.information import expected, inverse_2, observed
from jaxre.moments import GroupMoments, Strata
from jaxre.profile import degrees, profile_of
from jaxre.rows import Array
from jaxre.status import Status
from jaxre.strata import as_strata

DF = ("satterthwaite", "kenward-roger")


class CoefficientError:
    """Generalised least squares at the estimates, and how its covariance changes with the two variances."""

    def __init__(
        self, moments: GroupMoments | Strata, components: Components, df: str, restricted: bool, information: str
    ) -> None:
        if information not in ("observed", "expected"):
            raise ValueError(f"information must be 'observed' or 'expected', got {information!r}.")
        if df not in DF:
            raise ValueError(f"df must be one of {', '.join(map(repr, DF))}, got {df!r}.")
        if df == "kenward-roger" and not restricted:
            raise ValueError(
                "the degrees of freedom of Kenward and Roger are those of REML: fit by method='reml', "
                "or use df='satterthwaite'."
            )
        self.adjust = df == "kenward-roger"
        strata = as_strata(moments)
        equations, self.ratio = normal_equations(strata), jnp.asarray(components.ratio)
        self.frame, self.fit = strata.frame, gls(equations, self.ratio)
        scaled = components.within * self.frame.scale * self.frame.scale
        self.within = jnp.where(strata.status == Status.INTERIOR, scaled, jnp.nan)
        at, n = profile_of(equations, self.fit, self.ratio, restricted), degrees(strata, restricted)
        of_expected = expected(at, n, self.within)
        interior = (self.ratio > 0) & (not self.adjust and information == "observed")
        self.uncertainty = inverse_2(jnp.where(interior, observed(at, n, self.within), of_expected))
        self.first, self.second = _powers(equations, self.fit)

    def rows(self, contrasts: ArrayLike | None) -> tuple[Array, Array]:
        """(q, p) contrasts of gamma, and (q,) sizes by which they have been divided."""
        transform = self.frame.transform
        rows = transform if contrasts is None else _contrasts(contrasts, len(transform)) @ transform
        size = abs(rows).max(axis=1)
        return rows / size[:, None], size

    def estimate(self, contrasts: ArrayLike | None) -> Array:
        """(q,) L beta."""
        beta = self.frame.origin + self.frame.transform @ self.fit.gamma
        return beta if contrasts is None else _contrasts(contrasts, len(beta)) @ beta

    def spreads(self, rows: Array) -> tuple[Array, Array, Array]:
        """(q, q) L Phi L' and its derivatives in within and between: of within C, C (M - ratio A) C and C A C."""
        pulled = rows @ self.fit.inverse
        spread = pulled @ rows.T
        of_between = pulled @ self.first @ pulled.T
        return self.within * spread, spread - self.ratio * of_between, of_between

    def freedom(self, variances: Array, changes: list[Array]) -> Array:
        """(q,) Satterthwaite's 2 f^2 / Var(f) of (q,) variances f that change so with within and between."""
        gradient = jnp.stack(changes)
        return 2 * variances**2 / (gradient * matmul(self.uncertainty, gradient)).sum(axis=0)

    def covariance(self, rows: Array) -> Array:
        """(q, q) of L beta; Kenward and Roger add 2 Phi sum W_ij (Q_ij - P_i Phi P_j) Phi."""
        inverse, ratio = self.fit.inverse, self.ratio
        plain = self.within * (rows @ inverse @ rows.T)
        if not self.adjust:
            return plain
        # with M, A and B the sums of w, w^2 and w^3; V_i is I or ZZ'
        a, b = self.first, self.second
        gap = b - a @ inverse @ a  # Q_bb - P_b Phi P_b; the others are -ratio and ratio^2 times it
        w = self.uncertainty / self.within
        weight = w[1, 1] - 2 * ratio * w[0, 1] + ratio * ratio * w[0, 0]
        return plain + 2 * weight * (rows @ inverse @ gap @ inverse @ rows.T)


def _powers(equations: NormalEquations, fit: Gls) -> tuple[Array, Array]:
    """X'H^-1 ZZ' H^-1 X and X'H^-1 ZZ' H^-1 ZZ' H^-1 X."""
    p, w = len(fit.gamma), fit.weights
    products = equations.products[:, :p, :p].reshape(len(w), p * p)
    second, third = matmul(jnp.stack([w * w, w * w * w]), products)
    return second.reshape(p, p), third.reshape(p, p)


def _contrasts(contrasts: ArrayLike, p: int) -> Array:
    return suiting(jnp.atleast_2d(jnp.asarray(contrasts, float)), p)


def suiting(rows: Array, p: int | None) -> Array:
    """Contrasts, if they are rows of L for so many coefficients, any number of them where that is not known."""
    if rows.ndim != 2 or p not in (None, rows.shape[1]):
        columns = "p" if p is None else p
        raise ValueError(f"contrasts must have shape (q, {columns}), a column for each coefficient, got {rows.shape}.")
    return rows
