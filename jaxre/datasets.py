"""Published one-way data sets that come with the package."""

from __future__ import annotations

import csv
import dataclasses
from importlib import resources
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """A published data set, and which of its columns play which part."""

    name: str
    """what `load` and the command line call it."""
    title: str
    """what was measured."""
    source: str
    """where it was published."""
    outcome: str
    """column of the outcome."""
    group: str
    """column of the group labels."""
    covariates: tuple[str, ...] = ()
    """columns of the covariates."""
    columns: dict[str, np.ndarray]
    """every column, (n,) each: integers, doubles or text."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.columns[self.outcome])

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(set(self.columns[self.group].tolist()))


def names() -> tuple[str, ...]:
    """Names of the data sets, in alphabetical order.

    Returns:
        Names for `load`.

    Errors:
        none are raised.

    Source: see the `source` of each data set.

    Example:
        >>> from jaxre import datasets
        >>> datasets.names()
        ('dyestuff', 'dyestuff2', 'pastes', 'rail', 'ratpupweight', 'sleepstudy')
    """
    return tuple(sorted(_FACTS))


def load(name: str) -> Dataset:
    """Data set of a name, with its columns as arrays.

    Args:
        name: one of `names()`, in upper or lower case.

    Returns:
        Dataset.

    Errors:
        ValueError for a name that is not there.

    Source: see the `source` of each data set.

    Example:
        >>> import jaxre
        >>> from jaxre import datasets
        >>> rail = datasets.load("rail")
        >>> print(rail.columns["travel"][:6])
        [55 53 54 26 37 32]
        >>> print(f"{jaxre.fit(rail.columns[rail.outcome], rail.columns[rail.group]).between:.4f}")
        615.3111
    """
    key = name.lower() if isinstance(name, str) else ""
    if key not in _FACTS:
        raise ValueError(f"there is no data set {name!r}; those that come with jaxre are {', '.join(names())}.")
    text = (resources.files("jaxre") / "data" / f"{key}.csv").read_text(encoding="utf-8")
    header, *rows = csv.reader(text.splitlines())
    columns = {column: _typed(list(texts)) for column, texts in zip(header, zip(*rows, strict=True), strict=True)}
    return Dataset(name=key, columns=columns, **_FACTS[key])


def _typed(texts: list[str]) -> np.ndarray:
    """Integers if every text is one, else doubles, else the text itself."""
    array = np.array(texts)
    for kind in (np.int64, np.float64):
        try:
            return array.astype(kind)
        except ValueError:
            continue
    return array


_DAVIES = "Davies, O. L. and Goldsmith, P. L., eds. (1972), Statistical Methods in Research and Production, 4th ed."

_FACTS: dict[str, Any] = {
    "dyestuff": {
        "title": "yield of dyestuff [g of standard colour] in five preparations from each of six batches",
        "source": f"{_DAVIES}, Oliver and Boyd, section 6.4; Dyestuff in R's lme4",
        "outcome": "Yield",
        "group": "Batch",
    },
    "dyestuff2": {
        "title": "artificial yields in six batches of five, whose variance between batches is estimated as 0",
        "source": (
            "Box, G. E. P. and Tiao, G. C. (1973), Bayesian Inference in Statistical Analysis, Addison-Wesley, "
            "section 5.1.2; Dyestuff2 in R's lme4"
        ),
        "outcome": "Yield",
        "group": "Batch",
    },
    "pastes": {
        "title": "strength of a chemical paste, two assays of each of 30 casks from ten deliveries",
        "source": f"{_DAVIES}, Oliver and Boyd, section 6.5; Pastes in R's lme4",
        "outcome": "strength",
        "group": "sample",
    },
    "rail": {
        "title": "travel time of ultrasonic waves along six rails [ns, deviation from 36,100], three runs each",
        "source": (
            "Devore, J. L. (2000), Probability and Statistics for Engineering and the Sciences, 5th ed., Duxbury, "
            "example 10.10; Rail in R's nlme"
        ),
        "outcome": "travel",
        "group": "Rail",
    },
    "ratpupweight": {
        "title": "birth weight [g] of 322 rat pups in 27 litters of 2 to 18, by sex, litter size and dose",
        "source": (
            "Dempster, A. P., Selwyn, M. R., Patel, C. M. and Roth, A. J. (1984), Statistical and computational "
            "aspects of mixed model analysis, Applied Statistics 33, 203-214; RatPupWeight in R's nlme"
        ),
        "outcome": "weight",
        "group": "Litter",
        "covariates": ("sex", "Treatment", "Lsize"),
    },
    "sleepstudy": {
        "title": "mean reaction time [ms] of 18 subjects on each of the first ten days of a sleep deprivation study",
        "source": (
            "Belenky, G. et al. (2003), Patterns of performance degradation and restoration during sleep restriction "
            "and subsequent recovery, Journal of Sleep Research 12, 1-12; sleepstudy in R's lme4"
        ),
        "outcome": "Reaction",
        "group": "Subject",
        "covariates": ("Days",),
    },
}
