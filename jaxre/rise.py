"""How much worse the likelihood of a fit gets away from its optimum: the numbers behind the picture of a profile."""

from __future__ import annotations

import jax
import numpy as np

from jaxre.curve import Curve, curve
from jaxre.edges import VARIANCES
from jaxre.effects import normal_equations
from jaxre.fitted import Fit
from jaxre.profile_interval import RATIOS
from jaxre.settings import host_settings
from jaxre.strata import stratify


def profile_rise(fit: Fit, parameter: str, values: np.ndarray) -> np.ndarray:
    """Rise of -2 log-likelihood, maximised over the rest, above its minimum, at values of a parameter; to 1e-7."""
    of_data = _curve(fit)
    if parameter in RATIOS:
        ratios = values / (1 - values) if parameter == "icc" else values
        _, quadratic, log_det = _at(of_data, ratios)
        height = float(of_data.n) * np.log(quadratic) + log_det
        return height - _lowest(of_data, fit)
    a, b = VARIANCES[parameter.removeprefix("sd_")]
    theta = values**2 if parameter.startswith("sd_") else values
    theta = theta * float(_scale(fit)) ** 2
    centre = max(fit.ratio, 1e-3 / float(of_data.size))
    grid = np.append(0.0, centre * np.geomspace(1e-7, 1e7, 6001))
    grid, quadratic, log_det = _at(of_data, grid)
    n, found = float(of_data.n), np.empty(len(theta))
    with np.errstate(all="ignore"):
        for i, value in enumerate(theta):
            within = value / (a + b * grid)
            height = np.where(within > 0, n * np.log(within) + quadratic / within + log_det, np.inf)
            if value == 0 and a == 0:  # no variance between groups
                height = np.where(grid == 0, n * np.log(quadratic / n) + n + log_det, np.inf)
            found[i] = _vertex(np.where(np.isnan(height), np.inf, height))
    return found - _lowest(of_data, fit) - n * (1 - np.log(n))


def local_optima(fit: Fit, parameter: str) -> tuple[np.ndarray, np.ndarray]:
    """Where the local optima are on the axis of a parameter, and how much worse each is than the best."""
    of_data = _curve(fit)
    ratio, quadratic, log_det = _at(of_data, np.asarray(fit.optima_ratio))
    n = float(of_data.n)
    height = n * np.log(quadratic) + log_det
    within = quadratic / n / float(_scale(fit)) ** 2
    a, b = VARIANCES.get(parameter.removeprefix("sd_"), (0, 0))
    place = ratio / (1 + ratio) if parameter == "icc" else ratio if parameter == "ratio" else (a + b * ratio) * within
    return np.sqrt(place) if parameter.startswith("sd_") else place, height - height.min()


def _curve(fit: Fit) -> Curve:
    with host_settings():
        return curve(normal_equations(stratify(fit.moments)), fit.method == "reml")


def _scale(fit: Fit) -> np.ndarray:
    return fit.moments.frame.scale


def _at(of_data: Curve, ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratios, Q and L there."""
    with host_settings():
        at = jax.jit(jax.vmap(of_data.at))(np.asarray(ratios, float))
        return np.asarray(ratios, float), np.asarray(at.quadratic), np.asarray(at.log_det)


def _lowest(of_data: Curve, fit: Fit) -> float:
    _, quadratic, log_det = _at(of_data, np.array([fit.ratio]))
    return float(of_data.n * np.log(quadratic[0]) + log_det[0])


def _vertex(height: np.ndarray) -> float:
    """The minimum of values on an even grid, by the parabola through the lowest and its neighbours."""
    i = int(np.argmin(height))
    if i <= 1 or i == len(height) - 1 or not np.isfinite(height[i - 1 : i + 2]).all():
        return float(height[i])
    left, middle, right = height[i - 1 : i + 2]
    bend = left - 2 * middle + right
    return float(middle - (left - right) ** 2 / (8 * bend)) if bend > 0 else float(middle)
