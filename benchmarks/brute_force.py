"""A million fits against brute force: does any point of a grid over lambda beat a fit, or an optimum escape its proof?

    python benchmarks/brute_force.py [--datasets N] [--quick] [--out FILE]

Random datasets over DESIGNS, fitted by `jaxre.fit_many` by REML and by ML. -2 log L is computed here in plain NumPy
from group sizes, group means and sums of squares, at lambda = 0 and at 289 ratios over 18 decades, and every local
minimum of the grid is refined by halving the distance to its neighbours. Fit and grid are compared by this one formula.
Results go to FILE as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import jaxre

METHODS = ("reml", "ml")
QUANTITIES = ("status", "ratio", "log_likelihood", "certified", "optima")
BLOCK = 16_384  # datasets at a time
TOLERANCE = 1e-9  # of -2 log L: thousands of times its rounding, at up to 1,100 rows
HALVINGS = 16  # of the distance of two grid points, 15 %
COUNTS = ("datasets", "estimated", "certified", "several_optima", "beaten", "falsely_certified")
WORST = ("largest_excess", "worst_log_likelihood")


class Design(NamedTuple):
    """Group sizes, how many covariates vary within groups and how many between them, share of missing values."""

    sizes: list[int]
    within: int = 0
    between: int = 0
    missing: float = 0.0


DESIGNS = {
    "balanced": Design([5] * 6),
    "pairs": Design([2] * 30),
    "mildly unbalanced": Design([5, 2, 7, 5, 7, 9]),
    "wildly unbalanced": Design([1, 2, 4, 8, 16, 32, 64]),
    "many strata": Design([*range(1, 31)]),
    "three groups": Design([2, 3, 100]),
    "four singles and a forty": Design([1, 1, 1, 1, 40]),
    "four singles and eight forties": Design([1] * 4 + [40] * 8),
    "a giant among pairs": Design([1000] + [2] * 30),
    "covariates within groups": Design([5, 2, 7, 5, 7, 9], within=2),
    "covariates between groups": Design([1, 1, 5, 5, 9, 9], between=2),
    "covariates of both kinds": Design([1, 1, 1, 1, 1, 40], within=1, between=1),
    "missing values": Design([6] * 10, missing=0.15),
    "missing values, large groups": Design([30, 30, 3, 3, 3, 3], missing=0.15),
}


def draw(design: Design, seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Values (n, count), group labels and covariates; a quarter of the datasets have no variance between groups.

    The ratio of the others is 0.01 to 100. The effects of a third are of the model, those of a third have long tails,
    and in a third they are larger in small groups, which makes several optima.
    """
    rng, groups = np.random.default_rng(seed), np.repeat(np.arange(len(design.sizes)), design.sizes)
    fixed = np.random.default_rng(0)  # one design, whatever the seed
    inner = fixed.normal(size=(len(groups), design.within))
    outer = fixed.normal(size=(len(design.sizes), design.between))[groups]
    x, sizes, kind = np.column_stack([inner, outer]), np.array(design.sizes)[:, None], np.arange(count) % 3
    ratio = 10 ** rng.uniform(-2, 2, size=count) * (np.arange(count) % 4 > 0)
    tails = np.exp(rng.normal(size=(len(sizes), count)))
    spread = np.where(kind == 0, 1, np.where(kind == 1, tails, sizes.mean() / sizes))
    effects = np.sqrt(ratio) * spread * rng.normal(size=(len(sizes), count))
    values = 3 + x.sum(axis=1)[:, None] + effects[groups] + rng.normal(size=(len(groups), count))
    values[rng.random(values.shape) < design.missing] = np.nan
    return values, groups, x if x.shape[1] else None


class Moments(NamedTuple):
    """What the likelihood needs of datasets over one design, the datasets first; X has p columns."""

    sizes: np.ndarray
    """(datasets or 1, groups) rows that are not missing."""
    means: np.ndarray
    """(datasets, groups) means of the least-squares residuals, which have the Q of the values."""
    x_means: np.ndarray
    """(groups, p)."""
    within: np.ndarray
    """(datasets,) squares within groups."""
    within_xy: np.ndarray
    """(datasets, p)."""
    within_xx: np.ndarray
    """(p, p)."""

    def of(self, rows: np.ndarray) -> Moments:
        """Those of some datasets, or of one several times."""
        sizes = self.sizes if len(self.sizes) == 1 else self.sizes[rows]
        means, within, within_xy = self.means[rows], self.within[rows], self.within_xy[rows]
        return self._replace(sizes=sizes, means=means, within=within, within_xy=within_xy)


