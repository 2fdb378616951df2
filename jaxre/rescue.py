"""A quick method for most datasets and a whole one for those that it leaves in doubt, at the price of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxre.rows import Array
from jaxre.settings import SEARCHED, lane

ON_CPU, ON_GPU = SEARCHED // 2, 32  # of a batch, that are given to the whole method at once: most often few need it;
SHARE = 1024  # of a very large batch its share

T = TypeVar("T")
U = TypeVar("U")


def quick_or_whole(
    quick: Callable[[T], U],
    whole: Callable[[T], U],
    settled: Callable[[U], Array],
    data: T,
    alone: Callable[[T], U] | None = None,
) -> U:
    """What the quick method finds where that settles the matter, else what the whole one finds.

    Args:
        quick: from the data of one dataset to a record.
        whole: the same, slower; asked, in a batch, only for the datasets that need it.
        settled: () bool, from what `quick` found.
        data: everything that depends on the dataset: no method may close over a traced array.
        alone: both methods in one for a dataset that is not in a batch, if they share something.

    Returns:
        a record of what was found.
    """

    @jax.custom_batching.custom_vmap
    def run(data: T) -> U:
        if alone is not None:
            return alone(data)
        first = quick(data)
        return jax.lax.cond(settled(first), lambda first, _: first, lambda _, data: whole(data), first, data)

    @run.def_vmap
    def batched(size: int, mapped: list[T], data: T) -> tuple[U, U]:
        axes = jax.tree.map(lambda one: 0 if one else None, mapped[0])
        first = jax.vmap(quick, (axes,), axis_size=size)(data)
        width = min(size, max(lane(ON_CPU, ON_GPU), size // SHARE))

        def next_ones(state: tuple[U, Array]) -> tuple[U, Array]:
            found, left = state
            place = jnp.searchsorted(jnp.cumsum(left, dtype=jnp.int32), jnp.arange(1, width + 1))  # size: no more
            some = jax.tree.map(
                lambda leaf, one: jnp.asarray(leaf).at[place].get(mode="clip") if one else leaf, data, mapped[0]
            )
            later = jax.vmap(whole, (axes,), axis_size=width)(some)
            found = jax.tree.map(lambda old, new: old.at[place].set(new, mode="drop"), found, later)
            return found, left.at[place].set(False, mode="drop")

        found, _ = jax.lax.while_loop(lambda state: state[1].any(), next_ones, (first, ~jax.vmap(settled)(first)))
        return found, jax.tree.map(lambda _: True, found)

    return run(data)
