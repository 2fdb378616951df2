"""Many outcomes over one design: a matrix, read a chunk of columns at a time."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.batches import Blocks, blocks_of
from jaxre.classes import MOST_CLASSES
from jaxre.columns import beyond_doubles, coefficients_of, frame_of, numeric, refuse_too_many
from jaxre.columns_of_inference import OF_GROUPS, OF_PREDICTIONS
from jaxre.fits import Counts, FitMany, unpacked
from jaxre.forms import fit_design, fit_missing, fit_shared, fit_stacked, fit_strata, groups_of_design, placed
from jaxre.labels import encode
from jaxre.longform import Long, combined, effects_of_long
from jaxre.masked import MOST_COVARIATES, MaskedDesign, masked_design, masked_strata
from jaxre.passes import Missing, missing_of
from jaxre.plan import EFFECTS, VARIANCES, Plan
from jaxre.progress import Progress
from jaxre.settings import own_settings
from jaxre.shared_design import MOST_GROUPS, SharedDesign, design_status, shared_design
from jaxre.status import Status


def fit_matrix(
    values: Any, groups: Any, covariates: Any, plan: Plan, chunk: int | None, progress: bool | None
) -> FitMany:
    given = type(values).__name__
    values, outcomes = _matrix(values)
    shape = tuple(values.shape)
    if len(shape) != 2:
        raise ValueError(
            f"values must have shape (observations, datasets), got {shape or given}; for one dataset use jaxre.fit, "
            f"for a long table pass datasets=."
        )
    labels, (n, count) = encode(groups), shape
    plan = plan.of(count)
    if len(labels.slots) != n:
        hint = "; transpose values" if len(labels.slots) == count else ""
        raise ValueError(f"values {shape} must have as many rows as groups has labels, {len(labels.slots)}{hint}.")
    x, names = coefficients_of(covariates, n)
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
    used = Counts(np.full(count, len(rows)), np.full(count, n - len(rows)), np.full(count, len(present)))
    verdict = design_status(codes, x)
    design = None
    if not verdict.failed and len(present) <= MOST_GROUPS:
        design = shared_design(codes, x, plan.method == "reml")
    places = np.zeros(0, np.int32) if plan.predict is None else plan.predict.places(labels.labels[present])
    on_device = None if design is None else placed(design)
    matrix = _Matrix(plan, codes, len(present), x, verdict, design, on_device, places)
    stays = isinstance(values, jax.Array) and jnp.issubdtype(values.dtype, jnp.floating)
    stays = stays and plan.platform != "cpu" and plan.mesh is None and design is not None
    size, bar = _chunk(chunk, n, plan, blocks_of(plan, values if stays else None)), Progress(count, progress)
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        if stays:
            there = _block_there(values, part, rows)
            out[:, part], missing = matrix.fit(there, None)
        else:
            block = _block(values, part, rows)
            out[:, part], missing = matrix.fit(block, _complete(block))
        used.rows[part] -= missing.values
        used.dropped[part] += missing.values
        used.groups[part] -= missing.groups
        bar.advance(part.stop - part.start)
    bar.close()
    return unpacked(out, plan, used, names, labels.labels[present], outcomes)


@dataclasses.dataclass(frozen=True)
class _Matrix:
    """What the chunks of a matrix have in common."""

    plan: Plan
    codes: np.ndarray
    groups: int
    x: np.ndarray | None
    verdict: Status
    """the reason, if there is one, why no outcome over the design has an estimate."""
    design: SharedDesign | None
    """None where there are too many groups for it, or no estimates."""
    there: SharedDesign | None
    """the same on the device."""
    places: np.ndarray
    """(m,) those of the groups that are to be predicted in, -1 for a new one."""

    def fit(self, block: Any, complete: np.ndarray | None) -> tuple[np.ndarray, Missing]:
        """Packed numbers of a chunk (n, datasets), and how much each dataset lacks.

        `complete` says which are known to be complete, None that most are. All datasets keep their places in both
        calls, or their company would change their bits; only where the incomplete ones go one by one, they go alone.
        """
        every = np.arange(block.shape[1])
        if self.verdict.failed:
            return self.without_estimates(block), missing_of(self.sizes, block)
        if self.design is None or (complete is not None and not complete.any()):
            return self.incomplete(block)
        missing = Missing(*np.zeros((2, len(every)), int))
        numbers = self.complete(block, complete)
        odd = _doubtful(numbers[0], block)
        if not len(odd):
            return numbers, missing
        if 2 * len(odd) > len(every) and self.together:
            good = np.delete(every, odd)
            kept, odd = numbers[:, good], every
        else:
            good, kept = odd[:0], numbers[:, :0]
        some = _fetched(block, odd if len(odd) < len(every) else slice(None))
        numbers[:, odd], (missing.values[odd], missing.groups[odd]) = self.incomplete(some)
        numbers[:, good] = kept
        return numbers, missing

    def complete(self, block: Any, wanted: np.ndarray | None) -> np.ndarray:
        """Packed numbers of complete columns; the others, of which blocks may be left out, are INVALID."""
        assert self.design is not None
        assert self.there is not None
        if not self.plan.inference:
            return fit_shared(self.plan, self.design, self.there, block, wanted)
        if not self.plan.effects:
            return fit_design(self.plan, self.codes, self.x, block, wanted)
        asked, rest, rows = set(self.plan.quantities), self.plan.with_variances, dict[str, np.ndarray]()
        if asked & set(EFFECTS):
            effects = self.plan.only(("status", *EFFECTS))
            rows |= effects.rows(fit_shared(effects, self.design, self.there, block, wanted), *self.shape)
        rows |= rest.rows(dataclasses.replace(self, plan=rest).complete(block, wanted), *self.shape)
        wanted_of_groups = [name for name in self.plan.quantities if name in (*OF_GROUPS, *OF_PREDICTIONS)]
        if wanted_of_groups:
            plan, variances = self.plan.only(("status", *wanted_of_groups)), (rows["within"][0], rows["between"][0])
            found = groups_of_design(plan, self.codes, self.x, block, variances, self.places)
            rows = plan.rows(found, *self.shape) | rows
        return self.plan.packed(rows)

    @property
    def shape(self) -> tuple[int, int]:
        """p, and how many groups."""
        return self.coefficients, self.groups

    def without_estimates(self, block: Any) -> np.ndarray:
        """Packed numbers where the design gives no outcome an estimate, each with the reason that says most."""
        values = _fetched(block, slice(None))
        low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
        status = np.where(low == high, np.maximum(self.verdict, Status.CONSTANT_OUTCOME), self.verdict)
        status = np.where(np.isfinite(low) & np.isfinite(high), status, Status.INVALID)
        rows = self.plan.rows(np.full((self.plan.numbers(*self.shape), len(status)), np.nan), *self.shape)
        zeros = np.zeros((1, len(status)))
        rows |= {name: zeros for name in ("certified", "optima", "steps", "profile_settled") if name in rows}
        return self.plan.packed(rows | {"status": status[None]})

    @property
    def together(self) -> bool:
        """Whether incomplete columns are fitted many at a time."""
        return self.x is None and not self.plan.effects and self.sizes.max() <= MOST_CLASSES

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """(groups,) rows of each."""
        return np.bincount(self.codes)

    def incomplete(self, block: np.ndarray) -> tuple[np.ndarray, Missing]:
        """Packed numbers of columns of which each has its own rows missing, and how much each lacks."""
        if self.plan.effects:
            return self.incomplete_with_effects(block)
        if self.together:
            return fit_missing(self.plan, self.codes, self.sizes, block)
        if self.x is None or self.x.shape[1] > MOST_COVARIATES:
            return self.one_by_one(block), missing_of(self.sizes, block)
        data, suits, missing = masked_strata(self.masked, block)
        numbers = fit_stacked(self.plan, data)
        if not suits.all():
            numbers[:, ~suits] = self.one_by_one(block[:, ~suits])
        return numbers, missing

    @functools.cached_property
    def masked(self) -> MaskedDesign:
        """The design for columns with missing values."""
        assert self.x is not None
        return masked_design(self.codes, self.x)

    def one_by_one(self, block: np.ndarray) -> np.ndarray:
        """Packed numbers of columns, whose moments are formed one after the other."""
        data = []
        for column in block.T:
            here = ~np.isnan(column)
            data.append((column[here], self.codes[here], None if self.x is None else self.x[here]))
        return fit_strata(self.plan, data, self.coefficients)

    @property
    def coefficients(self) -> int:
        """p."""
        return 1 if self.x is None else 1 + self.x.shape[1]

    def incomplete_with_effects(self, block: np.ndarray) -> tuple[np.ndarray, Missing]:
        """The same, and the effects of the groups; NaN for a group that is missing as a whole."""
        plan = self.plan.with_variances
        found, missing = dataclasses.replace(self, plan=plan).incomplete(block)
        rows = plan.rows(found, *self.shape)
        dataset, row = np.nonzero(~np.isnan(block.T))
        pair = combined(dataset, self.codes[row], self.groups)
        x = None if self.x is None else self.x[row]
        long = Long(block[row, dataset], dataset, pair, x, block.shape[1])
        status, between, within, ratio = (rows[name][0] for name in ("status", *VARIANCES))
        of_pair = np.full((self.groups + 1, block.shape[1]), -1)  # the last one of new groups
        of_pair[self.codes[row], dataset] = pair
        of_groups = effects_of_long(long, self.plan, status, between, within, ratio, of_pair[self.places])
        for name, table in of_groups.items():
            if name in OF_PREDICTIONS:
                rows[name] = table.T
            else:
                rows[name] = np.full((self.groups, block.shape[1]), np.nan)
                rows[name][self.codes[row], dataset] = table[pair]
        return self.plan.packed(rows), missing


def _matrix(values: Any) -> tuple[Any, np.ndarray | None]:
    """A matrix of outcomes, and their names where it is a data frame."""
    frame = frame_of(values)
    if frame is not None:
        columns = [numeric(frame[name], f"column {name!r} of values") for name in frame.columns]
        names = np.array([str(name) for name in frame.columns], object)
        return np.column_stack(columns) if columns else np.zeros((len(frame), 0)), names
    return (values if hasattr(values, "shape") else np.asarray(values)), None


def _chunk(chunk: int | None, n: int, plan: Plan, blocks: Blocks) -> int:
    """Datasets a chunk: what was asked for, or whole blocks, as many as the device takes at a time."""
    if chunk is None:
        block = blocks.width(blocks.widths[-1], n) * plan.devices
        return max(1, blocks.chunk // (8 * n * block)) * block
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


def _complete(block: np.ndarray) -> np.ndarray | None:
    """Which columns are finite throughout; None where any of the first few is, since mostly others then are too."""
    with np.errstate(all="ignore"):
        if np.isfinite(block[:, :16].sum(axis=0)).any():
            return None
        return np.isfinite(block.sum(axis=0))


def _doubtful(status: np.ndarray, block: Any) -> np.ndarray:
    """Columns in which something is missing, or infinite, or that a sample of their rows may have scaled wrongly."""
    doubtful = (status == Status.INVALID) | (status == Status.UNBOUNDED)
    constant = np.flatnonzero(status == Status.CONSTANT_OUTCOME)
    same = _fetched(block, constant)
    doubtful[constant] = (same != same[:1]).any(axis=0)
    return np.flatnonzero(doubtful)


def _fetched(block: Any, columns: np.ndarray | slice) -> np.ndarray:
    """Some columns as doubles on the host, whatever JAX is set to where the block is on a device."""
    with own_settings():
        return np.asarray(block[:, columns], np.float64)


def _block_there(values: jax.Array, part: slice, rows: np.ndarray) -> jax.Array:
    """Columns of values on a device, rows in the order of their groups."""
    with own_settings():
        columns = values[:, part]
        return columns if np.array_equal(rows, np.arange(len(columns))) else columns[rows]


def _block(values: Any, part: slice, rows: np.ndarray) -> np.ndarray:
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
