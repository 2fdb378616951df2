"""The pure functions of inference for one fit: on the host, in double precision, compiled once for many designs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxre.coefficient_error import DF
from jaxre.coefficients import CoefficientTests, coefficient_tests
from jaxre.components import Components
from jaxre.criteria import Criteria, criteria
from jaxre.distributions import level_of
from jaxre.eager import bucket, bucketed, is_little, types_of
from jaxre.exact import ExactInterval, FTest, exact_interval, f_test
from jaxre.moments import GroupMoments, Strata
from jaxre.profile_interval import Peak, ProfileInterval, intervals_alone, intervals_at
from jaxre.settings import host_settings, options_of, platform, quick_jit
from jaxre.stacking import padded

VARIANCES = ("between", "within", "sd_between", "sd_within")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Inference:
    """What a summary says beyond the estimates; see `Fit.inference`."""

    coefficients: CoefficientTests
    """t tests and intervals of the coefficients."""
    f_test: FTest
    """exact test of between = 0."""
    interval: ExactInterval
    """exact interval for ratio and ICC."""
    variances: dict[str, ProfileInterval] | None
    """profile-likelihood intervals by parameter; None for the analysis of variance, which has none."""
    criteria: Criteria
    """information criteria and R^2."""
    df: str
    """"satterthwaite" or "kenward-roger"."""
    level: float
    """[1], of the intervals."""

    def to_dict(self) -> dict[str, Any]:
        """Every number as plain Python lists and floats."""
        plain = {name: _plain(getattr(self, name)) for name in ("coefficients", "f_test", "interval", "criteria")}
        of_variances = {name: _plain(interval) for name, interval in (self.variances or {}).items()}
        return {"df": self.df, "level": self.level, **plain, "profile": of_variances}


def _plain(record: Any) -> dict[str, Any]:
    return {field.name: np.asarray(getattr(record, field.name)).tolist() for field in dataclasses.fields(record)}


Named = dict[str, Any]


def on_host(
    function: Callable[..., Any], moments: GroupMoments, *numbers: Any, named: Named | None = None, **words: Any
) -> Any:
    """function(strata, *numbers, **named, **words) in double precision, compiled once for the words and the padded
    shapes, whatever the numbers are."""
    with host_settings(), np.errstate(all="ignore"):
        strata = bucketed(moments)
        return as_numpy(_compiled(function, words, is_little(strata))((strata, *numbers), named or {}))


def as_numpy(tree: Any) -> Any:
    """NumPy arrays, and NumPy numbers where there is no axis."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[()], tree)


def on_groups(
    function: Callable[..., Any], moments: GroupMoments, *numbers: Any, named: Named | None = None, **words: Any
) -> Any:
    """The same of moments, with arrays (groups, ...): compiled once for many numbers of groups."""
    groups = len(moments.sizes)
    with host_settings(), np.errstate(all="ignore"):
        found = _compiled(function, words)((filled(moments), *numbers), named or {})
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:groups], found)


def filled(moments: GroupMoments) -> GroupMoments:
    """Moments with empty groups, up to one of a few numbers of groups."""
    return padded(moments, bucket(len(moments.sizes)))


def on_many(
    function: Callable[..., Any],
    moments: GroupMoments,
    *numbers: Any,
    rows: tuple[np.ndarray, ...],
    named: Named | None = None,
    **words: Any,
) -> Any:
    """The same of moments, the numbers and then rows, with arrays (m, ...): compiled once for many m; rows fill them
    up."""
    m = len(rows[0])
    if m == 0:
        raise ValueError("there is nothing to predict: groups has no labels.")
    place = np.arange(bucket(m)) % m
    with host_settings(), np.errstate(all="ignore"):
        full = (leaf[place] for leaf in rows)
        found = _compiled(function, words)((filled(moments), *numbers, *full), named or {})
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:m], found)


def _compiled(function: Callable[..., Any], words: dict[str, Any], small: bool = False) -> Any:
    every = tuple(sorted(words.items()))
    return _program(function, every, types_of(every), small)


@functools.lru_cache(maxsize=64)
def _program(function: Callable[..., Any], words: tuple[tuple[str, Any], ...], types: Any, small: bool) -> Any:
    del types  # which tell equal words apart
    run = functools.partial(function, **dict(words))
    return quick_jit(lambda numbers, named: run(*numbers, **named), platform(), options_of(small))


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


def infer(
    moments: GroupMoments, components: Components, peak: Peak, method: str, df: str | None, level: float
) -> Inference:
    """Tests and intervals for a fit, in one compiled program, and another where a quick search leaves doubts."""
    level, df = level_of(level), df_of(method, df)
    tests, test, exact, about, variances = on_host(_all, moments, components, peak, level, df=df, method=method)
    if variances is not None:
        if not all(interval.settled for interval in variances):
            with host_settings(), np.errstate(all="ignore"):
                restricted, searches = method == "reml", ("whole",)
                found = intervals_alone(moments, peak, VARIANCES, level, restricted=restricted, searches=searches)
                variances = as_numpy(found)
        variances = dict(zip(VARIANCES, variances, strict=True))
    return Inference(
        coefficients=tests,
        f_test=test,
        interval=exact,
        variances=variances,
        criteria=about,
        df=df,
        level=float(level),
    )


def _all(strata: Strata, components: Components, peak: Peak, level: Any, df: str, method: str) -> tuple[Any, ...]:
    tests = coefficient_tests(
        strata, components, df=df, level=level, restricted=method != "ml", information=information_of(method)
    )
    variances = None
    if method != "anova":
        variances = intervals_at(strata, peak, VARIANCES, level, restricted=method == "reml", search="quick")
    return tests, f_test(strata), exact_interval(strata, level), criteria(strata, components, method=method), variances


def profile_of_one(
    moments: GroupMoments, peak: Peak, parameter: str | int, level: float, restricted: bool
) -> ProfileInterval:
    """The profile-likelihood interval of a parameter about a known optimum."""
    with host_settings(), np.errstate(all="ignore"):
        return as_numpy(intervals_alone(moments, peak, (parameter,), level, restricted=restricted))[0]
