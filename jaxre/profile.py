"""The profile of the likelihood in lambda = between / within, with two derivatives in closed form.

Beta and within profiled out, -2 log L = f(lambda) + constant with f = N log Q + L.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxre.effects import Gls, NormalEquations, contract, gls, matmul
from jaxre.frame import Frame
from jaxre.moments import Strata
from jaxre.records import record
from jaxre.rows import Array

WRITTEN_OUT = 24  # strata up to which the sums for an intercept alone are written out, so that they fuse under vmap


class Profile(NamedTuple):
    """The two functions of lambda that make the likelihood, each with two derivatives in lambda.

    -2 log L = N log(2 pi within) + L(lambda) + Q(lambda) / within, N = n for the full and n - p for the restricted one.
    """

    ratio: Array
    """() lambda."""
    quadratic: Array
    """() Q, the generalised residual sum of squares."""
    quadratic_1: Array
    """() Q' <= 0."""
    quadratic_2: Array
    """() Q'' >= 0."""
    quadratic_3: Array
    """() Q''' <= 0."""
    log_det: Array
    """() L: log det H, and log det X' H^-1 X besides in the restricted likelihood."""
    log_det_1: Array
    """() L' > 0."""
    log_det_2: Array
    """() L'' < 0."""
    excess: Array
    """() Q - Q(infinity) without cancellation."""
    cancelled: Array
    """() what was subtracted to make L', so how much larger than L' its rounding is."""


def degrees(strata: Strata, restricted: bool) -> Array:
    """N: n for the full likelihood, n - p for the restricted one."""
    return strata.rows - (strata.means.shape[-1] - 1 if restricted else 0)


@record
class Columns:
    """What an intercept alone needs of the strata: the numbers of each by themselves, or all in one array."""

    sizes: tuple[Array, ...]
    """k."""
    counts: tuple[Array, ...]
    """m."""
    others: tuple[Array, ...]
    """m without one group of the largest size."""
    means: tuple[Array, ...]
    """of the outcome."""
    scatter: tuple[Array, ...] | None
    """squares of the group means of the outcome about those."""


def columns_of(equations: NormalEquations, alone: bool) -> Columns | None:
    """In scalars where the strata are few: under vmap each is one vector over the datasets, and they fuse.

    Where a program is `alone`, no sum is written out: that would take most of the time to compile, and no time to run.
    """
    strata = equations.strata
    if strata.means.shape[-1] > 2:
        return None
    every: list[Any] = [slice(None)] if alone or len(strata.sizes) > WRITTEN_OUT else list(range(len(strata.sizes)))
    # a quotient is formed once; a column alone would be read out of its table, with strides, by all that use it
    one_of = lambda number: 1 + 0 * jax.lax.stop_gradient(number)
    column = lambda table, one: tuple(table[i] / one for i in every)
    of_design, of_outcome = one_of(equations.largest), one_of(equations.floor)
    return Columns(
        sizes=column(strata.sizes, of_design),
        counts=column(strata.counts, of_design),
        others=column(equations.others, of_design),
        means=column(strata.means[:, 1], of_outcome),
        scatter=None if strata.scatter is None else column(strata.scatter[:, 1, 1], of_outcome),
    )


@partial(jax.jit, static_argnums=(2, 3))  # traced once for the several loops that evaluate it
def profile(equations: NormalEquations, ratio: Array, restricted: bool, alone: bool = False) -> Profile:
    """Q and L at a ratio, with derivatives; O(strata p^2 + p^3)."""
    return solve(equations, ratio, restricted, alone)[0]


@partial(jax.jit, static_argnums=3)
def profile_of_columns(equations: NormalEquations, columns: Columns, ratio: Array, restricted: bool) -> Profile:
    """The same from columns that stand outside of a loop."""
    return _profile_of_intercept(equations, columns, ratio, restricted)[0]


def solve(
    equations: NormalEquations, ratio: Array, restricted: bool, alone: bool = False
) -> tuple[Profile, Array, Array]:
    """Q and L at a ratio, with the coefficients and their covariance in units of within."""
    columns = columns_of(equations, alone)
    if columns is not None:
        at, mean, total = _profile_of_intercept(equations, columns, ratio, restricted)
        return at, jnp.reshape(mean, (1,)), jnp.reshape(1 / total, (1, 1))
    fit = gls(equations, ratio, alone)
    return profile_of(equations, fit, ratio, restricted, alone), fit.gamma, fit.inverse


