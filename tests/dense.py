"""The model by dense algebra: the slow and obvious twin of every fast formula, in NumPy and in mpmath."""

from __future__ import annotations

from dataclasses import dataclass

import mpmath
import numpy as np


def indicators(groups):
    """Z (n, J), one column a label 0 .. J - 1."""
    return (np.asarray(groups)[:, None] == np.arange(np.max(groups) + 1)).astype(float)


def group_sums(table, groups):
    """Z' table, for one column or several."""
    total = np.zeros((np.max(groups) + 1, *table.shape[1:]))
    np.add.at(total, groups, table)
    return total


def centre(table, groups):
    """The rows less the means of their groups."""
    return table - (group_sums(table, groups).T / np.bincount(groups)).T[groups]


def design(n, covariates=None):
    """X (n, p): a column of ones, then the covariates."""
    return np.ones((n, 1)) if covariates is None else np.column_stack([np.ones(n), covariates])


def covariance(within, between, groups):
    """V = within I + between Z Z', entry by entry."""
    n = len(groups)
    v = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            v[i, j] = (within if i == j else 0) + (between if groups[i] == groups[j] else 0)
    return v


def gls(y, x, v):
    """beta = (X' V^-1 X)^-1 X' V^-1 y and its covariance."""
    weighted = np.linalg.solve(v, x)
    information = x.T @ weighted
    return np.linalg.solve(information, weighted.T @ y), np.linalg.inv(information)


def projection(x, v):
    """P = V^-1 - V^-1 X (X' V^-1 X)^-1 X' V^-1."""
    inverse = np.linalg.inv(v)
    return inverse - inverse @ x @ np.linalg.solve(x.T @ inverse @ x, x.T @ inverse)


def log_likelihood(y, x, v, beta=None):
    """Gaussian log-density of y, at the GLS coefficients unless others are given."""
    residual = y - x @ (gls(y, x, v)[0] if beta is None else beta)
    return -(len(y) * np.log(2 * np.pi) + np.linalg.slogdet(v)[1] + residual @ np.linalg.solve(v, residual)) / 2


def restricted_log_likelihood(y, x, v):
    """log-density of the error contrasts, with lme4's constant: (n - p) log 2 pi and no log det X'X."""
    n, p = x.shape
    log_det_x = np.linalg.slogdet(x.T @ np.linalg.solve(v, x))[1]
    return -((n - p) * np.log(2 * np.pi) + np.linalg.slogdet(v)[1] + log_det_x + y @ projection(x, v) @ y) / 2


def blup(y, x, groups, within, between):
    """Predictions and their error variances from Henderson's mixed model equations."""
    z, p = indicators(groups), x.shape[1]
    w = np.column_stack([x, z])
    equations = w.T @ w
    equations[p:, p:] += np.eye(z.shape[1]) * within / between
    solution, inverse = np.linalg.solve(equations, w.T @ y), np.linalg.inv(equations)
    return solution[p:], within * np.diag(inverse)[p:]


def henderson_3(y, x, groups):
    """within and untruncated between of Henderson's method 3, from the two residual projections."""
    z, n = indicators(groups), len(y)
    both = np.column_stack([x, z])
    off_x, off_both = (np.eye(n) - table @ np.linalg.pinv(table) for table in (x, both))
    rank, r = np.linalg.matrix_rank(both), np.linalg.matrix_rank(both) - x.shape[1]
    within = y @ off_both @ y / (n - rank)
    return within, (y @ off_x @ y - y @ off_both @ y - r * within) / np.trace(z.T @ off_x @ z)


@dataclass
class Spectrum:
    """The profile f = N log Q + L through the eigenvalues of Z' P0 Z, for grids of thousands of ratios.

    Q = Q(infinity) + sum t_i / (1 + nu_i ratio), P0 = I - X (X'X)^-1 X'. Shares no formula with the package, which goes
    through M = W' H^-1 W and never forms an eigenvalue.
    """

    floor: float
    t: np.ndarray
    nu: np.ndarray
    sizes: np.ndarray
    n: int
    p: int
    log_det_x: float

    @classmethod
    def of(cls, y, x, groups):
        sizes, basis = np.bincount(groups).astype(float), np.linalg.qr(x)[0]
        of_basis = group_sums(basis, groups)  # Z' P0 Z = diag(sizes) - Z' U U' Z, the columns of U spanning those of X
        nu, vectors = np.linalg.eigh(np.diag(sizes) - of_basis @ of_basis.T)
        keep = nu > 1e-9 * nu.max()
        nu, vectors = nu[keep], vectors[:, keep]
        inside = centre(x[:, 1:], groups)
        residual = centre(y, groups)
        residual = residual - inside @ np.linalg.lstsq(inside, residual)[0]
        t = (vectors.T @ group_sums(y - basis @ (basis.T @ y), groups)) ** 2 / nu
        return cls(residual @ residual, t, nu, sizes, *x.shape, np.linalg.slogdet(x.T @ x)[1])

    @property
    def rounding(self):
        """What the eigenvalues of up to 31 groups of 1 to 20,000 rows may cost f: 1e-11 of Q, times n."""
        return 1e-11 * self.n

    def count(self, restricted):
        return self.n - self.p if restricted else self.n

    def profile(self, ratio, restricted):
        """f and f' at an array of ratios."""
        ratio = np.atleast_1d(ratio)[:, None]
        eigen = self.nu if restricted else self.sizes
        shrunk = self.t / (1 + ratio * self.nu)
        q, q_1 = self.floor + shrunk.sum(axis=1), -(shrunk * self.nu / (1 + ratio * self.nu)).sum(axis=1)
        log_det, log_det_1 = np.log1p(ratio * eigen).sum(axis=1), (eigen / (1 + ratio * eigen)).sum(axis=1)
        n = self.count(restricted)
        return n * np.log(q) + log_det, n * q_1 / q + log_det_1

    def log_likelihood(self, ratio, restricted):
        """The full or restricted log-likelihood at a ratio, within at its optimum Q / N."""
        n = self.count(restricted)
        constant = n * (np.log(2 * np.pi / n) + 1) + (self.log_det_x if restricted else 0)
        return -(self.profile(ratio, restricted)[0][0] + constant) / 2


