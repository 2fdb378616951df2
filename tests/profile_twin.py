"""Profile-likelihood regions the slow way: dense matrices, a grid over lambda, a scan and bisection over it."""

from __future__ import annotations

import dense
import numpy as np
from scipy.optimize import brentq, minimize_scalar

SHARES = {"between": (0, 1), "within": (1, 0), "total": (1, 1)}


class Twin:
    """-2 log L but for its constant, from dense matrices, minimised over everything but one parameter."""

    def __init__(self, y, groups, covariates=None, *, restricted=False):
        self.y, self.x, self.z = y, dense.design(len(y), covariates), dense.indicators(groups)
        self.restricted, self.n = restricted, len(y) - (self.x.shape[1] if restricted else 0)
        self.size = len(y) / self.z.shape[1]
        self.grid = np.concatenate([[0.0], np.geomspace(1e-6, 1e7, 900)]) / self.size
        self.tables = {None: np.array([self.parts(ratio) for ratio in self.grid]).T}
        self.minimum = self.value("ratio", None, self.best("ratio", None))

    def parts(self, ratio, place=None):
        """L, and Q as a polynomial in the value of a coefficient."""
        h = np.eye(len(self.y)) + ratio * self.z @ self.z.T
        log_det = np.linalg.slogdet(h)[1]
        if self.restricted:
            log_det += np.linalg.slogdet(self.x.T @ np.linalg.solve(h, self.x))[1]
        if place is None:
            return log_det, self.y @ dense.projection(self.x, h) @ self.y, 0.0, 0.0
        column, others = self.x[:, place], np.delete(self.x, place, axis=1)
        p = dense.projection(others, h) if others.size else np.linalg.inv(h)
        return log_det, self.y @ p @ self.y, -2 * column @ p @ self.y, column @ p @ column

    def value(self, name, theta, ratio, parts=None):
        place = name if isinstance(name, int) else None
        log_det, a, b, c = self.parts(ratio, place) if parts is None else parts
        if name in ("ratio", None) or isinstance(name, int):
            q = a if place is None else a + b * theta + c * theta**2
            return self.n * (np.log(q / self.n) + 1) + log_det
        share = SHARES[name][0] + SHARES[name][1] * ratio
        with np.errstate(all="ignore"):
            within = theta / share
            found = self.n * np.log(within) + log_det + a / within
        return np.where(share > 0, found, np.inf)

    def on_grid(self, name, theta):
        """-2 log L at all ratios of the grid."""
        place = name if isinstance(name, int) else None
        if place not in self.tables:
            self.tables[place] = np.array([self.parts(ratio, place) for ratio in self.grid]).T
        return self.value(name, theta, self.grid, self.tables[place])

    def best(self, name, theta):
        """The ratio of the global minimum over lambda: the best three of the grid, refined."""
        values = self.on_grid(name, theta)
        inner = 1 + np.flatnonzero((values[1:-1] <= values[:-2]) & (values[1:-1] <= values[2:]))
        found = [(values[0], 0.0)]
        for i in inner[np.argsort(values[inner])][:3]:
            low, high = np.log(self.grid[i - 1] + 1e-9), np.log(self.grid[i + 1] + 1e-9)
            at = lambda s: float(self.value(name, theta, np.exp(s) - 1e-9))
            done = minimize_scalar(at, bounds=(low, high), method="bounded", options={"xatol": 1e-9})
            found.append((done.fun, np.exp(done.x) - 1e-9))
        return min(found)[1]

    def rise(self, name, theta):
        """The profile of -2 log L in a parameter, less its minimum."""
        if name == "ratio":
            return float(self.value(name, None, theta)) - self.minimum
        if name == "between" and theta == 0:
            return float(self.value("ratio", None, 0.0)) - self.minimum
        return float(self.value(name, theta, self.best(name, theta))) - self.minimum

    def region(self, name, limit, thetas):
        """Outermost crossings, and how many intervals there are, from a scan over rising values and bisection."""
        rise = self.rise if name == "ratio" else lambda name, theta: self.on_grid(name, theta).min() - self.minimum
        over = np.array([rise(name, theta) if theta else self.rise(name, 0.0) for theta in thetas]) - limit
        inside = np.flatnonzero(over <= 0)
        assert inside.size, "the scan is too coarse"
        assert over[-1] > 0, "the scan is too short"
        at = lambda theta: self.rise(name, theta) - limit

        def root(i, step):
            """Outside of the i-th value; the one next to it may look rejected on the grid alone."""
            a, b = thetas[i], thetas[i + step]
            return root(i + step, step) if at(b) <= 0 else brentq(at, a, b, xtol=1e-12 * abs(b), rtol=1e-12)

        low = thetas[0] if inside[0] == 0 else root(inside[0], -1)
        return low, root(inside[-1], 1), 1 + int((np.diff(inside) > 1).sum())
