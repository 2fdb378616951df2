"""The parametric bootstrap: the distribution of any function of a fit, over datasets drawn from the fitted model."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.bootstrap_interval import interval_of, traced_interval_of
from jaxre.bootstrap_result import KINDS, METHODS, Bootstrap
from jaxre.distributions import level_of
from jaxre.eager import in_one_program
from jaxre.estimate import Estimate, estimate_of
from jaxre.moments import GroupMoments, Strata
from jaxre.progress import Progress
from jaxre.replicates import Refit, Statistic, Task, own_estimate, refits, traced_refits
from jaxre.rows import Array
from jaxre.settings import own_settings, staging
from jaxre.status import Status
from jaxre.strata import as_strata


def variances_and_mean(estimate: Estimate) -> dict[str, Array]:
    """What is bootstrapped by default."""
    return {name: getattr(estimate, name) for name in ("between", "within", "icc", "beta")}


def bootstrap(
    moments: GroupMoments | Strata,
    key: Array,
    statistic: Statistic = variances_and_mean,
    *,
    replicates: int = 1000,
    method: str = "reml",
    level: float = 0.95,
    kind: str = "percentile",
    chunk: int = 65_536,
    progress: bool | None = None,
) -> Bootstrap:
    """Parametric bootstrap of any function of a fit.

    Datasets are drawn from the fitted model over the same design, through their sufficient statistics (see `draw`), and
    each is fitted again. Outside of jit in double precision whatever JAX is set to, NumPy out. Inside jit or under vmap
    it is pure: JAX arrays in the precision of the moments, and NaN where there is no estimate to draw from. Unequal
    groups with the intercept alone, which outside are drawn by eigenvalues, have other numbers there for the same key.

    With B replicates t* of an estimate t, and q(a) their order statistic (B + 1) a, interpolated: the percentile
    interval is q(alpha / 2) to q(1 - alpha / 2), the basic one reflects it about t, and BCa takes q at
    Phi(z0 + (z0 + z) / (1 - c (z0 + z))), z = Phi^-1 of the nominal place, z0 = Phi^-1 of the share of replicates below
    t, ties counted by half. The acceleration c is a sixth of the skewness of the score in the least favourable
    direction, which is the regression of t* on the scores of the replicates at the fitted model: those of the variances
    in the restricted likelihood, and of beta. An end is NaN where its order statistic is beyond the first or the last
    replicate (take more replicates), or where BCa is not defined: all replicates on one side of t, or all equal.

    Args:
        moments: sufficient statistics, by group or by stratum.
        key: JAX random key, such as jax.random.key(0); replicate i has the key fold_in(key, i).
        statistic: from an Estimate to an array, or a dict, tuple or list of arrays, in JAX; by default between, within,
            icc and beta. Pass the same function again, and it is not compiled again.
        replicates: [1], how many.
        method: "reml", "ml" or "anova", for the data and for each replicate.
        level: [1], of the intervals.
        kind: "percentile", "basic" or "bca".
        chunk: [1], replicates in one call of the device; no number depends on it. Not used where traced.
        progress: whether to show a bar on the error stream; by default only on a terminal. Not used where traced.

    Returns:
        Bootstrap.

    Errors:
        ValueError for no replicates, a level outside (0, 1), an unknown method or kind, a statistic without an array,
        and moments without an estimate, which names the reason; TypeError for what is no key, no moments of one
        dataset. A replicate that has no estimate is NaN, and counted.

    Source: Efron (1987), Journal of the American Statistical Association 82, 171-185, sections 3 and 4; Davison and
        Hinkley (1997), Bootstrap Methods and their Application, sections 5.2 and 5.3.

    Example:
        >>> import jax, jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0, 7.0, 6.0], [0, 0, 1, 1, 2, 2])
        >>> result = jaxre.bootstrap(moments, jax.random.key(0), lambda fit: fit.icc, replicates=20_000)
        >>> print(f"{result.low:.2f} {result.high:.2f} {result.failed} {result.boundary / result.count:.2f}")
        0.00 0.99 0 0.08
        >>> keys = jax.random.split(jax.random.key(0), 3)  # and three times, in one program
        >>> several = jax.jit(jax.vmap(lambda key: jaxre.bootstrap(moments, key, lambda fit: fit.icc)))(keys)
        >>> print(several.replicates.shape, several.low.shape)
        (3, 1000) (3,)
    """
    if not callable(statistic):
        raise TypeError(
            f"statistic must be a function of an Estimate, such as lambda fit: fit.icc, got {type(statistic).__name__}."
        )
    count, chunk = _checked(moments, key, replicates, method, level, kind, chunk)
    if staging() or any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((moments, key, level))):
        words = {"statistic": statistic, "count": count, "method": method, "kind": kind}
        return in_one_program(_traced, words, {"moments": moments, "key": key, "level": level}, False)
    with own_settings():
        strata = jax.tree.map(_double, as_strata(moments))
        estimate = own_estimate(strata, method)
        status = Status(int(estimate.status))
        if status.failed:
            raise ValueError(f"the moments have no estimate to draw from: {status.message}.")
        own = _numbers(statistic(estimate))
        bar = Progress(count, progress)
        task = Task(statistic, method, kind == "bca")
        found = refits(key, strata, estimate, task, count, chunk, bar.advance)
        bar.close()
    return _collected(own, found, method=method, kind=kind, level=float(level))


def _traced(
    moments: GroupMoments | Strata, key: Array, level: Array, statistic: Statistic, count: int, method: str, kind: str
) -> Bootstrap:
    """The same as one program of JAX."""
    strata = as_strata(moments)
    estimate, _ = estimate_of(strata, method, None)
    own = _numbers(statistic(estimate))
    found = traced_refits(key, strata, estimate, Task(statistic, method, kind == "bca"), count)
    return _collected(own, found, method=method, kind=kind, level=level)


def _checked(
    moments: Any, key: Any, replicates: int, method: str, level: float, kind: str, chunk: int
) -> tuple[int, int]:
    if not isinstance(moments, GroupMoments | Strata):
        raise TypeError(
            f"moments must be GroupMoments or Strata, got {type(moments).__name__}; call group_moments first."
        )
    if np.ndim(moments.sizes) != 1:
        raise ValueError(
            f"moments must be those of one dataset, got sizes of shape {np.shape(moments.sizes)}; for several use "
            f"jax.vmap."
        )
    typed = isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not isinstance(key, jax.Array) or key.shape != (() if typed else (2,)):
        raise TypeError(f"key must be one JAX random key, such as jax.random.key(0), got {key!r}.")
    if method not in METHODS:
        raise ValueError(f"method must be one of 'reml', 'ml' or 'anova', got {method!r}.")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of 'percentile', 'basic' or 'bca', got {kind!r}.")
    for name, given in (("replicates", replicates), ("chunk", chunk)):
        if isinstance(given, bool) or not hasattr(given, "__index__"):
            raise TypeError(f"{name} must be a whole number, got {given!r}.")
    count, chunk = operator.index(replicates), operator.index(chunk)
    if not 1 <= count < 2**32:
        raise ValueError(f"replicates must be at least 1 (and below 2^32), got {count}; 1000 are few for an interval.")
    if chunk < 1:
        raise ValueError(f"chunk must be a positive number of replicates, got {chunk}.")
    level_of(level)
    return count, chunk


def _double(leaf: Any) -> Any:
    leaf = np.asarray(leaf)
    return leaf.astype(np.float64) if np.issubdtype(leaf.dtype, np.floating) else leaf


def _numbers(values: Any) -> Any:
    """The statistic as NumPy doubles, or traced."""
    leaves, tree = jax.tree.flatten(values)
    wrong = [type(leaf).__name__ for leaf in leaves if not _real(leaf)]
    if wrong:
        raise ValueError(f"statistic must return arrays of real numbers, got {wrong[0]}.")
    if sum(np.size(leaf) for leaf in leaves) == 0:
        raise ValueError("statistic must return at least one number, got none; for example lambda fit: fit.icc.")
    xp: Any = jnp if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves) else np
    return jax.tree.unflatten(tree, [xp.asarray(leaf, float) for leaf in leaves])


def _real(leaf: Any) -> bool:
    kind = leaf.dtype if isinstance(leaf, jax.core.Tracer) else np.asarray(leaf).dtype
    return (np.issubdtype(kind, np.number) and not np.issubdtype(kind, np.complexfloating)) or kind == np.bool_


def _collected(own: Any, found: Refit, **facts: Any) -> Bootstrap:
    """What follows from the replicates, one number at a time."""
    leaves, tree = jax.tree.flatten(own)
    columns: list[list[np.ndarray]] = []
    with np.errstate(all="ignore"):  # a replicate may be infinite
        for leaf, drawn in zip(leaves, jax.tree.leaves(found.values), strict=True):
            table, words = drawn.reshape(len(drawn), -1), (found.scores, facts["kind"], facts["level"])
            if isinstance(table, np.ndarray):
                each = [interval_of(table[:, i], value, *words) for i, value in enumerate(leaf.reshape(-1).tolist())]
                columns.append([np.reshape(column, leaf.shape)[()] for column in zip(*each, strict=True)])
            else:
                every = jax.vmap(lambda column, value, words=words: traced_interval_of(column, value, *words), (1, 0))
                columns.append([column.reshape(leaf.shape) for column in every(table, leaf.reshape(-1))])
    made = [jax.tree.unflatten(tree, column) for column in zip(*columns, strict=True)]
    return Bootstrap(
        estimate=jax.tree.map(lambda leaf: leaf[()], own),
        **dict(zip(("low", "high", "bias", "standard_error", "used"), made, strict=True)),
        replicates=found.values,
        status=found.status,
        certified=found.certified,
        **facts,
    )
