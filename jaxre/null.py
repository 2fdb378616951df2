"""Likelihood-ratio tests of between = 0 with their exact finite-sample null distribution, simulated."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfc

from jaxre.curve import Curve
from jaxre.eager import BUCKETS
from jaxre.effects import normal_equations
from jaxre.moments import GroupMoments, Strata
from jaxre.null_design import NullDesign, concrete_design, traced_design
from jaxre.optimum import likelihood_optimum
from jaxre.profile import degrees, drop, profile
from jaxre.records import record
from jaxre.rows import Array
from jaxre.search import Search, quick_search, search, whole_search
from jaxre.settings import SEARCHED, lane, options_of, platform, quick_jit
from jaxre.spectrum import Coordinates, Spectrum, spectral_curve
from jaxre.status import Status
from jaxre.strata import as_strata

LANE = 256  # draws whose numbers a CPU works on at once
BLOCK = 64 * LANE  # draws of one call
FEW = 4 * LANE  # draws that have a smaller block, whose program compiles sooner
NORMALS = 16  # degrees of freedom up to which a chi-square is drawn as a sum of squares


@record
class LikelihoodRatioTest:
    """The likelihood-ratio test of between = 0; see `likelihood_ratio_test`."""

    statistic: Array
    """() [1], twice the log of the likelihood ratio; exactly 0 where between is estimated 0."""
    p_value: Array
    """(), the share of simulated statistics that are at least as large; exactly 1 where the statistic is 0."""
    mc_error: Array
    """(), standard error of p_value from the number of draws; 0 where no draw, or every draw, is as large."""
    p_asymptotic: Array
    """(), from the 50:50 mixture of chi-square on 0 and on 1 degree of freedom; wrong for few groups."""
    probability_of_zero: Array
    """(), share of simulated statistics that are 0."""


def likelihood_ratio_test(
    moments: GroupMoments | Strata, key: Array, *, draws: int = 100_000, restricted: bool = True
) -> LikelihoodRatioTest:
    """Likelihood-ratio test of between = 0, exact but for the Monte-Carlo error that it reports.

    The statistic is twice the difference of the log-likelihoods at the certified optimum and at between = 0. Its
    distribution where between is 0 depends on the design alone and is simulated; see `null_statistics`. Works inside
    jit and under vmap; for many outcomes over one design draw the null once and use `compared_with_null`.

    Args:
        moments: sufficient statistics, by group or by stratum.
        key: random key; equal keys give equal results.
        draws: [1], how many statistics to simulate.
        restricted: the restricted likelihood (RLRT), or the full one (LRT).

    Returns:
        LikelihoodRatioTest.

    Errors:
        ValueError for fewer than one draw; degenerate moments give NaN.

    Source: Crainiceanu and Ruppert (2004), Journal of the Royal Statistical Society B 66, 165-185; the mixture: Self
        and Liang (1987), Journal of the American Statistical Association 82, 605-610.

    Example:
        >>> import jax, jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
        >>> test = jaxre.likelihood_ratio_test(moments, jax.random.key(0), draws=20_000)
        >>> print(f"{test.statistic:.4f} {test.p_value:.2f} {test.p_asymptotic:.2f}")
        3.4847 0.04 0.03
    """
    strata = as_strata(moments)
    statistic = likelihood_ratio_statistic(strata, restricted)
    return compared_with_null(statistic, null_statistics(strata, key, draws, restricted=restricted))


def compared_with_null(statistic: Array, null: Array) -> LikelihoodRatioTest:
    """The test of one statistic against draws of its null distribution."""
    unknown = jnp.isnan(statistic) | jnp.isnan(null).any()
    nan = jnp.where(unknown, jnp.nan, 0.0).astype(null.dtype)
    share = lambda mask: jnp.where(mask.all(), 1.0, mask.mean(dtype=null.dtype)) + nan  # n (1 / n) may not be 1
    p_value = share(null >= statistic)
    return LikelihoodRatioTest(
        statistic=statistic + nan,
        p_value=p_value,
        mc_error=jnp.sqrt(p_value * (1 - p_value) / null.shape[-1]),
        p_asymptotic=mixture_tail(statistic) + nan,
        probability_of_zero=share(null == 0),
    )


def mixture_tail(statistic: Array) -> Array:
    """Probability of as large a statistic by the asymptotic null: 0 and chi-square on 1 with one half each."""
    return jnp.where(statistic > 0, erfc(jnp.sqrt(jnp.maximum(statistic, 0) / 2)) / 2, 1.0 + 0 * statistic)


def likelihood_ratio_statistic(moments: GroupMoments | Strata, restricted: bool = True) -> Array:
    """Twice the log of the likelihood ratio of the optimum to between = 0; () [1], NaN where there is no estimate."""
    return _statistic(as_strata(moments), restricted)


@partial(jax.jit, static_argnums=1)
def _statistic(strata: Strata, restricted: bool) -> Array:
    optimum = likelihood_optimum(strata, restricted)
    found = (strata.status == Status.INTERIOR) & (optimum.code < Status.NOT_CONVERGED)
    return jnp.where(found, statistic_at(strata, optimum.ratio, restricted), jnp.nan)


def statistic_at(strata: Strata, ratio: Array, restricted: bool) -> Array:
    """The same at an optimum that is known."""
    equations = normal_equations(strata)
    zero, at = profile(equations, jnp.zeros_like(ratio), restricted), profile(equations, ratio, restricted)
    return _gain(ratio, drop(at, zero, degrees(strata, restricted)))


def _gain(ratio: Array, change: Array) -> Array:
    """The statistic from f - f(0) at the optimum."""
    return jnp.where(ratio > 0, jnp.maximum(-change, 0), 0.0)


def null_statistics(
    moments: GroupMoments | Strata, key: Array, draws: int = 100_000, *, restricted: bool = True
) -> Array:
    """Draws of the likelihood-ratio statistic of between = 0 where between is 0, for the design of the moments.

    With nu_i the r eigenvalues of Z' P0 Z, the statistic is distributed as

        sup over lambda >= 0 of  N log [Q(0) / Q(lambda)] - sum log(1 + lambda mu_i),
        Q(lambda) = floor + sum t_i / (1 + lambda nu_i)

    with t_i chi-square on 1 degree of freedom, floor on n - p - r, and N = n - p, mu = nu for the restricted, N = n,
    mu = the group sizes for the full likelihood. Each draw is searched like a dataset, so several optima are no harm.

    Args:
        moments: sufficient statistics, by group or by stratum; the outcome plays no part.
        key: random key; draw i depends on the key and on i alone, but for rounding.
        draws: [1], how many.
        restricted: the restricted or the full likelihood.

    Returns:
        (draws,) [1]; exactly 0 where the optimum is at 0.

    Errors:
        ValueError for fewer than one draw; degenerate moments give NaN.

    Source: Crainiceanu and Ruppert (2004), Journal of the Royal Statistical Society B 66, 165-185, theorem 1.

    Example:
        >>> import jax, jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
        >>> null = jaxre.null_statistics(moments, jax.random.key(0), 20_000)
        >>> print(f"{(null == 0).mean():.2f}")
        0.54
    """
    if isinstance(draws, bool) or not hasattr(draws, "__index__"):
        raise TypeError(f"draws must be a whole number, got {draws!r}.")
    draws = operator.index(draws)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}; 100,000 give p to 0.003 at most.")
    strata = as_strata(moments)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((strata, key))):
        # a stratum with scatter may have any number of groups
        return _in_one_program(traced_design(strata, restricted), key, draws, 1 if strata.scatter is None else None)
    strata = jax.tree.map(np.asarray, strata)
    if strata.status != Status.INTERIOR:
        return jnp.full(draws, jnp.nan)
    design = concrete_design(strata, restricted)
    largest = int(design.spectrum.counts.max())
    return _in_blocks(design, key, draws, next((most for most in BUCKETS if largest <= most <= NORMALS), None))


def _in_one_program(design: NullDesign, key: Array, draws: int, most: int | None) -> Array:
    width = min(lane(LANE), draws)
    places = jnp.arange(-(-draws // width) * width).reshape(-1, width)
    one = lambda i: simulated(design, key, i, most, partial(search, _unproven_curve))[0]
    found = jax.lax.map(jax.vmap(one), places).ravel()[:draws]
    return jnp.where(design.valid, found, jnp.nan)


def _unproven_curve(data: tuple[Spectrum, Coordinates]) -> Curve:
    return dataclasses.replace(spectral_curve(data), proven=None, look=True)


def _in_blocks(design: NullDesign, key: Array, draws: int, most: int | None) -> Array:
    """The quick search for all, the whole one, which takes long to compile, where that leaves any."""
    few = draws <= FEW
    block = FEW if few else BLOCK
    width, quick = min(lane(LANE), block), _kernel(most, few, whole=False)
    parts = [quick(design, key, start + np.arange(block).reshape(-1, width)) for start in range(0, draws, block)]
    found, settled = (np.concatenate([np.ravel(part[i]) for part in parts])[:draws] for i in range(2))
    left, width = np.flatnonzero(~settled), lane(SEARCHED, LANE)
    for start in range(0, len(left), width):
        places = np.resize(left[start : start + width], width)
        found[places] = np.ravel(_kernel(most, few, whole=True)(design, key, places[None])[0])
    return jnp.asarray(found)


@lru_cache(maxsize=16)
def _kernel(most: int | None, few: bool, whole: bool) -> Callable[..., Any]:
    """Compiled for FEW draws at a time or for a BLOCK of them."""
    find = lambda data: (whole_search if whole else quick_search)(spectral_curve(data))

    def run(design: NullDesign, key: Array, places: Array) -> tuple[Array, Array]:
        return jax.lax.map(jax.vmap(lambda i: simulated(design, key, i, most, find)), places)

    return quick_jit(run, platform(), options_of(few))


def simulated(
    design: NullDesign, key: Array, place: Array, most: int | None, find: Callable[[Any], Search]
) -> tuple[Array, Array]:
    """Draw number `place` of the statistic, and whether the search settled it."""
    data = design.spectrum, drawn_coordinates(design, jax.random.fold_in(key, place), most)
    found, of_draw = find(data), spectral_curve(data)
    zero, at = of_draw.at(jnp.zeros_like(found.ratio)), of_draw.at(found.ratio)
    return _gain(found.ratio, drop(at, zero, of_draw.n)), found.settled


def drawn_coordinates(design: NullDesign, key: Array, most: int | None) -> Coordinates:
    """Squared spectral coordinates of an outcome that is drawn with between = 0 and within = 1.

    `most` is at least the largest count, None where that is unknown or large.
    """
    counts, dtype = design.spectrum.counts, jnp.result_type(design.spectrum.values)
    of_squares, of_floor = jax.random.split(key)
    if most is None:
        squares = jnp.where(counts > 0, jax.random.chisquare(of_squares, jnp.maximum(counts, 1), dtype=dtype), 0)
    else:
        normal = jax.random.normal(of_squares, (len(counts), most), dtype)
        squares = jnp.where(jnp.arange(most) < counts[:, None], normal * normal, 0).sum(axis=1)
    floor = jax.random.chisquare(of_floor, design.freedom, dtype=dtype)
    squares, floor = jax.lax.optimization_barrier((squares, floor))  # else drawn again by all that read them
    return Coordinates(squares=squares, floor=floor, valid=design.valid)
