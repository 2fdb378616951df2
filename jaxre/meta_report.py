"""A meta-analysis in words."""

from __future__ import annotations

import math

import numpy as np

from jaxre.report import CRITERIA, Fitted, endings, fixed, number, p_value, table_of

TITLES = {
    "reml": "REML",
    "ml": "maximum likelihood",
    "dl": "DerSimonian and Laird's method",
    "he": "Hedges' method",
    "pm": "Paule and Mandel's method",
}


def summary_of_meta(fit: Fitted) -> str:
    """The summary of a meta-analysis: heterogeneity, coefficients, prediction, status and certificate."""
    percent, several = f"{100 * fit.level:g}%", len(fit.coefficients) > 1
    ends = [f"{50 * (1 - fit.level):g} %", f"{50 * (1 + fit.level):g} %"]
    error = "" if math.isnan(fit.tau2_se) else f" (standard error {number(fit.tau2_se)})"
    left_out = f"; {fit.dropped} with something missing left out" if fit.dropped else ""
    knapp = fit.test == "knapp-hartung"
    kind = f"Knapp and Hartung's t on {fit.df:g} degrees of freedom" if knapp else "normal"
    columns = (fit.beta, fit.beta_se, fit.statistic, fit.p_value, fit.beta_low, fit.beta_high)
    rows = [
        [name, number(b), number(se), f"{t:.3f}", p_value(p), number(low), number(high)]
        for name, (b, se, t, p, low, high) in zip(fit.coefficients, np.stack(columns, axis=1).tolist(), strict=True)
    ]
    letter = "t" if knapp else "z"
    lines = [
        f"Random-effects meta-{'regression' if several else 'analysis'} by {TITLES[fit.method]}",
        f"{fit.studies} studies{left_out}",
        "",
        f"Variance between studies, tau2: {number(fit.tau2)}{error}; {percent} Q-profile interval "
        f"{number(fit.tau2_low)} to {number(fit.tau2_high)}",
        f"tau {number(math.sqrt(fit.tau2))}, I2 {100 * fit.i2:.2f} %, H2 {fit.h2:.4g}",
        f"{'Residual heterogeneity' if several else 'Heterogeneity'}: Q = {number(fit.q)} on {fit.q_df:g} degrees of "
        f"freedom, p = {p_value(fit.q_p_value)}",
        "",
        f"Coefficients, {kind}:",
        *table_of(["Coefficient", "Estimate", "Std.Error", f"{letter} value", f"Pr(>|{letter}|)", *ends], rows),
    ]
    if not several:
        lines.append(
            f"{percent} prediction interval for the effect in a new study: {number(fit.prediction_low)} to "
            f"{number(fit.prediction_high)}"
        )
    proof = "closed form" if fit.method in ("dl", "he") else "the only root" if fit.method == "pm" else None
    if proof is None:
        proof = "NOT certified: the search could not prove that this optimum is the global one"
        if fit.certified:
            proof = "proven global" + (
                ", the only local optimum" if fit.optima == 1 else f"; {fit.optima} local optima"
            )
    criterion = CRITERIA["reml" if fit.method == "reml" else "ml"]
    message = _of_tau2(fit.status.message)
    return "\n".join(
        [*lines, "", f"{criterion}: {fixed(-2 * fit.log_likelihood)}", f"Status: {message}", f"Certificate: {proof}"]
    )


def summary_of_metas(fits: Fitted) -> str:
    """How many of several meta-analyses ended how, in words."""
    kind = f"meta-{'regressions' if len(fits.coefficients) > 1 else 'analyses'} by {TITLES[fits.method]}"
    lines = [
        f"Random-effects {kind}: {len(fits):,} dataset{'s' * (len(fits) != 1)}",
        f"coefficients: {', '.join(fits.coefficients)}",
    ]
    return "\n".join([*lines, *map(_of_tau2, endings(fits))])


def _of_tau2(message: str) -> str:
    """A message in the words of meta-analysis."""
    return message.replace("the estimate of between", "the estimate of tau2").replace("between", "tau2")
