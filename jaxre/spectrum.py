"""One design shared by many outcomes: the eigenvalues of Z' P0 Z, and the profile of an outcome in their terms.

With P0 = I - X (X'X)^-1 X', nu_i > 0 the r = rank[X Z] - p eigenvalues of Z' P0 Z and u_i an outcome's coordinates,

    Q(lambda) = Q(infinity) + sum_i u_i^2 / (1 + lambda nu_i)
    log det H + log det X'H^-1 X = sum_i log(1 + lambda nu_i)

up to a constant: no covariate and no matrix is left in the search. Equal eigenvalues share a term. F of the certificate
is Q(infinity) + sum_i u_i^2 phi_i(lambda) with phi_i known from the design, so the proof for an outcome is a few dot
products with bounds of phi_i and of its slope that are computed once (`proof_of`).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.curve import Curve, closed_ratio, known_to_rise_from
from jaxre.profile import Profile
from jaxre.records import record
from jaxre.rows import Array

UNROLLED = 48  # eigenvalues up to which the sums are written out, so that they fuse under vmap
MESH = 2048  # intervals over lambda >= 0 on which phi_i is bounded
PARTS = 4  # intervals of the proof, each many of the mesh
LOGS = {8: 8, 4: 2}  # bytes of a number, factors of a determinant that share a logarithm; see `log_of_product`
EQUAL = 1e-11  # relative distance below which eigenvalues are one


@record
class Proof:
    """Bounds over the parts of lambda >= 0, each (parts, r); see `proof_of`."""

    slope: Array
    """at most the derivative of phi_i, times a positive weight."""
    low: Array
    """at most phi_i."""
    high: Array
    """at least phi_i."""


@record
class Spectrum:
    """What the profile of an outcome needs of the design; NumPy constants, or traced so that one program serves all."""

    rows: Array
    """() [1], n."""
    degrees: Array
    """() [1], N: n for the full likelihood, n - p for the restricted one."""
    values: Array
    """(r,) distinct eigenvalues nu_i of Z' P0 Z."""
    counts: Array
    """(r,) [1], how often each occurs."""
    log_values: Array | None
    """(l,) the terms of L: the distinct group sizes for the full likelihood, None for the eigenvalues again."""
    log_counts: Array
    """(l,) [1], how often each occurs."""
    size: Array
    """() [1], mean group size."""
    largest: Array
    """() [1], largest group size."""
    proof: Proof
    """what the certificate needs."""

    @property
    def of_log_det(self) -> Array:
        """(l,) the terms of L."""
        return self.values if self.log_values is None else self.log_values


def spectrum_of(
    nu: np.ndarray, sizes: np.ndarray, rows: int, degrees: int, restricted: bool
) -> tuple[Spectrum, np.ndarray]:
    """Spectrum from all eigenvalues (ascending) and group sizes; and to which distinct one each eigenvalue belongs."""
    member = np.concatenate([[0], np.cumsum(np.diff(nu) > EQUAL * nu[-1])])
    counts = np.bincount(member).astype(float)
    values = np.bincount(member, weights=nu) / counts
    log_values, log_counts = values, counts
    if not restricted:
        log_values, log_counts = (column.astype(float) for column in np.unique(sizes, return_counts=True))
    proof = proof_of(values, log_values, log_counts, float(degrees), rows / len(sizes))
    return Spectrum(
        rows=np.float64(rows),
        degrees=np.float64(degrees),
        values=values,
        counts=counts,
        log_values=None if restricted else log_values,
        log_counts=log_counts,
        size=np.float64(rows / len(sizes)),
        largest=np.float64(sizes.max()),
        proof=proof,
    ), member


def proof_of(values: np.ndarray, log_values: np.ndarray, log_counts: np.ndarray, n: float, size: float) -> Proof:
    """Bounds of phi_i = S_i - N nu_i S_i^2 / L', S_i = 1 / (1 + lambda nu_i), and its slope, on parts of lambda >= 0.

    phi_i' = nu_i S_i^2 (2 N nu_i S_i / L' - 1 - N (-L'') / L'^2), in which nu_i S_i, L' and -L'' fall. The mesh is even
    in s = 1 / (1 + size lambda), from 1 down to 0, which is lambda = infinity. With t_i = nu_i S_i / s, a monotone
    function of s that is finite at both ends, L' / s and -L'' / s^2 are sums of t and of t^2, and the slope times
    1 / s^2 is t_i^2 / nu_i (2 N t_i / (L'/s) - 1 - N (-L''/s^2) / (L'/s)^2). Every factor is bounded by its ends.
    """
    s = np.linspace(1, 0, MESH + 1)
    nu = values[:, None]
    t = nu / (s + (1 - s) * nu / size)
    of_log = log_values[:, None] / (s + (1 - s) * log_values[:, None] / size)
    bounds = lambda f: (np.minimum(f[..., :-1], f[..., 1:]), np.maximum(f[..., :-1], f[..., 1:]))
    each_low, each_high = bounds(of_log)
    first_low, first_high = log_counts @ each_low, log_counts @ each_high
    second_high = log_counts @ each_high**2
    t_low, t_high = bounds(t)
    inner_low = 2 * n * t_low / first_high - 1 - n * second_high / first_low**2
    weight_low, weight_high = t_low**2 / nu, t_high**2 / nu
    slope = np.where(inner_low < 0, weight_high, weight_low) * inner_low
    # phi_i = S_i (1 - N t_i / (L'/s)), S_i = s t_i / nu_i
    share_low, share_high = 1 - n * t_high / first_low, 1 - n * t_low / first_high
    s_t = s * t / nu
    of_s_low, of_s_high = bounds(s_t)
    low = np.where(share_low < 0, of_s_high, of_s_low) * share_low
    high = np.where(share_high < 0, of_s_low, of_s_high) * share_high
    cut = np.linspace(0, MESH, PARTS + 1).astype(int)[:-1]
    slack = 1e-9  # far above the rounding of these sums; the sign of a bound within it of zero decides nothing
    reach = slack * np.abs(weight_high * (1 + 2 * n * t_high / first_low + n * second_high / first_low**2))
    return Proof(
        slope=np.minimum.reduceat(slope - reach, cut, axis=1).T.copy(),
        low=np.minimum.reduceat(low, cut, axis=1).T.copy() - slack,
        high=np.maximum.reduceat(high, cut, axis=1).T.copy() + slack,
    )


