"""The front door for many datasets: a matrix, a long table or an iterator in, arrays with a datasets axis out."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxre.coefficients import contrast_rows, independent
from jaxre.columns import covariates_again, covariates_of, numbers
from jaxre.columns_of_inference import COLUMNS, EVERY, ON_REQUEST, SUMMARY, available
from jaxre.distributions import level_of
from jaxre.fits import FitMany
from jaxre.inference import df_of
from jaxre.labels import encode
from jaxre.matrices import fit_matrix
from jaxre.plan import QUANTITIES, Asked, Plan, mesh_of, plain
from jaxre.progress import Progress
from jaxre.separate import fit_iterable, fit_long_table

METHODS = ("reml", "ml", "anova")
PRECISIONS = ("double", "single")
DEFAULT = tuple(name for name in QUANTITIES if name not in ("optima_ratio", "blup", "blup_se"))


def fit_many(
    values: Any,
    groups: ArrayLike | Sequence[Hashable] | None = None,
    covariates: ArrayLike | None = None,
    *,
    method: str = "reml",
    datasets: ArrayLike | Sequence[Hashable] | None = None,
    quantities: Sequence[str] = DEFAULT,
    chunk: int | None = None,
    mesh: Mesh | None = None,
    progress: bool | None = None,
    precision: str = "double",
    level: float = 0.95,
    df: str | None = None,
    contrasts: ArrayLike | None = None,
    predict_groups: ArrayLike | Sequence[Hashable] | None = None,
    predict_covariates: ArrayLike | None = None,
    draws: int = 100_000,
    replicates: int = 1000,
    seed: int = 0,
) -> FitMany:
    """Fitted one-way random-effects models for many datasets.

    Three forms of input. A matrix `values` (n, datasets) over one design, NaN where a value is missing: NumPy, JAX,
    memory-mapped, or anything with a shape that can be sliced; only `chunk` columns of it are read at a time. A long
    table: `values` (n,) with `groups` and `datasets`, labels of the groups and of the datasets. Or an iterable of
    (values, groups) or (values, groups, covariates), one a dataset. No dataset makes this raise: each has its status;
    what is no dataset does (text, lengths that differ, integers beyond 2^53 but in a matrix), and is named.

    Args:
        values: see above.
        groups: (n,) labels of any hashable type; left out for an iterable.
        covariates: (n, p - 1) [x], no column of ones, for the matrix and the long table; in a data frame, text and
            categories become treatment-coded columns.
        method: "reml", "ml" or "anova".
        datasets: (n,) labels of the datasets of a long table; rows without one are left out and counted (`unassigned`).
        quantities: names of the fields to return; "blup", "blup_se" (one after the other where datasets have designs of
            their own: see `FitMany`) and "optima_ratio" only come when asked for, and so does inference, as columns of
            `fits.inference`: of each coefficient "beta_df", "beta_t", "beta_p_value", "beta_low", "beta_high" and
            "beta_se_adjusted" (Kenward-Roger); the exact F test of between = 0, "f_statistic", "f_df1", "f_df2",
            "f_p_value"; exact intervals, "ratio_low", "ratio_high", "icc_low", "icc_high"; profile-likelihood
            intervals, "between_low", "between_high" and so for "within", "sd_between", "sd_within", with
            "profile_settled" (all searches ended). "inference" stands for all of these. By name alone:
            "ratio_low_untruncated" and so for each exact end; exact one-sided bounds, each at the level by itself,
            "ratio_lower_bound", "ratio_upper_bound" and so for the ICC; "ratio_profile_low" and so for the ICC;
            "within_se", "between_se", "log_within_se", "log_between_se" by the observed information (the expected one
            for the analysis of variance), and Wald's intervals "between_wald_low" and so for each variance, its root,
            the ratio, the ICC and "beta"; by ML the profile intervals "beta_profile_low", "beta_profile_high" of the
            coefficients; "icc_single", "icc_average", "icc_measurements" (ICC(1,1), ICC(1,k), k) with
            "icc_single_low" and so on; "aic", "bic", "conditional_aic", "r2_marginal", "r2_conditional";
            "lr_statistic" with "lr_p_asymptotic", the likelihood ratio against between = 0 with its asymptotic mixture.
            Simulated, one dataset after the other: "lr_p_value" with "lr_mc_error", against `draws` from the exact null
            distribution, drawn once for all datasets of one design; and the parametric bootstrap's percentile
            intervals, "between_bootstrap_low", "between_bootstrap_high" and so for each variance, its root, the ratio,
            the ICC and "beta", with "bootstrap_boundary" and "bootstrap_failed", counts of its replicates. Of each
            group, see `group_effects`: "blup_low", "blup_high", "blup_mse", "blup_conditional_variance", "group_mean",
            "group_mean_low", "group_mean_high", "group_mean_mse", "group_rank" (of the effect), "group_expected_rank"
            (see `expected_ranks`); and what leaving it out does, see `influence`: "group_cook", "group_beta_change",
            "group_log_within_change", "group_log_between_change". Checks of the rows, see `homogeneity_check` and
            `normality_check`: "homogeneity_statistic", "homogeneity_df1", "homogeneity_df2", "homogeneity_p_value",
            "residual_normality_statistic", "residual_normality_p_value", "residual_skewness",
            "residual_excess_kurtosis", "effect_normality_statistic", "effect_normality_p_value". All of the groups and
            the checks one dataset after the other where something is missing or datasets have designs of their own.
        chunk: columns of a matrix in memory at a time; by default as many as make 16 MB, or 128 MB if they have very
            many rows; 512 MB for a GPU. A long table is in memory as it is, and taken four million rows at a time if
            its datasets come one after the other; an iterable is taken 2048 datasets at a time.
        mesh: one-dimensional mesh of devices to share the datasets out to; by default all local ones.
        progress: whether to show a bar on the error stream; by default only on a terminal.
        precision: "double", or "single" for devices that are slow in double: values are centred and scaled in double,
            then all is done in single.
        level: [1], of the intervals.
        df: "kenward-roger", the default for REML, or "satterthwaite".
        contrasts: (m, p) or (p,) [x], independent rows of L, each a combination of the coefficients, the intercept
            first. They add columns to `fits.inference`: of each row "contrast_estimate", "contrast_se", "contrast_df",
            "contrast_t", "contrast_p_value", "contrast_low", "contrast_high", (datasets, m); and the joint F test of
            L beta = 0, "contrasts_f", "contrasts_f_df1", "contrasts_f_df2", "contrasts_f_p_value".
        predict_groups: (m,) labels of groups of the matrix to predict in, None or another missing label for a new
            group; all new without. They add columns (datasets, m) to `fits.inference`, see `predictions`: "prediction";
            of the group's mean "prediction_mean_mse", "prediction_mean_low", "prediction_mean_high"; of a new
            observation "prediction_mse", "prediction_low", "prediction_high". Where datasets have designs of their own,
            all must be new; a group that an incomplete dataset of a matrix has not is new there.
        predict_covariates: (m, p - 1) [x], at which to predict; none for the intercept alone. A data frame's columns
            go by the names of those in `covariates`.
        draws: [1], of the likelihood ratio's null distribution; p-values are multiples of 1 / draws.
        replicates: [1], of the bootstrap, for each dataset.
        seed: [1], of what is simulated. A dataset's numbers depend on it and on the dataset alone, so datasets share
            their Monte-Carlo errors: over many they do not average out.

    Returns:
        FitMany.

    Errors:
        ValueError or TypeError for an unknown method, quantity, precision, level or df, shapes that do not fit, values
        that are not numbers, infinite covariates, contrasts that depend on each other, unknown groups to predict in,
        fewer than one draw or replicate, or a chunk too large for memory.
        Never for the values of a dataset.

    Source: README, "The pipeline"; the shared design in spectral form, as for `fit` otherwise.

    Example:
        >>> import numpy as np, jaxre
        >>> values = np.array([[3.0, 1.0], [5.0, 2.0], [11.0, 1.0], [9.0, 3.0], [7.0, 2.0], [6.0, 1.0]])
        >>> fits = jaxre.fit_many(values, ["a", "a", "b", "b", "c", "c"])
        >>> print(fits.between.round(4), fits.certified)
        [8.3333 0.    ] [ True  True]
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in (values, groups, covariates, datasets)):
        raise TypeError(
            "fit_many reads its arrays in chunks on the host, got one that jit, vmap or grad traces; there use "
            "jax.vmap(lambda y: jaxre.reml(jaxre.group_moments(y, groups)), in_axes=-1)."
        )
    _check_options(method, chunk, precision)
    df, level = df_of(method, df), float(level_of(level))
    rows = () if contrasts is None else tuple(map(tuple, independent(contrast_rows(contrasts)).tolist()))
    asked = _asked(predict_groups, predict_covariates, covariates)
    given = [name for name, there in (("contrasts", bool(rows)), ("predict_groups", asked is not None)) if there]
    names = _named(quantities, method, df, given)
    plan = Plan(names, method, precision, mesh_of(mesh), df, level, rows, asked)
    draws, replicates, seed = _whole("draws", draws, 1), _whole("replicates", replicates, 1), _whole("seed", seed, 0)
    if plan.simulated:  # else the seed would be another plan, to be compiled anew
        plan = dataclasses.replace(plan, draws=draws, replicates=replicates, seed=seed)
    if groups is None:
        if hasattr(values, "shape"):
            raise ValueError("groups is missing: pass one label for each row of values.")
        if covariates is not None or datasets is not None:
            raise ValueError(
                "groups is missing; for an iterable of (values, groups, covariates) leave out covariates and datasets."
            )
        if asked is not None:
            asked.refuse_names()
        return fit_iterable(values, plan, Progress(None, progress))
    if datasets is not None:
        if asked is not None:
            asked.refuse_names()
        return fit_long_table(values, groups, covariates, datasets, plan, progress)
    return fit_matrix(values, groups, covariates, plan, chunk, progress)


