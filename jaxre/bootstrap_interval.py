"""Intervals from the replicates of one number: percentile, basic and BCa."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np


def interval_of(
    drawn: np.ndarray, estimate: float, scores: np.ndarray | None, kind: str, level: float
) -> tuple[float, float, float, float, int]:
    """Interval, bias, standard error and the number of replicates used, of one number."""
    known = ~np.isnan(drawn)
    used = int(known.sum())
    if used < len(drawn):
        drawn, scores = drawn[known], None if scores is None else scores[known]
    if used < 2:
        return np.nan, np.nan, np.nan, np.nan, used
    places = (1 - level) / 2, (1 + level) / 2
    if kind == "bca":
        assert scores is not None
        places = _bca_places(drawn, estimate, scores, places)
    low, high = order_statistics(drawn, places)
    if kind == "basic":
        low, high = 2 * estimate - high, 2 * estimate - low
    return low, high, float(drawn.mean()) - estimate, float(drawn.std(ddof=1)), used


def order_statistics(drawn: np.ndarray, places: tuple[float, float]) -> list[float]:
    """Those at (B + 1) a, interpolated; NaN beyond the first and the last."""
    found, last = [], len(drawn)
    at = [(last + 1) * place for place in places]
    inside = [1 <= h <= last for h in at]
    floors = [int(h) if good else 1 for h, good in zip(at, inside, strict=True)]
    ordered = np.partition(drawn, sorted({i for k in floors for i in (k - 1, min(k, last - 1))}))
    for h, k, good in zip(at, floors, inside, strict=True):
        a, b = float(ordered[k - 1]), float(ordered[min(k, last - 1)])
        found.append((a if a == b or h == k else a + (h - k) * (b - a)) if good else np.nan)
    return found


def _bca_places(
    drawn: np.ndarray, estimate: float, scores: np.ndarray, places: tuple[float, float]
) -> tuple[float, float]:
    """Where BCa takes its order statistics; NaN where it is not defined."""
    below = float((drawn < estimate).mean() + (drawn == estimate).mean() / 2)
    c = acceleration(drawn, scores)
    if not 0 < below < 1 or np.isnan(c):
        return np.nan, np.nan
    normal = NormalDist()
    z0 = normal.inv_cdf(below)
    steps = [z0 + normal.inv_cdf(place) for place in places]
    low, high = (normal.cdf(z0 + step / (1 - c * step)) if c * step < 1 else np.nan for step in steps)
    return low, high


def acceleration(drawn: np.ndarray, scores: np.ndarray) -> float:
    """A sixth of the skewness of the regression of the replicates on their scores; NaN where they do not vary."""
    x = scores - scores.mean(axis=0)
    spread = x.std(axis=0)
    x = x / np.where(spread > 0, spread, 1)
    t = drawn - drawn.mean()
    if not np.isfinite(t).all() or not t.any():
        return np.nan
    score = x @ np.linalg.lstsq(x.T @ x, x.T @ t)[0]
    return float((score**3).mean() / (score**2).mean() ** 1.5 / 6)
