"""What every test starts from: JAX as a user finds it, and nothing left behind."""

import gc
import importlib.metadata
import os
import pathlib
import tempfile
from collections.abc import Iterator

# The workers of one run share what they compile; before JAX is imported, as a user would set it.
_RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"jaxre-tests-{_RUN}"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# most of the time of the tests is compilation, and most programs run once
_QUICK = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 12):  # the last to know it
    _QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _QUICK)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from jaxre import batches, settings  # noqa: E402

SHIPPED = {name: list(getattr(settings, name)) for name in ("SINGLE", "BATCH", "LARGE")}


def compile_with(options: dict[str, settings.Options]) -> dict[str, settings.Options]:
    """Put these options for the compiler in the place of those that there are, which are returned."""
    before = {name: list(getattr(settings, name)) for name in options}
    for name, one in options.items():
        getattr(settings, name)[:] = one
    batches._kernel.cache_clear()
    return before


def pytest_configure(config: pytest.Config) -> None:
    """In the everyday run what asks for better options asks in vain; the whole run compiles as users do."""
    if config.option.markexpr:
        compile_with({name: list(settings.SMALL) for name in SHIPPED})


gc.freeze()  # JAX's traces make many objects, and looking for cycles among all of them takes time
gc.set_threshold(50_000, 20)

MOST_MAPS = 20_000  # of the 65,530 that Linux lets a process have


@pytest.fixture(autouse=True, scope="module")
def room_for_programs() -> Iterator[None]:
    """Every compiled program takes several memory maps, and a process that runs out of them crashes: old ones go."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def configuration_untouched() -> Iterator[None]:
    """Every test runs in JAX's default single precision, and neither it nor the package changes any setting."""
    before = dict(jax.config.values)
    assert not jax.config.jax_enable_x64
    yield
    assert dict(jax.config.values) == before


@pytest.fixture
def as_shipped() -> Iterator[None]:
    """What `fit_many` compiles, compiled as users have it: the same bits in every place."""
    before = compile_with(SHIPPED)
    yield
    compile_with(before)


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for the pure functions, which follow the dtype that they are given."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers in every run and in any order of the tests."""
    return np.random.default_rng(20240607)
