"""Where an edge turns: the search for the change of sign of its derivative along an angle; see `extremes`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxre.rows import Array

STEPS = 40  # of the search; five are usual


class Bracket(NamedTuple):
    """Angles between which a turn falls through 0."""

    low: Array
    """() the lower one."""
    high: Array
    """() the higher one."""
    at_low: Array
    """() the turn there, positive."""
    at_high: Array
    """() at most 0."""


def turning_point(turn: Callable[[Array], Array], bracket: Bracket) -> tuple[Array, Array]:
    """Where a turn falls through 0, and whether the search ended: Anderson and Bjorck's regula falsi.

    It needs no derivative, and the square of the error is what counts. After a step of d the error is of the order of
    d^1.6; a bracket that has closed in from both ends only says its length.
    """
    eps = jnp.finfo(bracket.low.dtype).eps
    moved, near = eps**0.3, eps**0.45

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        a, fa, b, fb, last, count, done = state  # b is the newest end
        c = (a * fb - b * fa) / (fb - fa)
        c = jnp.where((c > jnp.minimum(a, b)) & (c < jnp.maximum(a, b)), c, (a + b) / 2)
        fc = turn(c)
        crossed = (fc > 0) != (fb > 0)
        share = 1 - fc / fb
        weighed = fa * jnp.where(share > 0, share, 0.5)
        ended = (abs(c - last) <= moved) | (abs(b - a) <= near) | (fc == 0) | jnp.isnan(fc)
        new = jnp.where(crossed, b, a), jnp.where(crossed, fb, weighed), c, fc, c
        kept = (jnp.where(done, old, one) for old, one in zip((a, fa, b, fb, last), new, strict=True))
        return *kept, count + 1, done | ended

    start = bracket.low, bracket.at_low, bracket.high, bracket.at_high, bracket.low - 1
    blank = jnp.zeros((), jnp.int32)
    first = *start, blank, bracket.high - bracket.low <= 0
    last = jax.lax.while_loop(lambda state: ~state[6].all() & (state[5] < STEPS), step, first)
    return last[2], last[6]
