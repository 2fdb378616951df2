"""Long tables: many datasets with designs of their own, one row an observation, into strata by group size.

Everything is a count by a combined code of dataset and group: no loop over datasets.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxre.classes import Classes, status_of
from jaxre.columns_of_groups import (
    AFTERWARDS,
    CHECKS,
    OF_BETA,
    OF_DELETIONS,
    OF_EFFECTS,
    OF_PREDICTIONS,
    columns_of_checks,
    columns_of_deletions,
    columns_of_effects,
    columns_of_predictions,
)
from jaxre.effects import predict
from jaxre.fitted import Fit
from jaxre.fitting import fit
from jaxre.frame import power_of_two_below
from jaxre.plan import EFFECTS, Plan
from jaxre.settings import host_settings
from jaxre.status import Status


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

    @functools.cached_property
    def groups(self) -> int:
        """How many groups all datasets have together."""
        return int(self.group.max()) + 1 if len(self.group) else 0

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """(groups,) rows of each."""
        return np.bincount(self.group, minlength=self.groups)

    @property
    def largest(self) -> int:
        """Rows of the largest group, 1 where there is none."""
        return int(self.sizes.max(initial=1))

    @functools.cached_property
    def dataset_of(self) -> np.ndarray:
        """(groups,) dataset of each."""
        found = np.empty(self.groups, np.int64)
        found[self.group] = self.dataset
        return found

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """(datasets,) rows of each."""
        return np.bincount(self.dataset, minlength=self.count)

    @property
    def group_counts(self) -> np.ndarray:
        """(datasets,) groups of each."""
        return np.bincount(self.dataset_of, minlength=self.count)


def combined(dataset: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """(n,) codes of the pairs (dataset, group) that occur, 0, 1, ... in the order of the pairs."""
    key = dataset.astype(np.int64) * groups + group
    size = int(key.max()) + 1 if len(key) else 0
    if size <= 8 * len(key) + 1000:
        position = np.cumsum(np.bincount(key, minlength=size) > 0) - 1
        return position[key]
    return np.unique(key, return_inverse=True)[1]


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """Two passes over the rows of a long table: every group's mean, in units and about a centre of its dataset."""

    means: np.ndarray
    """(groups,) of the scaled values, less the dataset's mean."""
    within: np.ndarray
    """(datasets,) squares about the group means, scaled."""
    scale: np.ndarray
    """(datasets,) [1/y], power of two."""
    origin: np.ndarray
    """(datasets,) [y], the mean."""
    low: np.ndarray
    """(datasets,) [y], the smallest value."""
    high: np.ndarray
    """(datasets,) [y], the largest."""


def groups_of_long(data: Long) -> Groups:
    """The means of all groups."""
    y, dataset, group, count = data.values, data.dataset, data.group, data.count
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, dataset, y)
    np.maximum.at(high, dataset, y)
    with np.errstate(all="ignore"):
        scale = power_of_two_below(np.where(high > low, high / 2 - low / 2, 0.0), np)
        pilot = np.where(np.isfinite(low), low, 0.0)
        centred = y * scale[dataset] - (pilot * scale)[dataset]
        means = np.bincount(group, weights=centred, minlength=data.groups) / data.sizes
        residuals = centred - means[group]
        within = np.bincount(dataset, weights=residuals * residuals, minlength=count)
        centre = np.bincount(data.dataset_of, weights=means * data.sizes, minlength=count) / np.maximum(data.rows, 1)
        return Groups(
            means=means - centre[data.dataset_of],
            within=within,
            scale=scale,
            origin=pilot + centre / scale,
            low=low,
            high=high,
        )


def classes_of_long(data: Long, classes: int) -> Classes:
    """Strata by group size, 1 to `classes`, of every dataset."""
    of, count, rows = groups_of_long(data), data.count, data.rows.astype(float)
    key = (data.sizes - 1) * count + data.dataset_of
    with np.errstate(all="ignore"):
        total = lambda weights: np.bincount(key, weights=weights, minlength=classes * count).reshape(classes, count)
        counts = total(None).astype(float)
        averages = total(of.means) / np.maximum(counts, 1)
        gap = of.means - averages.reshape(-1)[key]
        status = status_of(rows, counts.sum(axis=0), of.low, of.high, of.within, of.scale, np.float64)
        return Classes(
            counts=counts,
            means=averages,
            scatter=total(gap * gap),
            within=of.within,
            scale=of.scale,
            pilot=of.origin,
            status=status,
        )


