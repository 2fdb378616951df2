"""Fits in words and tables; the only place, but for a meta-analysis, where numbers become text."""

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


def summary(
    fit: Fitted, inference: Any, groups: dict[str, np.ndarray] | None = None, outcome: str = "y", group: str = "group"
) -> str:
    """The summary of a fit as users of lme4 know it, with tests, the status and the certificate in words."""
    names = " + ".join(["1", *fit.coefficients[1:]])
    sizes = f"{fit.sizes.min()} to {fit.sizes.max()}" if fit.sizes.min() < fit.sizes.max() else f"{fit.sizes[0]}"
    kind = "observations" if fit.observations.weights is None else "weighted observations"
    tail = 50 * (1 - inference.level)
    ends = [f"{tail:g} %", f"{100 - tail:g} %"]
    lines = [
        TITLES[fit.method],
        f"Formula: {outcome} ~ {names} + (1 | {group})",
        f"{fit.n} {kind} in {len(fit.groups)} groups of {sizes}" + _dropped(fit.dropped),
        "",
        f"{CRITERIA[fit.method]}: {fixed(-2 * fit.log_likelihood)}",
        _criteria(inference.criteria, fit.p),
        "",
        *_random_effects(fit, inference, group, ends),
        f"Intraclass correlation: {fit.icc:.6g}; exact {100 * inference.level:g}% interval "
        f"{number(float(inference.interval.icc_low))} to {number(float(inference.interval.icc_high))}",
        f"Exact F test of no variance between groups: F = {number(float(inference.f_test.statistic))} on "
        f"{float(inference.f_test.df1):g} and {float(inference.f_test.df2):g} degrees of freedom, "
        f"p = {p_value(float(inference.f_test.p_value))}",
    ]
    if fit.method == "anova" and fit.between_untruncated < 0:
        lines.append(f"Variance between groups before truncation at 0: {number(fit.between_untruncated)}")
    tests = inference.coefficients
    numbers = (tests.estimate, tests.standard_error, tests.df, tests.t, tests.p_value, tests.low, tests.high)
    rows = [
        [name, number(b), number(se), f"{df:.2f}", f"{t:.3f}", p_value(p), number(low), number(high)]
        for name, (b, se, df, t, p, low, high) in zip(fit.coefficients, np.stack(numbers, axis=1).tolist(), strict=True)
    ]
    lines += [
        "",
        f"Fixed effects, with the degrees of freedom of {NAMES[inference.df]}:",
        *table_of(["Coefficient", "Estimate", "Std.Error", "df", "t value", "Pr(>|t|)", *ends], rows),
        "",
        f"Status: {fit.status.message}",
        f"Certificate: {_certificate(fit)}",
    ]
    if groups is not None:
        lines += ["", f"Groups, with {100 * inference.level:g}% intervals of their means:", *_groups(groups)]
    return "\n".join(lines)


def _random_effects(fit: Fitted, inference: Any, group: str, ends: list[str]) -> list[str]:
    """Both variances, with profile-likelihood intervals of their roots where there is a likelihood."""
    title, head = "Random effects:", ["Group", "Variance", "Std.Dev.", "Share"]
    rows = [
        [group, number(fit.between), number(math.sqrt(fit.between)), f"{fit.icc:.4f}"],
        ["Residual", number(fit.within), number(math.sqrt(fit.within)), f"{1 - fit.icc:.4f}"],
    ]
    if inference.variances is not None:
        title = "Random effects, with profile-likelihood intervals of the standard deviations:"
        head += ends
        for row, name in zip(rows, ("sd_between", "sd_within"), strict=True):
            found = inference.variances[name]
            row += [number(float(found.low)), number(float(found.high))]
    return [title, *table_of(head, rows)]


def _criteria(about: Any, p: int) -> str:
    explained = f"; R2 of the covariates {float(about.r2_marginal):.4f}, with the groups" if p > 1 else "; R2"
    return (
        f"AIC {fixed(float(about.aic))}, BIC {fixed(float(about.bic))}, conditional AIC "
        f"{fixed(float(about.conditional_aic))}{explained} {float(about.r2_conditional):.4f}"
    )


def _groups(table: dict[str, np.ndarray]) -> list[str]:
    heads = {"size": "Rows", "effect": "Effect", "effect_se": "Std.Error", "mean": "Mean", "mean_low": "low"}
    heads |= {"mean_high": "high", "expected_rank": "Expected rank"}
    shown = [name for name in heads if name in table]
    columns = [[number(x) for x in table[name].tolist()] for name in shown]
    labels = [str(label) for label in _labels(table["group"])]
    rows = [list(row) for row in zip(labels, *columns, strict=True)]
    return table_of(["Group", *(heads[name] for name in shown)], rows)


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
        "labels": plain_columns({"labels": fit.groups})["labels"],
        "sizes": fit.sizes.tolist(),
        "blup": fit.blup.tolist(),
        "blup_se": fit.blup_se.tolist(),
    }


