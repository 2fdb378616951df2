"""Blocks of datasets on devices: one packed array in, one packed array out, the same driver for every form of data.

A block is shared out over the devices. A CPU takes its part LANE datasets at a time, so that a lane's numbers stay in
the cache; a GPU takes wide blocks at once, so that every operation fills it. Datasets that the quick search does not
settle are gathered and searched as a whole.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxre.estimate import Estimate
from jaxre.plan import AXIS, FLOATS, Plan
from jaxre.rows import Array
from jaxre.settings import BATCH, LARGE, SEARCHED, SMALL, default_device, own_settings, platform, quick_jit
from jaxre.status import Status

LANE = 256  # datasets whose numbers a CPU works on at once,
MODEST = 400  # if they have no more than so many each; else a quarter of them
SENT_BY_ONE = 1 << 24  # bytes of a block that one thread copies to a GPU
SENDERS = 8  # threads that copy more


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How many datasets go to one device in one call."""

    widths: tuple[int, ...]
    """the widths that a call may have, ascending, since each compiles anew; the narrowest that holds all is taken."""
    searched: int
    """the widest of the whole search."""
    step: int
    """a chunk that is less than the widest block is a multiple of this many datasets."""
    numbers: int
    """that one block holds at most."""
    chunk: int
    """[byte] of values that are read at a time, if a block is no more."""

    def width(self, total: int, each: int) -> int:
        """That of a block of so many datasets; less where each has very many numbers."""
        width = next((width for width in self.widths if total <= width), self.widths[-1])
        while width > 1 and width * each > self.numbers:
            width //= 2
        return width


ON_CPU = Blocks(widths=(LANE, 8192), searched=LANE, step=2048, numbers=1 << 24, chunk=1 << 24)
ON_GPU = Blocks(widths=tuple(4**i for i in range(4, 9)), searched=4096, step=1 << 16, numbers=1 << 24, chunk=1 << 29)
RESIDENT = Blocks(widths=tuple(4**i for i in range(4, 11)), searched=4096, step=1 << 20, numbers=1 << 27, chunk=1 << 31)


def blocks_of(plan: Plan, values: Any) -> Blocks:
    """How wide the blocks are of values that are on the host, or on the device already."""
    if plan.platform == "cpu":
        return ON_CPU
    return RESIDENT if isinstance(values, jax.Array) else ON_GPU


Prepare = Callable[[Any, Any], Any]
One = Callable[[Any, Any, Plan, bool], tuple[Estimate, Array, dict[str, Array]]]


