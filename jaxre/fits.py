"""What comes of fitting many datasets: arrays with a datasets axis."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxre import report
from jaxre.columns_of_groups import OF_BETA, OF_GROUPS
from jaxre.columns_of_inference import COLUMNS
from jaxre.plan import EFFECTS, Plan

KINDS = {"status": np.int32, "optima": np.int32, "steps": np.int32, "certified": bool, "profile_settled": bool}


@dataclasses.dataclass(frozen=True, eq=False)
class Counts:
    """What was used of each dataset."""

    rows: np.ndarray
    """(datasets,) [1]."""
    dropped: np.ndarray
    """(datasets,) [1], rows left out."""
    groups: np.ndarray
    """(datasets,) [1], groups with a row."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FitMany:
    """Fitted one-way random-effects models, one a dataset: NumPy arrays whose first axis is the dataset.

    Quantities that were not asked for are None. Where there is no estimate the numbers are NaN and `status` says why.
    Printed, it is a summary in words. See `Estimate` for what each number is.
    """

    method: str
    """"reml", "ml" or "anova"."""
    rows: np.ndarray
    """(datasets,) [1], rows used of each."""
    dropped: np.ndarray
    """(datasets,) [1], rows left out because something in them was missing."""
    group_counts: np.ndarray
    """(datasets,) [1], groups with a row that is used."""
    status: np.ndarray
    """(datasets,) int32 codes of `Status`."""
    coefficients: tuple[str, ...]
    """names in the order of beta."""
    groups: np.ndarray | None
    """(J,) group labels in order of first appearance, where one design is shared; with designs of their own, and only
    where effects were asked for, (group_counts.sum(),) those of one dataset after the other."""
    names: np.ndarray | None
    """(datasets,) labels of the datasets: columns of a data frame, or of a long table in order of first appearance."""
    unassigned: int = 0
    """rows of a long table that were left out because they have no label of a dataset."""
    within: np.ndarray | None = None
    """(datasets,) [y^2], variance within groups."""
    between: np.ndarray | None = None
    """(datasets,) [y^2], variance between groups; exactly 0 on the boundary."""
    between_untruncated: np.ndarray | None = None
    """(datasets,) [y^2], analysis of variance before truncation at 0."""
    ratio: np.ndarray | None = None
    """(datasets,) [1], between / within."""
    icc: np.ndarray | None = None
    """(datasets,) [1], between / (between + within)."""
    beta: np.ndarray | None = None
    """(datasets, p) [y/x], coefficients, the intercept first."""
    beta_se: np.ndarray | None = None
    """(datasets, p) [y/x], standard errors."""
    beta_cov: np.ndarray | None = None
    """(datasets, p, p) [(y/x)^2], covariance of beta."""
    log_likelihood: np.ndarray | None = None
    """(datasets,) [nat], restricted for REML, else full."""
    certified: np.ndarray | None = None
    """(datasets,) bool, the optimum is proven to be the global one."""
    optima: np.ndarray | None = None
    """(datasets,) int32, how many local optima the likelihood has."""
    optima_ratio: np.ndarray | None = None
    """(datasets, 17) [1], their ratios; NaN where there is none."""
    gap: np.ndarray | None = None
    """(datasets,) [nat], -2 log-likelihood of the second-best optimum less that of the best."""
    steps: np.ndarray | None = None
    """(datasets,) int32, steps of the optimiser."""
    inference: dict[str, np.ndarray] | None = None
    """tests and intervals that were asked for, by name: (datasets,), and (datasets, p) those of coefficients,
    (datasets, m) those of m contrasts or predictions, and those of groups as `blup`, the changes of beta with a last
    axis (p,)."""
    blup: np.ndarray | None = None
    """(datasets, J) [y], predicted group effects, in the order of `groups`; NaN for a group without a row. With designs
    of their own (group_counts.sum(),)."""
    blup_se: np.ndarray | None = None
    """as `blup` [y], their standard errors."""

    def __len__(self) -> int:
        return len(self.status)

    def summary(self) -> str:
        """How many datasets ended how, in words."""
        return report.summary_of_many(self)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"FitMany(method={self.method!r}, datasets={len(self)})"

    def to_dict(self) -> dict[str, np.ndarray]:
        """Columns of a table with a row for each dataset."""
        inference = {name: table for name, table in (self.inference or {}).items() if name not in OF_GROUPS}
        return report.columns_of_many(self, inference)

    def tidy_groups(self) -> dict[str, np.ndarray]:
        """Columns of a table with a row for each group of each dataset: dataset, group, and the effects asked for."""
        effects = {name: getattr(self, name) for name in EFFECTS if getattr(self, name) is not None}
        of_groups = {name: table for name, table in (self.inference or {}).items() if name in OF_GROUPS}
        if OF_BETA in of_groups:
            change = of_groups.pop(OF_BETA)
            of_groups |= {f"{OF_BETA}[{name}]": change[..., i] for i, name in enumerate(self.coefficients)}
        effects |= of_groups
        return report.groups_of_many(self, effects)


def unpacked(
    out: np.ndarray, plan: Plan, used: Counts, coefficients: tuple[str, ...], groups: Any, labels: Any
) -> FitMany:
    """Named arrays with the datasets first from packed numbers."""
    shape_of = len(coefficients), 0 if groups is None else len(groups)
    rows, fields = plan.rows(out, *shape_of), dict[str, Any]()
    for name, shape in plan.widths(*shape_of):
        part = rows[name]
        fields[name] = part[0].copy() if shape == () else np.moveaxis(part.reshape(*shape, -1), -1, 0).copy()
    for name, kind in KINDS.items():
        if name in fields:
            fields[name] = fields[name].astype(kind)
    inference = {name: fields.pop(name) for name in COLUMNS if name in fields}
    return FitMany(
        method=plan.method,
        rows=used.rows,
        dropped=used.dropped,
        group_counts=used.groups,
        coefficients=coefficients,
        groups=groups,
        names=labels,
        inference=inference or None,
        **fields,
    )
