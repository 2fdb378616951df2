"""The front door for many datasets: a matrix, a long table or an iterator in, arrays with a datasets axis out."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxre.batches import AXIS, BLOCK, QUANTITIES, Plan, fit_classes, fit_missing, fit_shared, fit_strata, widths
from jaxre.classes import MOST_CLASSES
from jaxre.columns import covariates_of, numbers, refuse_infinity, refuse_too_many
from jaxre.fits import FitMany
from jaxre.fitting import fit
from jaxre.longform import Long, classes_of_long, combined
from jaxre.observations import encode
from jaxre.progress import Progress
from jaxre.shared import MOST_GROUPS, design_status, shared_design
from jaxre.status import Status

METHODS = ("reml", "ml", "anova")
PRECISIONS = ("double", "single")
DEFAULT = tuple(name for name in QUANTITIES if name not in ("optima_ratio", "blup", "blup_se"))


def fit_many(
    values: Any,
    groups: ArrayLike | Sequence[Hashable] | None = None,
    covariates: ArrayLike | None = None,
    *,
    method: str = "reml",
    datasets: ArrayLike | Sequence[Hashable] | None = None,
    quantities: Sequence[str] = DEFAULT,
    chunk: int | None = None,
    mesh: Mesh | None = None,
    progress: bool | None = None,
    precision: str = "double",
) -> FitMany:
    """Fitted one-way random-effects models for many datasets.

    Three forms of input. A matrix `values` (n, datasets) over one design, NaN where a value is missing: NumPy, JAX,
    memory-mapped, or anything with a shape that can be sliced; only `chunk` columns of it are read at a time. A long
    table: `values` (n,) with `groups` and `datasets`, labels of the groups and of the datasets. Or an iterable of
    (values, groups) or (values, groups, covariates), one a dataset. No dataset makes this raise: each has its status.

    Args:
        values: see above.
        groups: (n,) labels of any hashable type; left out for an iterable.
        covariates: (n, p - 1) [x], no column of ones, for the matrix and the long table.
        method: "reml", "ml" or "anova".
        datasets: (n,) labels of the datasets of a long table.
        quantities: names of the fields to return; "blup", "blup_se" and "optima_ratio" only come when asked for.
        chunk: datasets in memory at a time; by default as many as make 16 MB.
        mesh: one-dimensional mesh of devices to share the datasets out to; by default all local ones.
        progress: whether to show a bar on the error stream; by default only on a terminal.
        precision: "double", or "single" for devices that are slow in double: values are centred and scaled in double,
            then all is done in single.

    Returns:
        FitMany.

    Errors:
        ValueError or TypeError for an unknown method, quantity or precision, shapes that do not fit, values that are
        not numbers, infinite covariates, or a chunk too large for memory. Never for the values of a dataset.

    Source: README, "The pipeline"; the shared design in spectral form, as for `fit` otherwise.

    Example:
        >>> import numpy as np, jaxre
        >>> values = np.array([[3.0, 1.0], [5.0, 2.0], [11.0, 1.0], [9.0, 3.0], [7.0, 2.0], [6.0, 1.0]])
        >>> fits = jaxre.fit_many(values, ["a", "a", "b", "b", "c", "c"])
        >>> print(fits.between.round(4), fits.certified)
        [8.3333 0.    ] [ True  True]
    """
    plan = Plan(_checked_options(method, quantities, chunk, precision), method, precision, _mesh(mesh))
    if groups is None:
        if hasattr(values, "shape"):
            raise ValueError("groups is missing: pass one label for each row of values.")
        if covariates is not None or datasets is not None:
            raise ValueError("an iterable of datasets has its covariates in it: (values, groups, covariates).")
        return _of_iterable(values, plan, Progress(None, progress))
    if datasets is not None:
        return _of_long_table(values, groups, covariates, datasets, plan, progress)
    return _of_matrix(values, groups, covariates, plan, chunk, progress)


def _mesh(mesh: Mesh | None) -> Mesh | None:
    """The mesh that was asked for, or one of all local devices where there are several."""
    if mesh is None:
        devices = jax.local_devices()
        return jax.make_mesh((len(devices),), (AXIS,), devices=devices) if len(devices) > 1 else None
    if len(mesh.axis_names) != 1:
        raise ValueError(
            f"mesh must have one axis, got {mesh.axis_names}; for example jax.make_mesh((4,), ('datasets',))."
        )
    return Mesh(mesh.devices, (AXIS,))


def _checked_options(method: str, quantities: Sequence[str], chunk: int | None, precision: str) -> tuple[str, ...]:
    if method not in METHODS:
        raise ValueError(f"method must be one of 'reml', 'ml' or 'anova', got {method!r}.")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be 'double' or 'single', got {precision!r}.")
    if isinstance(quantities, str):
        quantities = (quantities,)
    unknown = [name for name in quantities if name not in QUANTITIES]
    if unknown:
        raise ValueError(f"quantities has unknown names {unknown}; there are {', '.join(QUANTITIES)}.")
    if chunk is not None and (not isinstance(chunk, (int, np.integer)) or chunk < 1):
        raise ValueError(f"chunk must be a positive number of datasets, got {chunk!r}.")
    return tuple(dict.fromkeys(["status", *quantities]))


# ---- one design, a matrix of outcomes


def _of_matrix(
    values: Any, groups: Any, covariates: Any, plan: Plan, chunk: int | None, progress: bool | None
) -> FitMany:
    if not hasattr(values, "shape"):
        values = np.asarray(values)
    shape = tuple(values.shape)
    if len(shape) != 2:
        raise ValueError(
            f"values must have shape (observations, datasets), got {shape}; for one dataset use jaxre.fit, for a long "
            f"table pass datasets=."
        )
    labels, (n, count) = encode(groups), shape
    if len(labels.slots) != n:
        hint = "; transpose values" if len(labels.slots) == count else ""
        raise ValueError(f"values {shape} must have as many rows as groups has labels, {len(labels.slots)}{hint}.")
    x, names = _covariates(covariates, n)
    keep = labels.slots >= 0
    if x is not None:
        keep &= ~np.isnan(x).any(axis=1)
    rows = np.flatnonzero(keep)
    if len(rows) == 0:
        raise ValueError(
            f"no rows are left: all {n} have a missing label or covariate; check the columns that you pass."
        )
    present, codes = np.unique(labels.codes[rows], return_inverse=True)
    order = np.argsort(codes, kind="stable")
    rows, codes = rows[order], codes[order]
    if x is not None:
        x = np.ascontiguousarray(x[rows])
        refuse_too_many(x)
    out = np.empty((plan.numbers(len(names), len(present)), count))
    used = np.full(count, len(rows))
    verdict = design_status(codes, x)
    rest = plan, used, names, labels.labels[present], None
    if verdict.failed:
        return _result(_without_estimates(plan, out, verdict, len(names), len(present)), *rest)
    design = shared_design(codes, x, plan.method == "reml") if len(present) <= MOST_GROUPS else None
    size, bar = _chunk(chunk, n, plan), Progress(count, progress)
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        block = _block(values, part, rows)
        odd = np.arange(block.shape[1])
        with np.errstate(all="ignore"):
            complete = np.isfinite(block.sum(axis=0)).any()
        if design is not None and complete:  # the columns keep their places, or their company would change their bits
            out[:, part] = fit_shared(plan, design, block)
            odd = np.flatnonzero(out[0, part] == Status.INVALID)  # something missing, or infinite
        if len(odd):
            some = block if len(odd) == block.shape[1] else block[:, odd]
            used[start + odd] = len(rows) - np.isnan(some).sum(axis=0)
            out[:, start + odd] = _fit_odd(plan, codes, len(present), x, some)
        bar.advance(block.shape[1])
    bar.close()
    return _result(out, *rest)


def _without_estimates(plan: Plan, out: np.ndarray, status: Status, p: int, groups: int) -> np.ndarray:
    """Packed numbers where the design gives none of the outcomes an estimate."""
    out[:] = np.nan
    place = 0
    for name, shape in widths(plan.quantities, p, groups):
        if name in ("status", "certified", "optima", "steps"):
            out[place] = status if name == "status" else 0
        place += math.prod(shape)
    return out


def _fit_odd(plan: Plan, codes: np.ndarray, groups: int, x: np.ndarray | None, block: np.ndarray) -> np.ndarray:
    """Columns of which each has its own rows missing."""
    if _blups(plan):
        return _with_effects(plan, codes, groups, x, block)
    most = int(np.bincount(codes).max())
    if x is None and most <= MOST_CLASSES:
        return fit_missing(plan, codes, groups, most, block)
    data = []
    for column in block.T:
        here = ~np.isnan(column)
        data.append((column[here], codes[here], None if x is None else x[here]))
    return fit_strata(plan, data, 1 if x is None else 1 + x.shape[1])


def _with_effects(plan: Plan, codes: np.ndarray, groups: int, x: np.ndarray | None, block: np.ndarray) -> np.ndarray:
    """The same, and the effects of the groups one dataset at a time; NaN for a group that is missing as a whole."""
    p = 1 if x is None else 1 + x.shape[1]
    effects = ("blup", "blup_se")
    bare = dataclasses.replace(plan, quantities=tuple(name for name in plan.quantities if name not in effects))
    packed = iter(_fit_odd(bare, codes, groups, x, block))
    rows = {name: [next(packed) for _ in range(math.prod(shape))] for name, shape in widths(bare.quantities, p, groups)}
    status = rows["status"][0]
    tables = {name: np.full((groups, block.shape[1]), np.nan) for name in effects}
    for i in np.flatnonzero(status < Status.UNBOUNDED):
        single = fit(block[:, i], codes, x, method=plan.method)
        tables["blup"][single.groups, i], tables["blup_se"][single.groups, i] = single.blup, single.blup_se
    rows |= {name: list(table) for name, table in tables.items()}
    return np.array([row for name in plan.quantities for row in rows[name]])


def _blups(plan: Plan) -> bool:
    return bool({"blup", "blup_se"} & set(plan.quantities))


def _covariates(covariates: Any, n: int) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Covariates (n, p - 1), None for none, and the names of the coefficients."""
    if covariates is None:
        return None, ("(Intercept)",)
    given = covariates_of(covariates, np.ones(n, bool))
    x = given.table
    if x.ndim != 2 or len(x) != n:
        raise ValueError(f"covariates must have shape ({n}, p - 1) like values, got {x.shape}.")
    refuse_infinity(x, "covariates")
    return (x if x.shape[1] else None), ("(Intercept)", *given.names)


