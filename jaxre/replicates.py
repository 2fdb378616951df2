"""Refits of datasets drawn from a fitted model: a compiled loop over lanes of them, each with a key of its own."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.draws import Freedom, Source, draw_from, freedom_of, source_of
from jaxre.effects import normal_equations
from jaxre.estimate import Estimate, estimate_of
from jaxre.moments import Strata
from jaxre.profile import solve
from jaxre.records import record
from jaxre.rows import Array
from jaxre.settings import SEARCHED, SMALL, Options, is_small, lane, options_of, platform, quick_jit
from jaxre.spectral_draws import SpectralSource, refit_spectral, spectral_source
from jaxre.status import Status

LANE = 512  # datasets whose numbers a CPU works on at once
FEW = 20_000  # replicates that are drawn and fitted in less time than better code takes to compile
COMPILER: Options = [{"xla_cpu_use_fusion_emitters": False}, {}][jax.__version_info__ >= (0, 12) :]  # half the time

Statistic = Callable[[Estimate], Any]
Advance = Callable[[int], None]


@record
class Refit:
    """What a replicate leaves behind; each number is NaN where there is no estimate."""

    values: Any
    """pytree, what the statistic makes of the estimate."""
    status: Array
    """() int32 `Status`."""
    certified: Array
    """() bool."""
    scores: Array | None
    """(2 + p,) numbers that span the score at the model: Q and Q' at its ratio, and the coefficients there."""
    settled: Array
    """() bool, whether the quick search was enough; where not, the rest means nothing."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What is done to each dataset: all that the compiled loop depends on but for the shapes of the design."""

    statistic: Statistic
    method: str
    scored: bool
    """whether the scores are wanted."""


@functools.lru_cache(maxsize=8)
def _estimator(method: str, whole: bool, small: bool) -> Callable[[Strata], tuple[Estimate, Array]]:
    return quick_jit(lambda strata: estimate_of(strata, method, whole), platform(), options_of(small))


def own_estimate(strata: Strata, method: str) -> Estimate:
    """The estimate of the data themselves."""
    small = is_small(len(strata.sizes), strata.means.shape[-1] - 1)
    estimate, settled = _estimator(method, False, small)(strata)
    return estimate if settled else _estimator(method, True, small)(strata)[0]


def refit(
    key: Array, source: Source | SpectralSource, ratio: Array, task: Task, most: Freedom, whole: bool | None
) -> Refit:
    """One replicate, by the quick or by the whole search; None for one after the other."""
    if isinstance(source, SpectralSource):
        assert whole is not None
        estimate, settled, scores = refit_spectral(key, source, ratio, most, task.method, whole)
    else:
        strata = draw_from(key, source, most)
        estimate, settled = estimate_of(strata, task.method, whole)
        at, gamma, _ = solve(normal_equations(strata), ratio, True)
        scores = jnp.concatenate([jnp.stack([at.quadratic, at.quadratic_1]), gamma])
    nan = jnp.where(estimate.status >= Status.UNBOUNDED, jnp.nan, 0.0)
    return Refit(
        values=jax.tree.map(lambda leaf: jnp.asarray(leaf, float) + nan, task.statistic(estimate)),
        status=estimate.status,
        certified=estimate.certified,
        scores=scores if task.scored else None,
        settled=settled,
    )


@functools.lru_cache(maxsize=64)
def _kernel(task: Task, most: Freedom, whole: bool, width: int, few: bool) -> Callable[..., Refit]:
    """Compiled: keys are those of the indices, of which the first `lanes` lanes of that width are done."""

    def run(key: Array, indices: Array, lanes: Array, source: Source, ratio: Array) -> Refit:
        each = jax.vmap(lambda index: refit(jax.random.fold_in(key, index), source, ratio, task, most, whole))

        def one(i: Array, done: Refit) -> Refit:
            found = each(jax.lax.dynamic_slice_in_dim(indices, i * width, width))
            put = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, i * width, 0)
            return jax.tree.map(put, done, found)

        room = lambda leaf: jnp.zeros((len(indices), *leaf.shape[1:]), leaf.dtype)
        blank = jax.tree.map(room, jax.eval_shape(each, indices[:width]))
        return jax.lax.fori_loop(0, lanes, one, blank)

    return quick_jit(run, platform(), SMALL if few else COMPILER)


def refits(
    key: Array,
    strata: Strata,
    estimate: Estimate,
    task: Task,
    count: int,
    chunk: int,
    advance: Advance,
    datasets: int = 1,
) -> Refit:
    """NumPy arrays with a replicate for each row, `chunk` of them in memory of the device at a time; of one of several
    datasets to come."""
    source: Any
    source, most = spectral_source(strata, estimate, task.method) or (
        source_of(strata, estimate.ratio, estimate.within, estimate.beta),
        freedom_of(strata),
    )
    source, ratio = jax.tree.map(jnp.asarray, (source, estimate.ratio))
    chunk = LANE * -(-chunk // LANE)
    width = min(lane(LANE), chunk)
    chunk = width * -(-chunk // width)

    def run(which: np.ndarray, whole: bool, advance: Advance) -> Refit:
        wide = lane(SEARCHED, width) if whole else width
        kernel = _kernel(task, most, whole, wide, datasets * count <= FEW)
        return _in_chunks(kernel, wide, key, which, chunk, (source, ratio), advance)

    found = run(np.arange(count, dtype=np.uint32), False, advance)
    left = np.flatnonzero(~found.settled & (found.status < Status.UNBOUNDED))
    if len(left):
        again = run(left.astype(np.uint32), True, lambda _: None)
        for old, new in zip(jax.tree.leaves(found), jax.tree.leaves(again), strict=True):
            old[left] = new
    return found


def traced_refits(key: Array, strata: Strata, estimate: Estimate, task: Task, count: int) -> Refit:
    """The same inside of a program: JAX arrays with a replicate for each row."""
    source, most = source_of(strata, estimate.ratio, estimate.within, estimate.beta), freedom_of(strata)
    width = min(lane(LANE), count)
    places = jnp.arange(-(-count // width) * width, dtype=jnp.uint32).reshape(-1, width)
    one = lambda i: refit(jax.random.fold_in(key, i), source, estimate.ratio, task, most, None)
    found = jax.lax.map(jax.vmap(one), places)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], found)


def _in_chunks(
    kernel: Any, width: int, key: Array, which: np.ndarray, chunk: int, model: tuple[Any, Array], advance: Advance
) -> Refit:
    found: Any = None
    for start in range(0, len(which), chunk):
        part = which[start : start + chunk]
        indices, lanes = np.pad(part, (0, chunk - len(part))), np.int32(-(-len(part) // width))
        done = jax.tree.map(np.asarray, kernel(key, indices, lanes, *model))
        if found is None:
            found = jax.tree.map(lambda leaf: np.empty((len(which), *leaf.shape[1:]), leaf.dtype), done)
        for room, new in zip(jax.tree.leaves(found), jax.tree.leaves(done), strict=True):
            room[start : start + len(part)] = new[: len(part)]
        advance(len(part))
    return found
