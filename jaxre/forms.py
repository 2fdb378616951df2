"""The forms that many datasets come in, each as constants, a preparation of a block and a fit of one dataset.

What runs them is `batches.run`, the same for all.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.arrays import group_moments
from jaxre.batches import One, Prepare, as_it_is, cast, run
from jaxre.by_group import places_of
from jaxre.checks import HomogeneityCheck, NormalityCheck, homogeneity_check, normality_check
from jaxre.classes import Classes, by_classes, strata_of_classes, sums_of_block
from jaxre.columns_of_groups import (
    CHECKS,
    OF_DELETIONS,
    columns_of_checks,
    columns_of_deletions,
    columns_of_effects,
    columns_of_predictions,
)
from jaxre.columns_of_inference import inference_of_one
from jaxre.components import Components
from jaxre.estimate import Estimate, estimate_of
from jaxre.group_effects import group_effects
from jaxre.influence import influence
from jaxre.intercept import host_moments
from jaxre.moments import GroupMoments, Strata
from jaxre.observations import extremes
from jaxre.passes import Missing, Passes, missing_of, passes_on_host, sums_on_host
from jaxre.plan import Plan
from jaxre.prediction import predictions
from jaxre.residuals import residuals
from jaxre.rows import Array, HostRows
from jaxre.settings import own_settings
from jaxre.shared import Reduced, estimate_one, predict_one, reduce_block, reduce_passes
from jaxre.shared_design import SharedDesign
from jaxre.simulated import strata_of_sizes, with_simulated
from jaxre.stacking import padded, stacked
from jaxre.status import Status
from jaxre.strata import stratify

# ---- one design, complete outcomes


def _prepare_shared(design: SharedDesign, values: Array) -> Reduced:
    return reduce_block(design, values.astype(jnp.float64), design.spectrum.values.dtype)


def _prepare_passes(design: SharedDesign, made: Passes) -> Reduced:
    return reduce_passes(design, made, design.spectrum.values.dtype)


def _one_shared(
    design: SharedDesign, data: Reduced, plan: Plan, whole: bool
) -> tuple[Estimate, Array, dict[str, Array]]:
    estimate, settled = estimate_one(design, data, plan.method, whole)
    effects, errors = predict_one(design, data, estimate)
    return estimate, settled, {"blup": effects, "blup_se": errors}


def on_host(plan: Plan) -> bool:
    """Whether the passes over the rows are NumPy's: with a single CPU, which adds up rows faster so than by XLA."""
    return plan.mesh is None and plan.platform == "cpu"


def placed(design: SharedDesign) -> SharedDesign:
    """The design on the device, once for all blocks."""
    with own_settings():
        return jax.device_put(design)


def fit_shared(
    plan: Plan, design: SharedDesign, there: SharedDesign, block: Array, wanted: np.ndarray | None = None
) -> np.ndarray:
    """Packed numbers of the columns of a block (n, datasets) over one design, on the host and `there` on the device.

    Those that are not `wanted` may be left out; see `run`.
    """
    if on_host(plan):
        made = passes_on_host(design.inner, design.sizes, block, wanted)
        return run(plan, there, made, _prepare_passes, _one_shared, wanted)
    return run(plan, there, block, _prepare_shared, _one_shared, wanted)


# ---- the intercept alone, strata by group size


@functools.lru_cache(maxsize=64)
def _prepare_block(groups: int, classes: int) -> Prepare:
    return lambda at, values: by_classes(sums_of_block(at[0], at[1], groups, values, at[2].dtype), classes, at[2].dtype)


@functools.lru_cache(maxsize=64)
def _prepare_sums(classes: int) -> Prepare:
    return lambda kind, made: by_classes(made, classes, kind.dtype)


def _prepare_classes(kind: Array, data: Classes) -> Classes:
    return dataclasses.replace(cast(data, kind.dtype), scale=data.scale, pilot=data.pilot)


def _one_of_classes(_: Any, data: Classes, plan: Plan, whole: bool) -> tuple[Estimate, Array, dict[str, Array]]:
    return _one_of_strata(_, strata_of_classes(data), plan, whole)


