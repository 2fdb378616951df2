"""Many outcomes over one design: a matrix, read a chunk of columns at a time."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.batches import blocks_of
from jaxre.chunks import block_on_device, block_on_host, chunk_of, complete_columns, fetched, matrix_of
from jaxre.classes import MOST_CLASSES
from jaxre.columns import coefficients_of, refuse_too_many
from jaxre.columns_of_groups import AFTERWARDS, CHECKS, OF_BETA, OF_PREDICTIONS
from jaxre.fits import Counts, FitMany, unpacked
from jaxre.forms import fit_design, fit_missing, fit_shared, fit_stacked, fit_strata, groups_of_design, placed
from jaxre.labels import encode
from jaxre.longform import Long, combined, effects_of_long
from jaxre.masked import MOST_COVARIATES, MaskedDesign, masked_design, masked_strata
from jaxre.passes import Missing, missing_of
from jaxre.plan import EFFECTS, VARIANCES, Plan
from jaxre.progress import Progress
from jaxre.shared_design import MOST_GROUPS, SharedDesign, design_status, shared_design
from jaxre.status import Status


def fit_matrix(
    values: Any, groups: Any, covariates: Any, plan: Plan, chunk: int | None, progress: bool | None
) -> FitMany:
    given = type(values).__name__
    values, outcomes = matrix_of(values)
    shape = tuple(values.shape)
    if len(shape) != 2:
        raise ValueError(
            f"values must have shape (observations, datasets), got {shape or given}; for one dataset use jaxre.fit, "
            f"for a long table pass datasets=."
        )
    labels, (n, count) = encode(groups), shape
    if len(labels.slots) != n:
        hint = "; transpose values" if len(labels.slots) == count else ""
        raise ValueError(f"values {shape} must have as many rows as groups has labels, {len(labels.slots)}{hint}.")
    x, names = coefficients_of(covariates, n)
    plan = plan.of(count, n * count * len(names))
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
    size, bar = chunk_of(chunk, n, plan, blocks_of(plan, values if stays else None)), Progress(count, progress)
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        if stays:
            there = block_on_device(values, part, rows)
            out[:, part], missing = matrix.fit(there, None)
        else:
            block = block_on_host(values, part, rows)
            out[:, part], missing = matrix.fit(block, complete_columns(block))
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
        some = fetched(block, odd if len(odd) < len(every) else slice(None))
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
        afterwards = [name for name in self.plan.quantities if name in AFTERWARDS]
        if afterwards:
            plan, variances = self.plan.only(("status", *afterwards)), (rows["within"][0], rows["between"][0])
            found = groups_of_design(plan, self.codes, self.x, block, variances, self.places)
            rows = plan.rows(found, *self.shape) | rows
        return self.plan.packed(rows)

    @property
    def shape(self) -> tuple[int, int]:
        """p, and how many groups."""
        return self.coefficients, self.groups

    def without_estimates(self, block: Any) -> np.ndarray:
        """Packed numbers where the design gives no outcome an estimate, each with the reason that says most."""
        values = fetched(block, slice(None))
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
            if name in CHECKS:
                rows[name] = table[None]
            elif name in OF_PREDICTIONS:
                rows[name] = table.T
            else:
                width = self.coefficients if name == OF_BETA else 1
                every = np.full((self.groups, width, block.shape[1]), np.nan)
                every[self.codes[row], :, dataset] = table[pair].reshape(len(pair), width)
                rows[name] = every.reshape(-1, block.shape[1])
        return self.plan.packed(rows), missing


def _doubtful(status: np.ndarray, block: Any) -> np.ndarray:
    """Columns in which something is missing, or infinite, or that a sample of their rows may have scaled wrongly."""
    doubtful = (status == Status.INVALID) | (status == Status.UNBOUNDED)
    constant = np.flatnonzero(status == Status.CONSTANT_OUTCOME)
    same = fetched(block, constant)
    doubtful[constant] = (same != same[:1]).any(axis=0)
    return np.flatnonzero(doubtful)
