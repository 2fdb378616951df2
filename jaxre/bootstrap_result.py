"""What a parametric bootstrap leaves: its replicates, intervals, and how it prints."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from jaxre.rows import Array
from jaxre.status import Status

METHODS = {"reml": "REML", "ml": "maximum likelihood", "anova": "analysis of variance"}
KINDS = {"percentile": "percentile", "basic": "basic", "bca": "BCa"}
ON_BOUNDARY = (Status.BOUNDARY, Status.BOUNDARY_SEVERAL, Status.NEGATIVE)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=(
        *("estimate", "low", "high", "bias", "standard_error", "used"),
        *("replicates", "status", "certified", "level"),
    ),
    meta_fields=("method", "kind"),
)
@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Bootstrap:
    """Replicates of a statistic and what follows from them, in NumPy, or in JAX where traced; see `bootstrap`.

    Where the statistic is a dict of arrays, so is each field with one entry a number, and `replicates` has an axis more
    in front; under vmap every field has the axis (datasets,) before its own. Replicates that are NaN are counted, and
    left out of all that follows from them.
    """

    estimate: Any
    """the statistic of the data's own fit."""
    low: Any
    """lower ends of the intervals; NaN where the replicates do not determine them."""
    high: Any
    """upper ends."""
    bias: Any
    """mean of the replicates less the estimate."""
    standard_error: Any
    """standard deviation of the replicates."""
    used: Any
    """[1], replicates that are not NaN."""
    replicates: Any
    """(count, ...) the statistic of each refit; NaN where it has no estimate."""
    status: Array
    """(count,) int32 `Status` of each refit."""
    certified: Array
    """(count,) bool, whether its optimum is proven to be the global one."""
    method: str
    """"reml", "ml" or "anova"."""
    kind: str
    """"percentile", "basic" or "bca"."""
    level: float
    """[1], of the intervals."""

    @property
    def count(self) -> int:
        """Replicates drawn."""
        return int(self.status.shape[-1])

    @property
    def failed(self) -> Any:
        """Replicates without an estimate."""
        return _counted(self.status >= Status.UNBOUNDED)

    @property
    def boundary(self) -> Any:
        """Replicates in which between is estimated as 0."""
        return _counted(sum(self.status == status for status in ON_BOUNDARY) > 0)

    @property
    def uncertified(self) -> Any:
        """Replicates with an estimate that is not proven to be the global optimum."""
        return self.count - self.failed - _counted(self.certified)

    def __str__(self) -> str:
        return _summary(self)


def _counted(mask: Any) -> Any:
    """How many replicates; an int where the dataset is one."""
    total = mask.sum(axis=-1)
    return int(total) if np.ndim(total) == 0 and not isinstance(total, jax.core.Tracer) else total


def _summary(result: Bootstrap) -> str:
    if np.ndim(result.status) > 1:
        return f"Parametric bootstraps, {METHODS[result.method]}: status {np.shape(result.status)}"
    paths = jax.tree_util.tree_flatten_with_path(result.estimate)[0]
    names = []
    for path, leaf in paths:
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "statistic"
        names += [name] if np.size(leaf) == 1 else [f"{name}[{i}]" for i in range(np.size(leaf))]
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    fields = {"estimate": result.estimate, "bias": result.bias, "std.error": result.standard_error}
    fields |= {"low": result.low, "high": result.high}
    width = max(map(len, names))
    lines = [
        f"Parametric bootstrap, {METHODS[result.method]}: {result.count:,} replicates, "
        f"{100 * result.level:g} % {KINDS[result.kind]} intervals",
        " " * width + "".join(f"{heading:>12}" for heading in fields),
    ]
    for name, *row in zip(names, *map(flat, fields.values()), strict=True):
        lines.append(f"{name:<{width}}" + "".join(f"{number:>12.6g}" for number in row))
    lines.append(
        f"Refits: {result.boundary:,} with between = 0, {result.failed:,} without an estimate, "
        f"{result.uncertified:,} not certified"
    )
    for name, used in zip(names, flat(result.used), strict=True):
        if used < result.count:
            lines.append(f"{name}: {result.count - used:,} replicates are NaN and left out")
    if np.isnan(flat([result.low, result.high])).any():
        lines.append("An end that is nan is not determined by these replicates")
    return "\n".join(lines)