def fit_missing(plan: Plan, codes: np.ndarray, sizes: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, Missing]:
    """Packed numbers of the columns of a block (n, datasets) whose missing values are NaN; and how many each lacks."""
    if plan.simulated:
        strata_of = lambda i: strata_of_sizes(np.bincount(codes[~np.isnan(block[:, i])]))
        fitted = lambda plan: fit_missing(plan, codes, sizes, block)[0]
        return with_simulated(plan, strata_of, 1, fitted), missing_of(sizes, block)
    groups, classes = len(sizes), int(sizes.max())
    if on_host(plan):
        made = sums_on_host(sizes, block)
        numbers = run(plan, np.zeros(()), made, _prepare_sums(classes), _one_of_classes)
        present = made.sizes.sum(axis=0).astype(int)
        return numbers, Missing(values=len(block) - present, groups=(made.sizes == 0).sum(axis=0))
    constants = codes.astype(np.int32), places_of(codes, groups), np.zeros(())
    return run(plan, constants, block, _prepare_block(groups, classes), _one_of_classes), missing_of(sizes, block)


def fit_classes(plan: Plan, data: Classes) -> np.ndarray:
    """Packed numbers of datasets given by their strata."""
    strata_of = lambda i: strata_of_sizes(1 + np.arange(len(data.counts)), data.counts[:, i])
    fitted = lambda plan: run(plan, np.zeros(()), data, _prepare_classes, _one_of_classes)
    return with_simulated(plan, strata_of, 1, fitted)


# ---- any design, covariates and all


def _prepare_strata(kind: Array, data: Strata) -> Strata:
    return cast(data, kind.dtype)


def _one_of_strata(_: Any, data: Strata, plan: Plan, whole: bool) -> tuple[Estimate, Array, dict[str, Array]]:
    estimate, settled = estimate_of(data, plan.method, whole)
    words = plan.quantities, plan.method, plan.df, plan.level, plan.contrasts
    columns, known = inference_of_one(data, estimate, *words, whole)
    return estimate, settled & known, columns


Dataset = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def _packed(codes: np.ndarray, covariates: np.ndarray | None) -> tuple[bytes, bytes | None, int]:
    """A design as what a cache can look up."""
    x = None if covariates is None else np.ascontiguousarray(covariates, np.float64).tobytes()
    return codes.astype(np.int32).tobytes(), x, len(codes)


def _unpacked(codes: bytes, covariates: bytes | None, n: int) -> tuple[np.ndarray, np.ndarray | None]:
    x = None if covariates is None else np.frombuffer(covariates, np.float64).reshape(n, -1)
    return np.frombuffer(codes, np.int32), x


@functools.lru_cache(maxsize=16)
def _of_design(codes: bytes, covariates: bytes | None, n: int) -> tuple[Prepare, Strata]:
    """Strata of every column of a block over one design, whose facts are constants of the program; and of a column."""
    groups, x = _unpacked(codes, covariates, n)
    one = lambda y: stratify(group_moments(y, groups, x))

    def prepare(constants: Strata, values: Array) -> Strata:
        return _prepare_strata(constants.rows, jax.vmap(one, -1, -1)(values.astype(jnp.float64)))

    with own_settings():
        return prepare, jax.tree.map(np.asarray, jax.jit(one)(np.random.default_rng(0).normal(size=n)))


def _one_of_design(
    constants: Strata, data: Strata, plan: Plan, whole: bool
) -> tuple[Estimate, Array, dict[str, Array]]:
    same = {name: getattr(constants, name) for name in ("rows", "sizes", "counts", "within_rank")}
    return _one_of_strata(None, dataclasses.replace(data, **same), plan, whole)


def fit_design(
    plan: Plan, codes: np.ndarray, covariates: np.ndarray | None, block: Array, wanted: np.ndarray | None = None
) -> np.ndarray:
    """Packed numbers, inference among them, of the columns of a block (n, datasets) over one design; see `run`."""
    prepare, constants = _of_design(*_packed(codes, covariates))
    fitted = lambda plan: run(plan, constants, block, prepare, _one_of_design, wanted)
    return with_simulated(plan, lambda i: constants, constants.means.shape[-1] - 1, fitted)


