"""Inference for many datasets: datasets a second on one core, beside lmerTest with Kenward and Roger's method.

    python benchmarks/inference.py [--quick] [--out FILE]

One design of 200 observations in 40 unequal groups, REML, the intercept alone: estimates with t tests by Kenward and
Roger, the exact F test, exact and profile-likelihood intervals of 20,000 datasets; all of it, without the probabilities
and quantiles of t and F, and each kind by itself. Results go to FILE as JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import many  # first, because it takes one core before JAX starts
import numpy as np

import jaxre
from jaxre.columns_of_inference import ADJUSTED, EXACT, F_TEST, PROFILE, TESTS

HERE = Path(__file__).resolve().parent
COUNT = 512 if many.QUICK else 20_000
PEER_COUNT = 2 if many.QUICK else 40
LIMIT = 600.0  # [s] for lmerTest
ESTIMATES = ("status", "between", "within", "icc", "beta", "beta_se", "certified")
CASES = {
    "everything": (*TESTS, *ADJUSTED, *F_TEST, *EXACT, *PROFILE),
    "without probabilities and quantiles of t and F for each dataset": (
        *("beta_df", "beta_t", *ADJUSTED),
        *("f_statistic", *EXACT, *PROFILE),
    ),
    "estimates alone": (),
    "t tests by Kenward and Roger": (*TESTS, *ADJUSTED),
    "exact F test": F_TEST,
    "exact intervals of ratio and ICC": EXACT,
    "profile intervals of the variances and their roots": PROFILE,
}


def lmer_test(values: np.ndarray, groups: np.ndarray, found: dict[str, np.ndarray]) -> dict[str, Any]:
    """lmerTest on the first datasets, and how far its t tests lie from ours."""
    rscript = shutil.which("Rscript")
    if rscript is None:
        return {"unavailable": "Rscript is not installed"}
    with tempfile.TemporaryDirectory() as name:
        values[:, :PEER_COUNT].T.astype("<f8").tofile(Path(name) / "values.f8")
        groups.astype("<f8").tofile(Path(name) / "groups.f8")
        command = [rscript, str(HERE / "peers" / "lmertest.R"), name, str(len(groups)), str(PEER_COUNT)]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        except subprocess.TimeoutExpired:
            return {"unavailable": f"longer than {LIMIT:.0f} s"}
        if run.returncode:
            lines = run.stderr.strip().splitlines()
            return {"unavailable": lines[-1] if lines else f"exit status {run.returncode}"}
        theirs = np.fromfile(Path(name) / "found.f8").reshape(PEER_COUNT, 2)
    seconds = float(run.stdout.split()[-1])
    ours = np.column_stack([found[name][:PEER_COUNT, 0] for name in ("beta_se_adjusted", "beta_df")])
    off = abs(theirs / ours - 1).max(axis=0)
    return {
        "datasets": PEER_COUNT,
        "datasets_per_second": PEER_COUNT / seconds,
        "worst_relative_difference": {"standard error": float(off[0]), "df": float(off[1])},
    }


def main() -> None:
    """Run the cases and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few datasets; not written unless --out is given")
    parser.add_argument("--cases", nargs="*", help="words, to run only cases with one of them in their name")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    arguments = parser.parse_args()
    groups = np.repeat(np.arange(40), many.sizes_of_40())
    values = many.drawn(np.random.default_rng(2), groups, COUNT)
    report: dict[str, Any] = {"quick": many.QUICK, "machine": many.machine(), "results": {}}
    for name, columns in CASES.items():
        if arguments.cases is not None and not any(word in name for word in arguments.cases):
            continue
        call = lambda columns=columns: jaxre.fit_many(values, groups, quantities=(*ESTIMATES, *columns), progress=False)
        result = many.timed(call, COUNT)
        result["datasets_per_second"] = result.pop("fits_per_second")
        if name == "everything":
            inference = call().inference
            result["profile_settled_share"] = float(inference["profile_settled"].mean())
            result["lmerTest"] = lmer_test(values, groups, inference)
            print(f"lmerTest: {result['lmerTest']}", flush=True)
        report["results"][name] = result
        rate, first = result["datasets_per_second"], result["first_call_seconds"]
        print(f"{name}: {rate:,.0f} a second, first call {first:.1f} s", flush=True)
    out = arguments.out or (None if many.QUICK or arguments.cases else HERE / "results" / "inference.json")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
