"""The README's table is the one that the committed results make, and the benchmark's truth is the truth."""

import json
import os
import subprocess
import sys
from decimal import Decimal

import jax
import numpy as np
import pytest
from scripts import ROOT, load

import jaxre
from jaxre import datasets


def test_the_readme_has_the_tables_of_the_committed_results():
    table, readme = load("table"), (ROOT / "README.md").read_text(encoding="utf-8")
    for name, tables in table.TABLES.items():
        assert readme.count(f"<!-- {name}:begin -->") == readme.count(f"<!-- {name}:end -->") == 1
        file = table.RESULTS / f"{name}.json"
        if file.exists():
            report = json.loads(file.read_text(encoding="utf-8"))
            assert not report.get("quick")
            assert table.replaced(readme, tables(report), name) == readme


def run(script, *arguments):
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_cases_from_moments_and_memory_run(tmp_path):
    out = tmp_path / "many.json"
    done = run("many.py", "--quick", "--cases", "moments, balanced", "memory", "--out", out)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["quick"]
    (result,) = report["results"].values()
    assert result["certified_share"] == 1
    if "unavailable" not in report["memory"]:
        assert report["memory"]["datasets"] == 100 * report["memory"]["chunk"]
        assert report["memory"]["peak_anonymous_megabytes"] > 0
    assert "from moments, balanced" in load("table").many_markdown(report)


def test_without_a_gpu_its_benchmark_says_so():
    done = run("gpu.py", "--quick")
    assert done.returncode == 2
    assert "no GPU" in done.stderr


def test_moments_that_are_drawn_are_those_of_the_model(x64):
    """Within 1 and between 1/2: the analysis of variance is unbiased, and 2,000 datasets leave an error of 1 %."""
    estimate = jax.jit(jax.vmap(jaxre.anova))(load("from_moments").draw(2_000, (2, 3, 5), 8))
    assert abs(estimate.within.mean() - 1) < 0.03
    assert abs(estimate.between_untruncated.mean() - 0.5) < 0.03


@pytest.fixture
def some_fits(rng):
    groups = np.repeat(np.arange(8), 5)
    values = rng.normal(size=(40, 6)) + 2 * rng.normal(size=(8, 6))[groups]
    return values, groups, jaxre.fit_many(values, groups, progress=False)


def test_a_tool_beside_jaxre_agrees_or_says_why_not(some_fits):
    values, groups, fits = some_fits
    found = load("refits").beside(("optax", "no such tool"), values, groups, None, fits, sys.executable, 0.1)
    assert found["no such tool"] == {"unavailable": "KeyError: 'no such tool'"}
    assert found["optax"]["fits"] == 6
    assert found["optax"]["worst_difference"] < 1e-6  # a minimum without its score: the square root of eps


def test_the_table_of_many_datasets_shows_tools_memory_and_devices():
    peers = {"fast": {"fits_per_second": 2345.6, "median_difference": 2e-9, "worst_difference": 1e-4}}
    peers |= {"broken": {"unavailable": "it is"}, "slow": {"unavailable": "longer than 9 s"}}
    result = {"fits_per_second": 1e6, "certified_share": 1.0, "seconds": [2.0], "seconds_to_read_once": 0.5}
    report = {
        "machine": {"machine": "m", "jax": "1"},
        "results": {"one": result | {"peers": peers}, "two": {**result, "seconds_to_read_once": None}},
        "memory": {
            "input_megabytes": 1000,
            "anonymous_megabytes_before": 100,
            "peak_anonymous_megabytes": 150,
            "result_megabytes": 20,
        },
        "devices": {"cores": 2, "speedup": 1.9},
    }
    text = load("table").many_markdown(report)
    for line in (
        "| one | 1,000,000 | 100.00% | 4 |",
        "| two | 1,000,000 | 100.00% |  |",
        "| fast | 2,346 (2e-9, 1e-4) |",
        "| broken | failed |",
        "| slow | too slow |",
        "1,000 MB, 100 chunks, takes 50 MB more at most than the process held before, 20 MB of it the result.",
        "Two CPU devices on 2 cores are 1.90 times as fast as one.",
    ):
        assert line in text


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
