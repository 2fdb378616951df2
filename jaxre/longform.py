"""Long tables: many datasets with designs of their own, one row an observation, into strata by group size.

Everything is a count by a combined code of dataset and group: no loop over datasets.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxre.classes import Classes, status_of
from jaxre.frame import power_of_two_below


@dataclasses.dataclass(frozen=True, eq=False)
class Long:
    """Complete rows of many datasets."""

    values: np.ndarray
    """(n,) [y]."""
    dataset: np.ndarray
    """(n,) dataset of each row."""
    group: np.ndarray
    """(n,) group of each row, numbered over all datasets."""
    covariates: np.ndarray | None
    """(n, p - 1) [x]."""
    count: int
    """datasets, with those that have no complete row."""

    @property
    def groups(self) -> int:
        """How many groups all datasets have together."""
        return int(self.group.max()) + 1 if len(self.group) else 0

    @property
    def most(self) -> int:
        """Rows of the largest group."""
        return int(np.bincount(self.group).max()) if len(self.group) else 1

    @property
    def rows(self) -> np.ndarray:
        """(datasets,) rows of each."""
        return np.bincount(self.dataset, minlength=self.count)


def combined(dataset: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """(n,) codes of the pairs (dataset, group) that occur, 0, 1, ... in the order of the pairs."""
    key = dataset.astype(np.int64) * groups + group
    size = int(key.max()) + 1 if len(key) else 0
    if size <= 8 * len(key) + 1000:
        position = np.cumsum(np.bincount(key, minlength=size) > 0) - 1
        return position[key]
    return np.unique(key, return_inverse=True)[1]


def classes_of_long(data: Long) -> Classes:
    """Strata by group size of every dataset, by two passes over the rows."""
    y, dataset, group, count, groups = data.values, data.dataset, data.group, data.count, data.groups
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, dataset, y)
    np.maximum.at(high, dataset, y)
    rows = np.bincount(dataset, minlength=count).astype(float)
    with np.errstate(all="ignore"):
        scale = power_of_two_below(np.where(high > low, high / 2 - low / 2, 0.0), np)
        pilot = np.where(np.isfinite(low), low, 0.0)
        centred = y * scale[dataset] - (pilot * scale)[dataset]
        of_group = np.empty(groups, np.int64)
        of_group[group] = dataset
        sizes = np.bincount(group, minlength=groups)
        means = np.bincount(group, weights=centred, minlength=groups) / sizes
        residuals = centred - means[group]
        within = np.bincount(dataset, weights=residuals * residuals, minlength=count)
        centre = np.bincount(of_group, weights=means * sizes, minlength=count) / np.maximum(rows, 1)
        means = means - centre[of_group]
        classes = int(sizes.max()) if len(sizes) else 1
        key = (sizes - 1) * count + of_group
        total = lambda weights: np.bincount(key, weights=weights, minlength=classes * count).reshape(classes, count)
        counts = total(None).astype(float)
        averages = total(means) / np.maximum(counts, 1)
        gap = means - averages.reshape(-1)[key]
        status = status_of(rows, counts.sum(axis=0), low, high, within, scale, np.float64)
        return Classes(
            counts=counts,
            means=averages,
            scatter=total(gap * gap),
            within=within,
            scale=scale,
            pilot=pilot + centre / scale,
            status=status,
        )
