"""The REML estimate to 40 digits, in integers and decimals and with none of jaxre's code.

The data of the benchmark are multiples of a power of two, so that sums over the rows of a group are exact in 64-bit
integers. The restricted likelihood then follows in 50-digit decimals, the root of its score by the secant rule.
"""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np

Matrix = list[list[Decimal]]


def between_and_within(
    y: np.ndarray, g: np.ndarray, x: np.ndarray, unit: float, near: float
) -> tuple[Decimal, Decimal]:
    """Variances between and within groups at the optimum closest to the ratio `near`.

    y (n,) and x (n, p - 1) are multiples of `unit`, a power of two; g (n,) are integer labels.
    """
    with localcontext(prec=50):
        within_cross, sizes, counts, between_cross = exact_sums(y, g, x, unit)
        p = x.shape[1] + 1
        degrees = Decimal(len(y) - p)

        def score(ratio: Decimal) -> tuple[Decimal, Decimal]:
            """f' = (n - p) Q'/Q + L', and Q."""
            w = [k / (1 + ratio * k) for k in sizes]
            m = combine([Decimal(1), *w], [within_cross, *between_cross])
            change = combine([-v * v for v in w], between_cross)
            m_xx = [row[:p] for row in m[:p]]
            z = [-row[0] for row in solve(m_xx, [[row[p]] for row in m[:p]])] + [Decimal(1)]
            turned = solve(m_xx, [row[:p] for row in change[:p]])
            quadratic, quadratic_1 = form(m, z), form(change, z)
            log_det_1 = sum(c * v for c, v in zip(counts, w, strict=True)) + sum(turned[i][i] for i in range(p))
            return degrees * quadratic_1 / quadratic + log_det_1, quadratic

        old, new = Decimal(near), Decimal(near) * (1 + Decimal("1e-6"))
        f_old, (f_new, quadratic) = score(old)[0], score(new)
        for _ in range(60):
            if f_new == f_old or abs(new - old) < new * Decimal("1e-42"):
                break
            old, f_old, new = new, f_new, new - f_new * (new - old) / (f_new - f_old)
            f_new, quadratic = score(new)
        within = quadratic / degrees
        return new * within, within


def exact_sums(
    y: np.ndarray, g: np.ndarray, x: np.ndarray, unit: float
) -> tuple[Matrix, list[Decimal], list[Decimal], list[Matrix]]:
    """Cross products of (1, x, y) within groups; distinct sizes, counts, and cross products of group means."""
    columns = np.column_stack([np.ones(len(y)), x, y]) / unit
    table = columns.astype(np.int64)
    if not np.array_equal(table, columns):
        raise ValueError(f"the data must be multiples of {unit}, and are not.")
    if np.square(columns).sum(axis=0).max() > 2**62:
        raise ValueError("sums of squares beyond 64-bit integers: draw smaller data or take a larger unit.")
    _, group = np.unique(g, return_inverse=True)
    n_j = np.bincount(group)
    starts = np.append(0, np.cumsum(n_j)[:-1])
    sums = np.add.reduceat(table[np.argsort(group, kind="stable")], starts, axis=0).astype(object)
    scale = Decimal(unit) ** 2
    sizes, counts = np.unique(n_j, return_counts=True)
    between = []
    for k in sizes.tolist():
        part = sums[n_j == k]
        between.append([[Decimal(v) * scale / k / k for v in row] for row in (part.T @ part).tolist()])
    total = [[Decimal(v) * scale for v in row] for row in (table.T @ table).tolist()]
    within = combine([Decimal(1), *(Decimal(-k) for k in sizes.tolist())], [total, *between])
    return within, [Decimal(k) for k in sizes.tolist()], [Decimal(m) for m in counts.tolist()], between


def combine(weights: list[Decimal], matrices: list[Matrix]) -> Matrix:
    size, pairs = range(len(matrices[0])), list(zip(weights, matrices, strict=True))
    return [[sum((w * a[i][j] for w, a in pairs), Decimal(0)) for j in size] for i in size]


def form(a: Matrix, z: list[Decimal]) -> Decimal:
    """z' a z."""
    return sum((z[i] * z[j] * a[i][j] for i in range(len(z)) for j in range(len(z))), Decimal(0))


def solve(a: Matrix, b: Matrix) -> Matrix:
    """a^-1 b by Gauss-Jordan elimination; a is positive definite, so no pivoting."""
    rows = [left + right for left, right in zip(a, b, strict=True)]
    for i in range(len(rows)):
        pivot = rows[i][i]
        rows[i] = [v / pivot for v in rows[i]]
        for j in range(len(rows)):
            if j != i:
                factor = rows[j][i]
                rows[j] = [v - factor * w for v, w in zip(rows[j], rows[i], strict=True)]
    return [row[len(a) :] for row in rows]
