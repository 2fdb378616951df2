"""Pure functions outside jit: compiled as a whole, where operation by operation they would take seconds."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from jaxre.moments import GroupMoments, Strata
from jaxre.settings import is_small, options_of, platform, quick_jit, staging
from jaxre.stacking import padded
from jaxre.strata import as_strata

BUCKETS = tuple(4**i for i in range(20))  # strata and groups are padded to these, so that new data seldom compile anew
WORDS = (str, bool, int, float, type(None), np.bool_, np.integer)

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
        bound = signature.bind(*arguments, **named).arguments
        moments = bound.get(first)
        alone = is_alone(moments, bound)
        if staging() or not (alone or _is_traced((moments, bound))):
            return function(*arguments, **named)
        words = {name: value for name, value in bound.items() if _is_word(value)}
        others = {name: value for name, value in bound.items() if name not in words}
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


def _is_word(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_word, value))
    return isinstance(value, WORDS) or callable(value)


def in_one_program(function: Callable[..., Any], words: dict[str, Any], others: dict[str, Any], small: bool) -> Any:
    """function(**words, **others) outside of jit, the others arrays: compiled quickly where they give little to do."""
    of = _transformed if _is_traced(others) else functools.partial(program, small=small)
    return of(function, tuple(sorted(words.items())))(others)


@functools.lru_cache(maxsize=256)
def program(function: Callable[..., Any], words: tuple[tuple[str, Any], ...], small: bool) -> Any:
    """From {name: array} to what the function makes of it and of the words, compiled by `options_of`."""
    return quick_jit(lambda others: function(**others, **dict(words)), platform(), options_of(small))


@functools.lru_cache(maxsize=256)
def _transformed(function: Callable[..., Any], words: tuple[tuple[str, Any], ...]) -> Any:
    """The same for a function under vmap or grad outside of jit, which sees a program in place of operations."""
    return jax.jit(lambda others: function(**others, **dict(words)))
