"""The first look against grids: what it settles has one optimum, and no dataset looks at points of another."""

import dataclasses

import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxre
import jaxre.look
from jaxre import Status
from jaxre.curve import curve
from jaxre.effects import normal_equations
from jaxre.proof import PARTS, Proof
from jaxre.spectrum import Coordinates, Spectrum, spectral_curve

pytestmark = pytest.mark.usefixtures("x64")

REML = jax.jit(jax.vmap(jaxre.reml))


def looked_at(nu, n, t):
    """A first look at Q = 1 + sum t_i / (1 + lambda nu_i), L = sum log(1 + lambda nu_i), of many t at once."""
    nothing = jnp.full((PARTS, len(nu)), jnp.nan)
    spectrum = Spectrum(
        rows=jnp.float64(n),
        degrees=jnp.float64(n),
        values=nu,
        counts=jnp.ones(len(nu)),
        log_values=nu,
        log_counts=jnp.ones(len(nu)),
        size=nu.mean(),
        largest=nu.max(),
        proof=Proof(slope=nothing, low=nothing, high=nothing),
    )

    def one(t):
        return jaxre.look.first_look(
            spectral_curve((spectrum, Coordinates(squares=t, floor=jnp.float64(1), valid=jnp.array(True))))
        )

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(t))


def minima_on_a_grid(nu, n, t):
    """(m, points) whether f falls before a point of a grid and rises after it, and the ratios; 0 among them."""
    ratios = np.concatenate([[0.0], np.geomspace(1e-6, 1e6, 4001)])
    w = 1 / (1 + ratios[:, None] * nu)
    values = n * np.log(1 + t @ w.T) - np.log(w).sum(axis=1)
    steps = np.diff(values, axis=1, prepend=np.inf, append=np.inf)
    return (steps[:, :-1] < 0) & (steps[:, 1:] > 0) | ((np.arange(len(ratios)) == 0) & (steps[:, 1:2] > 0)), ratios


def curves(count=4000):
    """Outcomes of all orders of magnitude in each coordinate, some of whose likelihoods have several optima."""
    rng, nu, n = np.random.default_rng(3), np.array([1.0, 3.0, 40.0, 300.0]), 12.0
    t = 10 ** rng.uniform(-3, 3, size=(count, 4))
    return nu, n, t


def test_what_a_first_look_settles_has_one_optimum_on_a_grid():
    nu, n, t = curves()
    look = looked_at(jnp.asarray(nu), n, jnp.asarray(t))
    found, ratios = minima_on_a_grid(nu, n, t)
    several = found.sum(axis=1) > 1
    assert several.sum() > 20
    assert not (look.settled & several).any()
    assert look.settled[~several].mean() > 0.9
    place = ratios[found.argmax(axis=1)]
    settled, wide = look.settled & ~look.at_zero, 1.01  # a step of the grid is 0.7 %
    np.testing.assert_array_equal(look.at_zero[look.settled], place[look.settled] <= 1e-6)
    assert (look.low[settled] <= wide * place[settled]).all()
    assert (place[settled] <= wide * look.high[settled]).all()


@pytest.mark.parametrize("limit", [{"MOST_LOOKS": 2}, {"FAR": 1.0, "MOST": 1.5}, {"LEAST_AGAIN": 4.0}])
def test_a_first_look_that_gives_up_settles_nothing_wrongly(limit, monkeypatch):
    """Too few points, not far enough, strides never cut: fewer are settled, and those that are have one optimum."""
    nu, n, t = curves(1000)
    whole = looked_at(jnp.asarray(nu), n, jnp.asarray(t))
    for name, value in limit.items():
        monkeypatch.setattr(jaxre.look, name, value)
    cut = looked_at(jnp.asarray(nu), n, jnp.asarray(t))
    assert cut.settled.sum() < whole.settled.sum()
    found, _ = minima_on_a_grid(nu, n, t)
    assert not (cut.settled & (found.sum(axis=1) > 1)).any()


def looks_at(strata, monkeypatch):
    """How many points a first look takes."""
    taken = []

    def counted(condition, step, state):
        found = jax.lax.while_loop(condition, step, state)
        taken.append(int(found[0]))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(jaxre.look, "repeat_while", counted)
        jaxre.look.first_look(curve(normal_equations(strata), True))
    return taken[0]


def test_company_in_a_vmap_changes_no_bit(monkeypatch):
    """How many points the first look takes depends on the whole batch, but a dataset's own points do not."""
    near, far = (4, 4, 5, 5, 6, 6), (2, 2, 2, 60, 70, 80)  # F is known to rise early, and late
    own = [designs.strata(*designs.simulate(i, near, 0.5, 1)) for i in range(4)]
    wide = [designs.strata(*designs.simulate(i, far, 0.5, 1)) for i in range(4)]
    broken = [dataclasses.replace(strata, status=np.int32(Status.INVALID)) for strata in wide]
    few, many = ([looks_at(one, monkeypatch) for one in strata] for strata in (own, wide))
    assert max(few) < max(many)
    alone, *others = (
        jax.tree.map(lambda leaf: np.asarray(leaf)[:4], REML(designs.stack([*own, *company])))
        for company in (own, wide, broken)
    )
    assert alone.certified.all()
    assert (alone.optima == 1).all()
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, alone, other)
