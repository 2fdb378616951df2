"""The proof of a design: that F crosses 0 at most once, from below, in a few dot products with an outcome's squares.

F of the certificate, see `intervals`, is Q(infinity) + sum_i t_i phi_i(lambda) with t_i >= 0 an outcome's squares in
the coordinates of the design's spectrum, see `spectrum`, and phi_i known from the design. Bounds of phi_i and its slope
on a few parts of lambda >= 0, computed once, decide for an outcome whether F rises or keeps its sign on each.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.effects import NormalEquations, matmul
from jaxre.profile import Columns, degrees
from jaxre.records import record
from jaxre.rows import Array
from jaxre.settings import formed_once

MESH = 2048  # intervals over lambda >= 0 on which phi_i is bounded
PARTS = 4  # intervals of the proof, each many of the mesh
SLACK = 2e-5  # above the rounding of these sums in single precision, unless group sizes are very unequal
MOST_STRATA = 16  # for which the sums of a proof are written out
WORTH = 64  # outcomes of one design that are worth a proof of it


@record
class Proof:
    """Bounds over the parts of lambda >= 0, each (parts, r); see `proof_of`."""

    slope: Array
    """at most the derivative of phi_i, times a positive weight."""
    low: Array
    """at most phi_i."""
    high: Array
    """at least phi_i."""


def proof_of(values: Any, log_values: Any, log_counts: Any, n: Any, size: Any, xp: ModuleType = np) -> Proof:
    """Bounds of phi_i = S_i - N nu_i S_i^2 / L', S_i = 1 / (1 + lambda nu_i), and its slope, on parts of lambda >= 0.

    phi_i' = nu_i S_i^2 (2 N nu_i S_i / L' - 1 - N (-L'') / L'^2), in which nu_i S_i, L' and -L'' fall. The mesh is even
    in s = 1 / (1 + size lambda), from 1 down to 0, which is lambda = infinity. With t_i = nu_i S_i / s, a monotone
    function of s that is finite at both ends, L' / s and -L'' / s^2 are sums of t and of t^2, and the slope times
    1 / s^2 is t_i^2 / nu_i (2 N t_i / (L'/s) - 1 - N (-L''/s^2) / (L'/s)^2). Every factor is bounded by its ends.

    `values` (r,) are the eigenvalues nu_i, `log_values` and `log_counts` (l,) the terms of L; NumPy or, with `xp`, JAX.
    """
    s = xp.arange(MESH, -1, -1) / xp.asarray(MESH, values.dtype)
    nu = values[:, None]
    t = nu / (s + (1 - s) * nu / size)
    of_log = log_values[:, None] / (s + (1 - s) * log_values[:, None] / size)
    bounds = lambda f: (xp.minimum(f[..., :-1], f[..., 1:]), xp.maximum(f[..., :-1], f[..., 1:]))
    add = lambda terms: (log_counts[:, None] * terms).sum(axis=0)
    each_low, each_high = bounds(of_log)
    first_low, first_high = add(each_low), add(each_high)
    second_high = add(each_high * each_high)
    t_low, t_high = bounds(t)
    inner_low = 2 * n * t_low / first_high - 1 - n * second_high / first_low**2
    weight_low, weight_high = t_low * t_low / nu, t_high * t_high / nu
    slope = xp.where(inner_low < 0, weight_high, weight_low) * inner_low
    # phi_i = S_i (1 - N t_i / (L'/s)), S_i = s t_i / nu_i
    share_low, share_high = 1 - n * t_high / first_low, 1 - n * t_low / first_high
    of_s_low, of_s_high = bounds(s * t / nu)
    low = xp.where(share_low < 0, of_s_high, of_s_low) * share_low
    high = xp.where(share_high < 0, of_s_low, of_s_high) * share_high
    # an eigenvalue is off by a few units in the last place of the largest; a bound within that of 0 decides nothing
    slack = xp.maximum(SLACK, 256 * xp.finfo(values.dtype).eps * values.max() / values.min())
    reach = slack * weight_high * (1 + 2 * n * t_high / first_low + n * second_high / first_low**2)
    room = slack * (1 + n * t_high / first_low)
    parts = lambda f: f.reshape(len(values), PARTS, MESH // PARTS)
    return Proof(
        slope=parts(slope - reach).min(axis=2).T,
        low=parts(low - room).min(axis=2).T,
        high=parts(high + room).max(axis=2).T,
    )


def proven(proof: Proof, squares: Array | Sequence[Array], floor: Array) -> Array:
    """() bool, whether F rises, or keeps its sign, on every part: it then crosses 0 once at most, from below.

    From the squares one by one, the sums are written out, so that they fuse under vmap.
    """
    slope, low, high = (_product(table, squares) for table in (proof.slope, proof.low, proof.high))
    room = 64 * jnp.finfo(floor.dtype).eps * (floor + sum(squares[1:], squares[0]))
    parts = [(slope[i] > 0) | (floor + low[i] > room) | (floor + high[i] < -room) for i in range(PARTS)]
    return formed_once(functools.reduce(operator.and_, parts))


def _product(table: Array, vector: Array | Sequence[Array]) -> Any:
    """A table times a vector."""
    if not isinstance(vector, Sequence):
        return matmul(table, vector)
    return [sum((row[i] * entry for i, entry in enumerate(vector)), 0.0) for row in table]


def proven_by_design(equations: NormalEquations, columns: Columns, restricted: bool) -> Array:
    """() bool, the same for strata with the intercept alone, under a vmap over many outcomes that share the design;
    False elsewhere, where the constants of a design would cost more than they save, and where the strata are many.

    In the basis of the strata Z'(I - 11'/n)Z is diag(k) - s s'/n, s_k = k sqrt(m_k), which has the eigenvalue 0 once;
    within a stratum m_k - 1 more eigenvalues are k.
    """
    strata = equations.strata
    if not 1 < len(columns.means) <= MOST_STRATA:  # or none is written out
        return jnp.zeros((), bool)
    design = strata.sizes, strata.counts, degrees(strata, restricted)

    @jax.custom_batching.custom_vmap
    def run(design: tuple[Array, ...], outcome: tuple[Any, ...]) -> Array:
        return jnp.zeros((), bool)

    @run.def_vmap
    def batched(
        size: int, mapped: list[Any], design: tuple[Array, ...], outcome: tuple[Any, ...]
    ) -> tuple[Array, bool]:
        if any(mapped[0]) or size < WORTH:
            return jnp.zeros((), bool), False
        axes = jax.tree.map(lambda one: 0 if one else None, tuple(mapped[1]))
        return jax.vmap(_of_strata(design, restricted), axes, axis_size=size)(*outcome), True

    return run(design, (columns.means, columns.scatter, equations.floor))


def _of_strata(design: tuple[Array, ...], restricted: bool) -> Callable[..., Array]:
    """From a design to what says of an outcome's means and scatter by stratum, and its floor, whether it is proven."""
    sizes, counts, n = design
    there = counts > 0
    sizes = jnp.where(there, sizes, 2 * jnp.where(there, sizes, 0).max())  # what pads is an eigenvalue above the others
    rows, pull, every = (counts * sizes).sum(), sizes * jnp.sqrt(counts), range(len(sizes))
    nu, vectors = jnp.linalg.eigh(jnp.diag(sizes) - pull[:, None] * pull / rows)
    nu, vectors = nu[1:], vectors[:, 1:]
    share, along = counts * sizes / rows, (pull[:, None] * vectors / jnp.sqrt(nu)).T
    values, terms = jnp.concatenate([nu, sizes]), (sizes, counts)
    if restricted:
        known = jnp.arange(1, len(sizes)) < there.sum()  # and carries nothing
        terms = values, jnp.concatenate([known.astype(nu.dtype), jnp.maximum(counts - 1, 0)])
    proof = proof_of(values, terms[0], terms[1], n, rows / counts.sum(), xp=jnp)

    def of_outcome(means: Sequence[Array], scatter: Sequence[Array] | None, floor: Array) -> Array:
        (mean,) = _product(share[None], means)
        squares = [u * u for u in _product(along, [value - mean for value in means])]
        return proven(proof, squares + [sizes[i] * (0.0 if scatter is None else scatter[i]) for i in every], floor)

    return of_outcome
