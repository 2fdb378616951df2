"""One fit at a time: how long, how exact and with how much memory, beside the other tools for the same model.

    python benchmarks/one_fit.py [--quick] [--peers PYTHON] [--out FILE]

Every tool has a process of its own on the same data and the same core; the repetitions are interleaved, so that a slow
minute of the machine strikes all of them. The answers go to FILE as JSON, benchmarks/results/one_fit.json by default;
`table.py` turns that into the README's table.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import table
from exact import between_and_within

HERE = Path(__file__).resolve().parent
UNIT = 2.0**-12  # the synthetic data are multiples of it, so that their sums are exact in integers
LIMIT = 20.0  # [s] for one fit; a tool that needs more is left out from there on
LOADING = 180.0  # [s] to import a tool and read the data, and for jaxre to compile
BURST = 0.25  # [s] of fits, of which the median counts, at each turn of a tool
BUDGET = 40.0  # [s] for all the turns of a tool on one dataset, of which there are three at least
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
    "RUST_BACKTRACE": "0",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}
THIS_CHECKOUT = {"PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))}
TOOLS = ("jaxre", "glmm", "lme-python", "mixedlm", "statsmodels", "lme4")
LABELS = ("integers", "Arrow dictionary", "pandas categorical", "Arrow strings", "object strings")


@dataclasses.dataclass(frozen=True)
class Case:
    """A dataset to fit, and who fits it."""

    name: str
    n: int
    groups: int
    p: int
    tools: tuple[str, ...] = TOOLS
    labels: tuple[str, ...] = ("integers",)

    def draw(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """y, g and x: Dyestuff, or drawn from the model with both variances 1."""
        if self.name == "Dyestuff":
            from jaxre import datasets

            columns = datasets.load("dyestuff").columns
            batches = np.unique(columns["Batch"], return_inverse=True)[1]
            return columns["Yield"].astype(float), batches.astype(np.int64), np.empty((self.n, 0))
        rng = np.random.default_rng(20240607)
        if self.n == 2 * self.groups:
            sizes = np.full(self.groups, 2)
        else:
            sizes = 1 + rng.multinomial(self.n - self.groups, rng.dirichlet(np.full(self.groups, 3.0)))
        g = rng.permutation(np.repeat(np.arange(self.groups), sizes))
        x = rng.normal(size=(self.n, self.p - 1)) + rng.normal(size=(self.groups, self.p - 1))[g]
        y = 3 + x.sum(axis=1) + rng.normal(size=self.groups)[g] + rng.normal(size=self.n)
        return np.round(y / UNIT) * UNIT, 1001 + g, np.round(x / UNIT) * UNIT


CASES = (
    Case("Dyestuff", 30, 6, 1),
    Case("synthetic", 10_000, 100, 1),
    Case("synthetic", 10_000, 100, 6),
    Case("synthetic", 100_000, 1_000, 1),
    Case("synthetic", 100_000, 1_000, 6),
    Case("synthetic", 250_132, 125_066, 7),
    Case("synthetic", 1_000_000, 10_000, 1),
    Case("synthetic", 1_000_000, 10_000, 6),
    Case("labels", 1_000_000, 10_000, 1, ("jaxre",), LABELS),
)
QUICK = (*CASES[:3], Case("synthetic", 4_000, 2_000, 7), Case("labels", 10_000, 100, 1, ("jaxre",), LABELS))


class Unavailable(Exception):
    """Why a tool has no result."""


class Worker:
    """A tool in a process of its own, with the data loaded; peers/worker.py says what it is told and answers."""

    def __init__(self, tool: str, labels: str, folder: Path, p: int, peers: str):
        command = [sys.executable if tool == "jaxre" else peers, str(HERE / "peers" / "worker.py")]
        command += [tool, str(folder), labels]
        if tool == "lme4":
            rscript = shutil.which("Rscript")
            if rscript is None:
                raise Unavailable("Rscript is not installed")
            command = [rscript, str(HERE / "peers" / "lme4.R"), str(folder), str(p - 1)]
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            bufsize=0,
            env=os.environ | (THIS_CHECKOUT if tool == "jaxre" else {}),
        )
        self.turns: list[float] = []
        try:
            self.version = self._answer("loaded", LOADING)[0]
            limit = LOADING if tool == "jaxre" else LIMIT
            self.first_fit, before, after = map(float, self._answer("ready", limit))
        except Unavailable:
            self.close()
            raise
        self.peak_megabytes = {"with the data": round(before), "with the data and a fit": round(after)}

    def turn(self) -> None:
        """Up to 200 fits in BURST seconds, of which the median counts."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a process that has ended says why below
            self.process.stdin.write(f"200 {BURST}\n".encode())
        seconds, self.between, self.within = map(float, self._answer("fitted", LIMIT + BURST))
        self.turns.append(seconds)

    def _answer(self, word: str, limit: float) -> list[str]:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], limit)[0]:
            raise Unavailable(f"longer than {limit:.0f} s")
        words = self.process.stdout.readline().decode().split()
        if words[:1] != [word]:
            self.process.wait(timeout=LIMIT)
            self.errors.seek(0)
            lines = [line for line in self.errors.read().decode(errors="replace").splitlines() if line.strip()]
            lines = [line for line in lines if not line.startswith("note: ")]
            raise Unavailable(lines[-1].strip()[:200] if lines else f"ended with {self.process.returncode}")
        return words[1:]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def measure(case: Case, peers: str, rounds: int, too_slow: dict[str, str]) -> dict[str, Any]:
    """All tools on one dataset, in turns."""
    y, g, x = case.draw()
    results: dict[str, Any] = {}
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        y.tofile(folder / "y.f8")
        g.tofile(folder / "g.i8")
        np.ascontiguousarray(x.T).tofile(folder / "x.f8")
        for tool in case.tools:
            for labels in case.labels:
                key = tool if len(case.labels) == 1 else labels
                try:
                    if tool in too_slow:
                        raise Unavailable(too_slow[tool])
                    workers[key] = Worker(tool, labels, folder, case.p, peers)
                    stack.callback(workers[key].close)
                except Unavailable as reason:
                    results[key] = {"unavailable": str(reason)}
                    if str(reason).startswith("longer than"):
                        too_slow.setdefault(tool, f"{reason} at {case.n} rows")
        for turn in range(rounds):
            for key, worker in list(workers.items()):
                if turn >= 3 and sum(worker.turns) + worker.turns[-1] > BUDGET:
                    continue
                try:
                    worker.turn()
                except Unavailable as reason:
                    results[key] = {"unavailable": str(reason)}
                    del workers[key]
    reference = workers["jaxre" if len(case.labels) == 1 else LABELS[0]]
    between, within = between_and_within(y, g, x, UNIT, reference.between / reference.within)
    for key, worker in workers.items():
        results[key] = {
            "seconds": statistics.median(worker.turns),
            "fastest": min(worker.turns),
            "slowest": max(worker.turns),
            "turns": len(worker.turns),
            "first_fit": worker.first_fit,
            "error": {
                "between": float(abs(Decimal(worker.between) / between - 1)),
                "within": float(abs(Decimal(worker.within) / within - 1)),
            },
            "peak_megabytes": worker.peak_megabytes,
            "version": worker.version,
        }
    return {
        "name": case.name,
        "n": len(y),
        "groups": len(np.unique(g)),
        "coefficients": case.p,
        "between": f"{between:.25g}",
        "within": f"{within:.25g}",
        "results": {key: results[key] for key in (case.tools if len(case.labels) == 1 else case.labels)},
    }