def _check_options(method: str, chunk: int | None, precision: str) -> None:
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be one of 'reml', 'ml' or 'anova', got {method!r}.")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be 'double' or 'single', got {precision!r}.")
    if chunk is not None and (not isinstance(chunk, (int, np.integer)) or chunk < 1):
        raise ValueError(f"chunk must be a positive number of datasets, got {chunk!r}.")


def _whole(name: str, number: int, least: int) -> int:
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
        raise ValueError(f"{name} must be a whole number, {least} or more, got {number!r}.")
    return int(number)


def _asked(groups: Any, at: Any, covariates: Any) -> Asked | None:
    """What is to be predicted, if anything; covariates are coded as those of the data."""
    name, x = "predict_covariates", None
    if groups is None and at is None:
        return None
    if at is not None and covariates is not None:
        known = covariates_of(covariates, np.ones(len(covariates), bool))
        if known.table.ndim != 2:
            raise ValueError(f"covariates must have shape (n, p - 1), got {known.table.shape}.")
        x = covariates_again(at, known, name)
    elif at is not None:
        x = numbers(at, name)
        if x.ndim != 2:
            raise ValueError(f"{name} must have shape (m, p - 1), got {x.shape}.")
        if not np.isfinite(x).all():
            raise ValueError(f"{name} must be finite, got {int((~np.isfinite(x)).sum())} that are not.")
    labels: list[Hashable] = [] if x is None else [None] * len(x)
    if groups is not None:
        encoded = encode(groups, "predict_groups")
        of_code = [*plain(np.asarray(encoded.labels)), None]  # the last one of code -1
        labels = [of_code[code] for code in encoded.codes.tolist()]
    if not labels or (x is not None and len(x) != len(labels)):
        raise ValueError(
            f"predict_groups and predict_covariates must have one length, 1 or more, got {len(labels)} and "
            f"{'none' if x is None else len(x)}."
        )
    rows: list[list[float]] = [[]] * len(labels) if x is None else x.tolist()
    return Asked(tuple(labels), tuple(map(tuple, rows)))


