"""Profile-likelihood intervals: the values of a parameter that the likelihood-ratio test does not reject."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.coefficients import place_of
from jaxre.curve import curve
from jaxre.distributions import chi2_quantile, level_of
from jaxre.eager import bucketed, in_one_program, is_alone, is_little
from jaxre.edges import VARIANCES, families_of
from jaxre.effects import NormalEquations, normal_equations
from jaxre.estimate import Estimate, ml, reml
from jaxre.extremes import Extremes, quick_extremes, whole_extremes
from jaxre.level_set import FINE, ROUGH, LevelSet
from jaxre.moments import GroupMoments, Strata
from jaxre.profile import score
from jaxre.records import record
from jaxre.rescue import quick_or_whole
from jaxre.rows import Array
from jaxre.status import Status
from jaxre.strata import as_strata

RATIOS = ("ratio", "icc")
_VARYING = (*VARIANCES, *(f"sd_{name}" for name in VARIANCES))
PARAMETERS = (*RATIOS, *_VARYING)


@record
class ProfileInterval:
    """Profile-likelihood interval of one parameter; see `profile_interval`."""

    low: Array
    """() [parameter], lower end; exactly 0 where the limit is not reached above 0."""
    high: Array
    """() [parameter], upper end."""
    estimate: Array
    """() [parameter], the maximum likelihood or REML estimate."""
    pieces: Array
    """() bool, the values that are not rejected are not one interval: low and high are the outermost of them."""
    settled: Array
    """() bool, the optimum is proven to be the global one, and both ends are solved."""


@record
class Peak:
    """The optimum of a likelihood as far as an interval about it depends on it; an `Estimate` has all of it."""

    ratio: Array
    """() [1]."""
    between: Array
    """() [y^2]."""
    within: Array
    """() [y^2]."""
    beta: Array
    """(p,) [y/x]."""
    optima: Array
    """() [1], local optima."""
    optima_ratio: Array
    """(KEPT_OPTIMA,) [1], their ratios, NaN where there are fewer."""
    certified: Array
    """() bool."""
    status: Array
    """() int32 `Status`."""


def profile_interval(
    moments: GroupMoments | Strata, parameter: str | int, level: float = 0.95, *, restricted: bool = False
) -> ProfileInterval:
    """Profile-likelihood interval of a variance component, of a function of both, or of a coefficient.

    All values theta with -2 log L(theta) <= min(-2 log L) + chi2(level), where L(theta) is the likelihood maximised
    over everything but theta and chi2(level) is the quantile on one degree of freedom. The minimum is the global one.
    Ends are solved as roots, to the last digits, not interpolated; a variance of 0 that is not rejected is an end of
    exactly 0. With several local optima the values may be in pieces: then low and high are the outermost. The interval
    is that of an asymptotic test; `exact_interval` has the exact one for ratio and ICC. Works inside jit and under
    vmap.

    Args:
        moments: sufficient statistics, by group or by stratum.
        parameter: "ratio", "icc", "between", "within", "total" (between + within), "sd_between", "sd_within",
            "sd_total", or the place of a coefficient in beta, 0 for the intercept.
        level: [1], the asymptotic probability that the interval holds the truth.
        restricted: the restricted likelihood of REML instead of the full one.

    Returns:
        ProfileInterval.

    Errors:
        ValueError for an unknown parameter, a level outside (0, 1), or a coefficient in the restricted likelihood;
        degenerate moments give NaN.

    Source: Cox and Hinkley (1974), Theoretical Statistics, section 9.3; Pawitan (2001), In All Likelihood, section 3.4.

    Example:
        >>> import jaxre
        >>> from jaxre.profile_interval import profile_interval
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
        >>> interval = profile_interval(moments, "sd_within")
        >>> print(f"{interval.low:.4f} {interval.high:.4f}")
        0.6504 3.6115
    """
    return profile_intervals(moments, (parameter,), level, restricted=restricted)[0]


def profile_intervals(
    moments: GroupMoments | Strata, parameters: Sequence[str | int], level: float = 0.95, *, restricted: bool = False
) -> tuple[ProfileInterval, ...]:
    """Profile-likelihood intervals of several parameters, sharing the optimum and the search.

    Args:
        moments: sufficient statistics, by group or by stratum.
        parameters: each as in `profile_interval`.
        level: [1], as in `profile_interval`, of each interval by itself.
        restricted: the restricted likelihood of REML instead of the full one.

    Returns:
        ProfileInterval for each parameter, in their order.

    Errors:
        as `profile_interval`.

    Source: as `profile_interval`.

    Example:
        >>> import jaxre
        >>> from jaxre.profile_interval import profile_intervals
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
        >>> for interval in profile_intervals(moments, ["icc", 0]):
        ...     print(f"{interval.low:.4f} {interval.high:.4f}")
        0.0000 0.9801
        2.8666 10.8000
    """
    p = (moments if isinstance(moments, GroupMoments | Strata) else as_strata(moments)).means.shape[-1] - 1
    names = tuple(checked(parameter, p, restricted) for parameter in parameters)
    peak = peak_of((reml if restricted else ml)(moments))
    if is_alone(moments, level_of(level)):
        return intervals_alone(moments, peak, names, level, restricted=restricted)
    given: dict[str, Any] = {"strata": as_strata(moments), "estimate": peak, "level": level}
    return in_one_program(intervals_at, {"parameters": names, "restricted": restricted}, given, False)


def intervals_alone(
    moments: GroupMoments | Strata,
    peak: Peak,
    parameters: tuple[str | int, ...],
    level: float,
    *,
    restricted: bool,
    searches: tuple[str, ...] = ("quick", "whole"),
) -> tuple[ProfileInterval, ...]:
    """Intervals of one dataset outside jit: a whole search is compiled only where a quick one leaves doubts."""
    strata = bucketed(moments)
    others = {"strata": strata, "estimate": peak, "level": np.asarray(level)}
    for search in searches:
        words = {"parameters": parameters, "restricted": restricted, "search": search}
        found: tuple[ProfileInterval, ...] = in_one_program(intervals_at, words, others, is_little(strata))
        if all(interval.settled for interval in found):
            break
    return found


def peak_of(estimate: Estimate) -> Peak:
    """What an interval needs of an estimate."""
    return Peak(**{field.name: getattr(estimate, field.name) for field in dataclasses.fields(Peak)})


def checked(parameter: str | int, p: int, restricted: bool) -> str | int:
    """A parameter, if there is one of that name among p coefficients and the variances."""
    if isinstance(parameter, str):
        if parameter not in PARAMETERS:
            raise ValueError(
                f"parameter must be one of {', '.join(map(repr, PARAMETERS))}, or the place of a coefficient, "
                f"got {parameter!r}."
            )
        return parameter
    place = place_of(parameter, p)
    if restricted:
        raise ValueError(
            f"the restricted likelihood has no profile of a coefficient, got parameter={place} with restricted=True: "
            "it is the likelihood of contrasts that are free of beta; use restricted=False."
        )
    return place


Data = tuple[NormalEquations, Array, Array, Array, Array]


def intervals_at(
    strata: Strata,
    estimate: Peak,
    parameters: tuple[str | int, ...],
    level: Any,
    *,
    restricted: bool,
    search: str = "both",
) -> tuple[ProfileInterval, ...]:
    """Intervals about the optimum of the same likelihood; "quick" or "whole" leaves out the other search, and
    derivatives."""
    equations = normal_equations(strata)
    limit = chi2_quantile(level_of(level)).astype(estimate.ratio.dtype)
    data: Data = equations, estimate.ratio, estimate.optima, estimate.optima_ratio, limit
    variances = tuple(dict.fromkeys(name.removeprefix("sd_") for name in parameters if name in _VARYING))
    places = tuple(dict.fromkeys(name for name in parameters if isinstance(name, int)))
    order = ["ratio", *variances, *places]

    def quick(data: Data) -> Extremes:
        families = families_of(data[0], variances, places, fixed=True)
        return quick_extremes(_level_set(data, restricted, ROUGH, fixed=True), families, data[2] > 1)

    def whole(data: Data) -> Extremes:
        families = families_of(data[0], variances, places, fixed=True)
        return whole_extremes(_level_set(data, restricted, fixed=True), families, data[3])

    # an extreme as a function of the data at its fixed place: at an extreme the place does not matter
    fixed = jax.lax.stop_gradient(data)
    if search == "both":
        found = quick_or_whole(quick, whole, lambda found: found.settled, fixed)
    else:
        found = (quick if search == "quick" else whole)(fixed)
    on = _level_set(data, restricted, fixed=search != "both")
    ends = [jax.lax.map(partial(_at_limit, on), found.ends)[None]]
    first = 0
    for family in families_of(equations, variances, places, fixed=search != "both"):
        own = found.places[first : first + family.count]
        edges = jax.lax.map(lambda ratio, family=family: family.edges(on, ratio).outward, own.T.reshape(-1))
        ends.append((jnp.diagonal(edges).reshape(2, -1) * jnp.array([[-1], [1]], limit.dtype)).T)
        first += family.count
    every = jnp.concatenate(ends)
    nan = jnp.where(estimate.status >= Status.UNBOUNDED, jnp.nan, 0.0).astype(limit.dtype)
    intervals = []
    for name in parameters:
        place = order.index(name if isinstance(name, int) else "ratio" if name in RATIOS else name.removeprefix("sd_"))
        low, high = (_in_user_units(name, strata, every[place, side]) + nan for side in (0, 1))
        intervals.append(
            ProfileInterval(
                low=low,
                high=high,
                estimate=_estimate_of(name, estimate),
                pieces=found.pieces[place],
                settled=found.settled & estimate.certified & jnp.isfinite(low + high),
            )
        )
    return tuple(intervals)


def _level_set(data: Data, restricted: bool, rounds: int = FINE, *, fixed: bool) -> LevelSet:
    """That of the data; not `fixed` where it is differentiated."""
    of_data = curve(data[0], restricted, fixed)
    return LevelSet(of_data, of_data.at(data[1]), data[4], rounds)


def _at_limit(level: LevelSet, ratio: Array) -> Array:
    """A ratio at which f is at the limit, as a function of the data: one step of Newton's method from a fixed place."""
    at = level.curve.at(ratio)
    slope = jax.lax.stop_gradient(score(at, level.curve.n))
    return jnp.where(ratio > 0, ratio - (level.rise(at) - level.limit) / jnp.where(ratio > 0, slope, 1), 0)


def _in_user_units(name: str | int, strata: Strata, end: Array) -> Array:
    if isinstance(name, int):
        return strata.frame.origin[name] + end
    if name in RATIOS:
        return end if name == "ratio" else end / (1 + end)
    scale = strata.frame.scale
    return jnp.exp(end / 2) / scale if name.startswith("sd_") else jnp.exp(end) / scale / scale


def _estimate_of(name: str | int, estimate: Peak) -> Array:
    if isinstance(name, int):
        return estimate.beta[name]
    if name in RATIOS:
        return estimate.ratio if name == "ratio" else estimate.ratio / (1 + estimate.ratio)
    values = {"between": estimate.between, "within": estimate.within, "total": estimate.between + estimate.within}
    value = values[name.removeprefix("sd_")]
    return jnp.sqrt(value) if name.startswith("sd_") else value
