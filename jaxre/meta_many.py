"""The front door for many meta-analyses: checked input, double precision, and a status for each of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxre import meta_report, report
from jaxre.batches import One, as_it_is, run
from jaxre.columns import Covariates, covariates_of, numbers, refuse_infinity
from jaxre.distributions import level_of
from jaxre.meta import METHODS, TESTS, MetaAnalysis, meta_analysis, refuse_words
from jaxre.plan import Plan, mesh_of, parts_of
from jaxre.rows import Array

QUANTITIES = tuple(field.name for field in dataclasses.fields(MetaAnalysis))
OF_COEFFICIENTS = ("beta", "beta_se", "statistic", "p_value", "beta_low", "beta_high")
KINDS = {"studies": np.int32, "status": np.int32, "optima": np.int32, "certified": bool}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class MetaMany(MetaAnalysis):
    """Many meta-analyses: NumPy arrays whose first axis is the dataset. See `MetaAnalysis`.

    Quantities that were not asked for are None. Printed, it is a summary in words.
    """

    method: str
    """"reml", "ml", "dl", "he" or "pm"."""
    test: str
    """"normal" or "knapp-hartung"."""
    level: float
    """[1], of the intervals."""
    coefficients: tuple[str, ...]
    """(p,) names of the coefficients."""

    def __len__(self) -> int:
        return len(self.status)

    def summary(self) -> str:
        """How many datasets ended how, in words."""
        return meta_report.summary_of_metas(self)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"MetaMany(method={self.method!r}, datasets={len(self)})"

    def to_dict(self) -> dict[str, np.ndarray]:
        """Columns of a table with a row for each dataset; those of a coefficient are named after it."""
        columns: dict[str, np.ndarray] = {}
        for name in QUANTITIES:
            table = getattr(self, name)
            if name in OF_COEFFICIENTS and table is not None:
                columns |= {f"{name}[{of}]": table[:, i] for i, of in enumerate(self.coefficients)}
            elif name not in ("beta_cov", "status") and table is not None:
                columns[name] = table
        return columns | {"status": report.names_of_status(self.status)}


def fit_meta_many(
    effects: ArrayLike,
    variances: ArrayLike,
    covariates: Any = None,
    *,
    method: str = "reml",
    test: str = "normal",
    level: float = 0.95,
    quantities: str | Sequence[str] = QUANTITIES,
    mesh: Mesh | None = None,
) -> MetaMany:
    """Random-effects meta-analyses or meta-regressions of many outcomes; see `meta_analysis`.

    Double precision whatever JAX is set to. No dataset makes this raise: each has its status, and where that says that
    there is no estimate (an infinite number, a variance that is not positive, fewer than p + 1 studies) its numbers
    are NaN.

    Args:
        effects: (studies, datasets) [y], estimate of each study; NaN where a dataset has none.
        variances: (studies, datasets) [y^2], their sampling variances; or (studies,) those of all datasets.
        covariates: (studies, p - 1) [x], of all datasets, no column of ones; in a data frame, names are kept, and text
            and categories become treatment-coded columns. A study of which one is missing is left out.
        method: "reml", "ml", "dl" (DerSimonian-Laird), "he" (Hedges) or "pm" (Paule-Mandel).
        test: "normal" or "knapp-hartung".
        level: [1], of all intervals.
        quantities: names of the fields to return; all by default, of which intervals and p-values take the most time.
        mesh: one-dimensional mesh of devices to share the datasets out to; by default all local ones.

    Returns:
        MetaMany.

    Errors:
        ValueError or TypeError for shapes that do not fit, an unknown method, test or quantity, a level outside (0, 1),
        infinite covariates, and what is not a real number. Never for the numbers of a dataset.

    Source: as `meta_analysis`.

    Example:
        >>> import numpy as np, jaxre
        >>> effects = np.array([[0.10, 0.4], [0.30, 0.1], [0.35, np.nan], [0.65, 0.2], [0.45, 0.3], [0.15, 0.2]])
        >>> fits = jaxre.fit_meta_many(effects, [0.03, 0.03, 0.05, 0.01, 0.05, 0.02])
        >>> print(fits.tau2.round(4), fits.studies, fits.certified)
        [0.0331 0.    ] [6 5] [ True  True]
    """
    refuse_words(method=(method, METHODS), test=(test, TESTS))
    names = (quantities,) if isinstance(quantities, str) else tuple(quantities)
    unknown = [name for name in names if name not in QUANTITIES]
    if unknown:
        raise ValueError(f"quantities has unknown names {unknown}; there are {', '.join(QUANTITIES)}.")
    level = float(level_of(level))
    y, v = numbers(effects, "effects"), numbers(variances, "variances")
    if y.ndim != 2 or 0 in y.shape or v.shape not in (y.shape, y.shape[:1]):
        raise ValueError(
            f"effects must have shape (studies, datasets), and variances that or (studies,), got {y.shape} and "
            f"{v.shape}; for one outcome use jaxre.fit_meta."
        )
    made = _moderators(covariates, len(y))
    plan = Plan(tuple(dict.fromkeys(("status", *names))), method, "double", mesh_of(mesh))
    plan = plan.of(y.shape[1], 2 * y.size)
    p, shared = 1 + made.table.shape[1], v if v.ndim == 1 else None
    constants = made.table if p > 1 else None, shared, np.asarray(level)
    packed = run(plan, constants, (y,) if v.ndim == 1 else (y, v), as_it_is, _analysis_by(method, test))
    return MetaMany(
        **dict.fromkeys(QUANTITIES) | _unpacked(packed, plan.quantities, p),
        method=method,
        test=test,
        level=level,
        coefficients=("(Intercept)", *made.names),
    )


def _moderators(covariates: Any, studies: int) -> Covariates:
    if covariates is None:
        return Covariates(np.zeros((studies, 0)), ())
    made = covariates_of(covariates, np.ones(studies, bool))
    if made.table.ndim != 2 or len(made.table) != studies:
        raise ValueError(f"covariates must have shape ({studies}, p - 1), got {made.table.shape}.")
    refuse_infinity(made.table, "covariates")
    return made


@functools.lru_cache(maxsize=16)
def _analysis_by(method: str, test: str) -> One:
    def one(constants: Any, data: Any, plan: Plan, whole: bool) -> tuple[Any, Array, dict[str, Array]]:
        covariates, shared, level = constants
        effects, variances = (*data, shared)[:2]
        found = meta_analysis(effects, variances, covariates, method=method, test=test, level=level)
        return None, jnp.ones((), bool), {name: getattr(found, name) for name in plan.quantities}

    return one


def _unpacked(packed: np.ndarray, quantities: Sequence[str], p: int) -> dict[str, np.ndarray]:
    """Named arrays with the datasets first."""
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(OF_COEFFICIENTS, (p,)) | {"beta_cov": (p, p)}
    widths = [(name, shapes.get(name, ())) for name in quantities]
    rows = parts_of(packed, widths)
    first = lambda name, shape: np.moveaxis(rows[name].reshape(*shape, -1), -1, 0)
    return {name: first(name, shape).astype(KINDS.get(name, float)) for name, shape in widths}
