"""The README's table is the one that the committed results make, and the benchmark's truth is the truth."""

import importlib.util
import json
import pathlib
from decimal import Decimal

import numpy as np

from jaxre import datasets

ROOT = pathlib.Path(__file__).parent.parent


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_has_the_tables_of_the_committed_results():
    table, readme = load("table"), (ROOT / "README.md").read_text(encoding="utf-8")
    for name, tables in {"one_fit": table.markdown, "many": table.many_markdown}.items():
        assert readme.count(f"<!-- {name}:begin -->") == readme.count(f"<!-- {name}:end -->") == 1
        file = table.RESULTS / f"{name}.json"
        if file.exists():
            report = json.loads(file.read_text(encoding="utf-8"))
            assert not report.get("quick")
            assert table.replaced(readme, tables(report), name) == readme


def test_filling_a_table_twice_changes_nothing():
    table = load("table")
    once = table.replaced("a\n<!-- x:begin -->\n<!-- x:end -->\nb", "| x |", "x")
    assert "| x |" in once
    assert table.replaced(once, "| x |", "x") == once


def test_the_exact_estimate_is_the_closed_form_of_dyestuff():
    columns = datasets.load("dyestuff").columns
    _, batch = np.unique(columns["Batch"], return_inverse=True)
    between, within = load("exact").between_and_within(columns["Yield"] * 1.0, batch, np.empty((30, 0)), 2.0**-12, 0.7)
    assert abs(between - Decimal("1764.05")) < Decimal("1e-20") > abs(within - Decimal("2451.25"))
