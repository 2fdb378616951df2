"""Cases with 25-digit answers, and the data they belong to; README.md says where they come from."""

import csv
import functools
import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FOLDER = Path(__file__).parent
_LINES = (FOLDER / "cases.jsonl").read_text().splitlines()
# in order of the number of coefficients: neighbours share a compiled kernel
CASES: tuple[dict[str, Any], ...] = tuple(sorted(map(json.loads, _LINES), key=lambda case: len(case["coefficients"])))
IDENTIFIED = tuple(case for case in CASES if "not_identified" not in case)
NOT_IDENTIFIED = tuple(case for case in CASES if "not_identified" in case)
# of few coefficients and groups, which share a few programs: what is computed beyond the estimates is tested on these
# every day, on all cases in the whole run
EVERYDAY = tuple(case for case in CASES if len(case["coefficients"]) in (1, 3) and case["groups"] <= 20)
NIST = tuple(case for case in CASES if case["kind"] == "nist")


class Table(NamedTuple):
    """Arguments of `jaxre.fit`."""

    values: np.ndarray
    groups: np.ndarray
    covariates: np.ndarray | None


@functools.lru_cache(maxsize=4)
def table(case_id: str) -> Table:
    """The data of a case; Python's float() reads every decimal as the nearest double."""
    case = next(case for case in CASES if case["id"] == case_id)
    path, columns = FOLDER / case["file"], case["columns"]
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", newline="") as file:
        head, *rows = csv.reader(file)
    column = dict(zip(head, zip(*rows, strict=True), strict=True))
    covariates = [list(map(float, column[name])) for name in columns["covariates"]]
    return Table(
        np.array(list(map(float, column[columns["outcome"]]))),
        np.array(column[columns["group"]]),
        np.array(covariates).T if covariates else None,
    )
