"""Many datasets with designs of their own: an iterable of them, or a long table."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from jaxre.classes import MOST_CLASSES
from jaxre.columns import coefficients_of, numbers
from jaxre.columns_of_groups import AFTERWARDS
from jaxre.fits import Counts, FitMany, unpacked
from jaxre.forms import fit_classes, fit_strata
from jaxre.labels import encode
from jaxre.longform import Long, classes_of_long, combined, each_of_long, effects_of_long
from jaxre.plan import EFFECTS, VARIANCES, Plan
from jaxre.progress import Progress

AT_A_TIME = 2048  # datasets of an iterable
ROWS_AT_A_TIME = 1 << 22  # of a long table whose datasets come one after the other


def fit_iterable(items: Any, plan: Plan, bar: Progress) -> FitMany:
    """Datasets from an iterable, AT_A_TIME of them."""
    if not isinstance(items, Iterable):
        raise TypeError(
            f"values must be a matrix, a long table or an iterable of datasets, got {type(items).__name__}."
        )
    parts: list[FitMany] = []
    names: tuple[str, ...] | None = None
    done, classes, source = 0, 1, iter(items)
    while batch := list(itertools.islice(source, AT_A_TIME)):
        made = [_dataset(item, done + i) for i, item in enumerate(batch)]
        width = {0 if one.x is None else one.x.shape[1] for one in made} | (
            set() if names is None else {len(names) - 1}
        )
        if len(width) > 1:
            raise ValueError(f"every dataset must have the same number of covariates, got {sorted(width)}.")
        names = ("(Intercept)", *(f"x{i + 1}" for i in range(width.pop())))
        sizes = [len(one.y) for one in made]
        plan = plan if done else plan.of(len(batch), sum(sizes) * len(names))  # FEW of them are no more than one batch
        done += len(batch)
        offsets = np.cumsum([0, *(len(one.labels) for one in made)])
        long = Long(
            values=np.concatenate([one.y for one in made]),
            dataset=np.repeat(np.arange(len(made)), sizes),
            group=np.concatenate([one.codes for one in made]) + np.repeat(offsets[:-1], sizes),
            covariates=None if made[0].x is None else np.concatenate([one.x for one in made if one.x is not None]),
            count=len(made),
        )
        labels = _joined([one.labels for one in made]) if plan.effects else None
        classes = max(classes, *(one.largest for one in made))
        parts.append(_fit_long(plan, long, np.array([one.dropped for one in made]), names, labels, classes))
        bar.advance(len(batch))
    bar.close()
    if names is None:
        raise ValueError("values has no datasets; pass at least one (values, groups).")
    return _joined_fits(parts)


@dataclasses.dataclass(frozen=True)
class _Dataset:
    """Complete rows of one dataset of an iterable."""

    y: np.ndarray
    codes: np.ndarray
    """(n,) places in `labels`."""
    x: np.ndarray | None
    labels: np.ndarray
    """(groups,) those with a row."""
    dropped: int
    largest: int
    """rows of the largest group, with those in which something is missing: values change no other dataset's way."""


def _dataset(item: Any, place: int) -> _Dataset:
    """One dataset of an iterable, checked, without the rows in which something is missing."""
    if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
        given = f"{type(item).__name__} of {len(item)}" if isinstance(item, (tuple, list)) else type(item).__name__
        raise ValueError(f"dataset {place} must be (values, groups) or (values, groups, covariates), got {given}.")
    y, labels = numbers(item[0], f"values of dataset {place}"), encode(item[1], f"groups of dataset {place}")
    x = None if len(item) == 2 or item[2] is None else numbers(item[2], f"covariates of dataset {place}")
    if y.ndim != 1 or len(labels.slots) != len(y) or (x is not None and (x.ndim != 2 or len(x) != len(y))):
        raise ValueError(
            f"dataset {place} has values of shape {y.shape}, {len(labels.slots)} labels and covariates of shape "
            f"{None if x is None else x.shape}; they must have shapes (n,), (n,) and (n, p - 1)"
            f"{': for one covariate pass x.reshape(-1, 1)' if x is not None and x.ndim == 1 else ''}."
        )
    x = x if x is not None and x.shape[1] else None
    keep = _complete(y, x, labels.slots)
    present, codes = np.unique(labels.codes[keep], return_inverse=True)
    if x is not None and np.isinf(x).any():
        y = np.full_like(y, np.inf)  # invalid as a whole
    return _Dataset(
        y=y[keep],
        codes=codes,
        x=None if x is None else x[keep],
        labels=labels.labels[present],
        dropped=len(y) - int(keep.sum()),
        largest=int(np.bincount(labels.slots[labels.slots >= 0]).max(initial=1)),
    )


def _complete(y: np.ndarray, x: np.ndarray | None, *slots: np.ndarray) -> np.ndarray:
    """Mask of the rows in which nothing is missing."""
    keep = ~np.isnan(y)
    for labels in slots:
        keep &= labels >= 0
    return keep if x is None else keep & ~np.isnan(x).any(axis=1)


def _joined(labels: list[np.ndarray]) -> np.ndarray:
    """Labels of several datasets in one array; of any types, as they are."""
    if len({part.dtype.kind for part in labels}) == 1:
        return np.concatenate(labels)
    return np.concatenate([part.astype(object) for part in labels])


