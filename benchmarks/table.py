"""The README's tables of times, made from the JSON results of the scripts beside it.

    python benchmarks/table.py [--check]

Replaces what stands between the markers in README.md; with --check it only says whether that is up to date.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
KINDS = (
    *(
        "exact",
        "ICC(1,1)",
        "ICC(1,k)",
        "profile",
        "Wald",
        "t",
        "z",
        "mean",
        "observation",
        "percentile",
        "basic",
        "BCa",
    ),
    *("F", "RLRT", "LRT"),
)  # of intervals and tests, in the order of their rows


def markdown(report: dict[str, Any]) -> str:
    """The tables: fits beside the other tools, kinds of labels, memory, cold start."""
    cases = [case for case in report["cases"] if case["name"] != "labels"]
    labels = next(case for case in report["cases"] if case["name"] == "labels")
    tools = [tool for tool in cases[0]["results"] if any("seconds" in case["results"][tool] for case in cases)]
    versions = {tool: next(r["version"] for c in cases if "version" in (r := c["results"][tool])) for tool in tools}
    machine, largest = report["machine"], max(cases, key=lambda case: (case["n"], -case["coefficients"]))
    times = [[described(case), *(cell(case["results"][tool]) for tool in tools)] for case in cases]
    memory = [
        (tool, found["with the data and a fit"], found["with the data"])
        for tool in tools
        if (found := largest["results"][tool].get("peak_megabytes"))
    ]
    slow = [tool for tool in tools if not largest["results"][tool].get("peak_megabytes")]
    starts = report["cold_start"]
    parts = [
        f"One fit by REML: median time, and relative error of `between`. {machine['processor']}, one core, "
        f"Python {machine['python']}, jax {machine['packages']['jax']}.",
        rows(["data", *(f"{tool} {versions[tool]}" if tool != "jaxre" else tool for tool in tools)], times),
        f"jaxre by kind of group labels, {described(labels)}:",
        rows(list(labels["results"]), [[cell(result) for result in labels["results"].values()]]),
        f"Peak memory of the whole process, {described(largest)}, and before the fit: "
        + ", ".join(f"{tool} {after:.0f} ({before:.0f}) MB" for tool, after, before in memory)
        + f"; {' and '.join(slow)} needed longer than 20 s." * bool(slow),
        "Import and first fit in a fresh process: "
        + ", ".join(f"{duration(found['seconds'])} {kind}" for kind, found in starts.items())
        + f" (import alone {duration(starts['without a cache']['import'])}).",
    ]
    return "\n\n".join(parts)


def many_markdown(report: dict[str, Any]) -> str:
    """Fits a second of many datasets, the other tools beside them, memory and devices."""
    machine, results, body = report["machine"], report["results"], []
    for name, result in results.items():
        once = result.get("seconds_to_read_once")
        body.append(
            [
                name,
                f"{result['fits_per_second']:,.0f}",
                f"{result['certified_share']:.2%}",
                "" if once is None else f"{statistics.median(result['seconds']) / once:,.0f}",
            ]
        )
    parts = [
        f"Fits a second on one core, in double precision, from NumPy values to NumPy estimates (components, ICC, "
        f"coefficients, standard errors, criterion, status, certificate); the shared design has 200 observations in 40 "
        f"unequal groups, designs of their own about 100; from moments is `reml`, vmapped and compiled, over "
        f"stacked `Strata` that share sizes and counts, or have each their own. "
        f"{machine['machine']}, jax {machine['jax']}.",
        rows(["datasets, REML", "fits a second", "certified", "times reading once"], body),
    ]
    beside = {name: result["peers"] for name, result in results.items() if "peers" in result}
    if beside:
        tools = list(dict.fromkeys(tool for peers in beside.values() for tool in peers))
        own = ["jaxre", *(f"{results[name]['fits_per_second']:,.0f}" for name in beside)]
        others = [[tool, *(peer_cell(peers.get(tool)) for peers in beside.values())] for tool in tools]
        parts += [
            "Other tools on the same data in the same run: fits a second, and in brackets how far their `between` lies "
            "from that of jaxre in units of between + within, median and worst (ICC tools: the ICC).",
            rows(["fits a second", *beside], [own, *others]),
        ]
    memory, devices = report.get("memory", {}), report.get("devices", {})
    parts += [line for line in (single_line(results), memory_line(memory), devices_line(devices)) if line]
    return "\n\n".join(parts)


def peer_cell(found: dict[str, Any] | None) -> str:
    """`101 (2e-9, 1e-7)`, or why there is nothing."""
    if found is None:
        return ""
    if "unavailable" in found:
        return "too slow" if found["unavailable"].startswith("longer than") else "failed"
    off = f"{found['median_difference']:.0e}, {found['worst_difference']:.0e}".replace("e-0", "e-")
    return f"{found['fits_per_second']:,.0f} ({off})"


def single_line(results: dict[str, Any]) -> str:
    found = {name: result["single_precision"] for name, result in results.items() if "single_precision" in result}
    if not found:
        return ""
    size = lambda number: f"{number:.0e}".replace("e-0", "e-")
    off = [
        f"{name}: {size(one['median_difference'])} and {size(one['worst_difference'])}, {one['certified_share']:.1%}"
        for name, one in found.items()
    ]
    return (
        '`precision="single"` against double, `between` in units of between + within, median and worst, and the share '
        f"certified: {'; '.join(off)}. Double against `fit` one at a time: 1e-12 at most, tested."
    )


def memory_line(found: dict[str, Any]) -> str:
    if "peak_anonymous_megabytes" not in found:
        return ""
    grown = found["peak_anonymous_megabytes"] - found["anonymous_megabytes_before"]
    return (
        f"A memory-mapped input of {found['input_megabytes']:,.0f} MB, 100 chunks, takes {grown:,.0f} MB more at most "
        f"than the process held before, {found['result_megabytes']:,.0f} MB of it the result."
    )


def devices_line(found: dict[str, Any]) -> str:
    if "speedup" not in found:
        return ""
    return f"Two CPU devices on {found['cores']} cores are {found['speedup']:.2f} times as fast as one."


def bootstrap_markdown(report: dict[str, Any]) -> str:
    """Replicates a second, and those of bootMer."""
    machine, body = report["machine"], []
    for name, found in report["results"].items():
        peer = found["bootMer"]
        theirs = f"{peer['replicates_per_second']:,.0f}" if "replicates_per_second" in peer else "not run"
        share = f"{found['certified_share']:.2%}"
        body.append([name, f"{found['replicates_per_second']:,.0f}", share, theirs])
    return (
        f"Replicates a second of `bootstrap` by REML on one core, drawing, certificates and intervals included. "
        f"{machine['machine']}, jax {machine['jax']}.\n\n"
        + rows(["data", "jaxre", "certified", "bootMer of lme4"], body)
    )


def inference_markdown(report: dict[str, Any]) -> str:
    """Datasets a second with inference, and those of lmerTest."""
    machine, results = report["machine"], report["results"]
    peer = results["everything"]["lmerTest"]
    lines = [[name, f"{found['datasets_per_second']:,.0f}"] for name, found in results.items()]
    beside = ""
    if "datasets_per_second" in peer:
        off = peer["worst_relative_difference"]
        beside = (
            f" lmerTest's t test with Kenward and Roger's method alone: {peer['datasets_per_second']:.1f} datasets a "
            f"second in the same run; its standard errors and degrees of freedom agree to "
            f"{off['standard error']:.0e} and {off['df']:.0e}."
        ).replace("e-0", "e-")
    return (
        f"`fit_many` with inference on one core: 200 observations in 40 unequal groups, REML, from NumPy values to "
        f"NumPy columns. {machine['machine']}, jax {machine['jax']}.{beside}\n\n"
        + rows(["columns", "datasets a second"], lines)
    )


def gradients_markdown(report: dict[str, Any]) -> str:
    """What gradients cost beside the number itself, and what two other ways to them give."""
    machine, results = report["machine"], report["results"]
    costs = [
        [
            name,
            duration(found["seconds"]["value"]),
            f"{found['ratio_of_one']:.1f}",
            f"{found['ratio_of_batch']:.1f}",
            f"{found['gradients_per_second']:,.0f}",
        ]
        for name, found in results.items()
    ]
    implicit, differences = next(iter(results.items())), report["finite_differences"]
    ways = [["implicit", f"{implicit[1]['gradients_per_second']:,.0f}", "", ""]]
    for name, found in report["unrolled"].items():
        numbers = found["gradients_per_second"], found["median_relative_difference"], found["share_within_1e-6"]
        ways.append([f"through {name}", f"{numbers[0]:,.0f}", power(numbers[1]), f"{numbers[2]:.1%}"])
    ways.append(["central differences, worst", f"{differences['gradients_per_second']:,.0f}"])
    ways[-1] += [power(differences["worst_relative_difference"]), ""]
    return "\n\n".join(
        [
            f"The gradient of one number of a fit in all 200 values of 40 unequal groups, on one core, in double "
            f"precision: time of the number alone; value and gradient in units of it, of one dataset and of "
            f"{report['datasets']:,} at once; gradients a second of these. {machine['machine']}, jax {machine['jax']}.",
            rows(["number, estimator", "value", "gradient of one", "of many", "gradients a second"], costs),
            f"Other ways to the gradient of {implicit[0]}, on the same data: how far they lie from the implicit one, "
            f"relative to its largest entry, and the share of the datasets within 1e-6.",
            rows(["way", "gradients a second", "median difference", "within 1e-6"], ways),
        ]
    )


def meta_markdown(report: dict[str, Any]) -> str:
    """Meta-analyses a second, and those of PyMARE."""
    machine, results, peer = report["machine"], report["results"], report["PyMARE"]
    body = [
        [f"jaxre, {name}", f"{r['fits_per_second']:,.0f}", f"{r['certified_share']:.2%}"] for name, r in results.items()
    ]
    beside = ""
    if "fits_per_second" in peer:
        body.append([f"PyMARE {peer['version']}, REML", f"{peer['fits_per_second']:,.0f}", ""])
        beside = (
            f" PyMARE's `tau2` lies {power(peer['median_difference'])} from that of jaxre, median, and "
            f"{power(peer['worst_difference'])} at worst."
        )
    return (
        "Meta-analyses of 13 studies a second on one core in double precision: `meta_analysis` under `jax.lax.map`, of "
        f"effects and variances that are JAX arrays, and the front door. {machine['machine']}, jax {machine['jax']}."
        f"{beside}\n\n" + rows(["results", "a second", "certified"], body)
    )


def power(number: float) -> str:
    """`2e-9`."""
    return f"{number:.0e}".replace("e-0", "e-").replace("e+0", "e+").replace("0e+0", "0")


def calibration_markdown(report: dict[str, Any]) -> str:
    """Coverage of every interval, lowest and highest over the ratios, and the size of every test where between is 0."""
    cells, designs = report["cells"], list(dict.fromkeys(cell["design"] for cell in report["cells"]))
    ratios = sorted({cell["ratio"] for cell in cells})
    place = {word: i for i, word in enumerate(KINDS)}
    every = [name for name in cells[0]["found"] if name.split()[0] in place and "settled" not in name]
    every.sort(key=lambda name: place[name.split()[0]])
    tests = [name for name in every if "of between = 0" in name]

    def shares(name: str, design: str) -> list[float]:
        return [100 * cell["found"][name]["share"] for cell in cells if cell["design"] == design]

    coverage = [
        [name, *(f"{min(found):.1f} to {max(found):.1f}" for design in designs if (found := shares(name, design)))]
        for name in every
        if name not in tests
    ]
    sizes = [
        [name, *(f"{100 * cell['found'][name]['share']:.1f}" for cell in cells if cell["ratio"] == 0)] for name in tests
    ]
    rows_of = lambda name: max(cell["found"][name]["error"] for cell in cells)
    asymptotic, drawn = ([name for name in every if ("bootstrap" in name) == kind] for kind in (False, True))
    datasets, bootstraps = (cells[0]["found"][names[0]]["n"] for names in (asymptotic, drawn or asymptotic))
    error, of_bootstrap = (100 * max(map(rows_of, names)) for names in (asymptotic, drawn or asymptotic))
    return "\n\n".join(
        [
            f"Coverage of intervals of nominal {100 * report['level']:g} %: lowest and highest over between / within = "
            f"{', '.join(f'{ratio:g}' for ratio in ratios)}, in percent. {datasets:,} datasets of each design and "
            f"ratio (Monte-Carlo error {error:.2f} at most), {bootstraps:,} for the bootstrap ({of_bootstrap:.1f}), of "
            f"999 replicates each; an interval that these do not determine, as many of BCa, counts as one that misses.",
            rows(["interval", *designs], coverage),
            "Rejections in percent where between is 0, of tests of nominal 5 %:",
            rows(["test", *designs], sizes),
        ]
    )


def described(case: dict[str, Any]) -> str:
    name = "Dyestuff: " if case["name"] == "Dyestuff" else ""
    shape = "pairs" if case["n"] == 2 * case["groups"] else "groups"
    return f"{name}{case['n']:,} rows, {case['groups']:,} {shape}, p = {case['coefficients']}"


def cell(result: dict[str, Any]) -> str:
    """`6.1 ms (2e-16)`, or why there is nothing."""
    if "seconds" not in result:
        return result["unavailable"].split(" at ")[0] if "longer than" in result["unavailable"] else "failed"
    error = result["error"]["between"]
    return f"{duration(result['seconds'])} ({error:.0e})".replace("e-0", "e-").replace("0e+00", "exact")


def duration(seconds: float) -> str:
    """Two significant digits, in ms below a second."""
    value, unit = (seconds, "s") if seconds >= 1 else (seconds * 1000, "ms")
    return f"{value:,.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"


def rows(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def replaced(text: str, table: str, name: str) -> str:
    """The text with the table between the markers of its name."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"


TABLES = {
    "one_fit": markdown,
    "many": many_markdown,
    "bootstrap": bootstrap_markdown,
    "inference": inference_markdown,
    "calibration": calibration_markdown,
    "meta": meta_markdown,
    "gradients": gradients_markdown,
}


def main() -> int:
    readme = ROOT / "README.md"
    text = wanted = readme.read_text(encoding="utf-8")
    for name, tables in TABLES.items():
        file = RESULTS / f"{name}.json"
        if file.exists():
            wanted = replaced(wanted, tables(json.loads(file.read_text(encoding="utf-8"))), name)
    if "--check" in sys.argv[1:]:
        if text != wanted:
            print("README.md is not what benchmarks/results says: run `python benchmarks/table.py`.")
        return int(text != wanted)
    readme.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
