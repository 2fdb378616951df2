"""Gradients through a fit: what they cost beside the fit, unrolled differentiation and finite differences.

    python benchmarks/gradients.py [--quick] [--out FILE]

The gradient of a number of the REML fit in all 200 values of 40 unequal groups: of one dataset, and of a batch under
`jit(vmap)`. The errors of the others are against the implicit rule. Unrolled differentiation goes backwards through
every iteration of the alternating algorithm and of Newton's method, each with as many as it needs for 1e-8. Finite
differences, central, are timed as the 2 n fits that they are, in one batch. Results go to FILE as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import many  # first, because it takes one core before JAX starts
import numpy as np

import jaxre

HERE = Path(__file__).resolve().parent
COUNT = 256 if many.QUICK else 8192
LANE = 256  # datasets whose numbers stay in a CPU's cache
REPEATS = 3 if many.QUICK else 15
ALTERNATING, NEWTON = (20, 8) if many.QUICK else (60, 12)  # iterations
NUMBERS: dict[str, Callable[[Any], jax.Array]] = {
    "icc": lambda estimate: estimate.icc,
    "between": lambda estimate: estimate.between,
    "within": lambda estimate: estimate.within,
    "standard error of the mean": lambda estimate: estimate.beta_se[0],
    "log-likelihood": lambda estimate: estimate.log_likelihood,
}
GROUPS = np.repeat(np.arange(40), many.sizes_of_40())


def fitted(method: str, number: str) -> Callable[[jax.Array], jax.Array]:
    """The number as a function of the values."""
    estimator = getattr(jaxre, method)
    return lambda y: NUMBERS[number](estimator(jaxre.group_moments(y, GROUPS)))


def sums(y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Group means, and the squares within groups."""
    sizes = np.bincount(GROUPS)
    means = jax.ops.segment_sum(y, GROUPS, len(sizes)) / sizes
    return means, ((y - means[GROUPS]) ** 2).sum()


