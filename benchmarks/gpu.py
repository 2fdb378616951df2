"""Many fits on a GPU, against the bandwidth of a copy on the device.

    python benchmarks/gpu.py [--quick] [--cpu] [--out FILE]

A million and a hundred million REML fits from moments of 5 group sizes, and a million datasets of 200 observations in
40 unequal groups from raw values: on the device by a vmapped pipeline, and by `fit_many` from an array there and from
NumPy; in double and in single precision. Bytes are those that must be read and written once. The largest error is that
of the components against one fit at a time on the CPU, of some datasets. Results go to FILE as JSON,
benchmarks/results/gpu.json by default. Without a GPU it says so and ends with status 2; --cpu runs it all the same, to
check the script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from from_moments import QUANTITIES, draw, fitter, picked  # noqa: E402

import jaxre  # noqa: E402

REPEATS = 5
SIZES, EACH = (2, 3, 5, 8, 13), 8
IN_FLIGHT = 4  # chunks that are queued at once, so that their results fit in memory
CHECKED = 100  # datasets that are fitted one at a time as well
DTYPES = {"double": np.float64, "single": np.float32}


def device(cpu: bool) -> jax.Device | None:
    """The first GPU, or with `cpu` the first CPU; None where there is none."""
    try:
        return jax.devices("cpu" if cpu else "gpu")[0]
    except RuntimeError:
        return None


def seconds_of(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Median time after a first call that compiles, the time of that, and what the last call gave."""
    times = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        found = jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]), times[0], found


def copy_bandwidth(size: int) -> float:
    """[bytes / s], read and written, of a copy of `size` bytes on the device."""
    values = jnp.arange(size // 4, dtype=jnp.float32)
    copy = jax.jit(jnp.copy)
    return 2 * values.nbytes / seconds_of(lambda: copy(values))[0]


def bytes_of(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def rated(count: int, seconds: float, first: float, traffic: float, bandwidth: float, found: Any) -> dict[str, Any]:
    """Fits a second, and what share of the copy bandwidth reading and writing `traffic` bytes once makes."""
    status, certified = np.asarray(found["status"]), np.asarray(found["certified"])
    return {
        "fits": count,
        "seconds": seconds,
        "first_call_seconds": first,
        "fits_per_second": count / seconds,
        "bytes_per_fit": traffic / count,
        "share_of_copy_bandwidth": traffic / seconds / bandwidth,
        "certified_share": float(certified[status < jaxre.Status.UNBOUNDED].mean()),
    }


def largest_error(found: Any, values: np.ndarray, groups: np.ndarray) -> float:
    """Of the components, relative to their sum, against one fit at a time."""
    fits = [jaxre.fit(column, groups) for column in values[:, :CHECKED].T]
    between, within = np.array([(fit.between, fit.within) for fit in fits]).T
    gaps = [np.asarray(found["between"])[: len(fits)] - between, np.asarray(found["within"])[: len(fits)] - within]
    return float((abs(np.array(gaps)) / (between + within)).max())


def from_moments(count: int, chunk: int, dtype: Any, bandwidth: float) -> dict[str, Any]:
    """Fits of one resident chunk of moments, again and again until there are `count`."""
    strata, fit = jax.tree.map(jnp.asarray, draw(chunk, SIZES, EACH, dtype)), fitter()

    def call() -> Any:
        pending: list[Any] = []
        for _ in range(count // chunk):
            pending.append(fit(strata))
            if len(pending) > IN_FLIGHT:
                jax.block_until_ready(pending.pop(0))
        return jax.block_until_ready(pending)[-1]

    seconds, first, found = seconds_of(call)
    traffic = (bytes_of(strata) + bytes_of(found)) * (count // chunk)
    return rated(count, seconds, first, traffic, bandwidth, found)


def from_values(count: int, chunk: int, precision: str, bandwidth: float) -> dict[str, Any]:
    """Raw values that are on the device already, `chunk` datasets at a time; and from NumPy through `fit_many`."""
    dtype = DTYPES[precision]
    groups = np.repeat(np.arange(40), np.random.default_rng(1).multinomial(120, np.ones(40) / 40) + 2)
    keys = jax.random.split(jax.random.key(0))
    values = jax.random.normal(keys[0], (len(groups), count), dtype)
    values = values + dtype(0.7) * jax.random.normal(keys[1], (40, count), dtype)[groups]
    blocks = [values[:, start : start + chunk] for start in range(0, count, chunk)]
    one = lambda y: picked(jaxre.reml(jaxre.group_moments(y, groups)))
    fit = jax.jit(jax.vmap(one, in_axes=1))
    seconds, first, found = seconds_of(lambda: [fit(block) for block in blocks])
    found = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *found)
    traffic = bytes_of(values) + bytes_of(found)
    host = np.asarray(values, np.float64)
    results = {"on the device": rated(count, seconds, first, traffic, bandwidth, found)}
    results["on the device"]["largest_error"] = largest_error(found, host, groups)
    for name, given in {"fit_many from the device": values, "fit_many from NumPy": host}.items():
        call = lambda given=given: jaxre.fit_many(
            given, groups, quantities=QUANTITIES, precision=precision, progress=False
        )
        times = []
        for _ in range(4):
            start = time.perf_counter()
            fits = call()
            times.append(time.perf_counter() - start)
        named = {one: getattr(fits, one) for one in QUANTITIES}
        results[name] = rated(count, statistics.median(times[1:]), times[0], traffic, bandwidth, named)
        results[name]["largest_error"] = largest_error(named, host, groups)
    return results


def main() -> int:
    """Run every case and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small counts; not written unless --out is given")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU, to check the script")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    arguments = parser.parse_args()
    place = device(arguments.cpu)
    if place is None:
        print("There is no GPU that JAX can see: nothing was measured (--cpu checks the script).", file=sys.stderr)
        return 2
    million = 512 if arguments.quick else 1_000_000
    results: dict[str, Any] = {}
    with jax.default_device(place), jax.enable_x64(True):
        bandwidth = copy_bandwidth(1 << (20 if arguments.quick else 30))
        print(f"{place.device_kind}: a copy moves {bandwidth / 1e9:,.0f} GB a second", flush=True)
        for precision, dtype in DTYPES.items():
            for name, count in {"1e6 from moments": million, "1e8 from moments": 100 * million}.items():
                chunk = min(count, 4 * million)
                results[f"{name}, {precision}"] = from_moments(count, chunk, dtype, bandwidth)
            for name, found in from_values(million, million // 4, precision, bandwidth).items():
                results[f"1e6 from values, {name}, {precision}"] = found
    for name, result in results.items():
        rate, share = result["fits_per_second"], result["share_of_copy_bandwidth"]
        print(f"{name}: {rate:,.0f} a second, {share:.1%} of a copy, {result['certified_share']:.2%} certified")
    out = arguments.out or (None if arguments.quick or arguments.cpu else HERE / "results" / "gpu.json")
    if out is not None:
        machine = {"device": place.device_kind, "jax": version("jax"), "copy_bytes_per_second": bandwidth}
        report = {"quick": arguments.quick, "machine": machine, "results": results}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
