"""Chunks of a matrix of outcomes: how many columns at a time, and those columns from whatever holds them."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from jaxre.batches import Blocks
from jaxre.columns import beyond_doubles, frame_of, numeric
from jaxre.plan import Plan
from jaxre.settings import own_settings


def matrix_of(values: Any) -> tuple[Any, np.ndarray | None]:
    """A matrix of outcomes, and their names where it is a data frame."""
    frame = frame_of(values)
    if frame is not None:
        columns = [numeric(frame[name], f"column {name!r} of values") for name in frame.columns]
        names = np.array([str(name) for name in frame.columns], object)
        return np.column_stack(columns) if columns else np.zeros((len(frame), 0)), names
    if isinstance(values, jax.Array) and [device.platform for device in values.devices()] == ["cpu"]:
        return np.asarray(values), None  # a view, of which a slice is another; slices of JAX's arrays are copies
    return (values if hasattr(values, "shape") else np.asarray(values)), None


def chunk_of(chunk: int | None, n: int, plan: Plan, blocks: Blocks) -> int:
    """Datasets a chunk: what was asked for, or whole blocks, as many as the device takes at a time."""
    if chunk is None:
        block, most = blocks.width(blocks.widths[-1], n) * plan.devices, blocks.chunk // (8 * n)
        step = block if most >= block else min(block, blocks.step * plan.devices)
        return max(1, most // step) * step
    wanted, free = 24.0 * n * chunk, _free_memory()  # the chunk, a copy of it, and one on its way
    if wanted > free:
        raise ValueError(
            f"a chunk of {chunk} datasets of {n} rows needs {wanted / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            f"pass a smaller chunk."
        )
    return chunk


def _free_memory() -> float:
    try:
        with open("/proc/meminfo") as lines:
            return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf


def complete_columns(block: np.ndarray) -> np.ndarray | None:
    """Which columns are finite throughout; None where any of the first few is, since mostly others then are too."""
    with np.errstate(all="ignore"):
        if np.isfinite(block[:, :16].sum(axis=0)).any():
            return None
        complete = np.ones(block.shape[1], bool)
        quarter = -(-len(block) // 4)
        for start in range(0, len(block), quarter):
            part, left = block[start : start + quarter], np.flatnonzero(complete)
            some = left if 4 * len(left) < len(complete) else slice(None)  # a copy of a few takes less time than all
            complete[some] &= np.isfinite(part[:, some].sum(axis=0))
        return complete


def fetched(block: Any, columns: np.ndarray | slice) -> np.ndarray:
    """Some columns as doubles on the host, whatever JAX is set to where the block is on a device."""
    with own_settings():
        return np.asarray(block[:, columns], np.float64)


def block_on_device(values: jax.Array, part: slice, rows: np.ndarray) -> jax.Array:
    """Columns of values on a device, rows in the order of their groups."""
    with own_settings():
        columns = values[:, part]
        return columns if np.array_equal(rows, np.arange(len(columns))) else columns[rows]


def block_on_host(values: Any, part: slice, rows: np.ndarray) -> np.ndarray:
    """Columns of whatever holds the values as doubles, rows in the order of their groups; a view where it can be."""
    columns, mask = values[:, part], None
    if isinstance(columns, np.ma.MaskedArray):
        columns, mask = columns.data, np.ma.getmaskarray(columns)
    given = np.asarray(columns)
    if given.dtype.kind not in "fiub":
        raise TypeError(f"values must be real numbers, got {given.dtype}; convert them first.")
    in_order = len(rows) == len(given) and (rows[1:] > rows[:-1]).all()
    block = given if in_order else np.take(given, rows, axis=0)
    if block.dtype.kind in "iu" and (inexact := beyond_doubles(block)).any():
        block = np.where(inexact, np.inf, block.astype(np.float64))  # invalid, where it would be rounded
    block = block.astype(np.float64, copy=False)
    return block if mask is None else np.where(mask[rows], np.nan, block)
