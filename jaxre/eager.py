"""Pure functions outside jit: compiled as a whole, where operation by operation they would take seconds."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxre.moments import GroupMoments, Strata
from jaxre.settings import is_small, options_of, platform, quick_jit, staging
from jaxre.stacking import padded
from jaxre.strata import as_strata

BUCKETS = tuple(4**i for i in range(20))  # strata and groups are padded to these, so that new data seldom compile anew
WORDS = (str, bool, int, float, type(None))

F = TypeVar("F", bound=Callable[..., Any])


def bucket(size: int) -> int:
    """The number of strata, groups or rows to which so many are padded."""
    return next(one for one in BUCKETS if one >= size)


def bucketed(moments: GroupMoments | Strata) -> Strata:
    """Strata padded to one of a few numbers."""
    strata = as_strata(moments)
    return padded(strata, bucket(len(strata.sizes)))


def compiled_alone(function: F) -> F:
    """A pure function of moments, its first argument, compiled when it is called outside of jit.

    Words, such as a level or a method, are constants of the program; arrays are not. Concrete moments become padded
    strata, so that few programs serve many datasets. Under vmap and grad the whole is one program as well; inside jit
    the function is as it is written.
    """
    return _compiled_alone(function, bucketed, as_strata)


def compiled_alone_by_group(function: F) -> F:
    """The same for a function of moments by group, which stay as they are."""
    return _compiled_alone(function, lambda moments: moments, lambda moments: moments)


def _compiled_alone(function: F, ready: Callable[[Any], Any], transformed: Callable[[Any], Any]) -> F:
    """With the moments made ready for a program; what is transformed keeps the sizes that are known as they are."""
    signature = inspect.signature(function)
    first = next(iter(signature.parameters))

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        bound = {name: _as_word(value) for name, value in signature.bind(*arguments, **named).arguments.items()}
        moments = bound.get(first)
        words = {name: value for name, value in bound.items() if _is_word(value)}
        others = {name: value for name, value in bound.items() if name not in words}
        alone = is_alone(moments, others)
        if not isinstance(moments, GroupMoments | Strata) or not (alone or _is_traced(others)) or staging():
            return function(*arguments, **named)
        if not all(map(_is_array, jax.tree.leaves(others))):
            return function(*arguments, **named)
        others[first] = (ready if alone else transformed)(moments)
        return in_one_program(function, words, others, is_little(others[first]))

    return call  # type: ignore[return-value]


def is_alone(moments: Any, others: Any = None) -> bool:
    """Whether these are moments of one dataset, and nothing is traced."""
    single = isinstance(moments, GroupMoments | Strata) and np.ndim(moments.sizes) == 1
    return single and not _is_traced((moments, others)) and not staging()


def _is_traced(tree: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def is_little(moments: GroupMoments | Strata) -> bool:
    """Whether they are strata, and give little to compute; what is done for each group is more."""
    return isinstance(moments, Strata) and is_small(len(moments.sizes), moments.means.shape[-1] - 1)


def _as_word(value: Any) -> Any:
    """One concrete number that came as an array as the number that it is."""
    if not isinstance(value, np.generic | np.ndarray | jax.Array) or isinstance(value, jax.core.Tracer):
        return value
    plain = value.ndim == 0 and (value.dtype == bool or jnp.issubdtype(value.dtype, jnp.number))
    return value.item() if plain else value


def _is_word(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_word, value))
    return isinstance(value, WORDS) or (callable(value) and isinstance(value, Hashable))


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind in "biuf"
    return isinstance(leaf, bool | int | float | jax.Array)


def types_of(word: Any) -> Any:
    """The types in a word: 1 and 1.0 and True are equal, and mean different programs."""
    return tuple(map(types_of, word)) if isinstance(word, tuple) else type(word)


def in_one_program(function: Callable[..., Any], words: dict[str, Any], others: dict[str, Any], small: bool) -> Any:
    """function(**words, **others): outside of jit, where the others are arrays, one program for all with equal words,
    which compiles quickly where they give little to do."""
    if staging() or not all(map(_is_array, jax.tree.leaves(others))):
        return function(**words, **others)
    names, values = tuple(sorted(words)), tuple(words[name] for name in sorted(words))
    if _is_traced(others):
        return _transformed(function, names, values, types_of(values))(others)
    return program(function, names, values, types_of(values), small)(others)


@functools.lru_cache(maxsize=256)
def program(function: Callable[..., Any], names: Any, values: Any, types: Any, small: bool) -> Any:
    """From {name: array} to what the function makes of it and of the words, compiled by `options_of`."""
    del types  # which tell equal values apart
    words = dict(zip(names, values, strict=True))
    return quick_jit(lambda others: function(**others, **words), platform(), options_of(small))


@functools.lru_cache(maxsize=256)
def _transformed(function: Callable[..., Any], names: Any, values: Any, types: Any) -> Any:
    """The same for a function under vmap or grad outside of jit, which sees a program in place of operations."""
    del types
    words = dict(zip(names, values, strict=True))
    return jax.jit(lambda others: function(**others, **words))
