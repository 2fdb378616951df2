"""One tool, many outcomes over one design: fits them one after the other, or all at once, and says how long that took.

    refits.py TOOL FOLDER SECONDS

Reads values.npy (datasets, n), groups.npy and x.npy (n, p - 1) from the folder. Writes found.npy, a column for each fit
(between and within, or the ICC alone), and prints JSON: fits, seconds, version. Only the fits are timed: whatever a
tool can prepare once for the design it has prepared. It stops after SECONDS, but not before five fits.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from worker import columns_and_formula

Refit = Callable[[np.ndarray], tuple[float, ...]]  # an outcome to (between, within), or to (icc,)
LEAST = 5  # fits


def statsmodels(g: np.ndarray, x: np.ndarray) -> Refit:
    from statsmodels.regression.mixed_linear_model import MixedLM

    design = np.column_stack([np.ones(len(g)), x])

    def refit(y: np.ndarray) -> tuple[float, float]:
        result = MixedLM(y, design, g).fit(reml=True)
        return float(result.cov_re[0, 0]), float(result.scale)

    return refit


def lme_python(g: np.ndarray, x: np.ndarray) -> Refit:
    import lme_python
    import polars

    columns, formula = columns_and_formula(np.random.default_rng(0).normal(size=len(g)), g, x)
    frame = polars.DataFrame(columns | {"g": g.astype(str)}).with_columns(polars.col("g").cast(polars.Categorical))
    prepared = lme_python.prepare_lmer(formula, frame)

    def refit(y: np.ndarray) -> tuple[float, float]:
        result = prepared.fit(y=y.tolist(), reml=True)
        return result.theta[0] ** 2 * result.sigma2, result.sigma2

    return refit


def glmm(g: np.ndarray, x: np.ndarray) -> Refit:
    import glmm

    columns, formula = columns_and_formula(np.empty(0), g, x)

    def refit(y: np.ndarray) -> tuple[float, float]:
        result = glmm.fit(columns | {"y": y}, formula, satterthwaite=False)
        return float(result.tau2[0]), float(result.dispersion)

    return refit


def mixedlm(g: np.ndarray, x: np.ndarray) -> Refit:
    import mixedlm
    import pandas as pd

    columns, formula = columns_and_formula(np.zeros(len(g)), g, x)
    frame = pd.DataFrame(columns | {"g": pd.Categorical(g)})

    def refit(y: np.ndarray) -> tuple[float, float]:
        frame["y"] = y
        result = mixedlm.lmer(formula, frame)
        return float(result.theta[0] * result.sigma) ** 2, float(result.sigma) ** 2

    return refit


def pyrelimri(g: np.ndarray, x: np.ndarray) -> Refit:
    from pyrelimri.icc import sumsq_icc

    frame = ratings(g)

    def refit(y: np.ndarray) -> tuple[float]:
        frame["y"] = y
        return (float(sumsq_icc(frame, "g", "rating", "y", icc_type="icc_1")[0]),)

    return refit


def pingouin(g: np.ndarray, x: np.ndarray) -> Refit:
    from pingouin import intraclass_corr

    frame = ratings(g)

    def refit(y: np.ndarray) -> tuple[float]:
        frame["y"] = y
        return (float(intraclass_corr(frame, targets="g", raters="rating", ratings="y")["ICC"].iloc[0]),)

    return refit


def ratings(g: np.ndarray) -> object:
    """The frame of an ICC: targets, and ratings numbered within each; g is sorted and balanced."""
    import pandas as pd

    groups = len(np.unique(g))
    return pd.DataFrame({"g": g, "rating": np.tile(np.arange(len(g) // groups), groups), "y": 0.0})


def optax(g: np.ndarray, x: np.ndarray, steps: int = 20) -> Callable[[np.ndarray], np.ndarray]:
    """What a user of JAX writes: the restricted likelihood from group sums, 20 steps of L-BFGS on the log-variances."""
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", True)
    sizes = jnp.asarray(np.bincount(g).astype(float))
    design = jnp.column_stack([jnp.ones(len(g)), x])
    n, sums_x = len(g), jax.ops.segment_sum(design, g, len(sizes))

    def criterion(log_variances: jax.Array, sums: jax.Array, xy: jax.Array, yy: jax.Array) -> jax.Array:
        between, within = jnp.exp(log_variances)
        weights = between / (within + between * sizes)
        xx = (design.T @ design - (sums_x.T * weights) @ sums_x) / within
        xy = (xy - sums_x.T @ (weights * sums)) / within
        yy = (yy - sums @ (weights * sums)) / within
        log_det = (n - len(sizes)) * log_variances[1] + jnp.log(within + between * sizes).sum()
        return (log_det + jnp.linalg.slogdet(xx)[1] + yy - xy @ jnp.linalg.solve(xx, xy)) / 2

    def fit(y: jax.Array) -> jax.Array:
        sums = jax.ops.segment_sum(y, g, len(sizes), indices_are_sorted=True)
        loss, solver = functools.partial(criterion, sums=sums, xy=design.T @ y, yy=y @ y), optax.lbfgs()
        value_and_grad = optax.value_and_grad_from_state(loss)

        def step(state: tuple, _: None) -> tuple:
            at, inner = state
            value, slope = value_and_grad(at, state=inner)
            move, inner = solver.update(slope, inner, at, value=value, grad=slope, value_fn=loss)
            return (optax.apply_updates(at, move), inner), None

        start = jnp.log(jnp.array([0.5, 0.5]) * y.var())
        (last, _), _ = jax.lax.scan(step, (start, solver.init(start)), length=steps)
        return jnp.exp(last)

    compiled = jax.jit(jax.vmap(fit))
    return lambda block: np.asarray(compiled(block))


ONE_BY_ONE = {
    "statsmodels": statsmodels,
    "lme-python": lme_python,
    "glmm": glmm,
    "mixedlm": mixedlm,
    "pyrelimri": pyrelimri,
    "pingouin": pingouin,
}
BLOCK = 256  # datasets at a time for vmapped optax


def one_by_one(refit: Refit, values: np.ndarray, limit: float) -> tuple[np.ndarray, float]:
    """The numbers of each fit and the seconds of all; the first fit is repeated, so that it is warm when timed."""
    refit(values[0])
    start, found = time.perf_counter(), []
    for i, y in enumerate(values):
        if i >= LEAST and time.perf_counter() - start > limit:
            break
        found.append(refit(y))
    return np.array(found), time.perf_counter() - start


def in_blocks(fit: Callable[[np.ndarray], np.ndarray], values: np.ndarray, limit: float) -> tuple[np.ndarray, float]:
    """The same for a tool that takes many outcomes at once, compiled before."""
    size = min(BLOCK, len(values))
    fit(values[:size])
    start, found = time.perf_counter(), []
    for first, last in itertools.pairwise(range(0, len(values) + 1, size)):
        found.append(fit(values[first:last]))
        if time.perf_counter() - start > limit:
            break
    return np.concatenate(found), time.perf_counter() - start


def main() -> None:
    tool, folder, limit = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the tools print goes elsewhere
    warnings.simplefilter("ignore")
    values, g, x = (np.load(folder / f"{name}.npy") for name in ("values", "groups", "x"))
    if tool == "optax":
        found, seconds = in_blocks(optax(g, x), values, limit)
    else:
        found, seconds = one_by_one(ONE_BY_ONE[tool](g, x), values, limit)
    np.save(folder / "found.npy", found.T)
    json.dump({"fits": len(found), "seconds": seconds, "version": version(tool)}, answers)


if __name__ == "__main__":
    main()
