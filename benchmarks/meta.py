"""Many meta-analyses: REML fits of 13 studies a second on one core, beside PyMARE.

    python benchmarks/meta.py [--quick] [--peers PYTHON] [--out FILE]

The sampling variances of each dataset are those of the 13 trials of the BCG vaccine times numbers of its own between
1/2 and 2, its effects normal with the variance between studies of that meta-analysis. From effects and variances that
are JAX arrays to the estimates, and to everything that `meta_analysis` has; and the same by `fit_meta_many`, from NumPy
to NumPy. Results go to FILE as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import many  # first, because it takes one core before JAX starts
import numpy as np

import jaxre

HERE = Path(__file__).resolve().parent
COUNT = 1024 if many.QUICK else 262_144
PEER_COUNT = 512 if many.QUICK else 20_000
LANE = 256  # datasets whose numbers stay in a CPU's cache
TRIALS = (  # cases and others, treated and controls: Colditz and others (1994), JAMA 271, 698-702
    *((4, 119, 11, 128), (6, 300, 29, 274), (3, 228, 11, 209), (62, 13536, 248, 12619), (33, 5036, 47, 5761)),
    *((180, 1361, 372, 1079), (8, 2537, 10, 619), (505, 87886, 499, 87892), (29, 7470, 45, 7232)),
    *((17, 1699, 65, 1600), (186, 50448, 141, 27197), (5, 2493, 3, 2338), (27, 16886, 29, 17825)),
)
ESTIMATES = ("status", "certified", "tau2", "beta", "beta_se", "log_likelihood")
CASES = {"REML: tau2, mean, standard error, criterion, status, certificate": ESTIMATES, "everything": None}


def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Effects (count, 13) and their variances."""
    rng, table = np.random.default_rng(0), np.array(TRIALS, float)
    treated, controls = table[:, :2].sum(axis=1), table[:, 2:].sum(axis=1)
    variances = 1 / table[:, 0] - 1 / treated + 1 / table[:, 2] - 1 / controls
    variances = variances * 2 ** rng.uniform(-1, 1, size=(count, len(table)))
    return -0.7145 + rng.normal(size=variances.shape) * np.sqrt(variances + 0.3132), variances


def of(quantities: tuple[str, ...] | None, batch: bool = True) -> Any:
    """The compiled meta-analysis of many datasets, or of one; what is not asked for is not computed."""

    def one(data: tuple[jax.Array, jax.Array]) -> Any:
        found = jaxre.meta_analysis(*data)
        return found if quantities is None else {name: getattr(found, name) for name in quantities}

    return jax.jit(lambda data: jax.lax.map(one, data, batch_size=LANE)) if batch else jax.jit(one)


def pymare(python: str, effects: np.ndarray, variances: np.ndarray, tau2: np.ndarray) -> dict[str, Any]:
    """PyMARE on the first datasets, in a process of its own on the same core."""
    with tempfile.TemporaryDirectory() as name:
        np.save(Path(name) / "data.npy", np.stack([effects[:PEER_COUNT].T, variances[:PEER_COUNT].T]))
        command = [python, str(HERE / "peers" / "pymare.py"), name]
        run = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        if run.returncode:
            lines = run.stderr.strip().splitlines()
            return {"unavailable": lines[-1] if lines else f"exit status {run.returncode}"}
        theirs = np.load(Path(name) / "found.npy")
    found = json.loads(run.stdout.splitlines()[-1])
    off = abs(theirs - tau2[: len(theirs)])
    return {
        "version": found["version"],
        "fits": len(theirs),
        "fits_per_second": len(theirs) / found["seconds"],
        "median_difference": float(np.median(off)),
        "worst_difference": float(off.max()),
    }


def main() -> None:
    """Run the cases and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few datasets; not written unless --out is given")
    parser.add_argument("--peers", default=sys.executable, help="the interpreter that has PyMARE")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"quick": many.QUICK, "machine": many.machine(), "results": {}}
    effects, variances = drawn(COUNT)
    with jax.enable_x64(True):
        data = jax.device_put((effects, variances))
        for name, quantities in list(CASES.items())[-1:] if many.QUICK else CASES.items():
            fit = of(quantities)

            def call(fit: Any = fit) -> Any:
                found = jax.block_until_ready(fit(data))
                return found if isinstance(found, jaxre.MetaAnalysis) else many.SimpleNamespace(**found)

            result = report["results"][name] = many.timed(call, COUNT)
            print(f"{name}: {result['fits_per_second']:,.0f} a second", flush=True)
        found = call()
    across = np.ascontiguousarray(effects.T), np.ascontiguousarray(variances.T)
    for name, words in {"these estimates": {"quantities": ESTIMATES}, "everything": {}}.items():
        front = lambda words=words: jaxre.fit_meta_many(*across, **words)
        name = f"{name}, `fit_meta_many`, from NumPy to NumPy"
        result = report["results"][name] = many.timed(front, COUNT)
        print(f"{name}: {result['fits_per_second']:,.0f} a second", flush=True)
    with jax.enable_x64(True):
        single = of(ESTIMATES, batch=False)
        alone = [float(single((effects[i], variances[i]))["tau2"]) for i in range(20)]
        report["worst_error_against_one_at_a_time"] = float(abs(np.asarray(found.tau2[:20]) - alone).max())
    report["PyMARE"] = pymare(arguments.peers, effects, variances, np.asarray(found.tau2))
    print(f"PyMARE: {report['PyMARE']}", flush=True)
    out = arguments.out or (None if many.QUICK else HERE / "results" / "meta.json")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
