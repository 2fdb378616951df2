"""Pictures of a fit, each on a matplotlib axis that is given, or new, and that is returned."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxre.distributions import chi2_quantile, level_of
from jaxre.fitted import Fit
from jaxre.rise import local_optima, profile_rise
from jaxre.settings import host_settings

INK, PALE, ACCENT = "#1f3b57", "#9db4c8", "#b5452c"
MOST_LABELS = 40  # groups that are named on an axis
NAME = 0.2  # inches that a name takes
NAMED = 3  # points that a picture names
LABELS = {
    "ratio": "variance ratio, between / within",
    "icc": "intraclass correlation",
    "between": "variance between groups",
    "within": "variance within groups",
    "total": "total variance",
    "sd_between": "standard deviation between groups",
    "sd_within": "standard deviation within groups",
    "sd_total": "total standard deviation",
}

Axis = Any


def caterpillar(fit: Fit, level: float = 0.95, axis: Axis = None) -> Axis:
    """Predicted effects of the groups in their order of size, with intervals.

    Args:
        fit: a fit.
        level: [1], of the intervals; they are those of `group_effects`.
        axis: matplotlib axis to draw on; a new one by default.

    Returns:
        the axis.

    Errors:
        ImportError without matplotlib; ValueError for a level outside (0, 1).

    Source: Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 4.3.

    Example:
        >>> import matplotlib; matplotlib.use("Agg")
        >>> import jaxre
        >>> fit = jaxre.fit([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], list("aabbcc"))
        >>> print(jaxre.plots.caterpillar(fit).get_xlabel())
        predicted group effect, 95 % intervals
    """
    groups = len(fit.groups)
    axis, found = _axis(axis, NAME * groups if groups <= MOST_LABELS else 0), fit.group_effects(level)
    order, place = np.argsort(found.effect, kind="stable"), np.arange(len(fit.groups))
    low, high = found.effect_low[order], found.effect_high[order]
    few = len(order) <= MOST_LABELS
    axis.axvline(0, color=PALE, linewidth=1)
    axis.hlines(place, low, high, color=INK if few else PALE, linewidth=1.5 if few else 0.6)
    axis.plot(found.effect[order], place, "o" if few else ".", color=INK, markersize=5 if few else 2)
    axis.set_xlabel(f"predicted group effect, {100 * level:g} % intervals")
    if few:
        axis.set_yticks(place, [_short(label) for label in fit.groups[order].tolist()])
    else:
        axis.set_ylabel("groups, in the order of their effects")
    return _clean(axis)


def profile_likelihood(fit: Fit, parameter: str = "sd_between", level: float = 0.95, axis: Axis = None) -> Axis:
    """How much worse the likelihood gets as a parameter moves from its estimate, with the interval that follows.

    The curve is -2 log-likelihood, maximised over all other parameters, less its minimum: restricted for a fit by REML.
    Every local optimum is marked, the global one by a filled point.

    Args:
        fit: a fit by "reml" or "ml".
        parameter: "ratio", "icc", "between", "within", "total", "sd_between", "sd_within" or "sd_total".
        level: [1], of the interval.
        axis: matplotlib axis to draw on; a new one by default.

    Returns:
        the axis.

    Errors:
        ImportError without matplotlib; ValueError for another parameter, a level outside (0, 1), or a fit by analysis
        of variance, which maximises no likelihood.

    Source: Pawitan (2001), In All Likelihood, section 3.4.

    Example:
        >>> import matplotlib; matplotlib.use("Agg")
        >>> import jaxre
        >>> fit = jaxre.fit([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], list("aabbcc"))
        >>> print(jaxre.plots.profile_likelihood(fit, "icc").get_xlabel())
        intraclass correlation
    """
    if parameter not in LABELS:
        raise ValueError(f"parameter must be one of {', '.join(map(repr, LABELS))}, got {parameter!r}.")
    interval = fit.profile_interval(parameter, level)
    axis, low, high = _axis(axis), float(interval.low), float(interval.high)
    places, heights = local_optima(fit, parameter)
    shown = np.array([low, high, float(interval.estimate), *places])  # an optimum may lie outside the interval
    margin = 0.35 * (shown.max() - shown.min())
    most = min(shown.max() + margin, 1 - 1e-9) if parameter == "icc" else shown.max() + margin
    pieces = np.linspace(max(shown.min() - margin, 0), most, 401), np.linspace(low, high, 201), shown
    values = np.unique(np.concatenate(pieces))
    rise = profile_rise(fit, parameter, values)
    with host_settings():
        limit = float(chi2_quantile(level_of(level)))
    axis.axhline(limit, color=ACCENT, linewidth=1, linestyle="--")
    inside = (values >= low) & (values <= high)
    axis.fill_between(values[inside], 0, np.minimum(rise[inside], limit), color=PALE, alpha=0.35, linewidth=0)
    axis.vlines([low, high], 0, limit, color=ACCENT, linewidth=1)
    axis.plot(values, rise, color=INK, linewidth=1.8)
    best = np.argmin(heights)
    axis.plot(places, heights, "o", color=INK, markerfacecolor="white", markersize=7, zorder=3, clip_on=False)
    axis.plot(places[best], heights[best], "o", color=INK, markersize=7, zorder=4, clip_on=False)
    axis.annotate(
        f"{100 * level:g} %: {low:.4g} to {high:.4g}",
        ((low + high) / 2, limit),
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        color=ACCENT,
    )
    axis.set_xlim(values[0], values[-1])
    axis.set_ylim(0, max(2.2 * limit, 1.15 * heights[np.isfinite(heights)].max()))
    axis.set_xlabel(LABELS[parameter])
    axis.set_ylabel("rise of -2 log-likelihood" + (" (restricted)" if fit.method == "reml" else ""))
    return _clean(axis)


def quantiles(fit: Fit, of: str = "residuals", axis: Axis = None) -> Axis:
    """Normal quantile plot of the standardised residuals or of the standardised effects of the groups.

    The line is that of the standard normal distribution, the band what 95 % of the points of independent normal values
    lie in, each by itself. Residuals of one group are correlated, so it is a guide and no test.

    Args:
        fit: a fit.
        of: "residuals", the conditional ones, or "effects".
        axis: matplotlib axis to draw on; a new one by default.

    Returns:
        the axis.

    Errors:
        ImportError without matplotlib; ValueError for anything else to draw.

    Source: Wilk and Gnanadesikan (1968), Biometrika 55, 1-17.

    Example:
        >>> import matplotlib; matplotlib.use("Agg")
        >>> import jaxre
        >>> fit = jaxre.fit([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], list("aabbcc"))
        >>> print(jaxre.plots.quantiles(fit, "effects").get_ylabel())
        standardised group effect
    """
    if of not in ("residuals", "effects"):
        raise ValueError(f"of must be 'residuals' or 'effects', got {of!r}.")
    if of == "residuals":
        values, name = fit.residuals().conditional_standardised, "standardised conditional residual"
    else:
        values, name = fit.group_effects().standardised, "standardised group effect"
    axis, values = _axis(axis), np.sort(values[~np.isnan(values)])
    m = len(values)
    place = (np.arange(1, m + 1) - 0.375) / (m + 0.25)
    with host_settings():
        scores = np.asarray(jax.scipy.special.ndtri(place))
    half = 1.96 * np.sqrt(place * (1 - place) / m) / (np.exp(-scores * scores / 2) / np.sqrt(2 * np.pi))
    axis.fill_between(scores, scores - half, scores + half, color=PALE, alpha=0.35, linewidth=0)
    axis.plot(scores, scores, color=PALE, linewidth=1.2)
    axis.plot(scores, values, "o", color=INK, markersize=4 if m <= 200 else 2)
    axis.set_xlabel("normal score")
    axis.set_ylabel(name)
    return _clean(axis)


def residuals(fit: Fit, axis: Axis = None) -> Axis:
    """Standardised conditional residuals against the fitted values, effects of the groups included.

    Args:
        fit: a fit.
        axis: matplotlib axis to draw on; a new one by default.

    Returns:
        the axis.

    Errors:
        ImportError without matplotlib.

    Source: Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 4.3.

    Example:
        >>> import matplotlib; matplotlib.use("Agg")
        >>> import jaxre
        >>> fit = jaxre.fit([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], list("aabbcc"))
        >>> print(jaxre.plots.residuals(fit).get_xlabel())
        conditional fitted value
    """
    axis, found = _axis(axis), fit.residuals()
    n = len(found.conditional)
    axis.axhline(0, color=PALE, linewidth=1)
    for line in (-2, 2):
        axis.axhline(line, color=PALE, linewidth=0.8, linestyle=":")
    axis.plot(
        found.conditional_fitted,
        found.conditional_standardised,
        "o",
        color=INK,
        markersize=4 if n <= 500 else 1.5,
        alpha=1 if n <= 500 else 0.5,
    )
    axis.set_xlabel("conditional fitted value")
    axis.set_ylabel("standardised conditional residual")
    return _clean(axis)


def influence(fit: Fit, axis: Axis = None) -> Axis:
    """Cook's distance of every group, by exact refits without it; the largest are named.

    Args:
        fit: a fit.
        axis: matplotlib axis to draw on; a new one by default.

    Returns:
        the axis.

    Errors:
        ImportError without matplotlib.

    Source: Cook (1977), Technometrics 19, 15-18.

    Example:
        >>> import matplotlib; matplotlib.use("Agg")
        >>> import jaxre
        >>> fit = jaxre.fit([3.0, 5.0, 11.0, 9.0, 7.0, 6.0, 5.0, 8.0], list("aabbccdd"))
        >>> print(jaxre.plots.influence(fit).get_ylabel())
        Cook's distance
    """
    axis, cook = _axis(axis), fit.influence().cook
    place = np.arange(len(cook))
    known = np.isfinite(cook)
    axis.vlines(place[known], 0, cook[known], color=INK, linewidth=1.5 if len(cook) <= MOST_LABELS else 0.6)
    axis.plot(
        place[known], cook[known], "o", color=INK, markersize=4 if len(cook) <= MOST_LABELS else 1.5, clip_on=False
    )
    for i in np.argsort(np.where(known, cook, -np.inf))[::-1][:NAMED]:
        if known[i]:
            label = _short(fit.groups[i])
            axis.annotate(label, (i, cook[i]), xytext=(0, 4), textcoords="offset points", ha="center", color=ACCENT)
    if len(cook) <= MOST_LABELS and max(len(str(label)) for label in fit.groups.tolist()) <= 4:
        axis.set_xticks(place, [str(label) for label in fit.groups.tolist()])
    axis.set_xlabel("group, in the order of the data")
    axis.set_ylabel("Cook's distance")
    axis.set_ylim(0, 1.12 * max(cook[known].max(initial=0), 1e-12))
    missing = int((~known).sum())
    if missing:
        axis.set_title(f"{missing} without a fit when left out", fontsize="small", loc="right")
    return _clean(axis)


def _axis(axis: Axis, height: float = 0.0) -> Axis:
    """The axis, or a new one, so high in inches if that is more than usual."""
    if axis is not None:
        return axis
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError:
        raise ImportError("pictures need matplotlib: pip install 'jaxre[plot]'.") from None
    return plt.subplots(figsize=(6, max(4, height)), layout="constrained")[1]


def _clean(axis: Axis) -> Axis:
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return axis


def _short(label: Any) -> str:
    text = str(label)
    return text if len(text) <= 24 else f"{text[:21]}..."
