"""The likelihood as a loss: of residuals and two log-variances that are learned beside whatever made the residuals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxre.arrays import codes_of, real_array
from jaxre.eager import in_one_program
from jaxre.labels import encode
from jaxre.records import record
from jaxre.rows import Array
from jaxre.settings import is_small

LEAST_ROWS = 16  # a batch has this many rows or a power of two times it, so that few shapes compile


def negative_log_likelihood(
    residuals: ArrayLike,
    groups: ArrayLike | Sequence[Hashable],
    log_within: ArrayLike,
    log_between: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    restricted: bool = False,
    num_groups: int | None = None,
    total_groups: ArrayLike | None = None,
) -> Array:
    """Negative log-likelihood of residuals r = y - mean under the variances exp(log_within) and exp(log_between).

    The loss of a network with random effects: an ordinary differentiable function, O(n), that works inside jit and
    grad, and under vmap for batches of datasets. With lambda = between / within, s_j the sum of group j's weights w_ij
    (1 without), r_j its weighted mean and h_j = 1 / (1 + lambda s_j),

        2 NLL = n log(2 pi within) - sum log w_ij + sum log(1 + lambda s_j)
                + (sum w_ij (r_ij - r_j)^2 + sum s_j h_j r_j^2) / within.

    The restricted likelihood integrates a common mean of the residuals out: r_j^2 becomes (r_j - r)^2 with r the mean
    weighted by s_j h_j, n becomes n - 1, and log sum s_j h_j is added.

    The full likelihood is a sum over groups: of a minibatch of whole groups, drawn with equal probabilities,
    `total_groups` over the number of groups that it holds times its loss has the expectation, and so the gradients, of
    the loss of all. See `group_batches`.

    Args:
        residuals: (n,) [y] outcome less its mean.
        groups: (n,) group of each row, as in `group_moments`: labels, or with `num_groups` integers that may be traced.
        log_within: () log of the variance within groups [y^2].
        log_between: () log of the variance between groups [y^2]; -infinity for none.
        weights: (n,) [1] precisions: a row has variance within / weight; > 0.
        mask: (n,) bool, False for a row that is only padding; its residual, group and weight do not matter.
        restricted: the likelihood of the differences alone, in which no mean of the residuals counts.
        num_groups: number of groups, those without rows included.
        total_groups: how many groups there are in all, where these rows are a minibatch of whole groups.

    Returns:
        () [nat].

    Errors:
        ValueError for shapes that do not fit, for weights that are concrete and not positive, for groups that are
        concrete and out of range, for total_groups that is not positive, and with the restricted likelihood, which is
        not a sum over groups.
        NaN where such weights or groups are traced, where a residual is not finite, and without a row; the gradients in
        the log-variances are NaN with it, and infinite or NaN where exp(-log_within) is beyond the range of numbers.

    Source: Simchoni and Rosset (2021), NeurIPS 34 (the loss); the block formulas of Searle, Casella and McCulloch
    (1992), section 6.2.

    Example:
        >>> import jax, jaxre
        >>> loss = lambda log_variances: jaxre.negative_log_likelihood(
        ...     [-1.0, 1.0, 4.0, 2.0], ["a", "a", "b", "b"], log_variances[0], log_variances[1])
        >>> value, gradient = jax.value_and_grad(loss)(jax.numpy.zeros(2))
        >>> print(f"{value:.3f} {gradient[0]:.3f} {gradient[1]:.3f}")
        9.774 -1.667 -1.333
    """
    r = real_array(residuals, "residuals")
    if r.ndim != 1 or r.shape[0] == 0:
        raise ValueError(f"residuals must be one-dimensional with at least one row, got shape {r.shape}; use jax.vmap.")
    if restricted and total_groups is not None:
        raise ValueError(
            "total_groups needs the full likelihood, got restricted=True: the restricted likelihood is not a sum over "
            "groups, so minibatches of it are biased; pass restricted=False, or all rows without total_groups."
        )
    for name, number in (("log_within", log_within), ("log_between", log_between), ("total_groups", total_groups)):
        if number is not None and np.shape(number) != ():
            raise ValueError(f"{name} must be one number, got shape {np.shape(number)}; for several use jax.vmap.")
    known = total_groups is not None and not isinstance(total_groups, jax.core.Tracer)
    if known and not 0 < float(np.asarray(total_groups)) < np.inf:
        raise ValueError(f"total_groups must be the number of groups in all, got {total_groups}.")
    codes, count = codes_of(groups, num_groups)
    w = np.ones(r.shape, r.dtype) if weights is None else real_array(weights, "weights").astype(r.dtype)
    present = np.ones(r.shape, bool) if mask is None else mask if isinstance(mask, jax.Array) else np.asarray(mask)
    for name, column in (("groups", codes), ("weights", w), ("mask", present)):
        if column.shape != r.shape:
            raise ValueError(f"residuals and {name} must have one length, got {r.shape} and {column.shape}.")
    if present.dtype != bool:
        raise ValueError(f"mask must be booleans, True for a row that counts, got {present.dtype}.")
    xp = jnp if isinstance(w, jax.core.Tracer) else np
    in_range, positive = (codes >= 0) & (codes < count), xp.isfinite(w) & (w > 0)
    labels = f"be integers from 0 to num_groups - 1 = {count - 1}"
    if num_groups is None:
        labels = "all have labels; leave a row out by its mask"
    _refuse(
        {
            f"groups must {labels}": in_range,
            "weights must be positive and finite; leave a row out by its mask": positive,
        },
        present,
    )
    given = {"r": r, "codes": codes, "w": w, "present": present, "proper": in_range & positive}
    given |= {"log_within": log_within, "log_between": log_between, "total_groups": total_groups}
    return in_one_program(_loss, {"count": count, "restricted": bool(restricted)}, given, is_small(len(r), 1))


def _loss(
    r: Array,
    codes: Array,
    w: Array,
    present: Array,
    proper: Array,
    log_within: ArrayLike,
    log_between: ArrayLike,
    total_groups: ArrayLike | None,
    count: int,
    restricted: bool,
) -> Array:
    """The loss of rows of which those that are not proper make it NaN, unless they are not present."""
    proper = proper & jnp.isfinite(r)
    nan = jnp.where((proper | ~present).all() & present.any(), 0, jnp.nan).astype(r.dtype)
    used = present & proper
    r, w, codes = jnp.where(used, r, 0), jnp.where(used, w, 1), jnp.where(used, codes, 0).astype(np.int32)
    precision = jnp.where(used, w, 0)

    by_group = lambda column: jax.ops.segment_sum(column, codes, count)
    n, sizes = used.sum().astype(r.dtype), by_group(precision)
    means = by_group(precision * r) / jnp.where(sizes > 0, sizes, 1)
    squares = (precision * (r - means[codes]) ** 2).sum()
    log_within, log_between = jnp.asarray(log_within, r.dtype), jnp.asarray(log_between, r.dtype)
    filled = sizes > 0
    log_sizes = jnp.where(filled, jnp.log(jnp.where(filled, sizes, 1)), -jnp.inf)
    grown = jnp.where(filled, jax.nn.softplus(log_between - log_within + log_sizes), 0)  # log(1 + ratio * size)
    log_det = grown.sum() - jnp.where(used, jnp.log(w), 0).sum()
    shrunk = jnp.where(filled, sizes * jnp.exp(-grown), 0)
    if restricted:
        share = jax.nn.softmax(log_sizes - grown)
        means = means - share @ means
        n, log_det = n - 1, log_det + jax.nn.logsumexp(log_sizes - grown)
    quadratic = (squares + shrunk @ means**2) * jnp.exp(-log_within)
    loss = (1 + nan) * (n * (math.log(2 * math.pi) + log_within) + log_det + quadratic) / 2
    return loss if total_groups is None else loss * total_groups / (sizes > 0).sum()


def _refuse(rules: dict[str, Any], present: Any) -> None:
    """An error for the first rule that rows that count are known to break."""
    for rule, holds in rules.items():
        if not any(isinstance(column, jax.core.Tracer) for column in (holds, present)):
            wrong = np.flatnonzero(np.asarray(present & ~holds))
            if len(wrong):
                raise ValueError(f"{rule}; {len(wrong)} are not, the first in row {wrong[0]}.")


@record
class GroupBatch:
    """The rows of some whole groups; see `group_batches`."""

    rows: Array
    """(m,) int32 places in the dataset; 0 for padding."""
    groups: Array
    """(m,) int32 group of each row, numbered within the batch from 0."""
    mask: Array
    """(m,) bool, False for padding."""


def group_batches(key: Array, groups: ArrayLike | Sequence[Hashable], size: int) -> Iterator[GroupBatch]:
    """One pass over all groups in random order, as minibatches of whole groups for `negative_log_likelihood`.

    Each batch is a simple random sample of the groups without replacement, so the gradient of its loss with
    `total_groups` has the gradient of the whole as its expectation; over the pass each group comes once. The groups
    are dealt as evenly as can be, so that no batch is a small remainder.

    Args:
        key: random key; equal keys give equal batches. A new one for each pass: `jax.random.fold_in(key, epoch)`.
        groups: (n,) concrete labels of any hashable type.
        size: most groups of a batch, `num_groups` in the loss.

    Returns:
        Iterator over ceil(groups / size) GroupBatch of NumPy arrays (m,), m the least of 16, 32, 64, ... that holds the
        rows, so that few shapes compile.

    Errors:
        ValueError for a size that is not positive or labels that are missing.

    Source: definition.

    Example:
        >>> import jax, jaxre
        >>> for batch in jaxre.group_batches(jax.random.key(0), ["a", "b", "a", "c", "b", "d"], 2):
        ...     print(batch.mask.sum(), batch.groups.max() + 1, len(batch.rows))
        4 2 16
        2 2 16
    """
    if isinstance(groups, jax.core.Tracer):
        raise TypeError("groups must be concrete, got traced ones: deal the batches outside of jit.")
    codes = encode(groups).codes
    if len(codes) == 0:
        raise ValueError("groups has no rows; pass a label for each row.")
    if size < 1:
        raise ValueError(f"size must be at least 1 group, got {size}.")
    if (codes < 0).any():
        raise ValueError(f"groups must all have labels, {(codes < 0).sum()} are missing; leave those rows out.")
    return _batches(key, codes, size)


def _batches(key: Array, codes: np.ndarray, size: int) -> Iterator[GroupBatch]:
    counts = np.bincount(codes)
    by_group, ends = np.argsort(codes, kind="stable"), np.cumsum(counts)
    order = np.asarray(jax.random.permutation(key, len(counts)))
    for taken in np.array_split(order, -(-len(counts) // size)):
        of_batch = np.repeat(np.arange(len(taken)), counts[taken])
        before = np.cumsum(counts[taken]) - counts[taken]
        places = (ends - counts)[taken][of_batch] + np.arange(len(of_batch)) - before[of_batch]
        pad = (0, LEAST_ROWS * 2 ** max(0, int(np.ceil(np.log2(len(of_batch) / LEAST_ROWS)))) - len(of_batch))
        yield GroupBatch(
            rows=np.pad(by_group[places], pad).astype(np.int32),
            groups=np.pad(of_batch, pad).astype(np.int32),
            mask=np.pad(np.ones(len(of_batch), bool), pad),
        )
