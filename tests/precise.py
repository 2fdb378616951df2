"""A fit of a dozen rows by its definitions, in 84 digits (280 bits): differences of it are exact to more than a double.

y = X beta + Z a + e with V = within (I + ratio ZZ'); every number from dense matrices.
"""

import mpmath

DIGITS = 84
STEP = mpmath.mpf(10) ** -25


class Rows:
    """Matrices of the rows, at a ratio."""

    def __init__(self, y, x, groups):
        self.y, self.groups = mpmath.matrix(list(y)), list(groups)
        self.x = mpmath.matrix([[1, *row] for row in x])
        self.labels = list(dict.fromkeys(self.groups))
        self.z = mpmath.matrix([[int(label == own) for label in self.labels] for own in self.groups])

    def at(self, ratio):
        """H^-1, (X'H^-1 X)^-1, P and P y, of H = I + ratio ZZ'."""
        n = len(self.groups)
        inverse = (mpmath.eye(n) + ratio * self.z * self.z.T) ** -1
        cov = (self.x.T * inverse * self.x) ** -1
        p = inverse - inverse * self.x * cov * self.x.T * inverse
        return inverse, cov, p, p * self.y

    def degrees(self, method):
        return len(self.groups) - (0 if method == "ml" else self.x.cols)

    def score(self, ratio, method):
        """N Q'/Q + L', the derivative of the profile of -2 log L."""
        inverse, _, p, py = self.at(ratio)
        pull = self.z.T * py
        table = self.z.T * (inverse if method == "ml" else p) * self.z
        trace = mpmath.fsum(table[i, i] for i in range(table.rows))
        return -self.degrees(method) * (pull.T * pull)[0] / (self.y.T * py)[0] + trace

    def numbers(self, ratio, method, within=None):
        """between, within, ratio, ICC, log-likelihood, beta, their standard errors, predicted group effects."""
        inverse, cov, _, py = self.at(ratio)
        n, p = len(self.groups), self.x.cols
        quadratic = (self.y.T * py)[0]
        within = quadratic / self.degrees(method) if within is None else within
        beta = cov * self.x.T * inverse * self.y
        terms = quadratic / within - mpmath.log(mpmath.det(inverse))
        freedom = n
        if method == "reml":
            freedom, terms = n - p, terms - mpmath.log(mpmath.det(cov))
        log_likelihood = -(freedom * mpmath.log(2 * mpmath.pi * within) + terms) / 2
        errors = [mpmath.sqrt(within * cov[i, i]) for i in range(p)]
        effects = ratio * self.z.T * py
        return [ratio * within, within, ratio, ratio / (1 + ratio), log_likelihood, *beta, *errors, *effects]

    def henderson_3(self):
        """ratio and within of Henderson's method 3, in closed form."""
        full = mpmath.matrix([[*self.x[i, :], *self.z[i, 1:]] for i in range(self.x.rows)])
        left = lambda x: (self.y.T * (self.y - x * mpmath.lu_solve(x.T * x, x.T * self.y)))[0]
        outside, inside, zero = left(self.x), left(full), mpmath.mpf(0)
        p = self.z.T * self.at(zero)[2] * self.z
        within = inside / (full.rows - full.cols)
        trace = mpmath.fsum(p[i, i] for i in range(p.rows))
        return (outside - inside - (full.cols - self.x.cols) * within) / trace / within, within


def jacobian(y, x, groups, method, start):
    """The numbers of the fit whose ratio is near `start`, and their derivatives in every entry of y and then of x
    (n, 1): differences of fits a STEP to either side, whose ratios one Newton step finds to STEP^2."""
    with mpmath.workdps(DIGITS):
        rows, n = [*map(mpmath.mpf, map(float, y)), *map(mpmath.mpf, map(float, x[:, 0]))], len(y)
        of = lambda v: Rows(v[:n], [[entry] for entry in v[n:]], groups)
        here, root, slope = of(rows), mpmath.mpf(start), None
        if method != "anova":
            score = lambda ratio: here.score(ratio, method)
            root = mpmath.findroot(score, (start, start * (1 + 1e-9)))
            slope = (score(root + STEP) - score(root - STEP)) / (2 * STEP)

        def numbers(moved):
            if method == "anova":
                ratio, within = moved.henderson_3()
                return moved.numbers(ratio, "ml", within)
            return moved.numbers(root - moved.score(root, method) / slope, method)

        columns = []
        for i in range(len(rows)):
            up, down = (numbers(of([*rows[:i], rows[i] + s * STEP, *rows[i + 1 :]])) for s in (1, -1))
            columns.append([float((a - b) / (2 * STEP)) for a, b in zip(up, down, strict=True)])
        return [float(number) for number in numbers(here)], columns
