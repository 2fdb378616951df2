"""The settings of JAX under which a front door works, without touching those of its user."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class own_settings:
    """Double precision and no stopping at NaN in this thread, whatever JAX is set to outside."""

    def __init__(self, device: jax.Device | None = None) -> None:
        """With a device: what holds no array of another device runs there."""
        self.device = device

    def __enter__(self) -> None:
        self.contexts = [jax.enable_x64(True)]
        if self.device is not None:
            self.contexts.append(jax.default_device(self.device))
        self.contexts += [context(value) for name, context, value in _SETTINGS if getattr(jax.config, name) != value]
        for context in self.contexts:
            context.__enter__()

    def __exit__(self, *error: Any) -> None:
        for context in reversed(self.contexts):
            context.__exit__(*error)


def host_settings() -> own_settings:
    """The same for one dataset that comes as NumPy arrays: on the CPU, which has done before a GPU has started."""
    return own_settings(_cpu())


def default_device() -> jax.Device | None:
    """The device that was chosen for what is called here and now; None for the first of JAX's default kind."""
    device: Any = getattr(jax.config, _DEVICE)
    return jax.local_devices(backend=device)[0] if isinstance(device, str) else device


def platform() -> str:
    """The kind of device that runs what is called here and now."""
    device = default_device()
    return jax.default_backend() if device is None else device.platform


def as_jax_holds(tree: Any) -> Any:
    """The tree with NumPy's doubles in the precision that JAX gives them; it warns where it has to do so itself."""
    kind = jax.dtypes.canonicalize_dtype(np.float64)
    double = lambda leaf: isinstance(leaf, np.ndarray | np.generic) and leaf.dtype == np.float64
    return jax.tree.map(lambda leaf: leaf.astype(kind) if double(leaf) and kind != np.float64 else leaf, tree)


SEARCHED = 8  # datasets that a CPU searches as a whole at once: each of them waits for the last


def lane(on_cpu: int, on_gpu: int = 1 << 16) -> int:
    """Datasets to work on at once: as many as stay in the cache of a CPU, as many as fill a GPU."""
    return on_cpu if platform() == "cpu" else on_gpu


def repeat(count: Any, step: Callable[[Any, Any], Any], state: Any) -> Any:
    """`jax.lax.fori_loop` over 0 .. count - 1, count an integer or traced.

    On a GPU an iteration is a pass over memory, which costs more than its arithmetic: there WRITTEN_OUT steps are one
    iteration, and the last ones may be of numbers beyond the count, which `step` must leave without effect.
    """
    if platform() == "cpu":
        return jax.lax.fori_loop(0, count, step, state)
    several = lambda j, state: functools.reduce(
        lambda state, i: step(WRITTEN_OUT * j + i, state), range(WRITTEN_OUT), state
    )
    return jax.lax.fori_loop(0, -(-count // WRITTEN_OUT), several, state)


def repeat_while(condition: Callable[[Any], Any], step: Callable[[Any], Any], state: Any) -> Any:
    """`jax.lax.while_loop`; on a GPU WRITTEN_OUT steps are one iteration, and there may be one more than asked for."""
    several = WRITTEN_OUT if platform() != "cpu" else 1
    body = lambda state: functools.reduce(lambda state, _: step(state), range(several), state)
    return jax.lax.while_loop(condition, body, state)


class _Tracing(threading.local):
    """What is known of the program that this thread traces."""

    little = False


_TRACING = _Tracing()


def _with_little_to_do(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, traced as one that has little to compute."""

    @functools.wraps(function)
    def traced(*arguments: Any) -> Any:
        before, _TRACING.little = _TRACING.little, True
        try:
            return function(*arguments)
        finally:
            _TRACING.little = before

    return traced


def has_little_to_do() -> bool:
    """Whether this thread traces a program that is compiled as SMALL: sums are then not written out."""
    return _TRACING.little


def formed_once(mask: Any) -> Any:
    """The mask by way of a root, which XLA forms once; by itself it would be formed anew in all that read it."""
    return jnp.sqrt(jnp.where(mask, 1.0, 0.0)) > 0


@functools.cache
def _cpu() -> jax.Device | None:
    """The CPU where JAX would use another device and has the CPU as well."""
    if jax.default_backend() == "cpu":
        return None
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to see other devices alone
        return None


_DEVICE = "jax_default_device"
_SETTINGS: tuple[tuple[str, Callable[[Any], Any], Any], ...] = (
    ("jax_debug_nans", jax.debug_nans, False),
    ("jax_debug_infs", jax.debug_infs, False),
    ("jax_numpy_rank_promotion", jax.numpy_rank_promotion, "allow"),
    ("jax_numpy_dtype_promotion", jax.numpy_dtype_promotion, "standard"),
)


Options = list[dict[str, Any]]  # for the compiler, the best first; not every XLA knows each
# compiles soonest; but with many strata, groups, coefficients or datasets a program then runs longer
SMALL: Options = [
    {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 0},
    {"xla_backend_optimization_level": 0},
    {},
][jax.__version_info__ >= (0, 12) :]
SINGLE: Options = [
    {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1},  # sooner than by default
    {"xla_backend_optimization_level": 1},
    {},
][jax.__version_info__ >= (0, 12) :]
# without the fusion emitters a logarithm's last bit depends on the dataset's place in a vector; vectors of 512 bits are
# faster where a processor has them
BATCH: Options = [
    {"xla_cpu_use_fusion_emitters": True, "xla_backend_optimization_level": 1, "xla_cpu_prefer_vector_width": 512},
    {"xla_backend_optimization_level": 1, "xla_cpu_prefer_vector_width": 512},
    {"xla_backend_optimization_level": 1},
    {},
][jax.__version_info__ >= (0, 12) :]
LARGE: Options = [{"xla_cpu_use_fusion_emitters": False}, {}][jax.__version_info__ >= (0, 12) :]  # full speed
SMALL_WORK = 1 << 12  # numbers that one evaluation of the likelihood works on
_LOCK = threading.Lock()
WRITTEN_OUT = 2  # steps of a loop in one of its iterations on a GPU; see `repeat`


def is_small(strata: int, p: int) -> bool:
    """Whether a program of one dataset with so many strata, or groups, and coefficients has little to compute."""
    return strata * p * p + p**3 <= SMALL_WORK


def options_of(small: bool) -> Options:
    """For the compiler, of a program that has little to compute or not."""
    return SMALL if small else SINGLE


def staging() -> bool:
    """Whether a program is being traced here and now, whatever the arrays that are at hand."""
    return isinstance(jnp.zeros(()), jax.core.Tracer)


def quick_jit(function: Callable[..., Any], platform: str, options: Options) -> Callable[..., Any]:
    """`jax.jit` of a function for a platform; on the CPU with the first options that the compiler knows."""
    if platform != "cpu":
        return jax.jit(function)
    function = _with_little_to_do(function) if options is SMALL else function
    compiled: dict[int, Any] = {}

    def call(*arguments: Any) -> Any:
        known = len(options)
        if known not in compiled:
            compiled[known] = jax.jit(function, compiler_options=options[0])
        try:
            return compiled[known](*arguments)
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" not in str(error) or known == 1:
                raise
        with _LOCK:
            if len(options) == known:  # else another thread has moved on
                options.pop(0)
        return call(*arguments)

    return call
