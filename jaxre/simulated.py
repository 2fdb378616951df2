"""Inference by simulation for many datasets: what is drawn for each after all have been fitted."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.bootstrap_interval import order_statistics
from jaxre.bootstrap_result import ON_BOUNDARY
from jaxre.columns_of_inference import BOOTSTRAP, BOOTSTRAPPED, DRAWN
from jaxre.estimate import Estimate
from jaxre.frame import Frame, power_of_two
from jaxre.moments import Strata
from jaxre.null import null_statistics
from jaxre.plan import Plan
from jaxre.replicates import Refit, Task, refits
from jaxre.rows import Array
from jaxre.settings import own_settings
from jaxre.status import Status

StrataOf = Callable[[int], Strata]


def with_simulated(plan: Plan, strata_of: StrataOf, p: int, fitted: Callable[[Plan], np.ndarray]) -> np.ndarray:
    """Packed numbers of datasets with what is simulated for each.

    Args:
        plan: with columns that are simulated, or without.
        strata_of: the design of a dataset, by its place; of its outcome no more than the covariates' frame is used.
        p: coefficients.
        fitted: packed numbers by a plan without columns that are simulated.
    """
    if not plan.simulated:
        return fitted(plan)
    before = plan.before_simulation
    rows = before.rows(fitted(before), p, 0)
    with own_settings(), np.errstate(all="ignore"):
        if set(DRAWN) & set(plan.quantities):
            rows |= _likelihood_ratio_tests(plan, strata_of, rows["lr_statistic"][0])
        if set(BOOTSTRAP) & set(plan.quantities):
            rows |= _bootstraps(plan, strata_of, rows)
    return plan.packed(rows)


def strata_of_sizes(sizes: np.ndarray, counts: np.ndarray | None = None) -> Strata:
    """The design of groups of these sizes, each once or as often as `counts` says, with the intercept alone."""
    if counts is None:
        sizes, counts = np.unique(sizes, return_counts=True)
    filled = (sizes > 0) & (counts > 0)
    sizes, counts = sizes[filled].astype(float), counts[filled].astype(float)
    one = np.ones(())
    return Strata(
        rows=sizes @ counts,
        sizes=sizes,
        counts=counts,
        means=np.column_stack([np.ones_like(sizes), np.zeros_like(sizes)]),
        scatter=np.zeros((len(sizes), 2, 2)),
        within_cross=np.zeros((2, 2)),
        within_rank=np.zeros(()),
        frame=Frame(origin=np.zeros(1), transform=np.ones((1, 1)), scale=one, log_volume=np.zeros(())),
        status=np.int32(Status.INTERIOR),
    )


# ---- the likelihood ratio against its finite-sample null distribution


@dataclasses.dataclass(frozen=True)
class _Design:
    """A design by its numbers, so that datasets which share it share what is drawn for it."""

    numbers: tuple[bytes, ...]
    strata: Strata = dataclasses.field(compare=False)


def _design(strata: Strata) -> _Design:
    strata, p = jax.tree.map(np.asarray, strata), strata.means.shape[-1] - 1
    strata = dataclasses.replace(strata, status=np.int32(Status.INTERIOR))  # a dataset over it has an estimate
    filled = (strata.sizes > 0) & (strata.counts > 0)
    facts = [strata.sizes[filled], strata.counts[filled], strata.means[filled, :p], strata.within_rank]
    if p > 1:
        facts += [strata.within_cross[:p, :p]] + ([] if strata.scatter is None else [strata.scatter[filled, :p, :p]])
    return _Design(tuple(np.asarray(fact, float).tobytes() for fact in facts), strata)


@functools.lru_cache(maxsize=16)
def _null(design: _Design, draws: int, seed: int, restricted: bool, generator: tuple[Any, ...]) -> np.ndarray:
    """Statistics drawn where between is 0, ascending; `generator` is what else the draws depend on."""
    drawn = null_statistics(design.strata, jax.random.key(seed), draws, restricted=restricted)
    return np.sort(np.asarray(drawn))


def _likelihood_ratio_tests(plan: Plan, strata_of: StrataOf, statistic: np.ndarray) -> dict[str, np.ndarray]:
    """Of each dataset the share of draws that are as large; a statistic of 0 needs none."""
    share = np.where(statistic == 0, 1.0, np.nan)
    designs: dict[_Design, list[int]] = {}
    generator = tuple(getattr(jax.config, name) for name in ("jax_default_prng_impl", "jax_threefry_partitionable"))
    for i in np.flatnonzero(statistic > 0).tolist():
        designs.setdefault(_design(strata_of(i)), []).append(i)
    for design, places in designs.items():
        null = _null(design, plan.draws, plan.seed, plan.method == "reml", generator)
        if not np.isnan(null[-1]):  # the last, where there are any
            share[places] = (plan.draws - np.searchsorted(null, statistic[places])) / plan.draws
    return {"lr_p_value": share[None], "lr_mc_error": np.sqrt(share * (1 - share) / plan.draws)[None]}


# ---- the parametric bootstrap


def bootstrapped(estimate: Estimate) -> dict[str, Array]:
    """What is bootstrapped of each dataset."""
    roots = {f"sd_{name}": jnp.sqrt(getattr(estimate, name)) for name in ("between", "within")}
    return {name: roots[name] if name in roots else getattr(estimate, name) for name in BOOTSTRAPPED}


def _bootstraps(plan: Plan, strata_of: StrataOf, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Percentile intervals of each dataset, and how many of its replicates are on the boundary or have failed."""
    key, task, count = jax.random.key(plan.seed), Task(bootstrapped, plan.method, scored=False), plan.replicates
    beta, status = rows["beta"], rows["status"][0]
    found = {name: np.full((len(beta) if name.startswith("beta") else 1, len(status)), np.nan) for name in BOOTSTRAP}
    places = np.flatnonzero(status < Status.UNBOUNDED).tolist()
    for i in places:
        at = {name: rows[name][0, i] for name in ("within", "between", "ratio")}
        strata, estimate = _model(strata_of(i), **at, beta=beta[:, i])
        drawn = refits(key, strata, estimate, task, count, count, lambda _: None, len(places))
        for name, numbers in _bootstrap(drawn, plan.level).items():
            found[name][:, i] = numbers
    return found


