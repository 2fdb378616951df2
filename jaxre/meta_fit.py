"""The front door for a meta-analysis: checked input, double precision, and a summary that prints."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxre import meta_report
from jaxre.columns import Covariates, covariates_of, numbers, refuse_infinity, refuse_missing
from jaxre.distributions import level_of
from jaxre.meta import METHODS, TESTS, MetaAnalysis, meta_analysis, refuse_words
from jaxre.observations import MISSING
from jaxre.settings import host_settings, is_small, options_of, platform, quick_jit
from jaxre.status import Status


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class MetaFit(MetaAnalysis):
    """A meta-analysis in NumPy numbers and double precision; printed, it is its summary. See `MetaAnalysis`."""

    method: str
    """"reml", "ml", "dl", "he" or "pm"."""
    test: str
    """"normal" or "knapp-hartung"."""
    level: float
    """[1], of the intervals."""
    coefficients: tuple[str, ...]
    """(p,) names of the coefficients."""
    dropped: int
    """studies left out because something of them was missing."""

    def summary(self) -> str:
        """The summary as text."""
        return meta_report.summary_of_meta(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, strings and lists, at full precision."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain |= {"status": self.status.name.lower(), "message": self.status.message}
        return {name: item.tolist() if hasattr(item, "tolist") else item for name, item in plain.items()}

    def __str__(self) -> str:
        return self.summary()


def fit_meta(
    effects: ArrayLike,
    variances: ArrayLike,
    covariates: Any = None,
    *,
    method: str = "reml",
    test: str = "normal",
    level: float = 0.95,
    missing: str = "drop",
) -> MetaFit:
    """Random-effects meta-analysis or meta-regression of one outcome; see `meta_analysis`.

    Checks the input and works in double precision whatever JAX is set to, which it leaves as it is.

    Args:
        effects: (k,) [y], estimate of each study.
        variances: (k,) [y^2], their sampling variances: squared standard errors.
        covariates: (k, p - 1) [x], no column of ones; in a data frame, names are kept, and text and categories become
            treatment-coded columns.
        method: "reml", "ml", "dl" (DerSimonian-Laird), "he" (Hedges) or "pm" (Paule-Mandel).
        test: "normal" or "knapp-hartung".
        level: [1], of all intervals.
        missing: "drop" leaves out studies of which anything is missing and reports how many; "raise" refuses them.

    Returns:
        MetaFit.

    Errors:
        ValueError for input of the wrong shape, infinite numbers, variances that are not positive, missing ones under
        "raise", an unknown method or test, a level outside (0, 1), fewer than p + 1 studies, or rank-deficient
        covariates. TypeError for what is not a real number.

    Source: as `meta_analysis`.

    Example:
        >>> import jaxre
        >>> fit = jaxre.fit_meta([0.10, 0.30, 0.35, 0.65, 0.45, 0.15], [0.03, 0.03, 0.05, 0.01, 0.05, 0.02])
        >>> print(f"{fit.tau2:.4f} {fit.i2:.4f} {fit.q_p_value:.4f} {fit.certified}")
        0.0331 0.5653 0.0253 True
    """
    refuse_words(method=(method, METHODS), test=(test, TESTS), missing=(missing, MISSING))
    level = float(level_of(level))
    y, v = numbers(effects, "effects"), numbers(variances, "variances")
    if y.shape == v.shape == (0,):
        raise ValueError("effects has no studies; a meta-analysis needs at least two.")
    if y.ndim != 1 or v.shape != y.shape:
        raise ValueError(f"effects and variances must be one-dimensional of one length, got {y.shape} and {v.shape}.")
    made = Covariates(np.zeros((len(y), 0)), ())
    if covariates is not None:
        made = covariates_of(covariates, ~np.isnan(y + v))
    x, names = made.table, made.names
    if covariates is not None and (x.ndim != 2 or len(x) != len(y)):
        raise ValueError(f"covariates must have shape ({len(y)}, p - 1) like effects, got {x.shape}.")
    for name, table in (("effects", y), ("variances", v), ("covariates", x)):
        refuse_infinity(table, name)
        if missing == "raise":
            refuse_missing(np.isnan(table), name)
    wrong = np.flatnonzero(v <= 0)
    if len(wrong):
        raise ValueError(
            f"variances must be positive, got {v[wrong[0]]:g} for study {wrong[0] + 1}: pass squared standard errors, "
            "and correct a study that has none before it is analysed."
        )
    keep = ~(np.isnan(y) | np.isnan(v) | np.isnan(x).any(axis=1))
    k, p = int(keep.sum()), 1 + x.shape[1]
    if k < p + 1:
        raise ValueError(f"a variance between studies needs at least {p + 1} studies for {p} coefficients, got {k}.")
    with host_settings(), np.errstate(all="ignore"):
        y, v, x = y[keep], v[keep], x[keep]
        missing_rows = np.full(_room(k) - k, np.nan)  # studies that are not there: few programs serve many sizes
        padded = np.append(y, missing_rows), np.append(v, missing_rows)
        wide = np.concatenate([x, np.full((len(missing_rows), p - 1), np.nan)]) if p > 1 else None
        found = _compiled(method, test, is_small(_room(k), p))(*padded, wide, level)
        found = jax.tree.map(lambda leaf: np.asarray(leaf)[()], found)
    status = Status(int(found.status))
    if status.failed:
        constant = [name for name, column in zip(names, x.T, strict=True) if column.min() == column.max()]
        facts = f"{k} studies, {p} coefficients" + (f"; constant: {', '.join(constant)}" if constant else "")
        raise ValueError(f"{status.message} (got {facts}).")
    numbers_of = {field.name: getattr(found, field.name) for field in dataclasses.fields(MetaAnalysis)}
    plain = {name: number.item() if np.ndim(number) == 0 else number for name, number in numbers_of.items()}
    return MetaFit(
        **plain | {"status": status},
        method=method,
        test=test,
        level=level,
        coefficients=("(Intercept)", *names),
        dropped=len(keep) - k,
    )


def _room(studies: int) -> int:
    """Few numbers of studies are compiled for."""
    return max(16, 1 << (studies - 1).bit_length())


@functools.lru_cache(maxsize=32)
def _compiled(method: str, test: str, small: bool) -> Any:
    run = lambda y, v, x, level: meta_analysis(y, v, x, method=method, test=test, level=level)
    return quick_jit(run, platform(), options_of(small))
