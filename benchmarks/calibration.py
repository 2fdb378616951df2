"""Do intervals cover and tests reject as often as they say? Datasets drawn from the model, inference on each of them.

    python benchmarks/calibration.py [--datasets N] [--bootstraps N] [--quick] [--resume] [--out FILE]

Four designs, four ratios between / within, nominal 95 % intervals and 5 % tests. The exact methods must be at their
level within four Monte-Carlo errors; the others are asymptotic, and the table says how far off they are. Bootstrap
intervals are of 999 replicates for each dataset, and of fewer datasets. Results go to FILE as JSON, cell by cell.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxre
from jaxre.bootstrap_interval import order_statistics
from jaxre.null import compared_with_null, likelihood_ratio_statistic
from jaxre.stacking import padded

LEVEL = 0.95
DESIGNS = {
    "balanced, 6 of 5": [5] * 6,
    "6 of 2 to 9": [5, 2, 7, 5, 7, 9],
    "4 of 1, 2 of 13": [1, 1, 1, 1, 13, 13],
    "20 of 1 to 40": [1, 1, 2, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 21, 24, 28, 32, 36, 40],
}
RATIOS = (0.0, 0.1, 0.5, 2.0)
EXACT = ("exact ratio", "exact lower bound", "exact upper bound", "ICC(1,1)", "ICC(1,k)", "F test of between = 0")
NULL_DRAWS = 50_000
CHUNK = 500
STRATA = 32  # to which all designs are padded: sums are then not written out, and compile sooner
VARIANCES = ("between", "within", "ratio")  # their roots and the ICC are functions of them: the coverage is the same
TRUTH: dict[str, Callable[[jax.Array], jax.Array]] = {
    "between": lambda ratio: ratio,
    "within": jnp.ones_like,
    "ratio": lambda ratio: ratio,
}

Verdicts = dict[str, jax.Array]


def covers(interval: Any, truth: jax.Array) -> jax.Array:
    return (interval.low <= truth) & (truth <= interval.high)


def inference_of_one(groups: np.ndarray, nulls: tuple[jax.Array, jax.Array], key: jax.Array, ratio: jax.Array) -> Any:
    """What each interval covers and each test rejects, as truth values or shares, for one dataset: mean 0, within 1."""
    number = int(groups.max()) + 1
    keys = jax.random.split(key, 4)
    effects = jnp.sqrt(ratio) * jax.random.normal(keys[0], (number + 1,))  # the last one of a group not yet seen
    moments = jaxre.group_moments(effects[groups] + jax.random.normal(keys[1], groups.shape), groups)
    strata = padded(jaxre.stratify(moments), STRATA)
    reml, ml = jaxre.reml(strata), jaxre.ml(strata)
    found: Verdicts = {}

    sides = ("two-sided", "lower", "upper")
    interval, lower, upper = (jaxre.exact_interval(strata, LEVEL, side=side) for side in sides)
    low, high = interval.ratio_low_untruncated, interval.ratio_high_untruncated
    found["exact ratio"] = (low <= ratio) & (ratio <= high)
    found["exact ratio, truncated at 0"] = (interval.ratio_low <= ratio) & (ratio <= interval.ratio_high)
    found["exact lower bound"] = lower.ratio_low_untruncated <= ratio
    found["exact upper bound"] = ratio <= upper.ratio_high_untruncated
    icc = jaxre.icc_measures(strata, LEVEL)
    k = icc.measurements
    single, average = ratio / (1 + ratio), k * ratio / (1 + k * ratio)
    found["ICC(1,1)"] = (icc.single_low <= single) & (single <= icc.single_high)
    found["ICC(1,k)"] = (icc.average_low <= average) & (average <= icc.average_high)
    found["F test of between = 0"] = jaxre.f_test(strata).p_value < 1 - LEVEL

    for name, estimate, restricted in (("REML", reml, True), ("ML", ml, False)):
        wald = functools.partial(jaxre.wald_interval, strata, estimate, level=LEVEL, restricted=restricted)
        for parameter in VARIANCES:
            found[f"Wald {parameter}, {name}"] = covers(wald(parameter), TRUTH[parameter](ratio))
        parameters = VARIANCES if restricted else (*VARIANCES, 0)
        profiles = jaxre.profile_intervals(strata, parameters, LEVEL, restricted=restricted)
        for parameter, profile in zip(VARIANCES, profiles, strict=False):
            found[f"profile {parameter}, {name}"] = covers(profile, TRUTH[parameter](ratio))
        if not restricted:
            found["profile of the mean, ML"] = covers(profiles[-1], jnp.zeros(()))
        found[f"profile intervals settled, {name}"] = jnp.stack([one.settled for one in profiles]).all()
        statistic, null = likelihood_ratio_statistic(strata, restricted), nulls[0 if restricted else 1]
        test, prefix = compared_with_null(statistic, null), "R" if restricted else ""
        found[f"{prefix}LRT of between = 0, simulated null"] = test.p_value < 1 - LEVEL
        found[f"{prefix}LRT of between = 0, mixture of chi2"] = test.p_asymptotic < 1 - LEVEL
        found[f"without an estimate, {name}"] = estimate.status >= jaxre.Status.UNBOUNDED

    found["z of the mean, REML"] = covers(jaxre.wald_interval(strata, reml, 0, LEVEL), jnp.zeros(()))
    for name, estimate, df in (
        ("t of the mean, Kenward-Roger", reml, "kenward-roger"),
        ("t of the mean, Satterthwaite", reml, "satterthwaite"),
        ("t of the mean, Satterthwaite, ML", ml, "satterthwaite"),
    ):
        tests = jaxre.coefficient_tests(strata, estimate, df=df, level=LEVEL, restricted=estimate is reml)
        found[name] = (tests.low[0] <= 0) & (tests.high[0] >= 0)

    places = np.append(np.arange(number), -1)
    asked = jaxre.predictions(moments, reml, places, level=LEVEL)
    new = effects + jax.random.normal(keys[2], effects.shape)
    of_means = (asked.mean_low <= effects) & (effects <= asked.mean_high)
    of_values = (asked.low <= new) & (new <= asked.high)
    found["mean of a known group"], found["mean of a new group"] = of_means[:-1].mean(), of_means[-1]
    found["observation in a known group"], found["observation in a new group"] = of_values[:-1].mean(), of_values[-1]
    return {name: jnp.asarray(verdict, float) for name, verdict in found.items()}


@functools.cache
def compiled(design: str) -> Callable[..., dict[str, jax.Array]]:
    """(keys, ratio, nulls) to the mean and the mean square of every verdict."""
    groups = np.repeat(np.arange(len(DESIGNS[design])), DESIGNS[design])

    def chunk(keys: jax.Array, ratio: jax.Array, nulls: tuple[jax.Array, jax.Array]) -> Any:
        verdicts = jax.vmap(lambda key: inference_of_one(groups, nulls, key, ratio))(keys)
        return jax.tree.map(lambda each: jnp.stack([each.sum(), (each * each).sum()]), verdicts)

    return jax.jit(chunk)


@functools.cache
def nulls_of(design: str) -> tuple[jax.Array, jax.Array]:
    """Null statistics of RLRT and LRT, which depend on the design alone."""
    groups = np.repeat(np.arange(len(DESIGNS[design])), DESIGNS[design])
    moments = jaxre.group_moments(np.random.default_rng(0).normal(size=len(groups)), groups)
    draw = lambda restricted: jaxre.null_statistics(moments, jax.random.key(1), NULL_DRAWS, restricted=restricted)
    return draw(True), draw(False)


def asymptotic_cell(design: str, ratio: float, datasets: int) -> dict[str, dict[str, float]]:
    """Share and Monte-Carlo error of every interval and test."""
    run, nulls = compiled(design), nulls_of(design)
    chunks = -(-datasets // CHUNK)
    key = jax.random.fold_in(jax.random.key(2024), list(DESIGNS).index(design) * len(RATIOS) + RATIOS.index(ratio))
    sums: Any = None
    for i in range(chunks):
        keys = jax.random.split(jax.random.fold_in(key, i), CHUNK)
        part = jax.tree.map(np.asarray, run(keys, jnp.asarray(ratio), nulls))
        sums = part if sums is None else jax.tree.map(np.add, sums, part)
    count = chunks * CHUNK
    found = {}
    for name, (total, squares) in sums.items():
        mean = total / count
        error = np.sqrt(max(squares / count - mean * mean, 0) / count)
        found[name] = {"share": float(mean), "error": float(error), "n": count}
    return found


def bootstrap_cell(design: str, ratio: float, datasets: int) -> dict[str, dict[str, float]]:
    """Coverage of the bootstrap's intervals; an interval that the replicates do not determine covers nothing."""
    groups = np.repeat(np.arange(len(DESIGNS[design])), DESIGNS[design])
    rng = np.random.default_rng([list(DESIGNS).index(design), RATIOS.index(ratio)])
    truth = {"between": ratio, "within": 1.0, "icc": ratio / (1 + ratio), "beta": 0.0}
    counts = {f"{kind} bootstrap of {name}": 0 for kind in ("percentile", "basic", "BCa") for name in truth}
    undetermined = 0
    for i in range(datasets):
        y = np.sqrt(ratio) * rng.normal(size=groups.max() + 1)[groups] + rng.normal(size=len(groups))
        key, moments = jax.random.key(i), jaxre.group_moments(y, groups)
        found = jaxre.bootstrap(moments, key, replicates=999, level=LEVEL, kind="bca", chunk=1024)
        for name, value in truth.items():
            estimate, low, high = (np.ravel(getattr(found, field)[name])[0] for field in ("estimate", "low", "high"))
            drawn, tail = np.ravel(found.replicates[name]), (1 - LEVEL) / 2
            known = drawn[~np.isnan(drawn)]
            plain = order_statistics(known, len(known), np.array([tail, 1 - tail]))
            basic = [2 * estimate - end for end in plain[::-1]]
            for kind, ends in (("percentile", plain), ("basic", basic), ("BCa", (low, high))):
                counts[f"{kind} bootstrap of {name}"] += bool(ends[0] <= value <= ends[1])
                undetermined += bool(np.isnan(ends[0] + ends[1]))
    shares = {name: count / datasets for name, count in counts.items()}
    shares["bootstrap intervals that are not determined"] = undetermined / datasets / len(counts)
    return {
        name: {"share": share, "error": float(np.sqrt(share * (1 - share) / datasets)), "n": datasets}
        for name, share in shares.items()
    }


