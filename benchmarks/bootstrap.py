"""Parametric bootstrap by REML: replicates a second on one core, drawing included, beside bootMer of lme4.

    python benchmarks/bootstrap.py [--quick] [--out FILE]

Dyestuff, and 20 groups of 1 to 10 rows. The whole call of `jaxre.bootstrap` is timed, with a key for each replicate,
a certificate for each refit, and the intervals. Results go to FILE as JSON.
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
from typing import Any

HERE = Path(__file__).resolve().parent
QUICK = "--quick" in sys.argv[1:]
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{library}_NUM_THREADS"] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
sys.path.insert(0, str(HERE.parent))

import jax  # noqa: E402
import numpy as np  # noqa: E402

import jaxre  # noqa: E402
from jaxre.bootstrap import bootstrap  # noqa: E402

REPEATS = 2 if QUICK else 7
COUNT = 2_000 if QUICK else 1_000_000
PEER_COUNT = 5 if QUICK else 200
LIMIT = 600.0  # [s] for bootMer


def dyestuff() -> tuple[np.ndarray, np.ndarray]:
    """Yields and batches."""
    columns = jaxre.datasets.load("dyestuff").columns
    return columns["Yield"].astype(float), np.unique(columns["Batch"], return_inverse=True)[1]


def twenty_groups() -> tuple[np.ndarray, np.ndarray]:
    """Two groups of each size from 1 to 10, within 1 and between 1/2."""
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(20), np.repeat(np.arange(1, 11), 2))
    return rng.normal(size=110) + np.sqrt(0.5) * rng.normal(size=20)[groups], groups


def ours(values: np.ndarray, groups: np.ndarray) -> tuple[dict[str, Any], Any]:
    """Replicates a second: the median of REPEATS after a first call that compiles."""
    moments = jaxre.group_moments(values, groups)
    call = lambda seed: bootstrap(moments, jax.random.key(seed), replicates=COUNT, progress=False)
    start = time.perf_counter()
    result = call(0)
    first, seconds = time.perf_counter() - start, []
    for seed in range(1, REPEATS + 1):
        start = time.perf_counter()
        result = call(seed)
        seconds.append(time.perf_counter() - start)
    return {
        "replicates": COUNT,
        "replicates_per_second": COUNT / statistics.median(seconds),
        "seconds": seconds,
        "first_call_seconds": first,
        "certified_share": 1 - (result.uncertified + result.failed) / COUNT,
        "boundary_share": result.boundary / COUNT,
        "failed": result.failed,
    }, result


def boot_mer(values: np.ndarray, groups: np.ndarray, result: Any) -> dict[str, Any]:
    """bootMer on the same data, and its standard errors over ours."""
    rscript = shutil.which("Rscript")
    if rscript is None:
        return {"unavailable": "Rscript is not installed"}
    with tempfile.TemporaryDirectory() as name:
        for file, column in {"values": values, "groups": groups}.items():
            column.astype("<f8").tofile(Path(name) / f"{file}.f8")
        command = [rscript, str(HERE / "peers" / "bootmer.R"), name, str(len(values)), str(PEER_COUNT)]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        except subprocess.TimeoutExpired:
            return {"unavailable": f"longer than {LIMIT:.0f} s"}
    if run.returncode:
        lines = run.stderr.strip().splitlines()
        return {"unavailable": lines[-1] if lines else f"exit status {run.returncode}"}
    seconds, failed, *errors = (float(word) for word in run.stdout.split())
    own = [np.ravel(result.standard_error[name])[0] for name in ("beta", "between", "within")]
    return {
        "replicates": PEER_COUNT,
        "replicates_per_second": PEER_COUNT / seconds,
        "failed": int(failed),
        "standard_errors_over_ours": [float(theirs / mine) for theirs, mine in zip(errors, own, strict=True)],
    }


def main() -> None:
    """Run the cases and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a few replicates, to see that it runs; not written unless --out is given"
    )
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    arguments = parser.parse_args()
    machine = {"python": platform.python_version(), "jax": version("jax"), "cores": 1, "machine": platform.machine()}
    report: dict[str, Any] = {"quick": QUICK, "machine": machine, "results": {}}
    for name, data in {"Dyestuff": dyestuff(), "20 groups of 1 to 10 rows": twenty_groups()}.items():
        found, result = ours(*data)
        found["bootMer"] = peer = boot_mer(*data, result)
        report["results"][name] = found
        rate, share = found["replicates_per_second"], found["certified_share"]
        print(f"{name}: {rate:,.0f} a second, {share:.2%} certified, first call {found['first_call_seconds']:.1f} s")
        print(f"  bootMer: {peer}", flush=True)
    out = arguments.out or (None if QUICK else HERE / "results" / "bootstrap.json")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
