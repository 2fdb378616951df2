"""One tool, one dataset: fits it whenever a line arrives on standard input, and says how long that took.

    worker.py TOOL FOLDER LABELS

Reads y.f8, g.i8 and x.f8 from the folder, fits once, answers `ready`, then for each line `CALLS SECONDS` fits up to
CALLS times within SECONDS and answers `fitted`. Only the fit is timed: the data already stand in the form in which the
tool wants them (arrays, a dict, a data frame), which favours the tools that want a frame.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Components = tuple[float, float]  # between, within


def jaxre(y: np.ndarray, g: np.ndarray, x: np.ndarray, labels: str) -> Callable[[], Components]:
    import jaxre

    column, covariates = as_labels(g, labels), x if x.shape[1] else None

    def fit() -> Components:
        result = jaxre.fit(y, column, covariates)
        assert result.certified
        return result.between, result.within

    return fit


def as_labels(g: np.ndarray, kind: str) -> Any:
    """The group column as its users hold it."""
    if kind == "integers":
        return g
    if kind == "object strings":  # one object a row, as a csv reader without interning leaves them
        return np.array([f"group {j}" for j in g.tolist()], dtype=object)
    if kind == "pandas categorical":
        import pandas as pd

        return pd.Series([f"group {j}" for j in g.tolist()], dtype="category")
    import pyarrow as pa

    strings = pa.array([f"group {j}" for j in g.tolist()])
    return strings.dictionary_encode() if kind == "Arrow dictionary" else strings


def statsmodels(y: np.ndarray, g: np.ndarray, x: np.ndarray, labels: str) -> Callable[[], Components]:
    from statsmodels.regression.mixed_linear_model import MixedLM

    design = np.column_stack([np.ones(len(y)), x])

    def fit() -> Components:
        result = MixedLM(y, design, g).fit(reml=True)
        return float(result.cov_re[0, 0]), float(result.scale)

    return fit


def lme_python(y: np.ndarray, g: np.ndarray, x: np.ndarray, labels: str) -> Callable[[], Components]:
    import lme_python
    import polars

    columns, formula = columns_and_formula(y, g, x)
    frame = polars.DataFrame(columns | {"g": g.astype(str)}).with_columns(polars.col("g").cast(polars.Categorical))

    def fit() -> Components:
        result = lme_python.lmer(formula, data=frame, reml=True)
        return result.theta[0] ** 2 * result.sigma2, result.sigma2

    return fit


def glmm(y: np.ndarray, g: np.ndarray, x: np.ndarray, labels: str) -> Callable[[], Components]:
    import glmm

    columns, formula = columns_and_formula(y, g, x)

    def fit() -> Components:
        result = glmm.fit(columns, formula)
        return float(result.tau2[0]), float(result.dispersion)

    return fit


def mixedlm(y: np.ndarray, g: np.ndarray, x: np.ndarray, labels: str) -> Callable[[], Components]:
    import mixedlm
    import pandas as pd

    columns, formula = columns_and_formula(y, g, x)
    frame = pd.DataFrame(columns | {"g": pd.Categorical(g)})

    def fit() -> Components:
        result = mixedlm.lmer(formula, frame)
        return float(result.theta[0] * result.sigma) ** 2, float(result.sigma) ** 2

    return fit


def columns_and_formula(y: np.ndarray, g: np.ndarray, x: np.ndarray) -> tuple[dict[str, np.ndarray], str]:
    covariates = {f"x{i + 1}": np.ascontiguousarray(column) for i, column in enumerate(x.T)}
    return {"y": y, "g": g} | covariates, " + ".join(["y ~ 1", *covariates, "(1 | g)"])


TOOLS = {
    "jaxre": jaxre,
    "statsmodels": statsmodels,
    "lme-python": lme_python,
    "glmm": glmm,
    "mixedlm": mixedlm,
}


def peak_memory() -> float:
    """[MB], the most that this process has held. Not ru_maxrss where it can be helped: that inherits the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def main() -> None:
    tool, folder, labels = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the tools print goes elsewhere
    warnings.simplefilter("ignore")

    y, g = np.fromfile(folder / "y.f8"), np.fromfile(folder / "g.i8", dtype=np.int64)
    x = np.ascontiguousarray(np.fromfile(folder / "x.f8").reshape(-1, len(y)).T)
    fit = TOOLS[tool](y, g, x, labels)
    before = peak_memory()
    print("loaded", version(tool) if tool != "jaxre" else "here", file=answers)
    start = time.perf_counter()
    fit()
    print("ready", time.perf_counter() - start, before, peak_memory(), file=answers)
    for line in sys.stdin:
        calls, limit = line.split()
        times: list[float] = []
        end = time.perf_counter() + float(limit)
        while len(times) < int(calls) and (not times or time.perf_counter() < end):
            start = time.perf_counter()
            between, within = fit()
            times.append(time.perf_counter() - start)
        print("fitted", statistics.median(times), repr(float(between)), repr(float(within)), file=answers)


if __name__ == "__main__":
    main()
