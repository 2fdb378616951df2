"""Puts the table of benchmarks/results/one_fit.json between the README's markers: `python benchmarks/table.py`."""

from __future__ import annotations

import json
import pathlib
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "one_fit.json"
BEGIN, END = "<!-- one_fit:begin -->", "<!-- one_fit:end -->"


def table(report: dict[str, Any]) -> str:
    """Markdown: a row for each dataset, a column for each tool, jaxre first; then labels, cold start and machine."""
    warm, labels, machine = report["warm"], report["label kinds"], report["machine"]
    tools = ["jaxre", *dict.fromkeys(tool for row in warm.values() for tool in row if tool != "jaxre")]
    lines = [["one REML fit: ms (relative error)", *tools], ["---"] * (len(tools) + 1)]
    lines += [[name, *(cell(row.get(tool, {})) for tool in tools)] for name, row in warm.items()]
    kinds = ", ".join(f"{kind} {1e3 * seconds:.3g} ms" for kind, seconds in labels["seconds"].items())
    starts = ", ".join(f"{seconds:.2g} s {kind}" for kind, seconds in report["cold start seconds"].items())
    used = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return (
        "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + f"\n\nLabels, {labels['rows']:,} rows in {labels['groups']:,} groups: {kinds}. "
        f"Import and first fit: {starts}. One of {machine['cores']} cores, {machine['processor']}; {used}."
    )


def cell(result: dict[str, Any]) -> str:
    """`6.1 (2e-16)`; a dash where there is no result."""
    return f"{1e3 * result['seconds']:.3g} ({result['error']:.0e})" if "seconds" in result else "-"


def filled(readme: str, report: dict[str, Any]) -> str:
    """The README with the table between the markers."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table(report)}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(filled(path.read_text(), json.loads(RESULTS.read_text())))