@record
class Coordinates:
    """An outcome in the coordinates of a spectrum."""

    squares: Array
    """(r,) sums of u_i^2 over equal eigenvalues."""
    floor: Array
    """() Q(infinity)."""
    valid: Array
    """() bool, whether there is an estimate to look for."""


def sums(terms: int, term: Any, *columns: Array) -> tuple[Array, ...]:
    """Sum over i of term(column_1[i], ...), a tuple: written out when there are few, a loop when there are many."""
    if terms <= UNROLLED:
        parts = [term(*(column[i] for column in columns)) for i in range(terms)]
        return tuple(sum(rest, first) for first, *rest in zip(*parts, strict=True))
    first = term(*(column[0] for column in columns))
    add = lambda i, total: tuple(a + b for a, b in zip(total, term(*(column[i] for column in columns)), strict=True))
    return jax.lax.fori_loop(1, terms, add, first)


def log_of_product(values: Array, ratio: Array) -> Array:
    """Sum of log(1 + ratio nu_i) over few values in ascending order, with a logarithm for several of them.

    Each factor is taken relative to the largest, so that no product overflows, and is no less than the smallest value
    over the largest, so that none vanishes while that is above 1e-38 (in single precision 1e-19). The sum is off by a
    few units in the last place of 1.
    """
    logs = LOGS[values.dtype.itemsize]
    most = 1 + ratio * values[-1]
    share = 1 / most
    factors = [(1 + ratio * value) * share for value in values[:-1]]
    blocks = [factors[i : i + logs] for i in range(0, len(factors), logs)]
    return len(values) * jnp.log(most) + sum(jnp.log(math.prod(block)) for block in blocks)


def spectral_profile(spectrum: Spectrum, outcome: Coordinates, ratio: Array, simple: bool = False) -> Profile:
    """Q and L at a ratio, with derivatives; O(r). `simple` where every eigenvalue of the design occurs once."""

    def of_q(nu: Array, t: Array) -> tuple[Array, ...]:
        shrunk = 1 / (1 + ratio * nu)
        w, part = nu * shrunk, t * shrunk
        return part, part * w, part * w * w

    def of_log_det(nu: Array, m: Array) -> tuple[Array, ...]:
        w = nu / (1 + ratio * nu)
        return m * jnp.log1p(ratio * nu), m * w, m * w * w

    def of_both(nu: Array, t: Array, m: Array) -> tuple[Array, ...]:
        shrunk = 1 / (1 + ratio * nu)
        w, part, mw = nu * shrunk, t * shrunk, m * nu * shrunk
        return part, part * w, part * w * w, m * jnp.log1p(ratio * nu), mw, mw * w

    nu, t, k, m = spectrum.values, outcome.squares, spectrum.log_values, spectrum.log_counts
    if k is None:
        zeroth, first, second, log_det, log_det_1, log_det_2 = sums(len(nu), of_both, nu, t, m)
    else:
        zeroth, first, second = sums(len(nu), of_q, nu, t)
        log_det, log_det_1, log_det_2 = sums(len(k), of_log_det, k, m)
    if simple and k is None and 1 < len(nu) <= UNROLLED:
        log_det = log_of_product(nu, ratio)
    return Profile(
        ratio=ratio,
        quadratic=outcome.floor + zeroth,
        quadratic_1=-first,
        quadratic_2=2 * second,
        log_det=log_det,
        log_det_1=log_det_1,
        cancelled=jnp.zeros_like(log_det_1),
        log_det_2=-log_det_2,
        excess=zeroth,
    )


def spectral_curve(data: tuple[Spectrum, Coordinates]) -> Curve:
    """The profile through the spectrum, with the proof that needs no point of it."""
    spectrum, outcome = data
    n, terms = spectrum.degrees, spectrum.log_counts.sum()

    closed = None
    if len(spectrum.values) == len(spectrum.of_log_det) == 1:  # balanced: F is linear in 1 / (1 + lambda nu)
        excess = outcome.squares[0] * (n / spectrum.log_counts[0] - 1)
        closed = closed_ratio(excess / outcome.floor, spectrum.values[0])
    return Curve(
        at=lambda ratio: spectral_profile(spectrum, outcome, ratio),
        n=n,
        count=n,
        floor=outcome.floor,
        size=spectrum.size,
        largest=spectrum.largest,
        valid=outcome.valid,
        rises_from=known_to_rise_from(spectrum.values[0], spectrum.of_log_det[-1], terms / n),
        cancels=False,
        closed=closed,
        proven=_proven(spectrum.proof, outcome),
    )


def _proven(proof: Proof, outcome: Coordinates) -> Array:
    """Whether F rises, or keeps its sign, on every part: it then crosses 0 once at most, from below."""
    t, dot = outcome.squares, lambda table: jnp.matmul(table, outcome.squares, precision=jax.lax.Precision.HIGHEST)
    rises = dot(proof.slope) > 0
    room = 1e-12 * (outcome.floor + t.sum())
    keeps = (outcome.floor + dot(proof.low) > room) | (outcome.floor + dot(proof.high) < -room)
    return (rises | keeps).all()
