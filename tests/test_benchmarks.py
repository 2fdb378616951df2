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
    estimate = jax.jit(jax.vmap(jaxre.anova, in_axes=-1))(load("from_moments").draw(2_000, (2, 3, 5), 8))
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


def test_the_table_of_gradients_shows_costs_and_other_ways():
    cost = {"seconds": {"value": 2.5e-4}, "ratio_of_one": 1.26, "ratio_of_batch": 2.04, "gradients_per_second": 54321.0}
    steps = {"gradients_per_second": 6543.2, "median_relative_difference": 3e-5, "share_within_1e-6": 0.2}
    report = {
        "machine": {"machine": "m", "jax": "1"},
        "datasets": 8192,
        "results": {"icc, REML": cost, "within, REML": cost | {"gradients_per_second": 4e4}},
        "unrolled": {"9 steps": steps},
        "finite_differences": {"gradients_per_second": 57.4, "worst_relative_difference": 2e-9},
    }
    text = load("table").gradients_markdown(report)
    for line in (
        "| icc, REML | 0.25 ms | 1.3 | 2.0 | 54,321 |",
        "| within, REML | 0.25 ms | 1.3 | 2.0 | 40,000 |",
        "Other ways to the gradient of icc, REML,",
        "| implicit | 54,321 |  |  |",
        "| through 9 steps | 6,543 | 3e-5 | 20.0% |",
        "| central differences, worst | 57 | 2e-9 |  |",
    ):
        assert line in text


def test_the_table_of_meta_analyses_shows_pymare_where_it_ran():
    report = {
        "machine": {"machine": "m", "jax": "1"},
        "results": {"REML": {"fits_per_second": 1e6, "certified_share": 0.99991}},
        "PyMARE": {"version": "9", "fits_per_second": 123.4, "median_difference": 2e-9, "worst_difference": 1e-4},
    }
    text = load("table").meta_markdown(report)
    for line in (
        "| jaxre, REML | 1,000,000 | 99.99% |",
        "| PyMARE 9, REML | 123 |  |",
        "lies 2e-9 from",
        "1e-4 at worst",
    ):
        assert line in text
    alone = load("table").meta_markdown(report | {"PyMARE": {"unavailable": "it is"}})
    assert "PyMARE" not in alone
    assert "| jaxre, REML | 1,000,000 |" in alone


@pytest.mark.slow
def test_meta_analyses_run_as_one_at_a_time(tmp_path):
    """From draw to table: the batch's tau2 is that of single fits, up to the rounding of another program."""
    out = tmp_path / "meta.json"
    done = run("meta.py", "--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["quick"]
    assert all(found["certified_share"] == 1 for found in report["results"].values())
    assert report["worst_error_against_one_at_a_time"] < 1e-12
    assert "| jaxre, everything |" in load("table").meta_markdown(report)


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