def each_of_long(data: Long) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Values, groups and covariates of each dataset."""
    order = np.argsort(data.dataset, kind="stable")
    ends = np.cumsum(data.rows)
    for start, end in zip(ends - data.rows, ends, strict=True):
        here = order[start:end]
        yield data.values[here], data.group[here], None if data.covariates is None else data.covariates[here]


def effects_of_long(
    data: Long,
    plan: Plan,
    status: np.ndarray,
    between: np.ndarray,
    within: np.ndarray,
    ratio: np.ndarray,
    places: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """What is asked of the groups, (groups, ...) of all of them, predictions (datasets, m) and checks (datasets,); NaN
    where there is nothing.

    The predicted effects at the variances (datasets,) of their datasets; with covariates, and all that is not the
    effects and their standard errors, by fits of one dataset after the other. `places` (m, datasets) are the groups to
    predict in, -1 a new one, as all are without.
    """
    if set(AFTERWARDS) & set(plan.quantities) or data.covariates is not None:
        return _by_single_fits(data, plan, status >= Status.UNBOUNDED, places)
    of, there = groups_of_long(data), data.dataset_of
    with np.errstate(all="ignore"):
        weights = data.sizes / (1 + ratio[there] * data.sizes)
        total = lambda weight: np.bincount(there, weights=weight, minlength=data.count)
        information = total(weights)
        centre = total(weights * of.means) / information
        predicted = predict(
            data.sizes,
            np.column_stack([np.ones_like(of.means), of.means]),
            of.scale[there],
            ratio[there],
            between[there],
            within[there],
            centre[None, there],
            1 / information[None, None, there],
        )
        failed = (status >= Status.UNBOUNDED)[there]
        return {
            "blup": np.where(failed, np.nan, predicted.effect),
            "blup_se": np.where(failed, np.nan, np.sqrt(predicted.variance)),
        }


def _by_single_fits(data: Long, plan: Plan, failed: np.ndarray, places: np.ndarray | None) -> dict[str, np.ndarray]:
    """The same, each dataset fitted by itself."""
    asked, x, predict, p = set(plan.quantities), None, plan.predict, 1
    if data.covariates is not None:
        p += data.covariates.shape[1]
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(CHECKS, (data.count,)) | {OF_BETA: (data.groups, p)}
    if predict is not None:
        shapes |= dict.fromkeys(OF_PREDICTIONS, (data.count, len(predict.groups)))
        table = predict.table(p)
        x = table if p > 1 else None
        places = np.full((len(predict.groups), data.count), -1) if places is None else places
    names = (*EFFECTS, *(name for name in AFTERWARDS if name in asked))
    found = {name: np.full(shapes.get(name, (data.groups,)), np.nan) for name in names}
    for i, dataset in enumerate(each_of_long(data)):
        if failed[i]:
            continue
        try:
            single = fit(*dataset, method=plan.method)
        except ValueError:  # what no batch sees, such as effects beyond the range of doubles
            continue
        of_groups = {name: getattr(single, name) for name in EFFECTS}
        if asked & set(OF_EFFECTS):
            effects = single.group_effects(plan.level)
            with host_settings():
                of_groups |= columns_of_effects(effects, asked)
        if asked & set(OF_DELETIONS):
            of_groups |= columns_of_deletions(single.influence(), asked)
        for name, column in of_groups.items():
            found[name][single.groups] = column
        of_dataset = _checks(single, asked)
        if predict is not None and places is not None:
            rows = single.predict(places[:, i], x, allow_new=True, level=plan.level)
            of_dataset |= columns_of_predictions(rows, asked)
        for name, column in of_dataset.items():
            found[name][i] = column
    return found


def _checks(single: Fit, asked: set[str]) -> dict[str, Any]:
    """Those that are asked for of one dataset."""
    wanted = {of for name, (of, _) in CHECKS.items() if name in asked}
    made = {of: single.homogeneity_check() if of == "spread" else single.normality_check(of) for of in wanted}
    return columns_of_checks(made, asked)
