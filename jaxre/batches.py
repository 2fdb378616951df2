"""Blocks of datasets on devices: one packed array in, one packed array out, the same driver for every form of data.

A block is shared out over the devices; each takes it LANE datasets at a time, so that a lane's numbers stay in the
cache. Datasets that the quick search does not settle are gathered and searched as a whole.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxre.classes import Classes, classes_of_block, strata_of_classes
from jaxre.columns_of_inference import COLUMNS, OF_COEFFICIENTS, inference_of_one
from jaxre.estimate import Estimate, estimate_of
from jaxre.intercept import host_moments
from jaxre.moments import Strata, group_moments, stratify
from jaxre.passes import Passes, passes_on_host
from jaxre.rows import Array, HostRows
from jaxre.search import KEPT_OPTIMA
from jaxre.settings import BATCH, LARGE, own_settings, quick_jit
from jaxre.shared import Reduced, SharedDesign, estimate_one, predict_one, reduce_block, reduce_passes
from jaxre.stacking import padded, stacked
from jaxre.status import Status

LANE = 256  # datasets whose numbers are worked on at once
BLOCK = 2048  # datasets that go to one device in one call
MOST_NUMBERS = 1 << 24  # in one block on one device
AXIS = "datasets"
FLOATS = {"double": jnp.float64, "single": jnp.float32}
QUANTITIES = (
    *("status", "between", "within", "between_untruncated", "ratio", "icc", "beta", "beta_se", "beta_cov"),
    *("log_likelihood", "certified", "optima", "optima_ratio", "gap", "steps", "blup", "blup_se"),
)


def widths(quantities: Sequence[str], p: int, groups: int) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of one dataset's packed quantities."""
    shapes: dict[str, tuple[int, ...]] = {"beta": (p,), "beta_se": (p,), "beta_cov": (p, p)}
    shapes |= dict.fromkeys(OF_COEFFICIENTS, (p,))
    shapes |= {"optima_ratio": (KEPT_OPTIMA,), "blup": (groups,), "blup_se": (groups,)}
    return [(name, shapes.get(name, ())) for name in quantities]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be computed, and where."""

    quantities: tuple[str, ...]
    """names, "status" the first."""
    method: str
    precision: str
    mesh: Mesh | None
    df: str = "satterthwaite"
    level: float = 0.95

    @property
    def devices(self) -> int:
        """How many share a block."""
        return 1 if self.mesh is None else math.prod(self.mesh.local_mesh.devices.shape)

    @property
    def effects(self) -> bool:
        """Whether the effects of the groups are wanted."""
        return bool({"blup", "blup_se"} & set(self.quantities))

    @property
    def inference(self) -> bool:
        """Whether tests or intervals are wanted."""
        return bool(set(COLUMNS) & set(self.quantities))

    def numbers(self, p: int, groups: int) -> int:
        """Packed numbers of one dataset."""
        return sum(math.prod(shape) for _, shape in widths(self.quantities, p, groups))


Prepare = Callable[[Any, Any], Any]
One = Callable[[Any, Any, Plan, bool], tuple[Estimate, Array, dict[str, Array]]]


@functools.lru_cache(maxsize=256)
def _kernel(plan: Plan, prepare: Prepare, one: One, whole: bool) -> Callable[[Any, Any], jax.Array]:
    """Compiled: constants and a block of data (last axis the dataset) to packed numbers, `settled` the first."""

    def pack(constants: Any, data: Any) -> jax.Array:
        estimate, settled, extra = one(constants, data, plan, whole)
        found = {name: extra[name] if name in extra else getattr(estimate, name) for name in plan.quantities}
        return jnp.concatenate([jnp.ravel(number).astype(jnp.float64) for number in [settled, *found.values()]])

    def lane(constants: Any, data: Any) -> jax.Array:
        return jax.vmap(functools.partial(pack, constants), -1, -1)(prepare(constants, data))

    def block(constants: Any, data: Any) -> jax.Array:
        constants = _cast(constants, FLOATS[plan.precision])
        width = jax.tree.leaves(data)[0].shape[-1]
        if width <= LANE:
            return lane(constants, data)
        part = lambda start: jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, LANE, -1), data)
        parts = jax.lax.map(lambda start: lane(constants, part(start)), LANE * jnp.arange(width // LANE))
        return parts.transpose(1, 0, 2).reshape(parts.shape[1], width)

    options = LARGE if plan.inference else BATCH
    if plan.mesh is None:
        return quick_jit(block, jax.default_backend(), options)
    last = lambda leaf: PartitionSpec(*[None] * (leaf.ndim - 1), AXIS)

    def shared_out(constants: Any, data: Any) -> jax.Array:
        specs = (jax.tree.map(lambda _: PartitionSpec(), constants), jax.tree.map(last, data))
        run = jax.shard_map(block, mesh=plan.mesh, in_specs=specs, out_specs=PartitionSpec(None, AXIS), check_vma=False)
        return run(constants, data)

    return quick_jit(shared_out, plan.mesh.devices.flat[0].platform, options)


def _cast(tree: Any, kind: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(kind) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def run(plan: Plan, constants: Any, data: Any, prepare: Prepare, one: One) -> np.ndarray:
    """Packed numbers (numbers, datasets) of host data whose last axis is the dataset, one block ahead of the other."""
    total = jax.tree.leaves(data)[0].shape[-1]
    with own_settings():
        quick = _in_blocks(plan, _kernel(plan, prepare, one, False), constants, data, total, BLOCK)
        settled, numbers = quick[0] > 0, quick[1:]
        left = np.flatnonzero(~settled & (numbers[0] < Status.UNBOUNDED))
        if len(left):
            rest = jax.tree.map(lambda leaf: np.take(leaf, left, axis=-1), data)
            kernel = _kernel(plan, prepare, one, True)
            numbers[:, left] = _in_blocks(plan, kernel, constants, rest, len(left), LANE)[1:]
    return numbers


def _in_blocks(plan: Plan, kernel: Any, constants: Any, data: Any, total: int, most: int) -> np.ndarray:
    """In blocks of one of two widths, since each compiles anew: a lane, or `most`; narrower ones of very many rows."""
    numbers = sum(leaf.size for leaf in jax.tree.leaves(data)) // total
    width = LANE if total <= LANE * plan.devices else most
    while width > 1 and width * numbers > MOST_NUMBERS:
        width //= 2
    width *= plan.devices
    found, pending = None, None
    room = [jax.tree.map(lambda leaf: _aligned((*leaf.shape[:-1], width), leaf.dtype), data) for _ in range(2)]
    for i, start in enumerate(range(0, total, width)):
        stop = min(start + width, total)
        block = jax.tree.map(functools.partial(_copy, start=start, stop=stop), data, room[i % 2])
        if plan.mesh is not None:
            block = jax.tree.map(functools.partial(_place, mesh=plan.mesh), block)
        ahead = (start, stop, kernel(constants, block))
        if pending is not None:
            found = _collect(found, total, *pending)
        pending = ahead
    assert pending is not None
    return _collect(found, total, *pending)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory that JAX takes as it is, without a copy, because it begins at a multiple of 64 bytes."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def _copy(leaf: np.ndarray, room: np.ndarray, start: int, stop: int) -> np.ndarray:
    """The columns in the room that there is for them, the last one repeated where they do not fill it."""
    part = leaf[..., start:stop]
    room[..., : stop - start] = part
    room[..., stop - start :] = part[..., -1:]
    return room


def _place(leaf: np.ndarray, mesh: Mesh) -> jax.Array:
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * (leaf.ndim - 1), AXIS))
    return jax.make_array_from_process_local_data(sharding, leaf)


def _collect(found: np.ndarray | None, total: int, start: int, stop: int, result: jax.Array) -> np.ndarray:
    if result.is_fully_addressable:
        numbers = np.asarray(result)
    else:  # this process's share of the block
        shards = sorted(result.addressable_shards, key=lambda shard: shard.index[1].start)
        numbers = np.concatenate([np.asarray(shard.data) for shard in shards], axis=1)
    if found is None:
        found = np.empty((len(numbers), total))
    found[:, start:stop] = numbers[:, : stop - start]
    return found


def share(total: int) -> slice:
    """The part of `total` datasets that belongs to this process of a `jax.distributed` run.

    Args:
        total: [1], datasets of all processes together.

    Returns:
        slice; the parts of all processes cover everything once, and differ in length by one at most.

    Errors:
        ValueError for a negative number, TypeError for one that is not whole.

    Source: definition.

    Example:
        >>> import jaxre
        >>> jaxre.share(10)  # in a single process
        slice(0, 10, None)
    """
    if operator.index(total) < 0:
        raise ValueError(f"total must be a number of datasets, got {total}.")
    place, count = jax.process_index(), jax.process_count()
    return slice(total * place // count, total * (place + 1) // count)


# ---- one design, complete outcomes


def _prepare_shared(design: SharedDesign, values: Array) -> Reduced:
    return reduce_block(design, values, design.spectrum.values.dtype)


def _prepare_passes(design: SharedDesign, made: Passes) -> Reduced:
    return reduce_passes(design, made, design.spectrum.values.dtype)


def _one_shared(
    design: SharedDesign, data: Reduced, plan: Plan, whole: bool
) -> tuple[Estimate, Array, dict[str, Array]]:
    estimate, settled = estimate_one(design, data, plan.method, whole)
    effects, errors = predict_one(design, data, estimate)
    return estimate, settled, {"blup": effects, "blup_se": errors}


def placed(design: SharedDesign) -> SharedDesign:
    """The design on the device, once for all blocks."""
    with own_settings():
        return jax.device_put(design)


def fit_shared(plan: Plan, design: SharedDesign, there: SharedDesign, block: np.ndarray) -> np.ndarray:
    """Packed numbers of the columns of a block (n, datasets) over one design, on the host and `there` on the device."""
    if plan.mesh is None and jax.default_backend() == "cpu":
        made = passes_on_host(design.inner, design.sizes, block)
        return run(plan, there, made, _prepare_passes, _one_shared)
    return run(plan, there, block, _prepare_shared, _one_shared)


# ---- the intercept alone, strata by group size


@functools.lru_cache(maxsize=64)
def _prepare_block(groups: int, classes: int) -> Prepare:
    return lambda codes, values: classes_of_block(codes[0], groups, classes, values, codes[1].dtype)


def _prepare_classes(kind: Array, data: Classes) -> Classes:
    return dataclasses.replace(_cast(data, kind.dtype), scale=data.scale, pilot=data.pilot)


def _one_of_classes(_: Any, data: Classes, plan: Plan, whole: bool) -> tuple[Estimate, Array, dict[str, Array]]:
    return _one_of_strata(_, strata_of_classes(data), plan, whole)


def fit_missing(plan: Plan, codes: np.ndarray, groups: int, classes: int, block: np.ndarray) -> np.ndarray:
    """Packed numbers of the columns of a block (n, datasets) whose missing values are NaN."""
    constants = codes.astype(np.int32), np.zeros(())
    return run(plan, constants, block, _prepare_block(groups, classes), _one_of_classes)


def fit_classes(plan: Plan, data: Classes) -> np.ndarray:
    """Packed numbers of datasets given by their strata."""
    return run(plan, np.zeros(()), data, _prepare_classes, _one_of_classes)


# ---- any design, covariates and all


def _prepare_strata(kind: Array, data: Strata) -> Strata:
    frame = dataclasses.replace(_cast(data.frame, kind.dtype))
    return dataclasses.replace(_cast(data, kind.dtype), frame=frame)


def _one_of_strata(_: Any, data: Strata, plan: Plan, whole: bool) -> tuple[Estimate, Array, dict[str, Array]]:
    estimate, settled = estimate_of(data, plan.method, whole)
    words = plan.quantities, plan.method, plan.df, plan.level
    columns, known = inference_of_one(data, estimate, *words, whole)
    return estimate, settled & known, columns


Dataset = tuple[np.ndarray, np.ndarray, np.ndarray | None]


@functools.lru_cache(maxsize=16)
def _of_design(codes: bytes, covariates: bytes | None, n: int) -> tuple[Prepare, Strata]:
    """Strata of every column of a block over one design, whose facts are constants of the program; and of a column."""
    groups = np.frombuffer(codes, np.int32)
    x = None if covariates is None else np.frombuffer(covariates, np.float64).reshape(n, -1)
    one = lambda y: stratify(group_moments(y, groups, x))

    def prepare(constants: Strata, values: Array) -> Strata:
        return _prepare_strata(constants.rows, jax.vmap(one, -1, -1)(values))

    with own_settings():
        return prepare, jax.tree.map(np.asarray, jax.jit(one)(np.random.default_rng(0).normal(size=n)))


def _one_of_design(
    constants: Strata, data: Strata, plan: Plan, whole: bool
) -> tuple[Estimate, Array, dict[str, Array]]:
    same = {name: getattr(constants, name) for name in ("rows", "sizes", "counts", "within_rank")}
    return _one_of_strata(None, dataclasses.replace(data, **same), plan, whole)


def fit_design(plan: Plan, codes: np.ndarray, covariates: np.ndarray | None, block: np.ndarray) -> np.ndarray:
    """Packed numbers, inference among them, of the columns of a block (n, datasets) over one design."""
    x = None if covariates is None else np.ascontiguousarray(covariates, np.float64).tobytes()
    prepare, constants = _of_design(codes.astype(np.int32).tobytes(), x, len(codes))
    return run(plan, constants, block, prepare, _one_of_design)


def fit_strata(plan: Plan, datasets: Sequence[Dataset], p: int) -> np.ndarray:
    """Packed numbers of (values, codes, covariates), complete rows, one after the other through the host's moments."""
    made = [_strata(*data, p=p) for data in datasets]
    most = max(len(strata.sizes) for strata in made)
    size = 4 ** math.ceil(math.log(max(most, 4), 4))
    batch = stacked([padded(strata, size) for strata in made], axis=-1)
    return run(plan, np.zeros(()), batch, _prepare_strata, _one_of_strata)


def _strata(y: np.ndarray, codes: np.ndarray, x: np.ndarray | None, *, p: int) -> Strata:
    if len(y) == 0 or not np.isfinite(y).all():
        return dataclasses.replace(_strata(*_stand_in(p), p=p), status=np.int32(Status.INVALID))
    if len(y) <= p:  # nothing is left for the variances
        return dataclasses.replace(_strata(*_stand_in(p), p=p), status=np.int32(Status.NOT_IDENTIFIED))
    table = y[:, None] if x is None else np.column_stack([x, y])
    taken, codes = np.unique(codes, return_inverse=True)
    with np.errstate(all="ignore"):
        rows = HostRows(y, codes, x, np.bincount(codes, minlength=len(taken)), (table.min(axis=0), table.max(axis=0)))
        return stratify(host_moments(rows))


def _stand_in(p: int) -> Dataset:
    rng = np.random.default_rng(0)
    n = 4 * p + 4
    return rng.normal(size=n), np.arange(n) // 2, rng.normal(size=(n, p - 1)) if p > 1 else None
