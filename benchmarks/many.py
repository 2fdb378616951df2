"""Many datasets: fits a second on one core, from NumPy values to NumPy estimates, beside other tools.

    python benchmarks/many.py [--quick] [--peers PYTHON] [--cases WORD ...] [--out FILE]

One design of 200 observations in 40 unequal groups, REML, p = 1 and p = 6; the same with 5 % of the values missing;
datasets of about 100 rows with designs of their own, in one long table; and from moments, of 5 sizes and balanced.
Values are set beside the time that NumPy needs to read them once, and the shared designs beside other tools in
processes of their own. Then the memory of a memory-mapped input, and one and two devices. Results go to FILE as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
QUICK = "--quick" in sys.argv[1:]
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
if QUICK:  # most of its time is compilation
    os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ['XLA_FLAGS']}"
for library in ("OMP", "OPENBLAS", "MKL", "RAYON"):
    os.environ[f"{library}_NUM_THREADS"] = "1"
os.environ["POLARS_MAX_THREADS"] = "1"
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
sys.path.insert(0, str(HERE.parent))

import from_moments  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import processes  # noqa: E402
import refits  # noqa: E402
from from_moments import QUANTITIES  # noqa: E402

import jaxre  # noqa: E402

REPEATS = 2 if QUICK else 5
COUNT = 512 if QUICK else 65_536
PEER_SECONDS = 0.5 if QUICK else 10.0


def sizes_of_40() -> np.ndarray:
    """Sizes of 40 unequal groups, 200 rows together."""
    return np.random.default_rng(1).multinomial(120, np.ones(40) / 40) + 2


def timed(call: Callable[[], Any], count: int) -> dict[str, Any]:
    """Fits a second: the median of REPEATS after a first call that compiles."""
    start = time.perf_counter()
    fits = call()
    first, seconds = time.perf_counter() - start, []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    estimated = np.asarray(fits.status) < jaxre.Status.UNBOUNDED
    return {
        "datasets": count,
        "fits_per_second": count / statistics.median(seconds),
        "seconds": seconds,
        "first_call_seconds": first,
        "certified_share": float(np.asarray(fits.certified)[estimated].mean()),
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


def matrix(
    p: int,
    peers: str,
    tools: tuple[str, ...] = (),
    missing: float = 0.0,
    balanced: bool = False,
    on_device: bool = False,
) -> dict[str, Any]:
    """One design, values complete or not, from NumPy or in JAX already, beside the tools."""
    rng, sizes = np.random.default_rng(2), np.full(40, 5) if balanced else sizes_of_40()
    groups = np.repeat(np.arange(40), sizes)
    x = None if p == 1 else rng.normal(size=(200, p - 1))
    values = drawn(rng, groups, COUNT)
    if missing:
        values[rng.random(values.shape) < missing] = np.nan
    with jax.enable_x64(True):
        given = jax.block_until_ready(jax.numpy.array(values)) if on_device else values
    call = lambda: jaxre.fit_many(given, groups, x, quantities=QUANTITIES, progress=False)
    result, fits = timed(call, COUNT), call()
    result["seconds_to_read_once"] = reading(values)
    result["worst_error_against_fit"] = worst_error(values, groups, x, fits.between[:20])
    if not missing and not on_device:
        result["single_precision"] = single_precision(values, groups, x, fits)
    if tools:
        result["peers"] = refits.beside(tools, values, groups, x, fits, peers, PEER_SECONDS)
    return result


def single_precision(values: np.ndarray, groups: np.ndarray, x: np.ndarray | None, fits: jaxre.FitMany) -> dict:
    """How far `precision="single"` is from double, in units of between + within and of log-likelihood."""
    call = lambda: jaxre.fit_many(values, groups, x, quantities=QUANTITIES, progress=False, precision="single")
    result, single = timed(call, COUNT), call()
    off = abs(single.between - fits.between) / (fits.between + fits.within)
    return {
        "fits_per_second": result["fits_per_second"],
        "certified_share": result["certified_share"],
        "median_difference": float(np.median(off)),
        "worst_difference": float(off.max()),
        "worst_log_likelihood": float(abs(single.log_likelihood - fits.log_likelihood).max()),
        "status_changed": int((single.status != fits.status).sum()),
    }


def drawn(rng: np.random.Generator, groups: np.ndarray, count: int) -> np.ndarray:
    """Values (n, count) with within 1 and between 1/2."""
    return rng.normal(size=(len(groups), count)) + 0.7 * rng.normal(size=(40, count))[groups]


def moments(sizes: tuple[int, ...], each: int, one_design: bool) -> dict[str, Any]:
    """From stacked moments to estimates on the device, with `each` groups of every size."""
    with jax.enable_x64(True):
        strata = jax.tree.map(jax.numpy.asarray, from_moments.draw(COUNT, sizes, each))
        fit = from_moments.fitter(one_design)
        return timed(lambda: SimpleNamespace(**jax.block_until_ready(fit(strata))), COUNT)


def long_table(count: int) -> dict[str, Any]:
    """Designs of their own."""
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


def machine() -> dict[str, Any]:
    return {"python": platform.python_version(), "jax": version("jax"), "cores": 1, "machine": platform.machine()}


def main() -> None:
    """Run the cases and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a few datasets, to see that it runs; not written unless --out is given"
    )
    parser.add_argument("--peers", default=sys.executable, help="the Python in which the other packages are installed")
    parser.add_argument(
        "--cases", nargs="*", help="words, to run only cases with one of them in their name; not written either"
    )
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    arguments = parser.parse_args()
    peers, groups = arguments.peers, np.repeat(np.arange(40), sizes_of_40())
    cases = {
        "shared design, p = 1": lambda: matrix(1, peers, refits.TOOLS),
        "shared design, p = 1, from an array in JAX": lambda: matrix(1, peers, on_device=True),
        "shared design, p = 6": lambda: matrix(6, peers, refits.TOOLS),
        "balanced design, p = 1": lambda: matrix(1, peers, refits.ICC_TOOLS, balanced=True),
        "5 % missing, p = 1": lambda: matrix(1, peers, missing=0.05),
        "5 % missing, p = 6": lambda: matrix(6, peers, missing=0.05),
        "designs of their own, long table, p = 1": lambda: long_table(COUNT // 4),
        "from moments, 5 sizes, p = 1": lambda: moments((2, 3, 5, 8, 13), 8, True),
        "from moments, 5 sizes of each its own, p = 1": lambda: moments((2, 3, 5, 8, 13), 8, False),
        "from moments, balanced, p = 1": lambda: moments((5,), 40, True),
    }
    beside = {
        "memory": lambda: processes.memory(groups, 256 if QUICK else 10_240),
        "devices": lambda: processes.devices(drawn(np.random.default_rng(2), groups, COUNT), groups, CORES, REPEATS),
    }
    chosen = lambda name: arguments.cases is None or any(word in name for word in arguments.cases)
    report: dict[str, Any] = {"quick": QUICK, "machine": machine(), "results": {}}
    for name, case in cases.items():
        if chosen(name):
            report["results"][name] = result = case()
            rate, share = result["fits_per_second"], result["certified_share"]
            print(f"{name}: {rate:,.0f} a second, {share:.2%} certified", flush=True)
            for tool, found in result.get("peers", {}).items():
                print(f"  {tool}: {found}", flush=True)
    for name, case in beside.items():
        if chosen(name):
            report[name] = case()
            print(f"{name}: {report[name]}", flush=True)
    out = arguments.out or (None if QUICK or arguments.cases else HERE / "results" / "many.json")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