def moments(values: np.ndarray, groups: np.ndarray, covariates: np.ndarray | None) -> Moments:
    """Two passes over the values; rows in the order of their groups, covariates only where nothing is missing."""
    ones, starts, there = np.ones((len(groups), 1)), np.flatnonzero(np.diff(groups, prepend=-1)), ~np.isnan(values)
    x = ones if covariates is None else np.column_stack([ones, covariates])
    y = values - (np.nanmean(values, axis=0) if covariates is None else x @ np.linalg.lstsq(x, values)[0])
    by_group = lambda rows: np.add.reduceat(rows, starts, axis=0)
    sizes = by_group(there.astype(float))
    means = by_group(np.where(there, y, 0)) / np.maximum(sizes, 1)
    x_means = by_group(x) / np.bincount(groups)[:, None]
    inside, x_inside = np.where(there, y - means[groups], 0), x - x_means[groups]
    return Moments(
        sizes=sizes[:, :1].T if there.all() else sizes.T,
        means=means.T.copy(),
        x_means=x_means,
        within=(inside**2).sum(axis=0),
        within_xy=inside.T @ x_inside,
        within_xx=x_inside.T @ x_inside,
    )


class Profile(NamedTuple):
    """Q and the two determinants at a ratio, each (datasets or 1,)."""

    quadratic: np.ndarray
    log_det: np.ndarray
    """log det H."""
    log_det_x: np.ndarray
    """log det X' H^-1 X."""


def profile(data: Moments, ratio: np.ndarray) -> Profile:
    """Generalised least squares with H = I + ratio Z Z', the ratio (datasets,) or (1,); w_j = n_j / (1 + ratio n_j)."""
    p = data.x_means.shape[1]
    growth = 1 + ratio[:, None] * data.sizes
    w = data.sizes / growth
    products = (data.x_means[:, :, None] * data.x_means[:, None, :]).reshape(-1, p * p)
    information = data.within_xx + (w @ products).reshape(-1, p, p)
    right = data.within_xy + (w * data.means) @ data.x_means
    beta = np.einsum("...pq,...q->...p", np.linalg.inv(information), right)
    inside = data.within + ((beta @ data.within_xx - 2 * data.within_xy) * beta).sum(axis=1)
    between = (w * (data.means - beta @ data.x_means.T) ** 2).sum(axis=1)
    return Profile(inside + between, np.log(growth).sum(axis=1), np.linalg.slogdet(information)[1])


def minus_2_log_likelihood(data: Moments, at: Profile, restricted: bool) -> np.ndarray:
    """-2 log L (datasets,), beta and `within` at their optimum Q / N."""
    n = np.sum(data.sizes, axis=1) - (data.x_means.shape[1] if restricted else 0)
    return n * (np.log(2 * np.pi * at.quadratic / n) + 1) + at.log_det + (at.log_det_x if restricted else 0)


def grid(design: Design) -> np.ndarray:
    """lambda = 0, and 16 ratios a decade from 1e-8 to 1e10 of the mean size's inverse."""
    return np.append(0, np.logspace(-8, 10, 289)) / np.mean(design.sizes)


def refined(data: Moments, ratio: np.ndarray, lowest: np.ndarray, step: float, restricted: bool) -> np.ndarray:
    """The value of a minimum, from a ratio that lies lower than those a `step` of log ratio to either side."""
    for _ in range(HALVINGS):
        step /= 2
        for trial in (ratio * np.exp(step), ratio * np.exp(-step)):
            value = minus_2_log_likelihood(data, profile(data, trial), restricted)
            ratio, lowest = np.where(value < lowest, trial, ratio), np.minimum(value, lowest)
    return lowest


def lowest_value(data: Moments, ratios: np.ndarray, values: np.ndarray, restricted: bool) -> np.ndarray:
    """The lowest -2 log L (datasets,) of a grid (datasets, ratios) and of its refined minima."""
    slope = np.diff(values, axis=1, prepend=np.inf, append=np.inf)
    row, place = np.nonzero((slope[:, :-1] < 0) & (slope[:, 1:] >= 0))
    step, lowest = np.log(ratios[2] / ratios[1]), values.min(axis=1)
    np.minimum.at(lowest, row, refined(data.of(row), ratios[place], values[row, place], step, restricted))
    return lowest