def _named(quantities: Sequence[str], method: str, df: str, given: Sequence[str]) -> tuple[str, ...]:
    """The quantities asked for, the status first, those that an argument asks for last."""
    if isinstance(quantities, str):
        quantities = (quantities,)
    if not isinstance(quantities, Iterable):
        raise TypeError(f"quantities must be names of fields, got {quantities!r}.")
    columns = available(method, df, given)
    summary = [name for name in columns if name in SUMMARY]
    names = [one for name in quantities for one in (summary if name == EVERY else (name,))]
    unknown = [name for name in names if name not in (*QUANTITIES, *COLUMNS)]
    if unknown:
        raise ValueError(
            f"quantities has unknown names {unknown}; there are {', '.join((*QUANTITIES, *COLUMNS, EVERY))}."
        )
    absent = [name for name in names if name in COLUMNS and name not in columns]
    others = [name for name in absent if not any(name in columns for columns in ON_REQUEST.values())]
    if others:
        raise ValueError(f"quantities has {others}, which method={method!r} with df={df!r} has not; leave them out.")
    for argument, of_argument in ON_REQUEST.items():
        lacking = [name for name in absent if name in of_argument]
        if lacking:
            raise ValueError(f"quantities has {lacking}, but {argument} is missing; pass it, or leave them out.")
        if argument in given and not set(names) & set(of_argument):
            names += of_argument
    return tuple(dict.fromkeys(["status", *names]))
