"""What became of a fit: a code that travels through jit and vmap, and its message."""

from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """The outcome of an estimation, as an integer with a readable message.

    Inside jit and vmap a status is an int32 array of these codes; at the host `Status(code)` gives its name and
    `str(Status(code))` says what happened, why, and what to try. Codes of at least `UNBOUNDED` mean that there is no
    estimate: `jaxre.fit` raises on them, the pure functions return NaN beside the code.

    Source: the definitions are those of the certificate (README, "What the certificate means").

    Example:
        >>> import jaxre
        >>> print(jaxre.Status.BOUNDARY)
        boundary: the estimate of between is exactly 0
        >>> jaxre.Status(8).failed
        True
    """

    INTERIOR = 0
    BOUNDARY = 1
    INTERIOR_SEVERAL = 2
    BOUNDARY_SEVERAL = 3
    NEGATIVE = 4
    NOT_CONVERGED = 5
    UNBOUNDED = 6
    NOT_IDENTIFIED = 7
    RANK_DEFICIENT = 8
    CONSTANT_OUTCOME = 9
    OUT_OF_RANGE = 10
    INVALID = 11

    @property
    def message(self) -> str:
        """What happened and, where something can be done, what."""
        return _MESSAGES[self]

    @property
    def failed(self) -> bool:
        """True where there is no estimate."""
        return self >= Status.UNBOUNDED

    def __str__(self) -> str:
        return self.message


_MESSAGES = {
    Status.INTERIOR: "interior optimum",
    Status.BOUNDARY: "boundary: the estimate of between is exactly 0",
    Status.INTERIOR_SEVERAL: "interior optimum; the likelihood has several optima, this is the highest",
    Status.BOUNDARY_SEVERAL: (
        "boundary: the estimate of between is exactly 0; the likelihood has several optima, this is the highest"
    ),
    Status.NEGATIVE: (
        "boundary: the untruncated estimate of between is negative, so the model does not suit the data; "
        "between is truncated at 0"
    ),
    Status.NOT_CONVERGED: (
        "not converged: neither the optimiser nor the alternating steps reached a root of the score; "
        "use the default optimiser"
    ),
    Status.NOT_IDENTIFIED: (
        "not identified: the data cannot tell between from within; this needs at least two groups, a group of at least "
        "two rows beyond what the covariates explain, and covariates that do not span the groups"
    ),
    Status.UNBOUNDED: (
        "unbounded: there is no variation within the groups beyond the covariates, so the likelihood grows without "
        "limit as within goes to 0; check for repeated rows or an outcome that is constant in each group"
    ),
    Status.RANK_DEFICIENT: (
        "rank-deficient covariates: a covariate is constant or a linear combination of the others; drop it"
    ),
    Status.CONSTANT_OUTCOME: "constant outcome: all values are equal, so there is no variance to divide",
    Status.OUT_OF_RANGE: (
        "out of range: an estimate is too large or too small for the floating-point type; "
        "multiply the values, or the covariates, by a power of ten and fit again"
    ),
    Status.INVALID: "invalid data: a value, covariate or label is NaN, infinite or out of range",
}
