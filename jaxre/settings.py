"""The settings of JAX under which a front door works, without touching those of its user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Double precision and no stopping at NaN in this thread, whatever JAX is set to outside."""
    with (
        jax.enable_x64(True),
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield


def quick_compile() -> list[dict[str, Any]]:
    """Compiler options that cost a CPU a third of the compile time, the best first; not every XLA knows each."""
    return [
        {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1},
        {"xla_backend_optimization_level": 1},
        {},
    ][jax.__version_info__ >= (0, 12) :]