def _chunk(chunk: int | None, n: int, plan: Plan) -> int:
    """Datasets a chunk: what was asked for, or 16 MB of them in whole blocks."""
    block = BLOCK * plan.devices
    if chunk is None:
        return max(1, (1 << 24) // (8 * n * block)) * block
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


def _block(values: Any, part: slice, rows: np.ndarray) -> np.ndarray:
    """Columns of whatever holds the values as a new array of doubles, rows in the order of their groups."""
    columns = values[:, part]
    if isinstance(columns, np.ma.MaskedArray):
        columns = np.ma.filled(columns.astype(np.float64), np.nan)
    block = np.asarray(columns)
    if block.dtype.kind not in "fiub":
        raise TypeError(f"values must be real numbers, got {block.dtype}; convert them first.")
    return np.take(block, rows, axis=0).astype(np.float64, copy=False)


# ---- designs of their own


def _of_iterable(items: Any, plan: Plan, bar: Progress) -> FitMany:
    """Datasets from an iterable, BLOCK of them at a time."""
    if not isinstance(items, Iterable):
        raise TypeError(
            f"values must be a matrix, a long table or an iterable of datasets, got {type(items).__name__}."
        )
    parts: list[np.ndarray] = []
    used: list[np.ndarray] = []
    names: tuple[str, ...] | None = None
    done, source = 0, iter(items)
    while batch := list(itertools.islice(source, BLOCK)):
        made = [_dataset(item, done + i) for i, item in enumerate(batch)]
        done += len(batch)
        width = {0 if x is None else x.shape[1] for _, _, x in made} | (set() if names is None else {len(names) - 1})
        if len(width) > 1:
            raise ValueError(f"every dataset must have the same number of covariates, got {sorted(width)}.")
        names = ("(Intercept)", *(f"x{i + 1}" for i in range(width.pop())))
        sizes = [len(y) for y, _, _ in made]
        offsets = np.cumsum([0, *(int(codes.max(initial=-1)) + 1 for _, codes, _ in made)])
        long = Long(
            values=np.concatenate([y for y, _, _ in made]),
            dataset=np.repeat(np.arange(len(made)), sizes),
            group=np.concatenate([codes for _, codes, _ in made]) + np.repeat(offsets[:-1], sizes),
            covariates=None if made[0][2] is None else np.concatenate([x for _, _, x in made if x is not None]),
            count=len(made),
        )
        used.append(long.rows)
        parts.append(_fit_long(plan, long))
        bar.advance(len(batch))
    bar.close()
    if names is None:
        raise ValueError("values has no datasets; pass at least one (values, groups).")
    return _result(np.concatenate(parts, axis=1), plan, np.concatenate(used), names, None, None)


def _dataset(item: Any, place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """One dataset of an iterable, checked, without the rows in which something is missing."""
    if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
        raise ValueError(
            f"dataset {place} must be (values, groups) or (values, groups, covariates), got {type(item).__name__}."
        )
    y, labels = numbers(item[0], f"values of dataset {place}"), encode(item[1])
    x = None if len(item) == 2 or item[2] is None else numbers(item[2], f"covariates of dataset {place}")
    if y.ndim != 1 or len(labels.slots) != len(y) or (x is not None and (x.ndim != 2 or len(x) != len(y))):
        raise ValueError(
            f"dataset {place} has values of shape {y.shape}, {len(labels.slots)} labels and covariates of shape "
            f"{None if x is None else x.shape}; they must have one length."
        )
    x = x if x is not None and x.shape[1] else None
    keep = _complete(y, x, labels.slots)
    codes = np.unique(labels.codes[keep], return_inverse=True)[1]
    return y[keep], codes, None if x is None else x[keep]


def _complete(y: np.ndarray, x: np.ndarray | None, *slots: np.ndarray) -> np.ndarray:
    """Mask of the rows in which nothing is missing."""
    keep = ~np.isnan(y)
    for labels in slots:
        keep &= labels >= 0
    return keep if x is None else keep & ~np.isnan(x).any(axis=1)


def _of_long_table(
    values: Any, groups: Any, covariates: Any, datasets: Any, plan: Plan, progress: bool | None
) -> FitMany:
    y, by_group, by_dataset = numbers(values, "values"), encode(groups), encode(datasets)
    if y.ndim != 1 or not len(y) == len(by_group.slots) == len(by_dataset.slots):
        raise ValueError(
            f"values, groups and datasets must have one length, got shapes {y.shape}, ({len(by_group.slots)},) and "
            f"({len(by_dataset.slots)},)."
        )
    x, names = _covariates(covariates, len(y))
    dataset, group, count = by_dataset.codes, by_group.slots, len(by_dataset.labels)
    keep = _complete(y, x, group, dataset)
    if not keep.all():
        y, dataset, group, x = y[keep], dataset[keep], group[keep], None if x is None else x[keep]
    long = Long(
        values=y,
        dataset=dataset,
        group=combined(dataset, group, by_group.size),
        covariates=x,
        count=count,
    )
    bar = Progress(count, progress)
    out = _fit_long(plan, long)
    bar.advance(count)
    bar.close()
    return _result(out, plan, long.rows, names, None, by_dataset.labels)


def _fit_long(plan: Plan, long: Long) -> np.ndarray:
    if _blups(plan):
        raise ValueError("blup needs one design for all datasets: with designs of their own use jaxre.fit for each.")
    if long.covariates is None and long.most <= MOST_CLASSES:
        return fit_classes(plan, classes_of_long(long))
    p = 1 if long.covariates is None else 1 + long.covariates.shape[1]
    order = np.argsort(long.dataset, kind="stable")
    ends = np.cumsum(long.rows)
    data = []
    for start, end in zip(ends - long.rows, ends, strict=True):
        here = order[start:end]
        x = None if long.covariates is None else long.covariates[here]
        data.append((long.values[here], long.group[here], x))
    return fit_strata(plan, data, p)


# ---- what comes back


def _result(
    out: np.ndarray, plan: Plan, used: np.ndarray, coefficients: tuple[str, ...], groups: Any, labels: Any
) -> FitMany:
    """Named arrays with the datasets first from packed numbers."""
    place, fields = 0, {}
    for name, shape in widths(plan.quantities, len(coefficients), 0 if groups is None else len(groups)):
        part = out[place : place + math.prod(shape)]
        place += math.prod(shape)
        fields[name] = part[0].copy() if shape == () else np.moveaxis(part.reshape(*shape, -1), -1, 0).copy()
    for name, kind in (("status", np.int32), ("optima", np.int32), ("steps", np.int32), ("certified", bool)):
        if name in fields:
            fields[name] = fields[name].astype(kind)
    return FitMany(method=plan.method, rows=used, coefficients=coefficients, groups=groups, names=labels, **fields)