@functools.lru_cache(maxsize=256)
def _kernel(plan: Plan, prepare: Prepare, one: One, whole: bool) -> Callable[[Any, Any, Any, Any], jax.Array]:
    """Compiled: constants, a block of data (last axis the dataset), the places of lanes of it and how many of these are
    wanted, to packed numbers, `settled` the first."""
    wide = SEARCHED if whole else LANE

    def pack(constants: Any, data: Any) -> jax.Array:
        estimate, settled, extra = one(constants, data, plan, whole)
        found = {name: extra[name] if name in extra else getattr(estimate, name) for name in plan.quantities}
        return jnp.concatenate([jnp.ravel(number).astype(jnp.float64) for number in [settled, *found.values()]])

    def lane(constants: Any, data: Any) -> jax.Array:
        return jax.vmap(functools.partial(pack, constants), -1, -1)(prepare(constants, data))

    def block(constants: Any, data: Any, lanes: Any, wanted: Any) -> jax.Array:
        constants = cast(constants, FLOATS[plan.precision])
        leaves = jax.tree.leaves(data)
        width = leaves[0].shape[-1]
        each = wide if sum(leaf.size for leaf in leaves) <= MODEST * width else wide // 4
        if width <= each or plan.platform != "cpu":
            return lane(constants, data)
        part = lambda start: jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, each, -1), data)
        of_part = jax.jit(lambda start: lane(constants, part(start)))  # traced once, for its shape and for the loop
        pieces, zero = min(wide, width) // each, jnp.zeros((), jnp.int32)

        def put(i: Array, found: Array) -> Array:
            start = lanes[i // pieces] * wide + i % pieces * each
            return jax.lax.dynamic_update_slice_in_dim(found, of_part(start), start, -1)

        found = jnp.zeros((jax.eval_shape(of_part, zero).shape[0], width))
        return jax.lax.fori_loop(zero, wanted * pieces, put, found)  # what is not wanted takes no time

    options = SMALL if plan.few else LARGE if plan.inference else BATCH
    if plan.mesh is None:
        return quick_jit(block, plan.platform, options)
    last = lambda leaf: PartitionSpec(*[None] * (leaf.ndim - 1), AXIS)

    def shared_out(constants: Any, data: Any, lanes: Any, wanted: Any) -> jax.Array:
        def every(constants: Any, data: Any) -> jax.Array:
            lanes = np.arange(-(-jax.tree.leaves(data)[0].shape[-1] // wide), dtype=np.int32)
            return block(constants, data, jnp.asarray(lanes), jnp.int32(len(lanes)))

        specs = (jax.tree.map(lambda _: PartitionSpec(), constants), jax.tree.map(last, data))
        run = jax.shard_map(every, mesh=plan.mesh, in_specs=specs, out_specs=PartitionSpec(None, AXIS), check_vma=False)
        return run(constants, data)

    return quick_jit(shared_out, plan.platform, options)


def as_it_is(_: Any, data: Any) -> Any:
    """A preparation that leaves a block as it is, in double precision."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), data)


def cast(tree: Any, kind: Any) -> Any:
    """The record with its real numbers in a floating-point type."""
    return jax.tree.map(lambda leaf: leaf.astype(kind) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def run(
    plan: Plan, constants: Any, data: Any, prepare: Prepare, one: One, wanted: np.ndarray | None = None
) -> np.ndarray:
    """Packed numbers (numbers, datasets) of data whose last axis is the dataset, one block ahead of the other.

    On a single CPU, lanes of which no dataset is `wanted` are left out, elsewhere whole blocks: NaN, and the status
    INVALID.
    """
    total = jax.tree.leaves(data)[0].shape[-1]
    blocks = blocks_of(plan, jax.tree.leaves(data)[0])
    with own_settings():
        quick = _in_blocks(plan, _kernel(plan, prepare, one, False), constants, data, total, blocks, LANE, wanted)
        settled, numbers = quick[0] > 0, quick[1:]
        left = np.flatnonzero(~settled & (numbers[0] < Status.UNBOUNDED))
        if len(left):
            rest = jax.tree.map(lambda leaf: leaf.take(left, axis=-1), data)
            kernel = _kernel(plan, prepare, one, True)
            blocks = dataclasses.replace(blocks, widths=tuple(w for w in blocks.widths if w <= blocks.searched))
            numbers[:, left] = _in_blocks(plan, kernel, constants, rest, len(left), blocks, SEARCHED)[1:]
    return numbers


def _in_blocks(
    plan: Plan,
    kernel: Any,
    constants: Any,
    data: Any,
    total: int,
    blocks: Blocks,
    lane: int,
    wanted: np.ndarray | None = None,
) -> np.ndarray:
    """In blocks of one of a few widths, the last ones filled up, or on a single CPU no more than the last lane."""
    numbers = sum(leaf.size for leaf in jax.tree.leaves(data)) // total
    width = blocks.width(-(-total // plan.devices), numbers) * plan.devices
    found, pending = None, None
    leaves, form = jax.tree.flatten(data)
    rooms = [[_room(leaf, width) for leaf in leaves] for _ in range(2)]
    by_lane = plan.mesh is None and plan.platform == "cpu" and width >= lane
    unit = lane if by_lane else width  # of what is done or left out
    if wanted is None or plan.mesh is not None:
        wanted = np.ones(total, bool)
    wanted = np.logical_or.reduceat(wanted, np.arange(0, total, unit))
    starts = [start for start in range(0, total, width) if wanted[start // unit :][: width // unit].any()]
    for i, start in enumerate(starts):
        stop = min(start + width, total)
        some = np.flatnonzero(wanted[start // unit :][: width // unit]).astype(np.int32)
        lanes = np.pad(some, (0, width // unit - len(some)))
        filled = unit * -(-(stop - start) // unit)
        columns = map(functools.partial(_columns, start=start, stop=stop, width=filled), leaves, rooms[i % 2])
        block = jax.tree.unflatten(form, columns)
        if plan.mesh is not None:
            block = jax.tree.map(functools.partial(_place, mesh=plan.mesh), block)
        ahead = (start, stop, kernel(constants, block, lanes, np.int32(len(some))))
        if pending is not None:
            found = _collect(found, total, *pending)
        pending = ahead
    assert pending is not None
    found = _collect(found, total, *pending)
    if not wanted.all():
        left_out = ~wanted.repeat(unit)[:total]
        found[:, left_out] = np.nan
        found[1, left_out] = Status.INVALID
    return found


def _room(leaf: Array, width: int) -> np.ndarray | None:
    """On a CPU, memory that JAX takes as it is, without a copy, because it begins at a multiple of 64 bytes."""
    if platform() != "cpu":
        return None
    shape, dtype = (*leaf.shape[:-1], width), leaf.dtype
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def _columns(leaf: Array, room: np.ndarray | None, start: int, stop: int, width: int) -> Array:
    """Columns, the last one repeated up to a width; in the room if there is one."""
    part, missing = leaf[..., start:stop], width - (stop - start)
    if room is None:  # JAX copies what it takes, of any layout
        if isinstance(leaf, np.ndarray) and part.nbytes > SENT_BY_ONE:
            send = functools.partial(_send, device=default_device())
            part = jnp.concatenate(list(_senders().map(send, np.array_split(part, SENDERS))))
        xp, fill = (np if isinstance(part, np.ndarray) else jnp), [(0, 0)] * (leaf.ndim - 1) + [(0, missing)]
        return xp.pad(part, fill, mode="edge") if missing else part
    room[..., : stop - start] = part
    room[..., stop - start : width] = part[..., -1:]
    return room


def _send(part: np.ndarray, device: jax.Device | None) -> jax.Array:
    """In another thread, which has settings of its own."""
    with own_settings():
        return jax.device_put(part, device)


@functools.cache
def _senders() -> ThreadPoolExecutor:
    """Threads that copy to a device, which one alone would keep waiting."""
    return ThreadPoolExecutor(SENDERS, thread_name_prefix="jaxre-send")


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
