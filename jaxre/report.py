"""The only place where numbers become text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaxre.status import Status

TITLES = {
    "reml": "Linear mixed model fit by REML",
    "ml": "Linear mixed model fit by maximum likelihood",
    "anova": "Linear mixed model fit by analysis of variance",
}
CRITERIA = {
    "reml": "REML criterion (-2 restricted log-likelihood)",
    "ml": "-2 log-likelihood",
    "anova": "-2 log-likelihood at these estimates",
}


NAMES = {"kenward-roger": "Kenward and Roger", "satterthwaite": "Satterthwaite"}

Fitted = Any  # a jaxre.Fit: its module imports this one, so that printing a fit is its summary


def summary(fit: Fitted, outcome: str = "y", group: str = "group", inference: Any = None) -> str:
    """The summary of a fit as users of lme4 know it, with tests, the status and the certificate in words."""
    inference = inference or fit.inference()
    names = " + ".join(["1", *fit.coefficients[1:]])
    sizes = f"{fit.sizes.min()} to {fit.sizes.max()}" if fit.sizes.min() < fit.sizes.max() else f"{fit.sizes[0]}"
    lines = [
        TITLES[fit.method],
        f"Formula: {outcome} ~ {names} + (1 | {group})",
        f"{fit.n} observations in {len(fit.groups)} groups of {sizes}" + _dropped(fit.dropped),
        "",
        f"{CRITERIA[fit.method]}: {_fixed(-2 * fit.log_likelihood)}",
        "",
        "Random effects:",
        *_table(
            ["Group", "Variance", "Std.Dev.", "Share"],
            [
                [group, _number(fit.between), _number(math.sqrt(fit.between)), f"{fit.icc:.4f}"],
                ["Residual", _number(fit.within), _number(math.sqrt(fit.within)), f"{1 - fit.icc:.4f}"],
            ],
        ),
        f"Intraclass correlation: {fit.icc:.6g}; exact {100 * inference.level:g}% interval "
        f"{_number(float(inference.interval.icc_low))} to {_number(float(inference.interval.icc_high))}",
        f"Exact F test of no variance between groups: F = {_number(float(inference.f_test.statistic))} on "
        f"{float(inference.f_test.df1):g} and {float(inference.f_test.df2):g} degrees of freedom, "
        f"p = {_p_value(float(inference.f_test.p_value))}",
    ]
    if fit.method == "anova" and fit.between_untruncated < 0:
        lines.append(f"Variance between groups before truncation at 0: {_number(fit.between_untruncated)}")
    tests, tail = inference.coefficients, 50 * (1 - inference.level)
    numbers = (tests.estimate, tests.standard_error, tests.df, tests.t, tests.p_value, tests.low, tests.high)
    rows = [
        [name, _number(b), _number(se), f"{df:.2f}", f"{t:.3f}", _p_value(p), _number(low), _number(high)]
        for name, (b, se, df, t, p, low, high) in zip(fit.coefficients, np.stack(numbers, axis=1).tolist(), strict=True)
    ]
    ends = [f"{tail:g} %", f"{100 - tail:g} %"]
    lines += [
        "",
        f"Fixed effects, with the degrees of freedom of {NAMES[inference.df]}:",
        *_table(["Coefficient", "Estimate", "Std.Error", "df", "t value", "Pr(>|t|)", *ends], rows),
        "",
        f"Status: {fit.status.message}",
        f"Certificate: {_certificate(fit)}",
    ]
    return "\n".join(lines)


def _labels(groups: np.ndarray) -> list[Any]:
    """Labels as Python objects, dates as text."""
    return (groups.astype(str) if groups.dtype.kind in "mM" else groups).tolist()


def plain(fit: Fitted) -> dict[str, Any]:
    """A fit as plain Python numbers, strings and lists, at full precision."""
    return {
        "method": fit.method,
        "n": fit.n,
        "groups": len(fit.groups),
        "dropped": fit.dropped,
        "between": fit.between,
        "within": fit.within,
        "between_untruncated": fit.between_untruncated,
        "ratio": fit.ratio,
        "icc": fit.icc,
        "coefficients": list(fit.coefficients),
        "beta": fit.beta.tolist(),
        "beta_se": fit.beta_se.tolist(),
        "beta_cov": fit.beta_cov.tolist(),
        "log_likelihood": fit.log_likelihood,
        "criterion": -2 * fit.log_likelihood,
        "status": fit.status.name.lower(),
        "message": fit.status.message,
        "certified": fit.certified,
        "optima": fit.optima,
        "optima_ratio": fit.optima_ratio.tolist(),
        "gap": fit.gap if math.isfinite(fit.gap) else None,
        "steps": fit.steps,
        "labels": [
            label if isinstance(label, (str, int, float, bool)) else str(label) for label in _labels(fit.groups)
        ],
        "sizes": fit.sizes.tolist(),
        "blup": fit.blup.tolist(),
        "blup_se": fit.blup_se.tolist(),
    }


def summary_of_many(fits: Fitted) -> str:
    """How many datasets ended how, in words."""
    codes, times = np.unique(fits.status, return_counts=True)
    lines = [f"{TITLES[fits.method].replace('model', 'models')}: {len(fits):,} datasets"]
    if fits.groups is not None:
        lines.append(f"{len(fits.groups)} groups, coefficients {', '.join(fits.coefficients)}")
    lines.append(f"rows used: {fits.rows.min():,} to {fits.rows.max():,}" if len(fits) else "no datasets")
    lines += [
        f"{count:>12,}  {Status(code).message}" for code, count in zip(codes.tolist(), times.tolist(), strict=True)
    ]
    if fits.certified is not None:
        estimated = fits.status < Status.UNBOUNDED
        proven = int((fits.certified & estimated).sum())
        lines.append(f"{proven:,} of {int(estimated.sum()):,} estimates are proven to be the global optimum")
    return "\n".join(lines)


def columns_of_many(fits: Fitted) -> dict[str, np.ndarray]:
    """Columns with a row for each dataset; those of a coefficient are named after it."""
    columns: dict[str, np.ndarray] = {} if fits.names is None else {"dataset": fits.names}
    columns["rows"] = fits.rows
    scalars = ("between", "within", "between_untruncated", "ratio", "icc", "log_likelihood")
    columns |= {name: getattr(fits, name) for name in scalars if getattr(fits, name) is not None}
    for field in ("beta", "beta_se"):
        table = getattr(fits, field)
        if table is not None:
            columns |= {f"{field}[{name}]": table[:, i] for i, name in enumerate(fits.coefficients)}
    names = {code: Status(code).name.lower() for code in np.unique(fits.status).tolist()}
    columns["status"] = np.array([names[code] for code in fits.status.tolist()], object)
    for name in ("certified", "optima", "gap"):
        if getattr(fits, name) is not None:
            columns[name] = getattr(fits, name)
    return columns


def _certificate(fit: Fitted) -> str:
    if fit.method == "anova":
        return "closed form"
    if not fit.certified:
        return "NOT certified: the search could not prove that this optimum is the global one"
    if fit.optima == 1:
        return "proven global, the only local optimum"
    return f"proven global; {fit.optima} local optima, the next {fit.gap:.4g} worse in -2 log-likelihood"


def _dropped(count: int) -> str:
    return f"; {count} {'row' if count == 1 else 'rows'} with missing values left out" if count else ""


def _number(x: float) -> str:
    return f"{x:.6g}"


def _p_value(p: float) -> str:
    return f"{p:.4f}" if p >= 0.001 else f"{p:.2g}"


def _fixed(x: float) -> str:
    return f"{x:.4f}" if abs(x) < 1e9 else f"{x:.10g}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        " "
        + "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in [head, *rows]
    ]
