"""Frozen records of arrays that jit, vmap and grad see through."""

from __future__ import annotations

import dataclasses
from typing import TypeVar, dataclass_transform

import jax

T = TypeVar("T")


@dataclass_transform(frozen_default=True, eq_default=False, kw_only_default=True)
def record(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass and a pytree whose leaves are its fields.

    Records compare by identity (`eq=False`): arrays have no single truth value.
    """
    frozen = dataclasses.dataclass(frozen=True, eq=False, kw_only=True)(cls)
    names = [field.name for field in dataclasses.fields(frozen)]  # type: ignore[arg-type]
    return jax.tree_util.register_dataclass(frozen, data_fields=names, meta_fields=[])
