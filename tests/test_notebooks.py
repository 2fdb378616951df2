"""Every notebook runs from its first line to its last, and what it asserts holds."""

import os
import pathlib
import subprocess
import sys

import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.py"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, tmp_path):
    flags = os.environ.get("XLA_FLAGS", "").replace("level=0", "level=1")  # they compute more than they compile
    environment = {**os.environ, "MPLBACKEND": "Agg", "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, notebook], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_there_are_notebooks():
    assert NOTEBOOKS
