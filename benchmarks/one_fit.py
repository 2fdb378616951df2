"""Time and accuracy of one fit, beside other tools, in one run: `python benchmarks/one_fit.py [--quick]`.

Writes benchmarks/results/one_fit.json. Every tool fits the same data by REML, with the intercept alone or with
covariates, in turns, on one core; what counts is the medians' ratios within the run. The error is that of `between`
against the root of the score in 50-digit arithmetic on the strata of the same doubles (Dyestuff: 1764.05 exactly).
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

import jaxre  # noqa: E402

HERE = pathlib.Path(__file__).parent
LIMIT = 20.0  # seconds: a tool slower than this at one size is not asked for the next
Data = tuple[np.ndarray, Any, np.ndarray | None]


def simulate(rows: int, groups: int, covariates: int, seed: int = 1) -> Data:
    """Unequal integer-labelled groups in random order, between 1, within 1."""
    rng = np.random.default_rng(seed)
    share = rng.random(groups) + 0.1
    labels = rng.choice(groups, rows, p=share / share.sum())
    x = rng.normal(size=(rows, covariates)) if covariates else None
    return rng.normal(size=rows) + rng.normal(size=groups)[labels], labels, x


def pairs() -> Data:
    """125,066 groups of two with 7 coefficients."""
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(125_066), 2)
    x = rng.normal(size=(len(labels), 6))
    return rng.normal(size=len(labels)) + rng.normal(size=125_066)[labels], labels, x


def frame(data: Data) -> pd.DataFrame:
    y, labels, x = data
    columns = {"y": y, "g": pd.Categorical(labels)}
    return pd.DataFrame(columns | ({} if x is None else {f"x{i}": x[:, i] for i in range(x.shape[1])}))


def formula(data: Data, group: str = " + (1 | g)") -> str:
    return "y ~ 1" + ("" if data[2] is None else "".join(f" + x{i}" for i in range(data[2].shape[1]))) + group


def statsmodels(data: Data) -> Callable[[], float]:
    from statsmodels.regression.mixed_linear_model import MixedLM

    y, labels, x = data
    design = np.ones((len(y), 1)) if x is None else np.c_[np.ones(len(y)), x]
    return lambda: float(np.asarray(MixedLM(y, design, labels).fit(reml=True).cov_re)[0, 0])


def lme_python(data: Data) -> Callable[[], float]:
    from lme_python import lmer

    table, model = frame(data).astype({"g": str}), formula(data)
    return lambda: next(row[3] for row in lmer(model, table).var_corr if row[0] == "g")


def mixedlm(data: Data) -> Callable[[], float]:
    from mixedlm import lmer

    table, model = frame(data), formula(data)
    return lambda: float(lmer(model, table).VarCorr().groups["g"].variance["(Intercept)"])


def glmm(data: Data) -> Callable[[], float]:
    import glmm as package

    table, model = frame(data).astype({"g": str}), formula(data)
    return lambda: float(np.ravel(package.fit(table, model).tau2)[0])


PEERS = {"lme-python": lme_python, "mixedlm": mixedlm, "glmm": glmm, "statsmodels": statsmodels}

LME4 = """
suppressMessages(library(lme4)); a <- commandArgs(TRUE); d <- read.csv(a[1]); d$g <- factor(d$g); f <- as.formula(a[2])
t <- numeric(); for (i in 1:as.integer(a[3])) t <- c(t, system.time(m <- lmer(f, d))[["elapsed"]])
cat(sprintf("%.17g %.17g %s", median(t), as.data.frame(VarCorr(m))$vcov[1], packageVersion("lme4")))
"""


def lme4(data: Data, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "data.csv"
        frame(data).to_csv(path, index=False, float_format="%.17g")
        try:
            done = subprocess.run(
                ["Rscript", "-e", LME4, str(path), formula(data), str(repeats)],
                capture_output=True,
                text=True,
                timeout=200,
            )
            seconds, between, version = done.stdout.split()
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            return {"unavailable": f"{type(error).__name__}: {error}"[:200]}
    return {"seconds": float(seconds), "between": float(between), "version": version}


def truth(data: Data) -> float:
    """between by bisection on the REML score in 50 digits, from the strata in double precision."""
    import mpmath as mp

    y, labels, x = data
    if len(y) == 30:
        return 1764.05
    strata = jaxre.stratify(_moments(y, labels, x))
    mp.mp.dps = 50
    p, q = strata.means.shape[1] - 1, strata.means.shape[1]
    exact = lambda table: mp.matrix(np.asarray(table, float).tolist())
    parts = []
    for k, m, mean, scatter in zip(strata.sizes, strata.counts, strata.means, strata.scatter, strict=True):
        row = exact(mean[:, None])
        parts.append((mp.mpf(float(k)), mp.mpf(float(m)), exact(scatter) + float(m) * row * row.T))
    within, n = exact(strata.within_cross), mp.mpf(float(strata.rows)) - p

    def score(ratio: Any) -> tuple[Any, Any]:
        normal, first, trace = within.copy(), mp.zeros(q), mp.mpf(0)
        for k, m, product in parts:
            w = k / (1 + ratio * k)
            normal, first, trace = normal + w * product, first + w**2 * product, trace + m * w
        inverse = normal[:p, :p] ** -1
        beta = inverse * normal[:p, p]
        z = mp.matrix([*(-b for b in beta), 1])
        quadratic, fall = (z.T * normal * z)[0], (z.T * first * z)[0]
        lost = sum((inverse * first[:p, :p])[i, i] for i in range(p))
        return -n * fall / quadratic + trace - lost, quadratic / n

    guess = jaxre.fit(y, labels, x).ratio
    ratio = mp.findroot(lambda r: score(r)[0], (mp.mpf(guess) * (1 - mp.mpf(10) ** -6), mp.mpf(guess)), tol=1e-60)
    return float(ratio * score(ratio)[1] / strata.frame.scale**2)


def _moments(y: np.ndarray, labels: np.ndarray, x: np.ndarray | None) -> Any:
    from jaxre.moments import moments_of
    from jaxre.observations import observe
    from jaxre.rows import HostRows

    seen = observe(y, labels, x)
    return moments_of(HostRows(seen.values, seen.groups.slots, seen.covariates, seen.sizes, seen.extremes))


def compare(data: Data, repeats: int, asked: dict[str, Any]) -> dict[str, Any]:
    """Median seconds and relative error of every tool, in turns."""
    exact = truth(data)
    tools: dict[str, Callable[[], float]] = {"jaxre": lambda: jaxre.fit(*data).between}
    results: dict[str, Any] = {}
    for name, prepare in asked.items():
        try:
            tool = prepare(data)
            begun = time.perf_counter()
            tool()
            if time.perf_counter() - begun < LIMIT:
                tools[name] = tool
            else:
                results[name] = {"unavailable": f"one fit takes more than {LIMIT:.0f} s"}
        except Exception as error:  # a peer that fails is a result, not the end of the run
            results[name] = {"unavailable": f"{type(error).__name__}: {error}"[:200]}
    times: dict[str, list[float]] = {name: [] for name in tools}
    values: dict[str, float] = {}
    for tool in tools.values():
        tool()
    for _ in range(repeats):
        for name, tool in tools.items():
            begun = time.perf_counter()
            values[name] = tool()
            times[name].append(time.perf_counter() - begun)
    for name, seconds in times.items():
        results[name] = {"seconds": float(np.median(seconds)), "error": abs(values[name] / exact - 1)}
    r = lme4(data, min(repeats, 3))
    results["lme4"] = r if "unavailable" in r else {"seconds": r["seconds"], "error": abs(r["between"] / exact - 1)}
    return results


def cold(cache: str | None) -> float:
    """Seconds from a fresh process to the first fit."""
    code = (
        "import time; t = time.perf_counter()\nimport numpy as np, jaxre\n"
        "jaxre.fit(np.arange(30.0) % 7, np.repeat(np.arange(6), 5))\nprint(time.perf_counter() - t)"
    )
    extra = {
        "JAX_COMPILATION_CACHE_DIR": cache or "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | (extra if cache else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def peak() -> float:
    """MiB of memory that a fit of a million rows adds to a process with the data in it."""
    code = (
        "import resource, sys\nsys.path.insert(0, sys.argv[1])\nimport one_fit, jaxre\n"
        "data = one_fit.simulate(10**6, 10_000, 0)\njaxre.fit([1.0, 2, 4, 3], [0, 0, 1, 1])\n"
        "use = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before = use(); jaxre.fit(*data); print(use() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(HERE)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def label_kinds(rows: int, groups: int, repeats: int) -> dict[str, float]:
    """Median seconds of a fit for each kind of label."""
    import pyarrow as pa

    y, labels, _ = simulate(rows, groups, 0)
    text = np.array([f"g{i}" for i in labels], object)
    kinds = {
        "integers": labels,
        "pandas categorical": pd.Categorical(text),
        "Arrow dictionary": pa.array(text).dictionary_encode(),
        "Arrow strings": pa.array(text),
        "object array of strings": text,
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(repeats + 1):
        for kind, given in kinds.items():
            begun = time.perf_counter()
            jaxre.fit(y, given)
            times[kind].append(time.perf_counter() - begun)
    return {kind: float(np.median(seconds[1:])) for kind, seconds in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats, no file written")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")
    dyestuff = jaxre.datasets.load("dyestuff")
    small = (np.asarray(dyestuff.columns["Yield"], float), np.repeat(np.arange(6), 5), None)
    cases: dict[str, tuple[Callable[[], Data], int]] = {"Dyestuff, n = 30": (lambda: small, 50)}
    for rows in (10**4,) if quick else (10**4, 10**5, 10**6):
        for covariates in (0, 5):
            what = f"n = {rows:,}, {rows // 100:,} groups" + (", 5 covariates" if covariates else "")
            cases[what] = (lambda n=rows, c=covariates: simulate(n, n // 100, c), 3 if quick else 7)
    if not quick:
        cases["n = 250,132, groups of two, 6 covariates"] = (pairs, 5)
    results: dict[str, Any] = {}
    asked = dict(PEERS)
    for what, (make, repeats) in cases.items():
        results[what] = compare(make(), repeats, asked)
        print(what, json.dumps(results[what]), flush=True)
        for name, result in results[what].items():
            if "takes more" in result.get("unavailable", "") or result.get("seconds", 0) > LIMIT / 4:
                asked.pop(name, None)
    with tempfile.TemporaryDirectory() as cache:
        cold(cache)
        start = {
            "without cache": float(np.median([cold(None) for _ in range(1 if quick else 3)])),
            "with persistent cache": float(np.median([cold(cache) for _ in range(1 if quick else 3)])),
        }
    rows, groups = (10**4, 100) if quick else (10**6, 10_000)
    report = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("jax", "optax", "numpy", *PEERS)},
        "warm": results,
        "label kinds": {"rows": rows, "groups": groups, "seconds": label_kinds(rows, groups, 2 if quick else 5)},
        "cold start seconds": start,
        "peak memory of n = 1,000,000, MiB above 16 of data": peak(),
    }
    print(json.dumps(report["label kinds"]), json.dumps(start), flush=True)
    if not quick:
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / "one_fit.json").write_text(json.dumps(report, indent=1) + "\n")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