@functools.lru_cache(maxsize=16)
def _groups_of_design(codes: bytes, covariates: bytes | None, n: int) -> One:
    groups, x = _unpacked(codes, covariates, n)

    def one(at_new: Any, data: Any, plan: Plan, whole: bool) -> tuple[Any, Array, dict[str, Array]]:
        (places, rows), (values, within, between) = at_new, data
        at, moments = Components(within=within, between=between), group_moments(values, groups, x)
        found = group_effects(moments, at, method=plan.method, level=plan.level)
        columns = columns_of_effects(found, plan.quantities)
        if plan.predict is not None:
            predicted = predictions(moments, at, places, rows, method=plan.method, level=plan.level)
            columns |= columns_of_predictions(predicted, plan.quantities)
        if set(CHECKS) & set(plan.quantities):
            columns |= _checks(moments, at, values, groups, x, found.standardised, plan.quantities)
        if set(OF_DELETIONS) & set(plan.quantities):
            left_out = influence(values, groups, x, num_groups=len(moments.sizes), method=plan.method)
            columns |= columns_of_deletions(left_out, plan.quantities)
        return None, jnp.ones((), bool), {"status": jnp.zeros(()), **columns}

    return one


def _checks(
    moments: GroupMoments,
    at: Components,
    values: Array,
    groups: np.ndarray,
    x: np.ndarray | None,
    effects: Array,
    asked: Collection[str],
) -> dict[str, Array]:
    """Those that are asked for of one dataset; NaN where it has no estimate."""
    of_rows, nan = residuals(moments, at, values, groups, x), 0 * at.within
    made: dict[str, HomogeneityCheck | NormalityCheck] = {
        "spread": homogeneity_check(of_rows.marginal, groups, len(moments.sizes)),
        "residuals": normality_check(of_rows.conditional_standardised),
        "effects": normality_check(effects),
    }
    return {name: column + nan for name, column in columns_of_checks(made, asked).items()}


def groups_of_design(
    plan: Plan,
    codes: np.ndarray,
    covariates: np.ndarray | None,
    block: Array,
    variances: tuple[Array, Array],
    places: np.ndarray,
) -> np.ndarray:
    """Packed numbers of the groups, of predictions in those at `places` and of checks, of the columns of a block
    (n, datasets) over one design, at their variances (within, between)."""
    one, rows = _groups_of_design(*_packed(codes, covariates)), np.zeros((0, 0))
    if plan.predict is not None:
        rows = plan.predict.table(1 if covariates is None else 1 + covariates.shape[1])
        plan = dataclasses.replace(plan, predict=plan.predict.form)
    plan = dataclasses.replace(plan, precision="double")  # moments are, and there is no search
    return run(plan, (places, rows), (block, *variances), as_it_is, one)


def fit_strata(plan: Plan, datasets: Sequence[Dataset], p: int) -> np.ndarray:
    """Packed numbers of (values, codes, covariates), complete rows, one after the other through the host's moments."""
    made = [_strata(*data, p=p) for data in datasets]
    most = max(len(strata.sizes) for strata in made)
    size = 4 ** math.ceil(math.log(max(most, 4), 4))
    return fit_stacked(plan, stacked([padded(strata, size) for strata in made], axis=-1))


def fit_stacked(plan: Plan, data: Strata) -> np.ndarray:
    """Packed numbers of datasets given by their strata, whose last axis is the dataset."""
    strata_of = lambda i: jax.tree.map(lambda leaf: np.asarray(leaf[..., i]), data)
    fitted = lambda plan: run(plan, np.zeros(()), data, _prepare_strata, _one_of_strata)
    return with_simulated(plan, strata_of, data.means.shape[1] - 1, fitted)


def _strata(y: np.ndarray, codes: np.ndarray, x: np.ndarray | None, *, p: int) -> Strata:
    if len(y) == 0 or not np.isfinite(y).all():
        return dataclasses.replace(_strata(*_stand_in(p), p=p), status=np.int32(Status.INVALID))
    if len(y) <= p:  # nothing is left for the variances
        return dataclasses.replace(_strata(*_stand_in(p), p=p), status=np.int32(Status.NOT_IDENTIFIED))
    taken, codes = np.unique(codes, return_inverse=True)
    with np.errstate(all="ignore"):
        rows = HostRows(y, codes, x, np.bincount(codes, minlength=len(taken)), extremes(y, x))
        return stratify(host_moments(rows))


def _stand_in(p: int) -> Dataset:
    rng = np.random.default_rng(0)
    n = 4 * p + 4
    return rng.normal(size=n), np.arange(n) // 2, rng.normal(size=(n, p - 1)) if p > 1 else None