def is_test(name: str) -> bool:
    """A share of rejections, whose nominal value is 5 %."""
    return "of between = 0" in name


def wrong_exact(cells: list[dict[str, Any]]) -> list[str]:
    """Exact intervals, and exact tests where between is 0, further than four Monte-Carlo errors from their level."""
    wrong = []
    for cell in cells:
        for name in EXACT:
            if name not in cell["found"] or (is_test(name) and cell["ratio"] > 0):
                continue
            share, nominal = cell["found"][name]["share"], 1 - LEVEL if is_test(name) else LEVEL
            error = np.sqrt(LEVEL * (1 - LEVEL) / cell["found"][name]["n"])
            if abs(share - nominal) > 4 * error:
                wrong.append(f"{name}, {cell['design']}, ratio {cell['ratio']:g}: {share:.4f}")
    return wrong


def main() -> None:
    """Run the cells and write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, help="of each design and ratio, default: 20000")
    parser.add_argument("--bootstraps", type=int, help="datasets with bootstrap intervals, default: 300")
    quick = "a few datasets, to see that it runs; not written unless --out"
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--resume", action="store_true", help="keep the cells that the file has already")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    arguments = parser.parse_args()
    datasets = arguments.datasets or (CHUNK if arguments.quick else 20_000)
    bootstraps = arguments.bootstraps if arguments.bootstraps is not None else 2 if arguments.quick else 300
    default = Path(__file__).resolve().parent / "results" / "calibration.json"
    out = arguments.out or (None if arguments.quick else default)
    machine = {"machine": platform.machine(), "python": platform.python_version(), "jax": version("jax")}
    cells: list[dict[str, Any]] = []
    if arguments.resume and out is not None and out.exists():
        cells = json.loads(out.read_text(encoding="utf-8"))["cells"]
    done = {(cell["design"], cell["ratio"]) for cell in cells}
    for design in list(DESIGNS)[: 1 if arguments.quick else None]:
        for ratio in RATIOS:
            start = time.perf_counter()
            if (design, ratio) in done:
                continue
            with jax.enable_x64(True):
                found = asymptotic_cell(design, ratio, datasets)
            if bootstraps:
                found |= bootstrap_cell(design, ratio, bootstraps)
            cells.append({"design": design, "sizes": DESIGNS[design], "ratio": ratio, "found": found})
            report = {"quick": arguments.quick, "machine": machine, "level": LEVEL, "cells": cells}
            report["exact_off_by_more_than_4_errors"] = wrong_exact(cells)
            print(f"{design}, ratio {ratio:g}: {time.perf_counter() - start:.0f} s, {wrong_exact(cells)}", flush=True)
            if out is not None:
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