def plain_columns(table: dict[str, np.ndarray]) -> dict[str, list[Any]]:
    """Columns as lists of plain Python numbers and strings."""
    return {
        name: [item if isinstance(item, (str, int, float, bool)) else str(item) for item in _labels(column)]
        for name, column in table.items()
    }


def summary_of_many(fits: Fitted) -> str:
    """How many datasets ended how, in words."""
    lines = [f"{TITLES[fits.method].replace('model', 'models')}: {len(fits):,} dataset{'s' * (len(fits) != 1)}"]
    if len(fits):
        left_out = f"; {fits.dropped.sum():,} with something missing left out" if fits.dropped.any() else ""
        lines.append(f"each of {_range(fits.rows, 'row')} in {_range(fits.group_counts, 'group')}{left_out}")
        if fits.unassigned:
            lines.append(f"{fits.unassigned:,} {'row' if fits.unassigned == 1 else 'rows'} without a dataset left out")
    lines.append(f"coefficients: {', '.join(fits.coefficients)}" if len(fits) else "no datasets")
    return "\n".join([*lines, *endings(fits)])


def endings(fits: Fitted) -> list[str]:
    """How often each status is, and how many estimates are certified."""
    codes, times = np.unique(fits.status, return_counts=True)
    lines = [
        f"{count:>12,}  {Status(code).message}" for code, count in zip(codes.tolist(), times.tolist(), strict=True)
    ]
    if fits.certified is not None:
        estimated = fits.status < Status.UNBOUNDED
        proven = int((fits.certified & estimated).sum())
        lines.append(f"{proven:,} of {int(estimated.sum()):,} estimates are proven to be the global optimum")
    return lines


def names_of_status(codes: np.ndarray) -> np.ndarray:
    """The statuses in words."""
    names = {code: Status(code).name.lower() for code in np.unique(codes).tolist()}
    return np.array([names[code] for code in codes.tolist()], object)


def _range(counts: np.ndarray, kind: str) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,} {kind}{'s' * (low != 1)}" if low == high else f"{low:,} to {high:,} {kind}s"


def columns_of_many(fits: Fitted, inference: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns with a row for each dataset; those of a coefficient are named after it, those of contrasts and of
    predictions by number."""
    columns: dict[str, np.ndarray] = {} if fits.names is None else {"dataset": fits.names}
    columns |= {"rows": fits.rows, "dropped": fits.dropped, "groups": fits.group_counts}
    scalars = ("between", "within", "between_untruncated", "ratio", "icc", "log_likelihood")
    columns |= {name: getattr(fits, name) for name in scalars if getattr(fits, name) is not None}
    for field in ("beta", "beta_se"):
        table = getattr(fits, field)
        if table is not None:
            columns |= {f"{field}[{name}]": table[:, i] for i, name in enumerate(fits.coefficients)}
    for name, table in inference.items():
        if table.ndim == 1:
            columns[name] = table
        else:
            of = range(table.shape[1]) if name.startswith(("contrast_", "prediction")) else fits.coefficients
            columns |= {f"{name}[{row}]": table[:, i] for i, row in enumerate(of)}
    columns["status"] = names_of_status(fits.status)
    for name in ("certified", "optima", "gap"):
        if getattr(fits, name) is not None:
            columns[name] = getattr(fits, name)
    return columns


def groups_of_many(fits: Fitted, effects: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns with a row for each group of each dataset, the datasets one after the other."""
    if fits.groups is None or not effects:
        raise ValueError("the fits have no effects of groups; ask fit_many for quantities=('blup', 'blup_se').")
    datasets = np.arange(len(fits)) if fits.names is None else fits.names
    if next(iter(effects.values())).ndim == 1:  # designs of their own
        return {"dataset": np.repeat(datasets, fits.group_counts), "group": fits.groups, **effects}
    labels = np.tile(fits.groups, len(fits))
    return {"dataset": np.repeat(datasets, len(fits.groups)), "group": labels} | {
        name: table.ravel() for name, table in effects.items()
    }


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


def number(x: float) -> str:
    return f"{x:.6g}"


def p_value(p: float) -> str:
    return f"{p:.4f}" if p >= 0.001 else f"{p:.2g}"


def fixed(x: float) -> str:
    return f"{x:.4f}" if abs(x) < 1e9 else f"{x:.10g}"


def table_of(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        " "
        + "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in [head, *rows]
    ]
