"""The search for an optimum: one optax loop on the log-variances, its Newton transformation, the alternating steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxre.certificate import Basins, middle_ratio, typical_size
from jaxre.components import Components
from jaxre.effects import NormalEquations, normal_equations
from jaxre.likelihood import (
    Profile,
    curvature,
    degrees,
    derivatives,
    log_likelihood,
    profile,
    restricted_log_likelihood,
    score,
    score_noise,
)
from jaxre.moments import GroupMoments, Strata, stratify
from jaxre.records import record
from jaxre.rows import Array

MAX_STEPS = 1000
MAX_ALTERNATIONS = 100_000


def newton() -> optax.GradientTransformationExtraArgs:
    """Newton's method as an optax gradient transformation.

    The update is -hessian^-1 gradient where the Hessian is positive definite, and where it is not, the gradient step in
    which every eigenvalue is replaced by its absolute value. It has no state and converges quadratically.

    Args:
        none; the loop passes `hessian=` to `update`.

    Returns:
        optax.GradientTransformationExtraArgs for parameters of shape (2,) [nat].

    Errors:
        TypeError from `update` when no `hessian` is passed.

    Source: Nocedal and Wright (2006), Numerical Optimization, section 3.4.

    Example:
        >>> import jax.numpy as jnp, jaxre
        >>> optimizer = jaxre.newton()
        >>> hessian = jnp.array([[2.0, 0.0], [0.0, 4.0]])
        >>> step, _ = optimizer.update(jnp.array([2.0, 4.0]), optimizer.init(jnp.zeros(2)), hessian=hessian)
        >>> print(step)
        [-1. -1.]
    """

    def init(params: Array) -> optax.EmptyState:
        return optax.EmptyState()

    def update(
        updates: Array, state: optax.EmptyState, params: Array | None = None, *, hessian: Array, **extra: Any
    ) -> tuple[Array, optax.EmptyState]:
        (a, b), (_, c) = hessian
        # eigenvalues mean +- radius of the symmetric 2 x 2, and |H|^-1 in closed form
        mean, radius = (a + c) / 2, jnp.hypot((a - c) / 2, b)
        det = a * c - b * b
        definite = (det > 0) & (mean > 0)
        low, high = abs(mean - radius), abs(mean + radius)
        # |H| = alpha I + beta H, from its two eigenvalues
        spread = jnp.where(radius > 0, 2 * radius, 1.0)
        beta = jnp.where(definite, 1.0, (high - low) / spread)
        alpha = jnp.where(definite, 0.0, low - beta * (mean - radius))
        p, q, r = alpha + beta * a, beta * b, alpha + beta * c
        g, h = updates
        volume = p * r - q * q
        return -jnp.stack([r * g - q * h, p * h - q * g]) / volume, state

    return optax.GradientTransformationExtraArgs(init, update)


@record
class Optima:
    """Where the searches ended, one entry a basin."""

    ratio: Array
    """(basins,) [1], lambda; NaN where there was no basin."""
    value: Array
    """(basins,) [1], f - f(0) there; infinite where there was no basin."""
    converged: Array
    """(basins,) bool, the score is 0 to rounding or the next Newton step is negligible."""
    steps: Array
    """() int32, steps of the optimiser, all basins together."""


def minimise(
    equations: NormalEquations,
    restricted: bool,
    basins: Basins,
    optimizer: optax.GradientTransformation | None = None,
) -> Optima:
    """The minimum of the negative log-likelihood over (log within, log between) in each basin.

    One loop, one basin after the other: it evaluates, lets the optimiser propose, and keeps the proposal inside the
    basin, whose ends close in with the sign of every score; a proposal outside goes to the middle. It ends on the
    score, not on the change of the criterion. Where MAX_STEPS of the optimiser have not converged, alternating steps
    take over.
    """
    n, size = degrees(equations.strata, restricted), typical_size(equations)
    eps = jnp.finfo(size.dtype).eps
    enough = eps**0.6  # Newton's next error is of the order of its square
    chosen = optax.with_extra_args_support(newton() if optimizer is None else optimizer)
    zero = basins.zero

    def objective(params: Array, hessian: Array | None = None) -> Array:
        del hessian  # optax's line searches refuse an extra argument that the function to minimise does not take
        at = profile(equations, jnp.exp(params[1] - params[0]), restricted)
        return (n * params[0] + at.log_det + at.quadratic * jnp.exp(-params[0])) / 2

    def step(state: tuple[Array, Any, Array]) -> tuple[Array, Any, Array]:
        now, memory, found = state
        ratio, log_within, low, high, basin, count, steps = now
        at = profile(equations, ratio, restricted)
        best_within = jnp.log(at.quadratic / n)
        log_within = jnp.where(count == 0, best_within, log_within)
        params = jnp.stack([log_within, log_within + jnp.log(ratio)])
        here = derivatives(at, n, jnp.exp(log_within))
        slope, bend = score(at, n), curvature(at, n)
        low, high = jnp.where(slope < 0, ratio, low), jnp.where(slope < 0, high, ratio)
        memory = jax.tree.map(lambda new, old: jnp.where(count == 0, new, old), chosen.init(params), memory)
        proposal, memory = chosen.update(
            here.gradient,
            memory,
            params,
            value=here.value,
            grad=here.gradient,
            value_fn=objective,
            hessian=here.hessian,
        )
        moved = params + proposal
        given_up = count >= MAX_STEPS
        next_ratio = jnp.where(given_up, alternating_ratio(at, n), jnp.exp(moved[1] - moved[0]))
        inside = (next_ratio > low) & (next_ratio < high) & jnp.isfinite(moved[0])
        next_ratio = jnp.where(inside, next_ratio, middle_ratio(low, high, size))
        next_within = jnp.where(inside & ~given_up, moved[0], best_within)

        closing = jnp.where(bend > 0, -slope / bend, jnp.inf)
        settled = (abs(closing) <= enough * (ratio + 1 / size)) | (abs(slope) <= score_noise(at, n) / 8)
        settled = settled | (high - low <= 2 * eps * high)
        done = settled | (count >= MAX_STEPS + MAX_ALTERNATIONS) | ~jnp.isfinite(slope)
        root = ratio + jnp.where(settled & (abs(closing) < ratio), closing, 0)
        value = n * jnp.log(at.quadratic / zero.quadratic) + (at.log_det - zero.log_det)
        here_found = done & (places == basin)[:, None]
        found = jnp.where(here_found, jnp.stack([root, value, settled.astype(n.dtype)]), found)
        following = jnp.where(done, basin + 1, basin)
        same = jnp.stack([next_ratio, next_within, low, high, basin, count + 1, steps + 1])
        other = jnp.stack([*begin(following), following, 0 * count, steps])
        return jnp.where(done, other, same), memory, found

    def begin(basin: Array) -> tuple[Array, ...]:
        place = basin.astype(jnp.int32)
        return basins.start[place], 0 * basin, basins.low[place], basins.high[place]

    places = jnp.arange(len(basins.low))
    first = jnp.zeros_like(n)
    now = jnp.stack([*begin(first), first, first, first])
    nothing = jnp.tile(jnp.array([jnp.nan, jnp.inf, 1.0], n.dtype), (len(places), 1))
    now, _, found = jax.lax.while_loop(
        lambda state: state[0][4] < basins.count, step, (now, chosen.init(jnp.zeros(2, n.dtype)), nothing)
    )
    ratio, value, converged = found.T
    return Optima(ratio=ratio, value=value, converged=converged > 0, steps=now[-1].astype(jnp.int32))


def alternating_ratio(at: Profile, n: Array) -> Array:
    """One alternating step for the ratio: the variances in closed form with beta and within at their optimum.

    Majorising log det H by its tangent and Q / within by its harmonic bound at the current ratio, and minimising the
    sum, multiplies lambda by sqrt(-Q' / (within L')); the likelihood never falls.
    """
    return at.ratio * jnp.sqrt(-at.quadratic_1 * n / (at.quadratic * at.log_det_1))


@record
class Path:
    """The iterates of the alternating algorithm; see `alternating`."""

    within: Array
    """(steps + 1,) [y^2]."""
    between: Array
    """(steps + 1,) [y^2]."""
    log_likelihood: Array
    """(steps + 1,) [nat], of the method, never falling."""


def alternating(moments: GroupMoments | Strata, start: Components, *, steps: int, restricted: bool = True) -> Path:
    """Alternating algorithm: fix the variances and solve for beta, fix beta and update the variances, repeat.

    beta is the generalised least-squares estimate, within = Q / N its closed form at the ratio, and between is
    multiplied by sqrt(-Q' / (within L')), which minimises a majorising function of -2 log L. The likelihood never
    falls; convergence is linear, and a boundary at 0 is only approached. It is what `ml` and `reml` fall back on.

    Args:
        moments: sufficient statistics, by group or by stratum.
        start: first variances, both > 0.
        steps: how many.
        restricted: the restricted or the full likelihood.

    Returns:
        Path of the iterates, the start first.

    Errors:
        none are raised; degenerate moments give NaN.

    Source: Zhou, Hu, Zhou and Lange (2019), MM algorithms for variance components models, Journal of Computational and
        Graphical Statistics 28, 350-361.

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0], [0, 0, 1, 1])
        >>> path = jaxre.alternating(moments, jaxre.Components(within=1.0, between=1.0), steps=60)
        >>> print(f"{path.within[-1]:.3f} {path.between[-1]:.3f}")
        2.000 17.000
    """
    strata = stratify(moments) if isinstance(moments, GroupMoments) else moments
    equations = normal_equations(strata)
    n = degrees(strata, restricted)
    criterion = restricted_log_likelihood if restricted else log_likelihood
    first = jnp.asarray(start.within, n.dtype), jnp.asarray(start.between, n.dtype)

    def step(now: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        within, between = now
        at = profile(equations, between / within, restricted)
        within = at.quadratic / n / strata.frame.scale / strata.frame.scale
        between = within * alternating_ratio(at, n)
        return (within, between), (within, between)

    _, (within, between) = jax.lax.scan(step, first, None, length=steps)
    within, between = jnp.append(first[0], within), jnp.append(first[1], between)
    values = jax.vmap(lambda w, b: criterion(Components(within=w, between=b), strata))(within, between)
    return Path(within=within, between=between, log_likelihood=values)
