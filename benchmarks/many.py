"""Many datasets: fits a second on one core, from NumPy values to NumPy estimates, beside other tools.

    python benchmarks/many.py [--quick] [--out FILE]

One design of 200 observations in 40 unequal groups, REML, p = 1 and p = 6; the same with 5 % of the values missing; and
datasets of about 100 rows with designs of their own, in one long table. Each is set beside the time that NumPy
needs to read the values once. lme4 refits by Rscript where it is there. Results go to FILE as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{library}_NUM_THREADS"] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402

import jaxre  # noqa: E402

QUANTITIES = ("status", "between", "within", "icc", "beta", "beta_se", "log_likelihood", "certified")
REPEATS = 5
LME4 = """
suppressMessages(library(lme4))
d <- read.csv(commandArgs(TRUE)[1]); k <- ncol(d) - 1
m <- lmer(d[[2]] ~ 1 + (1 | d$g)); s <- proc.time()[3]
out <- sapply(2:ncol(d), function(i) as.data.frame(VarCorr(refit(m, d[[i]])))$vcov)
cat(proc.time()[3] - s, "\\n"); write.csv(t(out), commandArgs(TRUE)[2], row.names = FALSE)
"""


def sizes_of_40() -> np.ndarray:
    """Sizes of 40 unequal groups, 200 rows together."""
    return np.random.default_rng(1).multinomial(120, np.ones(40) / 40) + 2


def timed(call: object, count: int) -> dict:
    """Fits a second: the median of REPEATS after a first call that compiles."""
    start = time.perf_counter()
    fits = call()
    first, seconds = time.perf_counter() - start, []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    estimated = fits.status < jaxre.Status.UNBOUNDED
    return {
        "datasets": count,
        "fits_per_second": count / statistics.median(seconds),
        "seconds": seconds,
        "first_call_seconds": first,
        "certified_share": float(fits.certified[estimated].mean()),
        "estimated_share": float(estimated.mean()),
    }


def reading(values: np.ndarray) -> float:
    """Seconds that NumPy needs to read the values once."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        values.sum()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def worst_error(values: np.ndarray, groups: np.ndarray, x: np.ndarray | None, between: np.ndarray) -> float:
    """Largest difference from `jaxre.fit`, of between + within, over the first datasets."""
    worst = 0.0
    for i, found in enumerate(between):
        single = jaxre.fit(values[:, i], groups, x)
        worst = max(worst, abs(found - single.between) / (single.between + single.within))
    return worst


def matrix(p: int, count: int, missing: float) -> dict:
    """Cases 1 and 2."""
    rng, sizes = np.random.default_rng(2), sizes_of_40()
    groups = np.repeat(np.arange(40), sizes)
    x = None if p == 1 else rng.normal(size=(200, p - 1))
    values = rng.normal(size=(200, count)) + 0.7 * rng.normal(size=(40, count))[groups]
    if missing:
        values[rng.random(values.shape) < missing] = np.nan
    call = lambda: jaxre.fit_many(values, groups, x, quantities=QUANTITIES, progress=False)
    result = timed(call, count)
    result["seconds_to_read_once"] = reading(values)
    result["worst_error_against_fit"] = worst_error(values, groups, x, call().between[:20])
    if p == 1 and not missing and shutil.which("Rscript"):
        result["lme4_refit"] = lme4(values[:, :200], groups, call().between)
    return result


def lme4(values: np.ndarray, groups: np.ndarray, between: np.ndarray) -> dict:
    """lme4's refit of the first columns, in the same run."""
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data.csv", Path(folder) / "out.csv"
        names = ",".join(["g", *(f"y{i}" for i in range(values.shape[1]))])
        table = np.column_stack([groups, values])
        np.savetxt(data, table, delimiter=",", header=names, comments="", fmt="%.17g")
        command = ["Rscript", "-e", LME4, str(data), str(out)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        if run.returncode:
            return {"unavailable": run.stderr.strip().splitlines()[-1]}
        found = np.loadtxt(out, delimiter=",", skiprows=1)
    error = abs(found[:, 0] - between[: len(found)]) / (between[: len(found)] + found[:, 1])
    return {
        "datasets": len(found),
        "fits_per_second": len(found) / float(run.stdout.split()[-1]),
        "median_difference": float(np.median(error)),
        "worst_difference": float(error.max()),
    }


def long_table(count: int) -> dict:
    """Case 4."""
    rng = np.random.default_rng(3)
    groups = [np.repeat(np.arange(j), rng.integers(2, 13, size=j)) for j in rng.integers(8, 21, size=200)]
    chosen = rng.integers(0, len(groups), size=count)
    labels = np.concatenate([groups[i] for i in chosen])
    dataset = np.repeat(np.arange(count), [len(groups[i]) for i in chosen])
    effects = rng.normal(size=(count, 20))
    values = rng.normal(size=len(labels)) + 0.7 * effects[dataset, labels]
    call = lambda: jaxre.fit_many(values, labels, datasets=dataset, quantities=QUANTITIES, progress=False)
    result = timed(call, count)
    result["rows"] = len(values)
    result["nanoseconds_per_row"] = 1e9 * statistics.median(result["seconds"]) / len(values)
    result["seconds_to_read_once"] = reading(values)
    return result


def main() -> None:
    """Run every case and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few datasets, to see that it runs")
    parser.add_argument("--out", default=str(HERE / "results" / "many.json"))
    arguments = parser.parse_args()
    count = 512 if arguments.quick else 65_536
    results = {
        "shared design, p = 1": matrix(1, count, 0.0),
        "shared design, p = 6": matrix(6, count, 0.0),
        "5 % missing, p = 1": matrix(1, count, 0.05),
        "designs of their own, long table, p = 1": long_table(count // 4),
    }
    machine = {"python": platform.python_version(), "jax": version("jax"), "cores": 1, "machine": platform.machine()}
    Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.out).write_text(
        json.dumps({"quick": arguments.quick, "machine": machine, "results": results}, indent=2) + "\n"
    )
    for name, result in results.items():
        peer = result.get("lme4_refit", {}).get("fits_per_second")
        beside = "" if peer is None else f"; lme4 refit {peer:,.0f}"
        print(f"{name}: {result['fits_per_second']:,.0f} a second, {result['certified_share']:.2%} certified{beside}")


if __name__ == "__main__":
    main()
