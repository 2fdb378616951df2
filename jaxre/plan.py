"""What is to be computed of many datasets, where, and how the numbers of one are packed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxre.coefficient_error import suiting
from jaxre.columns_of_groups import AFTERWARDS, OF_BETA, OF_GROUPS, OF_PREDICTIONS
from jaxre.columns_of_inference import (
    BOOTSTRAP,
    COLUMNS,
    CONTRASTS,
    DRAWN,
    OF_COEFFICIENTS,
    OF_CONTRASTS,
    SIMULATED,
)
from jaxre.search import KEPT_OPTIMA
from jaxre.settings import platform

AXIS = "datasets"
FEW, FEW_NUMBERS = 256, 1 << 16  # datasets, and all their numbers, that are done in less time than compiling takes
FLOATS = {"double": jnp.float64, "single": jnp.float32}
QUANTITIES = (
    *("status", "between", "within", "between_untruncated", "ratio", "icc", "beta", "beta_se", "beta_cov"),
    *("log_likelihood", "certified", "optima", "optima_ratio", "gap", "steps", "blup", "blup_se"),
)
EFFECTS = ("blup", "blup_se")
VARIANCES = ("between", "within", "ratio")  # that effects are computed from


def plain(labels: np.ndarray) -> list[Hashable]:
    """Labels as Python's own, dates by one unit."""
    found: list[Hashable] = (labels.astype("datetime64[ns]") if labels.dtype.kind == "M" else labels).tolist()
    return found


def mesh_of(mesh: Mesh | None) -> Mesh | None:
    """The mesh that was asked for, or one of all local devices where there are several."""
    if mesh is None:
        devices = jax.local_devices()
        return jax.make_mesh((len(devices),), (AXIS,), devices=devices) if len(devices) > 1 else None
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, got {type(mesh).__name__}.")
    if len(mesh.axis_names) != 1:
        raise ValueError(
            f"mesh must have one axis, got {mesh.axis_names}; for example jax.make_mesh((4,), ('datasets',))."
        )
    return Mesh(mesh.devices, (AXIS,))