def profile_of(equations: NormalEquations, fit: Gls, ratio: Array, restricted: bool, alone: bool = False) -> Profile:
    """Q and L from the generalised least-squares fit at the ratio; every sum over strata in one product of matrices."""
    strata = equations.strata
    w, p = fit.weights, fit.pull.shape[-1]
    w2 = w * w
    powers = jnp.stack([w, w2, w2 * w, w2 * w2, jnp.log1p(ratio * strata.sizes)])
    terms = [fit.squares[:, None], strata.counts[:, None], fit.pull]
    terms.append(equations.products[:, :p, :p].reshape(len(w), p * p))
    first, second, third, fourth, logs = matmul(powers, jnp.concatenate(terms, axis=1))
    change, products = second[2 : 2 + p], second[2 + p :].reshape(p, p)
    back = contract(fit.inverse, change, alone)
    log_det, log_det_1, log_det_2, cancelled = logs[1], first[1], -second[1], jnp.zeros_like(ratio)
    if restricted:
        a = matmul(fit.inverse, products)
        b = fit.inverse * third[2 + p :].reshape(p, p)
        log_det, cancelled = log_det + fit.log_det, jnp.trace(a)
        log_det_1 = log_det_1 - cancelled
        log_det_2 = log_det_2 + 2 * b.sum() - (a * a.T).sum()
    return Profile(
        ratio=ratio,
        quadratic=fit.within + first[0],
        quadratic_1=-second[0],
        quadratic_2=2 * (third[0] - contract(back, change, alone)),
        quadratic_3=-6 * (fourth[0] + contract(contract(products, back, alone) - 2 * third[2 : 2 + p], back, alone)),
        log_det=log_det,
        log_det_1=log_det_1,
        log_det_2=log_det_2,
        excess=fit.beyond + first[0],
        cancelled=cancelled,
    )


def _profile_of_intercept(
    equations: NormalEquations, columns: Columns, ratio: Array, restricted: bool
) -> tuple[Profile, Array, Array]:
    """`profile_of` with the intercept alone; with the mean and the sum of its weights.

    With w_k = k / (1 + ratio k), mu the weighted mean, d2_k the squares of the stratum's group means about mu:
    Q = SSW + sum w_k d2_k and its derivatives. In the restricted likelihood one group of the largest size, weight a, is
    told from the others, or one that dominates would cost digits. With R_i the sums of w^i over the others, W = R_1 + a
    and s = a / W,

        L' = R_1 (1 + s) - R_2 / W,    -L'' = (s R_1)^2 + R_2 (1 + 2 s^2) - 2 R_3 / W + (R_2 / W)^2

    in which no difference is below a quarter of its terms, since no other weight exceeds W / 2.
    """
    k, m, y = columns.sizes, columns.counts, columns.means
    add = lambda terms: terms[0].sum() if k[0].ndim else sum(terms[1:], terms[0])
    times = lambda a, b: [one * other for one, other in zip(a, b, strict=True)]
    w = [size / (1 + ratio * size) for size in k]
    dominant = equations.largest / (1 + ratio * equations.largest)
    rest = times(columns.others, w)
    rest_1, rest_2 = add(rest), add(times(rest, w))
    total = rest_1 + dominant
    inverse = 1 / total
    mw = times(m, w)
    mean = add(times(mw, y)) * inverse
    gap = [value - mean for value in y]
    squares = times(m, times(gap, gap))
    if columns.scatter is not None:
        squares = [own + within for own, within in zip(squares, columns.scatter, strict=True)]
    first = times(w, squares)
    second = times(w, first)
    excess, pull = add(first), add(times(mw, times(w, gap)))
    shift = pull * inverse
    moved = times(w, [one - shift for one in times(w, gap)])  # Z'PZ Z'Py
    third = times(m, times(moved, moved))
    if columns.scatter is not None:
        third = [own + (one * one) ** 2 * within for own, one, within in zip(third, w, columns.scatter, strict=True)]
    log_det = add([count * jnp.log1p(ratio * size) for count, size in zip(m, k, strict=True)])
    log_det_1, log_det_2 = total, -(rest_2 + dominant * dominant)
    if restricted:
        share, ratio_2 = dominant * inverse, rest_2 * inverse
        rest_3 = add(times(times(rest, w), w))
        log_det = log_det + jnp.log(total)
        log_det_1 = rest_1 * (1 + share) - ratio_2
        log_det_2 = 2 * rest_3 * inverse - rest_2 * (1 + 2 * share * share) - ratio_2 * ratio_2 - (share * rest_1) ** 2
    at = Profile(
        ratio=ratio,
        quadratic=equations.strata.within_cross[1, 1] + excess,
        quadratic_1=-add(second),
        quadratic_2=2 * (add(times(w, second)) - pull * shift),
        quadratic_3=-6 * add(third),
        log_det=log_det,
        log_det_1=log_det_1,
        log_det_2=log_det_2,
        excess=excess,
        cancelled=jnp.zeros_like(total),
    )
    return at, mean, total


