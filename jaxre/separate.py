"""Many datasets with designs of their own: an iterable of them, or a long table."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxre.batches import Plan
from jaxre.classes import MOST_CLASSES
from jaxre.columns import coefficients_of, numbers
from jaxre.fits import FitMany, unpacked
from jaxre.forms import fit_classes, fit_strata
from jaxre.longform import Long, classes_of_long, combined
from jaxre.observations import encode
from jaxre.progress import Progress

AT_A_TIME = 2048  # datasets of an iterable


def fit_iterable(items: Any, plan: Plan, bar: Progress) -> FitMany:
    """Datasets from an iterable, AT_A_TIME of them."""
    if not isinstance(items, Iterable):
        raise TypeError(
            f"values must be a matrix, a long table or an iterable of datasets, got {type(items).__name__}."
        )
    parts: list[np.ndarray] = []
    used: list[np.ndarray] = []
    names: tuple[str, ...] | None = None
    done, source = 0, iter(items)
    while batch := list(itertools.islice(source, AT_A_TIME)):
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
    return unpacked(np.concatenate(parts, axis=1), plan, np.concatenate(used), names, None, None)


def _dataset(item: Any, place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """One dataset of an iterable, checked, without the rows in which something is missing."""
    if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
        raise ValueError(
            f"dataset {place} must be (values, groups) or (values, groups, covariates), got {type(item).__name__}."
        )
    y, labels = numbers(item[0], f"values of dataset {place}"), encode(item[1], f"groups of dataset {place}")
    x = None if len(item) == 2 or item[2] is None else numbers(item[2], f"covariates of dataset {place}")
    if y.ndim != 1 or len(labels.slots) != len(y) or (x is not None and (x.ndim != 2 or len(x) != len(y))):
        raise ValueError(
            f"dataset {place} has values of shape {y.shape}, {len(labels.slots)} labels and covariates of shape "
            f"{None if x is None else x.shape}; they must have one length."
        )
    x = x if x is not None and x.shape[1] else None
    keep = _complete(y, x, labels.slots)
    codes = np.unique(labels.codes[keep], return_inverse=True)[1]
    if x is not None and np.isinf(x).any():
        y = np.full_like(y, np.inf)  # invalid as a whole
    return y[keep], codes, None if x is None else x[keep]


def _complete(y: np.ndarray, x: np.ndarray | None, *slots: np.ndarray) -> np.ndarray:
    """Mask of the rows in which nothing is missing."""
    keep = ~np.isnan(y)
    for labels in slots:
        keep &= labels >= 0
    return keep if x is None else keep & ~np.isnan(x).any(axis=1)


def fit_long_table(
    values: Any, groups: Any, covariates: Any, datasets: Any, plan: Plan, progress: bool | None
) -> FitMany:
    y, by_group, by_dataset = numbers(values, "values"), encode(groups), encode(datasets, "datasets")
    if y.ndim != 1 or not len(y) == len(by_group.slots) == len(by_dataset.slots):
        raise ValueError(
            f"values, groups and datasets must have one length, got shapes {y.shape}, ({len(by_group.slots)},) and "
            f"({len(by_dataset.slots)},)."
        )
    if len(by_dataset.labels) == 0:
        raise ValueError(f"datasets has no label in {len(y)} rows; pass the dataset of each row.")
    x, names = coefficients_of(covariates, len(y))
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
    return unpacked(out, plan, long.rows, names, None, by_dataset.labels)


def _fit_long(plan: Plan, long: Long) -> np.ndarray:
    if plan.effects:
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
