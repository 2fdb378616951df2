"""What only a process of its own can show: the memory of a memory-mapped input, and several devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
LIMIT = 600.0  # [s] for one process

MEMORY = """
import json, sys, threading
import jaxre, numpy as np

def megabytes(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1e3

values, groups, chunk = np.load(sys.argv[1], mmap_mode="r"), np.load(sys.argv[2]), int(sys.argv[3])
jaxre.fit_many(values[:, : 2 * chunk], groups, chunk=chunk, progress=False)
before, samples, done = megabytes("RssAnon"), [], threading.Event()

def watch():
    while not done.wait(0.002):
        samples.append(megabytes("RssAnon"))

thread = threading.Thread(target=watch)
thread.start()
fits = jaxre.fit_many(values, groups, chunk=chunk, progress=False)
done.set()
thread.join()
print(json.dumps({
    "result_megabytes": sum(getattr(fits, name).nbytes for name in fits.__dataclass_fields__
                            if isinstance(getattr(fits, name), np.ndarray)) / 1e6,
    "anonymous_megabytes_before": before,
    "peak_anonymous_megabytes": max(samples, default=before),
    "peak_resident_megabytes_with_mapped_pages": megabytes("VmHWM"),
}))
"""

DEVICES = """
import json, statistics, sys, time
import jax, jaxre, numpy as np

values, groups, repeats = np.load(sys.argv[1]), np.load(sys.argv[2]), int(sys.argv[3])
call = lambda: jaxre.fit_many(values, groups, progress=False)
fits, seconds = call(), []
for _ in range(repeats):
    start = time.perf_counter()
    call()
    seconds.append(time.perf_counter() - start)
print(json.dumps({
    "devices": len(jax.local_devices()),
    "fits_per_second": len(fits) / statistics.median(seconds),
    "certified_share": float(fits.certified.mean()),
    "sum_of_between": float(fits.between.sum()),
}))
"""


def memory(groups: np.ndarray, chunk: int) -> dict[str, Any]:
    """Peak memory of `fit_many` over a memory-mapped input of 100 chunks.

    Anonymous memory is what the process itself needs; pages of the mapped file count as resident too, but the system
    takes them back when it wants them.
    """
    if not Path("/proc/self/status").exists():
        return {"unavailable": "needs /proc/self/status"}
    rng, count = np.random.default_rng(5), 100 * chunk
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "values.npy"
        values = np.lib.format.open_memmap(table, mode="w+", dtype=np.float64, shape=(len(groups), count))
        effects: dict[int, np.ndarray] = {}
        for i, group in enumerate(groups.tolist()):  # sorted, so that one group's effects are in memory at a time
            effects = effects if group in effects else {group: 0.7 * rng.normal(size=count)}
            values[i] = rng.normal(size=count) + effects[group]
        values.flush()
        size = values.nbytes / 1e6
        del values
        np.save(Path(folder) / "groups.npy", groups)
        found = child(MEMORY, [str(table), str(Path(folder) / "groups.npy"), str(chunk)], {}, None)
    if "unavailable" in found:
        return found
    grown = found["peak_anonymous_megabytes"] - found["anonymous_megabytes_before"]
    return {
        "datasets": count,
        "chunk": chunk,
        "input_megabytes": size,
        "chunk_megabytes": size / 100,
        **found,
        "grown_over_input": grown / size,
    }


def devices(values: np.ndarray, groups: np.ndarray, cores: list[int], repeats: int) -> dict[str, Any]:
    """The same fit on one and on two devices of a CPU, one core each where there are two."""
    results: dict[str, Any] = {"datasets": values.shape[1], "cores": min(2, len(cores))}
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("values.npy", "groups.npy")]
        np.save(files[0], values)
        np.save(files[1], groups)
        for count, name in enumerate(("one device", "two devices"), start=1):
            flags = f"--xla_force_host_platform_device_count={count} {os.environ.get('XLA_FLAGS', '')}"
            place = {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
            results[name] = child(DEVICES, [*files, str(repeats)], place, set(cores[-count:]))
    one, two = (results[name].get("fits_per_second") for name in ("one device", "two devices"))
    if one and two:
        results["speedup"] = two / one
    return results


def child(code: str, arguments: list[str], environment: dict[str, str], cores: set[int] | None) -> dict[str, Any]:
    """What a fresh process printed as JSON, on those cores where the system can say so, or why it printed nothing."""
    paths = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    if cores and hasattr(os, "sched_setaffinity"):
        code = f"import os\nos.sched_setaffinity(0, {sorted(cores)})\n{code}"
    command = [sys.executable, "-c", code, *arguments]
    given = os.environ | {"PYTHONPATH": paths} | environment
    try:
        run = subprocess.run(command, env=given, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"unavailable": f"longer than {LIMIT:.0f} s"}
    if run.returncode:
        return {"unavailable": (run.stderr.strip().splitlines() or [f"ended with {run.returncode}"])[-1][:200]}
    return json.loads(run.stdout)