def fit_long_table(
    values: Any, groups: Any, covariates: Any, datasets: Any, plan: Plan, progress: bool | None
) -> FitMany:
    """Datasets of a long table; where they come one after the other, some of them at a time."""
    y, by_group, by_dataset = numbers(values, "values"), encode(groups), encode(datasets, "datasets")
    if y.ndim != 1 or not len(y) == len(by_group.slots) == len(by_dataset.slots):
        raise ValueError(
            f"values, groups and datasets must have one length, got shapes {y.shape}, ({len(by_group.slots)},) and "
            f"({len(by_dataset.slots)},); pass a label of each for each value."
        )
    if len(by_dataset.labels) == 0:
        raise ValueError(f"datasets has no label in {len(y)} rows; pass the dataset of each row.")
    x, names = coefficients_of(covariates, len(y))
    dataset, group, count = by_dataset.codes, by_group.codes if plan.effects else by_group.slots, len(by_dataset.labels)
    dropped, named = np.zeros(count, int), dataset >= 0
    if not named.all():
        y, dataset, group, x = y[named], dataset[named], group[named], None if x is None else x[named]
    keep = _complete(y, x, group)
    whole = keep.all()
    bar, parts, classes, plan = Progress(count, progress), [], 1, plan.of(count, len(y) * len(names))
    for first, last, here in _stretches(dataset, count):
        own = dataset[here] - first if first else dataset[here]
        values, groups_here, rows = y[here], group[here], None if x is None else x[here]
        if not whole:
            some = keep[here]
            dropped[first:last] = np.bincount(own[~some], minlength=last - first)
            labelled = groups_here >= 0  # values change no other dataset's way
            pair = combined(own[labelled], groups_here[labelled], by_group.size)
            classes = max(classes, int(np.bincount(pair).max(initial=1)))
            own, values, groups_here = own[some], values[some], groups_here[some]
            rows = None if rows is None else rows[some]
        pair = combined(own, groups_here, by_group.size)
        long = Long(values=values, dataset=own, group=pair, covariates=rows, count=last - first)
        labels = None
        if plan.effects:
            of_pair = np.empty(long.groups, int)
            of_pair[pair] = groups_here
            labels = by_group.labels[of_pair]
        classes = max(classes, long.largest)
        parts.append(_fit_long(plan, long, dropped[first:last], names, labels, classes))
        bar.advance(last - first)
    bar.close()
    found = _joined_fits(parts)
    return dataclasses.replace(found, names=by_dataset.labels, unassigned=int((~named).sum()))


def _stretches(dataset: np.ndarray, count: int) -> Iterator[tuple[int, int, slice]]:
    """Datasets first to last, without the last, and their rows: of one stretch after the other, or of all at once."""
    if len(dataset) <= ROWS_AT_A_TIME or (dataset[1:] < dataset[:-1]).any():
        yield 0, count, slice(0, len(dataset))
        return
    ends = np.cumsum(np.bincount(dataset, minlength=count))
    first = 0
    while first < count:
        start = int(ends[first - 1]) if first else 0
        taken = max(1, int(np.searchsorted(ends, start + ROWS_AT_A_TIME, side="right")) - first)
        last = first + (taken if first + taken == count or taken < AT_A_TIME else taken // AT_A_TIME * AT_A_TIME)
        yield first, last, slice(start, int(ends[last - 1]))
        first = last


def _fit_long(
    plan: Plan, long: Long, dropped: np.ndarray, names: tuple[str, ...], labels: np.ndarray | None, classes: int
) -> FitMany:
    """The fits of a long table without missing rows.

    `labels` (groups,) are needed for the effects alone; `classes` is the size of the largest group here and in the
    parts before, so that most parts share a program.
    """
    asked, plan = plan, plan.with_variances if plan.effects else plan
    if long.covariates is None and classes <= MOST_CLASSES:
        out = fit_classes(plan, classes_of_long(long, classes))
    else:
        out = fit_strata(plan, list(each_of_long(long)), len(names))
    found = unpacked(out, plan, Counts(long.rows, dropped, long.group_counts), names, labels, None)
    if not asked.effects:
        return found
    effects = effects_of_long(long, asked, found.status, *(getattr(found, name) for name in VARIANCES))
    fields: dict[str, Any] = {name: None for name in VARIANCES if name not in asked.quantities}
    fields |= {name: effects[name] for name in EFFECTS if name in asked.quantities}
    columns = {name: effects[name] for name in AFTERWARDS if name in asked.quantities}
    return dataclasses.replace(found, inference={**(found.inference or {}), **columns} or None, **fields)


def _joined_fits(parts: list[FitMany]) -> FitMany:
    """The fits of several parts as one."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {}
    for field in dataclasses.fields(FitMany):
        values = [getattr(part, field.name) for part in parts]
        if field.name == "groups" and values[0] is not None:
            joined["groups"] = _joined(values)
        elif isinstance(values[0], np.ndarray):
            joined[field.name] = np.concatenate(values)
    inference = parts[0].inference
    if inference is not None:
        joined["inference"] = {
            name: np.concatenate([(part.inference or {})[name] for part in parts]) for name in inference
        }
    return dataclasses.replace(parts[0], **joined)