def clear_minima(values: np.ndarray) -> np.ndarray:
    """Local minima (datasets,) of a grid (datasets, ratios); steps within the tolerance are no slope."""
    slope = np.diff(values, axis=1)
    sign = np.where(slope > TOLERANCE, 1, np.where(slope < -TOLERANCE, -1, 0))
    last = np.maximum.accumulate(np.where(sign != 0, np.arange(sign.shape[1]), 0), axis=1)
    sign = np.take_along_axis(sign, last, axis=1)
    rises = sign > 0
    return (np.diff(rises, axis=1, prepend=False) & rises).sum(axis=1)


def compare(data: Moments, ratios: np.ndarray, values: np.ndarray, fits: Any, restricted: bool) -> dict[str, Any]:
    """Counts, and the worst differences of -2 log L between the fits and the grid."""
    here = minus_2_log_likelihood(data, profile(data, fits.ratio), restricted)
    excess = here - lowest_value(data, ratios, values, restricted)
    escaped = clear_minima(values) > fits.optima
    beaten = ~(excess <= TOLERANCE)  # a NaN is beaten too
    return {
        "datasets": len(excess),
        "estimated": int((fits.status < jaxre.Status.UNBOUNDED).sum()),
        "certified": int(fits.certified.sum()),
        "several_optima": int((fits.optima > 1).sum()),
        "beaten": int(beaten.sum()),
        "falsely_certified": int((fits.certified & (beaten | escaped)).sum()),
        "largest_excess": float(excess.max()),
        "worst_log_likelihood": float(abs(here + 2 * fits.log_likelihood).max()),
        "failures": np.flatnonzero(beaten | (fits.certified & escaped)).tolist(),
    }


def block(design: Design, seed: int, count: int, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Draw, fit and compare, by every method; the grid's Q serves all of them."""
    values, groups, covariates = draw(design, seed, count)
    data, ratios, results = moments(values, groups, covariates), grid(design), {}
    points = [profile(data, ratio[None]) for ratio in ratios]
    for method in methods:
        fits = jaxre.fit_many(
            values, groups, covariates, method=method, quantities=QUANTITIES, chunk=BLOCK, progress=False
        )
        restricted = method == "reml"
        table = np.stack([minus_2_log_likelihood(data, at, restricted) for at in points], axis=1)
        results[method] = compare(data, ratios, table, fits, restricted)
    return results


def brute_force(design: Design, count: int, methods: Sequence[str] = METHODS) -> dict[str, dict[str, Any]]:
    """Counts and worst differences over `count` datasets, by method; failures as [seed, datasets drawn, column]."""
    sizes = [min(BLOCK, count - start) for start in range(0, count, BLOCK)]
    blocks = [block(design, seed, size, methods) for seed, size in enumerate(sizes)]
    merged = {}
    for method in methods:
        parts = [part[method] for part in blocks]
        merged[method] = {name: sum(part[name] for part in parts) for name in COUNTS}
        merged[method] |= {name: max(part[name] for part in parts) for name in WORST}
        merged[method]["failures"] = [
            [seed, part["datasets"], column] for seed, part in enumerate(parts) for column in part["failures"]
        ]
    return merged


def main() -> None:
    """Run every design and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=1_000_000, help="over all designs; each is fitted twice")
    parser.add_argument("--quick", action="store_true", help="a few datasets, to see that it runs")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results" / "brute_force.json"))
    arguments = parser.parse_args()
    count = 256 if arguments.quick else -(-arguments.datasets // len(DESIGNS))
    results, start = {}, time.perf_counter()
    for name, design in DESIGNS.items():
        results[name] = brute_force(design, count)
        for method, found in results[name].items():
            counts = ", ".join(f"{found[key]:,} {key.replace('_', ' ')}" for key in COUNTS)
            print(f"{name}, {method}: {counts}; largest excess {found['largest_excess']:.1e}", flush=True)
    fits = [found for result in results.values() for found in result.values()]
    report = {
        "quick": arguments.quick,
        "machine": {
            "python": platform.python_version(),
            "jax": version("jax"),
            "numpy": version("numpy"),
            "machine": platform.machine(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        },
        "seconds": time.perf_counter() - start,
        "tolerance": TOLERANCE,
        "distinct_datasets": sum(result["reml"]["datasets"] for result in results.values()),
        "fits": {name: sum(found[name] for found in fits) for name in COUNTS},
        "results": results,
    }
    Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.out).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in report["fits"].items()))


if __name__ == "__main__":
    main()