COLD = """
import time
start = time.perf_counter()
import jaxre
imported = time.perf_counter()
y = [1545.0, 1440, 1440, 1520, 1580, 1540, 1555, 1490, 1560, 1495, 1595, 1550, 1605, 1510, 1560]
jaxre.fit(y, [0] * 5 + [1] * 5 + [2] * 5)
print(imported - start, time.perf_counter() - start)
"""


def cold_start(repetitions: int) -> dict[str, Any]:
    """[s], import and first fit in fresh processes, with and without a persistent compilation cache, in turns.

    With the bytecode of what is imported at hand, as an installed package has it, whatever the environment says.
    """
    times: dict[str, list[list[float]]] = {"without a cache": [], "with a persistent cache": []}
    with tempfile.TemporaryDirectory() as folder:
        cache = {
            "JAX_COMPILATION_CACHE_DIR": folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        unwanted = {*cache, "PYTHONDONTWRITEBYTECODE"}
        bare = {key: value for key, value in os.environ.items() if key not in unwanted} | THIS_CHECKOUT
        bare["PYTHONPYCACHEPREFIX"] = os.path.join(folder, "bytecode")

        def once(environment: dict[str, str]) -> list[float]:
            command = [sys.executable, "-c", COLD]
            run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            return [float(word) for word in run.stdout.split()]

        once(bare | cache)  # fills both
        for _ in range(repetitions):
            for (_, found), environment in zip(times.items(), (bare, bare | cache), strict=True):
                found.append(once(environment))
    return {
        kind: {
            "import": statistics.median(pair[0] for pair in pairs),
            "seconds": statistics.median(pair[1] for pair in pairs),
            "fastest": min(pair[1] for pair in pairs),
            "slowest": max(pair[1] for pair in pairs),
            "turns": len(pairs),
        }
        for kind, pairs in times.items()
    }


def machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "cores_used": 1,
        "load_at_start": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("jax", "jaxlib", "numpy", "optax")},
    }


def pin() -> None:
    """This process and its children on one core, the last, and every library in them on one thread."""
    os.environ.update(ONE_THREAD)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small data, few turns; not written unless --out is given")
    parser.add_argument("--peers", default=sys.executable, help="the Python in which the other packages are installed")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    arguments = parser.parse_args()
    out = arguments.out or (None if arguments.quick else HERE / "results" / "one_fit.json")
    facts = machine()
    pin()
    cases, rounds, starts = (QUICK, 3, 1) if arguments.quick else (CASES, 11, 7)
    too_slow: dict[str, str] = {}
    results = []
    for case in cases:
        start = time.perf_counter()
        results.append(measure(case, arguments.peers, rounds, too_slow))
        print(f"{table.described(results[-1])}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    report = {"quick": arguments.quick, "machine": facts, "cases": results, "cold_start": cold_start(starts)}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table.markdown(report))


if __name__ == "__main__":
    main()
