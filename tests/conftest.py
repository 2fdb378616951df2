"""What every test starts from: JAX as a user finds it, and nothing left behind."""

from collections.abc import Iterator

import jax
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def configuration_untouched() -> Iterator[None]:
    """Every test runs in JAX's default single precision, and neither it nor the package changes any setting."""
    before = dict(jax.config.values)
    assert not jax.config.jax_enable_x64
    yield
    assert dict(jax.config.values) == before


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for the pure functions, which follow the dtype that they are given."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers in every run and in any order of the tests."""
    return np.random.default_rng(20240607)