def unrolled_alternating(y: jax.Array) -> jax.Array:
    """The ICC by expectation and maximisation for REML, every iteration differentiated."""
    sizes, (means, squares) = np.bincount(GROUPS), sums(y)

    def step(at: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        within, between = at
        v = between + within / sizes
        mean, total = (means / v).sum() / (1 / v).sum(), (1 / v).sum()
        s = between / v
        a = s * (means - mean)
        spread = between * (1 - s) + s * s / total
        gap = (sizes * (within / sizes / v * (means - mean)) ** 2).sum()
        rest = (sizes * ((1 - s) ** 2 / total + between * (1 - s))).sum()
        return (((squares + gap + rest) / len(GROUPS)), (a * a + spread).mean()), None

    start = squares / (len(GROUPS) - len(sizes)), means.var()
    (within, between), _ = jax.lax.scan(step, start, length=ALTERNATING)
    return between / (between + within)


def unrolled_newton(y: jax.Array) -> jax.Array:
    """The ICC by Newton's method on the log-variances, every iteration differentiated."""
    moments = jaxre.group_moments(y, GROUPS)
    means, squares = sums(y)

    def loss(logs: jax.Array) -> jax.Array:
        components = jaxre.Components(within=jnp.exp(logs[0]), between=jnp.exp(logs[1]))
        return -jaxre.restricted_log_likelihood(components, moments)

    def step(logs: jax.Array, _: None) -> tuple[jax.Array, None]:
        return logs - jnp.linalg.solve(jax.hessian(loss)(logs), jax.grad(loss)(logs)), None

    start = jnp.log(jnp.stack([squares / (len(GROUPS) - 40), means.var()]))
    logs, _ = jax.lax.scan(step, start, length=NEWTON)
    return jax.nn.sigmoid(logs[1] - logs[0])


def seconds(call: Callable[[], Any], inner: int = 1) -> float:
    """Median seconds of a call that has been compiled."""
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(inner):
            jax.block_until_ready(call())
        found.append((time.perf_counter() - start) / inner)
    return statistics.median(found)


def case(function: Callable[[jax.Array], jax.Array], values: jax.Array) -> dict[str, Any]:
    """Value and gradient of one dataset and of the batch, and what the one costs in units of the other."""
    batched = lambda f: jax.jit(lambda y: jax.lax.map(f, y, batch_size=LANE))
    value, gradient = jax.jit(function), jax.jit(jax.value_and_grad(function))
    values_of, gradients_of = batched(function), batched(jax.value_and_grad(function))
    one = values[0]
    start = time.perf_counter()
    for call, data in ((value, one), (gradient, one), (values_of, values), (gradients_of, values)):
        jax.block_until_ready(call(data))
    first = time.perf_counter() - start
    times = {
        "value": seconds(lambda: value(one), 20),
        "gradient": seconds(lambda: gradient(one), 20),
        "batch of values": seconds(lambda: values_of(values)),
        "batch of gradients": seconds(lambda: gradients_of(values)),
    }
    return {
        "first_calls_seconds": first,
        "seconds": times,
        "ratio_of_one": times["gradient"] / times["value"],
        "ratio_of_batch": times["batch of gradients"] / times["batch of values"],
        "gradients_per_second": len(values) / times["batch of gradients"],
        "finite_gradient_share": float(jnp.isfinite(gradients_of(values)[1]).all(axis=1).mean()),
    }


def finite_differences(function: Callable[[jax.Array], jax.Array], values: jax.Array) -> dict[str, Any]:
    """Central differences of all values of some datasets, in one batch; steps of the cube root of eps."""
    n, step = len(GROUPS), 6e-6
    moved = np.concatenate([np.eye(n), -np.eye(n)]) * step

    def of_many(y: jax.Array) -> jax.Array:
        def one(row: jax.Array) -> jax.Array:
            found = jax.lax.map(lambda gap: function(row + gap), moved, batch_size=LANE)
            return (found[:n] - found[n:]) / (2 * step)

        return jax.lax.map(one, y)

    run, some = jax.jit(of_many), values[: 2 if many.QUICK else 16]
    found = jax.block_until_ready(run(some))
    exact = jax.jit(jax.vmap(jax.grad(function)))(some)
    return {
        "gradients_per_second": len(some) / seconds(lambda: run(some)),
        "worst_relative_difference": float((abs(found - exact).max(axis=1) / abs(exact).max(axis=1)).max()),
    }


def main() -> None:
    """Run the cases and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few datasets; not written unless --out is given")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"quick": many.QUICK, "machine": many.machine(), "datasets": COUNT, "results": {}}
    with jax.enable_x64(True):
        values = jnp.asarray(many.drawn(np.random.default_rng(2), GROUPS, COUNT).T)
        cases = {f"{number}, REML": fitted("reml", number) for number in NUMBERS}
        cases |= {"icc, ML": fitted("ml", "icc"), "icc, analysis of variance": fitted("anova", "icc")}
        icc = fitted("reml", "icc")
        for name, function in (dict(list(cases.items())[:1]) if many.QUICK else cases).items():
            report["results"][name] = case(function, values)
            found = report["results"][name]
            print(f"{name}: {found['ratio_of_one']:.2f}, {found['ratio_of_batch']:.2f} fits, ", end="")
            print(f"{found['gradients_per_second']:,.0f} gradients a second", flush=True)
        exact, truth = jax.jit(jax.vmap(jax.grad(icc)))(values[:LANE]), jax.jit(jax.vmap(icc))(values[:LANE])
        unrolled = {
            f"{ALTERNATING} alternating steps": unrolled_alternating,
            f"{NEWTON} Newton steps": unrolled_newton,
        }
        report["unrolled"] = {}
        for name, function in unrolled.items():
            gap = abs(jax.jit(jax.vmap(jax.grad(function)))(values[:LANE]) - exact).max(axis=1) / abs(exact).max(axis=1)
            off = abs(jax.jit(jax.vmap(function))(values[:LANE]) - truth)
            found = report["unrolled"][name] = case(function, values)
            found |= {
                "median_relative_difference": float(jnp.nanmedian(gap)),
                "share_within_1e-6": float((gap < 1e-6).mean()),
                "share_of_values_within_1e-6": float((off < 1e-6).mean()),
            }
            print(f"unrolled, {name}: {found['gradients_per_second']:,.0f} gradients a second", flush=True)
        report["finite_differences"] = finite_differences(icc, values)
        print(f"finite differences: {report['finite_differences']}", flush=True)
    out = arguments.out or (None if many.QUICK else HERE / "results" / "gradients.json")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
