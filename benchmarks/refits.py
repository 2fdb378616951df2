"""Other tools on many outcomes over one design: fits a second, and how far their answers lie from those of jaxre."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
TOOLS = ("lme4 refit", "lme4 deviance function", "statsmodels", "lme-python", "glmm", "mixedlm", "optax")
ICC_TOOLS = ("pyrelimri", "pingouin")  # balanced data only, and the ICC only
STARTING = 120.0  # [s] to start, import and compile


def beside(
    tools: tuple[str, ...],
    values: np.ndarray,
    groups: np.ndarray,
    x: np.ndarray | None,
    fits: Any,
    peers: str,
    seconds: float,
) -> dict[str, Any]:
    """What each tool gave on the columns of `values`, for which it has so many seconds; `fits` are jaxre's."""
    x = np.empty((len(groups), 0)) if x is None else x
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = np.ascontiguousarray(values.T)
        for file, table in {"values": rows, "groups": groups, "x": x}.items():
            np.save(folder / f"{file}.npy", table)
        for file, table in {"values": rows, "groups": groups.astype(float), "x": x.T}.items():
            np.ascontiguousarray(table).tofile(folder / f"{file}.f8")
        (folder / "shape.txt").write_text(f"{len(groups)} {x.shape[1]} {len(rows)}\n")
        for tool in tools:
            found[tool] = answer(tool, folder, fits, peers, seconds)
    return found


def answer(tool: str, folder: Path, fits: Any, peers: str, seconds: float) -> dict[str, Any]:
    """One tool in a process of its own."""
    if tool.startswith("lme4"):
        rscript = shutil.which("Rscript")
        if rscript is None:
            return {"unavailable": "Rscript is not installed"}
        command = [rscript, str(HERE / "peers" / "refits.R"), tool.removeprefix("lme4 ")]
    else:
        command = [peers, str(HERE / "peers" / "refits.py"), tool]
    command += [str(folder), str(seconds)]
    try:
        limit = STARTING + 10 * seconds
        run = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"unavailable": f"longer than {limit:.0f} s"}
    if run.returncode:
        lines = [line.strip() for line in run.stderr.splitlines() if line.strip() and not line.startswith("note: ")]
        return {"unavailable": lines[-1][:200] if lines else f"ended with {run.returncode}"}
    said = json.loads(run.stdout)
    if tool.startswith("lme4"):
        numbers = np.fromfile(folder / "found.f8").reshape(2, -1)
    else:
        numbers = np.load(folder / "found.npy")
    difference = away(numbers, fits)
    return {
        "fits": said["fits"],
        "fits_per_second": said["fits"] / said["seconds"],
        "median_difference": float(np.median(difference)),
        "worst_difference": float(difference.max()),
        "version": said["version"],
    }


def away(numbers: np.ndarray, fits: Any) -> np.ndarray:
    """|between - jaxre's| in units of jaxre's between + within; of the ICC, a negative one as 0, where that is all."""
    count = numbers.shape[1]
    if len(numbers) == 1:
        return abs(np.maximum(numbers[0], 0) - fits.icc[:count])
    return abs(numbers[0] - fits.between[:count]) / (fits.between + fits.within)[:count]
