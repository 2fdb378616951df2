"""The README's table of times is the one that the committed results make."""

import importlib.util
import json
import pathlib

HERE = pathlib.Path(__file__).parent.parent
REPORT = {
    "warm": {"small": {"slow": {"seconds": 0.5, "error": 1e-5}, "jaxre": {"seconds": 0.001, "error": 0.0}, "gone": {}}},
    "label kinds": {"rows": 10, "groups": 2, "seconds": {"integers": 0.002}},
    "cold start seconds": {"without cache": 2.0, "with persistent cache": 1.0},
    "machine": {"cores": 2, "processor": "x"},
    "versions": {"jax": "0"},
}


def load():
    spec = importlib.util.spec_from_file_location("table", HERE / "benchmarks" / "table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_table_has_a_row_for_each_dataset_with_our_column_first():
    lines = load().table(REPORT).splitlines()
    assert lines[0].startswith("| one REML fit: ms (relative error) | jaxre | slow | gone |")
    assert lines[2] == "| small | 1 (0e+00) | 500 (1e-05) | - |"


def test_the_readme_has_the_table_of_the_committed_results():
    module, readme = load(), (HERE / "README.md").read_text()
    assert readme.count(module.BEGIN) == readme.count(module.END) == 1
    if module.RESULTS.exists():
        assert module.filled(readme, json.loads(module.RESULTS.read_text())) == readme