def score(at: Profile, n: Array) -> Array:
    """f' = N Q'/Q + L', the derivative of the profile of -2 log L in lambda."""
    return n * at.quadratic_1 / at.quadratic + at.log_det_1


def score_noise(at: Profile, n: Array) -> Array:
    """What rounding may add to f': a few units in the last place of its two terms."""
    eps = jnp.finfo(at.quadratic.dtype).eps
    return 8 * eps * (n * abs(at.quadratic_1) / at.quadratic + at.log_det_1 + at.cancelled)


def score_root(at: Profile, n: Array) -> Array:
    """F = Q + N Q'/L', which has the sign of f'."""
    return at.quadratic + n * at.quadratic_1 / at.log_det_1


def curvature(at: Profile, n: Array) -> Array:
    """f'', the second derivative of the profile of -2 log L in lambda."""
    return n * (at.quadratic_2 / at.quadratic - (at.quadratic_1 / at.quadratic) ** 2) + at.log_det_2


def drop(at: Profile, zero: Profile, n: Array) -> Array:
    """f - f(0): near 0 from differences of the excess, which keep the digits that Q has lost in many rows.

    Where Q falls far below Q(0), those differences cancel instead and Q itself has its digits; XLA's log1p on a CPU is
    100 ulp off between -0.42 and -0.35.
    """
    change = (at.excess - zero.excess) / zero.quadratic
    near = jnp.abs(change) < 0.25
    far = jnp.log(jnp.where(near, 1.0, at.quadratic / zero.quadratic))
    return n * jnp.where(near, jnp.log1p(jnp.where(near, change, 0.0)), far) + (at.log_det - zero.log_det)


def deviance(log_det: Array, quadratic: Array, n: Array, within: Array) -> Array:
    """-2 log L but for its constants, at any variance within groups of the scaled outcome."""
    return n * jnp.log(within) + log_det + quadratic / within


class Terms(Protocol):
    """What the likelihood needs of the profile at a ratio."""

    @property
    def log_det(self) -> Array:
        """L."""

    @property
    def quadratic(self) -> Array:
        """Q."""

    @property
    def excess(self) -> Array:
        """Q - Q(infinity)."""


def minus_2_log_likelihood(at: Terms, n: Array, within: Array, frame: Frame, restricted: bool) -> Array:
    """-2 log L of the outcome and the covariates as they were given."""
    quadratic = at.quadratic
    if frame.known is not None:  # n and Q are then those of a variance with infinite degrees of freedom
        n = frame.known.rows - (frame.origin.shape[-1] if restricted else 0)
        quadratic = frame.known.floor + at.excess
    constant = n * (jnp.log(2 * jnp.pi) - 2 * jnp.log(frame.scale)) - (2 * frame.log_volume if restricted else 0)
    if frame.log_weights is not None:
        constant = constant - frame.log_weights
    return deviance(at.log_det, quadratic, n, within) + constant


Pair = tuple[Array, Array]


def derivatives(at: Profile, n: Array, within: Array) -> tuple[Array, Pair, tuple[Pair, Pair]]:
    """Value, gradient and Hessian of -log L in (log within, log between) from the profile at their ratio.

    With s = ratio (L' + Q' / within) and t = Q / within:
    d/d log between = s / 2 and d/d log within = (N - s - t) / 2.
    """
    t = at.quadratic / within
    t_1 = at.ratio * at.quadratic_1 / within
    s = at.ratio * at.log_det_1 + t_1
    s_1 = s + at.ratio**2 * (at.log_det_2 + at.quadratic_2 / within)  # d s / d log ratio, within held
    cross = -(s_1 + t_1) / 2
    gradient, hessian = ((n - s - t) / 2, s / 2), (((s_1 + 2 * t_1 + t) / 2, cross), (cross, s_1 / 2))
    return deviance(at.log_det, at.quadratic, n, within) / 2, gradient, hessian
