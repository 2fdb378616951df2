"""The proof of a design for strata: that of its spectrum, and nothing but time is different where it holds."""

import dataclasses
import itertools

import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow import but_for, slow

import jaxre
from jaxre.curve import curve
from jaxre.effects import normal_equations
from jaxre.estimate import solvable
from jaxre.proof import WORTH, proven
from jaxre.shared_design import shared_design
from jaxre.strata import as_strata

NAMES = ("one giant", "unequal", "pairs of sizes")


def datasets(name, count=WORTH, ratios=(0.0, 0.3, 3.0)):
    """(count, n) outcomes of three ratios, and their groups."""
    groups = designs.labels(designs.SIZES[name])
    drawn = [designs.simulate(seed, designs.SIZES[name], ratios[seed % 3])[0] for seed in range(count)]
    return np.array(drawn), groups


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_proven_is_what_the_spectrum_proves(name, restricted, x64):
    values, groups = datasets(name)

    def of_strata(y):
        return curve(
            normal_equations(solvable(as_strata(jaxre.group_moments(y, groups)))), restricted, fixed=True
        ).proven

    ours = jax.jit(jax.vmap(of_strata))(values)
    design = shared_design(groups, None, restricted)
    sizes = np.bincount(groups)
    sums = np.array([np.bincount(groups, y - y.mean()) for y in values])
    floor = (values**2).sum(axis=1) - (np.array([np.bincount(groups, y) for y in values]) ** 2 / sizes).sum(axis=1)
    u = sums @ design.to_u.T
    squares = np.array([np.bincount(design.member, row * row) for row in u])
    theirs = jax.vmap(lambda t, floor: proven(design.spectrum.proof, t, floor))(squares, floor)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.any()
    assert not jax.jit(jax.vmap(of_strata))(values[: WORTH - 1]).any()  # not worth its time


@pytest.mark.parametrize(
    ("name", "method"),
    but_for(itertools.product(NAMES, ["ml", "reml"]), [("pairs of sizes", "ml")]),
)
def test_estimates_of_one_design_are_those_of_each_alone(name, method, x64):
    values, groups = datasets(name)
    values[5] = 1.0  # a constant among them
    estimator = getattr(jaxre, method)
    together = jax.jit(jax.vmap(lambda y: estimator(jaxre.group_moments(y, groups))))(values)
    moments = [jaxre.group_moments(y, groups) for y in values]
    apart = jax.jit(jax.vmap(estimator))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *moments))  # each its own
    total = apart.between + apart.within
    np.testing.assert_allclose(together.between / total, apart.between / total, atol=1e-12)  # as promised
    np.testing.assert_array_equal(together.status, apart.status)
    np.testing.assert_array_equal(together.optima, apart.optima)
    np.testing.assert_array_equal(together.certified, apart.certified)
    assert together.status[5] == jaxre.Status.CONSTANT_OUTCOME


@pytest.mark.parametrize("restricted", [slow(False), True])
def test_an_empty_group_proves_nothing_more(restricted, x64):
    """This outcome over sizes 1, 1, 1, 1, 40 has optima at 0 and, by REML, a better one near 0.54."""
    groups, y = np.repeat(np.arange(5), [1, 1, 1, 1, 40]), np.array([1.0, -1, 1, -1] + 20 * [0.7, -0.7])
    estimator = jaxre.reml if restricted else jaxre.ml
    fit = lambda count: jax.jit(jax.vmap(lambda y: estimator(jaxre.group_moments(y, groups, num_groups=count))))
    values = np.tile(y, (WORTH, 1))
    plain, empty, alone = fit(5)(values), fit(7)(values), fit(5)(values[:1])
    for name in ("ratio", "optima", "certified", "status", "log_likelihood"):
        for found in (plain, empty):
            np.testing.assert_allclose(getattr(found, name), np.repeat(getattr(alone, name), WORTH), rtol=1e-12)
    if restricted:
        assert plain.optima[0] == 2
        assert plain.ratio[0] == pytest.approx(0.54, abs=0.02)


@pytest.mark.slow
def test_designs_of_many_outcomes_each(x64):
    """A vmap over designs of a vmap over outcomes, with strata that are padded; and derivatives go through."""
    made = [datasets(name) for name in ("one giant", "pairs of sizes")]
    stacks = [[as_strata(jaxre.group_moments(y, groups)) for y in values] for values, groups in made]
    strata = jaxre.stack([one for stack in stacks for one in stack])
    strata = jax.tree.map(lambda leaf: leaf.reshape(2, WORTH, *leaf.shape[1:]), strata)
    own = dataclasses.replace(strata, rows=None, sizes=None, counts=None)

    def of_design(rows, sizes, counts, own):
        common = {"rows": rows, "sizes": sizes, "counts": counts}
        return jax.vmap(lambda one: jaxre.reml(dataclasses.replace(one, **common)))(own)

    together = jax.jit(jax.vmap(of_design))(strata.rows[:, 0], strata.sizes[:, 0], strata.counts[:, 0], own)
    apart = jax.jit(jax.vmap(jax.vmap(jaxre.reml)))(strata)
    for name in ("icc", "optima", "certified", "status"):
        np.testing.assert_allclose(getattr(together, name), getattr(apart, name), atol=1e-12, err_msg=name)

    values, groups = made[0]
    slope = jax.jit(jax.vmap(jax.grad(lambda y: jaxre.reml(jaxre.group_moments(y, groups)).icc)))
    np.testing.assert_allclose(slope(values)[:3], slope(values[:3]), atol=1e-10)  # the ICC is of order 1


@pytest.mark.parametrize("count", [3, WORTH])
def test_nothing_is_searched_for_in_a_balanced_design(count, x64):
    """The closed form is all there is of the program."""
    values, groups = datasets("balanced", count)
    program = jax.jit(jax.vmap(lambda y: jaxre.reml(jaxre.group_moments(y, groups)).between))
    assert "while" not in program.lower(values).as_text()
