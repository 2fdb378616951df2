"""PyMARE's REML of many meta-analyses in one call: pymare.py FOLDER.

Reads data.npy (2, studies, datasets), effects and variances, from the folder. Writes found.npy, tau2 of each dataset,
and prints JSON: seconds, version. Only the fit is timed.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

sys.path.pop(0)  # this folder, in which PyMARE is this file

import numpy as np
from pymare import Dataset
from pymare.estimators import VarianceBasedLikelihoodEstimator


def main() -> None:
    """Fit and report."""
    folder = Path(sys.argv[1])
    effects, variances = np.load(folder / "data.npy")
    warnings.simplefilter("ignore")
    data = Dataset(y=effects, v=variances, X=np.ones((len(effects), 1)), add_intercept=False)
    start = time.perf_counter()
    found = VarianceBasedLikelihoodEstimator(method="REML").fit_dataset(data).params_["tau2"]
    seconds = time.perf_counter() - start
    np.save(folder / "found.npy", np.ravel(found))
    print(json.dumps({"seconds": seconds, "version": version("pymare")}))


if __name__ == "__main__":
    main()
