"""The estimator of one dataset, compiled: one packed array goes in and one comes out.

Each array that crosses between NumPy and JAX costs more than the arithmetic of a small fit.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.eager import bucket
from jaxre.estimate import Estimate, in_user_units
from jaxre.frame import Frame
from jaxre.moments import Strata
from jaxre.optimise import Optimizer
from jaxre.optimum import anova_optimum, likelihood_optimum, quick_optimum
from jaxre.search import KEPT_OPTIMA
from jaxre.settings import host_settings, is_small, options_of, platform, quick_jit


def estimate_one(strata: Strata, method: str, optimizer: Optimizer | None) -> Estimate:
    count, columns = strata.means.shape
    padded = bucket(count)
    packed = _pack(strata, padded)
    with host_settings():
        settled, *numbers = _call(packed, method, optimizer, padded, columns - 1, whole=False)
        if not settled:
            _, *numbers = _call(packed, method, optimizer, padded, columns - 1, whole=True)
    return Estimate(**dict(zip(_ESTIMATE, numbers, strict=True)))


def _call(packed: np.ndarray, *key: Any, whole: bool) -> list[Any]:
    """Floats and arrays of the packed answer."""
    found = np.asarray(_kernel(*key, whole)(packed))
    numbers = found.tolist()
    places = _places(_shapes(key[-1]))
    return [found[start:end].reshape(shape) if shape else numbers[start] for start, end, shape in places]


@functools.lru_cache(maxsize=64)
def _kernel(method: str, optimizer: Optimizer | None, strata: int, p: int, whole: bool) -> Any:
    def run(packed: jax.Array) -> jax.Array:
        rows, sizes, counts, means, scatter, cross, rank, origin, transform, scale, volume, log_weights, status = (
            _split(packed, _strata_shapes(strata, p))
        )
        frame = Frame(origin=origin, transform=transform, scale=scale, log_volume=volume, log_weights=log_weights)
        data = Strata(
            rows=rows,
            sizes=sizes,
            counts=counts,
            means=means,
            scatter=scatter,
            within_cross=cross,
            within_rank=rank,
            frame=frame,
            status=status.astype(jnp.int32),
        )
        settled, restricted = jnp.array(True), method == "reml"
        if method == "anova":
            found = anova_optimum(data)
        elif whole:
            found = likelihood_optimum(data, restricted, optimizer)
        else:
            found, settled = quick_optimum(data, restricted, optimizer)
        estimate = in_user_units(found, frame, rows, data.status, restricted=restricted)
        numbers = [settled, *(getattr(estimate, name) for name in _ESTIMATE)]
        return jnp.concatenate([jnp.ravel(number).astype(packed.dtype) for number in numbers])

    return quick_jit(run, platform(), options_of(is_small(strata, p)))


@functools.lru_cache(maxsize=64)
def _strata_shapes(strata: int, p: int) -> tuple[tuple[int, ...], ...]:
    q = p + 1
    return (), (strata,), (strata,), (strata, q), (strata, q, q), (q, q), (), (p,), (p, p), (), (), (), ()


def _pack(strata: Strata, padded: int) -> np.ndarray:
    places = _places(_strata_shapes(padded, strata.means.shape[1] - 1))
    packed = np.zeros(places[-1][1])
    frame = strata.frame
    leaves = (
        *(strata.rows, strata.sizes, strata.counts, strata.means, strata.scatter, strata.within_cross),
        *(strata.within_rank, frame.origin, frame.transform, frame.scale, frame.log_volume),
        *(0.0 if frame.log_weights is None else frame.log_weights, strata.status),  # those of weights 1 are 0
    )
    for (start, _, shape), leaf in zip(places, leaves, strict=True):
        if shape:
            packed[start : start + leaf.size] = leaf.reshape(-1)  # the rest of a padded array stays 0
        else:
            packed[start] = leaf
    return packed


_ESTIMATE = [field.name for field in dataclasses.fields(Estimate)]


@functools.lru_cache(maxsize=64)
def _shapes(p: int) -> tuple[tuple[int, ...], ...]:
    special: dict[str, tuple[int, ...]] = {"optima_ratio": (KEPT_OPTIMA,)}
    special |= dict.fromkeys(("beta", "beta_se", "gamma"), (p,)) | dict.fromkeys(("beta_cov", "gamma_cov"), (p, p))
    return (), *(special.get(name, ()) for name in _ESTIMATE)


Shapes = tuple[tuple[int, ...], ...]


@functools.lru_cache(maxsize=64)
def _places(shapes: Shapes) -> list[tuple[int, int, tuple[int, ...]]]:
    """Where each of the arrays packed one after the other begins and ends, with its shape."""
    ends = list(itertools.accumulate(map(math.prod, shapes)))
    return list(zip([0, *ends], ends, shapes, strict=False))


def _split(packed: Any, shapes: Shapes) -> list[Any]:
    return [packed[start:end].reshape(shape) if shape else packed[start] for start, end, shape in _places(shapes)]
