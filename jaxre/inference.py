"""The pure functions of inference for one fit: on the host, in double precision, compiled once for many designs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxre.coefficients import DF, CoefficientTests, coefficient_tests
from jaxre.components import Components
from jaxre.distributions import level_of
from jaxre.exact import ExactInterval, FTest, exact_interval, f_test
from jaxre.moments import GroupMoments, Strata, padded, stratify
from jaxre.settings import SINGLE, own_settings, quick_jit

BUCKETS = tuple(4**i for i in range(20))  # strata are padded to these, so that new data seldom compile anew


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Inference:
    """What a summary says beyond the estimates; see `Fit.inference`."""

    coefficients: CoefficientTests
    """t tests and intervals of the coefficients."""
    f_test: FTest
    """exact test of between = 0."""
    interval: ExactInterval
    """exact interval for ratio and ICC."""
    df: str
    """"satterthwaite" or "kenward-roger"."""
    level: float
    """[1], of the intervals."""

    def to_dict(self) -> dict[str, Any]:
        """Every number as plain Python lists and floats."""
        plain = {name: _plain(getattr(self, name)) for name in ("coefficients", "f_test", "interval")}
        return {"df": self.df, "level": self.level, **plain}


def _plain(record: Any) -> dict[str, Any]:
    return {field.name: np.asarray(getattr(record, field.name)).tolist() for field in dataclasses.fields(record)}


def bucketed(strata: Strata) -> Strata:
    """Strata padded to one of a few sizes."""
    return padded(strata, next(size for size in BUCKETS if size >= len(strata.sizes)))


def on_host(function: Callable[..., Any], moments: GroupMoments, *numbers: Any, **words: Any) -> Any:
    """function(strata, *numbers, **words) in double precision, compiled once for the words and the padded shapes."""
    with own_settings(), np.errstate(all="ignore"):
        found = _compiled(function, tuple(sorted(words.items())))(bucketed(stratify(moments)), *numbers)
        return jax.tree.map(np.asarray, found)


@functools.lru_cache(maxsize=64)
def _compiled(function: Callable[..., Any], words: tuple[tuple[str, Any], ...]) -> Any:
    run = functools.partial(function, **dict(words))
    return quick_jit(lambda *numbers: run(*numbers), jax.default_backend(), SINGLE)


def df_of(method: str, df: str | None) -> str:
    """The degrees of freedom asked for, by default those of Kenward and Roger for REML, else Satterthwaite's."""
    if df is None:
        return "kenward-roger" if method == "reml" else "satterthwaite"
    if df == "kenward-roger" and method != "reml":
        raise ValueError(
            f"the degrees of freedom of Kenward and Roger are those of REML, got method={method!r}: fit by "
            "method='reml', or use df='satterthwaite'."
        )
    if df not in DF:
        raise ValueError(f"df must be one of {', '.join(map(repr, DF))}, got {df!r}.")
    return df


def information_of(method: str) -> str:
    """Which information is behind Satterthwaite's degrees of freedom: observed at an optimum, else expected."""
    return "expected" if method == "anova" else "observed"


def infer(moments: GroupMoments, components: Components, method: str, df: str | None, level: float) -> Inference:
    """Tests and intervals for a fit, in one compiled program."""
    level, df = level_of(level), df_of(method, df)
    found = on_host(_all, moments, components, level, df=df, method=method)
    names = ("coefficients", "f_test", "interval")
    return Inference(df=df, level=float(level), **dict(zip(names, found, strict=True)))


def _all(strata: Strata, components: Components, level: Any, df: str, method: str) -> tuple[Any, ...]:
    tests = coefficient_tests(
        strata, components, df=df, level=level, restricted=method != "ml", information=information_of(method)
    )
    return tests, f_test(strata), exact_interval(strata, level)