def _model(
    strata: Strata, *, within: float, between: float, beta: np.ndarray, **rest: float
) -> tuple[Strata, Estimate]:
    """What is drawn from: the outcome in units of the model, whatever outcome the strata are of."""
    unknown = dict.fromkeys((field.name for field in dataclasses.fields(Estimate)), np.float64(np.nan))
    frame, scale = strata.frame, np.float64(power_of_two(math.sqrt(within + between)))
    frame = dataclasses.replace(frame, scale=scale, transform=np.asarray(frame.transform) * (frame.scale / scale))
    strata = dataclasses.replace(strata, frame=frame, status=np.int32(Status.INTERIOR))
    return strata, Estimate(**(unknown | {"within": within, "between": between, "beta": beta} | rest))


def _bootstrap(drawn: Refit, level: float) -> dict[str, np.ndarray]:
    """The columns of one dataset from its replicates."""
    found = {
        "bootstrap_boundary": np.isin(drawn.status, ON_BOUNDARY).sum(),
        "bootstrap_failed": (drawn.status >= Status.UNBOUNDED).sum(),
    }
    places = np.array([(1 - level) / 2, (1 + level) / 2])
    for name, values in drawn.values.items():
        columns = [column[~np.isnan(column)] for column in values.reshape(len(values), -1).T]
        ends = [order_statistics(one, len(one), places) if len(one) > 1 else [np.nan, np.nan] for one in columns]
        found |= dict(zip((f"{name}_bootstrap_low", f"{name}_bootstrap_high"), np.transpose(ends), strict=True))
    return found
