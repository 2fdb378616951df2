"""The search for an optimum: one optax loop on the log-variances, its Newton transformation, the alternating steps."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp

from jaxre.components import Components
from jaxre.curve import Curve
from jaxre.eager import compiled_alone
from jaxre.effects import normal_equations
from jaxre.intervals import middle_ratio
from jaxre.likelihood import log_likelihood, restricted_log_likelihood
from jaxre.moments import GroupMoments, Strata
from jaxre.profile import Pair, Profile, curvature, degrees, derivatives, deviance, profile, score, score_noise
from jaxre.records import record
from jaxre.rows import Array
from jaxre.strata import as_strata

MAX_STEPS = 1000
MAX_ALTERNATIONS = 100_000
LONGEST = 1e6  # factor by which a step may lengthen the ratio
RUNNING, SETTLED, FAILED = 0.0, 1.0, 2.0

T = TypeVar("T")


class Optimizer(Protocol):
    """An `optax.GradientTransformation`, named without importing optax."""

    @property
    def init(self) -> Callable[[Any], Any]:
        """From the parameters to the optimiser's state."""

    @property
    def update(self) -> Callable[..., Any]:
        """From the gradient, the state and the parameters to a step and the next state."""


def newton() -> Any:
    """Newton's method as an optax gradient transformation.

    The update is -hessian^-1 gradient where the Hessian is positive definite, and where it is not, the gradient step in
    which every eigenvalue is replaced by its absolute value. It has no state and converges quadratically.

    Args:
        none; the loop passes `hessian=` to `update`.

    Returns:
        optax.GradientTransformationExtraArgs for two parameters [nat], a pair or an array of shape (2,).

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

    import optax

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), _newton_update)


def _newton_update(updates: Any, state: T, params: Any = None, *, hessian: Any, **extra: Any) -> tuple[Any, T]:
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
    step = (q * h - r * g) / volume, (q * g - p * h) / volume
    return step if isinstance(updates, tuple) else jnp.stack(step), state


def checked(optimizer: Any) -> Any:
    """The optimiser, if it is one."""
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(f"optimizer must be an optax transformation such as optax.lbfgs(), got {optimizer!r}.")
    return optimizer


def _init_and_update(optimizer: Optimizer | None) -> tuple[Any, Any]:
    """Of an optimiser, which may take extra arguments or not; without one those of `newton`."""
    if optimizer is None:
        return lambda params: (), _newton_update
    import optax

    chosen = optax.with_extra_args_support(checked(optimizer))
    return chosen.init, chosen.update


@record
class Descent:
    """Where a search ended."""

    ratio: Array
    """() [1], lambda."""
    settled: Array
    """() bool, the score is 0 to rounding or the next Newton step is negligible."""
    steps: Array
    """() [1], steps of the optimiser."""


def descend(
    curve: Curve,
    low: Array,
    high: Array,
    start: Array,
    wanted: Array,
    optimizer: Optimizer | None = None,
) -> Descent:
    """The minimum of the negative log-likelihood over (log within, log between) in the basin [low, high].

    The loop evaluates, lets the optimiser propose, and keeps the proposal inside the basin, whose ends close in with
    the sign of every score; a proposal outside goes to the middle. It ends on the score, not on the change of the
    criterion, and does not begin where the start is a root already. Where MAX_STEPS of the optimiser have not
    converged, alternating steps take over. The parameters are a pair of scalars, and so is all else: under vmap each is
    one vector over the datasets. Nothing happens where not `wanted`.
    """
    n, size = curve.n, curve.size
    eps = jnp.finfo(size.dtype).eps
    enough = eps**0.6  # Newton's next error is of the order of its square
    init, update = _init_and_update(optimizer)

    def objective(params: Pair, hessian: Array | None = None) -> Array:
        del hessian  # optax's line searches refuse an extra argument that the function to minimise does not take
        at = curve.at(jnp.exp(params[1] - params[0]))
        return deviance(at.log_det, at.quadratic, n, jnp.exp(params[0])) / 2

    def closed_in(at: Profile, low: Array, high: Array) -> tuple[Array, Array]:
        """Whether a point is as good as the root of the score, and the root by one more Newton step."""
        slope, bend = score(at, n), curvature(at, n)
        closing = jnp.where(bend > 0, -slope / bend, jnp.inf)
        settled = (abs(closing) <= enough * (at.ratio + 1 / size)) | (abs(slope) <= score_noise(at, n) / 8)
        settled = settled | (high - low <= 4 * eps * low)
        return settled, jnp.clip(at.ratio + jnp.where(settled & (abs(closing) < at.ratio), closing, 0), low, high)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        ratio, log_within, low, high, count, state_of, memory = state
        at = curve.at(ratio)
        best_within = jnp.log(at.quadratic / n)
        log_within = jnp.where(count == 0, best_within, log_within)
        params = (log_within, log_within + jnp.log(ratio))
        value, gradient, hessian = derivatives(at, n, jnp.exp(log_within))
        slope = score(at, n)
        low, high = jnp.where(slope < 0, ratio, low), jnp.where(slope < 0, high, ratio)
        memory = jax.tree.map(lambda new, old: jnp.where(count == 0, new, old), init(params), memory)
        proposal, memory = update(
            gradient, memory, params, value=value, grad=gradient, value_fn=objective, hessian=hessian
        )
        moved = params[0] + proposal[0], params[1] + proposal[1]
        given_up = count >= MAX_STEPS
        next_ratio = jnp.where(given_up, alternating_ratio(at, n), jnp.exp(moved[1] - moved[0]))
        furthest = jnp.minimum(high, LONGEST * (ratio + 1 / size))
        inside = (next_ratio > low) & (next_ratio < furthest) & jnp.isfinite(moved[0])
        next_ratio = jnp.where(inside, next_ratio, middle_ratio(low, high, size))
        next_within = jnp.where(inside & ~given_up, moved[0], best_within)

        settled, root = closed_in(at, low, high)
        done = settled | (count >= MAX_STEPS + MAX_ALTERNATIONS) | ~jnp.isfinite(slope)
        state_of = jnp.where(settled, SETTLED, jnp.where(done, FAILED, state_of))
        return jnp.where(done, root, next_ratio), next_within, low, high, count + 1, state_of, memory

    blank = jnp.zeros_like(start)
    there, root = closed_in(curve.at(start), low, high)  # an iteration costs more than a look
    begin = jnp.where(there & wanted, root, start)
    begun, state_of = jnp.where(there & wanted, 1.0, blank), jnp.where(there | ~wanted, SETTLED, RUNNING + blank)
    first = (begin, blank, low, high, begun, state_of, init((blank, blank)))
    ratio, _, _, _, steps, state_of, _ = jax.lax.while_loop(lambda state: state[5] == RUNNING, step, first)
    return Descent(ratio=ratio, settled=state_of == SETTLED, steps=steps)


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


@compiled_alone
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
        ValueError for a negative number of steps, TypeError for one that is not whole; degenerate moments give NaN.

    Source: Zhou, Hu, Zhou and Lange (2019), MM algorithms for variance components models, Journal of Computational and
        Graphical Statistics 28, 350-361.

    Example:
        >>> import jaxre
        >>> moments = jaxre.group_moments([3.0, 5.0, 11.0, 9.0], [0, 0, 1, 1])
        >>> path = jaxre.alternating(moments, jaxre.Components(within=1.0, between=1.0), steps=60)
        >>> print(f"{path.within[-1]:.3f} {path.between[-1]:.3f}")
        2.000 17.000
    """
    strata = as_strata(moments)
    if operator.index(steps) < 0:
        raise ValueError(f"steps must be 0 or more, got {steps}.")
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