def profile_grid(groups, points=4000, top=1e9):
    """Ratios from 0, even in log(1 + mean size * ratio)."""
    size = len(groups) / len(set(np.asarray(groups).tolist()))
    return np.expm1(np.linspace(0, np.log1p(top), points)) / size


def local_minima(slope):
    """Indices i such that f has a local minimum between grid points i and i + 1."""
    return np.flatnonzero((slope[:-1] < 0) & (slope[1:] >= 0))


def precise_minus_log_likelihood(y, x, groups, log_within, log_between, restricted):
    """The negative log-likelihood, beta profiled out, from dense V in mpmath's working precision."""
    n, p = x.shape
    within, between = mpmath.exp(log_within), mpmath.exp(log_between)
    v = mpmath.matrix(n, n)
    for i in range(n):
        for j in range(n):
            v[i, j] = (within if i == j else 0) + (between if groups[i] == groups[j] else 0)
    inverse, x, y = v**-1, mpmath.matrix(x.tolist()), mpmath.matrix(y.tolist())
    information = x.T * inverse * x
    residual = y - x * mpmath.lu_solve(information, x.T * inverse * y)
    terms = (n - p if restricted else n) * mpmath.log(2 * mpmath.pi) + mpmath.log(mpmath.det(v))
    terms += (residual.T * inverse * residual)[0]
    return (terms + (mpmath.log(mpmath.det(information)) if restricted else 0)) / 2


def precise_fall(y, groups, covariates):
    """-2 log L, beta profiled out and less a constant, of log within and log between; group by group in mpmath."""
    table = mpmath.matrix(np.column_stack([np.ones(len(y)), covariates, y]).tolist())
    rows = [[i for i in range(len(y)) if groups[i] == label] for label in dict.fromkeys(groups)]
    width = table.cols
    sums = [[mpmath.fsum(table[i, a] for i in own) for a in range(width)] for own in rows]
    whole = table.T * table

    def fall(log_within, log_between):
        ratio, products, log_det = mpmath.exp(log_between - log_within), whole.copy(), mpmath.mpf(0)
        for own, total in zip(rows, sums, strict=True):
            growth = 1 + len(own) * ratio
            log_det += mpmath.log(growth)
            for a in range(width):
                for b in range(width):
                    products[a, b] -= ratio / growth * total[a] * total[b]
        x, xy = products[: width - 1, : width - 1], products[: width - 1, width - 1]
        residual = products[width - 1, width - 1] - (xy.T * mpmath.lu_solve(x, xy))[0]
        return len(y) * log_within + log_det + residual / mpmath.exp(log_within)

    return fall


def precise_ratio(y, groups, start, restricted):
    """Root of the score of the intercept-only model near `start`, to 40 digits."""
    with mpmath.workdps(60):
        parts = [[mpmath.mpf(float(v)) for v in y[groups == j]] for j in range(np.max(groups) + 1)]
        sizes = [len(part) for part in parts]
        means = [sum(part) / len(part) for part in parts]
        inside = sum((v - mean) ** 2 for part, mean in zip(parts, means, strict=True) for v in part)
        return precise_ratio_of_moments(sizes, means, inside, start, restricted)


def precise_ratio_of_moments(sizes, means, inside, start, restricted):
    """The same from group sizes, group means and the sum of squares within groups."""
    with mpmath.workdps(60):
        n = sum(sizes)

        def score(ratio):
            w = [k / (1 + ratio * k) for k in sizes]
            mu = sum(a * b for a, b in zip(w, means, strict=True)) / sum(w)
            squares = [(mean - mu) ** 2 for mean in means]
            q = inside + sum(a * b for a, b in zip(w, squares, strict=True))
            q_1 = -sum(a * a * b for a, b in zip(w, squares, strict=True))
            log_det_1 = sum(w) - (sum(a * a for a in w) / sum(w) if restricted else 0)
            return (n - 1 if restricted else n) * q_1 / q + log_det_1

        return mpmath.findroot(score, mpmath.mpf(float(start)))