def parts_of(packed: np.ndarray, widths: Sequence[tuple[str, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    """(numbers of each, datasets) of packed numbers, by names and shapes of one dataset's."""
    ends = np.cumsum([math.prod(shape) for _, shape in widths])[:-1]
    return {name: part for (name, _), part in zip(widths, np.split(packed, ends), strict=True)}


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is to be predicted for every dataset."""

    groups: tuple[Hashable, ...]
    """(m,) labels; None for a new group."""
    covariates: tuple[tuple[float, ...], ...]
    """(m, p - 1) [x]."""

    def table(self, p: int) -> np.ndarray:
        """The covariates as an array; an error where they do not suit p coefficients."""
        table = np.array(self.covariates, float).reshape(len(self.groups), -1)
        if table.shape[1] != p - 1:
            wanted = f"shape ({len(table)}, {p - 1}), a row for each of predict_groups" if p > 1 else "no columns"
            raise ValueError(f"predict_covariates must have {wanted}, got {table.shape}.")
        return table

    def places(self, labels: np.ndarray) -> np.ndarray:
        """(m,) places of the groups among the labels, -1 for new ones; an error that names unknown ones."""
        known = {label: place for place, label in enumerate(plain(labels))} | {None: -1}
        unknown = [label for label in self.groups if label not in known]
        if unknown:
            raise ValueError(
                f"predict_groups must be labels of the {len(labels)} groups, got {unknown[0]!r}; None is a new group."
            )
        return np.array([known[label] for label in self.groups], np.int32)

    @property
    def form(self) -> Asked:
        """As many predictions, of no certain group or covariates: what the shapes of a program depend on."""
        return Asked((None,) * len(self.groups), tuple((0.0,) * len(row) for row in self.covariates))

    def refuse_names(self) -> None:
        """An error where a group is named."""
        named = [label for label in self.groups if label is not None]
        if named:
            raise ValueError(
                f"predict_groups must be new groups, None, where datasets have designs of their own, got {named[0]!r}; "
                f"leave it out, or pass a matrix."
            )


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be computed, and where."""

    quantities: tuple[str, ...]
    """names, "status" the first."""
    method: str
    precision: str
    mesh: Mesh | None
    df: str = "satterthwaite"
    level: float = 0.95
    contrasts: tuple[tuple[float, ...], ...] = ()
    """rows of L, of which tests of L beta are wanted."""
    predict: Asked | None = None
    """what predictions are wanted of."""
    draws: int = 0
    """of the likelihood ratio where between is 0."""
    replicates: int = 0
    """of the bootstrap."""
    seed: int = 0
    """of what is simulated."""
    few: bool = False
    """whether the call has no more than FEW datasets, of no more than FEW_NUMBERS, and a CPU fits them."""

    @property
    def devices(self) -> int:
        """How many share a block."""
        return 1 if self.mesh is None else math.prod(self.mesh.local_mesh.devices.shape)

    @property
    def platform(self) -> str:
        """The kind of the devices."""
        return platform() if self.mesh is None else self.mesh.devices.flat[0].platform

    @property
    def effects(self) -> bool:
        """Whether anything is wanted that is computed once the variances are known."""
        return bool({*EFFECTS, *AFTERWARDS} & set(self.quantities))

    def of(self, datasets: int, numbers: int) -> Plan:
        """The same for a call of so many datasets with so many observations and covariates in all."""
        few = datasets <= FEW and numbers <= FEW_NUMBERS and self.platform == "cpu"
        return dataclasses.replace(self, few=few)

    def only(self, quantities: Sequence[str]) -> Plan:
        """The same of other quantities, each named once, and of no more than these need: a plan is compiled for."""
        names, nothing = tuple(dict.fromkeys(quantities)), dict[str, Any]()
        if not set(SIMULATED) & set(names):
            nothing |= {"draws": 0, "replicates": 0, "seed": 0}
        if not set(OF_PREDICTIONS) & set(names):
            nothing["predict"] = None
        if not set(CONTRASTS) & set(names):
            nothing["contrasts"] = ()
        return dataclasses.replace(self, quantities=names, **nothing)

    @property
    def without_effects(self) -> Plan:
        """The same, but for all that is computed once the variances are known."""
        without = {*EFFECTS, *AFTERWARDS}
        return self.only([name for name in self.quantities if name not in without])

    @property
    def with_variances(self) -> Plan:
        """The same without the effects, but with what they are computed from."""
        return self.only([*self.without_effects.quantities, *VARIANCES])

    @property
    def simulated(self) -> bool:
        """Whether anything is to be drawn."""
        return bool(set(SIMULATED) & set(self.quantities))

    @property
    def before_simulation(self) -> Plan:
        """The same without what is simulated, but with what that needs."""
        needed = ["lr_statistic"] if set(DRAWN) & set(self.quantities) else []
        needed += [*VARIANCES, "beta"] if set(BOOTSTRAP) & set(self.quantities) else []
        names = [name for name in self.quantities if name not in SIMULATED]
        return self.only([*names, *needed])

    def widths(self, p: int, groups: int) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of one dataset's packed quantities; an error where contrasts do not suit p coefficients."""
        if self.contrasts:
            suiting(np.array(self.contrasts), p)
        shapes: dict[str, tuple[int, ...]] = {"beta": (p,), "beta_se": (p,), "beta_cov": (p, p)}
        shapes |= dict.fromkeys(OF_COEFFICIENTS, (p,)) | dict.fromkeys(OF_CONTRASTS, (len(self.contrasts),))
        shapes |= {"optima_ratio": (KEPT_OPTIMA,), "blup": (groups,), "blup_se": (groups,)}
        shapes |= dict.fromkeys(OF_GROUPS, (groups,)) | {OF_BETA: (groups, p)}
        if self.predict is not None:
            shapes |= dict.fromkeys(OF_PREDICTIONS, (len(self.predict.table(p)),))
        return [(name, shapes.get(name, ())) for name in self.quantities]

    def rows(self, packed: np.ndarray, p: int, groups: int) -> dict[str, np.ndarray]:
        """(numbers of each, datasets) of each quantity, from all of them."""
        return parts_of(packed, self.widths(p, groups))

    def packed(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """All of them again, of a table that may have more."""
        return np.concatenate([rows[name] for name in self.quantities])

    @property
    def inference(self) -> bool:
        """Whether tests or intervals are wanted."""
        return bool(set(COLUMNS) & set(self.quantities))

    def numbers(self, p: int, groups: int) -> int:
        """Packed numbers of one dataset."""
        return sum(math.prod(shape) for _, shape in self.widths(p, groups))
